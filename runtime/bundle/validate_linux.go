package bundle

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/internal/jsonread"
)

// keyPath returns the path of a map's value.
func keyPath(path, key string) string { return string(jsonread.AppendPathKey([]byte(path), key)) }

// linux checks the linux block but for namespaces and id mappings.
func (c *checker) linux(l *specs.Linux, ns nsSet) {
	c.hidden(l.MaskedPaths, "linux.maskedPaths", ns)
	c.hidden(l.ReadonlyPaths, "linux.readonlyPaths", ns)
	c.text(l.MountLabel, "linux.mountLabel")
	c.cgroupsPath(l.CgroupsPath)
	n := len(c.errs)
	for key, value := range l.Sysctl {
		if strings.IndexByte(key, 0) >= 0 || strings.IndexByte(value, 0) >= 0 {
			c.add("holds a NUL byte: remove it", keyPath("linux.sysctl", key))
		}
	}
	c.sortFrom(n)
	switch l.RootfsPropagation {
	case "", "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable":
	default:
		c.add("unknown propagation "+strconv.Quote(l.RootfsPropagation)+": want private, slave, shared or unbindable, or one of these with an r before it", "linux.rootfsPropagation")
	}
	for i := range l.Devices {
		c.device(&l.Devices[i], i)
	}
	if l.Resources != nil {
		c.resources(l.Resources, whole)
	}
	c.netDevices(l.NetDevices, ns)
	c.timeOffsets(l.TimeOffsets, ns)
	c.memoryPolicy(l.MemoryPolicy)
	if p := l.Personality; p != nil {
		if p.Domain != specs.PerLinux && p.Domain != specs.PerLinux32 {
			c.add("unknown domain "+strconv.Quote(string(p.Domain))+": want LINUX or LINUX32", "linux.personality.domain")
		}
		if len(p.Flags) > 0 {
			c.add("no personality flags are defined: remove them", "linux.personality.flags")
		}
	}
	c.intelRdt(l.IntelRdt)
	if l.Seccomp != nil {
		c.text(l.Seccomp.ListenerPath, "linux.seccomp.listenerPath")
	}
}

// intelRdt checks what would be a path or a line of its own in resctrl.
func (c *checker) intelRdt(rdt *specs.LinuxIntelRdt) {
	if rdt == nil {
		return
	}
	switch id := rdt.ClosID; {
	case id == "" || id == "/":
	case !isFileName(id):
		c.add("invalid intelRdt.ClosID "+strconv.Quote(id)+": want a plain file name, or / for the default class", "linux.intelRdt.closID")
	case id == "info" || id == "mon_groups" || id == "mon_data":
		c.add(strconv.Quote(id)+" is a directory of the kernel's: choose another name", "linux.intelRdt.closID")
	}
	c.text(rdt.L3CacheSchema, "linux.intelRdt.l3CacheSchema")
	c.text(rdt.MemBwSchema, "linux.intelRdt.memBwSchema")
	if s := rdt.MemBwSchema; s != "" && (!strings.HasPrefix(s, "MB:") || strings.Contains(s, "\n")) {
		c.add("want one line that begins with MB:, got "+strconv.Quote(s), "linux.intelRdt.memBwSchema")
	}
	for i, s := range rdt.Schemata {
		c.text(s, "linux.intelRdt.schemata[%d]", i)
		if strings.Contains(s, "\n") {
			c.add("want one line, got "+strconv.Quote(s), "linux.intelRdt.schemata[%d]", i)
		}
	}
}

// hidden checks masked and read-only paths. A relative one is refused: not to
// hide what was asked for would be the worst reading of it.
func (c *checker) hidden(paths []string, field string, ns nsSet) {
	if len(paths) > 0 && !ns.has[nsMount] {
		c.add(`unable to restrict sys entries without a private MNT namespace: add {"type": "mount"} to linux.namespaces`, field)
	}
	for i, p := range paths {
		if !strings.HasPrefix(p, "/") || strings.IndexByte(p, 0) >= 0 {
			c.absolute(p, field+"[%d]", i)
		}
	}
}

func (c *checker) cgroupsPath(p string) {
	c.text(p, "linux.cgroupsPath")
	for part := range strings.SplitSeq(p, "/") {
		if part == ".." {
			c.add("must not go up with ..: write the path that is meant", "linux.cgroupsPath")
			return
		}
	}
}

// device checks one node of linux.devices. dev_t has 12 bits for the major
// and 20 for the minor number.
func (c *checker) device(d *specs.LinuxDevice, i int) {
	c.absolute(d.Path, "linux.devices[%d].path", i)
	format := uint32(0)
	switch d.Type {
	case "b":
		format = 0o060000
	case "c", "u":
		format = 0o020000
	case "p":
		format = 0o010000
	default:
		c.add("unknown type "+strconv.Quote(d.Type)+": want b (block), c or u (character) or p (pipe)", "linux.devices[%d].type", i)
	}
	if d.Type != "p" {
		if d.Major < 0 || d.Major > 1<<12-1 {
			c.add("want 0 to 4095, got "+strconv.FormatInt(d.Major, 10), "linux.devices[%d].major", i)
		}
		if d.Minor < 0 || d.Minor > 1<<20-1 {
			c.add("want 0 to 1048575, got "+strconv.FormatInt(d.Minor, 10), "linux.devices[%d].minor", i)
		}
	}
	if d.FileMode != nil {
		// Some engines copy st_mode with the file type in it.
		mode := uint32(*d.FileMode)
		if kind := mode &^ 0o7777; kind != 0 && kind != format {
			c.add("want permission bits, 0 to 4095 (octal 7777), got "+strconv.FormatUint(uint64(mode), 10), "linux.devices[%d].fileMode", i)
		}
	}
	if d.UID != nil && *d.UID == noID {
		c.add("4294967295 is not an id: leave it out for root", "linux.devices[%d].uid", i)
	}
	if d.GID != nil && *d.GID == noID {
		c.add("4294967295 is not an id: leave it out for root", "linux.devices[%d].gid", i)
	}
}

