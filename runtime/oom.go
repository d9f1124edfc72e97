package runtime

import (
	"errors"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/internal/initprog"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// OOMError reports that the kernel killed a process of the container because a
// memory limit was reached.
type OOMError struct {
	Limit string // memory.max of the group; may be empty
	Group string // whose limit it is, "" for the container's own
	Kills uint64
}

func (e *OOMError) Error() string {
	const text, end = "killed by the kernel: ", " (out of memory)"
	switch {
	case e.Group != "" && e.Limit == "":
		return text + "a memory limit of cgroup \"" + e.Group + "\" was reached" + end
	case e.Group != "":
		return text + "the memory limit of cgroup \"" + e.Group + "\", " + e.Limit + " bytes, was reached" + end
	case e.Limit == "":
		return text + "a memory limit was reached" + end
	}
	return text + "the memory limit of " + e.Limit + " bytes was reached" + end
}

// Hint says what to do about it.
func (e *OOMError) Hint() string {
	if e.Group != "" {
		return "raise that limit; it is shared by all containers below the group"
	}
	return "raise linux.resources.memory.limit, or --memory"
}

// KilledError reports a process that ran and was killed.
type KilledError struct {
	ID  string
	Err error
}

func (e *KilledError) Error() string { return "container \"" + e.ID + "\": " + e.Err.Error() }
func (e *KilledError) Unwrap() error { return e.Err }

// oomOf explains the out-of-memory kills in g since before; nil if there are
// none or nobody can tell. early is for a process that had not executed its
// program yet: execve(2) and exec's first page faults, when they get no memory,
// end it with SIGKILL and do not count as a kill.
func oomOf(g *cgroups.Group, before cgroups.OOMCount, early bool) *OOMError {
	n, err := g.OOMCount()
	if err != nil || n.Kills <= before.Kills && (!early || n.Reached <= before.Reached) {
		return nil
	}
	e := &OOMError{Kills: n.Kills - before.Kills}
	group, limit := g.OOMLimit()
	if e.Limit = limit; group != g.Path {
		e.Group = group
	}
	return e
}

// OOM reports whether the kernel killed processes of the container for lack of
// memory; nil if it did not or nobody can tell.
func (c *Container) OOM() *OOMError {
	var before cgroups.OOMCount
	if c.exit != nil {
		before = c.exit.oom
	}
	return oomOf(c.group(), before, false)
}

// OOM is the same for what happened in the container since the process was added
// to it; always nil for a container without a memory limit of its own.
func (p *Process) OOM() *OOMError {
	if p.group == nil {
		return nil
	}
	return oomOf(p.group, p.oom, false)
}

// limitsMemory reports whether a configuration limits memory. Nobody else pays
// for looking at counters.
func limitsMemory(s *specs.Spec) bool {
	if s.Linux == nil || s.Linux.Resources == nil {
		return false
	}
	r := s.Linux.Resources
	_, unified := r.Unified["memory.max"]
	return unified || r.Memory != nil && r.Memory.Limit != nil && *r.Memory.Limit > 0
}

// killed reports whether err is what it looks like from outside when the
// container's init, or a process on its way in, is killed: no word at all, or a
// process that is not there. What it reported itself is something else.
func killed(err error) bool {
	var refused *cgroups.WriteError
	var program *ExecError
	if initprog.IsStep(err) != nil || errors.As(err, &refused) || errors.As(err, &program) {
		return false
	}
	for _, e := range [...]error{errInitDied, errNotExecuted, errNotJoined, unix.ENOENT, unix.ESRCH, unix.EPIPE, unix.ECONNRESET} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// errNotJoined is what is left when a process of exec ends without a word.
var errNotJoined = errors.New("the process was killed before it had joined the container")

// whyKilled replaces err by an out-of-memory kill in g since before, if that is
// how it came to it.
func whyKilled(id string, err error, g *cgroups.Group, before cgroups.OOMCount) error {
	if !killed(err) {
		return err
	}
	if oom := oomOf(g, before, true); oom != nil {
		return &ProcessError{ID: id, Err: oom, OOM: true}
	}
	return err
}
