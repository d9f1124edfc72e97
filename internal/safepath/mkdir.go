package safepath

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// maxLinks bounds how many dangling symbolic links one call follows by itself;
// 40 is the kernel's own limit for one path (MAXSYMLINKS).
const maxLinks = 40

// MkdirAllInRoot makes unsafePath a directory below root and opens it (O_PATH):
// what os.MkdirAll(filepath.Join(root, unsafePath)) would do if nothing in the
// tree were hostile. Existing symbolic links are followed as a process would
// with root as its root directory, dangling ones too: with "run -> /tmp/run"
// and no /tmp/run, making "run/lock" creates <root>/tmp/run/lock, as other
// runtimes do for mount targets. New directories get mode, less the umask.
//
// A component that exists and is no directory is ENOTDIR. ".." below a
// directory that does not exist yet is ENOENT, for it has no meaning there.
func MkdirAllInRoot(root int, unsafePath string, mode uint32) (int, error) {
	return MkdirAllFunc(root, unsafePath, mode, nil)
}

// MkdirAllFunc is MkdirAllInRoot that calls made, if not nil, after each new
// directory with its parent, its name and itself; both descriptors are only
// valid during the call. An error of made ends the walk.
func MkdirAllFunc(root int, unsafePath string, mode uint32, made func(parent int, name string, dir int) error) (int, error) {
	path := unsafePath
	for range maxLinks + 1 {
		fd, err := linux.OpenInRoot(root, orDot(path), unix.O_PATH|unix.O_DIRECTORY)
		if err == nil || !errors.Is(err, unix.ENOENT) {
			return fd, err
		}
		fd, next, err := makeMissing(root, path, mode, made)
		if err != nil || next == "" {
			return fd, err
		}
		path = next
	}
	return -1, wrap("mkdir", unsafePath, unix.ELOOP)
}

// makeMissing creates what is missing of path. When the first missing component
// turns out to be a dangling link it creates nothing and returns the path to
// try instead.
func makeMissing(root int, path string, mode uint32, made func(int, string, int) error) (fd int, next string, err error) {
	names := split(path)
	// The deepest directory that exists. ENOENT alone means "go up": any other
	// error is final. The root itself always opens.
	i := len(names)
	for fd = -1; fd < 0; {
		if i--; i < 0 {
			return -1, "", wrap("mkdir", path, unix.ENOENT)
		}
		fd, err = linux.OpenInRoot(root, orDot(strings.Join(names[:i], "/")), unix.O_PATH|unix.O_DIRECTORY)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return -1, "", err
		}
	}
	if target, err := readlinkAt(fd, names[i]); err == nil {
		linux.Close(fd)
		rest := strings.Join(names[i+1:], "/")
		if strings.HasPrefix(target, "/") {
			return -1, target + "/" + rest, nil
		}
		return -1, "/" + strings.Join(names[:i], "/") + "/" + target + "/" + rest, nil
	}
	for _, name := range names[i:] {
		if name == ".." {
			linux.Close(fd)
			return -1, "", wrap("mkdir", path, unix.ENOENT)
		}
	}
	for _, name := range names[i:] {
		child, err := mkdirOpen(fd, name, mode, made)
		linux.Close(fd)
		if err != nil {
			return -1, "", err
		}
		fd = child
	}
	return fd, "", nil
}

// mkdirOpen makes and opens one directory. EEXIST is fine: somebody else made
// it. O_NOFOLLOW and O_DIRECTORY on one component are all that is needed
// against a swap in between: the result is a child of parent or an error.
func mkdirOpen(parent int, name string, mode uint32, made func(int, string, int) error) (int, error) {
	err := MkdirAt(parent, name, mode)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	created := err == nil
	fd, err := OpenDirAt(parent, name, unix.O_PATH)
	if err != nil {
		return -1, err
	}
	if created && made != nil {
		if err := made(parent, name, fd); err != nil {
			linux.Close(fd)
			return -1, err
		}
	}
	return fd, nil
}

// readlinkAt returns the target of the symbolic link name in dir.
func readlinkAt(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", &os.PathError{Op: "readlinkat", Path: name, Err: err}
	}
	return string(buf[:n]), nil
}

// split returns the components of path without empty ones and ".".
func split(path string) []string {
	names := strings.Split(path, "/")
	n := 0
	for _, name := range names {
		if name != "" && name != "." {
			names[n] = name
			n++
		}
	}
	return names[:n]
}

func orDot(path string) string {
	if path == "" {
		return "."
	}
	return path
}
