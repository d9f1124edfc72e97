package bundle

import (
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func ptr[T any](v T) *T { return &v }

// invalid are changes to the default configuration and the finding that each
// must lead to: the path, and how the message begins.
var invalid = []struct {
	name   string
	change func(s *specs.Spec)
	want   string
}{
	{"no version", func(s *specs.Spec) { s.Version = "" }, `ociVersion: missing: say which version`},
	{"version 2", func(s *specs.Spec) { s.Version = "2.0.0" }, `ociVersion: unsupported version "2.0.0": want 1.x`},
	{"version 10", func(s *specs.Spec) { s.Version = "10.0" }, `ociVersion: unsupported version`},
	{"no root", func(s *specs.Spec) { s.Root = nil }, `root: missing: say where`},
	{"empty root", func(s *specs.Spec) { s.Root.Path = "" }, `root.path: empty: name the directory`},
	{"root NUL", func(s *specs.Spec) { s.Root.Path = "a\x00" }, `root.path: holds a NUL byte`},

	{"no args", func(s *specs.Spec) { s.Process.Args = nil }, `process.args: args must not be empty`},
	{"empty program", func(s *specs.Spec) { s.Process.Args[0] = "" }, `process.args[0]: empty: name the program`},
	{"args NUL", func(s *specs.Spec) { s.Process.Args = []string{"a", "b\x00c"} }, `process.args[1]: holds a NUL byte`},
	{"env without =", func(s *specs.Spec) { s.Process.Env[1] = "SECRET" }, `process.env[1]: invalid environment variable: missing '='`},
	{"empty env", func(s *specs.Spec) { s.Process.Env[0] = "" }, `process.env[0]: invalid environment variable: missing '='`},
	{"env without name", func(s *specs.Spec) { s.Process.Env[0] = "=x" }, `process.env[0]: invalid environment variable: name cannot be empty`},
	{"env NUL", func(s *specs.Spec) { s.Process.Env[0] = "A=\x00" }, `process.env[0]: holds a NUL byte`},
	{"relative cwd", func(s *specs.Spec) { s.Process.Cwd = "tmp" }, `process.cwd: cwd must be an absolute path, got "tmp"`},
	{"no cwd", func(s *specs.Spec) { s.Process.Cwd = "" }, `process.cwd: cwd must be an absolute path, got ""`},
	{"cwd NUL", func(s *specs.Spec) { s.Process.Cwd = "/\x00" }, `process.cwd: holds a NUL byte`},
	{"apparmor NUL", func(s *specs.Spec) { s.Process.ApparmorProfile = "\x00" }, `process.apparmorProfile: holds a NUL byte`},
	{"selinux NUL", func(s *specs.Spec) { s.Process.SelinuxLabel = "\x00" }, `process.selinuxLabel: holds a NUL byte`},
	{"uid -1", func(s *specs.Spec) { s.Process.User.UID = 1<<32 - 1 }, `process.user.uid: 4294967295 is not an id`},
	{"gid -1", func(s *specs.Spec) { s.Process.User.GID = 1<<32 - 1 }, `process.user.gid: 4294967295 is not an id`},
	{"group -1", func(s *specs.Spec) { s.Process.User.AdditionalGids = []uint32{1, 1<<32 - 1} }, `process.user.additionalGids[1]: 4294967295 is not an id`},
	{"too many groups", func(s *specs.Spec) { s.Process.User.AdditionalGids = make([]uint32, 65537) }, `process.user.additionalGids: more than 65536 groups`},
	{"umask", func(s *specs.Spec) { s.Process.User.Umask = ptr(uint32(0o1000)) }, `process.user.umask: want 0 to 511 (octal 777), got 512`},
	{"rlimit name", func(s *specs.Spec) { s.Process.Rlimits[0].Type = "NOFILE" }, `process.rlimits[0].type: unknown limit "NOFILE"`},
	{"rlimit twice", func(s *specs.Spec) { s.Process.Rlimits = append(s.Process.Rlimits, s.Process.Rlimits[0]) }, `process.rlimits[1].type: RLIMIT_NOFILE is set twice`},
	{"rlimit soft", func(s *specs.Spec) { s.Process.Rlimits[0].Soft = 1025 }, `process.rlimits[0].soft: the soft limit 1025 exceeds the hard limit 1024`},
	{"oom low", func(s *specs.Spec) { s.Process.OOMScoreAdj = ptr(-1001) }, `process.oomScoreAdj: want -1000 to 1000, got -1001`},
	{"oom high", func(s *specs.Spec) { s.Process.OOMScoreAdj = ptr(1001) }, `process.oomScoreAdj: want -1000 to 1000, got 1001`},
	{"console", func(s *specs.Spec) { s.Process.ConsoleSize = &specs.Box{Height: 1, Width: 65536} }, `process.consoleSize: height and width`},
	{"scheduler none", func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{} }, `process.scheduler.policy: scheduler policy is required`},
	{"scheduler policy", func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_ISO"} }, `process.scheduler.policy: unknown policy "SCHED_ISO"`},
	{"scheduler nice", func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_OTHER", Nice: 20} }, `process.scheduler.nice: want -20 to 19, got 20`},
	{"scheduler no priority", func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_RR"} }, `process.scheduler.priority: want 1 to 99 with SCHED_RR, got 0`},
	{"scheduler priority", func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_IDLE", Priority: 1} }, `process.scheduler.priority: a priority goes with`},
	{"scheduler flag", func(s *specs.Spec) {
		s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_OTHER", Flags: []specs.LinuxSchedulerFlag{"X"}}
	}, `process.scheduler.flags[0]: unknown flag "X"`},
	{"scheduler runtime", func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_OTHER", Period: 1} }, `process.scheduler.runtime: runtime, deadline and period go with`},
	{"scheduler deadline", func(s *specs.Spec) {
		s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_DEADLINE", Runtime: 3, Deadline: 2}
	}, `process.scheduler.runtime: SCHED_DEADLINE wants`},
	{"io class", func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{} }, `process.ioPriority.class: unknown class ""`},
	{"io priority", func(s *specs.Spec) {
		s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 8}
	}, `process.ioPriority.priority: want 0 (highest) to 7, got 8`},
	{"affinity", func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "3-1"} }, `process.execCPUAffinity.initial: want a list`},
	{"affinity text", func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Final: "0,,1"} }, `process.execCPUAffinity.final: want a list`},

	{"hook path", func(s *specs.Spec) { s.Hooks = &specs.Hooks{Prestart: []specs.Hook{{Path: "/a"}, {Path: "b"}}} }, `hooks.prestart[1].path: must be an absolute path, got "b"`},
	{"hook arg", func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/a", Args: []string{"\x00"}}}}
	}, `hooks.createRuntime[0].args[0]: holds a NUL byte`},
	{"hook env", func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/a", Env: []string{"\x00"}}}}
	}, `hooks.createContainer[0].env[0]: holds a NUL byte`},
	{"hook timeout", func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/a", Timeout: ptr(0)}}}
	}, `hooks.startContainer[0].timeout: must be greater than zero seconds, got 0`},
	{"poststart", func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststart: []specs.Hook{{}}} }, `hooks.poststart[0].path: must be an absolute path`},
	{"poststop", func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{}}} }, `hooks.poststop[0].path: must be an absolute path`},

	{"mount destination", func(s *specs.Spec) { s.Mounts[2].Destination = "" }, `mounts[2].destination: empty: say where`},
	{"mount destination NUL", func(s *specs.Spec) { s.Mounts[0].Destination = "/\x00" }, `mounts[0].destination: holds a NUL byte`},
	{"mount type NUL", func(s *specs.Spec) { s.Mounts[0].Type = "\x00" }, `mounts[0].type: holds a NUL byte`},
	{"mount source NUL", func(s *specs.Spec) { s.Mounts[0].Source = "\x00" }, `mounts[0].source: holds a NUL byte`},
	{"mount option NUL", func(s *specs.Spec) { s.Mounts[1].Options[3] = "\x00" }, `mounts[1].options[3]: holds a NUL byte`},
	{"bind source", func(s *specs.Spec) {
		s.Mounts[0] = specs.Mount{Destination: "/a", Type: "none", Options: []string{"rbind"}}
	}, `mounts[0].source: empty: a bind mount needs`},
	{"mount one mapping", func(s *specs.Spec) { s.Mounts[0].UIDMappings = []specs.LinuxIDMapping{{Size: 1}} }, `mounts[0]: an id-mapped mount needs both`},
	{"mount mapping size", func(s *specs.Spec) {
		s.Mounts[0].UIDMappings, s.Mounts[0].GIDMappings = []specs.LinuxIDMapping{{Size: 1}}, []specs.LinuxIDMapping{{}}
	}, `mounts[0].gidMappings[0].size: size must be greater than zero`},

	{"namespace type", func(s *specs.Spec) { s.Linux.Namespaces[1].Type = "net" }, `linux.namespaces[1].type: unknown namespace "net": want pid, network`},
	{"namespace twice", func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "pid", Path: "/x"})
	}, `linux.namespaces[6].type: duplicated ns "pid"`},
	{"namespace path", func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "proc/1/ns/pid" }, `linux.namespaces[0].path: must be an absolute path`},
	{"namespace path NUL", func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/\x00" }, `linux.namespaces[0].path: holds a NUL byte`},
	{"hostname without uts", without("uts"), `hostname: unable to set hostname without a private UTS namespace`},
	{"domainname without uts", func(s *specs.Spec) { without("uts")(s); s.Hostname, s.Domainname = "", "d" }, `domainname: unable to set domainname without a private UTS namespace`},
	{"long hostname", func(s *specs.Spec) { s.Hostname = strings.Repeat("a", 65) }, `hostname: longer than 64 bytes`},
	{"hostname NUL", func(s *specs.Spec) { s.Hostname = "\x00" }, `hostname: holds a NUL byte`},
	{"long domainname", func(s *specs.Spec) { s.Domainname = strings.Repeat("a", 65) }, `domainname: longer than 64 bytes`},

	{"user without uids", userns(nil, []specs.LinuxIDMapping{{Size: 1}}), `linux.uidMappings: a new user namespace needs mappings`},
	{"user without gids", userns([]specs.LinuxIDMapping{{Size: 1}}, nil), `linux.gidMappings: a new user namespace needs mappings`},
	{"uids without user", func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} }, `linux.uidMappings: user namespace mappings specified, but no user namespace`},
	{"gids without user", func(s *specs.Spec) { s.Linux.GIDMappings = []specs.LinuxIDMapping{{Size: 1}} }, `linux.gidMappings: user namespace mappings specified, but no user namespace`},
	{"mapping size", userns([]specs.LinuxIDMapping{{Size: 1}, {ContainerID: 1, HostID: 1}}, one), `linux.uidMappings[1].size: size must be greater than zero`},
	{"mapping end", userns([]specs.LinuxIDMapping{{Size: 1}, {ContainerID: 1, HostID: 2, Size: 1<<32 - 2}}, one), `linux.uidMappings[1].size: the range ends beyond`},
	{"mapping container overlap", userns([]specs.LinuxIDMapping{{Size: 10}, {ContainerID: 9, HostID: 100, Size: 1}}, one), `linux.uidMappings[1].containerID: container ids overlap with those of entry 0`},
	{"mapping host overlap", userns(one, []specs.LinuxIDMapping{{HostID: 5, Size: 10}, {ContainerID: 10, HostID: 0, Size: 6}}), `linux.gidMappings[1].hostID: host ids overlap with those of entry 0`},
	{"341 mappings", userns(mappings(341), one), `linux.uidMappings: more than 340 entries`},
	{"unmapped uid", func(s *specs.Spec) { userns(one, one)(s); s.Process.User.UID = 1 }, `process.user.uid: id 1 is not in linux.uidMappings`},
	{"unmapped gid", func(s *specs.Spec) { userns(one, one)(s); s.Process.User.GID = 1 }, `process.user.gid: id 1 is not in linux.gidMappings`},
	{"unmapped group", func(s *specs.Spec) { userns(one, one)(s); s.Process.User.AdditionalGids = []uint32{0, 7} }, `process.user.additionalGids[1]: id 7 is not in linux.gidMappings`},

	{"masked without mount", func(s *specs.Spec) { without("mount")(s); s.Linux.ReadonlyPaths = nil }, `linux.maskedPaths: unable to restrict sys entries without a private MNT namespace`},
	{"readonly without mount", func(s *specs.Spec) { without("mount")(s); s.Linux.MaskedPaths = nil }, `linux.readonlyPaths: unable to restrict sys entries without a private MNT namespace`},
	{"relative mask", func(s *specs.Spec) { s.Linux.MaskedPaths[2] = "proc/kcore" }, `linux.maskedPaths[2]: must be an absolute path`},
	{"readonly NUL", func(s *specs.Spec) { s.Linux.ReadonlyPaths[0] = "/\x00" }, `linux.readonlyPaths[0]: holds a NUL byte`},
	{"affinity initial", func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0-"} }, `process.execCPUAffinity.initial: want a list of numbers and ranges such as 0-3,7, got "0-"`},
	{"affinity final", func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Final: "1,,2"} }, `process.execCPUAffinity.final: want a list`},
	{"affinity range", func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Final: "3-1"} }, `process.execCPUAffinity.final: want a list`},
	{"affinity number", func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0-2147483647"} }, `process.execCPUAffinity.initial: the largest number is 8191, got 2147483647`},
	{"memory nodes none", func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolInterleave} }, `linux.memoryPolicy.nodes: MPOL_INTERLEAVE needs one node at least`},
	{"memory nodes too many", func(s *specs.Spec) {
		s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolLocal, Nodes: "0"}
	}, `linux.memoryPolicy.nodes: MPOL_LOCAL has no nodes`},
	{"memory node number", func(s *specs.Spec) {
		s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "1024"}
	}, `linux.memoryPolicy.nodes: the largest number is 1023, got 1024`},
	{"memory flags of both kinds", func(s *specs.Spec) {
		s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes, specs.MpolFRelativeNodes}}
	}, `linux.memoryPolicy.flags: MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other`},
	{"memory flags of default", func(s *specs.Spec) {
		s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolDefault, Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}}
	}, `linux.memoryPolicy.flags: MPOL_DEFAULT has no flags`},
	{"memory balancing", func(s *specs.Spec) {
		s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolInterleave, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MpolFNumaBalancing}}
	}, `linux.memoryPolicy.flags: MPOL_F_NUMA_BALANCING goes with`},
	{"memory preferred", func(s *specs.Spec) {
		s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolPreferred, Flags: []specs.MemoryPolicyFlagType{specs.MpolFRelativeNodes}}
	}, `linux.memoryPolicy.flags: without nodes`},
	{"device name template", func(s *specs.Spec) {
		s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"a": {Name: "x%d%d"}, "b": {Name: "y%"}}
	}, `linux.netDevices.a: in a name for the container % is for one %d`},
	{"mount label", func(s *specs.Spec) { s.Linux.MountLabel = "\x00" }, `linux.mountLabel: holds a NUL byte`},
	{"cgroup ..", func(s *specs.Spec) { s.Linux.CgroupsPath = "/a/../../b" }, `linux.cgroupsPath: must not go up`},
	{"cgroup NUL", func(s *specs.Spec) { s.Linux.CgroupsPath = "/a\x00" }, `linux.cgroupsPath: holds a NUL byte`},
	{"sysctl NUL", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.sem": "\x00"} }, `linux.sysctl["kernel.sem"]: holds a NUL byte`},
	{"sysctl key NUL", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"\x00": ""} }, `linux.sysctl["\x00"]: holds a NUL byte`},
	{"propagation", func(s *specs.Spec) { s.Linux.RootfsPropagation = "rrslave" }, `linux.rootfsPropagation: unknown propagation "rrslave"`},
	{"listener NUL", func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{ListenerPath: "\x00"} }, `linux.seccomp.listenerPath: holds a NUL byte`},

	{"device path", device(specs.LinuxDevice{Path: "dev/x", Type: "c"}), `linux.devices[0].path: must be an absolute path`},
	{"device type", device(specs.LinuxDevice{Path: "/dev/x", Type: "d"}), `linux.devices[0].type: unknown type "d"`},
	{"device major", device(specs.LinuxDevice{Path: "/dev/x", Type: "c", Major: 4096}), `linux.devices[0].major: want 0 to 4095, got 4096`},
	{"device major -1", device(specs.LinuxDevice{Path: "/dev/x", Type: "b", Major: -1}), `linux.devices[0].major: want 0 to 4095, got -1`},
	{"device minor", device(specs.LinuxDevice{Path: "/dev/x", Type: "u", Minor: 1 << 20}), `linux.devices[0].minor: want 0 to 1048575, got 1048576`},
	{"device mode", device(specs.LinuxDevice{Path: "/dev/x", Type: "c", FileMode: ptr(os.FileMode(0o60666))}), `linux.devices[0].fileMode: want permission bits`},
	{"device uid", device(specs.LinuxDevice{Path: "/dev/x", Type: "c", UID: ptr(uint32(1<<32 - 1))}), `linux.devices[0].uid: 4294967295 is not an id`},
	{"device gid", device(specs.LinuxDevice{Path: "/dev/x", Type: "c", GID: ptr(uint32(1<<32 - 1))}), `linux.devices[0].gid: 4294967295 is not an id`},

	{"net device without net", func(s *specs.Spec) {
		without("network")(s)
		s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth1": {}}
	}, `linux.netDevices: unable to move network devices without a private NET namespace`},
	{"net device name", func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth1": {Name: "a/b"}} }, `linux.netDevices.eth1: an interface name`},
	{"net device host name", func(s *specs.Spec) {
		s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"abcdefghijklmnop": {Name: "a"}}
	}, `linux.netDevices.abcdefghijklmnop: an interface name`},
	{"net device twice", func(s *specs.Spec) {
		s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth1": {}, "eth2": {Name: "eth1"}}
	}, `linux.netDevices.eth2: two devices would be called "eth1"`},
	{"offsets without time", func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {}} }, `linux.timeOffsets: time namespace offsets specified, but no time namespace`},
	{"offsets of joined time", timens("/x", "boottime", 0), `linux.timeOffsets: the offsets of an existing time namespace`},
	{"clock", timens("", "realtime", 0), `linux.timeOffsets.realtime: unknown clock`},
	{"nanoseconds", timens("", "monotonic", 1e9), `linux.timeOffsets.monotonic.nanosecs: want 0 to 999999999, got 1000000000`},
	{"memory policy", func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "BIND"} }, `linux.memoryPolicy.mode: unknown mode "BIND"`},
	{"memory policy flag", func(s *specs.Spec) {
		s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{"X"}}
	}, `linux.memoryPolicy.flags[0]: unknown flag "X"`},
	{"memory policy nodes", func(s *specs.Spec) {
		s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "x"}
	}, `linux.memoryPolicy.nodes: want a list`},
	{"personality", func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{} }, `linux.personality.domain: unknown domain ""`},
	{"personality flag", func(s *specs.Spec) {
		s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32, Flags: []specs.LinuxPersonalityFlag{"X"}}
	}, `linux.personality.flags: no personality flags`},
	{"closID", func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: ".."} }, `linux.intelRdt.closID: invalid intelRdt.ClosID ".."`},

	{"rule type", rule(specs.LinuxDeviceCgroup{Type: "u"}), `linux.resources.devices[0].type: unknown type "u"`},
	{"rule access", rule(specs.LinuxDeviceCgroup{Access: "rx"}), `linux.resources.devices[0].access: want letters out of`},
	{"rule major", rule(specs.LinuxDeviceCgroup{Major: ptr(int64(-2))}), `linux.resources.devices[0].major: want a device number`},
	{"rule minor", rule(specs.LinuxDeviceCgroup{Minor: ptr(int64(1 << 32))}), `linux.resources.devices[0].minor: want a device number`},
	{"period low", cpu(specs.LinuxCPU{Period: ptr(uint64(999))}), `linux.resources.cpu.period: want 1000 to 1000000 microseconds, got 999`},
	{"period high", cpu(specs.LinuxCPU{Period: ptr(uint64(1000001))}), `linux.resources.cpu.period: want 1000 to 1000000 microseconds, got 1000001`},
	{"quota", cpu(specs.LinuxCPU{Quota: ptr(int64(999))}), `linux.resources.cpu.quota: want 1000 microseconds or more`},
	{"quota -2", cpu(specs.LinuxCPU{Quota: ptr(int64(-2))}), `linux.resources.cpu.quota: want 1000 microseconds or more`},
	{"idle", cpu(specs.LinuxCPU{Idle: ptr(int64(2))}), `linux.resources.cpu.idle: want 0 or 1, got 2`},
	{"burst", cpu(specs.LinuxCPU{Quota: ptr(int64(1000)), Burst: ptr(uint64(1001))}), `linux.resources.cpu.burst: want at most the quota`},
	{"cpus NUL", cpu(specs.LinuxCPU{Cpus: "\x00"}), `linux.resources.cpu.cpus: holds a NUL byte`},
	{"mems NUL", cpu(specs.LinuxCPU{Mems: "\x00"}), `linux.resources.cpu.mems: holds a NUL byte`},
	{"memory", memory(specs.LinuxMemory{Limit: ptr(int64(-2))}), `linux.resources.memory.limit: want -1 or more`},
	{"reservation", memory(specs.LinuxMemory{Reservation: ptr(int64(-2))}), `linux.resources.memory.reservation: want -1 or more`},
	{"swap", memory(specs.LinuxMemory{Swap: ptr(int64(-2))}), `linux.resources.memory.swap: want -1 or more`},
	{"swap below limit", memory(specs.LinuxMemory{Limit: ptr(int64(10)), Swap: ptr(int64(9))}), `linux.resources.memory.swap: memory+swap limit should be >= memory limit`},
	{"swap without limit", memory(specs.LinuxMemory{Swap: ptr(int64(9))}), `linux.resources.memory.swap: unable to set swap limit without memory limit`},
	{"swap, no limit", memory(specs.LinuxMemory{Limit: ptr(int64(-1)), Swap: ptr(int64(9))}), `linux.resources.memory.swap: unable to set swap limit without memory limit`},
	{"pids", resources(specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(-2))}}), `linux.resources.pids.limit: want -1 or more`},
	{"weight low", blockIO(specs.LinuxBlockIO{Weight: ptr(uint16(9))}), `linux.resources.blockIO.weight: want 10 to 1000`},
	{"weight high", blockIO(specs.LinuxBlockIO{LeafWeight: ptr(uint16(1001))}), `linux.resources.blockIO.leafWeight: want 10 to 1000`},
	{"device weight", blockIO(specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{{Weight: ptr(uint16(9))}}}), `linux.resources.blockIO.weightDevice[0].weight: want 10 to 1000`},
	{"device leaf weight", blockIO(specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{{LeafWeight: ptr(uint16(9))}}}), `linux.resources.blockIO.weightDevice[0].leafWeight: want 10 to 1000`},
	{"weight device", blockIO(specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{{LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: -1}}}}), `linux.resources.blockIO.weightDevice[0]: no block device has the numbers -1:0`},
	{"read bps", blockIO(specs.LinuxBlockIO{ThrottleReadBpsDevice: badThrottle}), `linux.resources.blockIO.throttleReadBpsDevice[0]: no block device has the numbers 4096:0`},
	{"write bps", blockIO(specs.LinuxBlockIO{ThrottleWriteBpsDevice: badThrottle}), `linux.resources.blockIO.throttleWriteBpsDevice[0]: no block device`},
	{"read iops", blockIO(specs.LinuxBlockIO{ThrottleReadIOPSDevice: badThrottle}), `linux.resources.blockIO.throttleReadIOPSDevice[0]: no block device`},
	{"write iops", blockIO(specs.LinuxBlockIO{ThrottleWriteIOPSDevice: badThrottle}), `linux.resources.blockIO.throttleWriteIOPSDevice[0]: no block device`},
	{"page size", hugepages("../x"), `linux.resources.hugepageLimits[0].pageSize: want a page size`},
	{"page size 0", hugepages("0MB"), `linux.resources.hugepageLimits[0].pageSize: want a page size`},
	{"page size unit", hugepages("2M"), `linux.resources.hugepageLimits[0].pageSize: want a page size`},
	{"page size B", hugepages("B"), `linux.resources.hugepageLimits[0].pageSize: want a page size`},
	{"page size twice", hugepages("2MB", "1GB", "2MB"), `linux.resources.hugepageLimits[2].pageSize: the limit for "2MB" is set twice`},
	{"page sizes", hugepages(make([]string, 65)...), `linux.resources.hugepageLimits: more limits than`},
	{"rdma", resources(specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"a b": {}}}), `linux.resources.rdma["a b"]: want the name of an RDMA device`},
	{"unified path", unified("../memory.max"), `linux.resources.unified["../memory.max"]: unified resource "../memory.max" must be a file name (no slashes)`},
	{"unified dots", unified(".."), `linux.resources.unified[".."]: unified resource ".." must be a file name`},
	{"unified empty", unified(""), `linux.resources.unified[""]: unified resource "" must be a file name`},
	{"unified cgroup", unified("cgroup.procs"), `linux.resources.unified["cgroup.procs"]: files that begin with cgroup.`},
	{"unified NUL", resources(specs.LinuxResources{Unified: map[string]string{"memory.high": "\x00"}}), `linux.resources.unified["memory.high"]: holds a NUL byte`},
}

