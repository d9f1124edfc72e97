package apply

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/safepath"
	"github.com/minirun/minirun/overlay"
)

// finish does what had to wait for the end of the archive.
func (u *unpacker) finish(ctx context.Context) error {
	if err := u.forwardLinks(); err != nil {
		return err
	}
	u.tree.forget()
	if err := u.opaqueRoot(); err != nil {
		return err
	}
	if err := u.hideAll(ctx); err != nil {
		return err
	}
	// Children first: a directory that its own mode closes is opened before.
	for i := len(u.tree.nodes) - 1; i >= 0; i-- {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := u.tree.nodes[i]
		if err := u.finishDir(n); err != nil {
			return &EntryError{n.path(), err}
		}
	}
	return nil
}

// forwardLinks makes the hard links whose target came later. A name that came
// later too wins over its link.
func (u *unpacker) forwardLinks() error {
	for _, l := range u.links {
		dir, base := cut(l.name)
		if fd, err := u.tree.find(dir); err == nil {
			var st unix.Stat_t
			err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
			linux.Close(fd)
			if err == nil {
				continue
			}
		}
		found, err := u.linkNow(dir, base, l.target)
		if err == nil && !found {
			err = invalid("hard link to %q, which does not exist", clip(l.target))
		}
		if err != nil {
			return &EntryError{l.name, err}
		}
	}
	return nil
}

// opaqueRoot turns an opaque root into whiteouts of everything below it:
// overlayfs merges root directories whatever their attributes say.
func (u *unpacker) opaqueRoot() error {
	top := u.tree.top()
	if !top.opaque {
		return nil
	}
	top.opaque = false
	fd, ok, err := u.below.open(".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil || !ok {
		return err
	}
	names, err := safepath.ReadNames(fd)
	linux.Close(fd)
	if err != nil {
		return err
	}
	for _, name := range names {
		u.whiteouts = append(u.whiteouts, whiteout{top, name})
	}
	return nil
}

// hideAll carries out the whiteouts: first those that meet a directory of this
// layer, which becomes one that merges with nothing, for that decides what is
// visible below at all; then the others.
func (u *unpacker) hideAll(ctx context.Context) error {
	if err := u.eachWhiteout(ctx, u.hideDir); err != nil {
		return err
	}
	if err := u.hideCopies(); err != nil {
		return err
	}
	return u.eachWhiteout(ctx, u.hideName)
}

// eachWhiteout calls do with the directory of each whiteout. Consecutive ones of
// one directory share a descriptor, so the work is linear.
func (u *unpacker) eachWhiteout(ctx context.Context, do func(w whiteout, fd int) error) error {
	var dir *node
	fd := -1
	defer func() { linux.Close(fd) }()
	for _, w := range u.whiteouts {
		if err := ctx.Err(); err != nil {
			return err
		}
		if w.dir != dir {
			linux.Close(fd)
			var ok bool
			var err error
			if fd, ok, err = u.tree.open(w.dir); err != nil {
				return err
			}
			if dir = w.dir; !ok {
				fd = -1
			}
		}
		if fd < 0 {
			continue // the directory was replaced later in the archive
		}
		if err := do(w, fd); err != nil {
			return &EntryError{w.dir.path() + "/" + whPrefix + w.name, err}
		}
	}
	return nil
}

func (u *unpacker) hideDir(w whiteout, fd int) error {
	var st unix.Stat_t
	err := unix.Fstatat(fd, w.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil // hideName looks again
	}
	if n := u.tree.byIno[st.Ino]; n != nil && !n.fresh {
		n.fresh = true
		u.result.Whiteouts++
	}
	return nil
}

// hideCopies removes files that were copied up for a hard link, and lie in a
// directory that a marker later in the archive empties.
func (u *unpacker) hideCopies() error {
	for at := range u.copied {
		if !at.dir.hidesBelow() {
			continue
		}
		fd, ok, err := u.tree.open(at.dir)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		err = safepath.UnlinkAt(fd, at.name)
		linux.Close(fd)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		delete(u.copied, at)
	}
	return nil
}

