package apply

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// setAttr gives the open file or directory fd its attributes. The order matters:
// chown(2) clears set-ID bits and drops file capabilities, and everything
// changes times.
func (u *unpacker) setAttr(fd int, a *attr) error {
	if !u.opts.unprivileged {
		if err := unix.Fchown(fd, int(a.uid), int(a.gid)); err != nil {
			return os.NewSyscallError("fchown", err)
		}
	}
	if err := unix.Fchmod(fd, a.mode); err != nil {
		return os.NewSyscallError("fchmod", err)
	}
	for _, x := range a.xattrs {
		if err := u.setXattr(fd, x); err != nil {
			return err
		}
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, a.mtime}
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH))
}

// setAttrAt is setAttr for what cannot be opened: links, devices, FIFOs. It does
// not follow links.
func (u *unpacker) setAttrAt(dir int, name string, a *attr) error {
	if !u.opts.unprivileged {
		if err := unix.Fchownat(dir, name, int(a.uid), int(a.gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &os.PathError{Op: "fchownat", Path: name, Err: err}
		}
	}
	if err := chmodAt(dir, name, a.mode); err != nil {
		return &os.PathError{Op: "chmod", Path: name, Err: err}
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, a.mtime}
	if err := unix.UtimesNanoAt(dir, name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimensat", Path: name, Err: err}
	}
	return nil
}

// chmodAt changes the mode of name without following it; links have no mode of
// their own. fchmodat2(2) is Linux 6.6, before that a descriptor's link in
// procfs leads to the file itself.
func chmodAt(dir int, name string, mode uint32) error {
	fd, err := linux.OpenAt(dir, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return err
	}
	err = unix.Fchmodat(fd, "", mode, unix.AT_EMPTY_PATH)
	if err == unix.EOPNOTSUPP || err == unix.ENOSYS {
		err = unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), mode)
	}
	return err
}

func (u *unpacker) setXattr(fd int, x xattr) error {
	if u.opts.unprivileged && x.name == "security.capability" {
		return nil
	}
	err := unix.Fsetxattr(fd, x.name, []byte(x.value), 0)
	if errors.Is(err, unix.ENOTSUP) && x.name != "security.capability" {
		u.warn("attribute %q left out, the store's file system does not take it", clip(x.name))
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "set attribute of " + strconv.Itoa(len(x.value)) + " bytes", Path: x.name, Err: err}
	}
	return nil
}
