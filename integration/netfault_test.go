package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// A kernel that lacks something: what minirun writes to a netlink socket is looked at by
// the test (seccomp_unotify(2)), which lets it pass or answers in the kernel's place.

const faultEnv = "MINIRUN_TEST_FAULT"

// faultLaunch makes of this process one whose writes are looked at, and then minirun.
func faultLaunch() {
	if os.Getenv(faultEnv) == "" {
		return
	}
	os.Unsetenv(faultEnv)
	runtime.LockOSThread()
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_WRITE},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 || unix.Dup3(int(fd), 5, unix.O_CLOEXEC) != nil {
		os.Exit(125)
	}
	unix.Close(int(fd))
	unix.Close(3) // the test takes the listener
	var b [1]byte
	_, _ = unix.Read(4, b[:])
	unix.CloseOnExec(4)
	_ = unix.Exec(os.Args[1], os.Args[1:], os.Environ())
	os.Exit(125)
}

// faulty is do on a kernel that answers with what answer says, if that is not 0, to a
// message of minirun's.
func (h *imageHost) faulty(answer func(message []byte) unix.Errno, args ...string) testenv.Result {
	h.t.Helper()
	fatal := func(what string, err error) {
		h.t.Helper()
		if err != nil {
			h.t.Fatalf("%s: %v", what, err)
		}
	}
	self, err := os.Executable()
	fatal("executable", err)
	ready, readyOut, err := os.Pipe()
	fatal("pipe", err)
	defer ready.Close()
	goOnIn, goOn, err := os.Pipe()
	fatal("pipe", err)
	defer goOn.Close()
	dir := h.t.TempDir()
	var out [2]*os.File
	for i := range out {
		out[i], err = os.Create(filepath.Join(dir, strconv.Itoa(i)))
		fatal("create", err)
		defer out[i].Close()
	}
	pidfd := -1
	real := testenv.Command(h.t, h.command(args...)...)
	cmd := exec.Command(self, real.Args...)
	cmd.Args[1] = real.Path
	cmd.Env = append(os.Environ(), faultEnv+"=1")
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = out[0], out[1], []*os.File{readyOut, goOnIn}
	cmd.SysProcAttr = &unix.SysProcAttr{PidFD: &pidfd}
	fatal("start", cmd.Start())
	defer unix.Close(pidfd)
	readyOut.Close()
	goOnIn.Close()
	_, _ = ready.Read(make([]byte, 1)) // end of file
	listener, err := unix.PidfdGetfd(pidfd, 5, 0)
	fatal("pidfd_getfd", err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		faultAnswers(listener, answer)
	}()
	_, err = goOn.Write([]byte{0})
	fatal("write", err)
	_ = cmd.Wait()
	code := cmd.ProcessState.ExitCode()
	// What is left of it, a container perhaps, must not wait for us: the listener stays
	// open until nobody has the filter.
	h.t.Cleanup(func() { <-done; unix.Close(listener) })
	return testenv.Result{Code: code, Stdout: readFile(h.t, out[0].Name()), Stderr: readFile(h.t, out[1].Name())}
}

// faultAnswers answers until nobody has the filter any more.
func faultAnswers(listener int, answer func(message []byte) unix.Errno) {
	type notification struct {
		id         uint64
		pid, flags uint32
		nr, arch   uint32
		ip         uint64
		args       [6]uint64
	}
	type response struct {
		id    uint64
		val   int64
		errno int32
		flags uint32
	}
	for {
		fds := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return
		}
		if fds[0].Revents&unix.POLLIN == 0 {
			if fds[0].Revents != 0 {
				return
			}
			continue
		}
		var n notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n))); errno != 0 {
			continue // its process was killed
		}
		r := response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		where, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", n.pid, int32(n.args[0])))
		if strings.HasPrefix(where, "socket:") {
			if mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", n.pid)); err == nil {
				b := make([]byte, min(n.args[2], 1<<16))
				k, _ := mem.ReadAt(b, int64(n.args[1]))
				mem.Close()
				if e := answer(b[:k]); e != 0 {
					r = response{id: n.id, errno: -int32(e)}
				}
			}
		}
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&r)))
	}
}

