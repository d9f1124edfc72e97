package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func addrs(s ...string) []netip.Addr {
	var as []netip.Addr
	for _, a := range s {
		as = append(as, netip.MustParseAddr(a))
	}
	return as
}

func records() Records {
	return Records{
		Namespace: "default",
		Subnets:   []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd01::/64")},
		Hosts: []Host{
			{Name: "Db_1", Aliases: []string{"db", "database.example"}, Addresses: addrs("10.1.0.2", "fd01::2")},
			{Name: "old", Addresses: addrs("10.1.0.3")},
		},
		Services: []Service{
			{Name: "web", Namespace: "default", Addresses: addrs("10.96.0.10", "fd96::10")},
			{Name: "web", Namespace: "prod", Addresses: addrs("10.96.0.11"), Ports: []Port{{"http", "TCP", 80}, {"", "TCP", 81}}},
			{Name: "peers", Namespace: "default", Endpoints: []Endpoint{
				{Name: "peers-0", Address: netip.MustParseAddr("10.1.0.20")},
				{Name: "peers-1", Address: netip.MustParseAddr("10.1.0.21")},
				{Address: netip.MustParseAddr("10.1.0.22"), Ports: []Port{{"peer", "tcp", 2381}}},
			}, Ports: []Port{{"peer", "TCP", 2380}}},
			{Name: "outside", Namespace: "default", External: "db.example.com"},
			{Name: "nobody", Namespace: "default", Endpoints: []Endpoint{}},
		},
	}
}

