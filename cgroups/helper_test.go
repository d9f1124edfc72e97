package cgroups

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The test binary is its own helper: with one of these words as its first
// argument it is a process to be put into a group. Helpers end with their
// standard input, so none survives the test.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "helper-block":
			fmt.Println("ready")
			_, _ = io.Copy(io.Discard, os.Stdin)
			return
		case "helper-tree":
			helperTree(os.Args[2])
			return
		case "helper-stuck":
			helperStuck()
			return
		case "helper-open":
			fmt.Println(helperOpen(os.Args[2], os.Args[3]))
			return
		case "helper-hog":
			helperHog()
			return
		case "helper-namespace":
			helperNamespace(os.Args[2])
			return
		case "helper-spin":
			fmt.Println("ready")
			for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
			}
			return
		}
	}
	os.Exit(m.Run())
}

// helperTree starts two children of its own per level and says ready when all are.
func helperTree(depth string) {
	if n, _ := strconv.Atoi(depth); n > 0 {
		for range 2 {
			c := exec.Command("/proc/self/exe", "helper-tree", strconv.Itoa(n-1))
			c.Stdin = os.Stdin
			out, _ := c.StdoutPipe()
			if err := c.Start(); err != nil {
				fmt.Println(err)
				return
			}
			_, _ = io.ReadFull(out, make([]byte, 6))
		}
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// helperStuck does not freeze: one of its threads is in a system call that waits
// for a page which nobody provides (userfaultfd(2)), so it does not get to where
// processes are stopped.
func helperStuck() {
	fail := func(what string, err error) {
		fmt.Println(what, err)
		os.Exit(1)
	}
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		fail("mmap", err)
	}
	uffd, _, e := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if e != 0 {
		fail("userfaultfd", e)
	}
	const api, register = 0xc018aa3f, 0xc020aa00 // UFFDIO_API, UFFDIO_REGISTER
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uffd, api, uintptr(unsafe.Pointer(&[3]uint64{0xaa}))); e != 0 {
		fail("UFFDIO_API", e)
	}
	const missing = 1 // UFFDIO_REGISTER_MODE_MISSING
	area := [4]uint64{uint64(uintptr(unsafe.Pointer(&page[0]))), uint64(len(page)), missing}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uffd, register, uintptr(unsafe.Pointer(&area))); e != 0 {
		fail("UFFDIO_REGISTER", e)
	}
	zero, err := os.Open("/dev/zero")
	if err != nil {
		fail("open", err)
	}
	go func() { _, _, _ = unix.Syscall(unix.SYS_READ, zero.Fd(), uintptr(unsafe.Pointer(&page[0])), 1) }()
	// The event of the fault comes when the thread is stuck.
	if _, err := unix.Read(int(uffd), make([]byte, 32)); err != nil {
		fail("read", err)
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// helperOpen opens or makes a device and returns "ok" or the errno.
func helperOpen(how, name string) string {
	var err error
	switch how {
	case "r":
		_, err = unix.Open(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	case "w":
		_, err = unix.Open(name, unix.O_WRONLY|unix.O_NONBLOCK, 0)
	case "rw":
		_, err = unix.Open(name, unix.O_RDWR|unix.O_NONBLOCK, 0)
	case "mknod": // name is PATH,MAJOR,MINOR
		f := strings.Split(name, ",")
		major, _ := strconv.Atoi(f[1])
		minor, _ := strconv.Atoi(f[2])
		err = unix.Mknod(f[0], unix.S_IFCHR|0o600, int(unix.Mkdev(uint32(major), uint32(minor))))
	}
	if err != nil {
		return err.Error()
	}
	return "ok"
}

// helperNamespace mounts the hierarchy of its own cgroup namespace and makes
// groups there.
func helperNamespace(dir string) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		fmt.Println(err)
	}
	if err := unix.Mount("none", dir, "cgroup2", 0, ""); err != nil {
		fmt.Println(err)
	}
	n := int64(1 << 26)
	l, err := FromOCIUpdate(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &n}})
	if err == nil {
		_, err = CreateFor(dir, "/x", l)
	}
	fmt.Println(err)
	g, err := Create(dir, "/y", nil)
	if err == nil {
		err = g.Remove(time.Second)
	}
	fmt.Println("without:", err)
}

