package runtime

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/monitor"
	"golang.org/x/sys/unix"
)

// Mode says how a container is deleted.
type Mode int

const (
	Stop  Mode = iota // only a container that has stopped, or was never started
	Force             // whatever state it is in, and whatever is left of it
)

// Delete removes the container: its processes, its cgroup, its record. With
// Force it converges: called again after a crash of create, of the container or
// of itself it removes what is left.
//
// release, if not nil, takes back what the layer above has made for the
// container, see State.Snapshot. It is called when no process is left, and
// before the record goes.
func (c *Container) Delete(mode Mode, release func() error) error {
	dir, err := lockDir(c.Dir())
	if errors.Is(err, unix.ENOENT) {
		return &NotExistError{ID: c.ID}
	}
	if err != nil {
		return err
	}
	defer linux.Close(dir)
	if now, err := c.store.load(c.ID); err == nil {
		c.State = now.State
	}
	pidfd, err := c.process()
	if err != nil {
		return err
	}
	defer linux.Close(pidfd)
	status, err := c.statusLocked(pidfd >= 0)
	if err != nil {
		return err
	}
	c.Timing.Mark("record and state")
	if mode != Force && status != Stopped && status != Created && status != Creating {
		return &StatusError{ID: c.ID, Op: "delete", Have: status}
	}
	if c.Cgroup != "" || pidfd >= 0 {
		g := c.group()
		if status != Stopped || !c.alone() {
			if g.Exists() {
				if err := g.Kill(); err != nil {
					return err
				}
			}
		}
		if pidfd >= 0 {
			_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
			if !ended(pidfd, killTimeout) {
				return fmt.Errorf("container %q: container init still running: process %d does not end within %s of SIGKILL; a process in its pid namespace hangs in the kernel, or has ended and its parent does not wait for it; see /proc/%d/stack",
					c.ID, c.Pid, killTimeout, c.Pid)
			}
		}
		c.awaitMonitor(killTimeout)
		c.Timing.Mark("end of the processes")
		if c.Unit != "" {
			if err := c.stopUnit(nil); err != nil {
				return err
			}
		}
		if err := g.Remove(killTimeout); err != nil {
			return err
		}
		c.Timing.Mark("removal of the cgroup")
	}
	if err := c.removeRdt(); err != nil {
		return err
	}
	if release != nil {
		if err := release(); err != nil {
			return err
		}
		c.Timing.Mark("removal of the snapshot")
	}
	c.poststop(dir)
	if c.Hooks != 0 {
		c.Timing.Mark("hooks of delete")
	}
	err = c.removeDir(dir)
	c.Timing.Mark("removal of the record")
	return err
}

// alone reports whether the cgroup of a stopped container is empty.
func (c *Container) alone() bool {
	if c.Own&unix.CLONE_NEWPID != 0 && c.Complete {
		return true // the end of its init ended all others
	}
	populated, err := c.group().Populated()
	return err == nil && !populated
}

// ended waits for the end of a process.
func ended(pidfd int, timeout time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for deadline := time.Now().Add(timeout); ; {
		left := time.Until(deadline)
		n, err := unix.Poll(fds, max(int(left.Milliseconds()), 0))
		if n > 0 {
			return true
		}
		if err != unix.EINTR && left <= 0 {
			return false
		}
	}
}

// removeDir removes the container's directory, open and locked as dir. The
// record goes last: as long as anything is left, delete finds it.
func (c *Container) removeDir(dir int) error {
	for _, name := range [...]string{configFile, startFile, snapshotFile, monitor.LogFile, monitor.ExitFile, "." + stateFile + ".tmp", "." + configFile + ".tmp", stateFile} {
		if name == snapshotFile && c.Snapshot == "" || (name == monitor.LogFile || name == monitor.ExitFile) && c.Monitor == 0 {
			continue
		}
		if err := unix.Unlinkat(dir, name, 0); err != nil && err != unix.ENOENT {
			return &os.PathError{Op: "unlink", Path: c.Dir() + "/" + name, Err: err}
		}
	}
	err := unix.Rmdir(c.Dir())
	// Older logs, an init image of a create that was killed, what somebody else put
	// there; or the record of the end that somebody else is making right now.
	for tries := 0; tries < 3 && errors.Is(err, unix.ENOTEMPTY); tries++ {
		err = os.RemoveAll(c.Dir())
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("container %q: remove its directory: %w", c.ID, err)
	}
	return nil
}

// DeleteRemains removes a container that has no usable record: one whose create
// was killed right at its beginning, or whose state.json is damaged. release
// takes back what the layer above has made, see State.Snapshot; it gets what
// Reserve was told.
//
// A container that turns out to have a record, because its create finished
// meanwhile, is left alone and returned.
func (s *Store) DeleteRemains(id string, release func(snapshot string) error) (*Container, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	c := &Container{store: s, State: State{ID: id}}
	dir, err := lockDir(c.Dir())
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer linux.Close(dir)
	if found, err := s.load(id); err == nil {
		return found, nil
	}
	if raw, err := linux.ReadFileAt(dir, configFile, 0); err == nil {
		if err := c.recover(raw); err != nil {
			return nil, err
		}
	}
	if raw, err := linux.ReadFileAt(dir, snapshotFile, 4096); err == nil && len(raw) > 0 {
		c.Snapshot = string(raw)
		if err := release(c.Snapshot); err != nil {
			return nil, err
		}
	}
	return nil, c.removeDir(dir)
}
