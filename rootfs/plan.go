package rootfs

import (
	"errors"
	"fmt"
	"strings"

	"github.com/minirun/minirun/internal/initprog"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Options are what a plan depends on beside the spec.
type Options struct {
	Root   string // absolute directory of the rootfs on the host
	Bundle string // absolute directory; relative bind sources start there
	UserNS bool   // the container is in a user namespace: device nodes cannot be made
	Host   bool   // with UserNS: before that the process is root of the host and sees all of it
	// HostCgroup is the directory that is bound where a user namespace may not
	// mount a cgroup file system.
	HostCgroup string
	MountLabel string // SELinux label of the files of new file systems
	NoPivot    bool   // move the root instead of pivot_root, for a root on ramfs
	// Mount, if not zero, is the descriptor of a detached mount that becomes
	// the root; Root is then only the directory it is attached to.
	Mount initprog.Value
	// Console, if not zero, is the descriptor of the socket that receives the
	// terminal's master.
	Console    initprog.Value
	ConsoleUID uint32 // owner of the terminal
	Height     uint16 // size of the terminal; 0: leave
	Width      uint16
	// Stat reports what a path of the host is; IsProc whether it is on a procfs;
	// DirMode the permissions of an existing directory inside the root. They let
	// a plan be made without one.
	Stat    func(path string) (isDir bool, err error)
	IsProc  func(path string) bool
	DirMode func(path string) (mode uint32, ok bool)
	// Readlink is the target of a symbolic link of the host.
	Readlink func(path string) (target string, ok bool)
	// Destination is where in the root path leads to: behind symbolic links, also
	// those that have no target yet.
	Destination func(path string) string
	// CopyUp lists what is in a directory of the root, of the host if it begins
	// with a slash, down to the last file; nothing if it does not exist. More
	// than limit entries are an error.
	CopyUp func(dir string, limit int) ([]Entry, error)
	// Locked are the attributes of the mount that a path of the host lies on which
	// a user namespace other than the mount's may not clear. nil: not known.
	Locked func(path string) uint64
	// MountPoint is where the mount that a path of the host lies on is attached.
	MountPoint func(path string) (string, error)
	// IDMap returns a descriptor of a user namespace with the mappings; without
	// any, of the one that the container joins.
	IDMap func(uids, gids []specs.LinuxIDMapping) initprog.Value
	// Private, if not empty, is a directory that is a bind source, will be there
	// in time, and that root of a user namespace cannot reach by its path.
	Private string
	// Before gets the steps that need the host's privileges: they come before
	// the process joins or makes a user namespace.
	Before func(initprog.Step)

	maps    idMaps // of the container's user namespace
	earlier []*mount
}

// Plan returns the steps that give a container its root file system, in order.
// It is pure: apart from Options.Stat and Options.DirMode nothing is looked at.
//
// The order follows runc where a container or an engine can tell: mounts in the
// order of the spec, then devices and links below /dev, the terminal, then
// everything that takes access away, then the change of the root.
func Plan(spec *specs.Spec, o Options) ([]initprog.Step, error) {
	t := &tree{label: o.MountLabel, userns: o.UserNS, frugal: len(spec.Mounts) > 40}
	var linux specs.Linux
	if spec.Linux != nil {
		linux = *spec.Linux
	}
	up, root, err := rootPropagation(linux.RootfsPropagation)
	if err != nil {
		return nil, err
	}
	steps := make([]initprog.Step, 0, 24+len(spec.Mounts)+len(linux.MaskedPaths)+len(linux.ReadonlyPaths))
	parent := ""
	if up == unix.MS_SHARED {
		if o.NoPivot {
			return nil, errors.New("linux.rootfsPropagation: shared and --no-pivot exclude each other: what is unmounted here would be on the host too")
		}
		if parent, err = o.MountPoint(o.Root); err != nil {
			return nil, fmt.Errorf("linux.rootfsPropagation: %w", err)
		}
	}
	t.host = up
	steps = append(steps, &openRoot{t, o.Root, o.Mount, up, parent})
	o.maps = containerMaps(spec)

	var errs []error
	devBound, devReadonly := false, false
	for i := range spec.Mounts {
		m, err := planMount(t, i, &spec.Mounts[i], &o)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if m.dest == "dev" {
			devBound = m.options.bind
			devReadonly = !m.options.bind && m.options.set&unix.MOUNT_ATTR_RDONLY != 0
			if devReadonly { // once the nodes are there
				m.options.set &^= unix.MOUNT_ATTR_RDONLY
			}
		}
		switch {
		case m.early:
			o.Before(&source{m})
		case m.options.bind && m.link == "" && o.UserNS && o.Host:
			m.spare = true
			o.Before(&spare{m})
		}
		steps = append(steps, m)
		o.earlier = append(o.earlier, m)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if !devBound {
		nodes, err := planDevices(linux.Devices)
		if err != nil {
			return nil, err
		}
		_, noCore := o.Stat("/proc/kcore")
		steps = append(steps, &devices{t, nodes}, &devLinks{t, noCore == nil})
	}
	if !o.Console.IsZero() {
		steps = append(steps, &console{t: t, socket: o.Console, uid: o.ConsoleUID, height: o.Height, width: o.Width})
	}
	if devReadonly {
		steps = append(steps, &readonly{t, "dev", false})
	}
	for _, p := range linux.ReadonlyPaths {
		steps = append(steps, &readonly{t, clean(p), true})
	}
	if len(linux.MaskedPaths) > 0 {
		m := &masks{t: t}
		for _, p := range linux.MaskedPaths {
			m.paths = append(m.paths, clean(p))
		}
		steps = append(steps, m)
	}
	if spec.Root != nil && spec.Root.Readonly {
		if p := spec.Process; p != nil && clean(p.Cwd) != "." {
			steps = append(steps, &workDir{t, p.Cwd})
		}
		steps = append(steps, &readonlyRoot{t})
	}
	return append(steps, &enterRoot{t, o.NoPivot, root}), nil
}

// rootPropagation splits linux.rootfsPropagation into what the mounts of the
// host become in the new namespace and what the root becomes.
func rootPropagation(s string) (host, root uint64, err error) {
	switch s {
	case "", "slave", "rslave":
		return unix.MS_SLAVE, 0, nil
	case "private", "rprivate":
		return unix.MS_PRIVATE, 0, nil
	case "unbindable", "runbindable":
		return unix.MS_SLAVE, unix.MS_UNBINDABLE, nil
	case "shared", "rshared":
		return unix.MS_SHARED, unix.MS_SHARED, nil
	}
	return 0, 0, fmt.Errorf("linux.rootfsPropagation: unknown value %q; use private, slave, shared or unbindable", s)
}

// PathInRoot is path as the steps see it: relative to the root, cleaned.
func PathInRoot(path string) string { return clean(path) }

// procFiles are the places below /proc that a mount may cover. Everything else
// there could fool those who read or write procfs (CVE-2019-16884).
func procAllowed(dest string) bool {
	switch dest {
	case "proc/cpuinfo", "proc/diskstats", "proc/meminfo", "proc/stat", "proc/swaps", "proc/uptime",
		"proc/loadavg", "proc/slabinfo", "proc/sys/kernel/ns_last_pid", "proc/sys/crypto/fips_enabled":
		return true
	}
	return !strings.HasPrefix(dest, "proc/")
}
