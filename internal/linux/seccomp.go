package linux

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// SeccompNotification is struct seccomp_notif: a system call that waits for an
// answer; see seccomp_unotify(2), Linux 5.0.
type SeccompNotification struct {
	ID          uint64
	Pid         uint32 // of the thread, in the reader's pid namespace
	Flags       uint32
	Nr          int32
	Arch        uint32
	Instruction uint64
	Args        [6]uint64
}

// seccompResponse is struct seccomp_notif_resp.
type seccompResponse struct {
	id    uint64
	val   int64
	errno int32
	flags uint32
}

// SeccompReceive waits for a call. ENOENT: its process was killed meanwhile.
func SeccompReceive(listener int) (*SeccompNotification, error) {
	n := new(SeccompNotification) // the kernel insists on zeros
	if err := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(n)); err != nil {
		return nil, err
	}
	return n, nil
}

// SeccompFail answers for the call id: it is not executed, and returns errno,
// or 0. ENOENT: nobody waits for that any more.
func SeccompFail(listener int, id uint64, errno unix.Errno) error {
	r := seccompResponse{id: id, errno: -int32(errno)}
	return ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r))
}

// SeccompWaiting reports whether the call id still waits, and so whether what was
// found under its pid was about its process.
func SeccompWaiting(listener int, id uint64) bool {
	return ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&id)) == nil
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}
