package runtime

import (
	"errors"
	"os"
	"strconv"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/cgroups/systemd"
	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/namespaces"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// unit is the scope that systemd makes for a container.
type unit struct {
	systemd.Unit
	extra   []systemd.Property // of annotations
	manager *systemd.Manager   // while the container is created
}

func (u *unit) close() {
	if u != nil {
		u.manager.Close()
	}
}

// planUnit reads what is said about the unit. Where its group will be is known
// for sure only when systemd was asked, see connect.
func (p *Plan) planUnit(spec *specs.Spec) error {
	parsed, err := systemd.ParsePath(spec.Linux.CgroupsPath, p.ID, p.caller.user || p.caller.userns)
	if err != nil {
		return err
	}
	p.unit = &unit{Unit: parsed}
	if p.unit.extra, err = systemd.FromAnnotations(spec.Annotations); err != nil {
		return err
	}
	p.Cgroup = parsed.Dir()
	if parsed.User {
		uid := strconv.Itoa(os.Geteuid())
		p.Cgroup = "/user.slice/user-" + uid + ".slice/user@" + uid + ".service" + p.Cgroup
	}
	return nil
}

// connect finds systemd and where its groups are.
func (p *Plan) connect() (err error) {
	if p.unit == nil {
		return nil
	}
	if p.unit.manager, err = systemd.Connect(p.unit.User); err != nil {
		return err
	}
	root, err := p.unit.manager.Root()
	if err != nil {
		p.unit.close()
		return err
	}
	p.Cgroup = root + p.unit.Dir()
	return nil
}

// viaFirst reports whether the first process of a staged start becomes the
// unit's, before it starts the init: an ordinary user may not move a process, or
// have one be born, across groups that systemd has not given to the user.
func (t *creation) viaFirst() bool {
	return t.plan.caller.user && t.plan.Set.New&unix.CLONE_NEWUSER != 0
}

// makeUnit has systemd make the unit. systemd refuses one without a process, and
// the init must be born inside, so that its cgroup namespace begins there: a
// program that does nothing holds the place.
func (t *creation) makeUnit() error {
	if t.plan.unit == nil || t.viaFirst() {
		return nil
	}
	pid, release, err := placeholder()
	if err != nil {
		return err
	}
	t.fds = append(t.fds, release) // it ends with us, or when all is done
	t.holder = pid
	return t.startUnit(pid)
}

// adopt has systemd make the unit around the first process of a staged start.
func (t *creation) adopt(first int) error {
	if t.plan.unit == nil || !t.viaFirst() {
		return nil
	}
	return t.startUnit(first)
}

func (t *creation) startUnit(pid int) error {
	u := t.plan.unit
	properties := systemd.Properties(t.plan.Limits, func() bool { return u.manager.Version() >= 252 })
	t.asked = true
	err := u.manager.Start(&u.Unit, pid, append(properties, u.extra...))
	if err != nil {
		var failed *systemd.UnitError
		if errors.As(err, &failed) && failed.Exists() { // it is not ours to stop
			t.c.Unit, t.c.Cgroup, t.asked = "", "", false
		}
		return err
	}
	t.group = cgroups.Open(t.c.CgroupMount, t.c.Cgroup)
	return t.enterable()
}

// placeholder starts a process that ends when release is closed, also by our
// death.
func placeholder() (pid, release int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, -1, os.NewSyscallError("socketpair", err)
	}
	b := initprog.NewBuilder(3)
	b.Phase("placeholder")
	(&harden{sync: 3}).Emit(b)
	(&session{skip: true}).Emit(b)
	namespaces.Handshake(b, namespaces.WantMaps)
	b.ExitGroup(0)
	image, err := b.Link()
	pidfd := -1
	if err == nil {
		pid, pidfd, err = image.Start(initprog.Options{Files: []int{-1, -1, -1, pair[1]}, CgroupFD: -1})
	}
	linux.Close(pair[1])
	linux.Close(pidfd)
	if err != nil {
		linux.Close(pair[0])
		return 0, -1, err
	}
	return pid, pair[0], nil
}

// stopUnit ends the container's unit, whose processes are dead. Without systemd
// to be reached there is none to be ended: its group is removed as any other.
func (c *Container) stopUnit(m *systemd.Manager) error {
	if m == nil {
		var err error
		m, err = systemd.Connect(c.UnitUser)
		var none *systemd.ConnectError
		if errors.As(err, &none) {
			return nil
		}
		if err != nil {
			return err
		}
		defer m.Close()
	}
	return m.Stop(&systemd.Unit{Name: c.Unit, User: c.UnitUser})
}

// updateUnit tells systemd of limits that the group has already, so that it does
// not set the old ones again. What it rounds is set once more afterwards.
func (c *Container) updateUnit(l *cgroups.Limits) error {
	m, err := systemd.Connect(c.UnitUser)
	if err != nil {
		return err
	}
	defer m.Close()
	list := systemd.Properties(l, func() bool { return m.Version() >= 252 })
	if len(list) == 0 {
		return nil
	}
	if err := m.Set(&systemd.Unit{Name: c.Unit, User: c.UnitUser}, list); err != nil {
		return err
	}
	return c.group().Update(l)
}

// recoverUnit is recover for a container whose cgroup was a unit.
func (c *Container) recoverUnit(spec *specs.Spec) error {
	who := whoWeAre(RootlessAuto)
	u, err := systemd.ParsePath(spec.Linux.CgroupsPath, c.ID, who.user || who.userns)
	if err != nil {
		return nil //nolint:nilerr // create would have refused it
	}
	m, err := systemd.Connect(u.User)
	if err != nil {
		return err
	}
	root, err := m.Root()
	m.Close()
	if err != nil {
		return err
	}
	c.Unit, c.UnitUser, c.Cgroup = u.Name, u.User, root+u.Dir()
	return c.recoverGroup(spec)
}

// ScopeError reports that a process cannot be added to a container because its
// user may not go to the container's scope from here.
type ScopeError struct {
	Unit string
	Err  error
}

func (e *ScopeError) Error() string {
	return "join the cgroup of unit " + e.Unit + ": " + e.Err.Error()
}
func (e *ScopeError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (*ScopeError) Hint() string {
	return "a user may only go from one group to another below the user's systemd, which needs the system's message bus for any other: start minirun there, with systemd-run --user --scope"
}

// releaseHolder ends the placeholder: the init is in its place, or never will be.
func (t *creation) releaseHolder() {
	if t.holder == 0 {
		return
	}
	_ = unix.Kill(t.holder, unix.SIGKILL) // our child, and not reaped
	_, _ = reap(t.holder)
	t.holder = 0
}
