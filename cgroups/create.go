package cgroups

import (
	"errors"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// accounting are the controllers that every group gets where the hierarchy has
// them, asked for or not: metrics readers expect their files, and a limit that
// is set later finds everything counted. Others (hugetlb, rdma, misc...) are
// enabled for those who ask.
const accounting = "cpu cpuset io memory pids"

// createTries bounds how often a walk starts again because somebody removed a
// parent meanwhile.
const createTries = 20

// CreateFor is Create with the controllers that l needs; a *ControllerError then
// names the field that asked.
func CreateFor(mount, path string, l *Limits) (*Group, error) {
	if l == nil {
		l = new(Limits)
	}
	g, err := Create(mount, path, l.Controllers)
	if ce, ok := errors.AsType[*ControllerError](err); ok && ce.Field == "" {
		ce.Field = l.Field(ce.Controller)
	}
	return g, err
}

// Create makes the group at path and its missing parents, and enables
// controllers for it from the top down: those given, which it is an error not
// to get (*ControllerError, *BusyParentError), and the ones that every group
// gets if they are to be had. A group that exists is fine, see [Group.CheckFree].
//
// Others may create and remove groups beside it at the same time. On error
// nothing is left that Create made; controllers stay enabled in parents.
func Create(mount, path string, controllers []string) (*Group, error) {
	clean, err := CleanPath(path, "")
	if err != nil {
		return nil, err
	}
	c := creation{mount: mount, names: strings.Split(clean[1:], "/"), required: controllers}
	for try := 0; ; try++ {
		err = c.walk()
		if err == nil {
			return &Group{Mount: mount, Path: clean, created: c.leafNew}, nil
		}
		c.undo()
		if !gone(err) || try == createTries {
			return nil, err
		}
		// A parent went away between two steps; but an absent mount stays absent.
		if !isCgroup2(mount) {
			return nil, &NoMountError{}
		}
	}
}

type creation struct {
	mount    string
	names    []string
	required []string
	made     []int // lengths of the paths that were made
	leafNew  bool
}

// walk goes down from the root; the error is gone() when a parent vanished.
func (c *creation) walk() error {
	dir, err := linux.OpenAt(unix.AT_FDCWD, c.mount, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer func() { linux.Close(dir) }()
	wanted := strings.Fields(accounting)
	for _, r := range c.required {
		if !slices.Contains(wanted, r) {
			wanted = append(wanted, r)
		}
	}
	for i, name := range c.names {
		if wanted, err = c.enable(dir, i, wanted); err != nil {
			return err
		}
		fresh := false
		switch err := unix.Mkdirat(dir, name, 0o755); err {
		case nil:
			fresh = true
			c.made = append(c.made, i+1)
		case unix.EEXIST:
		default:
			return &fs.PathError{Op: "mkdir", Path: c.mount + c.path(i+1), Err: err}
		}
		next, err := linux.OpenAt(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		linux.Close(dir)
		dir = next
		c.leafNew = fresh
	}
	// Children of the root are always domains when new.
	if len(c.names) > 1 || !c.leafNew {
		return c.checkType(dir)
	}
	return nil
}

// path returns the path of the first n components.
func (c *creation) path(n int) string { return "/" + strings.Join(c.names[:n], "/") }

// enable turns on those of wanted that are missing in the group's
// cgroup.subtree_control, and returns those that its children now have.
func (c *creation) enable(dir, depth int, wanted []string) ([]string, error) {
	if len(wanted) == 0 {
		return nil, nil
	}
	b, err := linux.ReadFileAt(dir, "cgroup.subtree_control", 0)
	if err != nil {
		return nil, err
	}
	enabled := strings.Fields(string(b))
	all := true
	for _, w := range wanted {
		all = all && slices.Contains(enabled, w)
	}
	if all {
		return wanted, nil
	}
	if b, err = linux.ReadFileAt(dir, "cgroup.controllers", 0); err != nil {
		return nil, err
	}
	available := strings.Fields(string(b))
	got := make([]string, 0, len(wanted))
	var must, may []string
	for _, w := range wanted {
		switch required := slices.Contains(c.required, w); {
		case slices.Contains(enabled, w):
			got = append(got, w)
		case !slices.Contains(available, w) && required:
			return nil, c.unavailable(w, depth)
		case !slices.Contains(available, w):
		case required:
			must = append(must, w)
		default:
			may = append(may, w)
		}
	}
	if len(must)+len(may) == 0 {
		return got, nil
	}
	// A group with processes must not get limited children. The kernel says EBUSY
	// for some controllers only; enabling others (cpu, cpuset, pids) silently makes
	// the group the root of a threaded subtree, in which no container can live.
	if n, err := c.processes(dir, depth); err != nil || n > 0 {
		if err == nil && len(must) > 0 {
			err = &BusyParentError{c.path(depth), plus(must), n}
		}
		return got, err
	}
	// All at once is the usual case; the kernel takes all of a write or nothing.
	if linux.WriteFileAt(dir, "cgroup.subtree_control", plus(append(must[:len(must):len(must)], may...))) == nil {
		return append(append(got, must...), may...), nil
	}
	if len(must) > 0 {
		value := plus(must)
		if err := linux.WriteFileAt(dir, "cgroup.subtree_control", value); err != nil {
			return nil, c.enableError(dir, depth, value, err)
		}
		got = append(got, must...)
	}
	for _, m := range may {
		if linux.WriteFileAt(dir, "cgroup.subtree_control", "+"+m) == nil {
			got = append(got, m)
		}
	}
	return got, nil
}

// processes returns how many processes the group dir itself has. The root of the
// hierarchy, the one group without a type, may have any number.
func (c *creation) processes(dir, depth int) (int, error) {
	if depth == 0 && unix.Faccessat(dir, "cgroup.type", unix.F_OK, 0) == unix.ENOENT {
		return 0, nil
	}
	pids, err := procs(dir)
	return len(pids), err
}

func plus(controllers []string) string { return "+" + strings.Join(controllers, " +") }

func (c *creation) enableError(dir, depth int, value string, err error) error {
	if gone(err) {
		return err
	}
	err = cause(err)
	if err == unix.EACCES || err == unix.EPERM { // a group that is not ours: its owner has not passed them on
		first, _, _ := strings.Cut(strings.TrimPrefix(value, "+"), " ")
		return &ControllerError{Controller: first, Parent: c.path(depth)}
	}
	if err == unix.EOPNOTSUPP || err == unix.EINVAL {
		if terr := c.checkTypeAt(dir, depth); terr != nil {
			return terr
		}
	}
	return &WriteError{Group: c.path(depth), File: "cgroup.subtree_control", Value: value, Err: err}
}

// unavailable explains why controller is not in the group at depth.
func (c *creation) unavailable(controller string, depth int) error {
	if depth > 0 {
		return &ControllerError{Controller: controller, Parent: c.path(depth - 1)}
	}
	return whyMissing(c.mount, controller)
}

// whyMissing explains why the root of the hierarchy lacks controller.
func whyMissing(mount, controller string) *ControllerError {
	e := &ControllerError{Controller: controller}
	v1 := controller
	if controller == "io" {
		v1 = "blkio"
	}
	if b, err := linux.ReadFile("/proc/self/mountinfo", 0); err == nil {
		e.Mount = findMount(string(b), "cgroup", v1)
	}
	if e.Mount == "" && unix.Access(mount+"/cgroup.type", unix.F_OK) == nil {
		e.Parent = "/" // the root of a cgroup namespace, not of the hierarchy
		return e
	}
	if b, err := linux.ReadFile("/proc/cgroups", 0); err == nil && e.Mount == "" {
		for line := range strings.Lines(string(b)) {
			// #subsys_name hierarchy num_cgroups enabled
			if f := strings.Fields(line); len(f) == 4 && f[0] == v1 {
				e.Disabled = f[3] == "0"
			}
		}
	}
	return e
}

func (c *creation) checkType(dir int) error { return c.checkTypeAt(dir, len(c.names)) }

func (c *creation) checkTypeAt(dir, depth int) error {
	b, err := linux.ReadFileAt(dir, "cgroup.type", 0)
	if err != nil {
		if depth == 0 {
			return nil // the root has no type
		}
		return err
	}
	if t := strings.TrimSuffix(string(b), "\n"); t != "domain" {
		return &TypeError{c.path(depth), t}
	}
	return nil
}

// undo removes what walk made, deepest first. Groups that somebody else uses
// meanwhile stay, as they are not empty.
func (c *creation) undo() {
	for i := len(c.made) - 1; i >= 0; i-- {
		_ = unix.Rmdir(c.mount + c.path(c.made[i]))
	}
	c.made, c.leafNew = c.made[:0], false
}

// CheckFree reports whether the group can become a new container's: nil, or a
// *NotFreeError if processes are in it or it is frozen. A group that Create
// made itself needs no look.
func (g *Group) CheckFree() error {
	if g.created {
		return nil
	}
	e, err := g.events()
	if err != nil {
		return err
	}
	if e.populated {
		n, err := g.Procs()
		if err != nil {
			return err
		}
		if len(n) > 0 {
			return &NotFreeError{Group: g.Path, Procs: len(n)}
		}
	}
	frozen, err := g.Frozen()
	if err == nil && (frozen || e.frozen) {
		err = &NotFreeError{Group: g.Path, Frozen: true}
	}
	return err
}

// parsePids reads cgroup.procs: one number per line, 0 for processes that the
// reader's pid namespace does not show.
func parsePids(text string, pids []int) []int {
	for line := range strings.Lines(text) {
		if n, err := strconv.Atoi(strings.TrimSuffix(line, "\n")); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}
