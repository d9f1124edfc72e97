package monitor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// Stream is what a frame was written to.
type Stream int

const (
	Stdout Stream = iota // or a terminal
	Stderr
)

// Frame is what a container has written in one go, or a part of it.
type Frame struct {
	Stream Stream
	Time   time.Time
	Data   []byte // valid until the next call
}

const (
	fileHeaderSize  = 24
	frameHeaderSize = 32
)

// Reader reads a container's log, the oldest file first. It is not for use by
// several goroutines.
type Reader struct {
	dir  string
	fd   int // the file, or -1
	file uint64
	mark uint64
	buf  []byte // read and not yet handed out
	size int    // of the frame handed out last, in buf
}

// none is the number before that of the first file.
const none = ^uint64(0)

// NewReader reads the log in the directory of a container.
func NewReader(dir string) *Reader { return &Reader{dir: dir, fd: -1, file: none} }

// Close closes what is open.
func (r *Reader) Close() {
	linux.Close(r.fd)
	r.fd = -1
}

// Next returns the next frame, or nil if there is none at the moment. The error is
// fs.ErrNotExist if there is no log.
func (r *Reader) Next() (*Frame, error) {
	for {
		if r.fd < 0 {
			if ok, err := r.open(); !ok {
				return nil, err
			}
		}
		f, err := r.frame()
		if f != nil || err != nil {
			return f, err
		}
		// What was written between the end of this file and the beginning of the
		// next is read before it is left.
		newer, err := r.newer()
		if err != nil || !newer {
			return nil, err
		}
		if f, err := r.frame(); f != nil || err != nil {
			return f, err
		}
		if f := r.cut(); f != nil { // the file ends within a frame
			return f, nil
		}
		r.Close()
		r.buf, r.size = r.buf[:0], 0
	}
}

type logFile struct {
	fd           int
	number, mark uint64
}

// files opens the log files that come after the current one, the oldest first.
func (r *Reader) files() ([]logFile, error) {
	var list []logFile
	missing := 0
	for i := 0; i < MaxLogFiles && missing < 2; i++ { // one may be missing for the moment of a rename
		fd, err := linux.OpenAt(unix.AT_FDCWD, r.dir+"/"+LogName(i), unix.O_RDONLY|unix.O_NOFOLLOW, 0)
		if errors.Is(err, fs.ErrNotExist) {
			missing++
			continue
		}
		if err != nil {
			closeFiles(list)
			return nil, err
		}
		var h [fileHeaderSize]byte
		n, err := linux.Read(fd, h[:])
		if err != nil || n != len(h) || binary.LittleEndian.Uint64(h[:]) != magic {
			linux.Close(fd)
			closeFiles(list)
			return nil, errors.New("the log is damaged: " + r.dir + "/" + LogName(i) + " has no header")
		}
		f := logFile{fd, binary.LittleEndian.Uint64(h[16:]), binary.LittleEndian.Uint64(h[8:])}
		seen := slices.ContainsFunc(list, func(o logFile) bool { return o.number == f.number }) // renamed meanwhile
		if f.number >= r.file || seen {
			linux.Close(fd)
			continue
		}
		list = append(list, f)
	}
	if missing == 2 && len(list) == 0 && r.fd < 0 && r.file == none {
		return nil, &fs.PathError{Op: "open", Path: r.dir + "/" + LogFile, Err: fs.ErrNotExist}
	}
	slices.SortFunc(list, func(a, b logFile) int {
		if a.number > b.number {
			return -1
		}
		return 1
	})
	return list, nil
}

// Incomplete lists the log files in the directory of a container, by their inodes, that
// something is missing in which the container has written: the disk was full, or
// failed.
func Incomplete(dir string) (inodes []uint64) {
	missing := 0
	for i := 0; i < MaxLogFiles && missing < 2; i++ {
		var st unix.Stat_t
		if err := unix.Lstat(dir+"/"+LogName(i), &st); err != nil {
			missing++
		} else if st.Mode&unix.S_ISVTX != 0 {
			inodes = append(inodes, st.Ino)
		}
	}
	return inodes
}

