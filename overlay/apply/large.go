package apply

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/safepath"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/erofs"
)

// What is read through an image is in memory twice, as a part of the archive and as a
// file of the image, and is copied from the one to the other. Large files, in which most
// bytes of most images are, are spared that: each is a file of its own beside the archive,
// which has a hole there. overlayfs finds it by a redirect in the image, and all images
// with the layer share it in memory.

// maxLarge bounds large files; larger ones stay in the archive.
const maxLarge = 1 << 40

// largeCost estimates the memory of a large file besides that of its name and inode.
const largeCost = 128

// isLarge reports whether the file is one of its own in a layer where files of from
// bytes on are; never if from is 0.
func (n *inode) isLarge(from int64) bool {
	return from > 0 && n.Mode&unix.S_IFMT == unix.S_IFREG && n.Device&1 == 0 && n.Size >= from && n.Size <= maxLarge
}

// largeFile is a large file of a layer.
type largeFile struct{ at, size int64 } // in the archive

// largeName is the name of the large file at that place of the archive: the number of
// its block there.
func largeName(at int64) string { return strconv.FormatInt(at/erofs.BlockSize, 10) }

// redirect is where overlayfs finds the large file n of the layer c.
func (n *inode) redirect(c overlay.ChainID) string {
	return overlay.RedirectTo(c, overlay.LargeDir+"/"+largeName(n.Offset))
}

// canSeparate tells whether large files can be apart from the archive: not if that is
// somebody's blob, nor if the kernel does not follow redirects.
func (x *indexer) canSeparate(s *overlay.Store, archive *keeper) bool {
	return archive.linked < 0 && x.base.follows(s)
}

// follows reports whether redirects can be used in the store.
func (b *Base) follows(s *overlay.Store) bool {
	if !b.redirectsTold {
		b.redirects, b.redirectsTold = CanRedirect(s) == nil, true
	}
	return b.redirects
}

// CanRedirect tells whether large files can lie beside the archive of an indexed layer
// in the store: nil, or why not.
func CanRedirect(s *overlay.Store) error {
	data := bytes.Repeat([]byte("redirect"), 512)
	root := newDir(nil, "")
	root.Entries = []erofs.Dirent{{Name: "file", Inode: &erofs.Inode{Mode: unix.S_IFREG | 0o600, Size: int64(len(data)), Redirect: "/data"}}}
	var image sliceWriter
	if _, err := erofs.Write(&image, &root.Inode, nil); err != nil {
		return err
	}
	return s.ProbeRedirect(image, data)
}

// setApart has the content of the file that comes now in the archive go to a file of its
// own.
func (x *indexer) setApart(n *inode) error {
	x.large = append(x.large, largeFile{n.Offset, n.Size})
	if x.separate == nil {
		return nil // only listed
	}
	w, err := x.separate.create(n.Offset)
	if err == nil {
		x.in.setAside(n.Size, w)
	}
	return err
}

// separator makes the large files of a layer.
type separator struct {
	layer int    // the layer's directory
	dir   int    // that of the large files, -1 until there is one
	open  []int  // files that are whole, and not known to be on the disk
	spare []byte // for who writes next
}

// close is for when nobody writes any more.
func (s *separator) close() {
	s.closeFiles()
	linux.Close(s.dir)
}

func (s *separator) closeFiles() {
	for _, fd := range s.open {
		linux.Close(fd)
	}
	s.open = nil
}

func (s *separator) create(at int64) (io.WriteCloser, error) {
	if s.dir < 0 {
		if err := safepath.MkdirAt(s.layer, overlay.LargeDir, 0o700); err != nil {
			return nil, err
		}
		var err error
		if s.dir, err = safepath.OpenDirAt(s.layer, overlay.LargeDir, unix.O_RDONLY); err != nil {
			return nil, err
		}
	}
	fd, err := create(s.dir, largeName(at))
	return &largeWriter{fd: fd, s: s}, err
}

// largeWriter writes a large file. It gets pieces of the archive, which do not begin where
// pages of the file do; what it writes ends at multiples of chunkSize, so that the page
// cache can hold it in few folios.
type largeWriter struct {
	fd   int
	s    *separator
	held []byte // less than chunkSize
}

func (w *largeWriter) Write(p []byte) (int, error) {
	n := len(p)
	if whole := (len(w.held) + n) / chunkSize * chunkSize; whole > 0 {
		now := p[:whole-len(w.held)]
		if err := linux.WriteBoth(w.fd, w.held, now); err != nil {
			return 0, os.NewSyscallError("write", err)
		}
		w.held, p = w.held[:0], p[len(now):]
	}
	if w.held == nil {
		if w.held, w.s.spare = w.s.spare, nil; w.held == nil {
			w.held = make([]byte, 0, chunkSize)
		}
	}
	w.held = append(w.held, p...)
	return n, nil
}

// maxUnsynced bounds the large files that are open because they are not synced. Whoever
// closes a file before does not hear of errors of writing it to the disk.
const maxUnsynced = 200

