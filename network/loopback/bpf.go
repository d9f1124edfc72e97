package loopback

import (
	"runtime"
	"unsafe"

	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// The parts of union bpf_attr (linux/bpf.h) that are used. The kernel takes
// shorter unions and reads the rest as zero.
type (
	mapCreate struct {
		typ, key, value, entries, flags, inner, node uint32
		name                                         [16]byte
		ifindex, btf, btfKey, btfValue               uint32
	}
	mapElement struct {
		fd, _      uint32
		key, value unsafe.Pointer
		flags      uint64
	}
	btfLoad struct {
		data, log            unsafe.Pointer
		size, logSize, level uint32
		_                    uint32
	}
	progLoad struct {
		typ, count           uint32
		insns, license       unsafe.Pointer
		logLevel, logSize    uint32
		log                  unsafe.Pointer
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
	byID    struct{ id, next, flags uint32 }
	objInfo struct {
		fd, size uint32
		info     unsafe.Pointer
	}
	// progInfo is the beginning of struct bpf_prog_info.
	progInfo struct {
		typ, id             uint32
		tag                 [8]byte
		jitedLen, xlatedLen uint32
		jited, xlated       uint64
		loadTime            uint64
		uid, maps           uint32
		mapIDs              unsafe.Pointer
		name                [16]byte
	}
	// mapInfo is the beginning of struct bpf_map_info.
	mapInfo struct{ typ, id, key, value, entries, flags uint32 }
)

func bpf(cmd int, attr unsafe.Pointer, size uintptr) (int, error) {
	for tries := 0; ; {
		n, _, e := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(attr), size)
		switch {
		case e == unix.EINTR:
			continue
		case e == unix.EAGAIN && cmd == unix.BPF_PROG_LOAD && tries < 30:
			// The verifier gives up when a signal is pending, and the Go runtime
			// sends itself signals.
			tries++
			continue
		case e != 0:
			return -1, e
		}
		return int(n), nil
	}
}

// newEntries makes the map of what leads where.
func newEntries(name [16]byte) (int, error) {
	attr := mapCreate{
		typ: unix.BPF_MAP_TYPE_HASH, key: uint32(unsafe.Sizeof(key{})), value: uint32(unsafe.Sizeof(value{})),
		entries: maxEntries, flags: unix.BPF_F_NO_PREALLOC, name: name,
	}
	return bpf(unix.BPF_MAP_CREATE, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
}

// newMemory makes the map in which sockets remember what they were told, which the
// kernel frees with the socket. It takes a description of its types.
func newMemory(name [16]byte) (int, error) {
	const words = slots * slotSize / 4
	data := [...]uint32{
		0x0001eb9f, 24, 0, 16 + 24, 16 + 24, 3, // header: magic, version; its length; types, strings: where, how long
		1, 1 << 24, 4, 32, // type 1: an integer "u" of 32 bits
		0, 3 << 24, 0, 1, 1, words, // type 2: an array of so many
		0x00007500, // strings: "", "u"
	}
	load := btfLoad{data: unsafe.Pointer(&data), size: 24 + 16 + 24 + 3}
	btf, err := bpf(unix.BPF_BTF_LOAD, unsafe.Pointer(&load), unsafe.Sizeof(load))
	if err != nil {
		return -1, err
	}
	defer linux.Close(btf)
	attr := mapCreate{
		typ: unix.BPF_MAP_TYPE_SK_STORAGE, key: 4, value: 4 * words, flags: unix.BPF_F_NO_PREALLOC, name: name,
		btf: uint32(btf), btfKey: 1, btfValue: 2,
	}
	return bpf(unix.BPF_MAP_CREATE, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
}

// load loads a program. If log is not nil, the verifier tells it what it thinks.
func load(name [16]byte, attach uint32, code []uint64, log []byte) (int, error) {
	license := [...]byte{'A', 'p', 'a', 'c', 'h', 'e', 0} // for GPL-only helpers, of which there are none
	attr := progLoad{
		typ: unix.BPF_PROG_TYPE_CGROUP_SOCK_ADDR, count: uint32(len(code)), insns: unsafe.Pointer(unsafe.SliceData(code)),
		license: unsafe.Pointer(&license), name: name, expectedTyp: attach,
	}
	if len(log) > 0 {
		attr.logLevel, attr.logSize, attr.log = 1, uint32(len(log)), unsafe.Pointer(unsafe.SliceData(log))
	}
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(code)
	return fd, err
}

// attached finds the program of the name among those that are attached to the
// group itself; -1 if there is none.
func attached(dir int, attach uint32, name [16]byte) (int, error) {
	var ids [64]uint32 // the kernel allows no more
	query := progQuery{target: uint32(dir), typ: attach, ids: unsafe.Pointer(&ids), count: uint32(len(ids))}
	if _, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&query), unsafe.Sizeof(query)); err != nil {
		return -1, err
	}
	for _, id := range ids[:min(int(query.count), len(ids))] {
		get := byID{id: id}
		fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&get), unsafe.Sizeof(get))
		if err == unix.ENOENT { // it is gone already
			continue
		}
		if err != nil {
			return -1, err
		}
		var info progInfo
		if err := about(fd, unsafe.Pointer(&info), unsafe.Sizeof(info)); err == nil && info.name == name {
			return fd, nil
		}
		linux.Close(fd)
	}
	return -1, nil
}

