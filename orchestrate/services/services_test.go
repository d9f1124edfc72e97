package services

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var (
	four = Ranges{[]netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, FirstNodePort, LastNodePort}
	both = Ranges{[]netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/112")}, FirstNodePort, LastNodePort}
)

func service(name string, change func(*corev1.ServiceSpec)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, Selector: map[string]string{"app": "web"},
		Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(8080)}},
	}}
	if change != nil {
		change(&s.Spec)
	}
	return s
}

func policy(p corev1.IPFamilyPolicy) func(*corev1.ServiceSpec) {
	return func(s *corev1.ServiceSpec) { s.IPFamilyPolicy = &p }
}

func TestAssign(t *testing.T) {
	taken := service("taken", func(s *corev1.ServiceSpec) {
		s.Type, s.ClusterIP, s.ClusterIPs, s.Ports[0].NodePort = corev1.ServiceTypeNodePort, "10.96.5.5", []string{"10.96.5.5"}, 30500
	})
	for _, tt := range []struct {
		name   string
		r      Ranges
		change func(*corev1.ServiceSpec)
		want   string // families, how many addresses, node port given; or the error
	}{
		{"plain", four, nil, "[IPv4] 1 false"},
		{"single of two", both, nil, "[IPv4] 1 false"},
		{"prefer, one range", four, policy(corev1.IPFamilyPolicyPreferDualStack), "[IPv4] 1 false"},
		{"prefer, two", both, policy(corev1.IPFamilyPolicyPreferDualStack), "[IPv4 IPv6] 2 false"},
		{"require, two", both, policy(corev1.IPFamilyPolicyRequireDualStack), "[IPv4 IPv6] 2 false"},
		{"require, one range", four, policy(corev1.IPFamilyPolicyRequireDualStack), "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services"},
		{"six", both, func(s *corev1.ServiceSpec) { s.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} }, "[IPv6] 1 false"},
		{"six by address", both, func(s *corev1.ServiceSpec) { s.ClusterIP = "fd00:96::77" }, "[IPv6] 1 false"},
		{"six first", both, func(s *corev1.ServiceSpec) {
			s.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}
		}, "[IPv6 IPv4] 2 false"},
		{"no six", four, func(s *corev1.ServiceSpec) { s.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} }, "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"},
		{"twice four", both, func(s *corev1.ServiceSpec) {
			s.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv4Protocol}
		}, "spec.ipFamilies[1]: Duplicate value"},
		{"headless", both, func(s *corev1.ServiceSpec) { s.ClusterIP = "None" }, "[IPv4] 1 false"},
		{"external", both, func(s *corev1.ServiceSpec) { s.Type, s.ExternalName = corev1.ServiceTypeExternalName, "x.example" }, "[] 0 false"},
		{"asked", four, func(s *corev1.ServiceSpec) { s.ClusterIP = "10.96.0.10" }, "[IPv4] 1 false"},
		{"asked, taken", four, func(s *corev1.ServiceSpec) { s.ClusterIP = "10.96.5.5" }, "failed to allocate IP 10.96.5.5: provided IP is already allocated"},
		{"asked, elsewhere", four, func(s *corev1.ServiceSpec) { s.ClusterIP = "10.97.0.1" }, "is not in the valid range. The range of valid IPs is 10.96.0.0/16"},
		{"asked, broadcast", four, func(s *corev1.ServiceSpec) { s.ClusterIP = "10.96.255.255" }, "is not in the valid range"},
		{"asked, network", four, func(s *corev1.ServiceSpec) { s.ClusterIP = "10.96.0.0" }, "is not in the valid range"},
		{"asked, no address", four, func(s *corev1.ServiceSpec) { s.ClusterIP = "10.096.0.1" }, "must be a valid IP address"},
		{"asked, of the other family", both, func(s *corev1.ServiceSpec) {
			s.ClusterIP, s.IPFamilies = "10.96.0.9", []corev1.IPFamily{corev1.IPv6Protocol}
		}, "expected an IPv6 value as indicated by `ipFamilies[0]`"},
		{"lists disagree", four, func(s *corev1.ServiceSpec) { s.ClusterIP, s.ClusterIPs = "10.96.0.9", []string{"10.96.0.8"} }, "first value must match `clusterIP`"},
		{"node port", four, func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort }, "[IPv4] 1 true"},
		{"load balancer", four, func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeLoadBalancer }, "[IPv4] 1 true"},
		{"load balancer without", four, func(s *corev1.ServiceSpec) {
			no := false
			s.Type, s.AllocateLoadBalancerNodePorts = corev1.ServiceTypeLoadBalancer, &no
		}, "[IPv4] 1 false"},
		{"node port asked", four, func(s *corev1.ServiceSpec) { s.Type, s.Ports[0].NodePort = corev1.ServiceTypeNodePort, 32767 }, "[IPv4] 1 true"},
		{"node port taken", four, func(s *corev1.ServiceSpec) { s.Type, s.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30500 }, "spec.ports[0].nodePort: Invalid value: 30500: provided port is already allocated"},
		{"node port of another protocol", four, func(s *corev1.ServiceSpec) {
			s.Type, s.Ports[0].NodePort, s.Ports[0].Protocol = corev1.ServiceTypeNodePort, 30500, corev1.ProtocolUDP
		}, "[IPv4] 1 true"},
		{"node port low", four, func(s *corev1.ServiceSpec) { s.Type, s.Ports[0].NodePort = corev1.ServiceTypeNodePort, 29999 }, "The range of valid ports is 30000-32767"},
		{"node port twice", four, func(s *corev1.ServiceSpec) {
			s.Type, s.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30501
			s.Ports = append(s.Ports, s.Ports[0])
		}, "spec.ports[1].nodePort: Duplicate value: 30501"},
	} {
		s := service("new", tt.change)
		err := Assign(s, nil, []*corev1.Service{taken}, tt.r)
		got := fmt.Sprint(s.Spec.IPFamilies, len(s.Spec.ClusterIPs), s.Spec.Ports[0].NodePort != 0)
		if err != nil {
			got = err.Error()
		}
		if err == nil && got != tt.want || err != nil && !strings.Contains(got, tt.want) {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// Every address of a range is handed out once, then there are none, and one that
// was let go comes back.
func TestAssign_Exhausted(t *testing.T) {
	for _, tt := range []struct {
		cidr string
		n    int
	}{{"10.1.0.0/24", 254}, {"10.1.0.0/28", 14}, {"10.1.0.0/29", 6}, {"fd00::/121", 127}, {"fd00::/125", 7}} {
		r := Ranges{[]netip.Prefix{netip.MustParsePrefix(tt.cidr)}, 30000, 30003}
		var all []*corev1.Service
		seen := map[string]bool{}
		for i := range tt.n {
			s := service(fmt.Sprint("s", i), nil)
			if err := Assign(s, nil, all, r); err != nil {
				t.Fatalf("%s: %d of %d: %v", tt.cidr, i, tt.n, err)
			}
			ip := s.Spec.ClusterIP
			if seen[ip] || !r.CIDRs[0].Contains(netip.MustParseAddr(ip)) {
				t.Fatalf("%s: %s twice or outside", tt.cidr, ip)
			}
			seen[ip] = true
			all = append(all, s)
		}
		var full *FullError
		if err := Assign(service("more", nil), nil, all, r); !errors.As(err, &full) {
			t.Errorf("%s: %v", tt.cidr, err)
		}
		again := service("again", nil)
		if err := Assign(again, nil, all[1:], r); err != nil || again.Spec.ClusterIP != all[0].Spec.ClusterIP {
			t.Errorf("%s: %v, %s", tt.cidr, err, again.Spec.ClusterIP)
		}
	}
	r := Ranges{four.CIDRs, 30000, 30003}
	var all []*corev1.Service
	for i := range 5 {
		s := service(fmt.Sprint("s", i), func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort })
		err := Assign(s, nil, all, r)
		var full *FullError
		if (i == 4) != errors.As(err, &full) {
			t.Errorf("node port %d: %v", i, err)
		}
		all = append(all, s)
	}
}

func TestAssign_Update(t *testing.T) {
	old := service("s", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort })
	if err := Assign(old, nil, nil, both); err != nil {
		t.Fatal(err)
	}
	update := func(change func(*corev1.ServiceSpec)) *corev1.Service {
		t.Helper()
		n := service("s", change) // as who replaces it writes it, without what it was given
		if err := Assign(n, old, []*corev1.Service{old}, both); err != nil {
			t.Fatal(err)
		}
		return n
	}
	n := update(func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort })
	if !reflect.DeepEqual(n.Spec, old.Spec) {
		t.Errorf("%+v, was %+v", n.Spec, old.Spec)
	}
	if n = update(nil); n.Spec.ClusterIP != old.Spec.ClusterIP || n.Spec.Ports[0].NodePort != 0 {
		t.Errorf("to ClusterIP: %+v", n.Spec)
	}
	if n = update(policy(corev1.IPFamilyPolicyPreferDualStack)); len(n.Spec.ClusterIPs) != 2 || n.Spec.ClusterIPs[0] != old.Spec.ClusterIP {
		t.Errorf("to two families: %+v", n.Spec)
	}
	dual := n
	n = service("s", policy(corev1.IPFamilyPolicySingleStack))
	if err := Assign(n, dual, []*corev1.Service{dual}, both); err != nil || len(n.Spec.ClusterIPs) != 1 || len(n.Spec.IPFamilies) != 1 {
		t.Errorf("to one family: %v, %+v", err, n.Spec)
	}
	if n = update(func(s *corev1.ServiceSpec) { s.Type, s.ExternalName = corev1.ServiceTypeExternalName, "x.example" }); n.Spec.ClusterIP != "" || n.Spec.ClusterIPs != nil {
		t.Errorf("to ExternalName: %+v", n.Spec)
	}
	// A range that was changed leaves what was given.
	other := Ranges{[]netip.Prefix{netip.MustParsePrefix("10.200.0.0/16")}, 31000, 31010}
	n = old.DeepCopy()
	n.Labels = map[string]string{"a": "b"}
	if err := Assign(n, old, []*corev1.Service{old}, other); err != nil || n.Spec.ClusterIP != old.Spec.ClusterIP || n.Spec.Ports[0].NodePort != old.Spec.Ports[0].NodePort {
		t.Errorf("with another range: %v, %+v", err, n.Spec)
	}
}