// hideName makes one whiteout in the directory fd, if the layers below show
// something of that name.
func (u *unpacker) hideName(w whiteout, fd int) error {
	var st unix.Stat_t
	err := unix.Fstatat(fd, w.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil && err != unix.ENOENT {
		return os.NewSyscallError("fstatat", err)
	}
	if err == nil {
		if _, ok := u.copied[place(w)]; !ok {
			return nil // this layer's own, or a whiteout made already
		}
		// Copied up only to be linked: that name itself is hidden.
		if err := unix.Unlinkat(fd, w.name, 0); err != nil {
			return os.NewSyscallError("unlinkat", err)
		}
		delete(u.copied, place(w))
	}
	if at, err := u.showsBelow(w.dir, w.name); err != nil || !at {
		return err
	}
	u.result.Whiteouts++
	return safepath.MknodAt(fd, w.name, unix.S_IFCHR, 0)
}

// showsBelow reports whether the layers below show name in the directory n.
func (u *unpacker) showsBelow(n *node, name string) (bool, error) {
	if n.opaque || n.fresh {
		return false, nil
	}
	if at, err := u.lowerAt(n); err != nil || !at {
		return false, err
	}
	fd, ok, err := u.below.open(n.path()+"/"+name, unix.O_PATH)
	linux.Close(fd)
	return ok, err
}

// lowerAt reports whether the layers below have a directory where n is, visible
// through n's parents. n itself may hide its content.
func (u *unpacker) lowerAt(n *node) (bool, error) {
	if n.below == 0 {
		at := u.below.fd >= 0
		if at && n.parent != nil {
			if n.parent.opaque || n.parent.fresh {
				at = false
			} else if ok, err := u.lowerAt(n.parent); err != nil || !ok {
				at = false
				if err != nil {
					return false, err
				}
			} else {
				fd, ok, err := u.below.open(n.path(), unix.O_PATH|unix.O_DIRECTORY)
				if err != nil {
					return false, err
				}
				if at = ok; ok {
					linux.Close(fd)
				}
			}
		}
		n.below = -1
		if at {
			n.below = 1
		}
	}
	return n.below > 0, nil
}

// finishDir gives a directory its final attributes.
func (u *unpacker) finishDir(n *node) error {
	fd, ok, err := u.tree.open(n)
	if err != nil || !ok {
		return err
	}
	defer linux.Close(fd)
	hides := n.opaque || n.fresh
	at := false
	if hides || !n.described {
		if at, err = u.lowerAt(n); err != nil {
			return err
		}
	}
	if hides && at {
		name := "trusted.overlay.opaque"
		if u.opts.unprivileged {
			name = "user.overlay.opaque"
		}
		if err := unix.Fsetxattr(fd, name, []byte("y"), 0); err != nil {
			return &os.PathError{Op: "set attribute", Path: name, Err: err}
		}
		if n.opaque {
			u.result.Whiteouts++
		}
	}
	switch {
	case n.described:
		return u.setAttr(fd, &n.attr)
	case at && !n.fresh:
		lower, ok, err := u.below.open(n.path(), unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		if !ok {
			return &os.PathError{Op: "open", Path: n.path(), Err: unix.ENOENT}
		}
		defer linux.Close(lower)
		return u.copyAttributes(lower, fd)
	}
	u.warnHiddenLink(n)
	return u.setAttr(fd, &attr{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid()), mode: 0o755})
}

// warnHiddenLink reports a directory that exists only because the archive has
// names below what is a symbolic link in a lower layer.
func (u *unpacker) warnHiddenLink(n *node) {
	if n.parent == nil || n.fresh {
		return
	}
	if ok, err := u.lowerAt(n.parent); err != nil || !ok || n.parent.opaque || n.parent.fresh {
		return
	}
	fd, ok, err := u.below.open(n.path(), unix.O_PATH)
	if err != nil || !ok {
		return
	}
	defer linux.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		u.warn("%q: a directory of this layer hides a symbolic link of a lower one", clip(n.path()))
	}
}

// copyAttributes gives to what from has, security.capability included.
func (u *unpacker) copyAttributes(from, to int) error {
	if u.opts.unprivileged {
		return nil
	}
	if err := overlay.CopyAttributes(from, to); err != nil {
		return err
	}
	buf := make([]byte, 1024)
	n, err := unix.Fgetxattr(from, "security.capability", buf)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err == nil {
		err = unix.Fsetxattr(to, "security.capability", buf[:n], 0)
	}
	if err != nil {
		return &os.PathError{Op: "copy attribute", Path: "security.capability", Err: err}
	}
	return nil
}
