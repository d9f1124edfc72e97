package dns

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/minirun/minirun/internal/testenv"
)

// A resolver of the host that asks us for what we ask it ends in an error, soon and
// after few questions.
func TestForward_Loop(t *testing.T) {
	var ours atomic.Value
	var asked atomic.Int64
	loop := upstream(t, func(w dns.ResponseWriter, q *dns.Msg) {
		asked.Add(1)
		c := dns.Client{Timeout: testenv.Timeout(20 * time.Second)}
		m, _, err := c.Exchange(q.Copy(), ours.Load().(string))
		if err != nil {
			m = new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
		}
		m.Id = q.Id
		_ = w.WriteMsg(m)
	})
	_, at, _ := start(t, map[string]string{"192.0.2.1": loop})
	ours.Store(at)
	if got := text(exchange(t, "udp", at, new(dns.Msg).SetQuestion("example.com.", dns.TypeA))); got != "SERVFAIL" {
		t.Errorf("in a loop: %s", got)
	}
	if n := asked.Load(); n == 0 || n > 500 { // some 17, or twice as many where a step takes seconds; thousands without the check
		t.Errorf("the resolver was asked %d times", n)
	}
}

// A network's own servers are asked in place of the host's, a network without a way
// out asks nobody, and a service that stands for a name outside is followed there.
func TestForward_Own(t *testing.T) {
	hosts := upstream(t, func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(address(q, "198.51.100.1")) })
	own := upstream(t, func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(address(q, "198.51.100.2")) })
	s, at, _ := start(t, map[string]string{"192.0.2.1": hosts, "192.0.2.9": own})
	ask := func(name string) string {
		t.Helper()
		return text(exchange(t, "udp", at, new(dns.Msg).SetQuestion(name, dns.TypeA)))
	}
	set := func(r Records) {
		t.Helper()
		if err := s.Set("net", r); err != nil {
			t.Fatal(err)
		}
	}
	if got := ask("example.com."); got != "NOERROR 60 198.51.100.1" {
		t.Errorf("the host's: %s", got)
	}
	set(Records{Resolvers: addrs("192.0.2.9"), Services: []Service{{Name: "db", Namespace: "prod", External: "db.example.com"}}})
	if got := ask("example.com."); got != "NOERROR 60 198.51.100.2" {
		t.Errorf("its own: %s", got)
	}
	if got := ask("db.prod.svc.cluster.local."); got != "NOERROR 60 198.51.100.2 db.example.com." {
		t.Errorf("a name that stands for one outside: %s", got)
	}
	set(Records{Resolvers: addrs("127.0.0.1")}) // that is us
	if got := ask("example.com."); got != "SERVFAIL" {
		t.Errorf("ourselves: %s", got)
	}
	set(Records{Inside: true, Services: []Service{{Name: "db", Namespace: "prod", External: "db.example.com"}}})
	for _, name := range []string{"example.com.", "8.8.8.8.in-addr.arpa."} {
		if got := ask(name); got != "NXDOMAIN" {
			t.Errorf("%s, without a way out: %s", name, got)
		}
	}
	if got := ask("db.prod.svc.cluster.local."); got != "NOERROR 5 db.example.com." {
		t.Errorf("a name that stands for one outside, without a way out: %s", got)
	}
}

// Clients in two networks get the names of both; others do not.
func TestServer_Also(t *testing.T) {
	s, at, _ := start(t, nil)
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.opts.Listen = func(kind, _ string) (net.Listener, net.PacketConn, error) {
		if kind == "udp" {
			return nil, p, nil
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		return l, nil, err
	}
	if err := s.Open("far", addrs("127.0.0.1"), loopback); err != nil {
		t.Fatal(err)
	}
	if err := s.Set("far", Records{Hosts: []Host{{Name: "there.svc.cluster.local", Addresses: addrs("10.2.0.1")}}, Subnets: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Set("net", Records{Also: map[netip.Addr][]string{addrs("127.0.0.2")[0]: {"far", "gone"}}}); err != nil {
		t.Fatal(err)
	}
	for from, want := range map[string][2]string{"127.0.0.2": {"NOERROR 5 10.2.0.1", "NOERROR 5 there.svc.cluster.local."}, "127.0.0.3": {"NXDOMAIN", "SERVFAIL"}} {
		c := dns.Client{Timeout: testenv.Timeout(20 * time.Second), Dialer: &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}}
		for i, q := range []*dns.Msg{new(dns.Msg).SetQuestion("there.svc.cluster.local.", dns.TypeA), new(dns.Msg).SetQuestion("1.0.2.10.in-addr.arpa.", dns.TypePTR)} {
			m, _, err := c.ExchangeContext(context.Background(), q, at)
			if err != nil || text(m) != want[i] {
				t.Errorf("from %s, %s: %v, %v, want %s", from, q.Question[0].Name, m, err, want[i])
			}
		}
	}
}
