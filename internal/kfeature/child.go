package kfeature

import (
	"encoding/binary"
	goruntime "runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// exitStatus is what the child of the probes exits with: not 0, which a child
// that did something else could also say.
const exitStatus = 57

// childImage is a static ELF program of two or three instructions: exit(57).
func childImage() []byte {
	var code []byte
	var machine uint16
	switch goruntime.GOARCH {
	case "amd64":
		machine = 62
		code = []byte{0xbf, exitStatus, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05} // mov edi,57; mov eax,60; syscall
	case "arm64":
		machine = 183
		code = binary.LittleEndian.AppendUint32(code, 0xd2800000|exitStatus<<5) // mov x0, #57
		code = binary.LittleEndian.AppendUint32(code, 0xd2800ba8)               // mov x8, #93
		code = binary.LittleEndian.AppendUint32(code, 0xd4000001)               // svc #0
	default:
		return nil
	}
	const base, headers = 0x400000, 64 + 56
	le := binary.LittleEndian
	b := append(make([]byte, 0, 256), "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"...)
	b = le.AppendUint16(b, 2) // ET_EXEC
	b = le.AppendUint16(b, machine)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, base+headers) // entry
	b = le.AppendUint64(b, 64)           // program headers
	b = le.AppendUint64(b, 0)            // no sections
	b = le.AppendUint32(b, 0)
	for _, v := range [...]uint16{64, 56, 1, 0, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	total := uint64(headers + len(code))
	b = le.AppendUint32(b, 1) // PT_LOAD
	b = le.AppendUint32(b, 5) // read and execute
	for _, v := range [...]uint64{0, base, base, total, total, 0x10000} {
		b = le.AppendUint64(b, v)
	}
	return append(b, code...)
}

// sealedMemfd returns a memfd that holds data and can no longer be changed.
func sealedMemfd(data []byte) (int, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("minirun-probe", flags|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3 every memfd was executable
		fd, err = unix.MemfdCreate("minirun-probe", flags)
	}
	if err != nil {
		return -1, err
	}
	if err = linux.WriteAll(fd, data); err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		linux.Close(fd)
		return -1, err
	}
	return fd, nil
}

// runChild executes childImage from a sealed memfd as a process with
// cloneFlags, waits for it, and returns the pidfd that is left, -1 where the
// kernel has none. Errors are those of memfd_create, clone and execve.
func runChild(cloneFlags uintptr) (pidfd int, err error) {
	image := childImage()
	if image == nil {
		return -1, inconclusive("no probe program for this architecture")
	}
	fd, err := sealedMemfd(image)
	if err != nil {
		return -1, err
	}
	defer linux.Close(fd)
	pidfd = -1
	pid, err := syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(fd), []string{"minirun-probe"},
		&syscall.ProcAttr{Sys: &syscall.SysProcAttr{Cloneflags: cloneFlags, PidFD: &pidfd}})
	if err != nil {
		linux.Close(pidfd)
		return -1, err
	}
	var status syscall.WaitStatus
	for {
		if _, err = syscall.Wait4(pid, &status, 0, nil); err != syscall.EINTR {
			break
		}
	}
	if err == nil && status.ExitStatus() != exitStatus {
		err = inconclusive("the probe's child ended in an unexpected way")
	}
	if err != nil {
		linux.Close(pidfd)
		return -1, err
	}
	return pidfd, nil
}

// probeMemfdExec executes one. vm.memfd_noexec (Linux 6.3, per pid namespace)
// is the common reason for a refusal.
func probeMemfdExec() error {
	pidfd, err := runChild(0)
	switch err {
	case nil:
		linux.Close(pidfd)
		return nil
	case unix.ENOSYS:
		return no("")
	case unix.EACCES:
		if MemfdNoexec() == 2 {
			return no("vm.memfd_noexec is 2")
		}
		return no("execution of a memfd is denied by a security policy")
	}
	return err
}

// MemfdNoexec is the sysctl vm.memfd_noexec of this pid namespace: 0 and 1
// allow executable memfds that ask for it, 2 forbids them. 0 before Linux 6.3.
func MemfdNoexec() int { return sysctl("vm/memfd_noexec", 0) }

// sysctl reads a number below /proc/sys; absent is what a missing or unreadable one counts as.
func sysctl(name string, absent int) int {
	b, err := linux.ReadFile("/proc/sys/"+name, 4096)
	if err != nil {
		return absent
	}
	for len(b) > 0 && b[len(b)-1] == '\n' {
		b = b[:len(b)-1]
	}
	n, err := strconv.Atoi(string(b))
	if err != nil {
		return absent
	}
	return n
}