func closeFiles(list []logFile) {
	for _, f := range list {
		linux.Close(f.fd)
	}
}

// open opens the file after the current one.
func (r *Reader) open() (bool, error) {
	list, err := r.files()
	if err != nil || len(list) == 0 {
		return false, err // none: it was removed meanwhile
	}
	closeFiles(list[1:])
	r.fd, r.file, r.mark = list[0].fd, list[0].number, list[0].mark
	return true, nil
}

func (r *Reader) newer() (bool, error) {
	list, err := r.files()
	closeFiles(list)
	return len(list) > 0, err
}

// frame takes a whole frame out of the file, nil if there is none.
func (r *Reader) frame() (*Frame, error) {
	r.buf = r.buf[r.size:]
	r.size = 0
	for {
		need := frameHeaderSize
		if len(r.buf) >= frameHeaderSize {
			if !r.isFrame(r.buf) { // after a frame that was cut short
				i := r.next(1)
				if i < 0 {
					i = len(r.buf) - 7 // a mark may begin there
				}
				r.buf = r.buf[i:]
				continue
			}
			need += int(binary.LittleEndian.Uint64(r.buf[8:]))
		}
		if len(r.buf) >= need+8 {
			n := r.whole(need)
			if n >= frameHeaderSize {
				return r.take(n), nil
			}
			r.buf = r.buf[n:]
			continue
		}
		n, err := r.fill(need)
		switch {
		case err != nil:
			return nil, err
		case n > 0:
			continue
		case len(r.buf) < frameHeaderSize:
			return nil, nil //nolint:nilnil // nothing at the moment
		}
		switch n := r.whole(need); {
		case n > len(r.buf):
			return nil, nil //nolint:nilnil // the rest will come
		case n < frameHeaderSize:
			r.buf = r.buf[n:]
		default:
			return r.take(n), nil
		}
	}
}

// whole is how long the frame is that should take need bytes: less if it was cut
// short, perhaps in its header, and another one begins within.
func (r *Reader) whole(need int) int {
	if len(r.buf) >= need+8 && binary.LittleEndian.Uint64(r.buf[need:])&^1 == r.mark {
		return need
	}
	if i := r.next(1); i >= 0 && i < need {
		return i
	}
	return need
}

// cut is the rest of a file that ends within a frame.
func (r *Reader) cut() *Frame {
	if len(r.buf) <= frameHeaderSize || !r.isFrame(r.buf) {
		return nil
	}
	return r.take(len(r.buf))
}

func (r *Reader) isFrame(b []byte) bool {
	return binary.LittleEndian.Uint64(b)&^1 == r.mark && binary.LittleEndian.Uint64(b[8:]) <= bufferSize
}

// next is where a mark stands from offset on, or -1.
func (r *Reader) next(from int) int {
	if len(r.buf) < from {
		return -1
	}
	out := -1
	for stream := range uint64(2) {
		var m [8]byte
		binary.LittleEndian.PutUint64(m[:], r.mark|stream)
		if i := bytes.Index(r.buf[from:], m[:]); i >= 0 && (out < 0 || from+i < out) {
			out = from + i
		}
	}
	return out
}

// take hands out the first n bytes as a frame.
func (r *Reader) take(n int) *Frame {
	le := binary.LittleEndian
	r.size = n
	return &Frame{
		Stream: Stream(le.Uint64(r.buf) & 1),
		Time:   time.Unix(int64(le.Uint64(r.buf[16:])), int64(le.Uint64(r.buf[24:]))),
		Data:   r.buf[frameHeaderSize:n],
	}
}

// fill reads more.
func (r *Reader) fill(need int) (int, error) {
	const most = 64 << 10
	if cap(r.buf)-len(r.buf) < most {
		b := make([]byte, len(r.buf), max(need, len(r.buf))+2*most)
		copy(b, r.buf)
		r.buf = b
	}
	n, err := linux.Read(r.fd, r.buf[len(r.buf):len(r.buf)+most])
	if err != nil {
		return 0, err
	}
	r.buf = r.buf[:len(r.buf)+n]
	return n, nil
}
