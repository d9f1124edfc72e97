package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
)

// The table that was written is the one that is wanted, and nft can print it.
func TestRootService_Table(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	w := &world{host: newNetns(t)}
	s := web(0, 1)
	s.Ports = append(s.Ports, Port{Protocol: SCTP, Port: 80})
	sticky := web(0, 1)
	sticky.Name, sticky.Addresses, sticky.Affinity = "sticky", []netip.Addr{netip.MustParseAddr("10.96.0.11")}, time.Hour
	for i := range sticky.Ports {
		sticky.Ports[i].NodePort = 0
	}
	b := w.balancer(t, s, sticky)
	if changed, err := b.Resync(); err != nil || changed {
		have, _ := b.k.read(Table)
		t.Errorf("a table that was just written is not what is wanted: %v\n--- kernel:\n%s\n--- wanted:\n%s", err, have.structure, b.schema.text())
	}
	list := w.host.sh("nft list ruleset")
	for _, want := range []string{
		"type nat hook prerouting priority dstnat - 5",
		"dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 12 map @slots4_12",
		"10.96.0.10 . tcp . 80 . 0x00000000 : 10.9.0.10 . 8080",
		"ip saddr . ip daddr @hairpin4 masquerade fully-random",
		"reject with tcp reset",
		"update @clients4_3600",
	} {
		if !strings.Contains(list, want) {
			t.Errorf("nft list ruleset does not have %q", want)
		}
	}
	if err := b.Remove(); err != nil {
		t.Fatal(err)
	}
	if list := w.host.sh("nft list ruleset"); list != "" {
		t.Errorf("after Remove: %s", list)
	}
}

// Every way to a service reaches an endpoint, and the endpoint sees the client.
func TestRootService_ClientAddress(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	w := newWorld(t, 2)
	w.balancer(t, web(0))
	// Clients far away need a route to virtual addresses; theirs is the default route.
	for _, tt := range []struct {
		name   string
		from   *netns
		v4, v6 string // where to
		peers  []string
	}{
		{"remote to address", w.client, "10.96.0.10:80", "[fd96::10]:80", []string{"192.0.2.2", "2001:db8:1::2"}},
		{"remote to node port", w.client, "192.0.2.1:30080", "[2001:db8:1::1]:30080", []string{"192.0.2.2", "2001:db8:1::2"}},
		{"host to address", w.host, "10.96.0.10:80", "[fd96::10]:80", []string{"192.0.2.1", "2001:db8:1::1"}},
		{"host to node port", w.host, "192.0.2.1:30080", "[2001:db8:1::1]:30080", []string{"192.0.2.1", "2001:db8:1::1"}},
		{"container to address", w.eps[1], "10.96.0.10:80", "[fd96::10]:80", []string{"10.9.0.11", "fd09::11"}},
		{"container to node port", w.eps[1], "192.0.2.1:30080", "[2001:db8:1::1]:30080", []string{"10.9.0.11", "fd09::11"}},
		// An endpoint that asks itself would not get its own answer.
		{"endpoint to itself", w.eps[0], "10.96.0.10:80", "[fd96::10]:80", []string{"10.9.0.1", "fd09::1"}},
	} {
		for i, to := range []string{tt.v4, tt.v6} {
			for _, network := range []string{"tcp", "udp"} {
				ep, peer, err := tt.from.ask(network, to)
				host, _, _ := net.SplitHostPort(peer)
				if err != nil || ep != "0" || host != tt.peers[i] {
					t.Errorf("%s, %s %s: endpoint %q saw %q (%v), want endpoint 0 to see %s", tt.name, network, to, ep, peer, err, tt.peers[i])
				}
			}
		}
	}
}

func TestRootService_Refused(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	none := web()
	shared := Service{Name: "shared", Shared: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Ports: []Port{{Protocol: TCP, Port: 81}}}
	b := w.balancer(t, none, shared)
	l := w.listen(t, w.host, "192.0.2.1:82")
	check := func(network, to string, want error) {
		t.Helper()
		for name, from := range map[string]*netns{"client": w.client, "container": w.eps[0], "host": w.host} {
			_, _, err := from.ask(network, to)
			if from == w.host && network == "udp" && want != nil && errors.Is(err, syscall.EPERM) {
				continue // what the kernel tells senders of this host in place of the message that they would get
			}
			if !errors.Is(err, want) {
				t.Errorf("%s to %s %s: %v, want %v", name, network, to, err, want)
			}
		}
	}
	for _, to := range []string{"10.96.0.10:80", "10.96.0.10:81", "[fd96::10]:80", "[fd96::10]:81", "192.0.2.1:30080", "[2001:db8:1::1]:30080", "192.0.2.1:81"} {
		check("tcp", to, syscall.ECONNREFUSED)
		if to != "192.0.2.1:81" {
			check("udp", to, syscall.ECONNREFUSED)
		}
	}
	// What is not a service's at an address of the host is left alone.
	check("tcp", l, nil)
	if err := b.Set(web(0)); err != nil {
		t.Fatal(err)
	}
	check("tcp", "10.96.0.10:80", nil)
	check("tcp", "10.96.0.10:81", syscall.ECONNREFUSED)
	check("tcp", "192.0.2.1:30080", nil)
	if err := b.Delete("web"); err != nil {
		t.Fatal(err)
	}
	if err := b.Delete("web"); err != nil {
		t.Errorf("delete a service twice: %v", err)
	}
	check("tcp", "192.0.2.1:30080", syscall.ECONNREFUSED) // by the host: nothing listens
}

