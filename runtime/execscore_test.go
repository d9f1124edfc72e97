package runtime

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/internal/testenv"
)

// A process that does not come to its start, in a group that is frozen or has used up
// its share of the processors, keeps no other from being added, here and elsewhere, and
// leaves this process the oom_score_adj that it has.
func TestRootExecOOMScore_Stuck(t *testing.T) {
	c, stdio := sleeper(t, nil)
	group := filepath.Join(c.CgroupMount, c.Cgroup, "stuck")
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	freeze := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(group, "cgroup.freeze"), []byte(text), 0); err != nil {
			t.Fatal(err)
		}
	}
	own := func() string {
		t.Helper()
		raw, err := os.ReadFile("/proc/self/oom_score_adj")
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	before := own()
	type result struct {
		p   *Process
		err error
	}
	exec := func(group string, adj int, args ...string) <-chan result {
		done := make(chan result, 1)
		go func() {
			p, err := c.Exec(ExecOptions{Stdio: stdio, Cgroup: group, Process: func(*specs.Process) (*specs.Process, error) {
				return &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, OOMScoreAdj: &adj}, nil
			}})
			done <- result{p, err}
		}()
		return done
	}
	ended := func(what string, done <-chan result, want string) {
		t.Helper()
		select {
		case r := <-done:
			if r.err != nil {
				t.Fatalf("%s: %v", what, r.err)
			}
			if raw, err := os.ReadFile("/proc/" + strconv.Itoa(r.p.Pid) + "/oom_score_adj"); err != nil || strings.TrimSpace(string(raw)) != want {
				t.Errorf("%s: %q, %v, want %s", what, raw, err, want)
			}
			_ = unix.PidfdSendSignal(r.p.PidFD, unix.SIGKILL, nil, 0)
			_, _ = r.p.Wait()
		case <-time.After(testenv.Timeout(20 * time.Second)):
			t.Fatalf("%s does not start", what)
		}
	}
	freeze("1")
	stuck := exec("stuck", 500, "sleep", "1000")
	defer func() { freeze("0"); ended("the one that was stuck", stuck, "500") }()
	for deadline := time.Now().Add(testenv.Timeout(20 * time.Second)); ; time.Sleep(time.Millisecond) {
		raw, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
		if err != nil {
			t.Fatal(err)
		}
		if len(raw) > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing comes into the group")
		}
	}
	if got := own(); got != before {
		t.Errorf("this process had oom_score_adj %q, has %q while another one is started", before, got)
	}
	ended("another one", exec("", 600, "sleep", "1000"), "600")
	if got := own(); got != before {
		t.Errorf("this process had oom_score_adj %q, has %q", before, got)
	}
}
