package node

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// defaultPodPIDs is how many processes and threads a pod may have: a quarter of what
// the host can. A pod that makes ever more of them takes itself down, and not the host.
func defaultPodPIDs() int64 {
	most := int64(0)
	for _, name := range []string{"kernel/pid_max", "kernel/threads-max"} {
		if lines, err := readLines("/proc/sys/" + name); err == nil && len(lines) > 0 {
			if n := int64(atoi(lines[0])); n > 0 && (most == 0 || n < most) {
				most = n
			}
		}
	}
	return max(most/4, 256)
}

// limitPIDs adds the limit of a pod, where there is a controller for it.
func (n *Node) limitPIDs(r *specs.LinuxResources) {
	if !n.controllers["pids"] {
		return
	}
	limit := n.o.PodPIDs
	r.Pids = &specs.LinuxPids{Limit: &limit}
}
