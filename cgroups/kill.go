package cgroups

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"syscall"
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
		return g.killHeadless()
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOENT) && !g.Exists():
		return nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP):
		// An old kernel, or a threaded group, which the kernel will not kill whole.
		return g.killEach()
	}
	return err
}

// killHeadless kills what cgroup.kill has left: it signals first threads, and where
// that one has ended the others do not notice (send_sig in __cgroup_kill). A signal
// to the process reaches them.
func (g *Group) killHeadless() error {
	pids, err := g.Procs()
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	for err == nil && len(pids) > 0 {
		n := min(batch, len(pids))
		err = g.signal(pids[:n], unix.SIGKILL)
		pids = pids[n:]
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

// Signal sends a signal to every process of the group and its sub-groups. Those
// that are made meanwhile may not get it.
func (g *Group) Signal(sig syscall.Signal) error {
	pids, err := g.Procs()
	if err != nil {
		return err
	}
	var errs []error
	for len(pids) > 0 {
		n := min(batch, len(pids))
		errs = append(errs, g.signal(pids[:n], sig))
		pids = pids[n:]
	}
	return errors.Join(errs...)
}

// batch is how many descriptors signal opens at a time.
const batch = 32

// signal sends a signal to those of the processes that are in the group. As in
// killOne: a number may have been given to another process before it was opened.
func (g *Group) signal(pids []int, sig syscall.Signal) error {
	fds := make([]int, len(pids))
	for i, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil { // it has ended
			fd = -1
		}
		fds[i] = fd
	}
	now, err := g.Procs()
	for i, pid := range pids {
		if err == nil && fds[i] >= 0 && slices.Contains(now, pid) {
			if e := unix.PidfdSendSignal(fds[i], sig, nil, 0); e != nil && e != unix.ESRCH {
				err = os.NewSyscallError("pidfd_send_signal", e)
			}
		}
	}
	for _, fd := range fds {
		linux.Close(fd)
	}
	return err
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
