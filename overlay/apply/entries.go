package apply

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"io"
	"os"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/erofs"
)

// entriesName is the file of an indexed layer that says what is in the archive.
//
//	"minirun layer index 1\n", archive size, size of the file of sparse files, root
//	SHA-256 of all that
//
// With version 2, before the root comes the size from which files are large: those are
// not in the archive but in files of their own.
//
//	directory  flags, attributes if described, names that are hidden, entries
//	entry      name, kind, what the kind has:
//	           d directory, f attributes size file offset (a bit per chunk, if sparse), l attributes target,
//	           n attributes major minor, h number of a former file, b path below
//
// Numbers are varints, strings have their length before them, lists their count.
// Names are sorted.
const entriesName = "entries"

const (
	entriesMagic = "minirun layer index 1\n"
	largeMagic   = "minirun layer index 2\n" // as long
	maxEntries   = 1 << 30

	flagDescribed = 1
	flagOpaque    = 2
	flagFresh     = 4
)

type entriesFile struct {
	root            *inode
	archive, sparse int64
	large           int64 // see isLarge; 0: no file is
}

func writeEntries(dir int, e *entriesFile) error {
	fd, err := create(dir, entriesName)
	if err != nil {
		return err
	}
	w := encodeEntries(fdWriter{fd}, e)
	w.out.Write(w.sum.Sum(nil))
	if err = w.out.Flush(); err == nil {
		err = os.NewSyscallError("fdatasync", unix.Fdatasync(fd))
	}
	linux.Close(fd)
	return err
}

// encodeEntries writes all but the digest.
func encodeEntries(to io.Writer, e *entriesFile) *entryWriter {
	w := &entryWriter{out: bufio.NewWriterSize(to, 64<<10), sum: sha256.New(), files: map[*inode]uint64{}}
	magic := entriesMagic
	if e.large > 0 {
		magic = largeMagic
	}
	w.raw([]byte(magic))
	w.number(uint64(e.archive))
	w.number(uint64(e.sparse))
	if e.large > 0 {
		w.number(uint64(e.large))
	}
	w.dir(e.root)
	return w
}

// sumEntries is the digest that writeEntries writes.
func sumEntries(e *entriesFile) (sum [sha256.Size]byte) {
	copy(sum[:], encodeEntries(io.Discard, e).sum.Sum(nil))
	return sum
}

// entriesHead returns the sizes at the beginning of the layer's index, without the tree,
// and the digest at its end, which is right.
func entriesHead(s *overlay.Store, c overlay.ChainID) (e *entriesFile, sum [sha256.Size]byte, err error) {
	b, err := entriesOf(s, c)
	if err != nil {
		return nil, sum, err
	}
	large := false
	if b, large, sum, err = sealed(b); err != nil {
		return nil, sum, err
	}
	r := &entryReader{b: b}
	e = r.head(large)
	return e, sum, r.err
}

// entryWriter leaves errors to its bufio.Writer, which keeps the first.
type entryWriter struct {
	out   *bufio.Writer
	sum   hash.Hash
	files map[*inode]uint64
	buf   [binary.MaxVarintLen64]byte
}

func (w *entryWriter) raw(b []byte) {
	w.sum.Write(b)
	w.out.Write(b)
}

func (w *entryWriter) number(v uint64) { w.raw(binary.AppendUvarint(w.buf[:0], v)) }
func (w *entryWriter) signed(v int64)  { w.raw(binary.AppendVarint(w.buf[:0], v)) }

func (w *entryWriter) text(s string) {
	w.number(uint64(len(s)))
	w.raw([]byte(s))
}

func (w *entryWriter) attr(n *inode) {
	w.number(uint64(n.Mode))
	w.number(uint64(n.UID))
	w.number(uint64(n.GID))
	w.signed(n.Sec)
	w.number(uint64(n.Nsec))
	w.number(uint64(len(n.Xattrs)))
	for _, x := range n.Xattrs {
		w.text(x.Name)
		w.text(x.Value)
	}
}