// lacks is a kernel that refuses messages with a text in them.
func lacks(text string, errno unix.Errno) func([]byte) unix.Errno {
	return func(b []byte) unix.Errno {
		if bytes.Contains(b, []byte(text)) {
			return errno
		}
		return 0
	}
}

// netfilterType is the type of the first message behind the beginning of a batch, or of
// the only one: subsystem and number.
func netfilterType(b []byte) (subsystem, number byte) {
	if len(b) >= 20+16 && b[4] == unix.NFNL_MSG_BATCH_BEGIN && b[5] == 0 && b[16] == 0 {
		b = b[20:]
	}
	if len(b) < 20 {
		return 0, 0
	}
	return b[5], b[4]
}

// withoutSubsystem is a kernel without a part of netfilter: see nfnetlink_rcv_msg and
// nfnetlink_rcv_batch in net/netfilter/nfnetlink.c.
func withoutSubsystem(which byte) func([]byte) unix.Errno {
	return func(b []byte) unix.Errno {
		if s, _ := netfilterType(b); s != which {
			return 0
		}
		if b[4] == unix.NFNL_MSG_BATCH_BEGIN && b[5] == 0 {
			return unix.EOPNOTSUPP
		}
		return unix.EINVAL
	}
}

// A kernel without what networks need: an error that names it and the module, and nothing
// is left, neither of the container nor of its network.
func TestRootNetworkFault(t *testing.T) {
	h := netSetup(t)
	h.must("network", "create", "--subnet", "10.77.0.0/24", "web")
	denied := func(b []byte) unix.Errno {
		if s, _ := netfilterType(b); s == unix.NFNL_SUBSYS_NFTABLES {
			return unix.EPERM
		}
		return 0
	}
	for _, tt := range []struct {
		name   string
		answer func([]byte) unix.Errno
		want   []string
	}{
		{"no bridges", lacks("bridge\x00", unix.EOPNOTSUPP), []string{"make bridge mr-", "operation not supported", "modprobe bridge"}},
		{"no pairs of interfaces", lacks("veth\x00", unix.EOPNOTSUPP), []string{"make interfaces mv", "operation not supported", "modprobe bridge veth"}},
		{"no nf_tables", withoutSubsystem(unix.NFNL_SUBSYS_NFTABLES), []string{"rules of nftables", "modprobe nf_tables"}},
		{"no nat", lacks("nat\x00", unix.ENOENT), []string{"rules of nftables", "nft_chain_nat"}},
		{"no masquerading", lacks("masq\x00", unix.ENOENT), []string{"rules of nftables", "nft_masq"}},
		{"no conntrack", withoutSubsystem(unix.NFNL_SUBSYS_CTNETLINK), []string{"remove entries of connections", "modprobe nf_conntrack_netlink"}},
		{"rules are forbidden", denied, []string{"rules of nftables", "operation not permitted", "CAP_NET_ADMIN"}},
	} {
		// No subtest: it would be in another thread, and so in another network namespace.
		func() {
			for _, ports := range []string{"-p 8080:80 -p 9000:90/udp", ""} {
				if ports == "" && tt.name != "no nf_tables" {
					continue
				}
				id := h.id()
				r := h.faulty(tt.answer, append(append([]string{"run", "--rm", "--image", "base", "--network", "web"}, strings.Fields(ports)...), id, "true")...)
				for _, want := range tt.want {
					if r.Code == 0 || !strings.Contains(r.Stderr, want) {
						t.Errorf("%s: got %+v, want an error with %q", tt.name, r, want)
					}
				}
				if r := h.do("state", id); r.Code == 0 {
					t.Errorf("%s: the container is left: %s", tt.name, r.Stdout)
				}
				h.noNetwork(tt.name)
				if links := h.ip("-o", "link"); strings.Contains(links, ": mr-") && tt.want[0] == "rules of nftables" {
					t.Errorf("a bridge without rules is left:\n%s", links)
				}
			}
			// Where it was not the rules, the network can be removed and works elsewhere.
			h.must("run", "--rm", "--image", "base", "--network", "web", "-p", "8080:80", h.id(), "true")
			h.noNetwork("after " + tt.name)
			h.must("network", "rm", "web")
			h.must("network", "create", "--subnet", "10.77.0.0/24", "web")
		}()
	}
}
