// Package diff compares trees of files: what a container has written with what
// lies below it ([Upper]), and two trees ([Trees]). Both are hostile: they are
// walked by descriptors, one component at a time, and no link is followed.
package diff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/safepath"
)

// Kind says what happened to a path, in docker's letters.
type Kind byte

// The kinds of changes.
const (
	Added   Kind = 'A'
	Changed Kind = 'C'
	Deleted Kind = 'D'
)

// Change is one path that differs. Of a directory that was deleted only the
// directory is listed, of one that was added everything in it.
type Change struct {
	Kind Kind
	Path string // begins with a slash
}

// maxDepth bounds open descriptors, and is deeper than a path can be named.
const maxDepth = 256

const opaqueAttr = "trusted.overlay.opaque"

// Upper lists what the upper directory of an overlay changes. lower is the tree
// below it, mounted, -1 for an empty one. Both descriptors are open for reading.
// Everything that was copied up counts as changed, whether its content is the
// same or not: only what was written is looked at.
//
// places are where something is mounted in the container, such as /etc/hosts: what
// lies there is covered, so an empty file or directory that the lower tree has not
// was made to mount on, by nobody in the container.
func Upper(ctx context.Context, upper, lower int, places map[string]bool) ([]Change, error) {
	w := walk{ctx: ctx, overlay: true, places: places}
	err := w.dirs(lower, upper, "/", 0)
	return w.list, err
}

// Trees lists how b differs from a: files by type, mode, owner, device number,
// extended attributes, link target, size and content. Times alone are no
// difference: building something again changes them all. -1 is an empty tree. A directory with a
// change in it counts as changed, as docker has it.
func Trees(ctx context.Context, a, b int) ([]Change, error) {
	w := walk{ctx: ctx}
	err := w.dirs(a, b, "/", 0)
	return w.list, err
}

type walk struct {
	ctx     context.Context // of one walk
	list    []Change
	overlay bool // the new tree is an upper directory
	places  map[string]bool
	covered int // of places, so many were left out
	buf     [2][]byte
}

func (w *walk) add(k Kind, path string) { w.list = append(w.list, Change{k, path}) }

// dirs compares two directories; prefix is their path with a slash at its end.
func (w *walk) dirs(old, now int, prefix string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%q is more than %d directories deep", prefix, maxDepth)
	}
	if err := w.ctx.Err(); err != nil {
		return context.Cause(w.ctx)
	}
	var names []string
	if now >= 0 {
		var err error
		if names, err = safepath.ReadNames(now); err != nil {
			return fmt.Errorf("%q: %w", prefix, err)
		}
	}
	if old >= 0 && (!w.overlay || opaque(now)) {
		oldNames, err := safepath.ReadNames(old)
		if err != nil {
			return fmt.Errorf("%q: %w", prefix, err)
		}
		names = append(names, oldNames...)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if err := w.entry(old, now, name, prefix+name, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) entry(old, now int, name, path string, depth int) error {
	var a, b unix.Stat_t
	had, err := stat(old, name, &a)
	if err != nil {
		return err
	}
	has, err := stat(now, name, &b)
	if err != nil {
		return err
	}
	whiteout := w.overlay && has && b.Mode&unix.S_IFMT == unix.S_IFCHR && b.Rdev == 0
	switch {
	case !has || whiteout:
		if had {
			w.add(Deleted, path)
		}
		return nil
	case !had && w.places[path]:
		if nothing, err := isNothing(now, name, &b); err != nil {
			return fmt.Errorf("%q: %w", path, err)
		} else if nothing {
			w.covered++
			return nil
		}
	}
	if !had {
		w.add(Added, path)
		if !isDir(&b) {
			return nil
		}
		return w.into(-1, now, name, path, depth)
	}
	at, covered := len(w.list), w.covered
	w.add(Changed, path)
	differs := w.overlay
	if !w.overlay {
		if differs, err = w.differs(old, now, name, &a, &b); err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
	}
	if isDir(&b) {
		lower := old
		if !isDir(&a) {
			lower = -1
		}
		if err := w.into(lower, now, name, path, depth); err != nil {
			return err
		}
	}
	if w.overlay && isDir(&a) && isDir(&b) && w.covered > covered && len(w.list) == at+1 {
		// Copied up for a place in it, or changed as well?
		if differs, err = w.differs(old, now, name, &a, &b); err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
	}
	if !differs && len(w.list) == at+1 {
		w.list = w.list[:at]
	}
	return nil
}

// into compares the directories name in old (-1: there is none) and in now.
func (w *walk) into(old, now int, name, path string, depth int) error {
	b, err := safepath.OpenDirAt(now, name, unix.O_RDONLY)
	if err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	defer linux.Close(b)
	a := -1
	if old >= 0 {
		if a, err = safepath.OpenDirAt(old, name, unix.O_RDONLY); err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		defer linux.Close(a)
	}
	return w.dirs(a, b, path+"/", depth+1)
}

func stat(dir int, name string, st *unix.Stat_t) (bool, error) {
	if dir < 0 {
		return false, nil
	}
	err := unix.Fstatat(dir, name, st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	return true, nil
}

func isDir(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }

// opaque reports whether a directory of an upper directory hides the one below.
func opaque(fd int) bool {
	var b [1]byte
	n, err := unix.Fgetxattr(fd, opaqueAttr, b[:])
	return err == nil && n == 1 && b[0] == 'y'
}

// differs compares two entries of the same name, without what is in directories.
func (w *walk) differs(old, now int, name string, a, b *unix.Stat_t) (bool, error) {
	if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid {
		return true, nil
	}
	typ := a.Mode & unix.S_IFMT
	switch {
	case (typ == unix.S_IFCHR || typ == unix.S_IFBLK) && a.Rdev != b.Rdev:
		return true, nil
	case (typ == unix.S_IFREG || typ == unix.S_IFLNK) && a.Size != b.Size:
		return true, nil
	}
	if same, err := sameXattrs(old, now, name); err != nil || !same {
		return !same, err
	}
	switch typ {
	case unix.S_IFLNK:
		s, err := readlink(old, name)
		if err != nil {
			return false, err
		}
		t, err := readlink(now, name)
		return s != t, err
	case unix.S_IFREG:
		if a.Ino == b.Ino && a.Dev == b.Dev {
			return false, nil
		}
		same, err := w.sameContent(old, now, name)
		return !same, err
	}
	return false, nil
}

// isNothing reports whether an entry is an empty file with one name, or an empty directory.
func isNothing(dir int, name string, st *unix.Stat_t) (bool, error) {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return st.Size == 0 && st.Nlink == 1, nil
	case unix.S_IFDIR:
		fd, err := safepath.OpenDirAt(dir, name, unix.O_RDONLY)
		if err != nil {
			return false, err
		}
		defer linux.Close(fd)
		names, err := safepath.ReadNames(fd)
		return len(names) == 0, err
	}
	return false, nil
}

func readlink(dir int, name string) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, b)
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: name, Err: err}
	}
	return string(b[:n]), nil
}