func mustTable(t testing.TB, r Records) *table {
	t.Helper()
	tab, err := newTable(r)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

// text is an answer as "rcode ttl: values sorted"; "forward" if others are asked.
func text(m *dns.Msg) string {
	if m == nil {
		return "forward"
	}
	var values []string
	life := ""
	for _, rr := range m.Answer {
		values = append(values, strings.TrimPrefix(rr.String(), rr.Header().String()))
		life = fmt.Sprint(" ", rr.Header().Ttl)
	}
	slices.Sort(values)
	return strings.TrimSpace(dns.RcodeToString[m.Rcode] + life + " " + strings.Join(values, " "))
}

func TestAnswer(t *testing.T) {
	tab := mustTable(t, records())
	for _, tt := range []struct {
		name string
		typ  uint16
		want string
	}{
		{"db_1.", dns.TypeA, "NOERROR 5 10.1.0.2"},
		{"DB.", dns.TypeA, "NOERROR 5 10.1.0.2"},
		{"db.", dns.TypeAAAA, "NOERROR 5 fd01::2"},
		{"database.example.", dns.TypeA, "NOERROR 5 10.1.0.2"},
		{"old.", dns.TypeAAAA, "NOERROR"}, // and not NXDOMAIN
		{"old.", dns.TypeMX, "NOERROR"},
		{"old.", dns.TypeANY, `NOERROR 5 "RFC8482" ""`},
		{"web.", dns.TypeA, "NOERROR 5 10.96.0.10"},
		{"web.default.", dns.TypeAAAA, "NOERROR 5 fd96::10"},
		{"web.prod.", dns.TypeA, "NOERROR 5 10.96.0.11"},
		{"web.prod.svc.", dns.TypeA, "NOERROR 5 10.96.0.11"},
		{"web.prod.svc.cluster.local.", dns.TypeA, "NOERROR 5 10.96.0.11"},
		{"peers.", dns.TypeA, "NOERROR 1 10.1.0.20 10.1.0.21 10.1.0.22"},
		{"peers-1.peers.", dns.TypeA, "NOERROR 1 10.1.0.21"},
		{"peers-0.peers.default.svc.cluster.local.", dns.TypeA, "NOERROR 1 10.1.0.20"},
		{"10-1-0-22.peers.default.svc.cluster.local.", dns.TypeA, "NOERROR 1 10.1.0.22"},
		{"_http._tcp.web.prod.svc.cluster.local.", dns.TypeSRV, "NOERROR 5 0 1 80 web.prod.svc.cluster.local."},
		{"_http._tcp.web.prod.svc.cluster.local.", dns.TypeA, "NOERROR"},
		{"_tcp.web.prod.svc.cluster.local.", dns.TypeSRV, "NOERROR"},
		{"_http._udp.web.prod.svc.cluster.local.", dns.TypeSRV, "NXDOMAIN"},
		{"_peer._tcp.peers.default.svc.cluster.local.", dns.TypeSRV, "NOERROR 1 0 1 2380 peers-0.peers.default.svc.cluster.local. 0 1 2380 peers-1.peers.default.svc.cluster.local. 0 1 2381 10-1-0-22.peers.default.svc.cluster.local."},
		{"10-1-0-99.prod.pod.cluster.local.", dns.TypeA, "NOERROR 5 10.1.0.99"},
		{"fd01--7.prod.pod.cluster.local.", dns.TypeAAAA, "NOERROR 5 fd01::7"},
		{"10-2-0-99.prod.pod.cluster.local.", dns.TypeA, "NXDOMAIN"},
		{"outside.default.svc.cluster.local.", dns.TypeA, "NOERROR 5 db.example.com."},
		{"nobody.default.svc.cluster.local.", dns.TypeA, "NOERROR"},
		{"default.svc.cluster.local.", dns.TypeA, "NOERROR"},
		{"cluster.local.", dns.TypeA, "NOERROR"},
		{"gone.default.svc.cluster.local.", dns.TypeA, "NXDOMAIN"},
		{"example.com.default.svc.cluster.local.", dns.TypeA, "NXDOMAIN"},
		{"example.com.", dns.TypeA, "forward"},
		{"gone.", dns.TypeA, "forward"},
		{"localhost.", dns.TypeA, "NOERROR 5 127.0.0.1"},
		{"2.0.1.10.in-addr.arpa.", dns.TypePTR, "NOERROR 5 db_1."},
		{"2.0.1.10.in-addr.arpa.", dns.TypeA, "NOERROR"},
		{"10.0.96.10.in-addr.arpa.", dns.TypePTR, "NOERROR 5 web.default.svc.cluster.local."},
		{"20.0.1.10.in-addr.arpa.", dns.TypePTR, "NOERROR 5 peers-0.peers.default.svc.cluster.local."},
		{"9.9.1.10.in-addr.arpa.", dns.TypePTR, "NXDOMAIN"},
		{"8.8.8.8.in-addr.arpa.", dns.TypePTR, "forward"},
		{"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.d.f.ip6.arpa.", dns.TypePTR, "NOERROR 5 db_1."},
		{"3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.d.f.ip6.arpa.", dns.TypePTR, "NXDOMAIN"},
		{"x.in-addr.arpa.", dns.TypePTR, "forward"},
	} {
		q := new(dns.Msg).SetQuestion(tt.name, tt.typ)
		got := tab.answer(q)
		if text(got) != tt.want {
			t.Errorf("%s %s: %q, want %q", tt.name, dns.TypeToString[tt.typ], text(got), tt.want)
		}
		if got != nil && (got.Id != q.Id || !got.Response || got.Question[0] != q.Question[0]) {
			t.Errorf("%s: the reply does not fit its question", tt.name)
		}
	}
	q := new(dns.Msg).SetQuestion("version.bind.", dns.TypeTXT)
	q.Question[0].Qclass = dns.ClassCHAOS
	if got := text(tab.answer(q)); got != "REFUSED" {
		t.Errorf("class CHAOS: %s", got)
	}
}

// Each address of a headless service comes first now and then.
func TestAnswer_Shuffled(t *testing.T) {
	tab := mustTable(t, records())
	first := map[string]int{}
	for range 300 {
		m := tab.answer(new(dns.Msg).SetQuestion("peers.", dns.TypeA))
		first[m.Answer[0].(*dns.A).A.String()]++
	}
	if len(first) != 3 {
		t.Errorf("first addresses of 300 answers: %v", first)
	}
}

func TestRecords_Refused(t *testing.T) {
	for _, r := range []Records{
		{Hosts: []Host{{Name: ""}}},
		{Hosts: []Host{{Name: "a..b"}}},
		{Hosts: []Host{{Name: "a b"}}},
		{Hosts: []Host{{Name: "a\x00"}}},
		{Hosts: []Host{{Name: strings.Repeat("a", 64)}}},
		{Hosts: []Host{{Name: strings.Repeat("a.", 127) + "a"}}},
		{Hosts: []Host{{Name: "a", Addresses: []netip.Addr{{}}}}},
		{Hosts: []Host{{Name: "a", Aliases: []string{"*"}}}},
		{Services: []Service{{Name: "a.b", Namespace: "c"}}},
		{Services: []Service{{Name: "a"}}},
		{Domain: "no domain"},
	} {
		if _, err := newTable(r); err == nil {
			t.Errorf("%+v was accepted", r)
		}
	}
}

func TestFit(t *testing.T) {
	var many []netip.Addr
	for i := range 3000 {
		many = append(many, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
	}
	tab := mustTable(t, Records{Hosts: []Host{{Name: "many", Addresses: many}}})
	for _, tt := range []struct {
		edns    uint16
		tcp     bool
		size    int
		whole   bool
		answers int
	}{
		{0, false, 512, false, 0},
		{512, false, 512, false, 0},
		{100, false, 512, false, 0},
		{4096, false, 1232, false, 0},
		{65535, false, 1232, false, 0},
		{0, true, 65535, true, maxAnswers},
	} {
		q := new(dns.Msg).SetQuestion("many.", dns.TypeA)
		if tt.edns > 0 {
			q.SetEdns0(tt.edns, false)
		}
		m := tab.answer(q)
		fit(q, m, tt.tcp)
		b, err := m.Pack()
		if err != nil || len(b) > tt.size {
			t.Errorf("edns %d, tcp %v: %d bytes, at most %d wanted (%v)", tt.edns, tt.tcp, len(b), tt.size, err)
		}
		if m.Truncated == tt.whole || tt.whole && len(m.Answer) != tt.answers || !tt.whole && len(m.Answer) == 0 {
			t.Errorf("edns %d, tcp %v: truncated %v, %d answers", tt.edns, tt.tcp, m.Truncated, len(m.Answer))
		}
		if (m.IsEdns0() != nil) != (tt.edns > 0) {
			t.Errorf("edns %d: options in the reply: %v", tt.edns, m.IsEdns0())
		}
	}
	q := new(dns.Msg).SetQuestion("many.", dns.TypeA)
	q.SetEdns0(1232, false)
	q.IsEdns0().SetVersion(1)
	m := tab.answer(q)
	if fit(q, m, false); m.Rcode != dns.RcodeBadVers || len(m.Answer) > 0 {
		t.Errorf("EDNS version 1: %s", text(m))
	}
}

func TestResolvConf(t *testing.T) {
	if got, want := ResolvConf(addrs("10.1.0.1"), "", "", nil), "nameserver 10.1.0.1\noptions ndots:1\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	want := "nameserver 10.1.0.1\nnameserver fd01::1\nsearch prod.svc.cluster.local svc.cluster.local cluster.local corp.example\noptions ndots:5\n"
	if got := ResolvConf(addrs("10.1.0.1", "fd01::1"), "prod", "", []string{"corp.example"}); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	servers := parseResolv("# x\nsearch a\nnameserver 127.0.0.53\nnameserver nonsense\nnameserver 10.1.0.1 # ours\nnameserver fe80::1%eth0\n", addrs("10.1.0.1"))
	if want := []string{"127.0.0.53:53", "[fe80::1%eth0]:53"}; !slices.Equal(servers, want) {
		t.Errorf("got %q, want %q", servers, want)
	}
}

// Whatever comes in, what goes out is well-formed, fits, and answers what was asked.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"web.", "peers-0.peers.", "2.0.1.10.in-addr.arpa.", "x.cluster.local."} {
		q := new(dns.Msg).SetQuestion(name, dns.TypeA)
		q.SetEdns0(1232, true)
		b, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, true)
	}
	tab := mustTable(f, records())
	f.Fuzz(func(t *testing.T, b []byte, tcp bool) {
		q := new(dns.Msg)
		if len(b) < 12 || dns.DefaultMsgAcceptFunc(header(b)) != dns.MsgAccept || q.Unpack(b) != nil || len(q.Question) != 1 {
			return
		}
		m := tab.answer(q)
		if m == nil {
			ask := question(q)
			if out, err := ask.Pack(); err != nil || len(out) > 512 {
				t.Fatalf("question to others: %d bytes, %v", len(out), err)
			}
			return
		}
		fit(q, m, tcp)
		out, err := m.Pack()
		if err != nil {
			t.Fatalf("reply to %s: %v", q, err)
		}
		if !tcp && len(out) > maxUDP {
			t.Fatalf("%d bytes over UDP", len(out))
		}
		back := new(dns.Msg)
		if err := back.Unpack(out); err != nil || back.Id != q.Id || !back.Response {
			t.Fatalf("reply to %s: %s: %v", q, back, err)
		}
	})
}

func header(b []byte) dns.Header {
	u := func(i int) uint16 { return uint16(b[i])<<8 | uint16(b[i+1]) }
	return dns.Header{Id: u(0), Bits: u(2), Qdcount: u(4), Ancount: u(6), Nscount: u(8), Arcount: u(10)}
}

func BenchmarkAnswer(b *testing.B) {
	r := records()
	for i := range 5000 {
		r.Hosts = append(r.Hosts, Host{Name: fmt.Sprintf("c%d", i), Addresses: addrs("10.1.0.9")})
	}
	tab := mustTable(b, r)
	q := new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA)
	for b.Loop() {
		m := tab.answer(q)
		fit(q, m, false)
		if _, err := m.Pack(); err != nil {
			b.Fatal(err)
		}
	}
}
