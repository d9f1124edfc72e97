package services

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Names of Kubernetes on what is made for Services.
const (
	// ManagedBy is who keeps the slices that are kept here.
	ManagedBy     = "endpointslice-controller.k8s.io"
	headlessLabel = "service.kubernetes.io/headless"
	managerLabel  = "endpoints.kubernetes.io/managed-by"
	overCapacity  = "endpoints.kubernetes.io/over-capacity"
)

const (
	maxPerSlice  = 100
	maxEndpoints = 1000 // of an Endpoints object
)

// Selects tells whether a Service chooses a pod.
func Selects(s *corev1.Service, p *corev1.Pod) bool {
	return len(s.Spec.Selector) > 0 && s.Spec.Type != corev1.ServiceTypeExternalName && s.Namespace == p.Namespace &&
		labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(p.Labels))
}

// counts tells whether a pod can have connections at all.
func counts(p *corev1.Pod) bool {
	return p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed && len(addresses(p)) > 0
}

func addresses(p *corev1.Pod) (ips []netip.Addr) {
	for _, i := range p.Status.PodIPs {
		if ip, err := netip.ParseAddr(i.IP); err == nil {
			ips = append(ips, ip)
		}
	}
	if ip, err := netip.ParseAddr(p.Status.PodIP); err == nil && len(ips) == 0 {
		ips = append(ips, ip)
	}
	return ips
}

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// TargetPort is the port of a pod behind a port of a Service; 0 if the pod has
// none of that name.
func TargetPort(p *corev1.Pod, sp corev1.ServicePort) int32 {
	if sp.TargetPort.Type == intstr.Int {
		if sp.TargetPort.IntVal == 0 {
			return sp.Port
		}
		return sp.TargetPort.IntVal
	}
	proto := cmp.Or(sp.Protocol, corev1.ProtocolTCP)
	find := func(c *corev1.Container) int32 {
		for _, cp := range c.Ports {
			if cp.Name == sp.TargetPort.StrVal && cmp.Or(cp.Protocol, corev1.ProtocolTCP) == proto {
				return cp.ContainerPort
			}
		}
		return 0
	}
	for i := range p.Spec.Containers {
		if n := find(&p.Spec.Containers[i]); n != 0 {
			return n
		}
	}
	for i := range p.Spec.InitContainers { // those that keep running
		c := &p.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			if n := find(c); n != 0 {
				return n
			}
		}
	}
	return 0
}

// ports are those of a pod behind the ports of a Service.
func ports(s *corev1.Service, p *corev1.Pod) (out []discoveryv1.EndpointPort) {
	for _, sp := range s.Spec.Ports {
		n := TargetPort(p, sp)
		if n == 0 {
			continue
		}
		name, proto := sp.Name, cmp.Or(sp.Protocol, corev1.ProtocolTCP)
		out = append(out, discoveryv1.EndpointPort{Name: &name, Protocol: &proto, Port: &n, AppProtocol: sp.AppProtocol})
	}
	return out
}

// endpoint is what a slice says of a pod.
func endpoint(s *corev1.Service, p *corev1.Pod, ip netip.Addr) discoveryv1.Endpoint {
	serving, terminating := ready(p), p.DeletionTimestamp != nil
	is := s.Spec.PublishNotReadyAddresses || serving && !terminating
	e := discoveryv1.Endpoint{
		Addresses:  []string{ip.String()},
		Conditions: discoveryv1.EndpointConditions{Ready: &is, Serving: &serving, Terminating: &terminating},
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
	}
	if p.Spec.NodeName != "" {
		node := p.Spec.NodeName
		e.NodeName = &node
	}
	if p.Spec.Hostname != "" && p.Spec.Subdomain == s.Name {
		host := p.Spec.Hostname
		e.Hostname = &host
	}
	return e
}

// Plan is what to do with objects of one kind.
type Plan[T any] struct{ Create, Update, Delete []T }

// Slices says what is to be done with the EndpointSlices of a Service. pods are
// those of its namespace, have are the slices that carry its name and ManagedBy.
// Endpoints stay in the slice they are in, so that one pod changes one slice.
func Slices(s *corev1.Service, pods []*corev1.Pod, have []*discoveryv1.EndpointSlice) Plan[*discoveryv1.EndpointSlice] {
	want := map[string]*group{}
	if s.DeletionTimestamp == nil {
		for _, p := range pods {
			if !Selects(s, p) || !counts(p) {
				continue
			}
			for _, ip := range addresses(p) {
				f := family(ip)
				if len(s.Spec.IPFamilies) > 0 && !slices.Contains(s.Spec.IPFamilies, f) {
					continue
				}
				pp := ports(s, p)
				key := groupKey(f, pp)
				if want[key] == nil {
					want[key] = &group{family: f, ports: pp, endpoints: map[string]discoveryv1.Endpoint{}}
				}
				want[key].endpoints[string(p.UID)+"/"+ip.String()] = endpoint(s, p, ip)
			}
		}
	}
	var plan Plan[*discoveryv1.EndpointSlice]
	byKey := map[string][]*discoveryv1.EndpointSlice{}
	for _, sl := range have {
		if sl.DeletionTimestamp != nil {
			continue
		}
		// Somebody may have changed it to what is none of ours.
		key := ""
		if !slices.ContainsFunc(sl.Ports, func(p discoveryv1.EndpointPort) bool { return p.Name == nil || p.Protocol == nil || p.Port == nil }) {
			key = groupKey(corev1.IPFamily(sl.AddressType), sl.Ports)
		}
		if want[key] == nil {
			plan.Delete = append(plan.Delete, sl)
			continue
		}
		byKey[key] = append(byKey[key], sl)
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		want[key].fill(s, key, byKey[key], &plan)
	}
	return plan
}

