package namespaces

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Set is what linux.namespaces asks for.
type Set struct {
	New  uint64 // CLONE_NEW* of the namespaces to make
	Join []Join // namespaces to join, in the order of the spec
}

// Join is an existing namespace to join.
type Join struct {
	Type specs.LinuxNamespaceType
	Flag uint64 // CLONE_NEW*
	Path string // of a namespace file on the host
}

// Flag is the CLONE_NEW* flag of a namespace type, 0 for an unknown one.
func Flag(t specs.LinuxNamespaceType) uint64 {
	switch t {
	case specs.PIDNamespace:
		return unix.CLONE_NEWPID
	case specs.NetworkNamespace:
		return unix.CLONE_NEWNET
	case specs.MountNamespace:
		return unix.CLONE_NEWNS
	case specs.IPCNamespace:
		return unix.CLONE_NEWIPC
	case specs.UTSNamespace:
		return unix.CLONE_NEWUTS
	case specs.UserNamespace:
		return unix.CLONE_NEWUSER
	case specs.CgroupNamespace:
		return unix.CLONE_NEWCGROUP
	case specs.TimeNamespace:
		return unix.CLONE_NEWTIME
	}
	return 0
}

// FromSpec reads linux.namespaces. It refuses unknown and repeated types.
func FromSpec(list []specs.LinuxNamespace) (Set, error) {
	var s Set
	var seen uint64
	for i, n := range list {
		f := Flag(n.Type)
		if f == 0 {
			return s, fmt.Errorf("linux.namespaces[%d].type: unknown namespace %q", i, n.Type)
		}
		if seen&f != 0 {
			return s, fmt.Errorf("linux.namespaces[%d].type: %q is there twice", i, n.Type)
		}
		seen |= f
		if n.Path == "" {
			s.New |= f
		} else {
			s.Join = append(s.Join, Join{n.Type, f, n.Path})
		}
	}
	return s, nil
}

// All are the CLONE_NEW* flags of all namespaces in which the container's init
// differs, or may differ, from the runtime.
func (s *Set) All() uint64 {
	f := s.New
	for _, j := range s.Join {
		f |= j.Flag
	}
	return f
}

// Joins returns the entry that joins a namespace of the kind, or nil.
func (s *Set) Joins(flag uint64) *Join {
	for i := range s.Join {
		if s.Join[i].Flag == flag {
			return &s.Join[i]
		}
	}
	return nil
}

// Staged reports whether a first process has to prepare the namespaces. A pid
// namespace to join is among the reasons: between clone(2) and execve(2) a
// process has descriptors, root and program of the runtime, and whoever is in
// the namespace already could reach them (CVE-2016-9962).
func (s *Set) Staged() bool {
	return s.All()&unix.CLONE_NEWUSER != 0 || s.New&unix.CLONE_NEWTIME != 0 || s.Joins(unix.CLONE_NEWPID) != nil
}

// Name is the word for a CLONE_NEW* flag.
func Name(flag uint64) string {
	switch flag {
	case unix.CLONE_NEWPID:
		return "pid"
	case unix.CLONE_NEWNET:
		return "network"
	case unix.CLONE_NEWNS:
		return "mount"
	case unix.CLONE_NEWIPC:
		return "ipc"
	case unix.CLONE_NEWUTS:
		return "uts"
	case unix.CLONE_NEWUSER:
		return "user"
	case unix.CLONE_NEWCGROUP:
		return "cgroup"
	case unix.CLONE_NEWTIME:
		return "time"
	}
	return "unknown"
}

// Names lists the words for several flags, in a fixed order.
func Names(flags uint64) []string {
	var names []string
	for _, f := range [...]uint64{
		unix.CLONE_NEWUSER, unix.CLONE_NEWPID, unix.CLONE_NEWNET, unix.CLONE_NEWNS,
		unix.CLONE_NEWIPC, unix.CLONE_NEWUTS, unix.CLONE_NEWCGROUP, unix.CLONE_NEWTIME,
	} {
		if flags&f != 0 {
			names = append(names, Name(f))
		}
	}
	return names
}
