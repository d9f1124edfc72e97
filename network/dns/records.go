package dns

import (
	"errors"
	"fmt"
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
	// Endpoints, if not nil, make the service headless.
	Endpoints []Endpoint
}

// Endpoint of a headless service. With a Name it is also found as name.service.
type Endpoint struct {
	Name    string
	Address netip.Addr
}

// answer is what a name has.
type answer struct {
	v4, v6 []netip.Addr
	ttl    uint32
}

// table is what a network answers; it does not change.
type table struct {
	domain  string // of services, with a dot at the end
	names   map[string]*answer
	parents map[string]bool // names within the domain that have others below them
	reverse map[netip.Addr]string
	subnets []netip.Prefix
}

// newTable checks the records and makes a table of them. Two of the same name
// have both their addresses.
func newTable(r Records) (*table, error) {
	if r.Domain == "" {
		r.Domain = DefaultDomain
	}
	t := &table{domain: canonical(r.Domain), names: map[string]*answer{}, parents: map[string]bool{}, reverse: map[netip.Addr]string{}, subnets: slices.Clone(r.Subnets)}
	t.parents[t.domain], t.parents["svc."+t.domain] = true, true
	var errs []error
	if err := checkName(r.Domain); err != nil {
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
	if s.Endpoints != nil {
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
	for _, a := range s.Addresses {
		if t.reverse[a] == "" {
			t.reverse[a] = canonical(full)
		}
	}
	for _, e := range s.Endpoints {
		if e.Name == "" {
			continue
		}
		for _, n := range append(short, full) {
			errs = append(errs, t.add(e.Name+"."+n, []netip.Addr{e.Address}, life))
		}
		if t.reverse[e.Address] == "" {
			t.reverse[e.Address] = canonical(e.Name + "." + full)
		}
	}
	return errors.Join(errs...)
}

func (t *table) add(name string, addrs []netip.Addr, life uint32) error {
	if err := checkName(name); err != nil {
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

// checkName accepts letters, digits, "-" and "_" in labels of at most 63 bytes:
// whatever else a resolver might make of a name, it is not ours.
func checkName(name string) error {
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
