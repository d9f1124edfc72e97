package cgroups

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// Kill sends SIGKILL to every process of the group and its sub-groups, with no
// gap for a fork to slip through: cgroup.kill (Linux 5.14). Frozen processes die
// too. It does not wait, see [Group.WaitEmpty]. A group that does not exist is
// no error.
func (g *Group) Kill() error {
	err := g.write("cgroup.kill", "1")
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOENT) && !g.Exists():
		return nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP):
		// An old kernel, or a threaded group, which the kernel will not kill whole.
		return g.killEach()
	}
	return err
}

const (
	killFreeze = 2 * time.Second // for the freezer to stop all forks
	killRounds = 50              // when it could not
)

// killEach freezes the group, kills every process through a pidfd and thaws it
// again, whatever happened in between.
func (g *Group) killEach() error {
	// Not frozen is no reason to give up: rounds catch what forks.
	if err := g.Freeze(killFreeze); err == nil {
		defer func() { _ = g.write("cgroup.freeze", "0") }()
	}
	var done []int
	for range killRounds {
		pids, err := g.Procs()
		if err != nil {
			return err
		}
		fresh := 0
		for _, pid := range pids {
			if slices.Contains(done, pid) {
				continue
			}
			fresh++
			if err := g.killOne(pid); err != nil {
				return err
			}
			done = append(done, pid)
		}
		if fresh == 0 {
			return nil
		}
	}
	return &TimeoutError{g.Path, "empty", 0}
}

func (g *Group) killOne(pid int) error {
	if pid == 0 {
		return errors.New("cgroup " + strconv.Quote(g.Path) + ": kill: a process is outside this pid namespace")
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	// The number may have been given to another process before it was opened. If
	// it is in the group now, the descriptor is of a process of the group.
	if now, err := g.Procs(); err != nil || !slices.Contains(now, pid) {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return err
	}
	return nil
}
