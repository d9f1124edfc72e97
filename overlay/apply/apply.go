package apply

import (
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
	opts.setDefaults()
	if opts.Base == nil {
		opts.Base = &Base{}
	}
	kind := opts.kind(s, parent)
	st, err := s.Stage(ctx, kind, id, parent)
	if err != nil {
		return "", Result{}, fmt.Errorf("unpack layer %s: %w", diffID, err)
	}
	res := Result{Existed: true, Kind: kind}
	if st != nil {
		f := newFront(opts)
		if kind == overlay.Indexed {
			err = f.index(ctx, s, st, parent, diffID, archive)
		} else {
			err = f.extract(ctx, s, st, parent, diffID, archive)
		}
		if err != nil {
			opts.Base.forget()
			err = fmt.Errorf("unpack layer %s: %w", diffID, err)
			return "", Result{}, errors.Join(err, st.Abort())
		}
		if err := st.Commit(); err != nil {
			opts.Base.forget()
			return "", Result{}, err
		}
		res = f.result
		res.Kind = kind
	}
	if kind == overlay.Indexed && !opts.Inner {
		if err := opts.Base.makeImage(ctx, s, id, opts); err != nil {
			return "", Result{}, err
		}
	}
	return id, res, nil
}

// unpacker makes the files of one layer.
type unpacker struct {
	*front
	tree  *tree
	below *below

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

func (f *front) extract(ctx context.Context, s *overlay.Store, st *overlay.Staged, parent overlay.ChainID, diffID string, archive io.Reader) error {
	u := &unpacker{front: f, copied: map[place]struct{}{}}
	var err error
	if u.tree, err = newTree(st.FS(), &f.mem); err != nil {
		return err
	}
	defer u.tree.forget()
	if u.below, err = openBelow(s, parent, len(st.Parents())); err != nil {
		return err
	}
	defer u.below.close()
	if err := f.read(ctx, archive, diffID, nil, u); err != nil {
		return err
	}
	return u.finish(ctx)
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
