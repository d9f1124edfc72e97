package services

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/big"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Ranges are what Services get addresses and ports from.
type Ranges struct {
	// CIDRs are one prefix of each family, the primary one first.
	CIDRs []netip.Prefix
	// FirstPort and LastPort bound the node ports.
	FirstPort, LastPort int32
}

// The node ports of Kubernetes.
const (
	FirstNodePort = 30000
	LastNodePort  = 32767
)

// Check tells what is wrong with the ranges.
func (r Ranges) Check() error {
	if len(r.CIDRs) == 0 || len(r.CIDRs) > 2 {
		return fmt.Errorf("%d ranges of services: want one, or one of each family", len(r.CIDRs))
	}
	for _, c := range r.CIDRs {
		if !c.IsValid() || c.Addr().Is4In6() || c != c.Masked() {
			return fmt.Errorf("range of services %q: want an address of a network and its length", c)
		}
		if c.Addr().BitLen()-c.Bits() < 3 {
			return fmt.Errorf("range of services %q: it has fewer than 8 addresses", c)
		}
	}
	if len(r.CIDRs) == 2 && family(r.CIDRs[0].Addr()) == family(r.CIDRs[1].Addr()) {
		return errors.New("two ranges of services of the same family")
	}
	if r.FirstPort < 1 || r.LastPort > 65535 || r.FirstPort > r.LastPort {
		return fmt.Errorf("node ports %d-%d: want ports between 1 and 65535", r.FirstPort, r.LastPort)
	}
	return nil
}