func about(fd int, info unsafe.Pointer, size uintptr) error {
	attr := objInfo{uint32(fd), uint32(size), info}
	_, err := bpf(unix.BPF_OBJ_GET_INFO_BY_FD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

// mapsOf finds the maps that a program uses; -1 for one that it does not.
func mapsOf(prog int) (entries, memory int, err error) {
	entries, memory = -1, -1
	var ids [4]uint32
	info := progInfo{maps: uint32(len(ids)), mapIDs: unsafe.Pointer(&ids)}
	if err := about(prog, unsafe.Pointer(&info), unsafe.Sizeof(info)); err != nil {
		return -1, -1, err
	}
	for _, id := range ids[:min(int(info.maps), len(ids))] {
		get := byID{id: id}
		fd, err := bpf(unix.BPF_MAP_GET_FD_BY_ID, unsafe.Pointer(&get), unsafe.Sizeof(get))
		if err != nil {
			closeAll(entries, memory)
			return -1, -1, err
		}
		var info mapInfo
		err = about(fd, unsafe.Pointer(&info), unsafe.Sizeof(info))
		switch {
		case err == nil && info.typ == unix.BPF_MAP_TYPE_HASH && entries < 0:
			entries = fd
		case err == nil && info.typ == unix.BPF_MAP_TYPE_SK_STORAGE && memory < 0:
			memory = fd
		default:
			linux.Close(fd)
		}
	}
	return entries, memory, nil
}

func closeAll(fds ...int) {
	for _, fd := range fds {
		if fd >= 0 {
			linux.Close(fd)
		}
	}
}

func attach(dir, prog int, typ uint32) error {
	attr := progAttach{target: uint32(dir), prog: uint32(prog), typ: typ, flags: unix.BPF_F_ALLOW_MULTI}
	_, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

func detach(dir, prog int, typ uint32) error {
	attr := progAttach{target: uint32(dir), prog: uint32(prog), typ: typ}
	_, err := bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err == unix.ENOENT {
		return nil
	}
	return err
}

func update(m int, k *key, v *value) error {
	attr := mapElement{fd: uint32(m), key: unsafe.Pointer(k), value: unsafe.Pointer(v)}
	_, err := bpf(unix.BPF_MAP_UPDATE_ELEM, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

func lookup(m int, k *key) (v value, err error) {
	attr := mapElement{fd: uint32(m), key: unsafe.Pointer(k), value: unsafe.Pointer(&v)}
	_, err = bpf(unix.BPF_MAP_LOOKUP_ELEM, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return v, err
}

func remove(m int, k *key) error {
	attr := mapElement{fd: uint32(m), key: unsafe.Pointer(k)}
	_, err := bpf(unix.BPF_MAP_DELETE_ELEM, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err == unix.ENOENT {
		return nil
	}
	return err
}

// next is the key after k, or the first one if k is nil; unix.ENOENT if there is none.
func next(m int, k *key) (n key, err error) {
	attr := mapElement{fd: uint32(m), key: unsafe.Pointer(k), value: unsafe.Pointer(&n)}
	_, err = bpf(unix.BPF_MAP_GET_NEXT_KEY, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return n, err
}
