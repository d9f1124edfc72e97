package seccomp

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// These tests load filters into the kernel. That needs no privilege with no_new_privs, which is set on a thread that
// the test throws away, or in a child process where a call may kill.

const childArg = "-seccomp-test-child"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == childArg {
		child(os.Args[2])
	}
	os.Exit(m.Run())
}

// load installs a filter on the calling thread and returns the listener with SECCOMP_FILTER_FLAG_NEW_LISTENER.
func load(f *Filter) (int, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, err
	}
	prog := struct {
		n     uint16
		insns *byte
	}{uint16(f.Len()), &f.Insns[0]}
	r, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(f.Flags), uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(f)
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}

// onThread loads the filter on a thread of its own, runs fn there and lets the thread end.
func onThread(t *testing.T, f *Filter, fn func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		_, err := load(f)
		if err == nil {
			fn()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func raw(nr uintptr, args ...uintptr) syscall.Errno {
	var a [6]uintptr
	copy(a[:], args)
	_, _, errno := unix.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	return errno
}

func profile(def specs.LinuxSeccompAction, rules ...specs.LinuxSyscall) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{DefaultAction: def, Syscalls: rules, ListenerPath: "/l"}
}

func deny(errno uint, name string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
	return specs.LinuxSyscall{Names: []string{name}, Action: specs.ActErrno, ErrnoRet: ptr(errno), Args: args}
}

func arg(index uint, op specs.LinuxSeccompOperator, v ...uint64) specs.LinuxSeccompArg {
	return specs.LinuxSeccompArg{Index: index, Op: op, Value: v[0], ValueTwo: append(v, 0)[1]}
}

func TestKernel_Errno(t *testing.T) {
	p := profile(specs.ActAllow,
		deny(77, "getpriority", arg(0, specs.OpEqualTo, 1<<32|5)),
		deny(78, "getpriority", arg(0, specs.OpGreaterThan, 1<<40|5), arg(1, specs.OpMaskedEqual, 0xf0, 0x50)),
		deny(0, "sync"),
		specs.LinuxSyscall{Names: []string{"umask"}, Action: specs.ActLog},
		deny(4094, "getsid"))
	f := mustCompile(t, p, runtime.GOARCH)
	onThread(t, f, func() {
		for _, tt := range []struct {
			a0, a1 uintptr
			want   syscall.Errno
		}{
			// The kernel takes the low half of the first argument: 0 is a process (0: the caller), above 2 is invalid.
			{1<<32 | 5, 0, 77},
			{5, 0, unix.EINVAL},
			{1<<33 | 5, 0, unix.EINVAL},
			{1<<40 | 5, 0x1053, unix.EINVAL},
			{1<<40 | 6, 0x1053, 78},
			{1<<40 | 6, 0x1063, unix.EINVAL},
			{1 << 40, 0, 0},
			{0, 0, 0},
		} {
			if got := raw(unix.SYS_GETPRIORITY, tt.a0, tt.a1); got != tt.want {
				t.Errorf("getpriority(%#x, %#x): got %d, want %d", tt.a0, tt.a1, got, tt.want)
			}
		}
		if got := raw(unix.SYS_GETSID); got != 4094 {
			t.Errorf("getsid: got %d", got)
		}
		old, _, errno := unix.RawSyscall(unix.SYS_UMASK, 0o22, 0, 0)
		if errno != 0 {
			t.Errorf("umask with LOG: %v", errno)
		}
		raw(unix.SYS_UMASK, old)
		if _, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			t.Errorf("open: %v", err)
		}
	})
}

func TestKernel_DefaultProfile(t *testing.T) {
	for name, p := range map[string]*specs.LinuxSeccomp{"docker": docker(t, runtime.GOARCH), "default": Default(runtime.GOARCH, nil)} {
		f := mustCompile(t, p, runtime.GOARCH)
		onThread(t, f, func() {
			for _, tt := range []struct {
				what string
				want syscall.Errno
				got  syscall.Errno
			}{
				{"unshare(CLONE_NEWUSER)", unix.EPERM, raw(unix.SYS_UNSHARE, unix.CLONE_NEWUSER)},
				{"clone(CLONE_NEWUSER)", unix.EPERM, raw(unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_FS, 0)}, // EINVAL from the kernel
				{"clone3", unix.ENOSYS, raw(unix.SYS_CLONE3, 0, 0)},
				{"socket(AF_ALG)", unix.EPERM, raw(unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET)},
				{"socket(AF_VSOCK)", unix.EPERM, raw(unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM)},
				{"socket(AF_ALG) with garbage above", unix.EPERM, raw(unix.SYS_SOCKET, 1<<32|unix.AF_ALG, unix.SOCK_SEQPACKET)},
				{"keyctl", unix.EPERM, raw(unix.SYS_KEYCTL, 0, 0)},
				{"bpf", unix.EPERM, raw(unix.SYS_BPF, 0, 0, 0)},
				{"fsopen", unix.EPERM, raw(unix.SYS_FSOPEN, 0, 0)},
				{"mount", unix.EPERM, raw(unix.SYS_MOUNT)},
				{"io_uring_setup", unix.EPERM, raw(unix.SYS_IO_URING_SETUP, 1, 0)},
				{"personality(PER_LINUX32)", 0, raw(unix.SYS_PERSONALITY, 8)},
				{"personality(ADDR_NO_RANDOMIZE)", unix.EPERM, raw(unix.SYS_PERSONALITY, 0x40000)},
				{"personality(0)", 0, raw(unix.SYS_PERSONALITY, 0)},
				{"getpid", 0, raw(unix.SYS_GETPID)},
				{"a call of the future", unix.ENOSYS, raw(540)},
			} {
				if tt.got != tt.want {
					t.Errorf("%s: %s: got %v, want %v", name, tt.what, tt.got, tt.want)
				}
			}
			for _, family := range []int{unix.AF_UNIX, unix.AF_INET, unix.AF_NETLINK} {
				fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					t.Errorf("%s: socket(%d): %v", name, family, err)
				} else {
					unix.Close(fd)
				}
			}
		})
	}
}