func (w *world) listen(t *testing.T, n *netns, at string) string {
	t.Helper()
	var l net.Listener
	if err := n.do(func() (err error) { l, err = net.Listen("tcp", at); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(c, "host")
			c.Close()
		}
	}()
	return l.Addr().String()
}

// Open connections of a draining endpoint go on and can be counted; it gets no new
// ones. Those of a removed endpoint end at once.
func TestRootService_Drain(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	w := newWorld(t, 2)
	b := w.balancer(t, web(0))
	c, err := w.client.dial("tcp", "10.96.0.10:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	u, err := w.client.dial("udp", "10.96.0.10:80")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	for _, x := range []struct {
		c       net.Conn
		network string
	}{{c, "tcp"}, {u, "udp"}} {
		if ep, _, err := answer(x.c, x.network); err != nil || ep != "0" {
			t.Fatalf("%s: endpoint %q, %v", x.network, ep, err)
		}
	}
	both := func(draining bool) Service {
		s := web(0, 1)
		for _, p := range s.Ports {
			for i := range p.Endpoints {
				p.Endpoints[i].Draining = draining && (p.Endpoints[i].Address == ep4(0) || p.Endpoints[i].Address == ep6(0))
			}
		}
		return s
	}
	if err := b.Set(both(true)); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		if ep, _, err := w.client.ask("tcp", "10.96.0.10:80"); err != nil || ep != "1" {
			t.Fatalf("a new connection while endpoint 0 drains went to %q: %v", ep, err)
		}
	}
	if _, err := c.Write([]byte("still there\n")); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 12)
	if _, err := io.ReadFull(c, line); err != nil || string(line) != "still there\n" {
		t.Errorf("the open connection of a draining endpoint: %q, %v", line, err)
	}
	if n, err := b.Connections("web"); err != nil || n[ep4(0)] != 2 {
		t.Errorf("open connections %v, %v; want 2 at %s", n, err, ep4(0))
	}
	if err := b.Set(web(1)); err != nil {
		t.Fatal(err)
	}
	// UDP from the same socket goes to the new endpoint; TCP is over.
	if ep, _, err := answer(u, "udp"); err != nil || ep != "1" {
		t.Errorf("udp after removal: endpoint %q, %v", ep, err)
	}
	c.SetDeadline(time.Now().Add(testenv.Timeout(20 * time.Second)))
	c.Write([]byte("hello?\n"))
	if _, err := c.Read(line); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("tcp after removal: %v, want a reset", err)
	}
	if n, err := b.Connections("web"); err != nil || slices.Contains([]int{n[ep4(0)]}, 1) {
		t.Errorf("after removal: %v, %v", n, err)
	}
}

// Weights, and slots of several classes, as the kernel draws them.
func TestRootService_Spread(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	w := newWorld(t, 3)
	s := web(0, 1, 2)
	for i := range s.Ports[0].Endpoints {
		s.Ports[0].Endpoints[i].Weight = []uint32{8, 1, 1}[i/2]
	}
	w.balancer(t, s)
	n := map[string]int{}
	const conns = 600
	for range conns {
		ep, _, err := w.client.ask("tcp", "10.96.0.10:80")
		if err != nil {
			t.Fatal(err)
		}
		n[ep]++
	}
	// Six standard deviations of a share of 0.8: 59 of 600; of 0.1: 44.
	if n["0"] < 421 || n["0"] > 539 || n["1"] < 16 || n["2"] < 16 {
		t.Errorf("weights 8, 1, 1: %d connections were spread %v", conns, n)
	}
}

