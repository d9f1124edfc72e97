package linux

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Getenv("MINIRUN_TEST_RELAY") != "" {
		relayChild()
	}
	os.Exit(m.Run())
}

func TestReadFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	for _, size := range []int{0, 1, 4095, 4096, 4097, 100000} {
		want := strings.Repeat("x", size)
		if err := os.WriteFile(name, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadFile(name, size)
		if size == 0 {
			got, err = ReadFile(name, 1)
		}
		if err != nil || string(got) != want {
			t.Errorf("%d bytes: got %d, error %v", size, len(got), err)
		}
		if size > 1 {
			if _, err := ReadFile(name, size-1); !errors.Is(err, unix.EFBIG) {
				t.Errorf("%d bytes with a limit of one less: got %v, want EFBIG", size, err)
			}
		}
	}
	if _, err := ReadFile(name+"x", 0); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), name) {
		t.Errorf("missing file: got %v", err)
	}
}

func TestWriteFileAt(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	if err := WriteFileAt(unix.AT_FDCWD, name, "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it makes a file: %v", err)
	}
	if err := os.WriteFile(name, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteFileAt(unix.AT_FDCWD, name, "x"); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(name); string(got) != "xbc" {
		t.Errorf("got %q, want it neither truncated nor appended to", got)
	}
}

// What a path inside the root may lead to, and what not.
func TestOpenInRoot(t *testing.T) {
	host := t.TempDir()
	root := filepath.Join(host, "root")
	write := func(name, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(host, "secret"), "host")
	write(filepath.Join(root, "secret"), "container")
	write(filepath.Join(root, "dir/file"), "container")
	for link, target := range map[string]string{
		"up": "../secret", "far": "../../../../../../secret", "abs": "/secret", "chain": "dir/../up", "proc": "/proc/self/root",
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := OpenAt(unix.AT_FDCWD, root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(fd)
	for _, path := range []string{"secret", "/secret", "../secret", "/../../secret", "dir/../../secret", "up", "far", "abs", "chain"} {
		f, err := OpenInRoot(fd, path, unix.O_RDONLY)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		got, _ := ReadAll(f, 100)
		Close(f)
		if string(got) != "container" {
			t.Errorf("%s leads to the %s", path, got)
		}
	}
	if f, err := OpenInRoot(fd, "proc/"+root, unix.O_RDONLY); err == nil {
		Close(f)
		t.Error("a link through the host's procfs worked")
	}
}

// An attacker swaps a directory with a link to the host while paths through it
// are opened: every success is inside the root.
func TestOpenInRoot_RacingRename(t *testing.T) {
	host := t.TempDir()
	root := filepath.Join(host, "root")
	for _, d := range []string{root + "/a/b", host + "/b"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(root+"/a/b/f", []byte("container"), 0o644)
	os.WriteFile(host+"/b/f", []byte("host"), 0o644)
	os.Symlink("../../b", root+"/link")
	fd, err := OpenAt(unix.AT_FDCWD, root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(fd)
	stop := make(chan bool)
	ended := make(chan bool)
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, root+"/a/b", unix.AT_FDCWD, root+"/link", unix.RENAME_EXCHANGE)
				runtime.Gosched()
			}
		}
	}()
	ok := 0
	for range 20000 {
		f, err := OpenInRoot(fd, "a/b/../b/f", unix.O_RDONLY)
		if err != nil {
			continue
		}
		got, _ := ReadAll(f, 100)
		Close(f)
		if string(got) == "host" {
			t.Fatal("left the root")
		}
		ok++
	}
	close(stop)
	<-ended
	if ok == 0 {
		t.Error("no open succeeded: nothing was tested")
	}
}

// relayChild prints the number of every signal it gets, until SIGTERM.
func relayChild() {
	fd, err := RelaySignals()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, _ := unix.Poll(fds, 10000); n != 1 {
			continue
		}
		var b [1]byte
		if n, _ := Read(fd, b[:]); n == 1 {
			fmt.Println(b[0])
			if syscall.Signal(b[0]) == syscall.SIGTERM {
				os.Exit(0)
			}
		}
	}
}