// Close writes what is left, and has the kernel begin to write the file to the disk.
func (w *largeWriter) Close() error {
	err := linux.WriteAll(w.fd, w.held)
	w.s.spare, w.held = w.held[:0], nil
	if err != nil {
		linux.Close(w.fd)
		return os.NewSyscallError("write", err)
	}
	_ = unix.SyncFileRange(w.fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE) // only a hint
	w.s.open = append(w.s.open, w.fd)
	if len(w.s.open) < maxUnsynced {
		return nil
	}
	return w.s.sync(context.Background())
}

// syncers is how many files are synced at a time: the file system's journal takes what
// is asked for meanwhile in one go.
const syncers = 8

// sync has the files on the disk.
func (s *separator) sync(ctx context.Context) error {
	defer s.closeFiles()
	var next atomic.Int64
	errs := make([]error, min(syncers, len(s.open)))
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for errs[i] == nil {
				at := next.Add(1) - 1
				if at >= int64(len(s.open)) {
					return
				}
				if errs[i] = ctx.Err(); errs[i] == nil {
					errs[i] = os.NewSyscallError("fdatasync", unix.Fdatasync(s.open[at]))
				}
				if errs[i] != nil {
					next.Store(int64(len(s.open))) // for the others too
				}
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(errs...)
}

// finish has the files on the disk, and the archive under the name that says that they
// are not in it.
func (s *separator) finish(ctx context.Context) error {
	if err := s.sync(ctx); err != nil {
		return err
	}
	if err := unix.Fsync(s.dir); err != nil {
		return os.NewSyscallError("fsync", err)
	}
	return os.NewSyscallError("renameat", unix.Renameat(s.layer, overlay.ArchiveFile, s.layer, overlay.RestFile))
}

// largeFiles are those in a layer's directory, in the order of the archive.
type largeFiles struct {
	dir  int
	fd   int // of the one that is read, or -1
	list []largeFile
	odd  string // a name that none can have
}

// openLarge lists the large files of the layer c.
func openLarge(s *overlay.Store, c overlay.ChainID) (*largeFiles, error) {
	l := &largeFiles{dir: -1, fd: -1}
	var err error
	l.dir, err = s.OpenIndexed(c, overlay.LargeDir)
	if errors.Is(err, unix.ENOENT) {
		return l, nil
	}
	if err == nil {
		if err = l.read(); err != nil {
			l.close()
		}
	}
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		err = &DamageError{c, overlay.LargeDir, "it is no directory"}
	}
	if err != nil {
		return nil, err
	}
	return l, nil
}

func (l *largeFiles) read() error {
	names, err := safepath.ReadNames(l.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(l.dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &os.PathError{Op: "stat", Path: name, Err: err}
		}
		block, err := strconv.ParseInt(name, 10, 64)
		f := largeFile{block * erofs.BlockSize, st.Size}
		if err != nil || block < 0 || block >= 1<<50 || largeName(f.at) != name || st.Mode&unix.S_IFMT != unix.S_IFREG {
			l.odd = name
			continue
		}
		l.list = append(l.list, f)
	}
	slices.SortFunc(l.list, func(a, b largeFile) int { return cmp.Compare(a.at, b.at) })
	return nil
}

func (l *largeFiles) close() {
	linux.Close(l.fd)
	linux.Close(l.dir)
}

// compare tells how the files differ from those that the archive has; "" if they do not.
func (l *largeFiles) compare(want []largeFile) string {
	if l.odd != "" {
		return fmt.Sprintf("it has %q", clip(l.odd))
	}
	for i := range max(len(l.list), len(want)) {
		switch {
		case i == len(want) || i < len(l.list) && l.list[i].at < want[i].at:
			return fmt.Sprintf("it has %s, of no file", largeName(l.list[i].at))
		case i == len(l.list) || l.list[i].at > want[i].at:
			return fmt.Sprintf("it lacks %s", largeName(want[i].at))
		case l.list[i].size != want[i].size:
			return fmt.Sprintf("%s has %d bytes, want %d", largeName(want[i].at), l.list[i].size, want[i].size)
		}
	}
	return ""
}

// reader reads the whole archive, size bytes, from its file and the large files.
func (l *largeFiles) reader(archive int, size int64) io.Reader {
	var parts []io.Reader
	at := int64(0)
	from := func(file int, at, n int64) {
		if n > 0 {
			parts = append(parts, io.NewSectionReader(fdReaderAt{file}, at, n))
		}
	}
	for _, f := range l.list {
		if f.at < at || f.size > size-f.at {
			continue // what is read then is another archive
		}
		from(archive, at, f.at-at)
		parts = append(parts, &largeReader{l, f, 0})
		at = f.at + f.size
	}
	from(archive, at, size-at)
	return io.MultiReader(parts...)
}

// largeReader reads one of the files, which is open meanwhile.
type largeReader struct {
	*largeFiles
	file largeFile
	at   int64
}

func (r *largeReader) Read(p []byte) (n int, err error) {
	if r.at == 0 {
		linux.Close(r.fd)
		if r.fd, err = linux.OpenAt(r.dir, largeName(r.file.at), unix.O_RDONLY|unix.O_NOFOLLOW, 0); err != nil {
			return 0, err
		}
	}
	if r.at == r.file.size {
		return 0, io.EOF
	}
	n, err = fdReaderAt{r.fd}.ReadAt(p[:min(int64(len(p)), r.file.size-r.at)], r.at)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF // it was as long a moment ago
	}
	r.at += int64(n)
	return n, err
}
