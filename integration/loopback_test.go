package integration

import (
	"fmt"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ledPrograms counts minirun's programs for the network namespace of the calling
// thread among those that are attached to the root of cgroup v2.
func ledPrograms(t testing.TB) (n int) {
	t.Helper()
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	cookie, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	unix.Close(s)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("mr1_%011x", cookie)
	dir := "/sys/fs/cgroup"
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		dir += "/unified"
	}
	group, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	bpf := func(cmd int, attr unsafe.Pointer, size uintptr) int {
		r, _, e := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(attr), size)
		if e != 0 && e != unix.ENOENT { // another one's, that has gone
			t.Fatalf("bpf(%d): %v", cmd, e)
		}
		return int(r)
	}
	for _, typ := range []uint32{
		unix.BPF_CGROUP_INET4_CONNECT, unix.BPF_CGROUP_INET6_CONNECT, unix.BPF_CGROUP_UDP4_SENDMSG, unix.BPF_CGROUP_UDP6_SENDMSG,
		unix.BPF_CGROUP_UDP4_RECVMSG, unix.BPF_CGROUP_UDP6_RECVMSG, unix.BPF_CGROUP_INET4_GETPEERNAME, unix.BPF_CGROUP_INET6_GETPEERNAME,
	} {
		var ids [64]uint32
		query := struct {
			target, typ, flags, attached uint32
			ids                          unsafe.Pointer
			count, _                     uint32
		}{target: uint32(group.Fd()), typ: typ, ids: unsafe.Pointer(&ids), count: uint32(len(ids))}
		bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&query), unsafe.Sizeof(query))
		for _, id := range ids[:query.count] {
			get := struct{ id, next, flags uint32 }{id: id}
			fd := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&get), unsafe.Sizeof(get))
			if fd < 0 {
				continue
			}
			var info struct {
				_    [64]byte
				name [16]byte
			}
			about := struct {
				fd, size uint32
				info     unsafe.Pointer
			}{uint32(fd), uint32(unsafe.Sizeof(info)), unsafe.Pointer(&info)}
			bpf(unix.BPF_OBJ_GET_INFO_BY_FD, unsafe.Pointer(&about), unsafe.Sizeof(about))
			unix.Close(fd)
			if unix.ByteSliceToString(info.name[:]) == want {
				n++
			}
		}
	}
	return n
}
