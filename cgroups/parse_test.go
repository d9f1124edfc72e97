package cgroups

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const mountinfo = `24 1 0:22 / /proc rw shared:5 - proc proc rw
30 24 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /mnt/with\040space\134 rw shared:10 master:1 - cgroup cgroup rw,memory
33 30 0:29 / /mnt/u rw - cgroup2 none rw,nsdelegate
broken line
`

func TestFindMount(t *testing.T) {
	tests := []struct{ fstype, option, want string }{
		{"cgroup2", "", "/mnt/u"},
		{"cgroup", "cpu", "/sys/fs/cgroup/cpu,cpuacct"},
		{"cgroup", "cpuacct", "/sys/fs/cgroup/cpu,cpuacct"},
		{"cgroup", "memory", `/mnt/with space\`},
		{"cgroup", "pids", ""},
		{"cgroup", "mem", ""},
	}
	for _, tt := range tests {
		if got := findMount(mountinfo, tt.fstype, tt.option); got != tt.want {
			t.Errorf("%s with %q: got %q, want %q", tt.fstype, tt.option, got, tt.want)
		}
	}
}

func TestParseEvents(t *testing.T) {
	for text, want := range map[string]events{
		"populated 1\nfrozen 0\n": {true, false}, "populated 0\nfrozen 1\n": {false, true}, "": {}, "populated 10\n": {},
	} {
		if got := parseEvents(text); got != want {
			t.Errorf("%q: got %+v, want %+v", text, got, want)
		}
	}
	if got := parsePids("12\n0\nx\n7\n", nil); !slices.Equal(got, []int{12, 0, 7}) {
		t.Errorf("pids: got %v", got)
	}
}

// The texts are what people and engines see.
func TestErrors(t *testing.T) {
	tests := []struct {
		err        error
		want, hint string
	}{
		{
			&WriteError{"/x", "cpu.max", "50000 100", "linux.resources.cpu.quota", unix.EINVAL}, `cgroup "/x": write cpu.max "50000 100": invalid argument`,
			"the CPU period must be between 1000 and 1000000 microseconds, the quota at least 1000 (linux.resources.cpu.quota)",
		},
		{&WriteError{"/x", "cpuset.cpus", "99", "linux.resources.cpu.cpus", unix.EINVAL}, `cgroup "/x": write cpuset.cpus "99": invalid argument`, "only CPUs and memory nodes that exist"},
		{&WriteError{"/x", "memory.max", "1", "f", unix.EROFS}, `cgroup "/x": write memory.max "1": read-only file system`, "may not write"},
		{&WriteError{"/x", "memory.foo", "1", "f", unix.ENOENT}, `cgroup "/x": write memory.foo "1": no such file or directory`, "this kernel does not have the file"},
		{
			&ControllerError{Controller: "memory", Field: "linux.resources.memory.limit", Mount: "/sys/fs/cgroup/memory"},
			`cgroup controller "memory" is not available for linux.resources.memory.limit: it is mounted as cgroup v1 at /sys/fs/cgroup/memory`,
			"boot with cgroup_no_v1=all (with systemd also systemd.unified_cgroup_hierarchy=1), or remove linux.resources.memory.limit",
		},
		{&ControllerError{Controller: "pids", Parent: "/x"}, `cgroup controller "pids" is not available: parent cgroup "/x" does not delegate it`, "Delegate=yes"},
		{&ControllerError{Controller: "memory", Disabled: true}, `cgroup controller "memory" is not available: it is disabled on the kernel command line`, "cgroup_disable=memory"},
		{&ControllerError{Controller: "foo", Field: "f"}, `cgroup controller "foo" is not available for f: this kernel does not offer it in the cgroup v2 hierarchy`, "remove f"},
		{&BusyParentError{"/x", "+cpu", 3}, `cgroup "/x": enable "+cpu" for its children: it has 3 process(es) of its own`, "move its processes to a leaf group"},
		{&TypeError{"/x", "threaded"}, `cgroup "/x" is of type "threaded", a container needs a domain`, "threaded mode cannot be left"},
		{&NotFreeError{Group: "/x", Procs: 2}, `container's cgroup is not empty: 2 process(es) found`, "belongs to something else"},
		{&NotFreeError{Group: "/x", Frozen: true}, `container's cgroup unexpectedly frozen`, "belongs to something else"},
		{&TimeoutError{"/x", "empty", 1e9}, `cgroup "/x" is not empty after 1s`, ""},
		{&DeviceError{"/x", "BPF_PROG_LOAD", unix.EPERM}, `cgroup "/x": device filter: bpf BPF_PROG_LOAD: operation not permitted`, "CAP_BPF"},
		{&UsageError{"/x", "memory.max", "4096", 8192, "linux.resources.memory.limit"}, `cgroup "/x": rejecting memory.max 4096: current usage is 8192`, "raise linux.resources.memory.limit"},
		{&NoMountError{}, "no cgroup v2 hierarchy is mounted", "mount -t cgroup2"},
	}
	for _, tt := range tests {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
		hint := ""
		if h, ok := tt.err.(interface{ Hint() string }); ok {
			hint = h.Hint()
		}
		if !strings.Contains(hint, tt.hint) || tt.hint != "" && hint == "" {
			t.Errorf("%s\n got hint %q\nwant %q in it", tt.want, hint, tt.hint)
		}
	}
	if !errors.Is(&ControllerError{}, errors.ErrUnsupported) || !errors.Is(&TimeoutError{}, unix.EBUSY) || !errors.Is(&BusyParentError{}, unix.EBUSY) {
		t.Error("the errors do not match their classes")
	}
}
