package container

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/minirun/minirun/container/volume"
	"github.com/minirun/minirun/imagestore/unpacked"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/runtime"
	"github.com/minirun/minirun/runtime/bundle"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Volumes is the annotation with the places of a container's volumes and binds,
// one a line: those that --volumes-from gives to another container.
const Volumes = "io.minirun.volumes"

// userMount is a mount that the user or the image asks for.
type userMount struct {
	kind    string // "bind", "volume" or "tmpfs"
	source  string // path, or name of a volume; "" for one without a name
	dest    string // cleaned
	options []string
	noCopy  bool
	said    string
}

func (m *userMount) fail(format string, args ...any) error {
	return fmt.Errorf("%s: %w", m.said, fmt.Errorf(format, args...))
}

// userMounts are the mounts of a container from an image that were asked for, in
// the order in which they are made: those above before those below.
func userMounts(cfg *unpacked.ImageConfig, o *Options) ([]userMount, error) {
	if len(o.Volumes)+len(o.Mounts)+len(o.Tmpfs)+len(o.From)+len(cfg.Volumes) == 0 {
		return nil, nil
	}
	var list []userMount
	for _, v := range o.Volumes {
		m, err := parseVolume(v)
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	for _, v := range o.Mounts {
		m, err := parseMount(v)
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	for _, v := range o.Tmpfs {
		s, err := tmpfs(v)
		if err != nil {
			return nil, err
		}
		list = append(list, userMount{kind: "tmpfs", dest: filepath.Clean(s.Destination), options: s.Options, said: "tmpfs " + strconv.Quote(v)})
	}
	taken := map[string]bool{}
	for i := range list {
		if taken[list[i].dest] {
			return nil, list[i].fail("something else is mounted at %q already", list[i].dest)
		}
		taken[list[i].dest] = true
	}
	for _, m := range o.From {
		if !taken[m.dest] {
			taken[m.dest] = true
			list = append(list, m)
		}
	}
	for v := range cfg.Volumes {
		m := userMount{kind: "volume", dest: filepath.Clean(v), options: bindOptions(), said: "volume " + strconv.Quote(v) + " of the image"}
		if err := checkDestination(v); err != nil {
			return nil, m.fail("%w", err)
		}
		if !taken[m.dest] {
			taken[m.dest] = true
			list = append(list, m)
		}
	}
	slices.SortStableFunc(list, func(a, b userMount) int {
		if n := strings.Count(a.dest, "/") - strings.Count(b.dest, "/"); n != 0 || len(cfg.Volumes) == 0 {
			return n
		}
		return strings.Compare(a.dest, b.dest) // those of the image come from a map
	})
	return list, nil
}

func bindOptions() []string { return []string{"rbind", "rprivate"} }

// parseVolume reads [SOURCE:]DESTINATION[:OPTIONS]. A source that is an absolute
// path is bound, any other is the name of a volume.
func parseVolume(v string) (userMount, error) {
	m := userMount{kind: "bind", options: bindOptions(), said: "volume " + strconv.Quote(v)}
	parts := strings.SplitN(v, ":", 3)
	if len(parts) == 1 {
		parts = []string{"", v}
		m.kind = "volume"
	} else if parts[0] == "" || parts[1] == "" {
		return m, m.fail("want [SOURCE:]DESTINATION[:OPTIONS]")
	}
	m.source = parts[0]
	if m.source != "" && !filepath.IsAbs(m.source) {
		m.kind = "volume"
		if err := volume.CheckName(m.source); err != nil {
			return m, m.fail("the source must be an absolute path of the host or the name of a volume: %w", err)
		}
	}
	if err := checkDestination(parts[1]); err != nil {
		return m, m.fail("%w", err)
	}
	m.dest = filepath.Clean(parts[1])
	if len(parts) < 3 {
		return m, nil
	}
	for opt := range strings.SplitSeq(parts[2], ",") {
		if err := m.option(opt); err != nil {
			return m, err
		}
	}
	return m, nil
}

// option is one of those that -v takes.
func (m *userMount) option(opt string) error {
	switch opt {
	case "ro", "rw", "nosuid", "nodev", "noexec", "suid", "dev", "exec":
		m.options = append(m.options, opt)
	case "private", "rprivate", "slave", "rslave", "shared", "rshared":
		if m.kind == "volume" {
			return m.fail("option %q is for a directory of the host", opt)
		}
		m.options = append(m.options, opt)
	case "nocopy":
		if m.kind != "volume" {
			return m.fail("option %q is for a volume", opt)
		}
		m.noCopy = true
	case "z", "Z":
		if unix.Access("/sys/fs/selinux/enforce", unix.F_OK) == nil {
			return m.fail("option %q: labels of SELinux are not supported", opt)
		}
	case "cached", "delegated", "consistent": // of docker on other systems
	default:
		return m.fail("unknown option %q; use ro, rw, nocopy, z, nosuid, nodev, noexec or a propagation", opt)
	}
	return nil
}

// parseMount reads the value of --mount: KEY=VALUE,... as docker has it.
func parseMount(v string) (userMount, error) {
	m := userMount{kind: "volume", said: "mount " + strconv.Quote(v)}
	var size, mode string
	sourced := false
	for field := range strings.SplitSeq(v, ",") {
		key, value, has := strings.Cut(field, "=")
		on := !has || value == "true" || value == "1"
		if !has && key != "ro" && key != "readonly" && key != "volume-nocopy" && key != "bind-nonrecursive" {
			return m, m.fail("%q: want KEY=VALUE", field)
		}
		switch key {
		case "type":
			if value != "bind" && value != "volume" && value != "tmpfs" {
				return m, m.fail("type %q: want bind, volume or tmpfs", value)
			}
			m.kind = value
		case "src", "source":
			m.source, sourced = value, true
		case "dst", "destination", "target":
			m.dest = value
		case "ro", "readonly":
			if !on && value != "false" && value != "0" {
				return m, m.fail("%q: want true or false", field)
			}
			if on {
				m.options = append(m.options, "ro")
			}
		case "volume-nocopy":
			m.noCopy = on
		case "bind-nonrecursive":
			if on {
				m.options = append(m.options, "bind")
			}
		case "bind-propagation":
			switch value {
			case "private", "rprivate", "slave", "rslave", "shared", "rshared":
				m.options = append(m.options, value)
			default:
				return m, m.fail("unknown propagation %q", value)
			}
		case "tmpfs-size":
			size = value
		case "tmpfs-mode":
			mode = value
		case "consistency": // of docker on other systems
		default:
			return m, m.fail("unknown key %q", key)
		}
	}
	if err := checkDestination(m.dest); err != nil {
		return m, m.fail("dst: %w", err)
	}
	m.dest = filepath.Clean(m.dest)
	has := func(options ...string) bool {
		return slices.ContainsFunc(m.options, func(o string) bool { return slices.Contains(options, o) })
	}
	bindOnly := has("bind", "private", "rprivate", "slave", "rslave", "shared", "rshared")
	switch {
	case m.kind != "tmpfs" && size+mode != "":
		return m, m.fail("tmpfs-size and tmpfs-mode are for type=tmpfs")
	case m.kind != "volume" && m.noCopy:
		return m, m.fail("volume-nocopy is for type=volume")
	case m.kind != "bind" && bindOnly:
		return m, m.fail("bind-propagation and bind-nonrecursive are for type=bind")
	case m.kind == "tmpfs" && sourced:
		return m, m.fail("a tmpfs has no source")
	case m.kind == "bind" && !filepath.IsAbs(m.source):
		return m, m.fail("src: want an absolute path of the host")
	case m.kind == "volume" && m.source != "":
		if err := volume.CheckName(m.source); err != nil {
			return m, m.fail("src: %w", err)
		}
	}
	switch {
	case m.kind == "tmpfs":
		options := slices.Clone(m.options)
		if size != "" {
			options = append(options, "size="+size)
		}
		if mode != "" {
			options = append(options, "mode="+mode)
		}
		s, err := tmpfsAt(m.dest, m.dest, options)
		if err != nil {
			return m, m.fail("%w", err)
		}
		m.options = s.Options
	case has("bind"):
		m.options = slices.DeleteFunc(m.options, func(o string) bool { return o == "bind" })
		m.options = append([]string{"bind", "rprivate"}, m.options...)
	default:
		m.options = append(bindOptions(), m.options...)
	}
	return m, nil
}

// addUserMounts turns the mounts that were asked for into some of config.json.
// place is where a volume is.
func addUserMounts(s *specs.Spec, list []userMount, place func(*userMount) (string, error)) error {
	var places []string
	for i := range list {
		m := &list[i]
		if m.kind == "tmpfs" {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: m.dest, Type: "tmpfs", Source: "tmpfs", Options: m.options})
			continue
		}
		source := m.source
		if m.kind == "volume" {
			var err error
			if source, err = place(m); err != nil {
				return err
			}
		}
		bind := specs.Mount{Destination: m.dest, Type: "bind", Source: source, Options: m.options}
		if own, _ := runtime.OwnIDs(); m.kind == "volume" && own == nil {
			// Owners in a volume are those of the container, whatever its user namespace.
			bind.UIDMappings, bind.GIDMappings = s.Linux.UIDMappings, s.Linux.GIDMappings
		}
		s.Mounts = append(s.Mounts, bind)
		places = append(places, m.dest)
	}
	if len(places) > 0 {
		if s.Annotations == nil {
			s.Annotations = map[string]string{}
		}
		s.Annotations[Volumes] = strings.Join(places, "\n")
	}
	return nil
}

