package doctor

import (
	"os"
	"slices"
	"strings"
)

const groupCgroups = "Control groups"

// cgroupLayout is what /proc/self/mountinfo says about control groups.
type cgroupLayout struct {
	v2    string            // where version 2 is mounted, "" if it is not
	v1    map[string]string // controller of version 1 and where it is mounted
	named []string          // hierarchies of version 1 without controllers
}

func (l cgroupLayout) String() string {
	switch {
	case l.v2 != "" && len(l.v1) == 0 && len(l.named) == 0:
		return "version 2 at " + l.v2
	case l.v2 != "":
		return "hybrid: version 2 at " + l.v2 + ", version 1 beside it"
	case len(l.v1)+len(l.named) > 0:
		return "version 1 only"
	}
	return "not mounted"
}

// parseCgroupMounts reads mountinfo lines, proc_pid_mountinfo(5).
func parseCgroupMounts(mountinfo string) cgroupLayout {
	l := cgroupLayout{v1: map[string]string{}}
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 6 || len(right) < 3 {
			continue
		}
		point := unescape(left[4])
		switch right[0] {
		case "cgroup2":
			if l.v2 == "" {
				l.v2 = point
			}
		case "cgroup":
			for _, option := range strings.Split(right[2], ",") {
				switch {
				case strings.HasPrefix(option, "name="):
					l.named = append(l.named, strings.TrimPrefix(option, "name="))
				case slices.Contains(v1Controllers[:], option):
					l.v1[option] = point
				}
			}
		}
	}
	return l
}

var v1Controllers = [...]string{"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "misc", "net_cls", "net_prio", "perf_event", "pids", "rdma"}

// unescape undoes \040 and the like.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func (h *host) cgroups() {
	mountinfo, err := h.read("/proc/self/mountinfo")
	if err != nil {
		h.add(groupCgroups, "cgroup v2", Unknown, true, err.Error(), "nothing can be said about control groups", "mount -t proc proc /proc")
		return
	}
	l := parseCgroupMounts(mountinfo)
	if l.v2 == "" {
		h.add(groupCgroups, "cgroup v2", Missing, true, l.String(), "containers have no control group: no limits, no statistics, no reliable end", "boot with systemd.unified_cgroup_hierarchy=1 or cgroup_no_v1=all, or mount -t cgroup2 cgroup2 /sys/fs/cgroup")
		return
	}
	h.add(groupCgroups, "cgroup v2", OK, true, l.String(), "", "")
	text, err := h.read(l.v2 + "/cgroup.controllers")
	available := strings.Fields(text)
	for _, c := range [...]struct{ name, v1, lost string }{
		{"cpu", "cpu", "--cpus, --cpu-shares and linux.resources.cpu (shares, quota, period, burst, idle) are refused"},
		{"cpuset", "cpuset", "--cpuset-cpus and linux.resources.cpu.cpus and .mems are refused"},
		{"memory", "memory", "--memory and linux.resources.memory are refused; no out-of-memory report, no memory statistics"},
		{"pids", "pids", "--pids-limit and linux.resources.pids are refused"},
		{"io", "blkio", "linux.resources.blockIO is refused; no disk statistics"},
		{"hugetlb", "hugetlb", "linux.resources.hugepageLimits is refused"},
		{"rdma", "rdma", "linux.resources.rdma is refused"},
	} {
		name := "controller " + c.name
		point, onV1 := l.v1[c.v1]
		switch {
		case slices.Contains(available, c.name):
			h.add(groupCgroups, name, OK, false, "on version 2", "", "")
		case err != nil:
			h.add(groupCgroups, name, Unknown, false, err.Error(), c.lost, "")
		case onV1:
			h.add(groupCgroups, name, Missing, false, "on version 1 at "+point, c.lost, "boot with cgroup_no_v1=all, which leaves the controllers to version 2")
		default:
			detail, hint := h.offController(c.v1)
			h.add(groupCgroups, name, Missing, false, detail, c.lost, hint)
		}
	}
	h.swap(l.v2, slices.Contains(available, "memory"))
}

// offController says why a controller is in no hierarchy, from /proc/cgroups.
func (h *host) offController(name string) (detail, hint string) {
	table, err := h.read("/proc/cgroups")
	if err != nil {
		return "not on version 2", ""
	}
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) == 4 && f[0] == name {
			if f[3] == "0" {
				return "switched off at boot", "remove cgroup_disable=" + name + " from, or add cgroup_enable=" + name + " to, the kernel's command line"
			}
			return "in the kernel, but not on version 2", "we may be in a delegated cgroup: enable it in the parent's cgroup.subtree_control"
		}
	}
	return "not in this kernel", ""
}

// swap looks for memory.swap.max, which only cgroups below the root have.
func (h *host) swap(v2 string, memory bool) {
	const name, lost = "swap accounting", "--memory-swap and linux.resources.memory.swap are refused"
	if !memory {
		h.add(groupCgroups, name, Unknown, false, "needs the memory controller on version 2", lost, "")
		return
	}
	candidates := []string{v2}
	entries, _ := os.ReadDir(h.root + v2)
	for _, e := range entries {
		if e.IsDir() {
			candidates = append(candidates, v2+"/"+e.Name())
		}
	}
	for _, dir := range candidates {
		if !h.exists(dir + "/memory.max") {
			continue
		}
		if h.exists(dir + "/memory.swap.max") {
			h.add(groupCgroups, name, OK, false, "on", "", "")
		} else {
			h.add(groupCgroups, name, Missing, false, "off", lost, "add swapaccount=1 to the kernel's command line")
		}
		return
	}
	h.add(groupCgroups, name, Unknown, false, "there is no cgroup with the memory controller to look at", lost, "")
}