func (w *walk) sameContent(old, now int, name string) (bool, error) {
	var files [2]*os.File
	for i, dir := range []int{old, now} {
		// O_NONBLOCK: should it have become a FIFO meanwhile.
		fd, err := linux.OpenAt(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return false, err
		}
		files[i] = os.NewFile(uintptr(fd), name)
		defer files[i].Close()
		if w.buf[i] == nil {
			w.buf[i] = make([]byte, 128<<10)
		}
	}
	for {
		if err := w.ctx.Err(); err != nil {
			return false, context.Cause(w.ctx)
		}
		n, err := io.ReadFull(files[0], w.buf[0])
		m, err2 := io.ReadFull(files[1], w.buf[1])
		if n != m || !bytes.Equal(w.buf[0][:n], w.buf[1][:m]) {
			return false, nil
		}
		for _, e := range []error{err, err2} {
			if e != nil && e != io.EOF && e != io.ErrUnexpectedEOF {
				return false, e
			}
		}
		if err != nil {
			return true, nil
		}
	}
}

// sameXattrs compares the attributes that are an image's: not those of security
// modules or of overlayfs.
func sameXattrs(old, now int, name string) (bool, error) {
	a, err := xattrs(old, name)
	if err != nil {
		return false, err
	}
	b, err := xattrs(now, name)
	return a == b, err
}

func xattrs(dir int, name string) (string, error) {
	path := "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name // the magic link is ours
	list := make([]byte, 64<<10)                              // XATTR_LIST_MAX
	n, err := unix.Llistxattr(path, list)
	if errors.Is(err, unix.ENOTSUP) || n == 0 && err == nil {
		return "", nil
	}
	if err != nil {
		return "", &os.PathError{Op: "llistxattr", Path: name, Err: err}
	}
	keys := strings.Split(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00")
	slices.Sort(keys)
	var all strings.Builder
	value := make([]byte, 64<<10)
	for _, key := range keys {
		if key != "security.capability" && !strings.HasPrefix(key, "user.") && !strings.HasPrefix(key, "system.posix_acl_") {
			continue
		}
		n, err := unix.Lgetxattr(path, key, value)
		if err == unix.ENODATA {
			continue
		}
		if err != nil {
			return "", &os.PathError{Op: "lgetxattr", Path: name + " " + key, Err: err}
		}
		fmt.Fprintf(&all, "%s\x00%d\x00%s\x00", key, n, value[:n])
	}
	return all.String(), nil
}
