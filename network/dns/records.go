package dns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// TTLs of answers, in seconds. Headless services change with each endpoint.
const (
	ttl         = 5
	ttlHeadless = 1
	ttlNegative = 1
)

// DefaultDomain is the domain below which services have their full names.
const DefaultDomain = "cluster.local"

// Records are what a network knows.
type Records struct {
	// Domain of services; empty means DefaultDomain.
	Domain string
	// Namespace is the one whose services need no namespace in their names.
	Namespace string
	Hosts     []Host
	Services  []Service
	// Subnets whose addresses have no names but those given here.
	Subnets []netip.Prefix
	// Resolvers are asked for other names, in place of the host's.
	Resolvers []netip.Addr
	// Inside says that the network has no way out: for its clients there are no
	// other names, and nobody is asked, who might be told something that way.
	Inside bool
	// Also are clients that are in further networks, whose names they get too.
	Also map[netip.Addr][]string
}

// Host is a container: its name, further names, its addresses in this network.
type Host struct {
	Name      string
	Aliases   []string
	Addresses []netip.Addr
}

// Service has virtual addresses or, if it is headless, those of its endpoints.
type Service struct {
	Name, Namespace string
	Addresses       []netip.Addr
	Ports           []Port
	// Endpoints, if not nil, make the service headless.
	Endpoints []Endpoint
	// External makes it another name of a host outside.
	External string
}

// Port of a service. With a Name it has an SRV record.
type Port struct {
	Name     string
	Protocol string // tcp, udp or sctp
	Number   uint16
}

// Endpoint of a headless service. With a Name it is found as name.service, else
// by its address with dashes in place of dots or colons.
type Endpoint struct {
	Name    string
	Address netip.Addr
	Ports   []Port // nil: those of the service
}

// answer is what a name has.
type answer struct {
	v4, v6 []netip.Addr
	ttl    uint32
	alias  string // of a host outside
	srv    []target
}

// target is what an SRV record leads to.
type target struct {
	name string
	port uint16
}

// table is what a network answers; it does not change.
type table struct {
	domain  string // of services, with a dot at the end
	names   map[string]*answer
	parents map[string]bool // names within the domain that have others below them
	reverse map[netip.Addr]string
	subnets []netip.Prefix

	resolvers []string // to dial
	inside    bool
	also      map[netip.Addr][]string
}

