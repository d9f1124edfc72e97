package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/seccomp"
	"github.com/minirun/minirun/namespaces"
	"github.com/minirun/minirun/rootfs"
	"github.com/minirun/minirun/runtime/bundle"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Plan is everything that creating a container will do, worked out before
// anything is touched.
type Plan struct {
	ID       string
	Spec     *specs.Spec
	Bundle   string // absolute directory
	Rootfs   string // absolute directory
	Set      namespaces.Set
	Cgroup   string // path in the cgroup v2 hierarchy
	Limits   *cgroups.Limits
	Steps    []initprog.Step // what the init does, in order
	Warnings []string

	caller  caller
	unit    *unit // of systemd, if it makes the cgroup
	process *process
	report  string // PlanOptions.DenialReport
	timing  *Timing
	fds     fdLayout
	maps    *mountMaps
	devices []*netDevice
	rdt     Rdt
	inner   *innerFiles // if the init has to tell what it is in
}

// fdLayout are the descriptor numbers inside the init. The standard streams and
// the preserved ones keep their numbers; ours lie above.
type fdLayout struct {
	preserve int // descriptors 3 to 2+preserve are the user's
	sync     int
	listen   int
	console  int
	root     int
	join     int // of the first namespace to join
}

func layout(preserve int) fdLayout {
	base := 3 + preserve
	return fdLayout{preserve, base, base + 1, base + 2, base + 3, base + 4}
}

// PlanOptions are what a plan depends on beside the bundle.
type PlanOptions struct {
	PreserveFDs  int  // descriptors from 3 on that the user's process inherits
	NoPivot      bool // see rootfs.Options
	NoNewKeyring bool
	Rootless     Rootless
	Systemd      bool // linux.cgroupsPath names a scope that systemd makes
	RootMount    bool // the root is a detached mount handed over as a descriptor
	// DenialReport is where calls that the seccomp filter denies are reported to,
	// a file or "-" for standard error, by the process that Supervise starts.
	DenialReport string
	Timing       *Timing // if not nil, is told when phases end
	Root         int     // with RootMount: descriptor of the root, for look-ups
	// Later are sources of binds that are missing and will be directories when the
	// plan is carried out. It is for a plan that is only shown.
	Later     []string
	notifyDir string // directory of a Notifier's socket
	meet      bool   // the init waits until its network is connected from within
	gate      gate
}

// NewPlan validates the bundle and works out the plan for a container. It reads
// the host (does the rootfs exist, what is a bind source, who is the user) and
// changes nothing.
func NewPlan(id string, b *bundle.Bundle, o PlanOptions) (*Plan, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	spec := b.Spec
	if err := b.Validate(); err != nil {
		return nil, err
	}
	if err := checkLabels(spec.Process, spec.Linux); err != nil {
		return nil, err
	}
	if spec.Process == nil {
		return nil, &UnsupportedError{Field: "config without process"}
	}
	if spec.Linux == nil {
		spec.Linux = &specs.Linux{}
	}
	p := &Plan{ID: id, Spec: spec, Bundle: b.Dir, report: o.DenialReport, timing: o.Timing, fds: layout(o.PreserveFDs), Warnings: bundle.Warnings(spec), caller: whoWeAre(o.Rootless)}
	var err error
	if p.Set, err = namespaces.FromSpec(spec.Linux.Namespaces); err != nil {
		return nil, err
	}
	if p.Set.All()&unix.CLONE_NEWNS == 0 {
		return nil, errors.New("linux.namespaces: a mount namespace is needed: without one the mounts would be made on the host; add {\"type\": \"mount\"}")
	}
	if err = p.caller.check(spec, &p.Set); err != nil {
		return nil, err
	}
	if o.Systemd {
		err = p.planUnit(spec)
	} else {
		p.Cgroup, err = cgroups.CleanPath(spec.Linux.CgroupsPath, id)
	}
	if err != nil {
		return nil, err
	}
	if p.Limits, err = cgroups.FromOCI(spec.Linux.Resources); err != nil {
		return nil, err
	}
	if err = p.planCgroup(spec.Linux.CgroupsPath); err != nil {
		return nil, err
	}
	if p.rdt, err = planRdt(id, spec.Linux.IntelRdt); err != nil {
		return nil, err
	}
	p.Rootfs = spec.Root.Path
	if !filepath.IsAbs(p.Rootfs) {
		p.Rootfs = filepath.Join(b.Dir, p.Rootfs)
	}
	root := o.Root
	if !o.RootMount {
		if root, err = linux.OpenAt(unix.AT_FDCWD, p.Rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err != nil {
			return nil, rootfsError(p.Rootfs, err)
		}
		defer linux.Close(root)
	}
	return p, p.build(root, &o)
}

func rootfsError(path string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("root.path: rootfs (%s) does not exist: %w", path, unix.ENOENT)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return fmt.Errorf("root.path: rootfs (%s) is not a directory, or a symlink", path)
	}
	return fmt.Errorf("root.path: %w", err)
}