func TestRanges(t *testing.T) {
	p := netip.MustParsePrefix
	for _, r := range []Ranges{
		{nil, 1, 2},
		{[]netip.Prefix{p("10.0.0.1/24")}, 1, 2},
		{[]netip.Prefix{p("10.0.0.0/30")}, 1, 2},
		{[]netip.Prefix{p("10.0.0.0/24"), p("10.1.0.0/24")}, 1, 2},
		{[]netip.Prefix{p("10.0.0.0/24")}, 0, 2},
		{[]netip.Prefix{p("10.0.0.0/24")}, 3, 2},
		{[]netip.Prefix{p("10.0.0.0/24")}, 3, 70000},
	} {
		if r.Check() == nil {
			t.Errorf("%v is fine", r)
		}
	}
	if err := both.Check(); err != nil {
		t.Error(err)
	}
}

func pod(i int, ips ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("p%04d", i), UID: types.UID(fmt.Sprint("u", i)), Labels: map[string]string{"app": "web"}}}
	p.Spec.NodeName, p.Status.Phase = "here", corev1.PodRunning
	p.Spec.Containers = []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}}}}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	for _, ip := range ips {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	return p
}

// text is slices as one line for each endpoint.
func text(all []*discoveryv1.EndpointSlice) string {
	var b strings.Builder
	for _, s := range all {
		for _, e := range s.Endpoints {
			fmt.Fprintf(&b, "%s %s", s.AddressType, e.Addresses[0])
			for _, p := range s.Ports {
				fmt.Fprintf(&b, ":%d", *p.Port)
			}
			if *e.Conditions.Ready {
				b.WriteString(" ready")
			}
			if *e.Conditions.Serving {
				b.WriteString(" serving")
			}
			if *e.Conditions.Terminating {
				b.WriteString(" terminating")
			}
			if e.Hostname != nil {
				b.WriteString(" " + *e.Hostname)
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

func TestSlices(t *testing.T) {
	now := metav1.NewTime(time.Unix(1e9, 0))
	for _, tt := range []struct {
		name   string
		s      func(*corev1.ServiceSpec)
		p      func(*corev1.Pod)
		want   string
		subset string
	}{
		{"ready", nil, nil, "IPv4 10.0.0.1:8080 ready serving\n", "10.0.0.1 |"},
		{"not ready", nil, func(p *corev1.Pod) { p.Status.Conditions = nil }, "IPv4 10.0.0.1:8080\n", "| 10.0.0.1"},
		{"not ready, published", func(s *corev1.ServiceSpec) { s.PublishNotReadyAddresses = true }, func(p *corev1.Pod) { p.Status.Conditions = nil }, "IPv4 10.0.0.1:8080 ready\n", "10.0.0.1 |"},
		{"terminating", nil, func(p *corev1.Pod) { p.DeletionTimestamp = &now }, "IPv4 10.0.0.1:8080 serving terminating\n", ""},
		{"terminating, not ready", nil, func(p *corev1.Pod) { p.DeletionTimestamp, p.Status.Conditions = &now, nil }, "IPv4 10.0.0.1:8080 terminating\n", ""},
		{"ended", nil, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, "", ""},
		{"without address", nil, func(p *corev1.Pod) { p.Status.PodIPs = nil }, "", ""},
		{"other labels", nil, func(p *corev1.Pod) { p.Labels["app"] = "x" }, "", ""},
		{"no selector", func(s *corev1.ServiceSpec) { s.Selector = nil }, nil, "", ""},
		{"external", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeExternalName }, nil, "", ""},
		{"by name", func(s *corev1.ServiceSpec) { s.Ports[0].TargetPort = intstr.FromString("http") }, nil, "IPv4 10.0.0.1:8080 ready serving\n", "10.0.0.1 |"},
		{"by a name it does not have", func(s *corev1.ServiceSpec) { s.Ports[0].TargetPort = intstr.FromString("https") }, nil, "IPv4 10.0.0.1 ready serving\n", "10.0.0.1 |"},
		{"by name, other protocol", func(s *corev1.ServiceSpec) {
			s.Ports[0].TargetPort, s.Ports[0].Protocol = intstr.FromString("http"), corev1.ProtocolUDP
		}, nil, "IPv4 10.0.0.1 ready serving\n", "10.0.0.1 |"},
		{"two families", func(s *corev1.ServiceSpec) {
			s.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
		}, func(p *corev1.Pod) {
			p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: "fd00::1"})
		}, "IPv4 10.0.0.1:8080 ready serving\nIPv6 fd00::1:8080 ready serving\n", "10.0.0.1 |"},
		{"the other family", func(s *corev1.ServiceSpec) { s.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} }, nil, "", ""},
		{"headless, with a name", func(s *corev1.ServiceSpec) { s.ClusterIP, s.Ports = "None", nil }, func(p *corev1.Pod) {
			p.Spec.Hostname, p.Spec.Subdomain = "db-0", "web"
		}, "IPv4 10.0.0.1 ready serving db-0\n", "10.0.0.1 |"},
	} {
		s, p := service("web", tt.s), pod(1, "10.0.0.1")
		if tt.p != nil {
			tt.p(p)
		}
		all := []*corev1.Pod{p}
		plan := Slices(s, all, nil)
		if got := text(plan.Create); got != tt.want || len(plan.Update)+len(plan.Delete) > 0 {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		if again := Slices(s, all, plan.Create); len(again.Create)+len(again.Update)+len(again.Delete) > 0 {
			t.Errorf("%s: is not at rest: %+v", tt.name, again)
		}
		e := Endpoints(s, all, nil)
		var subset []string
		for _, sub := range e.Subsets {
			var a, n []string
			for _, x := range sub.Addresses {
				a = append(a, x.IP)
			}
			for _, x := range sub.NotReadyAddresses {
				n = append(n, x.IP)
			}
			subset = append(subset, strings.TrimSpace(strings.Join(a, " ")+" | "+strings.Join(n, " ")))
		}
		if got := strings.Join(subset, "; "); got != tt.subset {
			t.Errorf("%s: endpoints %q, want %q", tt.name, got, tt.subset)
		}
		if Endpoints(s, all, e) != nil {
			t.Errorf("%s: endpoints are not at rest", tt.name)
		}
	}
}

// Whatever happens to pods, all that count are in exactly one slice, no slice is
// too large, little is written, and then nothing.
func TestSlices_Property(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	s := service("web", nil)
	var have []*discoveryv1.EndpointSlice
	pods := map[int]*corev1.Pod{}
	for round := range 150 {
		if big := round%50 == 0; big {
			for range 150 {
				i := r.IntN(600)
				pods[i] = pod(i, fmt.Sprintf("10.0.%d.%d", i/250, i%250+1))
			}
		}
		changed := r.IntN(4) + 1
		for range changed {
			i := r.IntN(600)
			switch r.IntN(3) {
			case 0:
				delete(pods, i)
			case 1:
				if p := pods[i]; p != nil {
					p.Status.Conditions[0].Status = corev1.ConditionFalse
				}
			default:
				pods[i] = pod(i, fmt.Sprintf("10.0.%d.%d", i/250, i%250+1))
			}
		}
		var all []*corev1.Pod
		for i := range 600 {
			if pods[i] != nil {
				all = append(all, pods[i])
			}
		}
		plan := Slices(s, all, have)
		if n := len(plan.Create) + len(plan.Update) + len(plan.Delete); round%50 != 0 && n > changed+1 {
			t.Fatalf("round %d: %d changes, %d writes", round, changed, n)
		}
		have = carryOut(t, have, plan)
		seen := map[string]int{}
		for _, sl := range have {
			if len(sl.Endpoints) > maxPerSlice || len(sl.Endpoints) == 0 {
				t.Fatalf("a slice of %d", len(sl.Endpoints))
			}
			for _, e := range sl.Endpoints {
				seen[string(e.TargetRef.UID)]++
			}
		}
		for _, p := range all {
			if seen[string(p.UID)] != 1 {
				t.Fatalf("round %d: %s is in %d slices", round, p.Name, seen[string(p.UID)])
			}
		}
		if len(seen) != len(all) {
			t.Fatalf("round %d: %d endpoints of %d pods", round, len(seen), len(all))
		}
		if again := Slices(s, all, have); len(again.Create)+len(again.Update)+len(again.Delete) > 0 {
			t.Fatalf("round %d: is not at rest", round)
		}
	}
}

func carryOut(t *testing.T, have []*discoveryv1.EndpointSlice, plan Plan[*discoveryv1.EndpointSlice]) (out []*discoveryv1.EndpointSlice) {
	t.Helper()
	by := map[string]*discoveryv1.EndpointSlice{}
	for _, s := range have {
		by[s.Name] = s
	}
	for _, s := range plan.Create {
		if by[s.Name] != nil {
			t.Fatalf("%s is made twice", s.Name)
		}
		by[s.Name] = s
	}
	for _, s := range plan.Update {
		by[s.Name] = s
	}
	for _, s := range plan.Delete {
		delete(by, s.Name)
	}
	for _, s := range by {
		out = append(out, s)
	}
	return out
}

func TestEndpoints_TooMany(t *testing.T) {
	s := service("web", nil)
	var all []*corev1.Pod
	for i := range maxEndpoints + 50 {
		p := pod(i, fmt.Sprintf("10.0.%d.%d", i/250, i%250+1))
		if i < 100 {
			p.Status.Conditions = nil
		}
		all = append(all, p)
	}
	e := Endpoints(s, all, nil)
	if n, m := len(e.Subsets[0].Addresses), len(e.Subsets[0].NotReadyAddresses); n != 950 || m != 50 || e.Annotations[overCapacity] != "truncated" {
		t.Errorf("%d ready, %d not, %v", n, m, e.Annotations)
	}
}
