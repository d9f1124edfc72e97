package kfeature

import (
	goruntime "runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setFilter puts a seccomp filter on all threads of this process.
func setFilter(filter []unix.SockFilter) error {
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	goruntime.KeepAlive(filter)
	if errno != 0 {
		return errno
	}
	return nil
}