var (
	one         = []specs.LinuxIDMapping{{HostID: 100000, Size: 1}}
	badThrottle = []specs.LinuxThrottleDevice{{LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: 4096}}}
)

func without(ns specs.LinuxNamespaceType) func(*specs.Spec) {
	return func(s *specs.Spec) {
		var rest []specs.LinuxNamespace
		for _, n := range s.Linux.Namespaces {
			if n.Type != ns {
				rest = append(rest, n)
			}
		}
		s.Linux.Namespaces = rest
	}
}

func userns(uids, gids []specs.LinuxIDMapping) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		s.Linux.UIDMappings, s.Linux.GIDMappings = uids, gids
	}
}

func mappings(n int) (m []specs.LinuxIDMapping) {
	for i := range n {
		m = append(m, specs.LinuxIDMapping{ContainerID: uint32(i), HostID: uint32(2 * i), Size: 1})
	}
	return m
}

func timens(path, clock string, nanosecs uint32) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace, Path: path})
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{clock: {Secs: -1, Nanosecs: nanosecs}}
	}
}

func device(d specs.LinuxDevice) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{d} }
}

func resources(r specs.LinuxResources) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Linux.Resources = &r }
}

func rule(d specs.LinuxDeviceCgroup) func(*specs.Spec) {
	return resources(specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{d}})
}

