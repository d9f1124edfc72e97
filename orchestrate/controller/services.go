package controller

import (
	"errors"
	"io/fs"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/minirun/minirun/orchestrate/rollout"
	"github.com/minirun/minirun/orchestrate/services"
	"github.com/minirun/minirun/orchestrate/store"
)

//lint:file-ignore SA1019 kubectl describe still asks for Endpoints

const (
	serviceKind    = "services"
	endpointsKind  = "endpoints"
	endpointSlices = "endpointslices.discovery.k8s.io"
	nodes          = "nodes"
)

// servicesOf has those Services looked at that choose a pod, or did so.
func (c *Controller) servicesOf(p *corev1.Pod) {
	l, err := c.s.List(serviceKind, store.Selector{Namespace: p.Namespace}, 0, "")
	if err != nil {
		return
	}
	for _, o := range l.Items {
		ref := store.Ref{Kind: serviceKind, Namespace: o.GetNamespace(), Name: o.GetName()}
		if c.members[ref][p.UID] || services.Selects(o.(*corev1.Service), p) {
			c.add(ref)
		}
	}
}

// balancers has those Services looked at that show the addresses of the host.
func (c *Controller) balancers() {
	l, err := c.s.List(serviceKind, store.Selector{Match: func(o store.Object) bool {
		return o.(*corev1.Service).Spec.Type == corev1.ServiceTypeLoadBalancer
	}}, 0, "")
	if err != nil {
		return
	}
	for _, o := range l.Items {
		c.add(store.Ref{Kind: serviceKind, Namespace: o.GetNamespace(), Name: o.GetName()})
	}
}

// service syncs one: its addresses, what is said of its load balancer, its
// endpoints.
func (c *Controller) service(ref store.Ref) error {
	delete(c.members, ref)
	obj, err := c.s.Get(serviceKind, ref.Namespace, ref.Name)
	if err != nil {
		return err
	}
	svc := obj.(*corev1.Service)
	if svc.DeletionTimestamp == nil && svc.Spec.ClusterIP == "" && svc.Spec.Type != corev1.ServiceTypeExternalName {
		// It was stored by who gives no addresses. To store it again does.
		if obj, err = c.s.Update(serviceKind, svc, store.Main); err != nil {
			c.record(svc, "Service", rollout.Event{Type: "Warning", Reason: "FailedAllocation", Message: err.Error()})
			return err
		}
		svc = obj.(*corev1.Service)
	}
	if err := c.balancer(svc); err != nil {
		return err
	}
	if len(svc.Spec.Selector) == 0 && svc.Spec.Type != corev1.ServiceTypeExternalName {
		return nil // somebody else says what its endpoints are
	}
	all, err := list[*corev1.Pod](c.s, pods, ref.Namespace)
	if err != nil {
		return err
	}
	members := map[types.UID]bool{}
	for _, p := range all {
		if services.Selects(svc, p) {
			members[p.UID] = true
		}
	}
	c.members[ref] = members
	if err := c.slices(svc, all); err != nil {
		return err
	}
	return c.endpoints(svc, all)
}

func (c *Controller) slices(svc *corev1.Service, all []*corev1.Pod) error {
	l, err := c.s.List(endpointSlices, store.Selector{Namespace: svc.Namespace, Match: func(o store.Object) bool {
		return o.GetLabels()[discoveryv1.LabelServiceName] == svc.Name && o.GetLabels()[discoveryv1.LabelManagedBy] == services.ManagedBy
	}}, 0, "")
	if err != nil {
		return err
	}
	var have []*discoveryv1.EndpointSlice
	for _, o := range l.Items {
		have = append(have, o.(*discoveryv1.EndpointSlice))
	}
	plan := services.Slices(svc, all, have)
	for _, sl := range plan.Create {
		if _, err := c.s.Create(endpointSlices, sl); err != nil {
			return err
		}
	}
	for _, sl := range plan.Update {
		if _, err := c.s.Update(endpointSlices, sl, store.Main); err != nil {
			return err
		}
	}
	for _, sl := range plan.Delete {
		if _, err := c.s.Delete(endpointSlices, sl.Namespace, sl.Name, store.DeleteOptions{UID: sl.UID}); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (c *Controller) endpoints(svc *corev1.Service, all []*corev1.Pod) error {
	var have *corev1.Endpoints
	obj, err := c.s.Get(endpointsKind, svc.Namespace, svc.Name)
	if err == nil {
		have = obj.(*corev1.Endpoints)
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		if have != nil && len(have.OwnerReferences) > 0 && have.OwnerReferences[0].UID == svc.UID {
			_, err = c.s.Delete(endpointsKind, have.Namespace, have.Name, store.DeleteOptions{UID: have.UID})
			return err
		}
		return nil
	}
	n := services.Endpoints(svc, all, have)
	switch {
	case n == nil:
		return nil
	case have == nil:
		_, err = c.s.Create(endpointsKind, n)
	default:
		_, err = c.s.Update(endpointsKind, n, store.Main)
	}
	return err
}

// balancer keeps the status of a load balancer: it is this host.
func (c *Controller) balancer(svc *corev1.Service) error {
	var ingress []corev1.LoadBalancerIngress
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.DeletionTimestamp == nil && svc.Spec.LoadBalancerClass == nil {
		all, err := list[*corev1.Node](c.s, nodes, "")
		if err != nil {
			return err
		}
		vip := corev1.LoadBalancerIPModeVIP
		for _, n := range all {
			for _, a := range n.Status.Addresses {
				ip, err := netip.ParseAddr(a.Address)
				f := corev1.IPv6Protocol
				if ip.Is4() {
					f = corev1.IPv4Protocol
				}
				if err == nil && a.Type == corev1.NodeInternalIP && (len(svc.Spec.IPFamilies) == 0 || slices.Contains(svc.Spec.IPFamilies, f)) {
					ingress = append(ingress, corev1.LoadBalancerIngress{IP: a.Address, IPMode: &vip})
				}
			}
		}
	}
	if svc.Spec.LoadBalancerClass != nil {
		return nil // somebody else's
	}
	n := svc.DeepCopy()
	n.Status.LoadBalancer.Ingress = ingress
	_, err := c.s.Update(serviceKind, n, store.Status)
	return err
}
