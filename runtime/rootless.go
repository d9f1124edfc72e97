package runtime

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/namespaces"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Rootless says whether what only root of the host can set is left out.
type Rootless int

const (
	RootlessAuto Rootless = iota // if we are not root of the host
	RootlessYes
	RootlessNo
)

// caller is what we are on this host.
type caller struct {
	user     bool // no uid 0: a container needs a user namespace
	userns   bool // in a user namespace, perhaps as its root
	rootless bool // cgroup, device filter and oom_score_adj are optional
}

func whoWeAre(r Rootless) caller {
	c := caller{user: os.Geteuid() != 0, userns: linux.InUserNS()}
	c.rootless = r == RootlessYes || r == RootlessAuto && (c.user || c.userns)
	return c
}

// check refuses what an ordinary user cannot have, before anything is made.
func (c *caller) check(spec *specs.Spec, set *namespaces.Set) error {
	if !c.user {
		return nil
	}
	if set.All()&unix.CLONE_NEWUSER == 0 {
		return &UserNeedsError{}
	}
	if set.New&unix.CLONE_NEWUSER == 0 || spec.Process == nil {
		return nil
	}
	if len(spec.Process.User.AdditionalGids) > 0 && ownID(spec.Linux.GIDMappings, os.Getegid()) {
		return &GroupsError{}
	}
	return nil
}

// UserNeedsError refuses a configuration without a user namespace.
type UserNeedsError struct{}

func (*UserNeedsError) Error() string {
	return "linux.namespaces: rootless containers require user namespaces, and there is none"
}

// Hint says what to do about it.
func (*UserNeedsError) Hint() string {
	return "add {\"type\": \"user\"} with uidMappings and gidMappings, as minirun spec --rootless writes it, or be root"
}

// GroupsError refuses supplementary groups where setgroups(2) has to be denied:
// otherwise everybody could drop a group that is there to keep them out
// (CVE-2014-8989).
type GroupsError struct{}

func (*GroupsError) Error() string {
	return "process.user.additionalGids: cannot set any additional groups in a rootless container whose linux.gidMappings map the user's own group only"
}

// Hint says what to do about it.
func (*GroupsError) Hint() string {
	return "leave them out, or map a range of /etc/subgid too"
}

// planCgroup chooses the group of a rootless container: the one that
// linux.cgroupsPath names, or one where we may make it, or none if no limit
// needs one.
func (p *Plan) planCgroup(wanted string) error {
	if p.unit != nil || !p.caller.rootless || wanted != "" || !p.caller.user && !p.caller.userns {
		return nil
	}
	own := ""
	mount, err := cgroups.Mount()
	if err == nil {
		p.Cgroup, own = cgroups.UserPath(mount, p.ID)
	} else {
		p.Cgroup = ""
	}
	if p.Cgroup != "" {
		return nil
	}
	for i := range p.Limits.Settings {
		if s := &p.Limits.Settings[i]; !s.Optional {
			return &DelegationError{Field: s.Field, Group: own, Err: err}
		}
	}
	if p.Set.New&unix.CLONE_NEWPID == 0 {
		p.Warnings = append(p.Warnings, "the container has neither a cgroup nor a pid namespace of its own: what its process leaves behind will not be ended by kill and delete")
	}
	return nil
}

// DelegationError reports that a rootless container cannot have the cgroup it
// needs.
type DelegationError struct {
	Field string // what needs it
	Group string // the group we are in, or that was asked for; "" if unknown
	Err   error
}

