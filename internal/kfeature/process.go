package kfeature

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// probeClone3: a structure of size 0 is too small.
func probeClone3() error {
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0)
	return bySyscall(errno, unix.EINVAL)
}

// cloneArgs is struct clone_args of linux/sched.h, version 2.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// probeCloneIntoCgroup passes a cgroup that is no descriptor: EINVAL from a
// kernel that looks at the member, E2BIG from one that has no such member. No
// process is made either way.
func probeCloneIntoCgroup() error {
	args := cloneArgs{flags: unix.CLONE_INTO_CGROUP, cgroup: 1 << 40}
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	if errno == unix.E2BIG {
		return no("")
	}
	return bySyscall(errno, unix.EINVAL)
}

func probePidfdOpen() error {
	fd, err := unix.PidfdOpen(unix.Getpid(), 0)
	if err == nil {
		linux.Close(fd)
	}
	return bySyscall(err, nil)
}

func probePidfdGetfd() error {
	_, err := unix.PidfdGetfd(-1, 0, 0)
	return bySyscall(err, unix.EBADF)
}

// pidfdInfo is struct pidfd_info of linux/pidfd.h, its first version.
type pidfdInfo struct {
	mask, cgroupID                                                    uint64
	pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid uint32
	exitCode                                                          int32
}

// pidfdGetInfo is the ioctl PIDFD_GET_INFO with the size of our structure.
const pidfdGetInfo = 3<<30 | unix.PIDFD_INFO_SIZE_VER0<<16 | 0xff<<8 | 11

func getPidfdInfo(pidfd int, mask uint64) (pidfdInfo, error) {
	info := pidfdInfo{mask: mask}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
	if errno != 0 {
		return info, errno
	}
	return info, nil
}

func probePidfdInfo() error {
	fd, err := unix.PidfdOpen(unix.Getpid(), 0)
	if err == unix.ENOSYS {
		return no("")
	}
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	_, err = getPidfdInfo(fd, unix.PIDFD_INFO_PID)
	if err == unix.ENOTTY || err == unix.EINVAL {
		return no("")
	}
	return err
}

// probePidfdExitInfo asks about a child that has been waited for.
func probePidfdExitInfo() error {
	pidfd, err := runChild(0)
	if err != nil {
		return err
	}
	defer linux.Close(pidfd)
	info, err := getPidfdInfo(pidfd, unix.PIDFD_INFO_EXIT)
	switch {
	case err == unix.ENOTTY, err == unix.EINVAL, err == unix.ESRCH:
		return no("")
	case err != nil:
		return err
	case info.mask&unix.PIDFD_INFO_EXIT == 0:
		return no("")
	}
	return nil
}

// probeCloseRange: the range holds no descriptor that can be open.
func probeCloseRange() error {
	err := unix.CloseRange(^uint(0)>>32, ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC)
	if err == unix.EINVAL {
		return no("")
	}
	return bySyscall(err, nil)
}

func probeMemPolicy() error {
	_, _, errno := unix.Syscall6(unix.SYS_GET_MEMPOLICY, 0, 0, 0, 0, 0, 0)
	if errno == unix.ENOSYS {
		return no("the kernel has no NUMA support, or the call is filtered")
	}
	if errno != 0 {
		return denied(errno)
	}
	return nil
}

func probeAutogroup() error {
	err := exists("/proc/sys/kernel/", "sched_autogroup_enabled")
	if _, missing := err.(*Error); missing {
		return no("the kernel is built without SCHED_AUTOGROUP")
	}
	return err
}
