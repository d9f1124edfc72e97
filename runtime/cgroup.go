package runtime

import (
	"slices"

	"github.com/minirun/minirun/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// checkCgroup refuses a group that exists and is somebody else's. It comes before
// the first record: what is recorded is killed and removed by delete, and if we
// were killed right after it, delete could not tell whose the processes are.
func (t *creation) checkCgroup() error {
	g := cgroups.Open(t.c.CgroupMount, t.c.Cgroup)
	if !g.Exists() {
		return nil
	}
	if err := g.CheckFree(); err != nil {
		return err
	}
	ids, err := t.c.store.IDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if id == t.c.ID {
			continue
		}
		other, err := t.c.store.load(id)
		if err == nil && other.Cgroup == t.c.Cgroup && other.CgroupMount == t.c.CgroupMount {
			return &CgroupTakenError{Cgroup: t.c.Cgroup, ID: id}
		}
	}
	return nil
}

// CgroupTakenError reports a linux.cgroupsPath that another container has. Its
// group is empty for now, but deleting either container would end the other.
type CgroupTakenError struct{ Cgroup, ID string }

func (e *CgroupTakenError) Error() string {
	return `cgroup "` + e.Cgroup + `" (linux.cgroupsPath) is that of container "` + e.ID + `"`
}

// Hint says what to do about it.
func (e *CgroupTakenError) Hint() string {
	return "choose another path, or remove that container with minirun delete " + e.ID
}

// makeCgroup makes the container's group, or takes one that is free.
func (t *creation) makeCgroup() (err error) {
	if t.c.Cgroup == "" || t.plan.unit != nil {
		return t.makeUnit()
	}
	if t.group, err = cgroups.CreateFor(t.c.CgroupMount, t.c.Cgroup, t.plan.Limits); err != nil {
		return t.delegation(err)
	}
	if err = t.group.CheckFree(); err != nil {
		t.group = nil // it is not ours to remove
		t.c.Cgroup = ""
		return err
	}
	if !t.group.Fresh() {
		t.oom, _ = t.group.OOMCount()
	}
	return t.enterable()
}

// enterable gives the group away if it is to be, and opens it.
func (t *creation) enterable() (err error) {
	if uid, ok := delegate(t.plan.Spec, t.plan.Set.All()); ok {
		if err = t.group.Delegate(uid); err != nil && !(t.plan.caller.rootless && unprivileged(err)) {
			return err
		}
	}
	t.cgroup, err = t.group.FD()
	return err
}

// delegate returns the uid on the host that the container's root gets its group
// for: it has a user namespace and a cgroup namespace, and a cgroup mount that can
// be written. Then it may make groups below its own, as systemd in a container
// does. Its limits stay out of its reach, see [cgroups.Group.Delegate].
func delegate(s *specs.Spec, namespaces uint64) (uid int, ok bool) {
	const both = unix.CLONE_NEWUSER | unix.CLONE_NEWCGROUP
	if namespaces&both != both || !slices.ContainsFunc(s.Mounts, writableCgroup) {
		return 0, false
	}
	for _, m := range s.Linux.UIDMappings {
		if m.ContainerID == 0 && m.Size > 0 {
			return int(m.HostID), true
		}
	}
	return 0, false
}

func writableCgroup(m specs.Mount) bool {
	if m.Type != "cgroup" && m.Type != "cgroup2" {
		return false
	}
	writable := true
	for _, o := range m.Options {
		switch o {
		case "ro", "rro":
			writable = false
		case "rw":
			writable = true
		}
	}
	return writable
}
