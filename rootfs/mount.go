package rootfs

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/minirun/minirun/internal/initprog"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mount is one entry of the spec's mounts.
type mount struct {
	t       *tree
	dest    string // below the root, clean
	fstype  string
	source  string
	options mountOptions
	file    bool // a bind of something that is no directory
}

func planMount(t *tree, m *specs.Mount, o *Options) (*mount, error) {
	s := &mount{t: t, dest: clean(m.Destination), fstype: m.Type, source: m.Source, options: parseOptions(m.Options)}
	if err := s.options.check(m.Destination); err != nil {
		return nil, err
	}
	if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
		return nil, fmt.Errorf("mount %q: idmapped mounts are not supported", m.Destination)
	}
	if !procAllowed(s.dest) {
		return nil, fmt.Errorf("mount %q: cannot be mounted because it is inside /proc", m.Destination)
	}
	switch {
	case s.options.remount:
		return s, nil
	case s.options.bind:
		return s, s.planBind(m, o)
	}
	switch s.fstype {
	case "":
		return nil, fmt.Errorf("mount %q: has neither a type nor the option bind or rbind", m.Destination)
	case "bind": // the options decide, but a type of bind can only mean one
		s.options.bind = true
		return s, s.planBind(m, o)
	case "cgroup":
		s.fstype = "cgroup2"
	case "tmpfs":
		s.tmpfsMode(o)
	case "proc", "sysfs":
	default:
		if s.dest == "proc" {
			return nil, fmt.Errorf("mount %q: only procfs can be mounted on /proc, not %s", m.Destination, s.fstype)
		}
	}
	if s.fstype != "proc" && s.dest == "proc" {
		return nil, fmt.Errorf("mount %q: only procfs can be mounted on /proc, not %s", m.Destination, s.fstype)
	}
	if s.options.set&unix.MOUNT_ATTR_RDONLY != 0 && s.dest != "dev" {
		s.options.superFlags = append(s.options.superFlags, "ro")
	}
	return s, nil
}

func (s *mount) planBind(m *specs.Mount, o *Options) error {
	if s.source == "" {
		return fmt.Errorf("mount %q: a bind mount needs a source", m.Destination)
	}
	if !filepath.IsAbs(s.source) {
		s.source = filepath.Join(o.Bundle, s.source)
	}
	isDir, err := o.Stat(s.source)
	if err != nil {
		return fmt.Errorf("mount %q: source: %w", m.Destination, err)
	}
	s.file = !isDir
	if s.dest == "proc" && o.IsProc != nil && !o.IsProc(s.source) {
		return fmt.Errorf("mount %q: only procfs can be mounted on /proc, and %s is none", m.Destination, s.source)
	}
	return nil
}

// tmpfsMode gives a tmpfs that does not say otherwise the permissions of the
// directory it covers, as runc does; the kernel's own default is 1777.
func (s *mount) tmpfsMode(o *Options) {
	for _, d := range s.options.data {
		if strings.HasPrefix(d, "mode=") {
			return
		}
	}
	mode := uint32(0o755)
	if o.DirMode != nil {
		if m, ok := o.DirMode(s.dest); ok {
			mode = m
		}
	}
	s.options.data = append(s.options.data, "mode="+strconv.FormatUint(uint64(mode), 8))
}

func (s *mount) Phase() string { return "mounts" }

func (s *mount) String() string {
	var b strings.Builder
	switch {
	case s.options.remount:
		b.WriteString("remount")
	case s.options.recursive:
		b.WriteString("bind " + s.source + " and all below on")
	case s.options.bind:
		b.WriteString("bind " + s.source + " on")
	default:
		b.WriteString("mount " + s.fstype + " on")
	}
	b.WriteString(" /" + strings.TrimPrefix(s.dest, "."))
	sep := " "
	for _, w := range append([]string{describe(s.options.set)}, s.options.data...) {
		if w != "" {
			b.WriteString(sep + w)
			sep = ","
		}
	}
	if s.options.setAll != 0 {
		b.WriteString(sep + "with all below " + describe(s.options.setAll))
	}
	return b.String()
}

func (s *mount) Why() string { return "" }

func (s *mount) Emit(b *initprog.Builder) {
	b.Object("/" + s.dest)
	o := &s.options
	if o.remount {
		at := s.t.open(b, s.dest, s.t.howDir).RetrySome(syscall.EAGAIN).Result()
		b.MountSetattr(at, false, b.MountAttr(o.set, o.clear, 0))
		s.t.release(b, at)
		return
	}
	var m initprog.Value
	if o.bind {
		m = b.OpenTree(initprog.CWD(), s.source, o.recursive).Result()
		s.bindAttributes(b, m)
	} else {
		m = newFS(b, s.fstype, s.source, append(o.superFlags, s.data()...), o.set)
	}
	if o.setAll|o.clrAll != 0 {
		b.MountSetattr(m, true, b.MountAttr(o.setAll, o.clrAll, 0))
	}
	k := directory
	switch {
	case s.file:
		k = file
	case s.fstype == "proc" || s.fstype == "sysfs":
		// These two are trusted later on: no symbolic link may decide where
		// they are (CVE-2023-27561).
		k = realDirectory
	}
	at := s.t.resolve(b, s.dest, k)
	if o.propagation != 0 && !o.propagateAll && !o.bind {
		b.MountSetattr(m, false, b.MountAttr(0, 0, o.propagation))
	} else if o.propagation != 0 {
		b.MountSetattr(m, o.propagateAll, b.MountAttr(0, 0, o.propagation))
	}
	s.t.attach(b, m, at)
}

// bindAttributes changes the attributes that the options name and keeps the
// others of the source.
func (s *mount) bindAttributes(b *initprog.Builder, m initprog.Value) {
	o := &s.options
	if o.set|o.clear == 0 {
		return
	}
	r := b.MountSetattr(m, false, b.MountAttr(o.set, o.clear, 0))
	if !s.t.userns || o.clear&^attrAtime == 0 {
		return
	}
	// Flags that the source has in a more privileged user namespace are locked
	// and cannot be cleared: keep them.
	done := b.NewLabel()
	locked := b.NewLabel()
	r.OnSuccess(done).On(syscall.EPERM, locked)
	b.Place(locked)
	b.MountSetattr(m, false, b.MountAttr(o.set&^attrAtime, 0, 0))
	b.Place(done)
}

// data are the parameters of the file system.
func (s *mount) data() []string { return s.options.data }

// newFS makes a new instance of a file system as a detached mount.
func newFS(b *initprog.Builder, fstype, source string, params []string, attr uint64) initprog.Value {
	fs := b.Fsopen(fstype).Result()
	if source != "" {
		b.FsconfigString(fs, "source", source)
	}
	for _, p := range params {
		if k, v, ok := strings.Cut(p, "="); ok {
			b.FsconfigString(fs, k, v).Detail(p)
		} else {
			b.FsconfigFlag(fs, p).Detail(p)
		}
	}
	b.FsconfigCreate(fs)
	return b.Fsmount(fs, attr).Result()
}
