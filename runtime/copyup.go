package runtime

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/rootfs"
	"golang.org/x/sys/unix"
)

// copyUp is rootfs.Options.CopyUp for the container's root open as root.
func copyUp(root int, dir string, limit int) ([]rootfs.Entry, error) {
	var fd int
	var err error
	if strings.HasPrefix(dir, "/") {
		fd, err = linux.OpenAt(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	} else {
		fd, err = linux.OpenInRoot(root, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	w := copyUpWalk{limit: limit}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		linux.Close(fd)
		return nil, os.NewSyscallError("fstat", err)
	}
	w.entries = append(w.entries, rootfs.Entry{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Times: times(&st)})
	err = w.dir(fd, "", 0)
	return w.entries, err
}

type copyUpWalk struct {
	entries []rootfs.Entry
	limit   int
	// attributes counts the extended ones: each is an op of the program, too.
	attributes int
}

func times(st *unix.Stat_t) [4]uint64 {
	return [4]uint64{uint64(st.Atim.Sec), uint64(st.Atim.Nsec), uint64(st.Mtim.Sec), uint64(st.Mtim.Nsec)}
}

// xattrs reads the extended attributes of name in dir that mean the same in a
// copy: the user's own, and the capabilities of a program. Not those that belong
// to a security module or an overlay, nor access control lists, whose ids would
// have to be mapped.
func (w *copyUpWalk) xattrs(e *rootfs.Entry, dir int, name string) error {
	path := "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name
	size, err := unix.Llistxattr(path, nil)
	if err != nil || size == 0 {
		return nil //nolint:nilerr // a file system without them, or gone meanwhile, which the init will find out
	}
	buf := make([]byte, size+256)
	if size, err = unix.Llistxattr(path, buf); err != nil {
		return &os.PathError{Op: "listxattr", Path: e.Path, Err: err}
	}
	for x := range strings.SplitSeq(string(buf[:size]), "\x00") {
		if x != "security.capability" && !strings.HasPrefix(x, "user.") || strings.HasPrefix(x, "user.overlay.") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, x, value)
		if err != nil {
			return &os.PathError{Op: "getxattr " + x, Path: e.Path, Err: err}
		}
		e.Xattrs = append(e.Xattrs, rootfs.Xattr{Name: x, Value: value[:n:n]})
		if w.attributes++; len(w.entries)+w.attributes > w.limit {
			return fmt.Errorf("more than %d files and extended attributes: a program that copies them all would be too long; mount a volume instead", w.limit)
		}
	}
	return nil
}

// dir lists the directory open as fd, and closes it.
func (w *copyUpWalk) dir(fd int, prefix string, depth int) error {
	defer linux.Close(fd)
	if depth > 100 { // each level keeps a descriptor open
		return fmt.Errorf("%q is more than 100 directories deep", prefix)
	}
	var names []string
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.Getdents(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("getdents", err)
		}
		if n == 0 {
			break
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
		if len(w.entries)+len(names)+w.attributes > w.limit {
			return fmt.Errorf("more than %d files: a program that copies them all would be too long; mount a volume instead", w.limit)
		}
	}
	for _, name := range names {
		if err := w.entry(fd, name, prefix+name, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *copyUpWalk) entry(dir int, name, path string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	e := rootfs.Entry{Path: path, Mode: st.Mode, UID: st.Uid, GID: st.Gid, Dev: st.Rdev, Times: times(&st)}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK: // means nothing without the process that listens
		return nil
	case unix.S_IFLNK:
		var buf [unix.PathMax]byte
		n, err := unix.Readlinkat(dir, name, buf[:])
		if err != nil {
			return &os.PathError{Op: "readlink", Path: path, Err: err}
		}
		e.Target = string(buf[:n])
	case unix.S_IFDIR:
		fd, err := linux.OpenAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		if err := w.xattrs(&e, dir, name); err != nil {
			linux.Close(fd)
			return err
		}
		w.entries = append(w.entries, e)
		return w.dir(fd, path+"/", depth+1)
	case unix.S_IFREG:
		if err := w.xattrs(&e, dir, name); err != nil {
			return err
		}
	}
	w.entries = append(w.entries, e)
	return nil
}
