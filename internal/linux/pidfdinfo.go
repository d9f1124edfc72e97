package linux

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pidfdInfo is struct pidfd_info as Linux 6.13 brought it, see pidfd_open(2).
type pidfdInfo struct {
	mask     uint64
	_        uint64     // cgroupid
	_        [11]uint32 // pid to fsgid
	exitCode int32
}

// PidfdExit asks for the wait status of a process that has ended and that its
// parent has reaped: PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15. Any holder
// of a pidfd may ask, if it was opened before the process was reaped. ok is false
// if the kernel cannot tell, or cannot tell yet.
func PidfdExit(pidfd int) (status syscall.WaitStatus, ok bool) {
	const (
		getInfo  = 3<<30 | unsafe.Sizeof(pidfdInfo{})<<16 | 0xff<<8 | 11 // _IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)
		infoExit = 1 << 3
	)
	info := pidfdInfo{mask: infoExit}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), getInfo, uintptr(unsafe.Pointer(&info)))
	return syscall.WaitStatus(info.exitCode), errno == 0 && info.mask&infoExit != 0
}

// ExitedZero reports whether a child that has ended exited with status 0. The
// child is not reaped: its number and that of its process group stay its own.
func ExitedZero(pid int) bool {
	const cldExited = 1
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		return false
	}
	status := *(*int32)(unsafe.Add(unsafe.Pointer(&info), 24)) // behind si_signo, si_errno, si_code, padding, si_pid, si_uid
	return info.Code == cldExited && status == 0
}
