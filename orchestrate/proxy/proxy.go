// Package proxy leads connections to pods: it gives the load balancer in the
// kernel what Services and ready pods come to.
//
// Whoever runs the pods says when a pod is ready and when it is not any more, and
// the methods return when the kernel has it. So a pod gets no connection before it
// is ready and none after it was told to end, which nobody who watches the objects
// could promise. Services are watched.
package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/minirun/minirun/network/service"
	"github.com/minirun/minirun/network/watch"
	"github.com/minirun/minirun/orchestrate/services"
	"github.com/minirun/minirun/orchestrate/store"
)

// Names of kinds in the store.
const (
	podKind     = "pods"
	serviceKind = "services"
	sliceKind   = "endpointslices.discovery.k8s.io"
)

// Table is the name of the nftables table.
const Table = "minirun_kube"

// Options of New.
type Options struct {
	Store *store.Store
	// NetNS is a descriptor of the network namespace to work in; 0 is the current one.
	NetNS int
	// Loopback are the addresses of the host that pods see when the host reaches a
	// node port at a loopback address; empty: it does not.
	Loopback []netip.Addr
	// Table replaces the name of the nftables table.
	Table string
	Log   *slog.Logger
}

// Proxy keeps the kernel's load balancer true. Its methods may be called at the
// same time, before Run too.
type Proxy struct {
	s   *store.Store
	b   balancer
	log *slog.Logger

	mu     sync.Mutex
	synced bool
	pods   map[types.UID]*backend
}

// balancer is what Proxy needs of a service.Balancer.
type balancer interface {
	Apply(set []service.Service, remove []string) error
	Replace([]service.Service) error
	Connections(name string) (map[netip.AddrPort]int, error)
	Watched() watch.Table
	Close() error
}

// backend is a pod that connections go to, or that still has some.
type backend struct {
	pod      *corev1.Pod
	ips      []netip.Addr
	draining bool
}

// New makes a Proxy. The kernel's rules stay as they are until its first use.
func New(o Options) (*Proxy, error) {
	if o.Store == nil {
		return nil, errors.New("the proxy needs a store")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Table == "" {
		o.Table = Table
	}
	b := service.New(service.Options{NetNS: o.NetNS, Table: o.Table, Loopback: o.Loopback, Log: o.Log})
	return &Proxy{s: o.Store, b: b, log: o.Log, pods: map[types.UID]*backend{}}, nil
}

// Watched is the table of Services, for a watcher that restores it.
func (p *Proxy) Watched() watch.Table { return p.b.Watched() }

// Ready has new connections go to the pod.
func (p *Proxy) Ready(pod *corev1.Pod, ips []netip.Addr) error {
	return p.change(pod, func() {
		p.pods[pod.UID] = &backend{pod: pod, ips: slices.Clone(ips)}
	})
}

// Remove has no new connections go to the pod; those that it has stay.
func (p *Proxy) Remove(pod *corev1.Pod) error {
	return p.change(pod, func() {
		if b := p.pods[pod.UID]; b != nil {
			b.draining = true
		}
	})
}

// Forget ends what connections the kernel still knows to the pod.
func (p *Proxy) Forget(pod *corev1.Pod) error {
	return p.change(pod, func() { delete(p.pods, pod.UID) })
}

// Connections counts the open connections to a pod through all Services.
func (p *Proxy) Connections(pod *corev1.Pod) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.pods[pod.UID]
	if b == nil {
		return 0, nil
	}
	selecting, err := p.selecting(pod)
	if err != nil {
		return 0, err
	}
	sum := 0
	for _, s := range selecting {
		if len(frontends(s)) == 0 {
			continue
		}
		n, err := p.b.Connections(name(s))
		if err != nil {
			return 0, err
		}
		for at, k := range n {
			if slices.Contains(b.ips, at.Addr()) {
				sum += k
			}
		}
	}
	return sum, nil
}