// group is what goes into slices of the same family and ports.
type group struct {
	family    corev1.IPFamily
	ports     []discoveryv1.EndpointPort
	endpoints map[string]discoveryv1.Endpoint // by uid and address
}

func groupKey(f corev1.IPFamily, pp []discoveryv1.EndpointPort) string {
	b := append(make([]byte, 0, 64), f...)
	for _, p := range pp {
		for _, word := range []string{*p.Name, string(*p.Protocol), deref(p.AppProtocol)} {
			b = append(append(b, '|'), word...)
		}
		b = strconv.AppendInt(append(b, '|'), int64(*p.Port), 10)
	}
	return string(b)
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (g *group) fill(s *corev1.Service, key string, have []*discoveryv1.EndpointSlice, plan *Plan[*discoveryv1.EndpointSlice]) {
	slices.SortFunc(have, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
	left := maps.Clone(g.endpoints)
	next := make([][]discoveryv1.Endpoint, len(have))
	taken := map[string]bool{}
	for i, sl := range have {
		taken[sl.Name] = true
		for _, e := range sl.Endpoints {
			if e.TargetRef == nil || len(e.Addresses) != 1 {
				continue
			}
			id := string(e.TargetRef.UID) + "/" + e.Addresses[0]
			if w, ok := left[id]; ok && len(next[i]) < maxPerSlice {
				next[i] = append(next[i], w)
				delete(left, id)
			}
		}
	}
	rest := slices.SortedFunc(maps.Keys(left), func(a, b string) int {
		return cmp.Or(cmp.Compare(left[a].TargetRef.Name, left[b].TargetRef.Name), cmp.Compare(a, b))
	})
	add := func(at int) {
		n := min(maxPerSlice-len(next[at]), len(rest))
		for _, id := range rest[:n] {
			next[at] = append(next[at], left[id])
		}
		rest = rest[n:]
	}
	for i := range have {
		add(i)
	}
	for i, sl := range have {
		if len(next[i]) == 0 {
			plan.Delete = append(plan.Delete, sl)
			continue
		}
		n := sl.DeepCopy()
		g.describe(s, n)
		if n.Endpoints = next[i]; !reflect.DeepEqual(n.Endpoints, sl.Endpoints) || !reflect.DeepEqual(n.ObjectMeta, sl.ObjectMeta) {
			plan.Update = append(plan.Update, n)
		}
	}
	for i := 0; len(rest) > 0; i++ {
		name := sliceName(s.Name, key, i)
		if taken[name] {
			continue
		}
		n := &discoveryv1.EndpointSlice{
			TypeMeta:    metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
			ObjectMeta:  metav1.ObjectMeta{Namespace: s.Namespace, Name: name, GenerateName: s.Name + "-"},
			AddressType: discoveryv1.AddressType(g.family), Ports: g.ports,
		}
		g.describe(s, n)
		next = append(next, nil)
		add(len(next) - 1)
		n.Endpoints = next[len(next)-1]
		plan.Create = append(plan.Create, n)
	}
}

// describe brings a slice's metadata up to date.
func (g *group) describe(s *corev1.Service, n *discoveryv1.EndpointSlice) {
	l := maps.Clone(s.Labels)
	if l == nil {
		l = map[string]string{}
	}
	delete(l, headlessLabel)
	l[discoveryv1.LabelServiceName], l[discoveryv1.LabelManagedBy] = s.Name, ManagedBy
	if s.Spec.ClusterIP == corev1.ClusterIPNone {
		l[headlessLabel] = ""
	}
	n.Labels, n.OwnerReferences = l, owner(s)
}

func owner(s *corev1.Service) []metav1.OwnerReference {
	yes := true
	return []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: s.Name, UID: s.UID, Controller: &yes, BlockOwnerDeletion: &yes}}
}

// sliceName is the same for the same slice, so that one made twice is refused.
func sliceName(service, key string, i int) string {
	const letters = "bcdfghjklmnpqrstvwxz2456789"
	h := fnv.New32a()
	fmt.Fprintf(h, "%s#%d", key, i)
	suffix, n := make([]byte, 5), h.Sum32()
	for i := range suffix {
		suffix[i] = letters[n%uint32(len(letters))]
		n /= uint32(len(letters))
	}
	return service + "-" + string(suffix)
}
