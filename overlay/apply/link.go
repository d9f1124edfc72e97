package apply

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/safepath"
)

// hardlink makes dir/base a link to a file of this layer, or of a layer below,
// which is copied into this one first: links cannot cross layers. A target that
// is not there may come later in the archive, so that is tried again at the end.
func (u *unpacker) hardlink(dir, base, target string) error {
	found, err := u.linkNow(dir, base, target)
	if err != nil || found {
		return err
	}
	tdir, tbase := cut(target)
	copied, err := u.copyUp(tdir, tbase)
	if err != nil {
		return err
	}
	if copied {
		_, err := u.linkNow(dir, base, target)
		return err
	}
	name := base
	if dir != "" {
		name = dir + "/" + base
	}
	if err := u.mem.take(int64(len(name)+len(target)) + 64); err != nil {
		return err
	}
	u.links = append(u.links, link{name, target})
	return nil
}

func checkTarget(target string) (string, error) {
	clean, err := cleanName(target)
	if err != nil {
		return "", err
	}
	if clean == "" {
		return "", invalid("hard link to the root directory")
	}
	if whiteoutInside(clean) {
		return "", invalid("hard link to %q, the name of a whiteout", clip(target))
	}
	return clean, nil
}

// linkNow links if the target is in this layer.
func (u *unpacker) linkNow(dir, base, target string) (found bool, err error) {
	tdir, tbase := cut(target)
	tfd, err := u.tree.find(tdir)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return false, nil
	case err != nil:
		return false, err
	}
	defer linux.Close(tfd)
	var st unix.Stat_t
	if err := unix.Fstatat(tfd, tbase, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if err == unix.ENOENT {
			return false, nil
		}
		return false, &os.PathError{Op: "stat", Path: tbase, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return false, invalid("hard link to the directory %q", clip(target))
	}
	found = true
	err = u.make(dir, base, func(parent int, _ *node, _ bool) error {
		err := safepath.LinkAt(tfd, tbase, parent, base)
		if errors.Is(err, unix.EEXIST) {
			var now unix.Stat_t
			if unix.Fstatat(parent, base, &now, unix.AT_SYMLINK_NOFOLLOW) == nil && now.Ino == st.Ino {
				return nil // linked already, or to itself
			}
		}
		// Making room removed the target, or a directory took its place.
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPERM) && isDirAt(tfd, tbase) {
			return invalid("hard link to %q, which it replaces", clip(target))
		}
		return err
	})
	return found, err
}

// isDirAt tells whether a name is a directory.
func isDirAt(dir int, name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// copyUp copies the file dir/base from the layers below to its place in this
// layer, with all attributes. false: there is none.
func (u *unpacker) copyUp(dir, base string) (bool, error) {
	if u.below.fd < 0 {
		return false, nil
	}
	parent, n, err := u.lookup(dir)
	if err != nil {
		return false, err
	}
	if n.hidesBelow() {
		return false, nil
	}
	path := base
	if n.parent != nil {
		path = n.path() + "/" + base
	}
	src, ok, err := u.below.open(path, unix.O_PATH)
	if err != nil || !ok {
		return false, err
	}
	defer linux.Close(src)
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return false, os.NewSyscallError("fstat", err)
	}
	a := attr{uid: st.Uid, gid: st.Gid, mode: st.Mode & 0o7777, mtime: st.Mtim}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return false, invalid("hard link to the directory %q", clip(path))
	case unix.S_IFREG:
		err = u.copyFile(path, parent, base, &st)
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		size, rerr := unix.Readlinkat(src, "", buf)
		if rerr != nil {
			return false, os.NewSyscallError("readlinkat", rerr)
		}
		if err = safepath.SymlinkAt(string(buf[:size]), parent, base); err == nil {
			err = u.setAttrAt(parent, base, &a)
		}
	default:
		if err = safepath.MknodAt(parent, base, st.Mode&unix.S_IFMT|0o600, st.Rdev); err == nil {
			err = u.setAttrAt(parent, base, &a)
		}
	}
	if err != nil {
		return false, err
	}
	if err := u.mem.take(int64(len(base)) + 100); err != nil {
		return false, err
	}
	u.copied[place{n, strings.Clone(base)}] = struct{}{}
	return true, nil
}

// lookup is tree.lookup that takes away a file which is only here because it was
// copied up, when the archive has names below it: the archive does not know of
// that copy.
func (u *unpacker) lookup(dir string) (int, *node, error) {
	fd, n, err := u.tree.lookup(dir)
	if err == nil || len(u.copied) == 0 || !errors.Is(err, ErrInvalid) {
		return fd, n, err
	}
	for i := 0; i <= len(dir); i++ {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		if gone, rerr := u.dropCopied(cut(dir[:i])); gone || rerr != nil {
			if rerr != nil {
				return -1, nil, rerr
			}
			return u.tree.lookup(dir)
		}
	}
	return fd, n, err
}

func (u *unpacker) dropCopied(dir, base string) (bool, error) {
	fd, err := u.tree.find(dir)
	if err != nil {
		return false, nil
	}
	defer linux.Close(fd)
	n, err := u.tree.nodeOf(fd)
	if err != nil {
		return false, err
	}
	at := place{n, base}
	if _, ok := u.copied[at]; !ok {
		return false, nil
	}
	delete(u.copied, at)
	return true, safepath.UnlinkAt(fd, base)
}

// copyFile copies the regular file path below to base in parent.
func (u *unpacker) copyFile(path string, parent int, base string, st *unix.Stat_t) error {
	if err := u.count(st.Size); err != nil {
		return err
	}
	src, ok, err := u.below.open(path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	if !ok {
		return &os.PathError{Op: "open", Path: path, Err: unix.ENOENT}
	}
	defer linux.Close(src)
	fd, err := safepath.CreateAt(parent, base, unix.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	failed := func(err error) error { return fmt.Errorf("copy %q from a lower layer: %w", clip(path), err) }
	if err := u.copySparse(fd, 0, fdReader{src}, st.Size, failed, nil); err != nil {
		return err
	}
	return u.copyAttributes(src, fd)
}

// fdReader reads a descriptor.
type fdReader struct{ fd int }

func (r fdReader) Read(p []byte) (int, error) {
	n, err := linux.Read(r.fd, p)
	if err != nil {
		return 0, os.NewSyscallError("read", err)
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}
