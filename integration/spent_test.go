package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// What a row of the corpus may take: memory of the largest process, and processor
// time of all commands of the row together. On a machine that does nothing else
// that is below the 2 s that are the goal; processor time grows several times where
// processors are shared or slow, and the allowance is for that.
const (
	maxRowRSS = 64 << 20
	maxRowCPU = 2 * time.Second * 5
)

// spent is what commands took.
type spent struct {
	RSS int64 // of the largest process, in bytes
	CPU time.Duration
}

// launchEnv makes the test binary start its arguments and tell, in a file that is
// open already, what they took. It is small: a process begins with the peak of the
// one that started it, so the tests' own would be measured.
const launchEnv = "MINIRUN_TEST_LAUNCH"

func launch() {
	if os.Getenv(launchEnv) == "" {
		return
	}
	os.Unsetenv(launchEnv)
	unix.CloseOnExec(3)
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "launch:", err)
		os.Exit(125)
	}
	u := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	_ = json.NewEncoder(os.NewFile(3, "spent")).Encode(spent{u.Maxrss << 10, time.Duration(u.Utime.Nano() + u.Stime.Nano())})
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		os.Exit(128 + int(status.Signal()))
	}
	os.Exit(status.ExitStatus())
}

// run runs a command and adds what it takes.
func (s *spent) run(t testing.TB, cmd *exec.Cmd) testenv.Result {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.CreateTemp(t.TempDir(), "spent")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Args = append([]string{self, cmd.Path}, cmd.Args[1:]...)
	cmd.Path, cmd.Env, cmd.ExtraFiles = self, append(cmd.Env, launchEnv+"=1"), []*os.File{out}
	r := testenv.RunCmd(t, cmd)
	var one spent
	text, err := os.ReadFile(out.Name())
	if err == nil {
		err = json.Unmarshal(text, &one)
	}
	if err != nil {
		t.Fatalf("%q does not tell what it took: %v: %+v", cmd.Args, err, r)
	}
	s.RSS, s.CPU = max(s.RSS, one.RSS), s.CPU+one.CPU
	return r
}

// within fails the test if that was too much.
func (s *spent) within(t testing.TB) {
	t.Helper()
	if os.Getenv("MINIRUN_TEST_SHOW_BOUNDS") != "" {
		t.Logf("bounds %d MB %v", s.RSS>>20, s.CPU)
	}
	if s.RSS <= 0 || s.RSS > maxRowRSS {
		t.Errorf("takes %d bytes of memory, want at most %d", s.RSS, maxRowRSS)
	}
	if s.CPU > maxRowCPU {
		t.Errorf("takes %v of processor time, want at most %v", s.CPU, maxRowCPU)
	}
}

// What is compared with the bounds is measured: a program that works, and holds memory.
func TestSpent(t *testing.T) {
	var idle, busy spent
	testenvBusybox := testenv.Busybox(t)
	if r := idle.run(t, exec.Command(testenvBusybox, "true")); r.Code != 0 {
		t.Fatalf("%+v", r)
	}
	// dd has a buffer of that size, and fills it.
	if r := busy.run(t, exec.Command(testenvBusybox, "dd", "if=/dev/zero", "of=/dev/null", "bs=80M", "count=8")); r.Code != 0 {
		t.Fatalf("%+v", r)
	}
	if idle.RSS <= 0 || idle.RSS > maxRowRSS/2 || busy.RSS <= maxRowRSS || busy.CPU <= idle.CPU {
		t.Errorf("nothing: %+v, 640 MB in pieces of 80: %+v", idle, busy)
	}
	if r := idle.run(t, exec.Command(testenvBusybox, "sh", "-c", "echo out; echo err >&2; exit 7")); r.Code != 7 || r.Stdout != "out\n" || r.Stderr != "err\n" {
		t.Errorf("%+v", r)
	}
}
