package bundle

import (
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// process checks the process of a container or of an exec.
func (c *checker) process(p *specs.Process) {
	if len(p.Args) == 0 {
		c.add(`args must not be empty: name the program, such as ["sh"]`, "process.args")
	} else if p.Args[0] == "" {
		c.add("empty: name the program", "process.args[0]")
	}
	for i, arg := range p.Args {
		c.text(arg, "process.args[%d]", i)
	}
	for i, env := range p.Env {
		c.env(env, "process.env[%d]", i)
	}
	c.text(p.Cwd, "process.cwd")
	if !strings.HasPrefix(p.Cwd, "/") {
		c.add("cwd must be an absolute path, got "+strconv.Quote(p.Cwd), "process.cwd")
	}
	c.text(p.ApparmorProfile, "process.apparmorProfile")
	c.text(p.SelinuxLabel, "process.selinuxLabel")
	c.user(&p.User)
	c.rlimits(p.Rlimits)
	if p.OOMScoreAdj != nil && (*p.OOMScoreAdj < -1000 || *p.OOMScoreAdj > 1000) {
		c.add("want -1000 to 1000, got "+strconv.Itoa(*p.OOMScoreAdj), "process.oomScoreAdj")
	}
	// struct winsize of ioctl_tty(2) has 16 bits for each.
	if b := p.ConsoleSize; b != nil && (b.Height > 65535 || b.Width > 65535) {
		c.add("height and width can be 65535 at most", "process.consoleSize")
	}
	c.scheduler(p.Scheduler)
	c.ioPriority(p.IOPriority)
	if a := p.ExecCPUAffinity; a != nil {
		c.list(a.Initial, "process.execCPUAffinity.initial", maxCPU)
		c.list(a.Final, "process.execCPUAffinity.final", maxCPU)
	}
}

// env checks one variable. Its value stays out of the message: it may be a
// password.
func (c *checker) env(env, path string, i int) {
	c.text(env, path, i)
	switch strings.IndexByte(env, '=') {
	case -1:
		c.add("invalid environment variable: missing '=': write NAME=value, or NAME= for an empty value", path, i)
	case 0:
		c.add("invalid environment variable: name cannot be empty: write NAME=value", path, i)
	}
}

// noID is (uid_t)-1, which setresuid(2) and chown(2) read as "leave alone".
const noID = 1<<32 - 1

func (c *checker) user(u *specs.User) {
	const msg = "4294967295 is not an id: the kernel reads it as none"
	if u.UID == noID {
		c.add(msg, "process.user.uid")
	}
	if u.GID == noID {
		c.add(msg, "process.user.gid")
	}
	for i, gid := range u.AdditionalGids {
		if gid == noID {
			c.add(msg, "process.user.additionalGids[%d]", i)
		}
	}
	// NGROUPS_MAX, see getgroups(2).
	if len(u.AdditionalGids) > 65536 {
		c.add("more than 65536 groups, which is the kernel's limit", "process.user.additionalGids")
	}
	if u.Umask != nil && *u.Umask > 0o777 {
		c.add("want 0 to 511 (octal 777), got "+strconv.FormatUint(uint64(*u.Umask), 10), "process.user.umask")
	}
}

func (c *checker) rlimits(limits []specs.POSIXRlimit) {
	var seen uint32
	for i := range limits {
		l := &limits[i]
		n := rlimit(l.Type)
		switch {
		case n < 0:
			c.add("unknown limit "+strconv.Quote(l.Type)+": want a name of getrlimit(2), such as RLIMIT_NOFILE", "process.rlimits[%d].type", i)
		case seen&(1<<n) != 0:
			c.add(l.Type+" is set twice: remove one", "process.rlimits[%d].type", i)
		default:
			seen |= 1 << n
		}
		if l.Soft > l.Hard {
			c.add("the soft limit "+strconv.FormatUint(l.Soft, 10)+" exceeds the hard limit "+strconv.FormatUint(l.Hard, 10), "process.rlimits[%d].soft", i)
		}
	}
}

// rlimit returns the kernel's number of a resource limit on amd64 and arm64,
// -1 if it is unknown.
func rlimit(name string) int {
	switch name {
	case "RLIMIT_CPU":
		return 0
	case "RLIMIT_FSIZE":
		return 1
	case "RLIMIT_DATA":
		return 2
	case "RLIMIT_STACK":
		return 3
	case "RLIMIT_CORE":
		return 4
	case "RLIMIT_RSS":
		return 5
	case "RLIMIT_NPROC":
		return 6
	case "RLIMIT_NOFILE":
		return 7
	case "RLIMIT_MEMLOCK":
		return 8
	case "RLIMIT_AS":
		return 9
	case "RLIMIT_LOCKS":
		return 10
	case "RLIMIT_SIGPENDING":
		return 11
	case "RLIMIT_MSGQUEUE":
		return 12
	case "RLIMIT_NICE":
		return 13
	case "RLIMIT_RTPRIO":
		return 14
	case "RLIMIT_RTTIME":
		return 15
	}
	return -1
}

// scheduler checks what sched_setattr(2) would answer with EINVAL.
func (c *checker) scheduler(s *specs.Scheduler) {
	if s == nil {
		return
	}
	realtime, deadline := false, false
	switch s.Policy {
	case specs.SchedOther, specs.SchedBatch, specs.SchedIdle:
	case specs.SchedFIFO, specs.SchedRR:
		realtime = true
	case specs.SchedDeadline:
		deadline = true
	case "":
		c.add("scheduler policy is required, such as SCHED_OTHER", "process.scheduler.policy")
	default:
		c.add("unknown policy "+strconv.Quote(string(s.Policy))+": want SCHED_OTHER, SCHED_BATCH, SCHED_IDLE, SCHED_FIFO, SCHED_RR or SCHED_DEADLINE", "process.scheduler.policy")
	}
	if s.Nice < -20 || s.Nice > 19 {
		c.add("want -20 to 19, got "+strconv.Itoa(int(s.Nice)), "process.scheduler.nice")
	}
	switch {
	case realtime && (s.Priority < 1 || s.Priority > 99):
		c.add("want 1 to 99 with "+string(s.Policy)+", got "+strconv.Itoa(int(s.Priority)), "process.scheduler.priority")
	case !realtime && s.Priority != 0:
		c.add("a priority goes with SCHED_FIFO or SCHED_RR only: remove it or change the policy", "process.scheduler.priority")
	}
	for i, flag := range s.Flags {
		switch flag {
		case specs.SchedFlagResetOnFork, specs.SchedFlagReclaim, specs.SchedFlagDLOverrun, specs.SchedFlagKeepPolicy,
			specs.SchedFlagKeepParams, specs.SchedFlagUtilClampMin, specs.SchedFlagUtilClampMax:
		default:
			c.add("unknown flag "+strconv.Quote(string(flag))+": see sched_setattr(2)", "process.scheduler.flags[%d]", i)
		}
	}
	switch {
	case !deadline && (s.Runtime != 0 || s.Deadline != 0 || s.Period != 0):
		c.add("runtime, deadline and period go with SCHED_DEADLINE only: remove them or change the policy", "process.scheduler.runtime")
	case deadline && (s.Runtime == 0 || s.Runtime > s.Deadline || s.Period != 0 && s.Deadline > s.Period):
		c.add("SCHED_DEADLINE wants 0 < runtime <= deadline <= period", "process.scheduler.runtime")
	}
}

func (c *checker) ioPriority(p *specs.LinuxIOPriority) {
	if p == nil {
		return
	}
	switch p.Class {
	case specs.IOPRIO_CLASS_RT, specs.IOPRIO_CLASS_BE, specs.IOPRIO_CLASS_IDLE:
	default:
		c.add("unknown class "+strconv.Quote(string(p.Class))+": want IOPRIO_CLASS_RT, IOPRIO_CLASS_BE or IOPRIO_CLASS_IDLE", "process.ioPriority.class")
	}
	if p.Priority < 0 || p.Priority > 7 {
		c.add("want 0 (highest) to 7, got "+strconv.Itoa(p.Priority), "process.ioPriority.priority")
	}
}
