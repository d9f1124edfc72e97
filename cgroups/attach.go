package cgroups

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// AttachDevices makes p the device filter of the group. One that is attached
// already is replaced atomically (BPF_F_REPLACE, Linux 5.5); if there are more,
// p is attached beside them first and they are detached then. At no moment is
// the group without a filter. A nil p does nothing.
//
// The error is a *DeviceError. No memory needs to be lockable for it: since
// Linux 5.11 programs are charged to the caller's memory cgroup.
func (g *Group) AttachDevices(p *DeviceProgram) error {
	if p == nil {
		return nil
	}
	dir, err := g.FD()
	if err != nil {
		return err
	}
	defer linux.Close(dir)
	op, err := attachDevices(dir, p.Insns())
	if err != nil {
		return &DeviceError{g.Path, op, err}
	}
	return nil
}

// attachDevices returns the bpf(2) command that failed and the errno.
func attachDevices(dir int, insns []byte) (string, error) {
	prog, err := loadDeviceProgram(insns)
	if err != nil {
		return "BPF_PROG_LOAD", err
	}
	defer linux.Close(prog)
	ids, err := attachedPrograms(dir)
	if err != nil {
		return "BPF_PROG_QUERY", err
	}
	attach := progAttach{target: uint32(dir), prog: uint32(prog), typ: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI}
	if len(ids) == 1 {
		if old, err := programByID(ids[0]); err == nil {
			defer linux.Close(old)
			attach.flags |= unix.BPF_F_REPLACE
			attach.replace = uint32(old)
			ids = nil
		}
		// An older filter that a security module hides can stay beside ours: all
		// attached filters have to agree before an access is allowed.
	}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attach), unsafe.Sizeof(attach)); err != nil {
		return "BPF_PROG_ATTACH", err
	}
	for _, id := range ids {
		old, err := programByID(id)
		if err != nil {
			continue
		}
		detach := progAttach{target: uint32(dir), prog: uint32(old), typ: unix.BPF_CGROUP_DEVICE}
		_, err = bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&detach), unsafe.Sizeof(detach))
		linux.Close(old)
		if err != nil && err != unix.ENOENT {
			return "BPF_PROG_DETACH", err
		}
	}
	return "", nil
}

// The parts of union bpf_attr (linux/bpf.h) that are used. The kernel takes
// shorter unions and reads the rest as zero.
type (
	progLoad struct {
		typ, count           uint32
		insns, license       unsafe.Pointer
		logLevel, logSize    uint32
		log                  uint64
		version, flags       uint32
		name                 [16]byte
		ifindex, expectedTyp uint32
	}
	progAttach struct {
		target, prog, typ, flags, replace uint32
	}
	progQuery struct {
		target, typ, queryFlags, attachFlags uint32
		ids                                  unsafe.Pointer
		count, _                             uint32
	}
	progID struct{ id, next, flags uint32 }
)

func bpf(cmd int, attr unsafe.Pointer, size uintptr) (int, error) {
	for {
		n, _, e := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(attr), size)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return -1, e
		}
		return int(n), nil
	}
}

func loadDeviceProgram(insns []byte) (int, error) {
	license := [...]byte{'A', 'p', 'a', 'c', 'h', 'e', 0} // needed for GPL-only helpers, of which there are none
	// The kernel wants the instructions aligned like their struct.
	words := make([]uint64, len(insns)/8)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), 8*len(words)), insns)
	attr := progLoad{
		typ: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(words)),
		insns: unsafe.Pointer(unsafe.SliceData(words)), license: unsafe.Pointer(&license),
		expectedTyp: unix.BPF_CGROUP_DEVICE,
	}
	copy(attr.name[:], "minirun_devices")
	for tries := 0; ; tries++ {
		fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
		// The verifier gives up with EAGAIN when a signal is pending, and the Go
		// runtime sends itself signals.
		if err == unix.EAGAIN && tries < 30 {
			continue
		}
		runtime.KeepAlive(words)
		runtime.KeepAlive(&license)
		if err != nil {
			return -1, err
		}
		return fd, nil // BPF descriptors are close-on-exec
	}
}

// attachedPrograms returns the ids of the device programs attached to the
// group itself. The kernel allows 64.
func attachedPrograms(dir int) ([]uint32, error) {
	var ids [64]uint32
	q := progQuery{target: uint32(dir), typ: unix.BPF_CGROUP_DEVICE, ids: unsafe.Pointer(&ids), count: uint32(len(ids))}
	if _, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&q), unsafe.Sizeof(q)); err != nil {
		return nil, err
	}
	runtime.KeepAlive(&ids)
	if q.count == 0 {
		return nil, nil
	}
	return append([]uint32(nil), ids[:min(int(q.count), len(ids))]...), nil
}

func programByID(id uint32) (int, error) {
	attr := progID{id: id}
	return bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
}
