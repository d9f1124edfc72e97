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
	index   int    // in the spec
	dest    string // below the root, clean
	fstype  string
	source  string
	options mountOptions
	file    bool           // a bind of something that is no directory
	idmap   initprog.Value // descriptor of the user namespace that maps the ids, or none
	early   bool           // made by a source step
	spare   bool           // a spare step has opened the source, too
	instead string         // directory of the host to bind, read-only, where the file system may not be mounted
	made    initprog.Value // with early: the detached mount; with spare: the source
	copyUp  []Entry        // what to copy into a new file system
	link    string         // not a mount at all, but a symbolic link with this target
}

// fail is an error about a field of the mount.
func (s *mount) fail(m *specs.Mount, field, format string, args ...any) error {
	return fmt.Errorf("mounts[%d]%s: mount %q: %w", s.index, field, m.Destination, fmt.Errorf(format, args...))
}

func planMount(t *tree, i int, m *specs.Mount, o *Options) (*mount, error) {
	s := &mount{t: t, index: i, dest: clean(m.Destination), fstype: m.Type, source: m.Source, options: parseOptions(m.Options)}
	if s.fstype == "bind" && !s.options.remount { // the options decide, but a type of bind can only mean one
		s.options.bind = true
	}
	if err := s.options.check(); err != nil {
		return nil, s.fail(m, ".options", "%w", err)
	}
	if !procAllowed(s.dest) {
		return nil, s.fail(m, ".destination", "cannot be mounted because it is inside /proc")
	}
	switch {
	case s.options.remount:
		if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
			return nil, s.fail(m, ".uidMappings", "a remount cannot map ids")
		}
		return s, nil
	case s.options.bind:
		if err := s.planBind(m, o); err != nil {
			return nil, err
		}
		if err := s.throughLinks(m, o); err != nil {
			return nil, err
		}
		if s.link != "" {
			return s, nil
		}
		return s, s.planIDMap(m, o)
	}
	switch s.fstype {
	case "":
		return nil, s.fail(m, ".type", "has neither a type nor the option bind or rbind")
	case "cgroup":
		s.fstype = "cgroup2"
	case "tmpfs":
		if s.options.copyUp {
			if err := s.planCopyUp(m, o); err != nil {
				return nil, err
			}
		}
		if err := s.throughLinks(m, o); err != nil {
			return nil, err
		}
		s.tmpfsMode(o)
	}
	switch {
	case s.fstype != "proc" && s.dest == "proc":
		return nil, s.fail(m, ".type", "only procfs can be mounted on /proc, not %s", s.fstype)
	case s.options.copyUp && s.fstype != "tmpfs":
		return nil, s.fail(m, ".options", "tmpcopyup is for a tmpfs, not for %s", s.fstype)
	case s.options.copyLink || s.options.srcNoFollow:
		return nil, s.fail(m, ".options", "copy-symlink and src-nofollow are for bind mounts")
	}
	if o.UserNS {
		s.instead = substitute(s.fstype, o)
	}
	if s.options.set&unix.MOUNT_ATTR_RDONLY != 0 && s.dest != "dev" && !s.options.copyUp {
		s.options.superFlags = append(s.options.superFlags, "ro")
	}
	return s, s.planIDMap(m, o)
}

func (s *mount) planBind(m *specs.Mount, o *Options) error {
	if s.source == "" {
		return s.fail(m, ".source", "a bind mount needs a source")
	}
	if !filepath.IsAbs(s.source) {
		s.source = filepath.Join(o.Bundle, s.source)
	}
	s.early = s.t.live
	if o.UserNS && s.options.recursive && s.options.set&unix.MOUNT_ATTR_RDONLY != 0 && clean(s.source) == "sys" {
		// What is mounted below, too: a cgroup that is delegated to the user would
		// be open to the container (CVE-2023-25809).
		s.options.setAll |= unix.MOUNT_ATTR_RDONLY
	}
	link := ""
	if s.options.copyLink || s.options.srcNoFollow {
		link, s.file = o.Readlink(s.source)
	}
	if s.file {
		if s.options.copyLink {
			s.link, s.early = link, false
		}
		return nil
	}
	if o.Private != "" && s.source == o.Private {
		s.early = s.t.live || s.t.userns
		return nil
	}
	isDir, err := o.Stat(s.source)
	if err != nil {
		return s.fail(m, ".source", "source: %w", err)
	}
	s.file = !isDir
	if s.t.userns && (s.t.live || o.Host) && s.options.clear != 0 && o.Locked != nil {
		// The kernel locks what the host has set where a source is opened inside
		// the user namespace. One that the host opens is not to get more.
		s.options.clear &^= o.Locked(s.source)
	}
	if s.dest == "proc" && o.IsProc != nil && !o.IsProc(s.source) {
		return s.fail(m, ".source", "only procfs can be mounted on /proc, and %s is none", s.source)
	}
	return nil
}

