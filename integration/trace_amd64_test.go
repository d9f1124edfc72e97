package integration

import "golang.org/x/sys/unix"

// sysMkdir is the older of two calls that make a directory.
const sysMkdir = unix.SYS_MKDIR

// skipCall has the call at whose entry pid stands not be made.
func skipCall(pid int) {
	var r unix.PtraceRegs
	if unix.PtraceGetRegs(pid, &r) == nil {
		r.Orig_rax = ^uint64(0)
		_ = unix.PtraceSetRegs(pid, &r)
	}
}

// setResult has the call at whose end pid stands fail.
func setResult(pid int, errno unix.Errno) {
	var r unix.PtraceRegs
	if unix.PtraceGetRegs(pid, &r) == nil {
		r.Rax = -uint64(errno)
		_ = unix.PtraceSetRegs(pid, &r)
	}
}
