package cgroups

import (
	"errors"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// Group is a control group that may or may not exist. It holds no descriptor.
type Group struct {
	Mount string // where the hierarchy is mounted, see [Mount]
	Path  string // in the hierarchy, begins with "/", as [CleanPath] returns it

	created bool // by Create, just now
}

// Open returns the group at path without looking at it. With the path "" it is
// the group of a container that has none: it does not exist, and never will.
func Open(mount, path string) *Group { return &Group{Mount: mount, Path: path} }

// Dir returns the group's directory.
func (g *Group) Dir() string {
	if g.Path == "" {
		// Not the root of the hierarchy, where everybody's processes are. The
		// kernel takes no newline in the name of a group.
		return g.Mount + "/\n"
	}
	return g.Mount + g.Path
}

// Sub returns the group at name, a relative path, below g. It need not exist.
// Names that lead out of g are refused with a *PathError.
func (g *Group) Sub(name string) (*Group, error) {
	p, err := CleanPath("/"+name, "")
	if pe, ok := errors.AsType[*PathError](err); ok {
		pe.Path, pe.sub = name, true
	}
	if err != nil {
		return nil, err
	}
	return Open(g.Mount, g.Path+p), nil
}

// MayEnter reports whether this user may have processes go from the group from to
// g: besides g's own list of processes, that of the group above both has to be
// writable.
func (g *Group) MayEnter(from string) bool {
	if !writable(g.Dir() + "/cgroup.procs") {
		return false
	}
	above := g.Path
	for above != "/" && above != "." && from != above && !strings.HasPrefix(from, above+"/") {
		above = path.Dir(above)
	}
	return writable(path.Clean(g.Mount+above) + "/cgroup.procs")
}

// Fresh reports whether Create has made the group just now.
func (g *Group) Fresh() bool { return g.created }

// FD returns a new descriptor of the group's directory, close-on-exec, fit for
// CLONE_INTO_CGROUP and for openat(2). The caller closes it.
func (g *Group) FD() (int, error) {
	return linux.OpenAt(unix.AT_FDCWD, g.Dir(), unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// Exists reports whether the group's directory exists.
func (g *Group) Exists() bool {
	return unix.Access(g.Dir(), unix.F_OK) == nil
}

// Read returns the content of a file of the group without the last newline.
func (g *Group) Read(file string) (string, error) {
	b, err := linux.ReadFile(g.Dir()+"/"+file, 0)
	return strings.TrimSuffix(string(b), "\n"), err
}

// Key returns the number behind key in a flat keyed file, such as oom_kill in
// memory.events; 0 if there is no such key.
func (g *Group) Key(file, key string) (uint64, error) {
	text, err := g.Read(file)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(keyed(text, key), 10, 64)
	if err != nil {
		n = 0
	}
	return n, nil
}

// keyed returns what stands behind key in "key value" lines.
func keyed(text, key string) string {
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " "); ok && k == key {
			return v
		}
	}
	return ""
}

// OOMKills returns how many processes of the group and its sub-groups the
// kernel has killed for lack of memory: oom_kill of memory.events. A group kill
// (memory.oom.group) counts each process, some more than once: only a rise
// means something. It is 0 when the group has no memory controller, or is gone.
func (g *Group) OOMKills() (uint64, error) {
	n, err := g.Key("memory.events", "oom_kill")
	if gone(err) {
		return 0, nil
	}
	return n, err
}

// Add moves the process into the group. CLONE_INTO_CGROUP is to be preferred: a
// move takes a lock that stops all forks of the machine for a moment.
func (g *Group) Add(pid int) error {
	return g.write("cgroup.procs", strconv.Itoa(pid))
}

func (g *Group) write(file, value string) error {
	if err := linux.WriteFileAt(unix.AT_FDCWD, g.Dir()+"/"+file, value); err != nil {
		return &WriteError{Group: g.Path, File: file, Value: value, Err: cause(err)}
	}
	return nil
}

// Delegate gives the group to uid: the directory and the files that the kernel
// names in /sys/kernel/cgroup/delegate. It is for containers with a cgroup
// namespace and a writable cgroup mount; the limits stay the caller's, because
// their files are not on that list. The group id does not change.
func (g *Group) Delegate(uid int) error {
	dir, err := g.FD()
	if err != nil {
		return err
	}
	defer linux.Close(dir)
	if err := unix.Fchown(dir, uid, -1); err != nil {
		return &fs.PathError{Op: "chown", Path: g.Dir(), Err: err}
	}
	list, err := linux.ReadFile("/sys/kernel/cgroup/delegate", 0)
	if err != nil {
		return err
	}
	for _, file := range strings.Fields(string(list)) {
		// Files of controllers that the group lacks are on the list too.
		if err := unix.Fchownat(dir, file, uid, -1, unix.AT_SYMLINK_NOFOLLOW); err != nil && err != unix.ENOENT {
			return &fs.PathError{Op: "chown", Path: g.Dir() + "/" + file, Err: err}
		}
	}
	return nil
}

// PathOf returns the path of the cgroup v2 group that the process is in, as
// this process's cgroup namespace shows it.
func PathOf(pid int) (string, error) {
	name := "/proc/" + strconv.Itoa(pid) + "/cgroup"
	b, err := linux.ReadFile(name, 0)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if p, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSuffix(p, "\n"), nil
		}
	}
	return "", &NoMountError{}
}
