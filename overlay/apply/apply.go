package apply

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/overlay"
)

// Layer unpacks an uncompressed tar archive as a layer on top of parent ("" for
// a bottom layer), which must be in the store, and returns its chain ID. The
// archive is read to its end, past the tar end marker, and its digest must be
// diffID. On any error, the end of ctx included, the store is as before. A Read
// of archive that blocks is waited for: let it end with ctx too.
//
// When the layer is in the store already, or another process makes it at the
// same time and succeeds, archive is not read and Result.Existed is true.
func Layer(ctx context.Context, s *overlay.Store, parent overlay.ChainID, diffID string, archive io.Reader, opts Options) (overlay.ChainID, Result, error) {
	if !overlay.ValidDigest(diffID) {
		return "", Result{}, &overlay.NameError{Kind: "diff ID", Name: diffID}
	}
	id := Chain(parent, diffID)
	st, err := s.Stage(ctx, id, parent)
	if err != nil {
		return "", Result{}, fmt.Errorf("unpack layer %s: %w", diffID, err)
	}
	if st == nil {
		return id, Result{Existed: true}, nil
	}
	res, err := unpack(ctx, s, st, parent, diffID, archive, opts)
	if err != nil {
		err = fmt.Errorf("unpack layer %s: %w", diffID, err)
		return "", Result{}, errors.Join(err, st.Abort())
	}
	if err := st.Commit(); err != nil {
		return "", Result{}, err
	}
	return id, res, nil
}

// unpacker is one layer at work.
type unpacker struct {
	opts   Options
	tree   *tree
	below  *below
	result Result
	in     *stream
	buf    []byte
	mem    budget

	whiteouts []whiteout
	links     []link
	copied    map[place]struct{} // files brought up from below for a hard link
}

type whiteout struct {
	dir  *node
	name string
}

type link struct{ name, target string }

type place struct {
	dir  *node
	name string
}

func unpack(ctx context.Context, s *overlay.Store, st *overlay.Staged, parent overlay.ChainID, diffID string, archive io.Reader, opts Options) (Result, error) {
	opts.setDefaults()
	u := &unpacker{opts: opts, mem: budget{opts.MaxMemory}, buf: make([]byte, 256<<10), copied: map[place]struct{}{}}
	var err error
	if u.tree, err = newTree(st.FS(), &u.mem); err != nil {
		return Result{}, err
	}
	defer u.tree.forget()
	if u.below, err = openBelow(s, parent, len(st.Parents())); err != nil {
		return Result{}, err
	}
	defer u.below.close()

	in := newStream(ctx, archive, opts.MaxBytes)
	defer in.close()
	u.in = in
	if err := u.entries(tar.NewReader(in)); err != nil {
		return Result{}, err
	}
	if err := in.drain(u.buf); err != nil {
		return Result{}, u.readError(err)
	}
	got, size := in.digest()
	if got != diffID {
		return Result{}, &DigestError{Want: diffID, Got: got}
	}
	u.result.Stream = size
	if err := u.finish(ctx); err != nil {
		return Result{}, err
	}
	return u.result, nil
}

func (u *unpacker) entries(r *tar.Reader) error {
	for {
		hdr, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return u.readError(err)
		}
		if u.result.Entries++; u.result.Entries > u.opts.MaxEntries {
			return limit("more than %d entries (MaxEntries)", u.opts.MaxEntries)
		}
		if err := u.entry(hdr, r); err != nil {
			return &EntryError{hdr.Name, err}
		}
	}
}

// readError tells errors of the reader below from those about the archive's
// form, which are ErrInvalid whatever archive/tar calls them.
func (u *unpacker) readError(err error) error {
	if u.in.err != nil {
		return fmt.Errorf("read archive: %w", u.in.err)
	}
	if errors.Is(err, ErrInvalid) || errors.Is(err, ErrLimit) {
		return fmt.Errorf("read archive: %w", err)
	}
	return fmt.Errorf("read archive: %w", &classError{ErrInvalid, err.Error()})
}

func (u *unpacker) warn(format string, a ...any) {
	if len(u.result.Warnings) < maxWarnings {
		u.result.Warnings = append(u.result.Warnings, fmt.Sprintf(format, a...))
	}
}

// below looks at the layers under the one being unpacked, as one tree.
type below struct {
	fd int // -1: nothing below
}

func openBelow(s *overlay.Store, parent overlay.ChainID, depth int) (*below, error) {
	if depth == 0 {
		return &below{-1}, nil
	}
	var fd int
	var err error
	if depth == 1 { // no mount needed
		fd, err = s.OpenLayer(parent)
	} else {
		fd, err = s.MountView(parent)
	}
	if err != nil {
		return nil, err
	}
	return &below{fd}, nil
}

func (b *below) close() { linux.Close(b.fd) }

// open opens path below (O_PATH, no link followed anywhere). ENOENT and its kin
// are ok=false.
func (b *below) open(path string, flags int) (fd int, ok bool, err error) {
	if b.fd < 0 {
		return -1, false, nil
	}
	// With O_PATH|O_NOFOLLOW a link as the last component is opened itself, which
	// RESOLVE_NO_SYMLINKS allows.
	how := unix.OpenHow{
		Flags:   uint64(flags) | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err = unix.Openat2(b.fd, path, &how)
		switch err {
		case nil:
			return fd, true, nil
		case unix.EINTR, unix.EAGAIN:
			continue
		case unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.ENAMETOOLONG:
			return -1, false, nil
		}
		return -1, false, &os.PathError{Op: "open below", Path: path, Err: err}
	}
}

func isErr(err error, target unix.Errno) bool { return errors.Is(err, target) }
