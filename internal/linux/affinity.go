package linux

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Affinity is the set of processors that this thread may run on, a bit for each
// in the order of the kernel's masks.
func Affinity() ([]byte, error) {
	mask := make([]byte, 8192/8) // as many as any kernel has
	n, _, errno := unix.RawSyscall(unix.SYS_SCHED_GETAFFINITY, 0, uintptr(len(mask)), uintptr(unsafe.Pointer(&mask[0])))
	if errno != 0 {
		return nil, os.NewSyscallError("sched_getaffinity", errno)
	}
	return mask[:n], nil
}

// SetAffinity has this thread run on the processors in mask, which must not be
// empty.
func SetAffinity(mask []byte) error {
	_, _, errno := unix.RawSyscall(unix.SYS_SCHED_SETAFFINITY, 0, uintptr(len(mask)), uintptr(unsafe.Pointer(&mask[0])))
	if errno != 0 {
		return os.NewSyscallError("sched_setaffinity", errno)
	}
	return nil
}
