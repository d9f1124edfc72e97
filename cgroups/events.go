package cgroups

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// events is cgroup.events: whether the group or a sub-group has a living
// process, and whether all of them are frozen.
type events struct{ populated, frozen bool }

func parseEvents(text string) events {
	return events{populated: keyed(text, "populated") == "1", frozen: keyed(text, "frozen") == "1"}
}

func (g *Group) events() (events, error) {
	text, err := g.Read("cgroup.events")
	return parseEvents(text), err
}

// Populated reports whether a process lives in the group or below it. A group
// that does not exist has none.
func (g *Group) Populated() (bool, error) {
	e, err := g.events()
	if gone(err) {
		return false, nil
	}
	return e.populated, err
}

// WaitEmpty waits until no process lives in the group or below it, or until the
// group is gone. The error after timeout is a *TimeoutError; a timeout of zero
// or less only looks.
func (g *Group) WaitEmpty(timeout time.Duration) error {
	return g.wait(timeout, "empty", func(e events) bool { return !e.populated })
}

// wait waits until cgroup.events satisfies done; a group that is gone satisfies
// everything.
func (g *Group) wait(timeout time.Duration, want string, done func(events) bool) error {
	fd, err := linux.OpenAt(unix.AT_FDCWD, g.Dir()+"/cgroup.events", unix.O_RDONLY, 0)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	start := time.Now()
	var buf [256]byte
	for pause := firstPause; ; pause *= 2 {
		n, err := unix.Pread(fd, buf[:], 0) // tells the kernel what we have seen
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ENODEV:
			return nil
		case err != nil:
			return err
		case done(parseEvents(string(buf[:n]))):
			return nil
		}
		left := timeout - time.Since(start)
		if left <= 0 {
			return &TimeoutError{g.Path, want, timeout}
		}
		pollEvents(fd, min(left, patience(pause)))
	}
}

// The kernel announces changes of cgroup.events to poll(2), but no more than
// one every 10 ms, and a process that has been waited for may count as living
// for some microseconds more. A short-lived container would wait longest for
// the announcement of its own end, so the first looks come after growing pauses
// of 50 us to 25 ms; from then on the announcement counts. One thing is never
// announced, that an empty group was removed, hence a look every second.
const (
	firstPause = 50 * time.Microsecond
	lastPause  = 25 * time.Millisecond
	longPause  = time.Second
)

func patience(pause time.Duration) time.Duration {
	if pause > lastPause || pause <= 0 {
		return longPause
	}
	return pause
}

// pollEvents returns when the file changes or after d.
func pollEvents(fd int, d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
	_, _ = unix.Ppoll(fds[:], &ts, nil) // an interruption is just another look
}