// newTable checks the records and makes a table of them. Two of the same name
// have both their addresses.
func newTable(r Records) (*table, error) {
	if r.Domain == "" {
		r.Domain = DefaultDomain
	}
	t := &table{domain: canonical(r.Domain), names: map[string]*answer{}, parents: map[string]bool{}, reverse: map[netip.Addr]string{}, subnets: slices.Clone(r.Subnets), inside: r.Inside, also: r.Also}
	for _, a := range r.Resolvers {
		t.resolvers = append(t.resolvers, net.JoinHostPort(a.String(), "53"))
	}
	for _, name := range []string{"", "svc.", "pod."} {
		t.parents[name+t.domain] = true
	}
	var errs []error
	if err := CheckName(r.Domain); err != nil {
		errs = append(errs, err)
	}
	for _, s := range r.Services {
		errs = append(errs, t.addService(s, r.Namespace))
	}
	for _, h := range r.Hosts {
		for _, n := range append([]string{h.Name}, h.Aliases...) {
			errs = append(errs, t.add(n, h.Addresses, ttl))
		}
		for _, a := range h.Addresses {
			if t.reverse[a] == "" {
				t.reverse[a] = canonical(h.Name)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *table) addService(s Service, namespace string) error {
	addrs, life := s.Addresses, uint32(ttl)
	if s.External != "" {
		if err := CheckName(s.External); err != nil {
			return err
		}
		addrs = nil
	} else if s.Endpoints != nil {
		addrs, life = nil, ttlHeadless
		for _, e := range s.Endpoints {
			addrs = append(addrs, e.Address)
		}
	}
	if strings.Contains(s.Name, ".") || strings.Contains(s.Namespace, ".") {
		return fmt.Errorf("service %q of namespace %q: a dot in a name", s.Name, s.Namespace)
	}
	full := s.Name + "." + s.Namespace + ".svc." + t.domain
	errs := []error{t.add(full, addrs, life)}
	short := []string{s.Name + "." + s.Namespace, s.Name + "." + s.Namespace + ".svc"}
	if s.Namespace == namespace {
		short = append(short, s.Name)
	}
	for _, n := range short {
		errs = append(errs, t.add(n, addrs, life))
	}
	if s.External != "" {
		err := errors.Join(errs...)
		for _, n := range append(short, full) {
			if err == nil {
				t.names[canonical(n)].alias = canonical(s.External)
			}
		}
		return err
	}
	if s.Endpoints == nil {
		errs = append(errs, t.addPorts(s.Ports, full, full, life))
	}
	for _, a := range s.Addresses {
		if t.reverse[a] == "" {
			t.reverse[a] = canonical(full)
		}
	}
	for _, e := range s.Endpoints {
		if e.Name == "" {
			e.Name = strings.NewReplacer(".", "-", ":", "-").Replace(e.Address.String())
		}
		ports := e.Ports
		if ports == nil {
			ports = s.Ports
		}
		errs = append(errs, t.addPorts(ports, full, e.Name+"."+full, life))
		for _, n := range append(short, full) {
			errs = append(errs, t.add(e.Name+"."+n, []netip.Addr{e.Address}, life))
		}
		if t.reverse[e.Address] == "" {
			t.reverse[e.Address] = canonical(e.Name + "." + full)
		}
	}
	return errors.Join(errs...)
}

// addPorts makes SRV records of a service's ports, which lead to host.
func (t *table) addPorts(ports []Port, full, host string, life uint32) error {
	var errs []error
	for _, p := range ports {
		if p.Name == "" {
			continue
		}
		name := "_" + p.Name + "._" + strings.ToLower(p.Protocol) + "." + full
		if err := t.add(name, nil, life); err != nil {
			errs = append(errs, err)
			continue
		}
		a := t.names[canonical(name)]
		a.srv = append(a.srv, target{canonical(host), p.Number})
	}
	return errors.Join(errs...)
}

func (t *table) add(name string, addrs []netip.Addr, life uint32) error {
	if err := CheckName(name); err != nil {
		return err
	}
	key := canonical(name)
	a := t.names[key]
	if a == nil {
		a = &answer{ttl: life}
		t.names[key] = a
		for up := key; strings.HasSuffix(up, "."+t.domain); {
			_, up, _ = strings.Cut(up, ".")
			t.parents[up] = true
		}
	}
	a.ttl = min(a.ttl, life)
	for _, addr := range addrs {
		if !addr.IsValid() || addr.Zone() != "" {
			return fmt.Errorf("name %q: address %s", name, addr)
		}
		if addr = addr.Unmap(); addr.Is4() {
			if !slices.Contains(a.v4, addr) {
				a.v4 = append(a.v4, addr)
			}
		} else if !slices.Contains(a.v6, addr) {
			a.v6 = append(a.v6, addr)
		}
	}
	return nil
}

// canonical is a name as the table has it: lower case, with a dot at the end.
func canonical(name string) string { return dns.Fqdn(strings.ToLower(name)) }

// CheckName accepts letters, digits, "-" and "_" in labels of at most 63 bytes:
// whatever else a resolver might make of a name, it is not ours.
func CheckName(name string) error {
	trimmed := strings.TrimSuffix(name, ".")
	if len(trimmed) == 0 || len(trimmed) > 253 {
		return fmt.Errorf("name %q: want 1 to 253 characters", name)
	}
	for label := range strings.SplitSeq(trimmed, ".") {
		if len(label) == 0 || len(label) > 63 {
			return fmt.Errorf("name %q: want 1 to 63 characters between dots", name)
		}
		for _, c := range []byte(label) {
			if c != '-' && c != '_' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
				return fmt.Errorf("name %q: want letters, digits, - and _", name)
			}
		}
	}
	return nil
}

// ResolvConf is the resolv.conf of a container. With a namespace it is
// Kubernetes' one: short names of services are found by a search list. That has
// other names asked several times, so everything else gets along without.
func ResolvConf(servers []netip.Addr, namespace, domain string, hostSearch []string) string {
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	search, ndots := hostSearch, 1
	if namespace != "" {
		if domain == "" {
			domain = DefaultDomain
		}
		search = append([]string{namespace + ".svc." + domain, "svc." + domain, domain}, hostSearch...)
		ndots = 5
	}
	if len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	fmt.Fprintf(&b, "options ndots:%d\n", ndots)
	return b.String()
}