// change changes what is known of a pod and brings it to the kernel. If the
// kernel does not take it, the next change, of this or another pod, tries again.
func (p *Proxy) change(pod *corev1.Pod, f func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	first := !p.synced
	if first {
		if err := p.load(); err != nil {
			return err
		}
	}
	f()
	if first {
		return p.replace()
	}
	selecting, err := p.selecting(pod)
	if err != nil {
		return err
	}
	var set []service.Service
	for _, s := range selecting {
		if svc, ok := p.build(s); ok {
			set = append(set, svc)
		}
	}
	if len(set) == 0 {
		return nil
	}
	if p.b.Apply(set, nil) == nil {
		return nil
	}
	// One that the kernel cannot have does not keep the others from it.
	for _, s := range selecting {
		if err := p.update(s); err != nil {
			p.synced = false
			return fmt.Errorf("service %s, which pod %s is behind: %w", name(s), pod.Name, err)
		}
	}
	return nil
}

// load takes from the store which pods are ready. A pod that someone else told us
// of is known better.
func (p *Proxy) load() error {
	l, err := p.s.List(podKind, store.Selector{}, 0, "")
	if err != nil {
		return err
	}
	for _, o := range l.Items {
		pod := o.(*corev1.Pod)
		if p.pods[pod.UID] != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		if ips := podIPs(pod); len(ips) > 0 && ready(pod) {
			p.pods[pod.UID] = &backend{pod, ips, pod.DeletionTimestamp != nil}
		}
	}
	return nil
}

func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func podIPs(pod *corev1.Pod) []netip.Addr {
	var ips []netip.Addr
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			ips = append(ips, a)
		}
	}
	return ips
}

// replace makes the kernel's table what it should be as a whole. A Service that
// the kernel cannot have is left out, and is logged.
func (p *Proxy) replace() error {
	l, err := p.s.List(serviceKind, store.Selector{}, 0, "")
	if err != nil {
		return err
	}
	var all []service.Service
	for _, o := range l.Items {
		svc, ok := p.build(o.(*corev1.Service))
		if !ok {
			continue
		}
		if err := errors.Join(svc.Validate(), clash(all, svc)); err != nil {
			p.log.Error("a Service has no effect", "service", svc.Name, "error", err)
			continue
		}
		all = append(all, svc)
	}
	if err := p.b.Replace(all); err != nil {
		return err
	}
	p.synced = true
	return nil
}

// clash finds a front end that an earlier Service has.
func clash(all []service.Service, svc service.Service) error {
	for _, o := range all {
		for _, port := range svc.Ports {
			for _, other := range o.Ports {
				if port.Protocol != other.Protocol {
					continue
				}
				if port.NodePort != 0 && port.NodePort == other.NodePort {
					return &service.ConflictError{Service: svc.Name, Other: o.Name, Frontend: fmt.Sprintf("node port %d", port.NodePort)}
				}
				for _, a := range slices.Concat(svc.Addresses, svc.Shared) {
					if port.Port != 0 && port.Port == other.Port && slices.Contains(slices.Concat(o.Addresses, o.Shared), a) {
						return &service.ConflictError{Service: svc.Name, Other: o.Name, Frontend: netip.AddrPortFrom(a, port.Port).String()}
					}
				}
			}
		}
	}
	return nil
}

// selecting are the Services that choose a pod.
func (p *Proxy) selecting(pod *corev1.Pod) ([]*corev1.Service, error) {
	l, err := p.s.List(serviceKind, store.Selector{Namespace: pod.Namespace}, 0, "")
	if err != nil {
		return nil, err
	}
	var out []*corev1.Service
	for _, o := range l.Items {
		if s := o.(*corev1.Service); services.Selects(s, pod) {
			out = append(out, s)
		}
	}
	return out, nil
}

func name(s *corev1.Service) string { return s.Namespace + "/" + s.Name }

