package runtime

import (
	"strconv"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/runtime/bundle"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The steps below set what the user's process inherits and keeps beyond
// execve(2). They come while the process has all of its privileges, and before a
// filter could deny them. Their phases are the names of the fields, so that an
// error names the field.
const (
	phaseScheduler   = "process.scheduler"
	phaseIOPriority  = "process.ioPriority"
	phaseAffinity    = "process.execCPUAffinity.final"
	phaseMemory      = "linux.memoryPolicy"
	phasePersonality = "linux.personality"
)

// attributes are the steps for a process of a container with the configuration l.
// exec: it is added to a running container.
func attributes(s []initprog.Step, p *specs.Process, l *specs.Linux, exec bool) []initprog.Step {
	if exec && p.ExecCPUAffinity != nil && p.ExecCPUAffinity.Final != "" {
		s = append(s, &affinity{p.ExecCPUAffinity.Final})
	}
	if p.Scheduler != nil {
		s = append(s, &scheduler{p.Scheduler})
	}
	if p.IOPriority != nil {
		s = append(s, &ioPriority{p.IOPriority})
	}
	if l == nil {
		return s
	}
	if l.MemoryPolicy != nil {
		s = append(s, &memoryPolicy{l.MemoryPolicy})
	}
	if l.Personality != nil {
		s = append(s, &personality{l.Personality})
	}
	return s
}

// scheduler sets the policy.
type scheduler struct{ s *specs.Scheduler }

func (s *scheduler) Phase() string { return phaseScheduler }
func (s *scheduler) String() string {
	t := "be scheduled by " + string(s.s.Policy)
	if s.s.Priority != 0 {
		t += ", priority " + strconv.Itoa(int(s.s.Priority))
	}
	return t + ", nice " + strconv.Itoa(int(s.s.Nice))
}

func (s *scheduler) Why() string { return "while there is still the privilege for it" }

func (s *scheduler) Emit(b *initprog.Builder) {
	a := &unix.SchedAttr{
		Policy: schedPolicy(s.s.Policy), Nice: s.s.Nice, Priority: uint32(s.s.Priority),
		Runtime: s.s.Runtime, Deadline: s.s.Deadline, Period: s.s.Period,
	}
	for _, f := range s.s.Flags {
		a.Flags |= schedFlag(f)
	}
	b.Object(string(s.s.Policy))
	b.SchedSetattr(a)
}

// schedPolicy is the kernel's number of a policy; see sched(7).
func schedPolicy(p specs.LinuxSchedulerPolicy) uint32 {
	switch p {
	case specs.SchedFIFO:
		return unix.SCHED_FIFO
	case specs.SchedRR:
		return unix.SCHED_RR
	case specs.SchedBatch:
		return unix.SCHED_BATCH
	case specs.SchedIdle:
		return unix.SCHED_IDLE
	case specs.SchedDeadline:
		return unix.SCHED_DEADLINE
	}
	return unix.SCHED_NORMAL
}

func schedFlag(f specs.LinuxSchedulerFlag) uint64 {
	switch f {
	case specs.SchedFlagResetOnFork:
		return unix.SCHED_FLAG_RESET_ON_FORK
	case specs.SchedFlagReclaim:
		return unix.SCHED_FLAG_RECLAIM
	case specs.SchedFlagDLOverrun:
		return unix.SCHED_FLAG_DL_OVERRUN
	case specs.SchedFlagKeepPolicy:
		return unix.SCHED_FLAG_KEEP_POLICY
	case specs.SchedFlagKeepParams:
		return unix.SCHED_FLAG_KEEP_PARAMS
	case specs.SchedFlagUtilClampMin:
		return unix.SCHED_FLAG_UTIL_CLAMP_MIN
	case specs.SchedFlagUtilClampMax:
		return unix.SCHED_FLAG_UTIL_CLAMP_MAX
	}
	return 0
}

// ioPriority sets the I/O priority.
type ioPriority struct{ p *specs.LinuxIOPriority }

func (s *ioPriority) Phase() string { return phaseIOPriority }
func (s *ioPriority) String() string {
	return "do I/O in " + string(s.p.Class) + ", priority " + strconv.Itoa(s.p.Priority)
}
func (s *ioPriority) Why() string { return "while there is still the privilege for it" }

func (s *ioPriority) Emit(b *initprog.Builder) {
	class := uint64(1) // see ioprio_set(2)
	switch s.p.Class {
	case specs.IOPRIO_CLASS_BE:
		class = 2
	case specs.IOPRIO_CLASS_IDLE:
		class = 3
	}
	b.Object(string(s.p.Class))
	b.IoprioSet(class, uint64(s.p.Priority))
}

// affinity sets the processors of a process that exec adds, in the cgroup.
type affinity struct{ cpus string }

func (s *affinity) Phase() string  { return phaseAffinity }
func (s *affinity) String() string { return "run on the processors " + s.cpus }
func (s *affinity) Why() string {
	return "in the container's cgroup, which may have processors of its own"
}

func (s *affinity) Emit(b *initprog.Builder) {
	b.Object(s.cpus)
	b.SchedSetaffinity(bundle.Mask(s.cpus))
}

// memoryPolicy sets the nodes that memory comes from.
type memoryPolicy struct{ p *specs.LinuxMemoryPolicy }

func (s *memoryPolicy) Phase() string { return phaseMemory }
func (s *memoryPolicy) String() string {
	t := "take memory by " + string(s.p.Mode)
	for _, f := range s.p.Flags {
		t += "|" + string(f)
	}
	if s.p.Nodes != "" {
		t += " from the nodes " + s.p.Nodes
	}
	return t
}
func (s *memoryPolicy) Why() string { return "" }

func (s *memoryPolicy) Emit(b *initprog.Builder) {
	mode := memoryMode(s.p.Mode)
	for _, f := range s.p.Flags {
		switch f {
		case specs.MpolFNumaBalancing:
			mode |= unix.MPOL_F_NUMA_BALANCING
		case specs.MpolFRelativeNodes:
			mode |= unix.MPOL_F_RELATIVE_NODES
		case specs.MpolFStaticNodes:
			mode |= unix.MPOL_F_STATIC_NODES
		}
	}
	b.Object(string(s.p.Mode))
	b.SetMempolicy(mode, bundle.Mask(s.p.Nodes))
}

func memoryMode(m specs.MemoryPolicyModeType) uint64 {
	switch m {
	case specs.MpolPreferred:
		return unix.MPOL_PREFERRED
	case specs.MpolBind:
		return unix.MPOL_BIND
	case specs.MpolInterleave:
		return unix.MPOL_INTERLEAVE
	case specs.MpolLocal:
		return unix.MPOL_LOCAL
	case specs.MpolPreferredMany:
		return unix.MPOL_PREFERRED_MANY
	case specs.MpolWeightedInterleave:
		return unix.MPOL_WEIGHTED_INTERLEAVE
	}
	return unix.MPOL_DEFAULT
}

// personality sets the execution domain.
type personality struct{ p *specs.LinuxPersonality }

func (s *personality) Phase() string  { return phasePersonality }
func (s *personality) String() string { return "see a machine as " + string(s.p.Domain) + " has it" }
func (s *personality) Why() string    { return "before a filter that may deny it" }

func (s *personality) Emit(b *initprog.Builder) {
	domain := uint64(0) // PER_LINUX
	if s.p.Domain == specs.PerLinux32 {
		domain = 8
	}
	b.Object(string(s.p.Domain))
	b.Personality(domain)
}