// What others do to our table is undone; what they do to theirs is not our business.
func TestRootService_Restore(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	restored := make(chan string, 10)
	b := New(Options{NetNS: int(w.host.f.Fd()), Restored: func(reason string) { restored <- reason }})
	defer b.Close()
	if err := b.Replace([]Service{web(0)}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Watch(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	wait := func(what string) time.Duration {
		t.Helper()
		start := time.Now()
		select {
		case <-restored:
		case <-time.After(testenv.Timeout(20 * time.Second)):
			t.Fatalf("%s: not restored", what)
		}
		took := time.Since(start)
		if changed, err := b.Resync(); err != nil || changed {
			t.Errorf("%s: restored, but not as it was (%v)", what, err)
		}
		if ep, _, err := w.client.ask("tcp", "10.96.0.10:80"); err != nil || ep != "0" {
			t.Errorf("%s: endpoint %q, %v", what, ep, err)
		}
		return took
	}
	// The first damage may be done before the watcher listens: it looks once after that.
	for _, damage := range []string{
		"nft flush ruleset",
		"nft flush ruleset",
		"nft delete element inet minirun_svc slots4_1 '{ 10.96.0.10 . tcp . 80 }'",
		"nft add element inet minirun_svc addresses4 '{ 192.0.2.9 }'",
		"nft flush chain inet minirun_svc services",
		"nft insert rule inet minirun_svc prerouting drop",
		"nft add table inet minirun_svc '{ flags dormant; }'",
		"nft delete table inet minirun_svc",
	} {
		w.host.sh(damage)
		t.Logf("%s: restored %s after nft returned", damage, wait(damage))
	}
	w.host.sh("nft add table inet other; nft add set inet other s '{ type ipv4_addr; }'; nft add element inet other s '{ 1.2.3.4 }'")
	if err := b.Set(web()); err != nil {
		t.Fatal(err)
	}
	if err := b.Set(web(0)); err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-restored:
		t.Errorf("our own changes, or those of other tables, were taken for damage: %s", r)
	default:
	}
}

// A change meets a kernel that is not as it was: everything is put right.
func TestRootService_Drift(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	w := newWorld(t, 2)
	b := w.balancer(t, web(0))
	for _, damage := range []string{
		"nft delete table inet minirun_svc",
		"nft delete element inet minirun_svc slots4_1 '{ 10.96.0.10 . tcp . 80 }'",
	} {
		w.host.sh(damage)
		if err := b.Set(web(1)); err != nil {
			t.Fatalf("%s: %v", damage, err)
		}
		if changed, err := b.Resync(); err != nil || changed {
			t.Errorf("%s: not put right (%v)", damage, err)
		}
		if err := b.Set(web(0)); err != nil {
			t.Fatal(err)
		}
	}
	// A successor finds nothing to do, and one with other services does it.
	next := New(Options{NetNS: int(w.host.f.Fd())})
	defer next.Close()
	if err := next.Replace([]Service{web(1)}); err != nil {
		t.Fatal(err)
	}
	if ep, _, err := w.client.ask("tcp", "10.96.0.10:80"); err != nil || ep != "1" {
		t.Errorf("after a successor took over: endpoint %q, %v", ep, err)
	}
}

// A client stays where it is while others come, moves when its endpoint goes, and
// is forgotten when it was away for long enough. Two services have tables of their own.
func TestRootService_Affinity(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	w := newWorld(t, 3)
	sticky := func(timeout time.Duration, eps ...int) Service {
		s := web(eps...)
		s.Affinity = timeout
		return s
	}
	b := w.balancer(t, sticky(time.Hour, 0, 1))
	same := func(what, want string) string {
		t.Helper()
		for _, to := range []string{"[fd96::10]:80", "192.0.2.1:30080", "10.96.0.10:80"} {
			first := ""
			if to == "10.96.0.10:80" {
				first = want
			}
			for range 12 {
				ep, _, err := w.client.ask("tcp", to)
				if err != nil {
					t.Fatalf("%s: %s: %v", what, to, err)
				}
				if first == "" {
					first = ep
				}
				if ep != first {
					t.Fatalf("%s: %s: a client of endpoint %s was sent to %s", what, to, first, ep)
				}
			}
			if to == "10.96.0.10:80" {
				return first
			}
		}
		return ""
	}
	at := same("two endpoints", "")
	if err := b.Set(sticky(time.Hour, 0, 1, 2)); err != nil {
		t.Fatal(err)
	}
	same("a third endpoint", at)
	mine := int(at[0] - '0')
	rest := slices.DeleteFunc([]int{0, 1, 2}, func(i int) bool { return i == mine })
	if err := b.Set(sticky(time.Hour, rest...)); err != nil {
		t.Fatal(err)
	}
	if now := same("its endpoint is gone", ""); now == at {
		t.Errorf("still at endpoint %s, which was removed", at)
	}
	if list := w.host.sh("nft list map inet minirun_svc clients4_3600"); !strings.Contains(list, "192.0.2.2 . 10.96.0.10 . tcp . 80") {
		t.Errorf("the table of clients does not know the client:\n%s", list)
	}
	// Another timeout is another table, made and unmade while services work.
	if err := b.Set(sticky(time.Second, 0, 1, 2)); err != nil {
		t.Fatal(err)
	}
	if changed, err := b.Resync(); err != nil || changed {
		t.Errorf("after a change of the timeout the table is not what is wanted (%v)", err)
	}
	deadline := time.Now().Add(testenv.Timeout(30 * time.Second))
	for seen := map[string]bool{}; len(seen) < 2; {
		ep, _, err := w.client.ask("tcp", "10.96.0.10:80")
		if err != nil {
			t.Fatal(err)
		}
		seen[ep] = true
		for strings.Contains(w.host.sh("nft list map inet minirun_svc clients4_1"), "192.0.2.2") {
			if time.Now().After(deadline) {
				t.Fatal("a client was not forgotten")
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
	if err := b.Set(web(0, 1)); err != nil {
		t.Fatal(err)
	}
	if changed, err := b.Resync(); err != nil || changed {
		t.Errorf("without affinity the table is not what is wanted (%v)", err)
	}
}
