package cgroups

import (
	"time"
)

// Freeze stops all processes of the group and its sub-groups and waits until
// they are stopped. If they are not after timeout (one can be stuck in the
// kernel) the group is thawed again, so that it is never left half frozen, and
// the error is a *TimeoutError.
func (g *Group) Freeze(timeout time.Duration) error {
	if err := g.write("cgroup.freeze", "1"); err != nil {
		return err
	}
	if err := g.wait(timeout, "frozen", func(e events) bool { return e.frozen }); err != nil {
		_ = g.write("cgroup.freeze", "0")
		return err
	}
	return nil
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