func TestRelaySignals(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "MINIRUN_TEST_RELAY=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewScanner(out)
	next := func() string {
		if !r.Scan() {
			t.Fatal("the child has ended")
		}
		return r.Text()
	}
	if got := next(); got != "ready" {
		t.Fatal(got)
	}
	signals := []syscall.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGCONT,
		unix.SIGWINCH, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, 34, 50, 64, unix.SIGURG, unix.SIGCHLD, unix.SIGPIPE, unix.SIGTERM,
	}
	for _, s := range signals {
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		switch s {
		case unix.SIGURG, unix.SIGCHLD, unix.SIGPIPE: // not relayed, and not deadly
			continue
		}
		if got := next(); got != fmt.Sprint(int(s)) {
			t.Errorf("signal %d arrived as %s", s, got)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// Signals that end a program are caught, and end it again after restore; one that
// is ignored stays so.
func TestCatchEnding(t *testing.T) {
	ignored := sigaction{handler: sigIgnore, flags: saRestorer, restorer: relayRestorer()}
	var before, after sigaction
	if err := rtSigaction(unix.SIGHUP, &ignored, &before); err != nil {
		t.Fatal(err)
	}
	defer rtSigaction(unix.SIGHUP, &before, nil)
	if err := rtSigaction(unix.SIGTERM, nil, &before); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		fd, restore, err := CatchEnding()
		if err != nil {
			t.Fatal(err)
		}
		for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGTERM} {
			if err := unix.Kill(os.Getpid(), sig); err != nil {
				t.Fatal(err)
			}
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for n := 0; n != 1; {
			if n, err = unix.Poll(fds, 60000); n == 0 || err != nil && err != unix.EINTR {
				t.Fatalf("no signal arrived: %v", err)
			}
		}
		var b [8]byte
		if n, err := Read(fd, b[:]); n != 1 || unix.Signal(b[0]) != unix.SIGTERM {
			t.Errorf("read %v, %v, want SIGTERM alone", b[:max(n, 0)], err)
		}
		restore()
		if err := rtSigaction(unix.SIGTERM, nil, &after); err != nil || after != before {
			t.Errorf("afterwards the action is %+v, was %+v (%v)", after, before, err)
		}
	}
}

// Around the buffers that ReadAll uses, and around the limit.
func TestReadAll_Sizes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, n := range []int{0, 1, 511, 512, 513, 4095, 4096, 4097, 8192, 20000} {
		want := bytes.Repeat([]byte("0123456"), n/7+1)[:n]
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, limit := range []int{0, n, n + 1} {
			if got, err := ReadFile(path, limit); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, limit %d: %d bytes, %v", n, limit, len(got), err)
			}
		}
		if n > 1 {
			if got, err := ReadFile(path, n-1); !errors.Is(err, unix.EFBIG) || got != nil {
				t.Errorf("%d bytes, limit %d: %d bytes, %v", n, n-1, len(got), err)
			}
		}
	}
}

func TestWriteBoth(t *testing.T) {
	for _, sizes := range [][2]int{{0, 0}, {0, 10}, {10, 0}, {3000, 5000}, {100_000, 300_000}} {
		fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		defer Close(fd)
		a, b := bytes.Repeat([]byte("a"), sizes[0]), bytes.Repeat([]byte("b"), sizes[1])
		if err := WriteBoth(fd, a, b); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, sizes[0]+sizes[1]+1)
		if n, err := unix.Pread(fd, got, 0); err != nil || string(got[:n]) != string(a)+string(b) {
			t.Errorf("%v: %d bytes, %v", sizes, n, err)
		}
	}
}

// The kernel takes less than there is, in the first part or in the second.
func TestWriteBoth_Partial(t *testing.T) {
	for _, first := range []int{3000, 5000, 4096} {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			t.Fatal(err)
		}
		defer Close(p[0])
		defer Close(p[1])
		if _, err := unix.FcntlInt(uintptr(p[1]), unix.F_SETPIPE_SZ, 4096); err != nil {
			t.Fatal(err)
		}
		a, b := bytes.Repeat([]byte("a"), first), bytes.Repeat([]byte("b"), 6000)
		if err := WriteBoth(p[1], a, b); err != unix.EAGAIN {
			t.Errorf("%d: %v, want EAGAIN: the pipe is full", first, err)
		}
		got := make([]byte, 8192)
		if n, err := Read(p[0], got); err != nil || string(got[:n]) != (string(a) + string(b))[:4096] {
			t.Errorf("%d: read %d bytes, %v", first, n, err)
		}
	}
}