func (p *Plan) build(root int, o *PlanOptions) error {
	spec := p.Spec
	userns := p.Set.All()&unix.CLONE_NEWUSER != 0
	var before []initprog.Step
	steps := make([]initprog.Step, 0, 48)
	steps = append(steps, &harden{p.ID, p.fds.sync})
	steps = append(steps, labels(spec.Process)...)
	joins := make([]initprog.Value, len(p.Set.Join))
	for i := range joins {
		joins[i] = initprog.FD(p.fds.join + i)
	}
	steps = append(steps, p.Set.Plan(joins, !p.caller.user)...)
	if p.caller.user && (o.gate == gateStart || hooksInside(spec.Hooks) || o.meet) {
		p.inner = &innerFiles{flags: p.Set.All()}
		steps = append(steps, p.inner)
	}
	steps = append(steps, &session{keyring: p.ID, skip: o.NoNewKeyring})
	if p.Set.New&unix.CLONE_NEWNET != 0 {
		steps = append(steps, &loopback{})
	}

	if o.notifyDir != "" {
		p.planNotify(o.notifyDir)
	}
	ro := rootfs.Options{
		Root: p.Rootfs, Bundle: p.Bundle, UserNS: userns || p.caller.userns, Host: userns && !p.caller.user, NoPivot: o.NoPivot,
		HostCgroup: p.hostCgroup(), MountLabel: spec.Linux.MountLabel,
		Stat: statHost, Readlink: readlinkHost, IsProc: isProc, MountPoint: mountPoint, Locked: lockedAttributes,
		Destination: func(path string) string { return throughLinks(root, path) },
		CopyUp:      func(dir string, limit int) ([]rootfs.Entry, error) { return copyUp(root, dir, limit) },
		DirMode:     func(path string) (uint32, bool) { return dirMode(root, path) },
	}
	if len(o.Later) > 0 {
		ro.Stat = func(path string) (bool, error) {
			isDir, err := statHost(path)
			if err != nil && slices.Contains(o.Later, path) {
				return true, nil
			}
			return isDir, err
		}
	}
	p.maps = newMountMaps(&p.Set, p.fds.join)
	ro.IDMap = p.maps.descriptor
	ro.Before = func(s initprog.Step) { before = append(before, s) }
	if o.notifyDir != "" { // made when the plan is carried out
		ro.Private = o.notifyDir
	}
	if o.RootMount {
		ro.Mount = initprog.FD(p.fds.root)
	}
	if spec.Process.Terminal {
		ro.Console, ro.ConsoleUID = initprog.FD(p.fds.console), spec.Process.User.UID
		if z := spec.Process.ConsoleSize; z != nil {
			ro.Height, ro.Width = uint16(z.Height), uint16(z.Width)
		}
	}
	if userns || p.caller.userns {
		p.dropUnmappedGID()
	}
	tree, err := rootfs.Plan(spec, ro)
	if err != nil {
		return err
	}
	enter := len(tree) - 1 // the change of the root comes last
	if len(before) > 0 {
		steps = slices.Insert(steps, 1, before...)
	}
	steps = append(steps, tree[:enter]...)
	if p.Set.New&unix.CLONE_NEWUTS != 0 && (spec.Hostname != "" || spec.Domainname != "") {
		steps = append(steps, &names{spec.Hostname, spec.Domainname})
	}
	if err := p.planNetDevices(spec.Linux.NetDevices); err != nil {
		return err
	}
	if len(p.devices) > 0 {
		steps = append(steps, &deviceGate{p.devices})
	}
	if atCreate(spec.Hooks) || o.meet {
		steps = append(steps, &hookGate{spec.Hooks, p.inner, o.meet})
	}
	// After the hooks, which may bring the interfaces that a name names.
	parameters, err := planSysctls(&p.Set, spec.Linux.Sysctl)
	if err != nil {
		return err
	}
	if parameters != nil {
		steps = append(steps, parameters)
	}
	steps = append(steps, tree[enter])

	if err := p.planProcess(spec.Process, spec.Linux.Seccomp, root, o.gate); err != nil {
		return err
	}
	p.process.inner = p.inner
	p.Steps = append(steps, p.process.steps()...)
	return nil
}