// throughLinks finds the place behind links of the image.
func (s *mount) throughLinks(m *specs.Mount, o *Options) error {
	if o.Destination == nil || s.options.destNoFollow || s.link != "" || strings.HasPrefix(s.dest+"/", "dev/") {
		return nil
	}
	dest := clean(o.Destination(s.dest))
	if dest == s.dest {
		return nil
	}
	s.dest = dest
	if !procAllowed(s.dest) || s.dest == "proc" {
		return s.fail(m, ".destination", "cannot be mounted because links lead it to /%s", s.dest)
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
	if len(s.copyUp) > 0 {
		mode = s.copyUp[0].Mode & 0o7777
	} else if o.DirMode != nil {
		m, ok := o.DirMode(s.dest)
		if !ok {
			return // nothing is covered: runc and crun leave it to the kernel, too
		}
		mode = m
	}
	s.options.data = append(s.options.data, "mode="+strconv.FormatUint(uint64(mode), 8))
}

func (s *mount) Phase() string { return "mounts" }

func (s *mount) String() string {
	var b strings.Builder
	switch {
	case s.link != "":
		return "make the link /" + s.dest + " to " + s.link
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
	if s.instead != "" {
		b.WriteString(sep + "or, where that is not permitted, bind " + s.instead)
		sep = ", "
	}
	if s.options.copyUp {
		b.WriteString(sep + "with copies of the " + strconv.Itoa(len(s.copyUp)) + " files it covers")
		sep = ", "
	}
	if !s.idmap.IsZero() {
		b.WriteString(sep + "with its ids mapped")
		sep = ", "
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
		at := s.t.open(b, s.dest, s.t.howAny).RetrySome(syscall.EAGAIN).Result()
		if o.set|o.clear != 0 {
			b.MountSetattr(at, false, b.MountAttr(o.set, o.clear, 0))
		}
		if o.setAll|o.clrAll != 0 {
			b.MountSetattr(at, true, b.MountAttr(o.setAll, o.clrAll, 0))
		}
		if o.propagation != 0 {
			b.MountSetattr(at, o.propagateAll, b.MountAttr(0, 0, o.propagation))
		}
		s.t.release(b, at)
		return
	}
	if s.link != "" {
		s.t.symlink(b, s.dest, s.link)
		return
	}
	if s.options.copyUp {
		at := s.t.resolve(b, s.dest, directory)
		m := s.detached(b, s.t.userns)
		s.emitCopyUp(b, at, m)
		s.attach(b, m, at)
		return
	}
	m := s.made
	if !s.early {
		m = s.detached(b, s.t.userns)
	}
	k := directory
	switch {
	case s.file && s.options.destNoFollow:
		k = unfollowedFile
	case s.file:
		k = file
	case s.fstype == "proc" || s.fstype == "sysfs":
		// These two are trusted later on: no symbolic link may decide where
		// they are (CVE-2023-27561).
		k = realDirectory
	case s.options.destNoFollow:
		k = unfollowed
	}
	s.attach(b, m, s.t.resolve(b, s.dest, k))
}

func (s *mount) attach(b *initprog.Builder, m, at initprog.Value) {
	if s.dest == "." { // over the root: all that follows is in this one
		b.MoveMount(m, at)
		s.t.root = m
		return
	}
	s.t.attach(b, m, at)
	if s.spare && s.t.frugal {
		b.Close(s.made).IgnoreAny()
	}
}

// detached makes the mount with all its attributes, attached nowhere yet.
func (s *mount) detached(b *initprog.Builder, userns bool) initprog.Value {
	o := &s.options
	var m initprog.Value
	if o.bind {
		opened := s.open(b)
		m = opened.Result()
		if s.spare {
			s.orSpare(b, opened, m)
		}
		s.bindAttributes(b, m, userns)
	} else {
		set := o.set
		if o.copyUp { // only when the copies are there
			set &^= unix.MOUNT_ATTR_RDONLY
		}
		m = s.newFS(b, set)
	}
	if o.setAll|o.clrAll != 0 {
		b.MountSetattr(m, true, b.MountAttr(o.setAll, o.clrAll, 0))
	}
	if s.early && o.bind {
		// The clone is a peer of the host's mount, where the container's others
		// are what the first step has made of them.
		b.MountSetattr(m, true, b.MountAttr(0, 0, s.t.host))
	}
	if o.propagation != 0 {
		b.MountSetattr(m, o.propagateAll && o.bind, b.MountAttr(0, 0, o.propagation))
	}
	if !s.idmap.IsZero() {
		what := IDMapDetail + s.fstype
		switch {
		case o.bind && o.idmapAll:
			what = IDMapAllDetail + s.source
		case o.bind:
			what = IDMapDetail + s.source
		}
		b.MountSetattr(m, o.idmapAll, b.MountAttrIDMap(s.idmap)).Detail(what)
	}
	return m
}

// open clones the source of a bind.
func (s *mount) open(b *initprog.Builder) initprog.Ref {
	if s.options.srcNoFollow {
		return b.OpenTreeNoFollow(initprog.CWD(), s.source, s.options.recursive)
	}
	return b.OpenTree(initprog.CWD(), s.source, s.options.recursive)
}

// orSpare takes what the spare step has opened where the source turns out to be
// out of reach. Not always: that one has no locked flags, see bindAttributes.
func (s *mount) orSpare(b *initprog.Builder, opened initprog.Ref, m initprog.Value) {
	done, out := b.NewLabel(), b.NewLabel()
	opened.OnSuccess(done).On(syscall.EACCES, out)
	b.Place(out)
	b.Set(m, s.made).Detail("open_tree " + s.source)
	b.MountSetattr(m, true, b.MountAttr(0, 0, s.t.host))
	b.Place(done)
}

// spare opens the source of a bind before the process leaves the host's user
// namespace: below directories that are root's alone, such as an engine's, the
// container's root finds nothing.
type spare struct{ m *mount }

func (s *spare) Phase() string { return "mount sources" }
func (s *spare) String() string {
	return "open " + s.m.source + " for /" + s.m.dest + " in case that it is out of reach later"
}

func (s *spare) Why() string {
	return "root of a user namespace may not enter every directory of the host's root"
}

func (s *spare) Emit(b *initprog.Builder) {
	b.Object("/" + s.m.dest)
	s.m.made = s.m.open(b).IgnoreAny().Result()
}

// bindAttributes changes the attributes that the options name and keeps the
// others of the source.
func (s *mount) bindAttributes(b *initprog.Builder, m initprog.Value, userns bool) {
	o := &s.options
	if o.set|o.clear == 0 {
		return
	}
	r := b.MountSetattr(m, false, b.MountAttr(o.set, o.clear, 0))
	if !userns || o.clear&^attrAtime == 0 {
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

// newFS makes a new instance of a file system as a detached mount.
func newFS(b *initprog.Builder, fstype, source string, params []string, attr uint64) initprog.Value {
	return emitFS(b, fstype, source, params, attr, nil)
}

// emitFS is newFS; denied, if not nil, is told the calls that may be refused.
func emitFS(b *initprog.Builder, fstype, source string, params []string, attr uint64, denied func(initprog.Ref)) initprog.Value {
	if denied == nil {
		denied = func(initprog.Ref) {}
	}
	r := b.Fsopen(fstype)
	denied(r)
	fs := r.Result()
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
	denied(b.FsconfigCreate(fs))
	r = b.Fsmount(fs, attr)
	denied(r)
	return r.Result()
}
