package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/minirun/minirun/internal/testenv"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// start makes a server at a free port of loopback, whose resolvers are fakes: dial
// goes to wherever upstream has for an address.
func start(t testing.TB, upstream map[string]string) (s *Server, at, resolv string) {
	t.Helper()
	resolv = filepath.Join(t.TempDir(), "resolv.conf")
	conf := ""
	for _, name := range []string{"192.0.2.1", "192.0.2.2"} {
		if upstream[name] != "" {
			conf += "nameserver " + name + "\n"
		}
	}
	if err := os.WriteFile(resolv, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	l, p := bothAt(t)
	at = p.LocalAddr().String()
	s = New(Options{
		Resolv: resolv,
		Listen: func(kind, _ string) (net.Listener, net.PacketConn, error) {
			if kind == "udp" {
				return nil, p, nil
			}
			return l, nil, nil
		},
		Dial: func(ctx context.Context, kind, address string) (net.Conn, error) {
			host, _, _ := net.SplitHostPort(address)
			return new(net.Dialer).DialContext(ctx, kind, upstream[host])
		},
	})
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Open("net", addrs("127.0.0.1"), loopback); err != nil {
		t.Fatal(err)
	}
	return s, at, resolv
}

// bothAt listens at a port that is free for TCP and UDP: what is free for the one may
// be taken by somebody else for the other.
func bothAt(t testing.TB) (net.Listener, net.PacketConn) {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p, err := net.ListenPacket("udp", l.Addr().String())
		if err == nil {
			return l, p
		}
		l.Close()
	}
	t.Fatal("no port is free for TCP and UDP")
	return nil, nil
}

func exchange(t testing.TB, kind, at string, q *dns.Msg) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: kind, Timeout: testenv.Timeout(20 * time.Second), UDPSize: 4096}
	m, _, err := c.Exchange(q, at)
	if err != nil {
		t.Fatalf("%s over %s: %v", q.Question[0].Name, kind, err)
	}
	return m
}

func TestServer(t *testing.T) {
	s, at, _ := start(t, nil)
	if err := s.Set("net", records()); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"udp", "tcp"} {
		if got := text(exchange(t, kind, at, new(dns.Msg).SetQuestion("wEb.", dns.TypeA))); got != "NOERROR 5 10.96.0.10" {
			t.Errorf("%s: %s", kind, got)
		}
		// There is nobody to ask.
		if got := text(exchange(t, kind, at, new(dns.Msg).SetQuestion("example.com.", dns.TypeA))); got != "SERVFAIL" {
			t.Errorf("%s, no resolvers: %s", kind, got)
		}
	}
	if err := s.Set("net", Records{Hosts: []Host{{Name: "a b"}}}); err == nil {
		t.Error("bad records were accepted")
	}
	if got := text(exchange(t, "udp", at, new(dns.Msg).SetQuestion("web.", dns.TypeA))); got != "NOERROR 5 10.96.0.10" {
		t.Errorf("after bad records: %s", got)
	}
	if err := s.Open("net", nil, nil); err == nil {
		t.Error("a network was opened twice")
	}
	if err := s.Set("other", Records{}); err == nil {
		t.Error("records of a network that is not open were accepted")
	}
	if err := errors.Join(s.Shut("net"), s.Shut("net")); err != nil {
		t.Errorf("shut twice: %v", err)
	}
	c := dns.Client{Timeout: time.Second}
	if _, _, err := c.Exchange(new(dns.Msg).SetQuestion("web.", dns.TypeA), at); err == nil {
		t.Error("answers after Shut")
	}
}

// Who is not a client of the network gets nothing: not over UDP, where the sender may
// be somebody else's address, nor over TCP.
func TestServer_Foreign(t *testing.T) {
	s, at, _ := start(t, nil)
	s.networks["net"].clients = []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}
	for _, kind := range []string{"udp", "tcp"} {
		local, _ := net.ResolveUDPAddr("udp", "127.0.0.2:0")
		var from net.Addr = local
		if kind == "tcp" {
			from = &net.TCPAddr{IP: local.IP}
		}
		c := dns.Client{Net: kind, Timeout: testenv.Timeout(20 * time.Second), Dialer: &net.Dialer{LocalAddr: from}}
		if m, _, err := c.Exchange(new(dns.Msg).SetQuestion("x.cluster.local.", dns.TypeA), at); err != nil || m.Rcode != dns.RcodeNameError {
			t.Fatalf("%s: a client of the network: %v", kind, err)
		}
		// The answer to a client comes after it was decided about the stranger's question.
		conn, err := net.Dial(kind, at)
		if err != nil {
			t.Fatal(err)
		}
		co := &dns.Conn{Conn: conn}
		if err := co.WriteMsg(new(dns.Msg).SetQuestion("x.cluster.local.", dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if m, err := co.ReadMsg(); err == nil {
			t.Errorf("%s: a stranger got %s", kind, m)
		}
		conn.Close()
	}
}

// upstream is a resolver of others.
func upstream(t *testing.T, h dns.HandlerFunc) string {
	t.Helper()
	l, p := bothAt(t)
	var done sync.WaitGroup
	for _, srv := range []*dns.Server{{PacketConn: p, Handler: h}, {Listener: l, Handler: h}} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		done.Go(func() { srv.ActivateAndServe() })
		<-started
		t.Cleanup(func() { srv.Shutdown() })
	}
	return p.LocalAddr().String()
}

