package integration

import (
	"bytes"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The init is killed at every operation between the connection of start and
// execve. Start must not call that a success, and the end of the program that
// ran is one.
func TestRootStartInitKilled(t *testing.T) {
	setup(t)
	b := newBox(t, script("exit 0"), func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActErrno}}}
	})
	for n := 1; ; n++ {
		b.create()
		what := "init killed at operation " + strconv.Itoa(n)
		out, code, last := startTraced(t, b, n)
		if last {
			if code != 0 || out != "" {
				t.Errorf("not killed: exit status %d, %s", code, out)
			}
			if n < 3 {
				t.Errorf("only %d operations", n-1)
			}
			return
		}
		if code != 1 || !strings.Contains(out, "was killed before it executed the process") && !strings.Contains(out, "container init ended before it executed the process") {
			t.Errorf("%s: start: exit status %d, %s", what, code, out)
		}
		if s := b.state(); s.Status != "stopped" {
			t.Errorf("%s: %s", what, s.Status)
		}
		b.must("delete")
	}
}

// startTraced runs start and kills the init at its nth system call after
// accept4(2), unless it has executed the user's program before; that is last.
func startTraced(t *testing.T, b *ociBox, n int) (out string, code int, last bool) {
	t.Helper()
	runtime.LockOSThread() // a tracer is a thread
	defer runtime.UnlockOSThread()
	pid := *b.state().Pid
	if err := unix.PtraceSeize(pid); err != nil {
		t.Fatal(err)
	}
	if err := unix.PtraceInterrupt(pid); err != nil {
		t.Fatal(err)
	}
	cmd := testenv.Command(t, "start", b.id)
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	accepting, accepted, killed, count := false, false, false, 0
	for i := 0; ; i++ {
		var ws unix.WaitStatus
		if _, err := unix.Wait4(pid, &ws, unix.WALL, nil); err != nil {
			t.Fatal(err)
		}
		if i == 0 { // it is interrupted: now somebody may connect
			if err := unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACEEXEC); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
		}
		nr, entry := syscallAt(pid)
		switch {
		case ws.TrapCause() == unix.PTRACE_EVENT_EXEC:
			last = true
		case ws.StopSignal() != unix.SIGTRAP|0x80:
		case !entry: // nr is the result: a descriptor, or that the call will be restarted
			accepted = accepted || accepting && int64(nr) >= 0
		case !accepted:
			accepting = nr == unix.SYS_ACCEPT4
		default:
			if count++; count == n {
				killed = true
			}
		}
		if killed || last {
			break
		}
		if err := unix.PtraceSyscall(pid, 0); err != nil {
			t.Fatal(err)
		}
	}
	if killed {
		_ = unix.Kill(pid, unix.SIGKILL)
	} else if err := unix.PtraceDetach(pid); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	_, _ = unix.Wait4(pid, nil, unix.WALL, nil)
	return text.String(), cmd.ProcessState.ExitCode(), last
}