func cpu(c specs.LinuxCPU) func(*specs.Spec) { return resources(specs.LinuxResources{CPU: &c}) }

func memory(m specs.LinuxMemory) func(*specs.Spec) {
	return resources(specs.LinuxResources{Memory: &m})
}

func blockIO(b specs.LinuxBlockIO) func(*specs.Spec) {
	return resources(specs.LinuxResources{BlockIO: &b})
}

func unified(file string) func(*specs.Spec) {
	return resources(specs.LinuxResources{Unified: map[string]string{file: "1"}})
}

func hugepages(sizes ...string) func(*specs.Spec) {
	var limits []specs.LinuxHugepageLimit
	for _, size := range sizes {
		limits = append(limits, specs.LinuxHugepageLimit{Pagesize: size})
	}
	return resources(specs.LinuxResources{HugepageLimits: limits})
}

func TestValidate_Refuses(t *testing.T) {
	for _, tt := range invalid {
		t.Run(tt.name, func(t *testing.T) {
			s := Default()
			tt.change(s)
			err := Validate(s)
			if err == nil {
				t.Fatalf("accepted, want %s", tt.want)
			}
			for _, line := range strings.Split(err.Error(), "\n") {
				if strings.HasPrefix(line, tt.want) {
					return
				}
			}
			t.Errorf("got %v\nwant %s", err, tt.want)
		})
	}
}