// volumes places the volumes of a container that is being made.
type volumes struct {
	store     volume.Store
	user      string // key of the snapshot
	root      int    // of the container
	anonymous []string
}

func (v *volumes) place(m *userMount) (string, error) {
	u := volume.Use{Name: m.source, User: v.user, NoCopy: m.noCopy, Root: v.root, Dest: m.dest}
	if u.Name == "" {
		u.Name, u.Anonymous = volume.RandomName(), true
		v.anonymous = append(v.anonymous, u.Name)
	}
	path, err := v.store.Use(u)
	if err != nil {
		return "", fmt.Errorf("%s: %w", m.said, err)
	}
	return path, nil
}

// explained is place for explain: it makes nothing.
func explained(store volume.Store) func(*userMount) (string, error) {
	return func(m *userMount) (string, error) {
		if m.source == "" {
			return store.Path("<new>"), nil
		}
		return store.Path(m.source), nil
	}
}

// FromContainer reads CONTAINER[:ro|rw] and adds the volumes and binds of that
// container, for --volumes-from.
func (o *Options) FromContainer(s *runtime.Store, store, from string) error {
	id, mode, _ := strings.Cut(from, ":")
	fail := func(err error) error { return fmt.Errorf("volumes from %q: %w", from, err) }
	switch mode {
	case "", "ro", "rw", "z", "Z":
	default:
		return fail(errors.New("want CONTAINER or CONTAINER:ro"))
	}
	c, err := s.Load(id)
	if err != nil {
		return fail(err)
	}
	raw, err := linux.ReadFile(s.ConfigPath(id), 0)
	if err != nil {
		return fail(err)
	}
	spec, err := bundle.Parse(raw)
	if err != nil {
		return fail(err)
	}
	places := strings.Split(c.Annotations[Volumes], "\n")
	dir := string(volume.Store(store).Path("x"))
	dir = dir[:strings.LastIndex(dir, "/x/")+1]
	for _, m := range spec.Mounts {
		if m.Type != "bind" || !slices.Contains(places, m.Destination) {
			continue
		}
		u := userMount{kind: "bind", source: m.Source, dest: m.Destination, options: m.Options, said: "volumes from " + strconv.Quote(from)}
		if rest, ok := strings.CutPrefix(m.Source, dir); ok {
			if name, _, ok := strings.Cut(rest, "/"); ok && volume.CheckName(name) == nil {
				u.kind, u.source = "volume", name
			}
		}
		if mode == "ro" {
			u.options = append(slices.Clone(u.options), "ro")
		}
		o.From = append(o.From, u)
	}
	return nil
}