func family(a netip.Addr) corev1.IPFamily {
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// cidr is the range of a family.
func (r Ranges) cidr(f corev1.IPFamily) (netip.Prefix, bool) {
	for _, c := range r.CIDRs {
		if family(c.Addr()) == f {
			return c, true
		}
	}
	return netip.Prefix{}, false
}

// FullError reports that everything is taken.
type FullError struct{ What string }

func (e *FullError) Error() string {
	return fmt.Sprintf("failed to allocate a %s: range is full", e.What)
}

// Hint says what to do.
func (e *FullError) Hint() string {
	return "delete services that are not used, or give the supervisor a larger range"
}

// Assign fills in the addresses and node ports of a Service that is new, or takes
// the place of old. all are the Services there are. It keeps what a Service has,
// and lets go what its type has no use for. Errors are a field.ErrorList's or a
// FullError.
func Assign(s, old *corev1.Service, all []*corev1.Service, r Ranges) error {
	a := &assigner{s: s, old: old, r: r, ips: map[string]bool{}, ports: map[portKey]bool{}}
	for _, o := range all {
		if o.Namespace == s.Namespace && o.Name == s.Name {
			continue
		}
		for _, ip := range o.Spec.ClusterIPs {
			a.ips[ip] = true
		}
		for _, p := range o.Spec.Ports {
			if p.NodePort != 0 {
				a.ports[portKey{p.NodePort, p.Protocol}] = true
			}
		}
	}
	if err := a.addresses(); err != nil {
		return err
	}
	return a.nodePorts()
}

type portKey struct {
	port  int32
	proto corev1.Protocol
}

type assigner struct {
	s, old *corev1.Service
	r      Ranges
	ips    map[string]bool
	ports  map[portKey]bool
}

func invalid(path *field.Path, value any, format string, args ...any) error {
	return field.ErrorList{field.Invalid(path, value, fmt.Sprintf(format, args...))}.ToAggregate()
}

var spec = field.NewPath("spec")

func (a *assigner) addresses() error {
	s := &a.s.Spec
	if s.Type == corev1.ServiceTypeExternalName {
		s.ClusterIP, s.ClusterIPs, s.IPFamilies, s.IPFamilyPolicy = "", nil, nil, nil
		return nil
	}
	// Who replaces an object need not know what it was given.
	if o := a.old; o != nil && o.Spec.Type != corev1.ServiceTypeExternalName {
		if s.ClusterIP == "" && len(s.ClusterIPs) == 0 {
			s.ClusterIP, s.ClusterIPs = o.Spec.ClusterIP, slices.Clone(o.Spec.ClusterIPs)
		}
		if len(s.IPFamilies) == 0 {
			s.IPFamilies = slices.Clone(o.Spec.IPFamilies)
		}
		if s.IPFamilyPolicy == nil {
			s.IPFamilyPolicy = o.Spec.IPFamilyPolicy
		}
	}
	if len(s.ClusterIPs) == 0 && s.ClusterIP != "" {
		s.ClusterIPs = []string{s.ClusterIP}
	}
	if s.ClusterIP == "" && len(s.ClusterIPs) > 0 {
		s.ClusterIP = s.ClusterIPs[0]
	}
	if len(s.ClusterIPs) > 0 && s.ClusterIPs[0] != s.ClusterIP {
		return invalid(spec.Child("clusterIPs"), s.ClusterIPs, "first value must match `clusterIP`")
	}
	if err := a.families(); err != nil {
		return err
	}
	if s.ClusterIP == corev1.ClusterIPNone {
		if len(s.ClusterIPs) > 1 {
			return invalid(spec.Child("clusterIPs"), s.ClusterIPs, "'None' must be the first and only value")
		}
		return nil
	}
	if len(s.ClusterIPs) > len(s.IPFamilies) {
		s.ClusterIPs = s.ClusterIPs[:len(s.IPFamilies)] // from two families to one
	}
	for i, f := range s.IPFamilies {
		cidr, _ := a.r.cidr(f)
		if i < len(s.ClusterIPs) {
			if err := a.wanted(s.ClusterIPs, i, f, cidr); err != nil {
				return err
			}
			continue
		}
		ip, ok := a.free(cidr)
		if !ok {
			return &FullError{"serviceIP"}
		}
		s.ClusterIPs = append(s.ClusterIPs, ip.String())
	}
	s.ClusterIP = s.ClusterIPs[0]
	return nil
}

// families settles which families a Service has, in which order.
func (a *assigner) families() error {
	s := &a.s.Spec
	if s.IPFamilyPolicy == nil {
		p := corev1.IPFamilyPolicySingleStack
		if len(s.ClusterIPs) == 2 || len(s.IPFamilies) == 2 {
			p = corev1.IPFamilyPolicyRequireDualStack
		}
		s.IPFamilyPolicy = &p
	}
	want := 1
	switch *s.IPFamilyPolicy {
	case corev1.IPFamilyPolicySingleStack:
	case corev1.IPFamilyPolicyPreferDualStack:
		want = len(a.r.CIDRs)
	case corev1.IPFamilyPolicyRequireDualStack:
		if want = 2; len(a.r.CIDRs) < 2 {
			return invalid(spec.Child("ipFamilyPolicy"), *s.IPFamilyPolicy, "this cluster is not configured for dual-stack services")
		}
	default:
		return field.ErrorList{field.NotSupported(spec.Child("ipFamilyPolicy"), *s.IPFamilyPolicy, []corev1.IPFamilyPolicy{
			corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack,
		})}.ToAggregate()
	}
	// An address that is asked for says its family.
	if len(s.IPFamilies) == 0 && s.ClusterIP != corev1.ClusterIPNone {
		for _, text := range s.ClusterIPs {
			if ip, err := netip.ParseAddr(text); err == nil {
				s.IPFamilies = append(s.IPFamilies, family(ip))
			}
		}
	}
	for i, f := range s.IPFamilies {
		if _, ok := a.r.cidr(f); !ok {
			return invalid(spec.Child("ipFamilies").Index(i), f, "not configured on this cluster")
		}
		if slices.Contains(s.IPFamilies[:i], f) {
			return field.ErrorList{field.Duplicate(spec.Child("ipFamilies").Index(i), f)}.ToAggregate()
		}
	}
	for _, c := range a.r.CIDRs {
		if f := family(c.Addr()); len(s.IPFamilies) < want && !slices.Contains(s.IPFamilies, f) {
			s.IPFamilies = append(s.IPFamilies, f)
		}
	}
	if len(s.IPFamilies) > want {
		if a.old == nil {
			return invalid(spec.Child("ipFamilies"), s.IPFamilies, "may only hold up to %d value for %s", want, *s.IPFamilyPolicy)
		}
		s.IPFamilies = s.IPFamilies[:want]
	}
	return nil
}

// wanted checks the i-th address of a Service, which it asks for or has.
func (a *assigner) wanted(ips []string, i int, f corev1.IPFamily, cidr netip.Prefix) error {
	path := spec.Child("clusterIPs")
	ip, err := netip.ParseAddr(ips[i])
	switch {
	case err != nil || ip.Zone() != "" || ip.String() != ips[i]:
		return invalid(path.Index(i), ips[i], "must be a valid IP address")
	case family(ip) != f:
		return invalid(path.Index(i), ips[i], "expected an %s value as indicated by `ipFamilies[%d]`", f, i)
	case a.old != nil && slices.Contains(a.old.Spec.ClusterIPs, ips[i]) && !a.ips[ips[i]]:
		return nil // even if the range is another one now
	case !cidr.Contains(ip) || ip == cidr.Addr() || ip.Is4() && ip == last(cidr):
		return invalid(path, ips, "failed to allocate IP %s: the provided IP (%s) is not in the valid range. The range of valid IPs is %s", ip, ip, cidr)
	case a.ips[ips[i]]:
		return invalid(path, ips, "failed to allocate IP %s: provided IP is already allocated", ip)
	}
	return nil
}

// free finds an address nobody has. The lowest ones are for those who ask: they
// are given only when the others are taken.
func (a *assigner) free(cidr netip.Prefix) (netip.Addr, bool) {
	bits := min(cidr.Addr().BitLen()-cidr.Bits(), 20) // a million is enough
	n := uint64(1)<<bits - 1                          // without the network's own
	if cidr.Addr().Is4() {
		n-- // nor the broadcast address
	}
	low := min(max(16, (n+2)/16), 256)
	if n+2 < 64 {
		low = 0
	}
	taken := func(i uint64) bool { return a.ips[nth(cidr, i+1).String()] }
	i, ok := pick(a.s, low, n, taken)
	return nth(cidr, i+1), ok
}

// pick goes through low to n, then 0 to low, from a place that depends on the
// object: so an address that was just let go is not handed out at once.
func pick(s *corev1.Service, low, n uint64, taken func(uint64) bool) (uint64, bool) {
	h := fnv.New64a()
	h.Write([]byte(string(s.UID) + "/" + s.Namespace + "/" + s.Name))
	start := h.Sum64()
	for k := range n - low {
		if i := low + (start+k)%(n-low); !taken(i) {
			return i, true
		}
	}
	for i := range low {
		if !taken(i) {
			return i, true
		}
	}
	return 0, false
}

// nth is the i-th address of a range.
func nth(cidr netip.Prefix, i uint64) netip.Addr {
	b := new(big.Int).SetBytes(cidr.Addr().AsSlice())
	b.Add(b, new(big.Int).SetUint64(i))
	ip, _ := netip.AddrFromSlice(b.FillBytes(make([]byte, cidr.Addr().BitLen()/8)))
	return ip
}

// last is the last address of a range of IPv4.
func last(cidr netip.Prefix) netip.Addr {
	return nth(cidr, uint64(1)<<(32-cidr.Bits())-1)
}

func (a *assigner) nodePorts() error {
	s := &a.s.Spec
	wants := s.Type == corev1.ServiceTypeNodePort ||
		s.Type == corev1.ServiceTypeLoadBalancer && (s.AllocateLoadBalancerNodePorts == nil || *s.AllocateLoadBalancerNodePorts)
	possible := s.Type == corev1.ServiceTypeNodePort || s.Type == corev1.ServiceTypeLoadBalancer
	mine := map[portKey]bool{}
	for i := range s.Ports {
		p := &s.Ports[i]
		if !possible {
			p.NodePort = 0
			continue
		}
		if p.NodePort == 0 {
			p.NodePort = a.had(*p)
		}
		if p.NodePort == 0 {
			continue
		}
		at := spec.Child("ports").Index(i).Child("nodePort")
		key := portKey{p.NodePort, p.Protocol}
		switch {
		case mine[key]:
			return field.ErrorList{field.Duplicate(at, p.NodePort)}.ToAggregate()
		case a.ports[key]:
			return invalid(at, p.NodePort, "provided port is already allocated")
		case (p.NodePort < a.r.FirstPort || p.NodePort > a.r.LastPort) && a.had(*p) != p.NodePort:
			return invalid(at, p.NodePort, "provided port is not in the valid range. The range of valid ports is %d-%d", a.r.FirstPort, a.r.LastPort)
		}
		mine[key] = true
	}
	if !wants {
		return nil
	}
	n := uint64(a.r.LastPort-a.r.FirstPort) + 1
	low := min(max(16, n/32), 128)
	if n < 64 {
		low = 0
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.NodePort != 0 {
			continue
		}
		at, ok := pick(a.s, low, n, func(i uint64) bool {
			k := portKey{a.r.FirstPort + int32(i), p.Protocol}
			return a.ports[k] || mine[k]
		})
		if !ok {
			return &FullError{"nodePort"}
		}
		p.NodePort = a.r.FirstPort + int32(at)
		mine[portKey{p.NodePort, p.Protocol}] = true
	}
	return nil
}

// had is the node port that the same port had before.
func (a *assigner) had(p corev1.ServicePort) int32 {
	if a.old == nil {
		return 0
	}
	for _, o := range a.old.Spec.Ports {
		if o.Port == p.Port && o.Protocol == p.Protocol {
			return o.NodePort
		}
	}
	return 0
}
