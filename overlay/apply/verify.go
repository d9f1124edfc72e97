package apply

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/erofs"
)

// DamageError says that a file of an indexed layer is not what it was made as.
type DamageError struct {
	Layer   overlay.ChainID
	File    string // of the layer's directory
	Problem string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("layer %s: %s: %s", e.Layer, e.File, e.Problem)
}

// Verify reads an indexed layer and compares all of it with what its chain ID
// says: the archive by its digest, and what was made of the archive by making it
// again. The error is a *DamageError for the first difference. What the layer
// stands on is taken as it is: verify it too. Base, which may be nil, saves
// reading the layers below again.
func Verify(ctx context.Context, s *overlay.Store, c overlay.ChainID, base *Base) error {
	if base == nil {
		base = &Base{}
	}
	err := verify(ctx, s, c, base)
	if err != nil {
		base.forget()
	}
	return err
}

func verify(ctx context.Context, s *overlay.Store, c overlay.ChainID, base *Base) error {
	damage := func(file, format string, a ...any) error {
		return &DamageError{c, file, fmt.Sprintf(format, a...)}
	}
	below, err := s.ParentsOf(overlay.Indexed, c)
	if err != nil {
		return err
	}
	parent := overlay.ChainID("")
	if len(below) > 0 {
		parent = below[0]
	}
	f := newFront(Options{MaxBytes: 1 << 62, MaxEntries: 1 << 40, MaxMemory: 1 << 40, Kind: Index, Base: base})
	x, closeSparse := newIndexer(ctx, f, s, parent, len(below))
	defer closeSparse()
	x.openSparse = func() (int, error) {
		return linux.OpenAt(unix.AT_FDCWD, s.Root()+"/staging", unix.O_RDWR|unix.O_TMPFILE, 0o600)
	}

	head, sum, err := entriesHead(s, c)
	if errors.Is(err, errEntries) {
		return damage(entriesName, "it is not what was written")
	}
	if err != nil {
		return err
	}
	x.opts.largeFrom = head.large
	fd, err := s.OpenIndexed(c, archiveFile(head.large))
	if errors.Is(err, unix.ENOENT) && s.Has(overlay.Indexed, c) && s.HasLarge(c) != (head.large > 0) { // else Check says so
		return damage(archiveFile(head.large), "it is missing")
	}
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	large, err := openLarge(s, c)
	if err != nil {
		return err
	}
	defer large.close()
	if err := x.archiveIs(fd, large, c, parent, head.archive); err != nil {
		return err
	}
	if again := sumEntries(&entriesFile{root: x.root, archive: f.result.Stream, sparse: alignUp(x.sparseSize, 4096), large: head.large}); again != sum {
		return damage(entriesName, "it is not what the archive makes of it")
	}
	if problem := large.compare(x.large); problem != "" {
		return damage(overlay.LargeDir, "%s", problem)
	}
	if x.sparse >= 0 {
		same, err := x.sparseIs(s, c)
		if err != nil {
			return err
		}
		if !same {
			return damage(overlay.SparseFile, "it is not what the archive makes of it")
		}
	}
	if err := x.load(); err != nil {
		return err
	}
	base.add(c, x.root, sizes{alignUp(f.result.Stream, erofs.BlockSize), alignUp(x.sparseSize, 4096), head.large}, f)
	if !s.HasImage(c) {
		return nil
	}
	image, err := s.OpenIndexed(c, "image")
	if errors.Is(err, unix.ENOENT) { // removed meanwhile
		return nil
	}
	if err != nil {
		return err
	}
	defer linux.Close(image)
	have := sha256.New()
	if _, err := io.Copy(have, io.NewSectionReader(fdReaderAt{image}, 0, 1<<62)); err != nil {
		return os.NewSyscallError("read", err)
	}
	for _, write := range []imageWriter{erofs.Write, erofs.WritePlain} {
		want := sha256.New()
		if err := base.writeImage(s, want, write); err != nil {
			return err
		}
		if bytes.Equal(have.Sum(nil), want.Sum(nil)) {
			return nil
		}
	}
	return damage("image", "it is not what the archives make of it")
}

