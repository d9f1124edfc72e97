package apply

import (
	"archive/tar"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/safepath"
)

// make calls create with the directory dir until it does not fail with EEXIST,
// deleting what is in the way in between: nothing is ever opened, written or
// changed because its name happened to exist. create gets the directory's
// descriptor, which is valid until the next lookup, and whether something was
// replaced.
func (u *unpacker) make(dir, base string, create func(fd int, n *node, replaced bool) error) error {
	for replaced := false; ; replaced = true {
		fd, n, err := u.lookup(dir)
		if err != nil {
			return err
		}
		err = create(fd, n, replaced)
		if !errors.Is(err, unix.EEXIST) || replaced {
			return err
		}
		if err := safepath.RemoveAllAt(fd, base); err != nil {
			return err
		}
		delete(u.copied, place{n, base})
		u.tree.forget()
	}
}

func (u *unpacker) file(dir, base string, hdr *tar.Header, r io.Reader, a attr) error {
	return u.make(dir, base, func(parent int, _ *node, _ bool) error {
		fd, err := safepath.CreateAt(parent, base, unix.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer linux.Close(fd)
		if isSparse(hdr) {
			err = u.copySparse(fd, 0, r, hdr.Size, u.readError, nil)
		} else {
			err = u.copyData(fd, r, hdr.Size)
		}
		if err != nil {
			return err
		}
		return u.setAttr(fd, &a)
	})
}

func (u *unpacker) copyData(fd int, r io.Reader, size int64) error {
	for size > 0 {
		n, err := io.ReadFull(r, u.buf[:min(int64(len(u.buf)), size)])
		if err != nil {
			return u.readError(err)
		}
		if err := linux.WriteAll(fd, u.buf[:n]); err != nil {
			return os.NewSyscallError("write", err)
		}
		size -= int64(n)
	}
	return nil
}

// directory makes a directory, or gives an existing one this entry's attributes.
func (u *unpacker) directory(dir, base string, a attr) error {
	return u.make(dir, base, func(parent int, _ *node, replaced bool) error {
		err := safepath.MkdirAt(parent, base, 0o700)
		exists := errors.Is(err, unix.EEXIST)
		if err != nil && !exists {
			return err
		}
		fd, err := safepath.OpenDirAt(parent, base, unix.O_PATH)
		if err != nil {
			if exists && (errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)) {
				return unix.EEXIST
			}
			return err
		}
		defer linux.Close(fd)
		var n *node
		if exists {
			n, err = u.tree.nodeOf(fd)
		} else {
			n, err = u.tree.add(parent, base, fd)
		}
		if err != nil {
			return err
		}
		n.fresh = n.fresh || replaced
		return u.describe(n, a)
	})
}

// describe keeps a directory's attributes for the end.
func (u *unpacker) describe(n *node, a attr) error {
	var size int64
	for _, x := range a.xattrs {
		size += int64(len(x.name)+len(x.value)) + 64
	}
	if err := u.mem.take(size); err != nil {
		return err
	}
	n.described, n.attr = true, a
	return nil
}

func (u *unpacker) describeRoot(a attr) error { return u.describe(u.tree.top(), a) }

func (u *unpacker) symlink(dir, base, target string, a attr) error {
	return u.make(dir, base, func(parent int, _ *node, _ bool) error {
		if err := safepath.SymlinkAt(target, parent, base); err != nil {
			return err
		}
		return u.setAttrAt(parent, base, &a)
	})
}

func (u *unpacker) device(dir, base string, mode, major, minor uint32, a attr) error {
	return u.make(dir, base, func(parent int, _ *node, _ bool) error {
		if err := safepath.MknodAt(parent, base, mode|0o600, unix.Mkdev(major, minor)); err != nil {
			return err
		}
		return u.setAttrAt(parent, base, &a)
	})
}

func (u *unpacker) hide(dir, name string) error {
	_, n, err := u.lookup(dir)
	if err != nil {
		return err
	}
	if name == "" {
		n.opaque = true
	} else {
		u.whiteouts = append(u.whiteouts, whiteout{n, name})
	}
	return nil
}