// planProcess works out the part of the plan that becomes the user's process.
func (p *Plan) planProcess(pr *specs.Process, profile *specs.LinuxSeccomp, root int, g gate) error {
	userns := p.Set.All()&unix.CLONE_NEWUSER != 0
	p.process = &process{spec: pr, linux: p.Spec.Linux, gate: g, listen: initprog.FD(p.fds.listen), denied: userns || p.caller.rootless, alone: p.caller.rootless}
	if pr.Cwd == "" {
		pr.Cwd = "/"
	}
	var warn []string
	p.process.caps, warn = planCaps(pr.Capabilities, userns)
	p.Warnings = append(p.Warnings, warn...)
	p.process.env = environment(pr.Env, func() string { return homeOf(root, pr.User.UID) })
	if profile != nil {
		f, err := seccomp.Compile(profile, goruntime.GOARCH)
		if err != nil {
			return err
		}
		if err := p.planAgent(f, profile); err != nil {
			return err
		}
	} else if p.report != "" {
		p.Warnings = append(p.Warnings, "linux.seccomp: there is no profile, so no system call will be reported")
	}
	return nil
}

// dropUnmappedGID removes the option gid= of devpts where the group has no
// counterpart on the host: mounting it would fail, and runc drops it too.
func (p *Plan) dropUnmappedGID() {
	maps := p.Spec.Linux.GIDMappings
	if p.Set.All()&unix.CLONE_NEWUSER == 0 {
		maps = ownGIDs()
	}
	if len(maps) == 0 {
		return
	}
	for i := range p.Spec.Mounts {
		m := &p.Spec.Mounts[i]
		if m.Type != "devpts" {
			continue
		}
		kept := m.Options[:0:0]
		for _, opt := range m.Options {
			if v, ok := strings.CutPrefix(opt, "gid="); ok {
				if id, err := strconv.ParseUint(v, 10, 32); err == nil && !namespaces.Mapped(maps, uint32(id)) {
					continue
				}
			}
			kept = append(kept, opt)
		}
		m.Options = kept
	}
}

func statHost(path string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return false, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

// dirMode are the permissions of a directory below root.
func dirMode(root int, path string) (uint32, bool) {
	fd, err := linux.OpenInRoot(root, path, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return 0, false
	}
	defer linux.Close(fd)
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	return st.Mode & 0o7777, err == nil
}

func readlinkHost(path string) (string, bool) {
	var buf [unix.PathMax]byte
	n, err := unix.Readlink(path, buf[:])
	return string(buf[:max(n, 0)]), err == nil && n < len(buf)
}

// lockedAttributes is rootfs.Options.Locked.
func lockedAttributes(path string) (attributes uint64) {
	var fs unix.Statfs_t
	if unix.Statfs(path, &fs) != nil {
		return 0
	}
	for _, a := range [...][2]uint64{
		{unix.ST_RDONLY, unix.MOUNT_ATTR_RDONLY},
		{unix.ST_NOSUID, unix.MOUNT_ATTR_NOSUID},
		{unix.ST_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.ST_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
	} {
		if uint64(fs.Flags)&a[0] != 0 {
			attributes |= a[1]
		}
	}
	return attributes
}

// isProc reports whether path is on a procfs.
func isProc(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.PROC_SUPER_MAGIC
}

// Image compiles the plan into the init program.
func (p *Plan) Image() (*initprog.Image, error) {
	m, _, err := p.compile()
	return m, err
}

// compile also tells from which op on failures belong to start.
func (p *Plan) compile() (*initprog.Image, int, error) {
	b := initprog.NewBuilder(p.fds.sync)
	gate := 0
	times, told := p.timing.clock(b, len(p.Steps)), false
	for _, s := range p.Steps {
		b.Phase(s.Phase())
		if !told {
			// From the gate on there is nobody who could be told, nor under the filter.
			switch s.(type) {
			case *waitGate, *confine:
				times.send(b)
				told = true
			default:
				times.phase(b, s.Phase())
			}
		}
		s.Emit(b)
		if _, ok := s.(*waitGate); ok {
			gate = b.Len()
		}
	}
	m, err := b.Link()
	return m, gate, err
}

func cleanPath(path string) string { return rootfs.PathInRoot(path) }

// NewNamespaces lists the namespaces that are made.
func (p *Plan) NewNamespaces() string { return strings.Join(namespaces.Names(p.Set.New), " ") }