// archiveIs reads the archive fd, of which size bytes count, into x, with the large
// files in their places, and tells whether it is that of the layer c.
func (x *indexer) archiveIs(fd int, large *largeFiles, c, parent overlay.ChainID, size int64) error {
	err := x.readAll(x.ctx, large.reader(fd, size), nil, x)
	if err == nil {
		err = x.finish()
	}
	got, n, digestErr := x.in.digest()
	x.result.Stream = n
	switch {
	case x.ctx.Err() != nil:
		return context.Cause(x.ctx)
	case x.in.err != nil:
		return err // of reading
	case err != nil, digestErr != nil, Chain(parent, got) != c:
		file := archiveFile(x.opts.largeFrom)
		if x.opts.largeFrom > 0 {
			file += " and " + overlay.LargeDir
		}
		return &DamageError{c, file, "its content is another"}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Size != size && st.Size != alignUp(size, 4096) { // a blob, or padded
		return &DamageError{c, archiveFile(x.opts.largeFrom), fmt.Sprintf("it has %d bytes, want %d", st.Size, size)}
	}
	return nil
}

// sparseIs compares the layer's file of sparse files with the one made again.
func (x *indexer) sparseIs(s *overlay.Store, c overlay.ChainID) (bool, error) {
	fd, err := s.OpenIndexed(c, overlay.SparseFile)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer linux.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, os.NewSyscallError("fstat", err)
	}
	size := alignUp(x.sparseSize, 4096)
	if st.Size != size {
		return false, nil
	}
	if err := unix.Ftruncate(x.sparse, size); err != nil {
		return false, os.NewSyscallError("ftruncate", err)
	}
	return sameContent(x.ctx, fd, x.sparse, size)
}

// sameContent compares two files that may be holes for the most part.
func sameContent(ctx context.Context, a, b int, size int64) (bool, error) {
	bufA, bufB := make([]byte, 128<<10), make([]byte, 128<<10)
	for at := int64(0); at < size; {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		// What is a hole in both is the same.
		next := min(nextData(a, at, size), nextData(b, at, size))
		if at = next; at >= size {
			break
		}
		n := min(size-at, int64(len(bufA)))
		for _, r := range []struct {
			fd  int
			buf []byte
		}{{a, bufA[:n]}, {b, bufB[:n]}} {
			if _, err := (fdReaderAt{r.fd}).ReadAt(r.buf, at); err != nil {
				return false, os.NewSyscallError("read", err)
			}
		}
		if !bytes.Equal(bufA[:n], bufB[:n]) {
			return false, nil
		}
		at += n
	}
	return true, nil
}

// nextData is where from an offset on data begins; size if nowhere.
func nextData(fd int, at, size int64) int64 {
	n, err := unix.Seek(fd, at, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		return size
	case err != nil:
		return at
	}
	return n
}

// imageWriter is erofs.Write, or what it was in earlier versions.
type imageWriter func(w io.Writer, root *erofs.Inode, devices []erofs.Device) (int64, error)

// writeImage writes the image of the base's chain.
func (b *Base) writeImage(s *overlay.Store, w io.Writer, write imageWriter) error {
	used := make([]int64, 2*len(b.sizes))
	b.prepare(b.root, used)
	defer b.release(b.root)
	copied := embed(used)
	devices := make([]erofs.Device, len(used))
	var open []int
	defer func() {
		for _, fd := range open {
			linux.Close(fd)
		}
	}()
	for i, n := range used {
		if n == 0 {
			continue
		}
		file, size := archiveFile(b.sizes[i/2].large), b.sizes[i/2].archive
		if i%2 == 1 {
			file, size = overlay.SparseFile, b.sizes[i/2].sparse
		}
		devices[i] = erofs.Device{Size: size, Tag: overlay.DeviceTag(file, i/2)}
		if copied[i] {
			fd, err := s.OpenIndexed(b.chain[i/2], file)
			if err != nil {
				return err
			}
			open = append(open, fd)
			devices[i].Embed = fdReaderAt{fd}
		}
	}
	_, err := write(w, &b.root.Inode, devices)
	if errors.Is(err, erofs.ErrTooLarge) {
		err = limit("the chain of layers has %v", err)
	}
	return err
}
