package safepath

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// maxName is NAME_MAX: the longest component that Linux file systems take.
const maxName = 255

// CheckName reports whether name is one plain path component: not empty, not
// "." or "..", no slash, no NUL, at most 255 bytes. The error wraps EINVAL or
// ENAMETOOLONG.
func CheckName(name string) error {
	if name == "" || name == "." || name == ".." || strings.IndexByte(name, '/') >= 0 || strings.IndexByte(name, 0) >= 0 {
		return &os.PathError{Op: "check name", Path: name, Err: unix.EINVAL}
	}
	if len(name) > maxName {
		return &os.PathError{Op: "check name", Path: name, Err: unix.ENAMETOOLONG}
	}
	return nil
}

// ParentInRoot opens the directory that holds the last component of unsafePath
// (O_PATH) and returns it with that component, which is not looked at: it may be
// missing or a symbolic link. A path that ends in "..", or names the root
// itself, has no such component: EINVAL.
func ParentInRoot(root int, unsafePath string) (dir int, name string, err error) {
	p := strings.TrimRight(unsafePath, "/")
	parent := ""
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		parent, name = p[:i], p[i+1:]
	} else {
		name = p
	}
	if err := CheckName(name); err != nil {
		return -1, "", err
	}
	if parent == "" {
		parent = "."
	}
	dir, err = linux.OpenInRoot(root, parent, unix.O_PATH|unix.O_DIRECTORY)
	return dir, name, err
}

// CreateAt creates the regular file name in dir and opens it; it never opens
// something that exists (O_EXCL), and so never follows a link. flags may add an
// access mode, O_WRONLY is not implied. The umask applies to mode.
func CreateAt(dir int, name string, flags int, mode uint32) (int, error) {
	if err := CheckName(name); err != nil {
		return -1, err
	}
	return linux.OpenAt(dir, name, flags|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, mode)
}

// OpenDirAt opens the directory name in dir with flags (O_PATH or O_RDONLY);
// a symbolic link there is ENOTDIR, never followed.
func OpenDirAt(dir int, name string, flags int) (int, error) {
	if err := CheckName(name); err != nil {
		return -1, err
	}
	return linux.OpenAt(dir, name, flags|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}

// MkdirAt creates the directory name in dir; the umask applies to mode.
func MkdirAt(dir int, name string, mode uint32) error {
	err := CheckName(name)
	if err == nil {
		err = wrap("mkdirat", name, unix.Mkdirat(dir, name, mode))
	}
	return err
}

// SymlinkAt creates the symbolic link name in dir. target is content, not
// looked at.
func SymlinkAt(target string, dir int, name string) error {
	err := CheckName(name)
	if err == nil {
		err = wrap("symlinkat", name, unix.Symlinkat(target, dir, name))
	}
	return err
}

// MknodAt creates a device, FIFO or socket, see mknod(2); the umask applies to
// mode, which holds the type bits too.
func MknodAt(dir int, name string, mode uint32, dev uint64) error {
	err := CheckName(name)
	if err == nil {
		err = wrap("mknodat", name, unix.Mknodat(dir, name, mode, int(dev)))
	}
	return err
}

// LinkAt creates the hard link newName in newDir to oldName in oldDir. A
// symbolic link is linked itself, as linkat(2) does without AT_SYMLINK_FOLLOW.
func LinkAt(oldDir int, oldName string, newDir int, newName string) error {
	err := CheckName(oldName)
	if err == nil {
		err = CheckName(newName)
	}
	if err == nil {
		err = wrap("linkat", newName, unix.Linkat(oldDir, oldName, newDir, newName, 0))
	}
	return err
}

// UnlinkAt removes name from dir: anything but a directory.
func UnlinkAt(dir int, name string) error {
	err := CheckName(name)
	if err == nil {
		err = wrap("unlinkat", name, unix.Unlinkat(dir, name, 0))
	}
	return err
}

// RmdirAt removes the empty directory name from dir.
func RmdirAt(dir int, name string) error {
	err := CheckName(name)
	if err == nil {
		err = wrap("rmdir", name, unix.Unlinkat(dir, name, unix.AT_REMOVEDIR))
	}
	return err
}

func wrap(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: name, Err: err}
}
