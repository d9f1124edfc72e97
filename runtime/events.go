package runtime

import (
	"errors"
	"os"
	"time"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// Stats are the counters of the container's cgroup.
func (c *Container) Stats() (*cgroups.Stats, error) {
	status, err := c.Status()
	if err != nil {
		return nil, err
	}
	if status == Stopped {
		return nil, &StatusError{ID: c.ID, Op: "events", Have: Stopped}
	}
	s, err := c.group().Stats()
	if err != nil {
		return nil, c.gone("events", err)
	}
	return s, nil
}

// Watch calls stats after each interval and oom whenever the kernel has killed
// processes of the container for lack of memory, until the container has stopped
// or one of them returns an error.
func (c *Container) Watch(interval time.Duration, stats func(*cgroups.Stats) error, oom func() error) error {
	pidfd, err := c.process()
	if err != nil {
		return err
	}
	if pidfd < 0 {
		return &StatusError{ID: c.ID, Op: "events", Have: Stopped}
	}
	defer linux.Close(pidfd)
	w := watch{c: c, g: c.group(), oom: oom}
	// The kernel announces changes of the file to poll(2) on a descriptor that has
	// been read. Without a memory controller there is nothing to announce.
	w.events, err = linux.OpenAt(unix.AT_FDCWD, w.g.Dir()+"/memory.events", unix.O_RDONLY, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err == nil {
		defer linux.Close(w.events)
		w.kills, _ = w.read()
	}
	next := time.Now().Add(interval)
	for {
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}, {Fd: int32(w.events), Events: unix.POLLPRI}}
		ts := unix.NsecToTimespec(max(int64(time.Until(next)), 0))
		n, err := unix.Ppoll(fds, &ts, nil)
		if err != nil && err != unix.EINTR {
			return os.NewSyscallError("ppoll", err)
		}
		if n > 0 && fds[1].Revents != 0 || n > 0 && fds[0].Revents != 0 {
			if err := w.look(); err != nil {
				return err
			}
		}
		if n > 0 && fds[0].Revents != 0 {
			return nil
		}
		if time.Until(next) > 0 {
			continue
		}
		for next = next.Add(interval); time.Until(next) <= 0; { // missed while suspended: once is enough
			next = time.Now().Add(interval)
		}
		switch s, err := w.g.Stats(); {
		case err == nil:
			if err := stats(s); err != nil {
				return err
			}
		case !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV):
			return err
		case !ended(pidfd, 0):
			return &CgroupGoneError{ID: c.ID, Cgroup: c.Cgroup}
		}
	}
}

type watch struct {
	c      *Container
	g      *cgroups.Group
	oom    func() error
	events int // memory.events, -1 if there is none
	kills  uint64
}

// look tells about kills since the last look.
func (w *watch) look() error {
	n, ok := w.read()
	if !ok {
		w.events = -1 // the group is gone
		return nil
	}
	if n <= w.kills {
		return nil
	}
	w.kills = n
	return w.oom()
}

func (w *watch) read() (kills uint64, ok bool) {
	var buf [512]byte
	if w.events < 0 {
		return 0, false
	}
	n, err := unix.Pread(w.events, buf[:], 0)
	if err != nil {
		return 0, false
	}
	return cgroups.ParseOOMCount(string(buf[:n])).Kills, true
}
