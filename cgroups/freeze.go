package cgroups

import (
	"time"
)

// Freeze stops all processes of the group and its sub-groups and waits until
// they are stopped. If they are not after timeout (one can be stuck in the
// kernel) the group is thawed again, so that it is never left half frozen, and
// the error is a *TimeoutError.
func (g *Group) Freeze(timeout time.Duration) error {
	_, err := g.FreezeUnless(timeout, func() bool { return false })
	return err
}

// FreezeUnless is Freeze, but gives up and thaws the group as soon as over is
// true, which it asks now and then. A group with a process that is ending need
// not freeze, ever: what that waits for can be what is frozen.
func (g *Group) FreezeUnless(timeout time.Duration, over func() bool) (frozen bool, err error) {
	if err := g.write("cgroup.freeze", "1"); err != nil {
		return false, err
	}
	err = g.wait(timeout, "frozen", func(e events) bool {
		frozen = e.frozen
		return frozen || over()
	})
	if err != nil || !frozen {
		_ = g.write("cgroup.freeze", "0")
	}
	return frozen && err == nil, err
}

// Thaw undoes Freeze. A group that is gone is thawed; one below a frozen
// ancestor cannot thaw and gives a *TimeoutError.
func (g *Group) Thaw(timeout time.Duration) error {
	err := g.write("cgroup.freeze", "0")
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return g.wait(timeout, "thawed", func(e events) bool { return !e.frozen })
}

// Frozen reports whether the group was told to freeze. A group that is gone, or
// goes while it is looked at (ENODEV), is not frozen.
func (g *Group) Frozen() (bool, error) {
	text, err := g.Read("cgroup.freeze")
	if gone(err) {
		return false, nil
	}
	return text == "1", err
}
