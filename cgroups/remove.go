package cgroups

import (
	"io/fs"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// Remove removes the group and all groups below it, and nothing above. It kills
// nothing, see [Group.Kill], but waits up to timeout for processes that are
// ending; a group that still has processes then gives a *TimeoutError. What is
// frozen cannot end, so it is thawed. A group that does not exist is no error.
func (g *Group) Remove(timeout time.Duration) error {
	start := time.Now()
	for pause := firstPause; ; pause *= 2 {
		err := rmdir(unix.AT_FDCWD, g.Dir())
		if err != unix.EBUSY {
			return g.removeError(err)
		}
		// Sub-groups, or processes, or both.
		err = g.walk(func(int) error { return nil }, func(parent int, name string) error {
			if err := rmdir(parent, name); err != unix.EBUSY {
				return err
			}
			return nil // tried again when nothing lives in it any more
		})
		if err != nil && !gone(err) {
			return g.removeError(err)
		}
		if err = rmdir(unix.AT_FDCWD, g.Dir()); err != unix.EBUSY {
			return g.removeError(err)
		}
		left := timeout - time.Since(start)
		if left <= 0 {
			return &TimeoutError{g.Path, "removed", timeout}
		}
		g.thawAll()
		if err := g.WaitEmpty(left); err != nil {
			return err
		}
		// Empty, and busy all the same: somebody makes sub-groups or moves
		// processes in while we look, or the last one has not quite gone.
		g.pause(min(left, pause, lastPause))
	}
}

// thawAll thaws the group and those below it.
func (g *Group) thawAll() {
	_ = g.walk(func(dir int) error {
		if b, err := linux.ReadFileAt(dir, "cgroup.freeze", 0); err == nil && len(b) > 0 && b[0] == '1' {
			_ = linux.WriteFileAt(dir, "cgroup.freeze", "0")
		}
		return nil
	}, nil)
}

func (g *Group) removeError(err error) error {
	if err == nil || gone(err) {
		return nil
	}
	return &fs.PathError{Op: "rmdir", Path: g.Dir(), Err: cause(err)}
}

// pause waits for news of the group, at most d.
func (g *Group) pause(d time.Duration) {
	fd, err := linux.OpenAt(unix.AT_FDCWD, g.Dir()+"/cgroup.events", unix.O_RDONLY, 0)
	if err != nil {
		return
	}
	var buf [64]byte
	_, _ = linux.Read(fd, buf[:])
	pollEvents(fd, d)
	linux.Close(fd)
}

// rmdir returns a plain errno; a directory that is not there is removed.
func rmdir(dir int, name string) error {
	for {
		switch err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err {
		case unix.EINTR:
		case unix.ENOENT, unix.ENODEV:
			return nil
		default:
			return err
		}
	}
}