func (c *checker) netDevices(devices map[string]specs.LinuxNetDevice, ns nsSet) {
	if len(devices) == 0 {
		return
	}
	if !ns.has[nsNetwork] {
		c.add(`unable to move network devices without a private NET namespace: add {"type": "network"} to linux.namespaces`, "linux.netDevices")
	}
	targets := make(map[string]bool, len(devices))
	for _, host := range slices.Sorted(maps.Keys(devices)) {
		name := devices[host].Name
		if name == "" {
			name = host
		}
		if !isInterface(host) || !isInterface(name) {
			c.add("an interface name has 1 to 15 bytes, no space, no slash, no colon, and is not . or ..", keyPath("linux.netDevices", host))
		}
		if i := strings.IndexByte(name, '%'); i >= 0 && (!strings.HasPrefix(name[i:], "%d") || strings.Contains(name[i+1:], "%")) {
			c.add("in a name for the container % is for one %d, a number that the kernel chooses", keyPath("linux.netDevices", host))
		}
		if targets[name] && !strings.Contains(name, "%") {
			c.add("two devices would be called "+strconv.Quote(name)+" in the container: rename one", keyPath("linux.netDevices", host))
		}
		targets[name] = true
	}
}

// isInterface is dev_valid_name of the kernel.
func isInterface(name string) bool {
	return isFileName(name) && len(name) < 16 && !strings.ContainsAny(name, ": \t\n\v\f\r")
}

func (c *checker) timeOffsets(offsets map[string]specs.LinuxTimeOffset, ns nsSet) {
	if len(offsets) == 0 {
		return
	}
	if !ns.has[nsTime] {
		c.add(`time namespace offsets specified, but no time namespace: add {"type": "time"} to linux.namespaces`, "linux.timeOffsets")
	} else if ns.joins[nsTime] {
		c.add("the offsets of an existing time namespace cannot change: remove them or its path", "linux.timeOffsets")
	}
	n := len(c.errs)
	for clock, offset := range offsets {
		if clock != "monotonic" && clock != "boottime" {
			c.add("unknown clock: want monotonic or boottime", keyPath("linux.timeOffsets", clock))
		}
		if offset.Nanosecs >= 1e9 {
			c.add("want 0 to 999999999, got "+strconv.FormatUint(uint64(offset.Nanosecs), 10), keyPath("linux.timeOffsets", clock)+".nanosecs")
		}
	}
	c.sortFrom(n)
}

func (c *checker) memoryPolicy(p *specs.LinuxMemoryPolicy) {
	if p == nil {
		return
	}
	switch p.Mode {
	case specs.MpolDefault, specs.MpolBind, specs.MpolInterleave, specs.MpolWeightedInterleave,
		specs.MpolPreferred, specs.MpolPreferredMany, specs.MpolLocal:
	default:
		c.add("unknown mode "+strconv.Quote(string(p.Mode))+": want a mode of set_mempolicy(2), such as MPOL_BIND", "linux.memoryPolicy.mode")
	}
	for i, flag := range p.Flags {
		switch flag {
		case specs.MpolFNumaBalancing, specs.MpolFRelativeNodes, specs.MpolFStaticNodes:
		default:
			c.add("unknown flag "+strconv.Quote(string(flag))+": see set_mempolicy(2)", "linux.memoryPolicy.flags[%d]", i)
		}
	}
	c.list(p.Nodes, "linux.memoryPolicy.nodes", maxNode)
	balancing, static, relative := slices.Contains(p.Flags, specs.MpolFNumaBalancing), slices.Contains(p.Flags, specs.MpolFStaticNodes), slices.Contains(p.Flags, specs.MpolFRelativeNodes)
	if static && relative {
		c.add("MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other: remove one", "linux.memoryPolicy.flags")
	}
	// What set_mempolicy(2) would answer with EINVAL.
	switch p.Mode {
	case specs.MpolDefault, specs.MpolLocal:
		if p.Nodes != "" {
			c.add(string(p.Mode)+" has no nodes: remove them or change the mode", "linux.memoryPolicy.nodes")
		}
		if len(p.Flags) > 0 {
			c.add(string(p.Mode)+" has no flags: remove them or change the mode", "linux.memoryPolicy.flags")
		}
	case specs.MpolBind, specs.MpolInterleave, specs.MpolWeightedInterleave, specs.MpolPreferredMany:
		if p.Nodes == "" {
			c.add(string(p.Mode)+" needs one node at least, such as 0", "linux.memoryPolicy.nodes")
		}
	case specs.MpolPreferred:
		if p.Nodes == "" && (static || relative) {
			c.add("without nodes MPOL_PREFERRED takes no flags: remove them or name nodes", "linux.memoryPolicy.flags")
		}
	}
	if balancing && p.Mode != specs.MpolBind && p.Mode != specs.MpolPreferredMany {
		c.add("MPOL_F_NUMA_BALANCING goes with MPOL_BIND and MPOL_PREFERRED_MANY only: remove it or change the mode", "linux.memoryPolicy.flags")
	}
}
