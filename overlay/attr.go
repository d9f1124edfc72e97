package overlay

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// CopyAttributes gives the directory to the owner, mode, times and extended
// attributes of the directory from. Attributes that describe the layer and not
// the file (trusted.*: opaque and the like) or the host's security labels stay
// behind.
func CopyAttributes(from, to int) error {
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if err := unix.Fchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return os.NewSyscallError("fchown", err)
	}
	if err := unix.Fchmod(to, st.Mode&0o7777); err != nil { // after chown, which clears set-ID bits
		return os.NewSyscallError("fchmod", err)
	}
	if err := copyXattrs(from, to); err != nil {
		return err
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, st.Mtim}
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(to, "", times, unix.AT_EMPTY_PATH))
}

func copyXattrs(from, to int) error {
	size, err := unix.Flistxattr(from, nil)
	if err == unix.ENOTSUP || size == 0 && err == nil {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("flistxattr", err)
	}
	list := make([]byte, size+1024)
	if size, err = unix.Flistxattr(from, list); err != nil {
		return os.NewSyscallError("flistxattr", err)
	}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for name := range strings.SplitSeq(string(list[:size]), "\x00") {
		if !strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "system.posix_acl_") {
			continue
		}
		n, err := unix.Fgetxattr(from, name, value)
		if err == nil {
			err = unix.Fsetxattr(to, name, value[:n], 0)
		}
		if err != nil {
			return &os.PathError{Op: "copy attribute", Path: name, Err: err}
		}
	}
	return nil
}
