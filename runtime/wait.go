package runtime

import (
	"fmt"
	"os"
	"strconv"
	"syscall"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/internal/linux"
)

// exitInfo is what a parent knows of its child.
type exitInfo struct {
	pidfd int
}

// PidFD is a pidfd of the init, -1 for a container that somebody else created.
// It stays the container's.
func (c *Container) PidFD() int {
	if c.exit == nil {
		return -1
	}
	return c.exit.pidfd
}

// Wait waits for the end of the init of a container that this process created
// and returns its wait status. It can be called once.
func (c *Container) Wait() (syscall.WaitStatus, error) {
	ws, err := reap(c.Pid)
	if err != nil {
		return ws, os.NewSyscallError("wait4", err)
	}
	if c.exit != nil {
		linux.Close(c.exit.pidfd)
		c.exit = nil
	}
	return ws, nil
}

// ExitCode is the status shells have for an end: the program's own, or 128 and
// the number of the signal.
func ExitCode(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// OOMError reports that the kernel killed a process of the container because
// its memory limit was reached.
type OOMError struct {
	Limit string // memory.max; may be empty
	Kills uint64
}

func (e *OOMError) Error() string {
	if e.Limit == "" {
		return "killed by the kernel: a memory limit was reached (out of memory)"
	}
	return "killed by the kernel: the memory limit of " + e.Limit + " bytes was reached (out of memory)"
}

// OOM reports whether the kernel killed processes of the container for lack of
// memory; nil if it did not or nobody can tell.
func (c *Container) OOM() *OOMError {
	g := c.group()
	n, err := g.OOMKills()
	if err != nil || n == 0 {
		return nil
	}
	limit, _ := g.Read("memory.max")
	for len(limit) > 0 && limit[len(limit)-1] == '\n' {
		limit = limit[:len(limit)-1]
	}
	if limit == "max" {
		limit = ""
	}
	return &OOMError{Limit: limit, Kills: n}
}

func memoryLimit(p *Plan) string {
	r := p.Spec.Linux.Resources
	if r == nil || r.Memory == nil || r.Memory.Limit == nil {
		return ""
	}
	return strconv.FormatInt(*r.Memory.Limit, 10)
}

// group that contains the init, which may have moved below the container's.
func (c *Container) initGroup() (*cgroups.Group, error) {
	path, err := cgroups.PathOf(c.Pid)
	if err != nil {
		return nil, fmt.Errorf("container %q: %w", c.ID, err)
	}
	return cgroups.Open(c.CgroupMount, path), nil
}