func (w *entryWriter) dir(n *inode) {
	d := n.dir
	flags := byte(0)
	if d.described {
		flags |= flagDescribed
	}
	if d.opaque {
		flags |= flagOpaque
	}
	if d.fresh {
		flags |= flagFresh
	}
	w.raw([]byte{flags})
	if d.described {
		w.attr(n)
	}
	sort.Strings(d.hidden)
	w.number(uint64(len(d.hidden)))
	for _, name := range d.hidden {
		w.text(name)
	}
	names := make([]string, 0, len(d.names))
	for name := range d.names {
		names = append(names, name)
	}
	sort.Strings(names)
	w.number(uint64(len(names)))
	for _, name := range names {
		w.text(name)
		w.entry(d.names[name])
	}
}

func (w *entryWriter) entry(n *inode) {
	if n.isDir() {
		w.raw([]byte{'d'})
		w.dir(n)
		return
	}
	if number, ok := w.files[n]; ok {
		w.raw([]byte{'h'})
		w.number(number)
		return
	}
	w.files[n] = uint64(len(w.files))
	switch {
	case n.below != nil:
		w.raw([]byte{'b'})
		w.text(n.path)
	case n.Mode&unix.S_IFMT == unix.S_IFREG:
		w.raw([]byte{'f'})
		w.attr(n)
		w.number(uint64(n.Size))
		w.number(uint64(n.Device & 1))
		w.number(uint64(n.Offset))
		if n.Device&1 == 1 {
			w.raw(n.Chunks)
		}
	case n.isLink():
		w.raw([]byte{'l'})
		w.attr(n)
		w.text(n.Target)
	default:
		w.raw([]byte{'n'})
		w.attr(n)
		w.number(uint64(n.Major))
		w.number(uint64(n.Minor))
	}
}

var errEntries = errors.New("damaged index: remove the image and unpack it again")

// readEntries reads the index of the layer c, which stands on base.
func readEntries(s *overlay.Store, c overlay.ChainID, base *Base, mem *budget) (*entriesFile, error) {
	b, err := entriesOf(s, c)
	if err != nil {
		return nil, err
	}
	return parseEntries(b, base, mem)
}

func entriesOf(s *overlay.Store, c overlay.ChainID) ([]byte, error) {
	fd, err := s.OpenIndexed(c, entriesName)
	if err != nil {
		return nil, err
	}
	b, err := linux.ReadAll(fd, maxEntries)
	linux.Close(fd)
	return b, os.NewSyscallError("read", err)
}

// sealed checks the digest at the end and returns what is between it and the
// first line. large: that has the size of large files.
func sealed(b []byte) (content []byte, large bool, sum [sha256.Size]byte, err error) {
	if len(b) < len(entriesMagic)+sha256.Size {
		return nil, false, sum, errEntries
	}
	large = string(b[:len(largeMagic)]) == largeMagic
	if !large && string(b[:len(entriesMagic)]) != entriesMagic {
		return nil, false, sum, errEntries
	}
	end := len(b) - sha256.Size
	if sum = sha256.Sum256(b[:end]); !bytes.Equal(sum[:], b[end:]) {
		return nil, false, sum, errEntries
	}
	return b[len(entriesMagic):end], large, sum, nil
}

func parseEntries(b []byte, base *Base, mem *budget) (e *entriesFile, err error) {
	b, large, _, err := sealed(b)
	if err != nil {
		return nil, err
	}
	r := &entryReader{b: b, base: base, mem: mem}
	e = r.head(large)
	r.archive, r.sparse, r.large = alignUp(e.archive, erofs.BlockSize), e.sparse, e.large
	e.root = newDir(nil, "")
	r.dir(e.root)
	if r.err == nil && len(r.b) > 0 {
		r.err = errEntries
	}
	return e, r.err
}

type entryReader struct {
	b               []byte
	base            *Base
	mem             *budget
	archive, sparse int64
	large           int64
	files           []*inode
	err             error
}

func (r *entryReader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

func (r *entryReader) number() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail(errEntries)
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *entryReader) number32() uint32 {
	v := r.number()
	if v > 1<<32-1 {
		r.fail(errEntries)
	}
	return uint32(v)
}

func (r *entryReader) size() int64 {
	v := r.number()
	if v > 1<<50 {
		r.fail(errEntries)
		return 0
	}
	return int64(v)
}

