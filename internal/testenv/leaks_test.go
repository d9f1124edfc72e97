package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// recorder is a test whose failures are looked at instead of reported.
type recorder struct {
	testing.TB
	failures []string
	cleanups []func()
}

func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }

func (r *recorder) Errorf(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

// leaksOf runs f between the two halves of a leak check and returns its complaints.
func leaksOf(t *testing.T, f func(t testing.TB)) string {
	t.Helper()
	r := &recorder{TB: t}
	checkLeaks(r, 50*time.Millisecond)
	f(r)
	for i := len(r.cleanups) - 1; i >= 0; i-- {
		r.cleanups[i]()
	}
	return strings.Join(r.failures, "\n")
}

func killGroup(t *testing.T, pid string) {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(pid))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(n, unix.SIGKILL); err != nil {
		t.Errorf("kill %d: %v", n, err)
	}
}

func TestCheckLeaksCleanTest(t *testing.T) {
	got := leaksOf(t, func(t testing.TB) {
		RunCmd(t, exec.Command("true"))
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		Bundle(t, nil)
		StateRoot(t)
	})
	if got != "" {
		t.Errorf("a test that leaves nothing: %s", got)
	}
}

func TestCheckLeaksDescriptor(t *testing.T) {
	var f *os.File
	got := leaksOf(t, func(t testing.TB) { f, _ = os.Open("/dev/zero") })
	defer f.Close()
	if want := fmt.Sprintf("descriptor %d -> /dev/zero", f.Fd()); !strings.Contains(got, want) {
		t.Errorf("leaks %q, want %q", got, want)
	}
}

func TestCheckLeaksChild(t *testing.T) {
	var cmd *exec.Cmd
	got := leaksOf(t, func(t testing.TB) {
		cmd = exec.Command("sleep", "300")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	})
	cmd.Process.Kill()
	cmd.Wait()
	if want := fmt.Sprintf("process %d", cmd.Process.Pid); !strings.Contains(got, want) {
		t.Errorf("leaks %q, want %q", got, want)
	}
}

func TestCheckLeaksZombie(t *testing.T) {
	var cmd *exec.Cmd
	got := leaksOf(t, func(t testing.TB) {
		cmd = exec.Command("true")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	})
	cmd.Wait()
	if !strings.Contains(got, "state Z") {
		t.Errorf("leaks %q, want a zombie", got)
	}
}

// A daemon is no child of the test any more.
func TestCheckLeaksDaemon(t *testing.T) {
	var pid string
	got := leaksOf(t, func(t testing.TB) {
		pid = RunCmd(t, exec.Command("sh", "-c", "setsid sleep 300 >/dev/null 2>&1 & echo $!")).Stdout
	})
	killGroup(t, pid)
	if want := "process " + strings.TrimSpace(pid); !strings.Contains(got, want) {
		t.Errorf("leaks %q, want %q", got, want)
	}
}

func TestSnapshotLeaks(t *testing.T) {
	before := snapshot{"mount": {"20 /": {text: "/"}}}
	after := snapshot{
		"mount":        {"20 /": {text: "/"}, "30 /tmp/TestA1/001": {text: "/tmp/TestA1/001 - tmpfs"}, "31 /srv": {text: "/srv"}},
		"network link": {"7 mrt9-1-x": {text: "mrt9-1-x"}, "8 eth7": {text: "eth7"}},
		"descriptor":   {"3 x": {text: "3 -> x", own: true}},
	}
	names := []string{"/tmp/TestA", "mrt9-1-x"}
	want := "descriptor 3 -> x|mount /tmp/TestA1/001 - tmpfs|network link mrt9-1-x"
	if got := strings.Join(before.leaks(after, names), "|"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	t.Setenv("MINIRUN_TEST_EXCLUSIVE", "1")
	want = "descriptor 3 -> x|mount /srv|mount /tmp/TestA1/001 - tmpfs|network link eth7|network link mrt9-1-x"
	if got := strings.Join(before.leaks(after, names), "|"); got != want {
		t.Errorf("exclusive: got %q, want %q", got, want)
	}
}

func TestRootCheckLeaksMount(t *testing.T) {
	RequireRoot(t)
	var dir string
	got := leaksOf(t, func(r testing.TB) {
		// A subtest's directory lies beside the test's own.
		t.Run("sub", func(t *testing.T) { dir = filepath.Base(filepath.Dir(t.TempDir())) })
		dir = filepath.Join(os.TempDir(), dir)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
	})
	if err := unix.Unmount(dir, 0); err != nil {
		t.Error(err)
	}
	if err := os.Remove(dir); err != nil {
		t.Error(err)
	}
	if !strings.Contains(got, "mount / "+dir) {
		t.Errorf("leaks %q, want the mount on %q", got, dir)
	}
}

func TestRootCheckLeaksCgroup(t *testing.T) {
	RequireRoot(t)
	roots := cgroupRoots()
	if len(roots) == 0 {
		t.Fatal("cgroup v2 is not mounted")
	}
	dir := filepath.Join(roots[0], processName(), "left")
	cmd := exec.Command("sleep", "300")
	got := leaksOf(t, func(testing.TB) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
	})
	cmd.Process.Kill()
	cmd.Wait()
	if err := os.Remove(dir); err != nil {
		t.Error(err)
	}
	if err := removeCgroupParent(); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"cgroup " + dir, fmt.Sprintf("process %d", cmd.Process.Pid)} {
		if !strings.Contains(got, want) {
			t.Errorf("leaks %q, want %q", got, want)
		}
	}
}

func TestRootCheckLeaksNamedNetns(t *testing.T) {
	RequireRoot(t)
	if err := os.Mkdir("/run/netns", 0o755); err == nil {
		defer os.Remove("/run/netns")
	} else if !os.IsExist(err) {
		t.Fatal(err)
	}
	var file string
	got := leaksOf(t, func(t testing.TB) {
		file = "/run/netns/" + UniqueID(t)
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	if err := os.Remove(file); err != nil {
		t.Error(err)
	}
	if !strings.Contains(got, "network namespace "+file) {
		t.Errorf("leaks %q, want %q", got, file)
	}
}