func helperHog() {
	var keep [][]byte
	for range 512 {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		keep = append(keep, b)
	}
	fmt.Println("survived", len(keep))
}

func mountOf(t *testing.T) string {
	t.Helper()
	m, err := Mount()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// parentPath makes a path for this test's groups, and checks at the end that
// nothing is left there.
func parentPath(t *testing.T) string {
	t.Helper()
	name := strings.Map(func(r rune) rune {
		if r == '/' {
			return '-'
		}
		return r
	}, t.Name())
	p := Open(mountOf(t), "/minirun-test-"+strconv.Itoa(os.Getpid())+"-"+name)
	t.Cleanup(func() {
		if !p.Exists() {
			return
		}
		if subs := listGroups(t, p); len(subs) > 0 && !t.Failed() {
			t.Errorf("groups left: %v", subs)
		}
		_ = p.Kill()
		if err := p.Remove(10 * time.Second); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return p.Path
}

func listGroups(t *testing.T, g *Group) []string {
	t.Helper()
	fd, err := g.FD()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	subs, err := subgroups(fd)
	if err != nil {
		t.Fatal(err)
	}
	return subs
}

// create makes a group that is killed and removed when the test ends.
func create(t *testing.T, path string, controllers ...string) *Group {
	t.Helper()
	g, err := Create(mountOf(t), path, controllers)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = g.Kill()
		if err := g.Remove(10 * time.Second); err != nil {
			t.Errorf("clean up %s: %v", g.Path, err)
		}
	})
	return g
}

// mkdir makes a group below g as a container does: g may have processes too.
func mkdir(t *testing.T, g *Group, name string) *Group {
	t.Helper()
	sub := Open(g.Mount, g.Path+"/"+name)
	if err := os.Mkdir(sub.Dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = sub.Kill()
		if err := sub.Remove(10 * time.Second); err != nil {
			t.Errorf("clean up %s: %v", sub.Path, err)
		}
	})
	return sub
}

type helper struct {
	*exec.Cmd
	stdin io.Closer
	out   io.Reader
}

// start runs the helper inside the group, as clone3(2) does it.
func start(t *testing.T, g *Group, args ...string) *helper {
	t.Helper()
	return startIn(t, g, 0, args...)
}

// startIn is start with new namespaces.
func startIn(t *testing.T, g *Group, namespaces uintptr, args ...string) *helper {
	t.Helper()
	fd, err := g.FD()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	c := exec.Command("/proc/self/exe", args...)
	if !strings.HasPrefix(args[0], "helper-") {
		c = exec.Command(args[0], args[1:]...)
	}
	c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd, Cloneflags: namespaces}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if c.ProcessState == nil {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
	})
	return &helper{c, in, out}
}

// block starts a process that sits in the group, and waits until it does.
func block(t *testing.T, g *Group) *helper {
	t.Helper()
	h := start(t, g, "helper-block")
	h.ready(t)
	return h
}

func (h *helper) ready(t *testing.T) {
	t.Helper()
	b := make([]byte, 6)
	if _, err := io.ReadFull(h.out, b); err != nil || string(b) != "ready\n" {
		t.Fatalf("helper said %q, %v", b, err)
	}
}

// killedBy returns the signal that ended the process, -1 if none did.
func (h *helper) killedBy() syscall.Signal {
	err := h.Wait()
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		return ee.Sys().(syscall.WaitStatus).Signal()
	}
	return -1
}

// ask runs a helper to its end in the group and returns what it said.
func ask(t *testing.T, g *Group, args ...string) string {
	t.Helper()
	h := start(t, g, args...)
	b, err := io.ReadAll(h.out)
	if err != nil {
		t.Fatal(err)
	}
	_ = h.Wait()
	return strings.TrimSpace(string(b))
}

// read returns the content of a file of the group.
func read(t *testing.T, g *Group, file string) string {
	t.Helper()
	s, err := g.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// attachBeside attaches a program and leaves those that are there.
func attachBeside(dir int, insns []byte) error {
	prog, err := loadDeviceProgram(insns)
	if err != nil {
		return err
	}
	defer unix.Close(prog)
	a := progAttach{target: uint32(dir), prog: uint32(prog), typ: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI}
	_, err = bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&a), unsafe.Sizeof(a))
	return err
}
