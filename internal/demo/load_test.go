package demo

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// values reads "name number" lines.
func values(t *testing.T, text string) map[string]int64 {
	t.Helper()
	m := map[string]int64{}
	for line := range strings.Lines(text) {
		name, v, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		m[name] = n
	}
	return m
}

func TestBurn(t *testing.T) {
	stdout, stderr, code := run(t, command(t, "burn", "-t", "0.3", "-n2"))
	if code != 0 {
		t.Fatalf("status %d: %s", code, stderr)
	}
	v := values(t, stdout)
	if v["threads"] != 2 || v["iterations"] < 2 {
		t.Errorf("got %v, want 2 threads and some iterations", v)
	}
	if v["wall_usec"] < 300_000 {
		t.Errorf("ended after %d us, want at least 300000", v["wall_usec"])
	}
	// Only a lower bound that a busy machine keeps, and an upper one that physics keeps.
	if v["cpu_usec"] < 10_000 || v["cpu_usec"] > 3*v["wall_usec"] {
		t.Errorf("used %d us of CPU in %d us with 2 threads", v["cpu_usec"], v["wall_usec"])
	}
	for _, bad := range [][]string{{"-n", "0"}, {"-n", "x"}, {"-t"}, {"-t", "-1"}, {"x"}} {
		if _, _, code := run(t, command(t, "burn", bad...)); code != 2 {
			t.Errorf("burn %v: status %d, want 2", bad, code)
		}
	}
}

func TestEat(t *testing.T) {
	cmd := command(t, "eat", "80M", "-step", "30M")
	stdout, _, code := run(t, cmd)
	want := "ate 31457280 of 83886080 bytes\nate 62914560 of 83886080 bytes\nate 83886080 of 83886080 bytes\n"
	if stdout != want || code != 0 {
		t.Errorf("got %q, status %d, want %q", stdout, code, want)
	}
	none := command(t, "eat", "0")
	if _, _, code := run(t, none); code != 0 {
		t.Errorf("eat 0: status %d", code)
	}
	// Touched, not only mapped: the peak of resident memory (in kB) shows it.
	// Without eating the peak is this test's own, inherited through vfork.
	rss := func(c *exec.Cmd) int64 { return c.ProcessState.SysUsage().(*syscall.Rusage).Maxrss }
	if with, without := rss(cmd), rss(none); with < 80<<10 || without >= 80<<10 {
		t.Errorf("peak of resident memory %d kB with 80M eaten, %d kB with nothing", with, without)
	}
	for _, bad := range [][]string{{}, {"x"}, {"1M", "-step", "0"}, {"1M", "2M"}, {"-step"}} {
		if _, _, code := run(t, command(t, "eat", bad...)); code != 2 {
			t.Errorf("eat %v: status %d, want 2", bad, code)
		}
	}
}

// TestEat_Limit: a refused mapping is an error with its errno and no crash.
func TestEat_Limit(t *testing.T) {
	stdout, stderr, code := run(t, command(t, "eat", "4611686018427387904", "-step", "4611686018427387904"))
	if code != 1 || stdout != "" || !strings.Contains(stderr, "mmap: cannot allocate memory") {
		t.Errorf("status %d, stdout %q, stderr %q, want 1 and an mmap error", code, stdout, stderr)
	}
}

func TestForks(t *testing.T) {
	stdout, _, code := run(t, command(t, "forks", "5"))
	if stdout != "forked 5 children\n" || code != 0 {
		t.Errorf("got %q, status %d", stdout, code)
	}
}

// TestForks_ParentKilled: the children die with their parent.
func TestForks_ParentKilled(t *testing.T) {
	cmd := command(t, "forks", "-s", "60", "3")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var b [64]byte
	if _, err := stdout.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(cmd.Process.Pid)
	list, err := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
	tasks, _ := os.ReadDir("/proc/" + pid + "/task")
	for _, task := range tasks { // children belong to the thread that forked
		if task.Name() != pid {
			more, _ := os.ReadFile("/proc/" + pid + "/task/" + task.Name() + "/children")
			list = append(list, more...)
		}
	}
	children := strings.Fields(string(list))
	if err != nil || len(children) != 3 {
		t.Fatalf("children %v (%v), want 3", children, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for _, c := range children {
		n, _ := strconv.Atoi(c)
		for deadline := time.Now().Add(5 * time.Second); alive(n); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				_ = unix.Kill(n, unix.SIGKILL)
				t.Fatalf("child %d outlived its parent", n)
			}
		}
	}
}

// alive: there and no zombie (whoever adopted it may reap late).
func alive(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(b), ") Z ")
}

// TestRootForks_Limit runs into a real limit: RLIMIT_NPROC counts the
// processes of a user, and root's set-up lets us be a user who has none.
func TestRootForks_Limit(t *testing.T) {
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &old); err != nil {
		t.Fatal(err)
	}
	cmd := command(t, "forks", "1000")
	exe, err := os.Open(cmd.Path) // the test binary's directory is root's alone
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	cmd.Path, cmd.ExtraFiles = "/proc/self/fd/3", []*os.File{exe}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 3_456_789, Gid: 3_456_789}}
	low := old
	low.Cur = 40
	if err := unix.Setrlimit(unix.RLIMIT_NPROC, &low); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code := run(t, cmd)
	if err := unix.Setrlimit(unix.RLIMIT_NPROC, &old); err != nil {
		t.Fatal(err)
	}
	var n int
	text, found := strings.CutPrefix(stdout, "forked ")
	text, rest, _ := strings.Cut(text, " ")
	n, _ = strconv.Atoi(text)
	if !found || code != 0 || n < 10 || n >= 40 || rest != "children, then: resource temporarily unavailable\n" {
		t.Errorf("status %d, stdout %q, stderr %q, want 10 to 39 children and EAGAIN", code, stdout, stderr)
	}
}
