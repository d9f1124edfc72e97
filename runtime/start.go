package runtime

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// Start lets a created container run the user's process. When it returns, the
// process runs, or the error says why it could not be executed; then the
// container has stopped.
func (c *Container) Start() error {
	dir, err := lockDir(c.Dir())
	if errors.Is(err, unix.ENOENT) {
		return &NotExistError{ID: c.ID}
	}
	if err != nil {
		return err
	}
	defer linux.Close(dir)
	supervise, notifier, timing := c.Supervise, c.Notifier, c.Timing
	if c, err = c.store.load(c.ID); err != nil { // as it is now that it is ours
		return err
	}
	c.Supervise, c.Notifier = supervise, notifier
	pidfd, err := c.process()
	if err != nil {
		return err
	}
	defer linux.Close(pidfd)
	status, err := c.statusLocked(pidfd >= 0)
	if err != nil {
		return err
	}
	if status != Created {
		return &StatusError{ID: c.ID, Op: "start", Have: status}
	}
	timing.Mark("record and state")
	hooks, err := c.hooksOfStart(dir)
	if err != nil {
		return err
	}
	if err := c.startContainer(hooks, pidfd, nil); err != nil {
		return c.stop(dir, pidfd, err)
	}
	if c.Hooks != 0 {
		timing.Mark("hooks of start")
	}
	if err := c.listenNotify(dir); err != nil {
		return err
	}
	conn, err := dialAt(dir, startFile)
	if c.startedBefore(pidfd, err) {
		return &StatusError{ID: c.ID, Op: "start", Have: Running}
	}
	if err != nil {
		return fmt.Errorf("container %q: it does not wait for start: %w", c.ID, err)
	}
	defer linux.Close(conn)
	if c.Owner != 0 { // an init that may also be asked something else
		if _, err := linux.Write(conn, make([]byte, 8)); err != nil && err != unix.EPIPE {
			return fmt.Errorf("container %q: write to its init: %w", c.ID, err)
		}
	}
	if !c.Agent.empty() {
		if err := c.notify(conn, pidfd); err != nil {
			_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
			_ = unix.Unlinkat(dir, startFile, 0)
			return &ProcessError{ID: c.ID, Err: err}
		}
	}
	var buf [initprog.RecordSize]byte
	n, err := linux.Read(conn, buf[:])
	timing.Mark("filter and execve")
	_ = unix.Unlinkat(dir, startFile, 0)
	if c.startedBefore(pidfd, err) {
		return &StatusError{ID: c.ID, Op: "start", Have: Running}
	}
	if err != nil {
		return c.startFailure(fmt.Errorf("container init ended before it executed the process: %w", err))
	}
	if n == 0 { // execve has closed the other end, or the end of the init
		if err := hasExecuted(c.Pid, pidfd); err != nil {
			return c.startFailure(err)
		}
		if err := c.poststart(hooks); err != nil {
			return c.stop(dir, pidfd, err)
		}
		return nil
	}
	return &ProcessError{ID: c.ID, Err: c.pendingFailure(initprog.ParseRecord(buf[:]))}
}

// startedBefore reports whether err is that of a socket which is gone because
// another start, killed right after it had connected, has opened the gate.
func (c *Container) startedBefore(pidfd int, err error) bool {
	return (errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.ECONNREFUSED)) && hasExecuted(c.Pid, pidfd) == nil
}

// startFailure is the error of an init that ended without a word. A container
// that waits for start runs nothing of its own, so kills for lack of memory in
// its group are the init's.
func (c *Container) startFailure(err error) error {
	if why := whyKilled(c.ID, err, c.group(), cgroups.OOMCount{}); why != err { //nolint:errorlint // the same or another
		return why
	}
	return &ProcessError{ID: c.ID, Err: err}
}

// pendingFailure puts a failure of the init, made by another process, into words.
func (c *Container) pendingFailure(r initprog.Record) error {
	for _, p := range c.Pending {
		if p.Address == r.Address {
			return stepFailure(p.Failure(syscall.Errno(r.Value)))
		}
	}
	return fmt.Errorf("container init failed at %#x: %w", r.Address, syscall.Errno(r.Value))
}

// statusLocked is status for the holder of the lock, to whom the creator can
// only be dead.
func (c *Container) statusLocked(alive bool) (Status, error) {
	switch {
	case !alive:
		return Stopped, nil
	case !c.Complete:
		return Creating, nil
	}
	return c.status(true)
}
