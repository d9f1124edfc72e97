package node

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/cgroups"
)

// endTimeout is how long the end of killed processes may take.
const endTimeout = 10 * time.Second

func (w *worker) cgroupPath() string { return w.n.o.CgroupParent + "/pod" + string(w.uid) }

func (w *worker) containerCgroup(b *box) string {
	return w.cgroupPath() + "/" + strings.TrimPrefix(containerID(w.uid, b.Spec.Name, b.Next), string(w.uid)+"_")
}

// controllers are those that groups of pods can have: what the root of the
// hierarchy has.
func controllers(mount string) map[string]bool {
	m := map[string]bool{}
	text, err := cgroups.Open(mount, "/").Read("cgroup.controllers")
	if err != nil {
		return m
	}
	for _, c := range strings.Fields(text) {
		m[c] = true
	}
	return m
}

// unenforced names the limits of a pod that nothing here can enforce.
func (n *Node) unenforced(s *corev1.PodSpec) (names []string) {
	for _, r := range []struct {
		name       corev1.ResourceName
		controller string
	}{{corev1.ResourceCPU, "cpu"}, {corev1.ResourceMemory, "memory"}} {
		if n.controllers[r.controller] {
			continue
		}
		for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
			for i := range list {
				if q := list[i].Resources.Limits[r.name]; !q.IsZero() && (len(names) == 0 || names[len(names)-1] != string(r.name)) {
					names = append(names, string(r.name))
				}
			}
		}
	}
	return names
}

// Of cpu.shares and the quota, as a kubelet has them.
const (
	minShares   = 2
	quotaPeriod = 100000
	minQuota    = 1000
)

// limits are resources of a runtime for what is requested and limited, as far as
// there are controllers for it.
func (n *Node) limits(request, limit corev1.ResourceList) *specs.LinuxResources {
	r := &specs.LinuxResources{}
	if n.controllers["cpu"] {
		cpu := request[corev1.ResourceCPU]
		shares := max(uint64(cpu.MilliValue())*1024/1000, minShares)
		r.CPU = &specs.LinuxCPU{Shares: &shares}
		if q := limit[corev1.ResourceCPU]; !q.IsZero() {
			quota, period := max(q.MilliValue()*quotaPeriod/1000, minQuota), uint64(quotaPeriod)
			r.CPU.Quota, r.CPU.Period = &quota, &period
		}
	}
	if q := limit[corev1.ResourceMemory]; n.controllers["memory"] && !q.IsZero() {
		bytes := q.Value()
		r.Memory = &specs.LinuxMemory{Limit: &bytes}
	}
	return r
}

// resourcesOf are those of one container.
func (n *Node) resourcesOf(c *corev1.Container) *specs.LinuxResources {
	r := n.limits(c.Resources.Requests, c.Resources.Limits)
	if r.Memory != nil { // all processes of a container are one: half of it is of no use
		r.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return r
}

// makeCgroup makes the group that those of the containers are below.
func (w *worker) makeCgroup(pod *corev1.Pod) error {
	limit := corev1.ResourceList{}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if q := limitOf(&pod.Spec, name); q != nil {
			limit[name] = *q
		}
	}
	r := w.n.limits(podResources(&pod.Spec, requests), limit)
	w.n.limitPIDs(r)
	l, err := cgroups.FromOCIUpdate(r)
	if err != nil {
		return err
	}
	g, err := cgroups.CreateFor(w.n.cgroupMount, w.cgroupPath(), l)
	if err != nil {
		return err
	}
	return g.Apply(l)
}

// removeCgroup ends what is in the group of the pod, and removes it.
func (w *worker) removeCgroup() error {
	g := cgroups.Open(w.n.cgroupMount, w.cgroupPath())
	if !g.Exists() {
		return nil
	}
	if err := g.Kill(); err != nil {
		return err
	}
	return g.Remove(endTimeout)
}

// oomScoreOf is the oom_score_adj that a container gets. A process without
// CAP_SYS_RESOURCE can only raise its own.
func (n *Node) oomScoreOf(s *corev1.PodSpec, c *corev1.Container) int {
	memory := n.capacity[corev1.ResourceMemory]
	return max(oomScore(s, c, memory.Value()), oomFloor())
}

// oomFloor is the lowest oom_score_adj that this process can give. It is found out
// once, since the process has another one while it starts others, see runtime.
var oomFloor = sync.OnceValue(func() int {
	const minimum = -1000
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&hdr, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0 {
		return minimum
	}
	return ownOOMScore()
})

func ownOOMScore() int {
	lines, err := readLines("/proc/self/oom_score_adj")
	if err != nil || len(lines) == 0 {
		return 0
	}
	return atoi(lines[0])
}

// setOOMScore gives a process of ours another oom_score_adj than it has from us. What
// this process may not do stays undone.
func setOOMScore(pid, adj int) {
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte(strconv.Itoa(adj)), 0)
}
