package runtime

import (
	"math"
	goruntime "runtime"
	"slices"

	"github.com/minirun/minirun/internal/initprog"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const rlimitNPROC = "RLIMIT_NPROC"

// stepsApart is steps for a process that appears in a pid namespace where
// somebody lives already. There it is at the mercy of whoever has CAP_SYS_PTRACE:
// what it could still do, they can. So everything that takes privileges is done
// before, by the first process, and the second one starts with what the user's
// process may have. sync is the number of the sync descriptor.
//
// A filter that is loaded without noNewPrivileges takes CAP_SYS_ADMIN. It comes
// before too, if it allows what is left to do; otherwise, and with a listener, the
// second process has that capability until it has loaded it.
//
// A scheduling policy that is not for children has to be set by the second one,
// which then has all privileges until it has changed its user.
func (p *process) stepsApart(sync int) []initprog.Step {
	s := make([]initprog.Step, 0, 16)
	if notForChildren(p.spec.Scheduler) {
		s = append(s, &appear{}, &leader{})
		if p.spec.Terminal {
			s = append(s, &controlTerminal{})
		}
		return append(s, p.steps()...)
	}
	nproc := -1
	for i := range p.spec.Rlimits {
		if r := &p.spec.Rlimits[i]; r.Type == rlimitNPROC && r.Soft != math.MaxUint64 {
			nproc = i
		}
	}
	if len(p.spec.Rlimits) > 0 {
		s = append(s, &rlimits{p.spec.Rlimits, nproc >= 0})
	}
	s = attributes(s, p.spec, p.linux, p.exec)
	s = append(s, &workDir{p.spec.Cwd}, &identity{p}, &findExecutable{p})
	early := p.lateFilter() && p.filterAllowsRest(sync, nproc >= 0)
	if early {
		s = append(s, &confine{p})
	}
	s = append(s, &appear{}, &leader{})
	if p.spec.Terminal {
		s = append(s, &controlTerminal{})
	}
	if nproc >= 0 {
		s = append(s, &rlimits{limits: []specs.POSIXRlimit{p.spec.Rlimits[nproc]}})
	}
	if p.mortal {
		s = append(s, &dieWithParent{})
	}
	if !early {
		s = append(s, &confine{p})
	}
	return append(s, &execute{p})
}

// notForChildren reports whether a process with the policy cannot have children,
// or none that have it too; see sched(7), "Resetting scheduling policy for child
// processes".
func notForChildren(s *specs.Scheduler) bool {
	return s != nil && (s.Policy == specs.SchedDeadline || slices.Contains(s.Flags, specs.SchedFlagResetOnFork))
}

// filterAllowsRest reports whether the filter lets pass what follows it if it is
// loaded before the second process is made. What is sent to sync is a record.
func (p *process) filterAllowsRest(sync int, nproc bool) bool {
	if !p.agent.empty() {
		return false
	}
	ok := func(nr uint32, args ...uint64) bool { return p.filter.Allows(goruntime.GOARCH, nr, args...) }
	return ok(unix.SYS_CAPSET) && (p.caps.ambient == 0 || ok(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE)) &&
		ok(unix.SYS_CLONE, unix.CLONE_PARENT) && ok(unix.SYS_WRITE, uint64(sync), 0, initprog.RecordSize) &&
		ok(unix.SYS_EXIT_GROUP) && ok(unix.SYS_EXIT_GROUP, 1) &&
		ok(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE) && ok(unix.SYS_SETSID) &&
		(!p.spec.Terminal || ok(unix.SYS_IOCTL, 0, unix.TIOCSCTTY)) &&
		(!nproc || ok(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NPROC)) &&
		(!p.mortal || ok(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uint64(unix.SIGKILL)) && ok(unix.SYS_PPOLL)) &&
		ok(unix.SYS_EXECVE)
}

// oneMore is n+1, and for no limit no limit. The first process still counts when
// it makes the second.
func oneMore(n uint64) uint64 {
	if n == math.MaxUint64 {
		return n
	}
	return n + 1
}

// leader makes the second process the leader of a session of its own.
type leader struct{}

func (s *leader) Phase() string  { return "session" }
func (s *leader) String() string { return "lead a session" }
func (s *leader) Why() string {
	return "signals and input of the caller's session are not the container's"
}

func (s *leader) Emit(b *initprog.Builder) {
	b.Object("")
	b.Setsid()
}

// controlTerminal makes standard input the controlling terminal.
type controlTerminal struct{}

func (s *controlTerminal) Phase() string  { return "terminal" }
func (s *controlTerminal) String() string { return "make it the controlling terminal" }
func (s *controlTerminal) Why() string    { return "process.terminal" }

func (s *controlTerminal) Emit(b *initprog.Builder) {
	b.Object("terminal")
	b.Ioctl(initprog.FD(0), unix.TIOCSCTTY, initprog.Const(0)).Detail("TIOCSCTTY")
}
