package node

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// qosClass is the class of a pod by what its containers ask for.
func qosClass(s *corev1.PodSpec) corev1.PodQOSClass {
	any, guaranteed := false, true
	for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			r := &list[i].Resources
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				request, limit := r.Requests[name], r.Limits[name]
				any = any || !request.IsZero() || !limit.IsZero()
				if limit.IsZero() || !request.IsZero() && request.Cmp(limit) != 0 {
					guaranteed = false
				}
			}
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// Values of oom_score_adj, those of a kubelet.
const (
	guaranteedOOMScore = -997
	bestEffortOOMScore = 1000
	sandboxOOMScore    = -998
)

// oomScore is the oom_score_adj of a container on a host with that much memory.
func oomScore(s *corev1.PodSpec, c *corev1.Container, memory int64) int {
	if p := s.Priority; p != nil && *p >= 2000000000 { // a critical pod
		return guaranteedOOMScore
	}
	switch qosClass(s) {
	case corev1.PodQOSGuaranteed:
		return guaranteedOOMScore
	case corev1.PodQOSBestEffort:
		return bestEffortOOMScore
	}
	if memory <= 0 {
		return bestEffortOOMScore - 1
	}
	request := c.Resources.Requests[corev1.ResourceMemory]
	adj := 1000 - 1000*float64(request.Value())/float64(memory)
	return min(max(int(adj), 1000+guaranteedOOMScore), bestEffortOOMScore-1)
}

// podResources is what a pod as a whole may use, or asks for: the sum of its
// containers and sidecars, or an init container with the sidecars before it if
// that is more.
func podResources(s *corev1.PodSpec, of func(*corev1.ResourceRequirements) corev1.ResourceList) corev1.ResourceList {
	sum, most, beside := corev1.ResourceList{}, corev1.ResourceList{}, corev1.ResourceList{}
	add := func(to, what corev1.ResourceList) {
		for name, q := range what {
			have := to[name]
			have.Add(q)
			to[name] = have
		}
	}
	raise := func(to, what corev1.ResourceList) {
		for name, q := range what {
			if have, ok := to[name]; !ok || have.Cmp(q) < 0 {
				to[name] = q
			}
		}
	}
	for i := range s.InitContainers {
		c := &s.InitContainers[i]
		r := of(&c.Resources)
		if kindOf(c) == sidecar {
			add(beside, r)
			raise(most, beside)
			continue
		}
		with := beside.DeepCopy()
		if with == nil {
			with = corev1.ResourceList{}
		}
		add(with, r)
		raise(most, with)
	}
	for i := range s.Containers {
		add(sum, of(&s.Containers[i].Resources))
	}
	add(sum, beside)
	raise(sum, most)
	add(sum, s.Overhead)
	return sum
}

// kindOf is that of an init container.
func kindOf(c *corev1.Container) kind {
	if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
		return sidecar
	}
	return initContainer
}

func requests(r *corev1.ResourceRequirements) corev1.ResourceList { return r.Requests }

// limitOf is a limit that a pod has as a whole: that of each container, if all
// have one; nil otherwise.
func limitOf(s *corev1.PodSpec, name corev1.ResourceName) *resource.Quantity {
	for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			if q := list[i].Resources.Limits[name]; q.IsZero() {
				return nil
			}
		}
	}
	q := podResources(s, func(r *corev1.ResourceRequirements) corev1.ResourceList { return r.Limits })[name]
	return &q
}
