package runtime

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/internal/linux"
)

// exitInfo is what a parent knows of its child.
type exitInfo struct {
	pidfd int
	oom   cgroups.OOMCount // in its group, before it was made
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

// group that contains the init, which may have moved below the container's.
func (c *Container) initGroup() (*cgroups.Group, error) {
	path, err := cgroups.PathOf(c.Pid)
	if err != nil {
		return nil, fmt.Errorf("container %q: %w", c.ID, err)
	}
	if path != c.Cgroup && !strings.HasPrefix(path, strings.TrimSuffix(c.Cgroup, "/")+"/") {
		// Somebody has moved it: a process there would have none of the limits.
		return nil, fmt.Errorf("container %q: its process is in the cgroup %q, which is not below the container's, %q", c.ID, path, c.Cgroup)
	}
	return cgroups.Open(c.CgroupMount, path), nil
}