// A listener sees the call, and its answer is the result.
func TestKernel_Notify(t *testing.T) {
	p := profile(specs.ActAllow, specs.LinuxSyscall{Names: []string{"getsid"}, Action: specs.ActNotify})
	p.Flags = []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv, specs.LinuxSeccompFlagLog, "SECCOMP_FILTER_FLAG_TSYNC"}
	f := mustCompile(t, p, runtime.GOARCH)
	fds := make(chan int)
	result := make(chan syscall.Errno)
	go func() {
		runtime.LockOSThread()
		fd, err := load(f)
		if err != nil {
			t.Error(err)
			fds <- -1
			return
		}
		fds <- fd
		_, _, errno := unix.Syscall(unix.SYS_GETSID, 0, 0, 0)
		result <- errno
	}()
	fd := <-fds
	if fd < 0 {
		t.Fatal("no listener")
	}
	defer unix.Close(fd)
	var req [80]byte // struct seccomp_notif: id, pid, flags, seccomp_data
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&req))); errno != 0 {
		t.Fatal(errno)
	}
	if nr := binary.NativeEndian.Uint32(req[16:]); nr != unix.SYS_GETSID {
		t.Errorf("got call %d", nr)
	}
	var resp [24]byte // struct seccomp_notif_resp: id, val, error, flags
	copy(resp[:8], req[:8])
	binary.NativeEndian.PutUint32(resp[16:], ^uint32(76)) // -77
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&resp))); errno != 0 {
		t.Fatal(errno)
	}
	if got := <-result; got != 77 {
		t.Errorf("getsid: got %d, want 77", got)
	}
}

func TestKernel_Kill(t *testing.T) {
	for _, tt := range []struct {
		mode string
		sig  syscall.Signal
		code int
	}{
		{"none", 0, 0},
		{"kill_process", unix.SIGSYS, 0},
		{"kill_default", unix.SIGSYS, 0},
		{"trap", 0, 2}, // the Go runtime turns SIGSYS into a crash with exit status 2
		{"kill_thread", 0, 42},
		{"x32", unix.SIGSYS, 0},
	} {
		if tt.mode == "x32" && runtime.GOARCH != "amd64" {
			continue
		}
		t.Run(tt.mode, func(t *testing.T) {
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(exe, childArg, tt.mode)
			err = cmd.Run()
			ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if tt.sig != 0 && (!ws.Signaled() || ws.Signal() != tt.sig) {
				t.Errorf("got %v (%v), want signal %v", cmd.ProcessState, err, tt.sig)
			}
			if tt.sig == 0 && (!ws.Exited() || ws.ExitStatus() != tt.code) {
				t.Errorf("got %v (%v), want exit status %d", cmd.ProcessState, err, tt.code)
			}
		})
	}
}

// child loads the filter of a mode, calls getsid and exits: with 0 if the call came back.
func child(mode string) {
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	rule := specs.LinuxSyscall{Names: []string{"getsid"}}
	p := profile(specs.ActAllow)
	nr := uintptr(unix.SYS_GETSID)
	switch mode {
	case "kill_process":
		rule.Action = specs.ActKillProcess
	case "trap":
		rule.Action = specs.ActTrap
	case "kill_thread":
		rule.Action = specs.ActKillThread
	case "kill_default": // allow all but getsid, which falls to the default
		p.DefaultAction = specs.ActKillProcess
		rule.Action = specs.ActAllow
		rule.Names = nil
		for nr := range 480 {
			if s := SyscallName(runtime.GOARCH, nr); s != "" && s != "getsid" {
				rule.Names = append(rule.Names, s)
			}
		}
	case "x32": // not listed, and that although everything is allowed
		rule = deny(1, "acct")
		nr |= x32Bit
	default:
		rule.Action = specs.ActLog
	}
	p.Syscalls = append(p.Syscalls, rule)
	f, err := Compile(p, runtime.GOARCH)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	tid := make(chan int, 1)
	back := make(chan bool)
	go func() {
		runtime.LockOSThread()
		tid <- unix.Gettid()
		if _, err := load(f); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		raw(nr)
		back <- true
	}()
	task := "/proc/self/task/" + strconv.Itoa(<-tid)
	for range 500 {
		select {
		case <-back:
			os.Exit(0)
		case <-time.After(10 * time.Millisecond):
		}
		// The thread is gone, or a zombie when it is the first one, and the process is still here.
		if stat, err := os.ReadFile(task + "/stat"); err != nil || strings.Contains(string(stat), ") Z ") {
			os.Exit(42)
		}
	}
	os.Exit(4)
}