// TestValidate_Accepts has what is at the edge, or looks odd and is what
// engines write.
func TestValidate_Accepts(t *testing.T) {
	tests := []struct {
		name   string
		change func(s *specs.Spec)
	}{
		{"versions", func(s *specs.Spec) { s.Version = "1.0.2-dev" }},
		{"short version", func(s *specs.Spec) { s.Version = "1" }},
		{"no process", func(s *specs.Spec) { s.Process = nil }},
		{"no linux block", func(s *specs.Spec) { s.Linux, s.Hostname = nil, "" }},
		{"empty argument and value", func(s *specs.Spec) { s.Process.Args, s.Process.Env = []string{"a", ""}, []string{"A=", "A=b=c"} }},
		{"unlimited", func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 1<<64 - 1, Hard: 1<<64 - 1}, {Type: "RLIMIT_RTTIME"}}
		}},
		{"groups", func(s *specs.Spec) { s.Process.User.AdditionalGids = make([]uint32, 65536) }},
		{"umask", func(s *specs.Spec) { s.Process.User.Umask = ptr(uint32(0o777)) }},
		{"oom", func(s *specs.Spec) { s.Process.OOMScoreAdj = ptr(-1000) }},
		{"unknown capability", func(s *specs.Spec) { s.Process.Capabilities.Bounding = []string{"CAP_X"} }},
		{"deadline", func(s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 1, Deadline: 2, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagReclaim}}
		}},
		{"fifo", func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedFIFO, Priority: 99} }},
		{"affinity", func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0-3,7", Final: "2048"} }},
		{"hook", func(s *specs.Spec) { s.Hooks = &specs.Hooks{Prestart: []specs.Hook{{Path: "/a", Timeout: ptr(1)}}} }},
		{"relative destination", func(s *specs.Spec) { s.Mounts[0].Destination = "proc" }},
		{"mount without source", func(s *specs.Spec) { s.Mounts[0].Source = "" }},
		{"hostname", func(s *specs.Spec) { s.Hostname = strings.Repeat("a", 64) }},
		{"no namespace", func(s *specs.Spec) {
			s.Hostname, s.Linux.MaskedPaths, s.Linux.ReadonlyPaths, s.Linux.Namespaces = "", nil, nil, nil
		}},
		{"joined user namespace", func(s *specs.Spec) {
			userns(nil, nil)(s)
			s.Linux.Namespaces[6].Path = "/proc/1/ns/user"
			s.Process.User.UID = 5
		}},
		{"empty mappings", func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{} }},
		{"340 mappings", userns(mappings(340), one)},
		{"all ids", userns([]specs.LinuxIDMapping{{Size: 1<<32 - 1}}, []specs.LinuxIDMapping{{ContainerID: 0, HostID: 5, Size: 5}, {ContainerID: 5, HostID: 0, Size: 5}})},
		{"mapped mount", func(s *specs.Spec) { s.Mounts[0].UIDMappings, s.Mounts[0].GIDMappings = one, one }},
		{"mode with type", device(specs.LinuxDevice{Path: "/dev/x", Type: "c", Major: 4095, Minor: 1<<20 - 1, FileMode: ptr(os.FileMode(8630))})},
		{"pipe", device(specs.LinuxDevice{Path: "/dev/x", Type: "p", Major: -1, FileMode: ptr(os.FileMode(0o600))})},
		{"dots in cgroup", func(s *specs.Spec) { s.Linux.CgroupsPath = "machine.slice:libpod:a..b" }},
		{"propagation", func(s *specs.Spec) { s.Linux.RootfsPropagation = "rshared" }},
		{"net device", func(s *specs.Spec) {
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth1": {Name: "eth2"}, "eth2": {Name: "eth1"}}
		}},
		{"offsets", timens("", "boottime", 1e9-1)},
		{"memory policy", func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolLocal} }},
		{"zeros of an update", resources(specs.LinuxResources{
			Memory:  &specs.LinuxMemory{Limit: ptr(int64(0)), Reservation: ptr(int64(0)), Swap: ptr(int64(0)), Kernel: ptr(int64(0))},
			CPU:     &specs.LinuxCPU{Shares: ptr(uint64(0)), Quota: ptr(int64(0)), Period: ptr(uint64(0))},
			BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(0))},
			Pids:    &specs.LinuxPids{Limit: ptr(int64(0))},
		})},
		{"unlimited resources", resources(specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: ptr(int64(-1)), Swap: ptr(int64(-1))},
			CPU:    &specs.LinuxCPU{Shares: ptr(uint64(1 << 40)), Quota: ptr(int64(-1)), Period: ptr(uint64(1000000))},
			Pids:   &specs.LinuxPids{Limit: ptr(int64(-1))},
		})},
		{"any device", rule(specs.LinuxDeviceCgroup{Type: "a", Major: ptr(int64(-1)), Minor: ptr(int64(-1))})},
		{"page sizes", hugepages("64KB", "2MB", "1GB")},
		{"unified", unified("memory.high")},
		{"full docker", func(s *specs.Spec) { *s = *dockerSpec() }},
	}
	for _, tt := range tests {
		s := Default()
		tt.change(s)
		if err := Validate(s); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestValidate_ReportsAll(t *testing.T) {
	err := Validate(&specs.Spec{Process: &specs.Process{Env: []string{"x"}}, Hostname: "h"})
	const want = "ociVersion root process.args process.env[0] process.cwd hostname"
	var paths []string
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		var field *FieldError
		if !errors.As(e, &field) {
			t.Fatalf("%T", e)
		}
		paths = append(paths, field.Path)
	}
	if got := strings.Join(paths, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestValidate_Bounded: a document that is wrong everywhere costs neither much
// time nor a message of megabytes.
func TestValidate_Bounded(t *testing.T) {
	s := Default()
	s.Process.Env = make([]string, 100000)
	s.Process.Capabilities.Bounding = make([]string, 100000)
	s.Linux.Resources.HugepageLimits = make([]specs.LinuxHugepageLimit, 100000)
	raw, err := AppendJSON(nil, s)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	err = (&Bundle{Raw: raw, Spec: s}).Validate()
	if n := len(err.(interface{ Unwrap() []error }).Unwrap()); n != maxFindings {
		t.Errorf("%d findings, want %d", n, maxFindings)
	}
	if n := len(Warnings(s)); n > maxFindings {
		t.Errorf("%d warnings, want at most %d", n, maxFindings)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

// TestValidate_EnvStaysSecret: a password without its name is still one.
func TestValidate_EnvStaysSecret(t *testing.T) {
	for _, env := range []string{"hunter2", "=hunter2", "A=hunter2\x00"} {
		s := Default()
		s.Process.Env = []string{env}
		if err := Validate(s); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: got %v", env, err)
		}
	}
}

func TestBundle_Validate(t *testing.T) {
	raw := "{\n  \"ociVersion\": \"1.0.0\",\n  \"process\": {\"cwd\": \"tmp\"},\n  \"linux\": {\"resources\": {\"unified\": {\"memory.high\": \"1\",\n   \"a/b\": \"\"}}}\n}"
	spec, err := Parse([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	err = (&Bundle{Dir: "/b", Raw: []byte(raw), Spec: spec}).Validate()
	want := `config.json: root: missing: say where the root filesystem is, such as {"path": "rootfs"}
config.json:3:14: process.args: args must not be empty: name the program, such as ["sh"]
config.json:3:22: process.cwd: cwd must be an absolute path, got "tmp"
config.json:5:11: linux.resources.unified["a/b"]: unified resource "a/b" must be a file name (no slashes), such as memory.high`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if err := (&Bundle{Spec: Default()}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestValidateProcess(t *testing.T) {
	if err := ValidateProcess(Default().Process); err != nil {
		t.Error(err)
	}
	if err := ValidateProcess(&specs.Process{Args: []string{"a"}}); err == nil {
		t.Error("no cwd: accepted")
	}
}

func TestValidateResources(t *testing.T) {
	if err := ValidateResources(&specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: ptr(int64(5))}}); err != nil {
		t.Errorf("a swap limit beside a memory limit that stays: %v", err)
	}
	if err := ValidateResources(&specs.LinuxResources{CPU: &specs.LinuxCPU{Period: ptr(uint64(1))}}); err == nil {
		t.Error("period 1: accepted")
	}
}

func TestWarnings(t *testing.T) {
	s := Default()
	s.Process.Capabilities.Ambient = []string{"CAP_KILL", "cap_kill", "CAP_X", "CAP_X"}
	s.Mounts[1].Destination = "dev"
	s.Linux.Resources.CPU = &specs.LinuxCPU{Shares: ptr(uint64(1))}
	want := []string{
		`process.capabilities.ambient: unknown capability "cap_kill" ignored`,
		`process.capabilities.ambient: unknown capability "CAP_X" ignored`,
		`mounts[1].destination: relative destination "dev" is deprecated: taken as relative to /`,
		`linux.resources.cpu.shares: 1 is taken as the closest of 2 to 262144`,
	}
	if got := Warnings(s); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for _, s := range []*specs.Spec{{}, {Process: &specs.Process{}, Linux: &specs.Linux{}}} {
		if got := Warnings(s); got != nil {
			t.Errorf("got %q", got)
		}
	}
}

// FuzzValidate: no document makes the checks panic, and every finding has a
// path and a message.
func FuzzValidate(f *testing.F) {
	for _, doc := range oddDocuments {
		f.Add([]byte(doc))
	}
	for _, tt := range invalid {
		s := Default()
		tt.change(s)
		raw, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		if len(raw) < 1<<14 {
			f.Add(raw)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := Parse(raw)
		if err != nil {
			return
		}
		Warnings(s)
		err = (&Bundle{Raw: raw, Spec: s}).Validate()
		if err == nil {
			return
		}
		for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
			if field, ok := e.(*FieldError); !ok || field.Path == "" || field.Msg == "" {
				t.Fatalf("%#v", e)
			}
		}
	})
}
