package services

import (
	"cmp"
	"maps"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Endpoints is the older object of that name for a Service with a selector, as
// it is to be stored; nil if have, which may be nil, is right.
//
//lint:file-ignore SA1019 kubectl describe still asks for Endpoints
func Endpoints(s *corev1.Service, pods []*corev1.Pod, have *corev1.Endpoints) *corev1.Endpoints {
	n := &corev1.Endpoints{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Endpoints"},
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name},
	}
	if have != nil {
		n = have.DeepCopy()
	}
	n.Labels = maps.Clone(s.Labels)
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	delete(n.Labels, headlessLabel)
	if n.Labels[managerLabel] = "endpoint-controller"; s.Spec.ClusterIP == corev1.ClusterIPNone {
		n.Labels[headlessLabel] = ""
	}
	n.OwnerReferences = owner(s)
	truncated := false
	if n.Subsets, truncated = subsets(s, pods); truncated {
		if n.Annotations = maps.Clone(n.Annotations); n.Annotations == nil {
			n.Annotations = map[string]string{}
		}
		n.Annotations[overCapacity] = "truncated"
	} else {
		delete(n.Annotations, overCapacity)
	}
	if have != nil && reflect.DeepEqual(n.Subsets, have.Subsets) && reflect.DeepEqual(n.ObjectMeta, have.ObjectMeta) {
		return nil
	}
	return n
}

// subsets are the pods with the same ports together.
func subsets(s *corev1.Service, pods []*corev1.Pod) (out []corev1.EndpointSubset, truncated bool) {
	by := map[string]*corev1.EndpointSubset{}
	total := 0
	for _, ready := range []bool{true, false} { // of too many those that are ready stay
		for _, p := range pods {
			if !Selects(s, p) || !counts(p) || p.DeletionTimestamp != nil {
				continue
			}
			e, ok := primary(s, p)
			if !ok || *e.Conditions.Ready != ready {
				continue
			}
			if total++; total > maxEndpoints {
				return ordered(by), true
			}
			pp := ports(s, p)
			key := groupKey("", pp)
			if by[key] == nil {
				by[key] = &corev1.EndpointSubset{}
				for _, x := range pp {
					by[key].Ports = append(by[key].Ports, corev1.EndpointPort{Name: *x.Name, Port: *x.Port, Protocol: *x.Protocol, AppProtocol: x.AppProtocol})
				}
			}
			a := corev1.EndpointAddress{IP: e.Addresses[0], NodeName: e.NodeName, TargetRef: e.TargetRef}
			if e.Hostname != nil {
				a.Hostname = *e.Hostname
			}
			if ready {
				by[key].Addresses = append(by[key].Addresses, a)
			} else {
				by[key].NotReadyAddresses = append(by[key].NotReadyAddresses, a)
			}
		}
	}
	return ordered(by), false
}

// primary is a pod's endpoint of the Service's first family.
func primary(s *corev1.Service, p *corev1.Pod) (discoveryv1.Endpoint, bool) {
	for _, ip := range addresses(p) {
		if len(s.Spec.IPFamilies) == 0 || family(ip) == s.Spec.IPFamilies[0] {
			return endpoint(s, p, ip), true
		}
	}
	return discoveryv1.Endpoint{}, false
}

func ordered(by map[string]*corev1.EndpointSubset) (out []corev1.EndpointSubset) {
	for _, key := range slices.Sorted(maps.Keys(by)) {
		sub := by[key]
		for _, l := range [][]corev1.EndpointAddress{sub.Addresses, sub.NotReadyAddresses} {
			slices.SortFunc(l, func(a, b corev1.EndpointAddress) int {
				return cmp.Or(cmp.Compare(a.IP, b.IP), cmp.Compare(a.TargetRef.UID, b.TargetRef.UID))
			})
		}
		out = append(out, *sub)
	}
	return out
}
