package bundle

import (
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// nsSet says which namespaces a configuration asks for, in the order of
// nsIndex, and which of these are existing ones to join.
type nsSet struct{ has, joins [nsCount]bool }

const (
	nsPID = iota
	nsNetwork
	nsMount
	nsIPC
	nsUTS
	nsUser
	nsCgroup
	nsTime
	nsCount
)

func nsIndex(t specs.LinuxNamespaceType) int {
	switch t {
	case specs.PIDNamespace:
		return nsPID
	case specs.NetworkNamespace:
		return nsNetwork
	case specs.MountNamespace:
		return nsMount
	case specs.IPCNamespace:
		return nsIPC
	case specs.UTSNamespace:
		return nsUTS
	case specs.UserNamespace:
		return nsUser
	case specs.CgroupNamespace:
		return nsCgroup
	case specs.TimeNamespace:
		return nsTime
	}
	return -1
}

func (c *checker) namespaces(list []specs.LinuxNamespace) (set nsSet) {
	for i := range list {
		ns := &list[i]
		n := nsIndex(ns.Type)
		switch {
		case n < 0:
			c.add("unknown namespace "+strconv.Quote(string(ns.Type))+": want pid, network, mount, ipc, uts, user, cgroup or time", "linux.namespaces[%d].type", i)
			continue
		case set.has[n]:
			c.add("duplicated ns "+strconv.Quote(string(ns.Type))+": remove one", "linux.namespaces[%d].type", i)
		}
		set.has[n], set.joins[n] = true, ns.Path != ""
		if ns.Path != "" {
			c.absolute(ns.Path, "linux.namespaces[%d].path", i)
		}
	}
	return set
}

// maxHostName is HOST_NAME_MAX, the limit of sethostname(2) and setdomainname(2).
const maxHostName = 64

// identity checks the names the container goes by.
func (c *checker) identity(s *specs.Spec, ns nsSet) {
	for _, name := range [...]struct{ field, value string }{{"hostname", s.Hostname}, {"domainname", s.Domainname}} {
		c.text(name.value, name.field)
		if len(name.value) > maxHostName {
			c.add("longer than 64 bytes, which is the kernel's limit", name.field)
		}
		if name.value != "" && !ns.has[nsUTS] {
			c.add("unable to set "+name.field+" without a private UTS namespace: add {\"type\": \"uts\"} to linux.namespaces", name.field)
		}
	}
}

// users checks the id mappings, of the container and of its mounts, and that
// the process is someone in them.
func (c *checker) users(s *specs.Spec, linux *specs.Linux, ns nsSet) {
	uids, gids := linux.UIDMappings, linux.GIDMappings
	c.mappings(uids, "linux.uidMappings")
	c.mappings(gids, "linux.gidMappings")
	if !ns.has[nsUser] {
		const msg = `user namespace mappings specified, but no user namespace: add {"type": "user"} to linux.namespaces`
		if len(uids) > 0 {
			c.add(msg, "linux.uidMappings")
		}
		if len(gids) > 0 {
			c.add(msg, "linux.gidMappings")
		}
		return
	}
	if ns.joins[nsUser] {
		return // its mappings were written by others
	}
	const msg = `a new user namespace needs mappings, such as [{"containerID": 0, "hostID": 100000, "size": 65536}]`
	if len(uids) == 0 {
		c.add(msg, "linux.uidMappings")
	}
	if len(gids) == 0 {
		c.add(msg, "linux.gidMappings")
	}
	if s.Process == nil || len(uids) == 0 || len(gids) == 0 {
		return
	}
	u := &s.Process.User
	c.mapped(u.UID, uids, "linux.uidMappings", "process.user.uid")
	c.mapped(u.GID, gids, "linux.gidMappings", "process.user.gid")
	for i, gid := range u.AdditionalGids {
		c.mapped(gid, gids, "linux.gidMappings", "process.user.additionalGids[%d]", i)
	}
}

func (c *checker) mapped(id uint32, maps []specs.LinuxIDMapping, where, path string, index ...int) {
	for i := range maps {
		if m := &maps[i]; id >= m.ContainerID && id-m.ContainerID < m.Size {
			return
		}
	}
	c.add("id "+strconv.FormatUint(uint64(id), 10)+" is not in "+where+": map it or use another", path, index...)
}

// maxMappings is UID_GID_MAP_MAX_EXTENTS of Linux 4.15 and later.
const maxMappings = 340

// mappings checks what a write to /proc/PID/uid_map would answer with EINVAL
// (user_namespaces(7)).
func (c *checker) mappings(maps []specs.LinuxIDMapping, path string, index ...int) {
	if len(maps) > maxMappings {
		c.add("more than 340 entries, which is the kernel's limit: join neighbours", path, index...)
		return
	}
	for i := range maps {
		m := &maps[i]
		ix := append(index[:len(index):len(index)], i)
		if m.Size == 0 {
			c.add("size must be greater than zero", path+"[%d].size", ix...)
			continue
		}
		if tooFar(m.ContainerID, m.Size) || tooFar(m.HostID, m.Size) {
			c.add("the range ends beyond 4294967295, the number of ids", path+"[%d].size", ix...)
		}
		for j := range i {
			other := &maps[j]
			if overlap(m.ContainerID, m.Size, other.ContainerID, other.Size) {
				c.add("container ids overlap with those of entry "+strconv.Itoa(j), path+"[%d].containerID", ix...)
				break
			}
			if overlap(m.HostID, m.Size, other.HostID, other.Size) {
				c.add("host ids overlap with those of entry "+strconv.Itoa(j), path+"[%d].hostID", ix...)
				break
			}
		}
	}
}

func tooFar(first, size uint32) bool { return uint64(first)+uint64(size) > noID }

func overlap(a, aSize, b, bSize uint32) bool {
	return uint64(a) < uint64(b)+uint64(bSize) && uint64(b) < uint64(a)+uint64(aSize)
}

// mount checks one entry of mounts.
func (c *checker) mount(m *specs.Mount, i int) {
	if m.Destination == "" {
		c.add("empty: say where in the container to mount", "mounts[%d].destination", i)
	}
	c.text(m.Destination, "mounts[%d].destination", i)
	c.text(m.Type, "mounts[%d].type", i)
	c.text(m.Source, "mounts[%d].source", i)
	bind := m.Type == "bind"
	for j, option := range m.Options {
		c.text(option, "mounts[%d].options[%d]", i, j)
		bind = bind || option == "bind" || option == "rbind"
	}
	if bind && m.Source == "" {
		c.add("empty: a bind mount needs the directory or file to bind", "mounts[%d].source", i)
	}
	c.mappings(m.UIDMappings, "mounts[%d].uidMappings", i)
	c.mappings(m.GIDMappings, "mounts[%d].gidMappings", i)
	if (len(m.UIDMappings) > 0) != (len(m.GIDMappings) > 0) {
		c.add("an id-mapped mount needs both uidMappings and gidMappings", "mounts[%d]", i)
	}
}

// isFileName reports whether s can be one component of a path.
func isFileName(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, "/\x00")
}
