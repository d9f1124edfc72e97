package integration

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// sysMkdir is mkdirat(2): the older call does not exist here.
const sysMkdir = unix.SYS_MKDIRAT

// skipCall has the call at whose entry pid stands not be made.
func skipCall(pid int) {
	const setRegSet, ntArmSystemCall = 0x4205, 0x404
	nr := int32(-1)
	v := unix.Iovec{Base: (*byte)(unsafe.Pointer(&nr)), Len: 4}
	_, _, _ = unix.Syscall6(unix.SYS_PTRACE, setRegSet, uintptr(pid), ntArmSystemCall, uintptr(unsafe.Pointer(&v)), 0, 0)
}

// setResult has the call at whose end pid stands fail.
func setResult(pid int, errno unix.Errno) {
	const ntPrstatus = 1
	var r unix.PtraceRegsArm64
	if unix.PtraceGetRegSetArm64(pid, ntPrstatus, &r) == nil {
		r.Regs[0] = -uint64(errno)
		_ = unix.PtraceSetRegSetArm64(pid, ntPrstatus, &r)
	}
}
