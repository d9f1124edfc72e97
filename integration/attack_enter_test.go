package integration

import (
	"fmt"
	"os"
	goruntime "runtime"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// atStatus is what /proc/PID/status says about a process.
type atStatus struct {
	pids                int // in how many pid namespaces it is
	permitted, bounding uint64
	filtered            bool
}

func atStatusOf(pid int) (s atStatus, ok bool) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return s, false
	}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		switch name {
		case "NSpid":
			s.pids = len(strings.Fields(value))
		case "CapPrm":
			s.permitted, _ = strconv.ParseUint(value, 16, 64)
		case "CapBnd":
			s.bounding, _ = strconv.ParseUint(value, 16, 64)
		case "Seccomp":
			s.filtered = value != "0"
		}
	}
	return s, true
}

// A container with CAP_SYS_PTRACE takes over a process that exec adds, before
// that has given up root of the host's capabilities. The tracer here stands for
// it: at each system call that is made where the container can see it, there must
// be nothing to be taken that the container does not have: neither privileges, nor
// what the caller of minirun has open.
func TestRootAttackExecTakeover(t *testing.T) {
	setup(t)
	base := len(strings.Fields(atField(t, os.Getpid(), "NSpid")))
	left, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer left.Close()
	const ptrace = 1 << unix.CAP_SYS_PTRACE
	deny := func(names ...string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow, Architectures: []specs.Arch{atNativeArch()},
				Syscalls: []specs.LinuxSyscall{{Names: names, Action: specs.ActErrno}},
			}
		}
	}
	privileged := func(on bool) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Process.NoNewPrivileges = on }
	}
	for _, c := range []struct {
		name   string
		mutate []func(*specs.Spec)
		flags  []string
		filter bool // everything that the container sees is under it
		more   uint64
	}{
		{name: "no filter", mutate: []func(*specs.Spec){privileged(false)}},
		{name: "another user", mutate: []func(*specs.Spec){privileged(false)}, flags: []string{"--user", "1000:1000"}},
		{name: "filter without noNewPrivileges", mutate: []func(*specs.Spec){privileged(false), deny("keyctl", "clone3")}, filter: true},
		{name: "the same as another user", mutate: []func(*specs.Spec){privileged(false), deny("keyctl", "clone3")}, flags: []string{"--user", "1000:1000"}, filter: true},
		{name: "filter with noNewPrivileges", mutate: []func(*specs.Spec){privileged(true), deny("keyctl")}},
		{name: "processes counted", mutate: []func(*specs.Spec){privileged(false), func(s *specs.Spec) {
			s.Process.Rlimits = append(s.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_NPROC", Soft: 100, Hard: 200})
		}}},
		// The exception that docs/security.md tells of.
		{name: "filter that denies clone", mutate: []func(*specs.Spec){privileged(false), deny("clone")}, flags: []string{"--user", "1000:1000"}, more: 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_SETPCAP},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t, append([]func(*specs.Spec){func(s *specs.Spec) {
				s.Process.Args = []string{"sleep", "1000"} // it may not clone
				s.Process.Capabilities = &specs.LinuxCapabilities{
					Bounding: []string{"CAP_SYS_PTRACE"}, Effective: []string{"CAP_SYS_PTRACE"}, Permitted: []string{"CAP_SYS_PTRACE"},
				}
			}}, c.mutate...)...)
			b.up()
			seen, executed := 0, false
			var bad []string
			control := false
			x := tracer{target: containerInit, n: -1, stderr: new(string), left: int(left.Fd()), look: func(pid int, nr uint64) {
				s, ok := atStatusOf(pid)
				target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/40", pid))
				control = control || target == left.Name()
				if !ok || s.pids <= base {
					return
				}
				seen++
				if target != "" {
					bad = append(bad, fmt.Sprintf("call %d: it has %s, which the caller has left open", nr, target))
				}
				executed = executed || nr == unix.SYS_EXECVE
				if extra := s.permitted &^ (ptrace | c.more); extra != 0 {
					bad = append(bad, fmt.Sprintf("call %d: it has capabilities %#x", nr, extra))
				}
				if extra := s.bounding &^ ptrace; extra != 0 {
					bad = append(bad, fmt.Sprintf("call %d: it could gain capabilities %#x", nr, extra))
				}
				if c.filter && !s.filtered {
					bad = append(bad, fmt.Sprintf("call %d: it is under no filter", nr))
				}
			}}
			type result struct {
				code int
				err  error
			}
			done := make(chan result)
			onThread(func() {
				code, _, err := x.run(testenv.Command(t, append(append([]string{"exec"}, c.flags...), b.id, "/bin/true")...).Args)
				done <- result{code, err}
			})
			if r := <-done; r.err != nil || r.code != 0 {
				t.Fatalf("exec: status %d, %v\n%s", r.code, r.err, *x.stderr)
			}
			if seen == 0 || !executed {
				t.Fatalf("%d system calls seen in the container, execve among them: %t", seen, executed)
			}
			if !control {
				t.Error("nobody was given what the caller has left open")
			}
			if len(bad) > 0 {
				t.Errorf("of %d system calls in the container:\n%s", seen, strings.Join(bad, "\n"))
			}
		})
	}
}

func atNativeArch() specs.Arch {
	if goruntime.GOARCH == "arm64" {
		return specs.ArchAARCH64
	}
	return specs.ArchX86_64
}

func atField(t *testing.T, pid int, field string) string {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if v, ok := strings.CutPrefix(line, field+":"); ok {
			return v
		}
	}
	t.Fatalf("no %s in /proc/%d/status", field, pid)
	return ""
}