func address(q *dns.Msg, a string) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.ParseIP(a)}}
	return m
}

func TestForward(t *testing.T) {
	var ids sync.Map
	good := upstream(t, func(w dns.ResponseWriter, q *dns.Msg) {
		if _, twice := ids.LoadOrStore(fmt.Sprint(q.Id, w.RemoteAddr()), true); twice {
			t.Error("two questions with one number and port")
		}
		switch name := q.Question[0].Name; {
		case strings.HasPrefix(name, "big."):
			m := address(q, "198.51.100.1")
			for i := range 200 {
				m.Answer = append(m.Answer, address(q, fmt.Sprintf("198.51.100.%d", i)).Answer...)
			}
			if w.LocalAddr().Network() == "udp" {
				m.Truncate(512)
			}
			w.WriteMsg(m)
		case strings.HasPrefix(name, "spoofed."):
			// What an attacker would send, before the answer.
			for _, spoil := range []func(*dns.Msg){
				func(m *dns.Msg) { m.Id++ },
				func(m *dns.Msg) { m.Question[0].Name = "bank.example." },
				func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA },
				func(m *dns.Msg) { m.Question = nil },
				func(m *dns.Msg) { m.Response = false },
			} {
				m := address(q, "203.0.113.66")
				spoil(m)
				w.WriteMsg(m)
			}
			w.Write([]byte{1, 2, 3})
			w.Write(make([]byte, 40))
			w.WriteMsg(address(q, "198.51.100.7"))
		case strings.HasPrefix(name, "nx."):
			w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeNameError))
		default:
			w.WriteMsg(address(q, "198.51.100.7"))
		}
	})
	refuses := upstream(t, func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeRefused)) })
	s, at, resolv := start(t, map[string]string{"192.0.2.1": refuses, "192.0.2.2": good})
	for name, want := range map[string]string{
		"example.com.":         "NOERROR 60 198.51.100.7",
		"spoofed.example.com.": "NOERROR 60 198.51.100.7",
		"nx.example.com.":      "NXDOMAIN",
	} {
		for _, kind := range []string{"udp", "tcp"} {
			q := new(dns.Msg).SetQuestion(name, dns.TypeA)
			q.SetEdns0(1232, false)
			m := exchange(t, kind, at, q)
			if text(m) != want || !m.RecursionAvailable {
				t.Errorf("%s over %s: %s, want %s", name, kind, text(m), want)
			}
		}
	}
	if m := exchange(t, "tcp", at, new(dns.Msg).SetQuestion("big.example.com.", dns.TypeA)); len(m.Answer) != 201 || m.Truncated {
		t.Errorf("a large answer over TCP: %d records, truncated %v", len(m.Answer), m.Truncated)
	}
	if m := exchange(t, "udp", at, new(dns.Msg).SetQuestion("big.example.com.", dns.TypeA)); len(m.Answer) == 0 || !m.Truncated {
		t.Errorf("a large answer over UDP: %d records, truncated %v", len(m.Answer), m.Truncated)
	}
	q := new(dns.Msg).SetQuestion("example.com.", dns.TypeA)
	q.RecursionDesired = false
	if got := text(exchange(t, "udp", at, q)); got != "REFUSED" {
		t.Errorf("without recursion: %s", got)
	}
	// Another resolv.conf takes effect without being told.
	if err := os.WriteFile(resolv+".new", []byte("nameserver 192.0.2.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(resolv+".new", resolv); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(testenv.Timeout(20 * time.Second))
	for text(exchange(t, "udp", at, new(dns.Msg).SetQuestion("example.com.", dns.TypeA))) != "REFUSED" {
		if time.Now().After(deadline) {
			t.Fatal("a new resolv.conf has no effect")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := s.Shut("net"); err != nil {
		t.Fatal(err)
	}
}

// Resolvers that do not answer hold up neither names of the network nor, without
// end, each other.
func TestForward_Bounded(t *testing.T) {
	hung := make(chan struct{})
	var waiting atomic.Int64
	silent := upstream(t, func(dns.ResponseWriter, *dns.Msg) { waiting.Add(1); <-hung })
	defer close(hung)
	s, at, _ := start(t, map[string]string{"192.0.2.1": silent})
	const room = 8 // so few that they all wait at a time, however slow the machine is
	s.forward.room = make(chan struct{}, room)
	if err := s.Set("net", records()); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	co := &dns.Conn{Conn: conn}
	conn.SetDeadline(time.Now().Add(testenv.Timeout(30 * time.Second)))
	// One after the other, until one is refused at once for want of room.
	for sent := 0; ; sent++ {
		if sent > 4*room {
			t.Fatal("no limit")
		}
		if err := co.WriteMsg(new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.example.com.", sent), dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		if err := co.WriteMsg(new(dns.Msg).SetQuestion("web.", dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		refused := false
		for {
			m, err := co.ReadMsg()
			if err != nil {
				t.Fatal(err)
			}
			if m.Question[0].Name == "web." {
				if text(m) != "NOERROR 5 10.96.0.10" {
					t.Fatalf("a name of the network: %s", text(m))
				}
				break
			}
			refused = refused || m.Rcode == dns.RcodeServerFailure
		}
		if refused {
			return
		}
	}
}

// Records change a hundred times a second while thousands of questions are
// asked: each gets an answer, and it is one that was right at the time.
func TestServer_Changes(t *testing.T) { hammer(t, time.Second, 2000) }

// hammer asks about rate questions a second for names that come and go.
func hammer(t testing.TB, d time.Duration, rate int) {
	s, at, _ := start(t, nil)
	stable := Host{Name: "stable", Addresses: addrs("10.1.0.2")}
	generation := func(k int) Records {
		r := Records{Hosts: []Host{stable}, Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}
		for i := range 100 {
			if (i+k)%2 == 0 {
				r.Hosts = append(r.Hosts, Host{Name: fmt.Sprintf("c%d.svc.cluster.local", i), Addresses: addrs(fmt.Sprintf("10.1.1.%d", i))})
			}
		}
		return r
	}
	if err := s.Set("net", generation(0)); err != nil {
		t.Fatal(err)
	}
	stop := time.Now().Add(d)
	var asked, changes atomic.Int64
	var all sync.WaitGroup
	all.Go(func() {
		for k := 1; time.Now().Before(stop); k++ {
			if err := s.Set("net", generation(k)); err != nil {
				t.Error(err)
			}
			changes.Add(1)
			time.Sleep(10 * time.Millisecond)
		}
	})
	const clients = 4
	for c := range clients {
		all.Go(func() {
			conn, err := dns.Dial("udp", at)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			gap := time.Second * clients / time.Duration(rate)
			next := time.Now()
			for i := c; time.Now().Before(stop); i++ {
				name, want := "stable.", []string{"NOERROR 5 10.1.0.2"}
				if i%2 == 0 {
					name = fmt.Sprintf("c%d.svc.cluster.local.", i%100)
					want = []string{fmt.Sprintf("NOERROR 5 10.1.1.%d", i%100), "NXDOMAIN"}
				}
				q := new(dns.Msg).SetQuestion(name, dns.TypeA)
				conn.SetDeadline(time.Now().Add(testenv.Timeout(20 * time.Second)))
				if err := conn.WriteMsg(q); err != nil {
					t.Error(err)
					return
				}
				m, err := conn.ReadMsg()
				if err != nil || m.Id != q.Id {
					t.Errorf("%s: %v", name, err)
					return
				}
				if got := text(m); got != want[0] && got != want[len(want)-1] {
					t.Errorf("%s: %q, want one of %q", name, got, want)
				}
				asked.Add(1)
				next = next.Add(gap)
				time.Sleep(time.Until(next))
			}
		})
	}
	all.Wait()
	t.Logf("%d questions in %s while records changed %d times", asked.Load(), d, changes.Load())
	if asked.Load() == 0 || changes.Load() == 0 {
		t.Error("nothing happened")
	}
}

// Connections beyond the limit wait; they do not take the descriptors of others.
func TestServer_Connections(t *testing.T) {
	s, at, _ := start(t, nil)
	if err := s.Set("net", records()); err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range maxConns + 20 {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	if got := text(exchange(t, "udp", at, new(dns.Msg).SetQuestion("web.", dns.TypeA))); got != "NOERROR 5 10.96.0.10" {
		t.Errorf("over UDP meanwhile: %s", got)
	}
	for _, c := range conns[:40] {
		c.Close()
	}
	if got := text(exchange(t, "tcp", at, new(dns.Msg).SetQuestion("web.", dns.TypeA))); got != "NOERROR 5 10.96.0.10" {
		t.Errorf("over TCP, after some went away: %s", got)
	}
}

// A measurement of `make bench-network`: 10,000 questions a second for 30 seconds.
func BenchmarkChanges(b *testing.B) {
	if os.Getenv("MINIRUN_BENCH_NETWORK") == "" {
		b.Skip("a measurement: make bench-network")
	}
	hammer(b, 30*time.Second, 10_000)
	b.ReportMetric(0, "ns/op")
}
