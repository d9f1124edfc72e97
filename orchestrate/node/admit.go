package node

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// host is what admission knows of the node.
type host struct {
	Name     string
	Labels   map[string]string
	Taints   []corev1.Taint
	Capacity corev1.ResourceList
	// Unschedulable: kubectl cordon.
	Unschedulable bool
}

// admit tells why a pod cannot run here, in the words of a scheduler; empty: it
// can. others are the pods that run here and have not come to their end.
func admit(pod *corev1.Pod, h *host, others []*corev1.Pod) string {
	var why []string
	for k, v := range pod.Spec.NodeSelector {
		if have, ok := h.Labels[k]; !ok || have != v {
			why = append(why, "node(s) didn't match Pod's node affinity/selector")
			break
		}
	}
	if a := pod.Spec.Affinity; len(why) == 0 && a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		if !matchesAny(a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms, h) {
			why = append(why, "node(s) didn't match Pod's node affinity/selector")
		}
	}
	if h.Unschedulable && !toleratesAll(pod, []corev1.Taint{{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}}) {
		why = append(why, "node(s) were unschedulable")
	}
	for _, t := range h.Taints {
		if t.Effect != corev1.TaintEffectPreferNoSchedule && t.Key != corev1.TaintNodeUnschedulable && !toleratesAll(pod, []corev1.Taint{t}) {
			why = append(why, fmt.Sprintf("node(s) had untolerated taint {%s: %s}", t.Key, t.Value))
		}
	}
	used := corev1.ResourceList{}
	var taken []hostPort
	for _, o := range others {
		addTo(used, podResources(&o.Spec, requests))
		taken = append(taken, hostPorts(&o.Spec)...)
	}
	for _, p := range hostPorts(&pod.Spec) {
		if slices.ContainsFunc(taken, p.meets) {
			why = append(why, "node(s) didn't have free ports for the requested pod ports")
			break
		}
	}
	limit := h.Capacity[corev1.ResourcePods]
	if limit.Value() > 0 && int64(len(others)) >= limit.Value() {
		why = append(why, "Too many pods")
	}
	wants := podResources(&pod.Spec, requests)
	names := make([]string, 0, len(wants))
	for name := range wants {
		names = append(names, string(name))
	}
	sort.Strings(names)
	for _, name := range names {
		q := wants[corev1.ResourceName(name)]
		capacity, known := h.Capacity[corev1.ResourceName(name)]
		if q.IsZero() || !known && name == string(corev1.ResourceEphemeralStorage) {
			continue
		}
		sum := used[corev1.ResourceName(name)]
		sum.Add(q)
		if sum.Cmp(capacity) > 0 {
			why = append(why, "Insufficient "+name)
		}
	}
	if len(why) == 0 {
		return ""
	}
	for i := range why {
		why[i] = "1 " + why[i]
	}
	return unavailable(strings.Join(why, ", "))
}

// unavailable is why a pod is not placed, as a scheduler of one node says it.
func unavailable(why string) string { return "0/1 nodes are available: " + why + "." }

// claimTrouble tells why a claim that a pod names cannot be used, now; claim is nil
// if there is none. Empty: it can, or will be bound.
func claimTrouble(name string, claim *corev1.PersistentVolumeClaim) string {
	switch {
	case claim == nil:
		return fmt.Sprintf("persistentvolumeclaim %q not found", name)
	case claim.Status.Phase == corev1.ClaimLost:
		return fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName)
	case claim.DeletionTimestamp != nil:
		return fmt.Sprintf("persistentvolumeclaim %q is being deleted", name)
	}
	return ""
}

// missingClaim tells why a pod is not placed whose claims are not there.
func (n *Node) missingClaim(pod *corev1.Pod) (string, error) {
	for i := range pod.Spec.Volumes {
		v := pod.Spec.Volumes[i].PersistentVolumeClaim
		if v == nil {
			continue
		}
		claim, err := get[*corev1.PersistentVolumeClaim](n, claims, pod.Namespace, v.ClaimName)
		if err != nil {
			return "", err
		}
		if why := claimTrouble(v.ClaimName, claim); why != "" {
			return unavailable(why), nil
		}
	}
	return "", nil
}

func addTo(to, what corev1.ResourceList) {
	for name, q := range what {
		have := to[name]
		have.Add(q)
		to[name] = have
	}
}

// hostPort is a port of the host that a pod takes.
type hostPort struct {
	protocol corev1.Protocol
	number   int32
	ip       string // empty: all addresses
}

// meets tells whether two cannot be there together.
func (p hostPort) meets(o hostPort) bool {
	return p.protocol == o.protocol && p.number == o.number && (p.ip == o.ip || p.ip == "" || o.ip == "")
}

// hostPorts are the ports of the host that a pod takes.
func hostPorts(s *corev1.PodSpec) (list []hostPort) {
	for _, containers := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range containers {
			for _, p := range containers[i].Ports {
				if s.HostNetwork { // whatever it listens at, it does at the host
					p.HostPort = cmp.Or(p.HostPort, p.ContainerPort)
				}
				if p.HostPort == 0 {
					continue
				}
				h := hostPort{cmp.Or(p.Protocol, corev1.ProtocolTCP), p.HostPort, p.HostIP}
				if h.ip == "0.0.0.0" || h.ip == "::" {
					h.ip = ""
				}
				list = append(list, h)
			}
		}
	}
	return list
}

func toleratesAll(pod *corev1.Pod, taints []corev1.Taint) bool {
	for _, t := range taints {
		ok := false
		for _, o := range pod.Spec.Tolerations {
			key := o.Key == t.Key || o.Key == "" && o.Operator == corev1.TolerationOpExists
			value := o.Operator == corev1.TolerationOpExists || o.Value == t.Value
			ok = ok || key && value && (o.Effect == "" || o.Effect == t.Effect)
		}
		if !ok {
			return false
		}
	}
	return true
}

// matchesAny is a node selector: one of the terms, and all of it.
func matchesAny(terms []corev1.NodeSelectorTerm, h *host) bool {
	for _, term := range terms {
		ok := len(term.MatchExpressions)+len(term.MatchFields) > 0
		for _, r := range term.MatchExpressions {
			value, has := h.Labels[r.Key]
			ok = ok && matches(r, value, has)
		}
		for _, r := range term.MatchFields {
			ok = ok && r.Key == "metadata.name" && matches(r, h.Name, true)
		}
		if ok {
			return true
		}
	}
	return false
}

func matches(r corev1.NodeSelectorRequirement, value string, has bool) bool {
	in := false
	for _, v := range r.Values {
		in = in || v == value
	}
	switch r.Operator {
	case corev1.NodeSelectorOpIn:
		return has && in
	case corev1.NodeSelectorOpNotIn:
		return !has || !in
	case corev1.NodeSelectorOpExists:
		return has
	case corev1.NodeSelectorOpDoesNotExist:
		return !has
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if !has || len(r.Values) != 1 {
			return false
		}
		if r.Operator == corev1.NodeSelectorOpGt {
			return atoi(value) > atoi(r.Values[0])
		}
		return atoi(value) < atoi(r.Values[0])
	}
	return false
}
