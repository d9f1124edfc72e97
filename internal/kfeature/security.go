package kfeature

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// probeSeccomp offers a filter at address 0: EFAULT means that one would have been read.
func probeSeccomp() error { return seccompFlags(0) }

// probeSeccompWaitKillable: the flag is only valid with a listener.
func probeSeccompWaitKillable() error {
	return seccompFlags(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
}

func seccompFlags(flags uintptr) error {
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, 0)
	if errno == unix.EINVAL {
		return no("")
	}
	return bySyscall(errno, unix.EFAULT)
}

func probeSeccompLog() error         { return seccompAction(unix.SECCOMP_RET_LOG) }
func probeSeccompKillProcess() error { return seccompAction(unix.SECCOMP_RET_KILL_PROCESS) }
func probeSeccompNotify() error      { return seccompAction(unix.SECCOMP_RET_USER_NOTIF) }

// seccompAction is SECCOMP_GET_ACTION_AVAIL (Linux 4.14).
func seccompAction(action uint32) error {
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	if errno == unix.EOPNOTSUPP || errno == unix.EINVAL {
		return no("")
	}
	if errno != 0 {
		return bySyscall(errno, nil)
	}
	return nil
}

func probeLandlock() error {
	_, err := LandlockABI()
	switch err {
	case unix.ENOSYS:
		return no("")
	case unix.EOPNOTSUPP:
		return no("switched off at boot: not in lsm=")
	}
	return err
}

// LandlockABI is the version of the Landlock interface (landlock(7)): 1 in
// Linux 5.13. The error is ENOSYS without it and EOPNOTSUPP if it is switched off.
func LandlockABI() (int, error) {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0, errno
	}
	return int(v), nil
}

// bpfProgLoad is the part of union bpf_attr that BPF_PROG_LOAD read in Linux 4.15.
type bpfProgLoad struct {
	progType, insnCount  uint32
	insns, license       uint64
	logLevel, logSize    uint32
	logBuffer            uint64
	kernelVersion, flags uint32
}

// probeDeviceBPF loads the program "return 1", attaches it to nothing and drops it.
func probeDeviceBPF() error {
	insns := [...]uint64{0x1_0000_00b7, 0x95} // r0 = 1; exit
	license := [...]byte{'A', 'p', 'a', 'c', 'h', 'e', 0}
	attr := bpfProgLoad{
		progType: unix.BPF_PROG_TYPE_CGROUP_DEVICE, insnCount: uint32(len(insns)),
		insns: uint64(uintptr(unsafe.Pointer(&insns))), license: uint64(uintptr(unsafe.Pointer(&license))),
	}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	keepAlive(&insns, &license)
	switch errno {
	case 0:
		_ = unix.Close(int(fd))
		return nil
	case unix.EINVAL:
		return no("the kernel is built without CGROUP_BPF")
	case unix.ENOSYS:
		return no("the kernel is built without BPF_SYSCALL, or the call is filtered")
	}
	return denied(errno)
}
