package daemon

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/network"
	"github.com/minirun/minirun/network/dns"
	"github.com/minirun/minirun/network/names"
	netstore "github.com/minirun/minirun/network/store"
	"github.com/minirun/minirun/orchestrate/store"
)

// podNetwork is the network that pods are on unless another one is named.
const podNetwork = "pods"

// nameServers are the addresses at which a network's names are answered.
func nameServers(n *netstore.Network) (list []netip.Addr) {
	for _, s := range n.Subnets {
		if a, err := netip.ParseAddr(s.Gateway.String()); err == nil {
			list = append(list, a)
		}
	}
	return list
}

// answerNames answers names of containers and Services while minirund runs.
func (d *Daemon) answerNames(ctx context.Context) error {
	src := &serviceNames{store: d.store, network: cmp.Or(d.o.Network, podNetwork), log: d.o.Log, changed: make(chan struct{}, 1)}
	dir, err := filepath.Abs(container.StoreDir(d.o.Images))
	if err != nil {
		return err
	}
	n, err := names.New(names.Options{Store: network.Dir(dir), Services: src, Skip: d.ofAnother, Log: d.o.Log})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	watched := make(chan error, 1)
	go func() {
		watched <- src.watch(ctx)
		cancel()
	}()
	err = n.Run(ctx)
	cancel()
	if werr := <-watched; !errors.Is(werr, context.Canceled) {
		err = errors.Join(err, werr)
	}
	return err
}

// serviceNames are the Services of the store, for the network that pods are on.
type serviceNames struct {
	store   *store.Store
	network string
	log     *slog.Logger
	changed chan struct{}
}

// Changed says when the Services have changed.
func (s *serviceNames) Changed() <-chan struct{} { return s.changed }

// watch says so until ctx ends.
func (s *serviceNames) watch(ctx context.Context) error {
	for {
		w, err := s.store.Watch("", store.Selector{}, s.store.Revision())
		var gone *store.GoneError
		for err == nil {
			select {
			case s.changed <- struct{}{}: // also what was before the watch
			default:
			}
			var e store.Event
			for e.Kind != "services" && e.Kind != slicesKind && err == nil {
				e, err = w.Next(ctx)
			}
		}
		if !errors.As(err, &gone) {
			return err
		}
	}
}

const slicesKind = "endpointslices.discovery.k8s.io"

// Services are those of the network that pods are on.
func (s *serviceNames) Services(network string) []dns.Service {
	if network != s.network {
		return nil
	}
	list, err := s.store.List("services", store.Selector{}, 0, "")
	eps, err2 := s.store.List(slicesKind, store.Selector{}, 0, "")
	if err := errors.Join(err, err2); err != nil {
		s.log.Error("names of services", "error", err)
		return nil
	}
	bySlices := map[string][]*discoveryv1.EndpointSlice{}
	for _, o := range eps.Items {
		if e, ok := o.(*discoveryv1.EndpointSlice); ok {
			key := e.Namespace + "/" + e.Labels[discoveryv1.LabelServiceName]
			bySlices[key] = append(bySlices[key], e)
		}
	}
	var out []dns.Service
	for _, o := range list.Items {
		if svc, ok := o.(*corev1.Service); ok {
			if n, ok := serviceName(svc, bySlices[svc.Namespace+"/"+svc.Name]); ok {
				out = append(out, n)
			}
		}
	}
	return out
}

// serviceName is what is answered about a Service; nothing if it has no address yet.
func serviceName(s *corev1.Service, eps []*discoveryv1.EndpointSlice) (dns.Service, bool) {
	n := dns.Service{Name: s.Name, Namespace: s.Namespace}
	for _, p := range s.Spec.Ports {
		n.Ports = append(n.Ports, dns.Port{Name: p.Name, Protocol: string(cmp.Or(p.Protocol, corev1.ProtocolTCP)), Number: uint16(p.Port)})
	}
	switch {
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		n.External = strings.TrimSuffix(s.Spec.ExternalName, ".")
		return n, dns.CheckName(n.External) == nil
	case s.Spec.ClusterIP != corev1.ClusterIPNone:
		for _, text := range slices.Compact(append([]string{s.Spec.ClusterIP}, s.Spec.ClusterIPs...)) {
			if a, err := netip.ParseAddr(text); err == nil {
				n.Addresses = append(n.Addresses, a)
			}
		}
		return n, len(n.Addresses) > 0
	}
	n.Endpoints = []dns.Endpoint{}
	for _, slice := range eps {
		var ports []dns.Port
		for _, p := range slice.Ports {
			if p.Name != nil && p.Port != nil {
				proto := corev1.ProtocolTCP
				if p.Protocol != nil {
					proto = *p.Protocol
				}
				ports = append(ports, dns.Port{Name: *p.Name, Protocol: string(proto), Number: uint16(*p.Port)})
			}
		}
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready && !s.Spec.PublishNotReadyAddresses {
				continue
			}
			for _, text := range e.Addresses {
				a, err := netip.ParseAddr(text)
				if err != nil {
					continue
				}
				name := ""
				if e.Hostname != nil && dns.CheckName(*e.Hostname) == nil {
					name = *e.Hostname
				}
				n.Endpoints = append(n.Endpoints, dns.Endpoint{Name: name, Address: a, Ports: ports})
			}
		}
	}
	return n, true
}
