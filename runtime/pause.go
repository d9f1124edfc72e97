package runtime

import (
	"errors"
	"strconv"
	"time"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// How long the freezer may take. A process that is in the kernel without being
// interruptible, such as one that waits for a slow disk, freezes when it comes
// back.
const freezeTimeout = 10 * time.Second

// Pause stops all processes of a created or running container, and those that
// exec adds. It waits for the end of a create or start that is on its way: with
// its container frozen it would never come to an end, and hold up delete.
func (c *Container) Pause() error {
	dir, err := c.lockLoaded()
	if err != nil {
		return err
	}
	defer linux.Close(dir)
	status, err := c.Status()
	if err != nil {
		return err
	}
	if status != Running && status != Created {
		return &StatusError{ID: c.ID, Op: "pause", Have: status}
	}
	g := c.group()
	frozen, err := g.FreezeUnless(freezeTimeout, func() bool {
		// A resume that comes now finds a paused container, and kill thaws it.
		wanted, err := g.Frozen()
		return c.dying() || err == nil && !wanted
	})
	if err != nil {
		return c.gone("pause", err)
	}
	if !frozen && c.dying() {
		return &StatusError{ID: c.ID, Op: "pause", Have: Stopped}
	}
	return nil // it was paused, perhaps not for long
}

// dying reports whether the container's init is on its way out or gone. It has
// given up its memory, and with that its executable, and may still have to wait
// for processes in its pid namespace, such as one of exec whose parent is frozen.
// One whose first thread alone has ended has no executable either, and is alive.
func (c *Container) dying() bool {
	var b [1]byte
	_, err := unix.Readlink("/proc/"+strconv.Itoa(c.Pid)+"/exe", b[:])
	if err != unix.ENOENT && err != unix.ESRCH {
		return false
	}
	info, err := statProcess(c.Pid)
	if err != nil || !info.zombie {
		return true
	}
	pidfd, err := c.process()
	linux.Close(pidfd)
	return err != nil || pidfd < 0
}

// Resume lets a paused container go on. It takes no lock, so that nothing that
// waits for the container can be in its way.
func (c *Container) Resume() error {
	status, err := c.Status()
	if err != nil {
		return err
	}
	if status != Paused {
		return &StatusError{ID: c.ID, Op: "resume", Have: status}
	}
	return c.group().Thaw(freezeTimeout)
}

// Processes are the ids of all processes in the container's cgroup and below,
// as this process's pid namespace has them. A container that has stopped has
// none, unless it shared its pid namespace and left some.
func (c *Container) Processes() ([]int, error) {
	if c.Cgroup == "" {
		pidfd, err := c.process()
		if err != nil || pidfd < 0 {
			return nil, err
		}
		linux.Close(pidfd)
		return nil, &NoCgroupError{ID: c.ID, Op: "ps"}
	}
	return c.group().Procs()
}

// lockLoaded locks the container's directory and reads the record again, as it
// is now that nobody else changes it.
func (c *Container) lockLoaded() (dir int, err error) {
	dir, err = lockDir(c.Dir())
	if errors.Is(err, unix.ENOENT) {
		return -1, &NotExistError{ID: c.ID}
	}
	if err != nil {
		return -1, err
	}
	now, err := c.store.load(c.ID)
	if err != nil {
		linux.Close(dir)
		return -1, err
	}
	c.State = now.State
	return dir, nil
}

// gone makes the error of a cgroup that is not there that of a container which
// ended while it was looked at, if that is what happened.
func (c *Container) gone(op string, err error) error {
	if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return err
	}
	if status, serr := c.Status(); serr == nil && (status == Stopped || status == Creating) {
		return &StatusError{ID: c.ID, Op: op, Have: status}
	}
	if c.Cgroup == "" {
		return &NoCgroupError{ID: c.ID, Op: op}
	}
	if !c.group().Exists() {
		return &CgroupGoneError{ID: c.ID, Cgroup: c.Cgroup}
	}
	return err
}

// CgroupGoneError reports a container that lives while its cgroup does not:
// somebody has moved its processes elsewhere and removed the group.
type CgroupGoneError struct{ ID, Cgroup string }

func (e *CgroupGoneError) Error() string {
	return `container "` + e.ID + `": its cgroup "` + e.Cgroup + `" is gone, though its process lives`
}

// Hint says what to do about it.
func (*CgroupGoneError) Hint() string {
	return "somebody has moved the process to another cgroup; minirun kill and minirun delete --force still work"
}

// NoCgroupError reports an operation that works on a container's cgroup, for a
// rootless container that has none.
type NoCgroupError struct{ ID, Op string }

func (e *NoCgroupError) Error() string {
	return `container "` + e.ID + `": ` + e.Op + `: the container has no cgroup: its user could not make one`
}

// Hint says what to do about it.
func (*NoCgroupError) Hint() string {
	return "create it where this user may make cgroups, such as below systemd-run --user --scope -p Delegate=yes, or with --systemd-cgroup"
}

// thaw lets a container that was told to die do so: of what is frozen only the
// init and what shares its pid namespace dies, and an exec that was on its way in
// would wait in the frozen group forever.
func (c *Container) thaw(g *cgroups.Group) {
	if frozen, err := g.Frozen(); err == nil && frozen {
		_ = g.Thaw(0) // it need not be waited for
	}
}