// frontends are the addresses of a Service that are its own.
func frontends(s *corev1.Service) []netip.Addr {
	var out []netip.Addr
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	for _, ip := range s.Spec.ClusterIPs {
		if a, err := netip.ParseAddr(ip); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// shared are the addresses of the host that a Service is also reached at.
func shared(s *corev1.Service) []netip.Addr {
	var out []netip.Addr
	add := func(ip string) {
		if a, err := netip.ParseAddr(ip); err == nil && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	for _, ip := range s.Spec.ExternalIPs {
		add(ip)
	}
	for _, in := range s.Status.LoadBalancer.Ingress {
		add(in.IP)
	}
	return out
}

// build is what the kernel should know of a Service; false if nothing.
func (p *Proxy) build(s *corev1.Service) (service.Service, bool) {
	out := service.Service{Name: name(s), Addresses: frontends(s)}
	if len(out.Addresses) == 0 {
		return out, false
	}
	out.Shared = shared(s)
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		out.Affinity = 3 * time.Hour
		if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			out.Affinity = time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
		}
	}
	for _, sp := range s.Spec.Ports {
		proto, err := service.ParseProtocol(string(sp.Protocol))
		if err != nil {
			proto = service.TCP
		}
		port := service.Port{Protocol: proto, Port: uint16(sp.Port), NodePort: uint16(sp.NodePort)}
		if len(s.Spec.Selector) > 0 {
			port.Endpoints = p.endpoints(s, sp)
		} else {
			port.Endpoints = p.byHand(s, sp)
		}
		out.Ports = append(out.Ports, port)
	}
	return out, len(out.Ports) > 0
}

// endpoints are the pods behind one port.
func (p *Proxy) endpoints(s *corev1.Service, sp corev1.ServicePort) []service.Endpoint {
	var out []service.Endpoint
	add := func(pod *corev1.Pod, ips []netip.Addr, draining bool) {
		if pod.Namespace != s.Namespace || !services.Selects(s, pod) {
			return
		}
		target := services.TargetPort(pod, sp)
		for _, ip := range ips {
			at := netip.AddrPortFrom(ip, uint16(target))
			// Pods on the host's network share its address.
			if target > 0 && !slices.ContainsFunc(out, func(e service.Endpoint) bool { return e.Address == at }) {
				out = append(out, service.Endpoint{Address: at, Weight: 1, Draining: draining})
			}
		}
	}
	for _, draining := range []bool{false, true} {
		for _, b := range p.pods {
			if b.draining == draining {
				add(b.pod, b.ips, draining)
			}
		}
	}
	if s.Spec.PublishNotReadyAddresses {
		l, err := p.s.List(podKind, store.Selector{Namespace: s.Namespace}, 0, "")
		if err != nil {
			return out
		}
		for _, o := range l.Items {
			if pod := o.(*corev1.Pod); pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil {
				add(pod, podIPs(pod), false)
			}
		}
	}
	return out
}

// byHand are the endpoints of a Service without a selector: what EndpointSlices
// of somebody else say.
func (p *Proxy) byHand(s *corev1.Service, sp corev1.ServicePort) []service.Endpoint {
	l, err := p.s.List(sliceKind, store.Selector{Namespace: s.Namespace}, 0, "")
	if err != nil {
		return nil
	}
	var out []service.Endpoint
	for _, o := range l.Items {
		es := o.(*discoveryv1.EndpointSlice)
		if es.Labels[discoveryv1.LabelServiceName] != s.Name {
			continue
		}
		for _, ep := range es.Ports {
			if ep.Port == nil || ep.Name != nil && *ep.Name != sp.Name || ep.Name == nil && sp.Name != "" {
				continue
			}
			for _, e := range es.Endpoints {
				for _, text := range e.Addresses {
					a, err := netip.ParseAddr(text)
					at := netip.AddrPortFrom(a, uint16(*ep.Port))
					if err != nil || slices.ContainsFunc(out, func(o service.Endpoint) bool { return o.Address == at }) {
						continue
					}
					open := e.Conditions.Ready == nil || *e.Conditions.Ready
					out = append(out, service.Endpoint{Address: at, Weight: 1, Draining: !open})
				}
			}
		}
	}
	return out
}