func (e *DelegationError) Error() string {
	s := e.Field + ": no permission is granted for cgroups"
	if e.Group != "" {
		s += ": this user may not make one at or beside " + strconv.Quote(e.Group)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *DelegationError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *DelegationError) Hint() string {
	return "have a group delegated: start minirun with systemd-run --user --scope -p Delegate=yes, or use --systemd-cgroup, or chown a group and its cgroup.procs, cgroup.subtree_control and cgroup.threads to this user and start minirun in a child of it; or remove " + e.Field
}

// delegation completes the error of making a group that the user chose.
func (t *creation) delegation(err error) error {
	if t.plan.caller.rootless && t.plan.Spec.Linux.CgroupsPath != "" && unprivileged(err) {
		var controller *cgroups.ControllerError
		if !errors.As(err, &controller) {
			return &DelegationError{Field: "linux.cgroupsPath", Group: t.c.Cgroup, Err: err}
		}
	}
	return err
}

func unprivileged(err error) bool {
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EROFS)
}

// applyLimits writes the limits of the container. A device filter that a
// rootless caller cannot load is left out, as in runc: without the privilege to
// make device nodes the container has those that were bound for it.
func (t *creation) applyLimits() error {
	if t.group == nil {
		return nil
	}
	err := t.group.Apply(t.plan.Limits)
	var filter *cgroups.DeviceError
	if t.plan.caller.rootless && errors.As(err, &filter) && unprivileged(filter.Err) {
		return nil
	}
	// systemd removes the group of a unit without processes. Why the init has
	// ended already is what there is to say.
	if t.plan.unit != nil && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV)) && readable(t.pidfd, killTimeout) {
		if err = t.await(namespaces.Ready); err == nil {
			err = errInitDied
		}
	}
	return err
}

// hostCgroup is what a container that may not mount a cgroup file system gets to
// see in its place: its own group, or the hierarchy if it has none.
func (p *Plan) hostCgroup() string {
	if p.Set.All()&unix.CLONE_NEWUSER == 0 && !p.caller.userns {
		return ""
	}
	mount, err := cgroups.Mount()
	if err != nil {
		return ""
	}
	return mount + p.Cgroup
}

// ownGIDs are the group ids that are mapped in our user namespace.
func ownGIDs() []specs.LinuxIDMapping { return mapsIn("/proc/self/gid_map") }

// mapsIn reads a file such as /proc/self/uid_map.
func mapsIn(file string) []specs.LinuxIDMapping {
	b, err := linux.ReadFile(file, 64<<10)
	if err != nil {
		return nil
	}
	var ms []specs.LinuxIDMapping
	for line := range strings.Lines(string(b)) {
		var n [3]uint64
		f := strings.Fields(line)
		if len(f) != len(n) {
			continue
		}
		for i := range n {
			n[i], _ = strconv.ParseUint(f[i], 10, 32)
		}
		ms = append(ms, specs.LinuxIDMapping{ContainerID: uint32(n[0]), HostID: uint32(n[1]), Size: uint32(n[2])})
	}
	return ms
}

// UserRoot is where containers of this user are recorded: DefaultRoot for root of
// the host, and below $XDG_RUNTIME_DIR for others. Root of a user namespace that
// is an ordinary user outside, as an engine's is, counts as that user: runc tells
// it by $USER.
func UserRoot() (string, error) {
	user := os.Geteuid() != 0
	if !user && (os.Getenv("USER") == "root" || !linux.InUserNS()) {
		return DefaultRoot, nil
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	switch {
	case strings.HasPrefix(dir, "/"):
		return dir + "/minirun", nil
	case user:
		return "", &RuntimeDirError{dir}
	}
	return DefaultRoot, nil
}

// RuntimeDirError reports a user without a directory for what runs.
type RuntimeDirError struct{ Dir string }

func (e *RuntimeDirError) Error() string {
	if e.Dir != "" {
		return "state root: XDG_RUNTIME_DIR " + strconv.Quote(e.Dir) + " is not an absolute path"
	}
	return "state root: XDG_RUNTIME_DIR is not set"
}

// Hint says what to do about it.
func (*RuntimeDirError) Hint() string {
	return "a login session sets it (loginctl enable-linger keeps it for others); or give a directory of your own with --root"
}