// head reads what comes before the tree.
func (r *entryReader) head(large bool) *entriesFile {
	e := &entriesFile{archive: r.size(), sparse: r.size()}
	if large {
		if e.large = r.size(); e.large == 0 {
			r.fail(errEntries)
		}
	}
	return e
}

func (r *entryReader) byte() byte {
	if len(r.b) == 0 {
		r.fail(errEntries)
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *entryReader) text(max int) string {
	n := r.number()
	if n > uint64(max) || n > uint64(len(r.b)) {
		r.fail(errEntries)
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

// count reads the length of a list whose items have at least a byte each.
func (r *entryReader) count() int {
	n := r.number()
	if n > uint64(len(r.b)) {
		r.fail(errEntries)
		return 0
	}
	return int(n)
}

func (r *entryReader) name() string {
	s := r.text(255)
	if s == "" || s == "." || s == ".." || strings.ContainsAny(s, "/\x00") {
		r.fail(errEntries)
	}
	return s
}

func (r *entryReader) attr(n *inode, kind uint32) {
	n.Mode = r.number32()
	if kind != 0 && n.Mode&unix.S_IFMT != kind {
		r.fail(errEntries)
	}
	n.UID, n.GID = r.number32(), r.number32()
	v, used := binary.Varint(r.b)
	if used <= 0 {
		r.fail(errEntries)
		return
	}
	r.b = r.b[used:]
	n.Sec, n.Nsec = v, r.number32()
	for range r.count() {
		n.Xattrs = append(n.Xattrs, erofs.Xattr{Name: r.text(255), Value: r.text(maxXattr)})
	}
}

func (r *entryReader) dir(n *inode) {
	d := n.dir
	flags := r.byte()
	d.described, d.opaque, d.fresh = flags&flagDescribed != 0, flags&flagOpaque != 0, flags&flagFresh != 0
	if d.described {
		r.attr(n, unix.S_IFDIR)
	}
	for range r.count() {
		d.hidden = append(d.hidden, r.name())
	}
	last := ""
	for range r.count() {
		name := r.name()
		if r.err != nil {
			return
		}
		if name <= last {
			r.fail(errEntries)
			return
		}
		last = name
		if err := r.mem.take(nodeCost(name, nil)); err != nil {
			r.fail(err)
			return
		}
		d.names[name] = r.entry(n, name)
	}
}

func (r *entryReader) entry(parent *inode, name string) *inode {
	n := &inode{}
	switch kind := r.byte(); kind {
	case 'd':
		n = newDir(parent, name)
		if n.dir.depth > maxDepth {
			r.fail(errEntries)
			return n
		}
		r.dir(n)
		return n
	case 'h':
		i := r.number()
		if i >= uint64(len(r.files)) {
			r.fail(errEntries)
			return n
		}
		return r.files[i]
	case 'b':
		n.path = r.text(maxName)
		if n.below = r.base.find(n.path); n.below == nil || n.below.isDir() {
			r.fail(errEntries)
			return n
		}
		n.Inode = n.below.Inode
	case 'f':
		r.attr(n, unix.S_IFREG)
		n.Size = r.size()
		n.Device = int32(r.number() & 1)
		n.Offset = r.size()
		limit := r.archive
		if n.Device == 1 {
			limit = r.sparse
		}
		if n.Size > 0 && (n.Offset%erofs.BlockSize != 0 || n.Offset > limit-n.Size) {
			r.fail(errEntries)
		}
		if n.Size > 0 && n.Device == 1 && r.err == nil {
			size := chunkBytes(n.Size)
			if size > int64(len(r.b)) {
				r.fail(errEntries)
				return n
			}
			n.Chunks = bytes.Clone(r.b[:size])
			r.b = r.b[size:]
		}
		if n.isLarge(r.large) {
			if err := r.mem.take(largeCost); err != nil {
				r.fail(err)
			}
		}
		if n.Size > 0 {
			n.Device += int32(2 * len(r.base.chain))
		}
	case 'l':
		r.attr(n, unix.S_IFLNK)
		n.Target = r.text(unix.PathMax - 1)
	case 'n':
		r.attr(n, 0)
		n.Major, n.Minor = r.number32(), r.number32()
	default:
		r.fail(errEntries)
	}
	r.files = append(r.files, n)
	return n
}
