package rootfs

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/minirun/minirun/internal/initprog"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// IDMapDetail begins the detail of the call that maps the ids of a mount; the
// source of a bind or the type of a file system follows. The call fails where
// the file system, with IDMapAllDetail one of those below, cannot do it.
const (
	IDMapDetail    = "idmap "
	IDMapAllDetail = "ridmap "
)

// idMaps are the mappings of a user namespace.
type idMaps struct {
	uids, gids []specs.LinuxIDMapping
	joined     bool // the namespace exists and has mappings that are not known here
}

func (m *idMaps) none() bool { return len(m.uids) == 0 || len(m.gids) == 0 }

// containerMaps are the mappings of the container's user namespace, none if it
// has none of its own.
func containerMaps(spec *specs.Spec) (m idMaps) {
	if spec.Linux == nil {
		return m
	}
	for _, n := range spec.Linux.Namespaces {
		if n.Type == specs.UserNamespace {
			return idMaps{spec.Linux.UIDMappings, spec.Linux.GIDMappings, n.Path != ""}
		}
	}
	return m
}

// planIDMap finds the mappings of a mount whose ids are mapped: its own, those
// after "idmap=", or the container's.
//
// The kernel lets only those map the ids of a mount who are privileged in the
// user namespace that the file system was mounted in, so a source step does it
// before there is another one.
func (s *mount) planIDMap(m *specs.Mount, o *Options) error {
	own := len(m.UIDMappings)+len(m.GIDMappings) > 0
	if !own && !s.options.idmap {
		return nil
	}
	field := ".options"
	if own {
		field = ".uidMappings"
	}
	if !s.options.bind {
		switch s.fstype {
		case "proc", "sysfs", "mqueue", "devpts", "cgroup2":
			// These show the namespaces of the process that mounts them, which
			// at that time are the host's.
			return s.fail(m, field, "the ids of a %s cannot be mapped", s.fstype)
		}
	}
	var uids, gids []specs.LinuxIDMapping
	switch text := s.options.idmapText; {
	case own && text != "":
		return s.fail(m, field, "has mappings of its own and others behind idmap=: remove one of them")
	case own:
		uids, gids = m.UIDMappings, m.GIDMappings
	case text != "":
		var err error
		if uids, gids, err = parseIDMap(text, &o.maps); err != nil {
			return s.fail(m, field, "idmap=%s: %w", text, err)
		}
	case o.maps.joined: // whose mappings others have made
	case o.maps.none():
		return s.fail(m, field, "idmap without mappings means those of the container's user namespace, and it has none: add uidMappings and gidMappings")
	default:
		uids, gids = o.maps.uids, o.maps.gids
	}
	if s.options.copyUp {
		return s.fail(m, ".options", "tmpcopyup does not go with mapped ids")
	}
	s.idmap, s.early = o.IDMap(uids, gids), true
	return nil
}

// parseIDMap reads what crun takes behind "idmap=": uids=A-B-N#A-B-N;gids=...,
// where A is the first id of the file system, B the first on the host and N
// their number. Behind @, B is an id of the container.
func parseIDMap(text string, c *idMaps) (uids, gids []specs.LinuxIDMapping, err error) {
	for part := range strings.SplitSeq(text, ";") {
		name, list, _ := strings.Cut(part, "=")
		to, of := &uids, c.uids
		switch name {
		case "uids":
		case "gids":
			to, of = &gids, c.gids
		default:
			return nil, nil, fmt.Errorf("unknown part %q; want uids= and gids=", part)
		}
		if *to != nil {
			return nil, nil, fmt.Errorf("%s is there twice", name)
		}
		for triple := range strings.SplitSeq(list, "#") {
			m, err := parseTriple(triple, of)
			if err != nil {
				return nil, nil, err
			}
			*to = append(*to, m)
		}
	}
	if len(uids) == 0 || len(gids) == 0 {
		return nil, nil, errors.New("needs both uids= and gids=")
	}
	return uids, gids, nil
}

func parseTriple(s string, of []specs.LinuxIDMapping) (m specs.LinuxIDMapping, err error) {
	rest, relative := strings.CutPrefix(s, "@")
	var n [3]uint64
	parts := strings.Split(rest, "-")
	if len(parts) != 3 {
		return m, fmt.Errorf("%q: want three numbers, such as 0-100000-65536", s)
	}
	for i, p := range parts {
		if n[i], err = strconv.ParseUint(p, 10, 32); err != nil {
			return m, fmt.Errorf("%q: %q is no id", s, p)
		}
	}
	const ids = 1<<32 - 1
	if n[2] == 0 || n[0]+n[2] > ids || n[1]+n[2] > ids {
		return m, fmt.Errorf("%q: no ids, or more than there are", s)
	}
	m = specs.LinuxIDMapping{ContainerID: uint32(n[0]), HostID: uint32(n[1]), Size: uint32(n[2])}
	if !relative {
		return m, nil
	}
	for _, c := range of {
		first := uint64(c.ContainerID)
		if n[1] >= first && n[1]+n[2] <= first+uint64(c.Size) {
			m.HostID = c.HostID + (m.HostID - c.ContainerID)
			return m, nil
		}
	}
	return m, fmt.Errorf("%q: these ids are not in one range of the mappings of the container's user namespace", s)
}

// source makes a mount before the process leaves the host's user namespace.
type source struct{ m *mount }

func (s *source) Phase() string { return "mount sources" }
func (s *source) String() string {
	if s.m.options.bind {
		return "open " + s.m.source + " for /" + s.m.dest
	}
	return "make a " + s.m.fstype + " for /" + s.m.dest
}

func (s *source) Why() string {
	return "mapping ids takes privileges in the user namespace of the file system"
}

func (s *source) Emit(b *initprog.Builder) {
	b.Object("/" + s.m.dest)
	s.m.made = s.m.detached(b, false)
}
