package service

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// Protocol is an IP protocol number that has ports.
type Protocol uint8

// The protocols that services can have.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// ParseProtocol reads "tcp", "udp" or "sctp", in either case.
func ParseProtocol(s string) (Protocol, error) {
	switch s {
	case "tcp", "TCP":
		return TCP, nil
	case "udp", "UDP":
		return UDP, nil
	case "sctp", "SCTP":
		return SCTP, nil
	}
	return 0, fmt.Errorf("protocol %q: want tcp, udp or sctp", s)
}

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return "protocol " + strconv.Itoa(int(p))
}

// Service is a set of addresses behind which endpoints stand.
type Service struct {
	// Name is unique among the services of a Balancer.
	Name string
	// Addresses are virtual: they belong to services alone, so whatever port
	// of them no service has is refused. Several services may share one.
	Addresses []netip.Addr
	// Shared are addresses that something else may use too, the host itself
	// for example. Only the service's own ports are touched.
	Shared []netip.Addr
	// Affinity keeps a client at its endpoint until it has made no new
	// connection for so long. Zero: each connection for itself. Whole seconds.
	Affinity time.Duration
	Ports    []Port
}

// Port is one port of a service.
type Port struct {
	Protocol Protocol
	// Port of the addresses; may be 0 if there is only a node port.
	Port uint16
	// NodePort, if not 0, is open at all addresses of the host; at loopback, for TCP
	// and UDP, with [Options].Loopback.
	NodePort  uint16
	Endpoints []Endpoint
}

// Endpoint is where connections go.
type Endpoint struct {
	Address netip.AddrPort
	// Weight is its share of new connections, in relation to the others.
	Weight uint32
	// Draining endpoints get no new connections and keep those they have.
	Draining bool
}

// MaxWeight is the highest weight of an endpoint.
const MaxWeight = 1 << 16

// ConflictError says that two services want the same address and port.
type ConflictError struct{ Service, Other, Frontend string }

func (e *ConflictError) Error() string {
	return fmt.Sprintf("service %q: %s belongs to service %q", e.Service, e.Frontend, e.Other)
}

// Hint says how to go on.
func (e *ConflictError) Hint() string {
	return "give one of the two another address or port, or remove the other service"
}

// Validate says whether the kernel could be given s, and if not, all reasons.
func (s Service) Validate() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("service %q: "+format, append([]any{s.Name}, args...)...))
	}
	if s.Name == "" {
		errs = append(errs, errors.New("service without a name"))
	}
	all := slices.Concat(s.Addresses, s.Shared)
	for i, a := range all {
		switch {
		case !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Is4In6() || a.Zone() != "":
			bad("address %s: want one IPv4 or IPv6 address of a service", a)
		case a.IsLoopback():
			bad("address %s: a loopback address cannot be a service's: the kernel does not route from there", a)
		case slices.Contains(all[:i], a):
			bad("address %s is there twice", a)
		}
	}
	if s.Affinity != 0 && (s.Affinity < time.Second || s.Affinity > 24*time.Hour || s.Affinity%time.Second != 0) {
		bad("affinity %s: want whole seconds, from 1s to 24h", s.Affinity)
	}
	seen := map[string]bool{}
	for _, p := range s.Ports {
		s.validatePort(p, seen, bad)
	}
	return errors.Join(errs...)
}

func (s Service) validatePort(p Port, seen map[string]bool, bad func(string, ...any)) {
	if p.Protocol != TCP && p.Protocol != UDP && p.Protocol != SCTP {
		bad("%s: want TCP, UDP or SCTP", p.Protocol)
	}
	if p.Port == 0 && p.NodePort == 0 {
		bad("a port and a node port of 0")
	}
	for _, n := range []struct {
		what string
		port uint16
	}{{"port", p.Port}, {"node port", p.NodePort}} {
		name := fmt.Sprintf("%s %d/%s", n.what, n.port, p.Protocol)
		if n.port != 0 && seen[name] {
			bad("%s is there twice", name)
		}
		seen[name] = true
	}
	ready := [2]int{}
	for i, e := range p.Endpoints {
		a := e.Address.Addr()
		switch {
		case !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Is4In6() || a.Zone() != "" || e.Address.Port() == 0:
			bad("port %d/%s: endpoint %s: want an address and a port", p.Port, p.Protocol, e.Address)
		case a.IsLoopback():
			bad("port %d/%s: endpoint %s: a loopback address cannot be an endpoint: the kernel does not route to there", p.Port, p.Protocol, e.Address)
		case e.Weight > MaxWeight:
			bad("port %d/%s: endpoint %s: weight %d is above %d", p.Port, p.Protocol, e.Address, e.Weight, MaxWeight)
		}
		for _, o := range p.Endpoints[:i] {
			if o.Address == e.Address {
				bad("port %d/%s: endpoint %s is there twice", p.Port, p.Protocol, e.Address)
			}
		}
		if e.open() && a.IsValid() {
			ready[familyIndex(a)]++
		}
	}
	for _, n := range ready {
		if n > maxSlots {
			bad("port %d/%s: %d endpoints, at most %d can be served", p.Port, p.Protocol, n, maxSlots)
		}
	}
}

// open says whether new connections may go to e.
func (e Endpoint) open() bool { return !e.Draining && e.Weight > 0 }

func familyIndex(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// frontend is one address, port and protocol at which a service is reached. The
// unspecified address stands for all addresses of the host: a node port.
type frontend struct {
	addr  netip.Addr
	port  uint16
	proto Protocol
}

func (f frontend) node() bool { return f.addr.IsUnspecified() }

func (f frontend) String() string {
	if f.node() {
		return fmt.Sprintf("node port %d/%s", f.port, f.proto)
	}
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(f.addr, f.port), f.proto)
}

// frontends calls f for each place at which port p of s is reached. virtual
// tells an address that belongs to services alone.
func (s Service) frontends(p Port, f func(fe frontend, virtual bool)) {
	if p.Port != 0 {
		for _, a := range s.Addresses {
			f(frontend{a, p.Port, p.Protocol}, true)
		}
		for _, a := range s.Shared {
			f(frontend{a, p.Port, p.Protocol}, false)
		}
	}
	if p.NodePort != 0 {
		f(frontend{netip.IPv4Unspecified(), p.NodePort, p.Protocol}, false)
		f(frontend{netip.IPv6Unspecified(), p.NodePort, p.Protocol}, false)
	}
}

// clone copies s with all that it points to, the endpoints in an order of their own.
func (s Service) clone() Service {
	s.Addresses, s.Shared, s.Ports = slices.Clone(s.Addresses), slices.Clone(s.Shared), slices.Clone(s.Ports)
	for i := range s.Ports {
		s.Ports[i].Endpoints = slices.Clone(s.Ports[i].Endpoints)
		slices.SortFunc(s.Ports[i].Endpoints, func(a, b Endpoint) int { return a.Address.Compare(b.Address) })
	}
	return s
}
