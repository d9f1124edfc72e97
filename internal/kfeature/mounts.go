package kfeature

import (
	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

const (
	moveMountBeneath  = 0x200 // MOVE_MOUNT_BENEATH, Linux 6.5
	openTreeNamespace = 0x2   // OPEN_TREE_NAMESPACE, Linux 7.0
)

func probeOpenAt2() error {
	fd, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: linux.InRoot})
	if err == nil {
		linux.Close(fd)
	}
	return bySyscall(err, nil)
}

func probeFAccessAt2() error {
	return bySyscall(unix.Faccessat2(unix.AT_FDCWD, "/", unix.F_OK, unix.AT_EACCESS), nil)
}

// probeMountAPI: of the calls, which came together, only fsconfig looks at its
// arguments before it looks at the caller.
func probeMountAPI() error {
	_, _, errno := unix.Syscall6(unix.SYS_FSCONFIG, ^uintptr(0), unix.FSCONFIG_SET_FLAG, 0, 0, 0, 0)
	return bySyscall(errno, unix.EINVAL)
}

// probeOpenTree: the flag is as old as the call, and without it the call needs no privileges.
func probeOpenTree() error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLOEXEC)
	if err == nil {
		linux.Close(fd)
	}
	return bySyscall(err, nil)
}

// probeMountSetattr: a structure of size 0 is refused before anything else.
func probeMountSetattr() error {
	_, _, errno := unix.Syscall6(unix.SYS_MOUNT_SETATTR, ^uintptr(0), 0, 0, 0, 0, 0)
	return bySyscall(errno, unix.EINVAL)
}

// probeIDMappedMounts gives a user namespace descriptor that is not open: a
// kernel that knows the attribute says EBADF. Without privileges the call's
// existence has to do, which is as old as the attribute.
func probeIDMappedMounts() error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: 1<<31 - 1}
	err := unix.MountSetattr(unix.AT_FDCWD, "/", 0, &attr)
	if err == unix.EPERM {
		return probeMountSetattr()
	}
	if err == unix.EINVAL {
		return no("")
	}
	return bySyscall(err, unix.EBADF)
}

// probeMoveMountBeneath moves nothing to nowhere: unknown flags are refused
// before the descriptors.
func probeMoveMountBeneath() error {
	err := unix.MoveMount(-1, "", -1, "", moveMountBeneath|unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err == unix.EINVAL {
		return no("")
	}
	return bySyscall(err, unix.EBADF)
}

func probeStatMount() error {
	for _, call := range [...]uintptr{unix.SYS_STATMOUNT, unix.SYS_LISTMOUNT} {
		_, _, errno := unix.Syscall6(call, 0, 0, 0, 0, 0, 0)
		if err := bySyscall(errno, unix.EFAULT); err != nil {
			return err
		}
	}
	return nil
}

// probeOpenTreeNamespace: unknown flags are refused before the descriptor.
func probeOpenTreeNamespace() error {
	_, err := unix.OpenTree(-1, "x", openTreeNamespace|unix.OPEN_TREE_CLOEXEC)
	if err == unix.EINVAL {
		return no("")
	}
	return bySyscall(err, unix.EBADF)
}
