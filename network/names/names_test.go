package names

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	inet "github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/internal/testenv"
	"github.com/minirun/minirun/network"
	"github.com/minirun/minirun/network/dns"
	"github.com/minirun/minirun/network/store"
)

// A world has records in a temporary directory and a Names that follows them,
// whose gateways are sockets of loopback.
type world struct {
	t    testing.TB
	h    *network.Host
	opts Options

	mu    sync.Mutex
	at    map[string]string // gateway to socket
	stop  context.CancelFunc
	ended chan error
}

// newWorld has a resolver of the host that knows nothing.
func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, h: &network.Host{Store: store.Store(t.TempDir() + "/networks")}, at: map[string]string{}}
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nothing := &mdns.Server{PacketConn: p, Handler: mdns.HandlerFunc(func(a mdns.ResponseWriter, q *mdns.Msg) {
		_ = a.WriteMsg(new(mdns.Msg).SetRcode(q, mdns.RcodeNameError))
	})}
	started := make(chan struct{})
	nothing.NotifyStartedFunc = func() { close(started) }
	var all sync.WaitGroup
	all.Go(func() { _ = nothing.ActivateAndServe() })
	<-started
	t.Cleanup(func() { _ = nothing.Shutdown(); all.Wait() })
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver 192.0.2.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.opts = Options{
		Store: w.h.Store, Resolv: resolv, Listen: w.listen, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Dial: func(ctx context.Context, kind, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, kind, p.LocalAddr().String())
		},
	}
	return w
}

func (w *world) listen(kind, address string) (net.Listener, net.PacketConn, error) {
	gateway, _, _ := net.SplitHostPort(address)
	w.mu.Lock()
	defer w.mu.Unlock()
	if kind == "udp" {
		// Questions come from there too: it is within the prefixes of all networks.
		p, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err == nil {
			w.at[gateway] = p.LocalAddr().String()
		}
		return nil, p, err
	}
	l, err := net.Listen("tcp", w.at[gateway])
	return l, nil, err
}

func (w *world) start() {
	w.t.Helper()
	s, err := New(w.opts)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.stop, w.ended = cancel, make(chan error, 1)
	go func() { w.ended <- s.Run(ctx) }()
	w.t.Cleanup(w.end)
}

// end stops what start has started and waits for it.
func (w *world) end() {
	if w.stop == nil {
		return
	}
	w.stop()
	w.stop = nil
	if err := <-w.ended; err != nil {
		w.t.Errorf("Run: %v", err)
	}
}

// create makes a network whose clients are on loopback.
func (w *world) create(n int, mutate func(*store.Network)) *store.Network {
	w.t.Helper()
	r := &store.Network{Name: fmt.Sprintf("net%d", n), ID: fmt.Sprintf("%010d", n), Bridge: "none", Isolate: store.Networks, Subnets: []store.Subnet{
		{Prefix: inet.MustParsePrefix("127.0.0.0/8"), Gateway: inet.AddrFrom4([4]byte{127, 0, byte(n), 1})},
	}}
	if mutate != nil {
		mutate(r)
	}
	unlock, err := w.h.Store.Lock()
	if err != nil {
		w.t.Fatal(err)
	}
	defer unlock()
	if err := w.h.Store.Add(r); err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) attach(id string, q network.Request) *store.Container {
	w.t.Helper()
	a, err := w.h.Reserve(id+".0", id, "/run/none", &q)
	if err != nil {
		w.t.Fatal(err)
	}
	return a.Record()
}

// detach takes a container out of the records in the order in which Host.Detach
// does it, without the kernel.
func (w *world) detach(c *store.Container) {
	w.t.Helper()
	unlock, err := w.h.Store.Lock()
	if err != nil {
		w.t.Fatal(err)
	}
	defer unlock()
	if err := errors.Join(w.h.Store.FreeAll(c.Key), w.h.Store.RemoveContainer(c.Key)); err != nil {
		w.t.Fatal(err)
	}
}

// ask asks at the gateway of a network; "" is no answer.
func (w *world) ask(n *store.Network, name string, kind uint16) string {
	w.mu.Lock()
	at := w.at[n.Subnets[0].Gateway.String()]
	w.mu.Unlock()
	if at == "" {
		return ""
	}
	c := mdns.Client{Timeout: testenv.Timeout(5 * time.Second)}
	m, _, err := c.Exchange(new(mdns.Msg).SetQuestion(name, kind), at)
	if err != nil {
		return ""
	}
	return text(m)
}

func text(m *mdns.Msg) string {
	s := mdns.RcodeToString[m.Rcode]
	for _, rr := range m.Answer {
		s += " " + strings.TrimPrefix(rr.String(), rr.Header().String())
	}
	return s
}

// wait waits until an answer is the one.
func (w *world) wait(n *store.Network, name string, kind uint16, want string) {
	w.t.Helper()
	deadline := time.Now().Add(testenv.Timeout(30 * time.Second))
	for {
		got := w.ask(n, name, kind)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("network %s: %s: %q, want %q", n.Name, name, got, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (w *world) resolv(c *store.Container) string {
	w.t.Helper()
	b, err := os.ReadFile(w.h.Store.ContainerDir(c.Key) + "/" + network.ResolvFile)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// What is recorded while it runs, what was before, and what goes.
func TestNames(t *testing.T) {
	w := newWorld(t)
	one := w.create(1, nil)
	before := w.attach("before", network.Request{Networks: []string{"net1"}, Files: network.Files{Hostname: "box"}, Aliases: []string{"www", "www.example"}})
	w.start()
	w.wait(one, "before.", mdns.TypeA, "NOERROR "+before.Endpoints[0].Addresses[0].String())
	for _, name := range []string{"box.", "WWW.", "www.example."} {
		w.wait(one, name, mdns.TypeA, "NOERROR "+before.Endpoints[0].Addresses[0].String())
	}
	w.wait(one, "box.", mdns.TypeAAAA, "NOERROR")
	after := w.attach("after", network.Request{Networks: []string{"net1"}})
	w.wait(one, "after.", mdns.TypeA, "NOERROR "+after.Endpoints[0].Addresses[0].String())
	w.detach(before)
	w.wait(one, "before.", mdns.TypeA, "NXDOMAIN")
	w.wait(one, "www.", mdns.TypeA, "NXDOMAIN")

	// Networks come and go.
	two := w.create(2, nil)
	asks := w.attach("asks", network.Request{Networks: []string{"net2"}}) // as 127.0.0.1
	both := w.attach("both", network.Request{Networks: []string{"net1", "net2"}})
	w.wait(two, "both.", mdns.TypeA, "NOERROR "+both.Endpoints[1].Addresses[0].String())
	w.wait(one, "both.", mdns.TypeA, "NOERROR "+both.Endpoints[0].Addresses[0].String())
	// Names of one are not answered in the other.
	w.wait(two, "after.", mdns.TypeA, "NXDOMAIN")
	inside := w.create(3, func(n *store.Network) { n.Internal = true })
	w.wait(inside, "example.com.", mdns.TypeA, "NXDOMAIN")
	// Who is in both gets both, wherever he asks.
	four := w.create(4, nil)
	w.attach("wide", network.Request{Networks: []string{"net4", "net1"}})
	w.wait(four, "wide.", mdns.TypeA, "NOERROR 127.0.0.1")
	w.wait(four, "after.", mdns.TypeA, "NOERROR "+after.Endpoints[0].Addresses[0].String())
	w.wait(four, "asks.", mdns.TypeA, "NXDOMAIN")
	w.detach(asks)
	w.detach(both)
	w.wait(two, "both.", mdns.TypeA, "NXDOMAIN")
	unlock, err := w.h.Store.Lock()
	if err == nil {
		err = w.h.Store.RemoveNetwork("net2")
		unlock()
	}
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(testenv.Timeout(30 * time.Second))
	for {
		w.mu.Lock()
		at := w.at[two.Subnets[0].Gateway.String()]
		w.mu.Unlock()
		if p, err := net.ListenPacket("udp", at); err == nil { // the socket was closed
			p.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a network that was removed is answered")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Records of another boot are none.
func TestNames_OtherBoot(t *testing.T) {
	w := newWorld(t)
	one := w.create(1, nil)
	old := *w.attach("old", network.Request{Networks: []string{"net1"}})
	old.BootID = "another"
	if err := w.h.Store.Save(&old); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.wait(one, "1.0.0.127.in-addr.arpa.", mdns.TypePTR, "NXDOMAIN")
	if got := w.ask(one, "old.", mdns.TypeA); got != "NXDOMAIN" {
		t.Errorf("a container of another boot: %q", got)
	}
}

// Who starts while names are answered asks the gateway; who runs already is
// switched, to and fro. What a user has said stays.
func TestNames_ResolvConf(t *testing.T) {
	w := newWorld(t)
	up := inet.MustParseAddr("192.0.2.53")
	one := w.create(1, func(n *store.Network) { n.DNS = []inet.Addr{up} })
	before := w.attach("before", network.Request{Networks: []string{"net1"}})
	given := w.attach("given", network.Request{Networks: []string{"net1"}, Files: network.Files{DNS: []inet.Addr{inet.MustParseAddr("192.0.2.7")}}})
	// What an engine of names reads: lines with a "#" do not count.
	servers := func(c *store.Container) (list []string) {
		for line := range strings.Lines(w.resolv(c)) {
			if f := strings.Fields(line); len(f) == 2 && f[0] == "nameserver" {
				list = append(list, f[1])
			}
		}
		return list
	}
	check := func(what string, c *store.Container, want string) {
		t.Helper()
		if got := fmt.Sprint(servers(c)); got != "["+want+"]" {
			t.Errorf("%s: name servers %s, want %s:\n%s", what, got, want, w.resolv(c))
		}
	}
	check("before", before, "192.0.2.53")
	size := len(w.resolv(before))
	for range 2 {
		w.start()
		w.wait(one, "before.", mdns.TypeA, "NOERROR "+before.Endpoints[0].Addresses[0].String())
		eventually(t, "answered", func() bool { return w.h.Store.Answered("net1") && fmt.Sprint(servers(before)) == "[127.0.1.1]" })
		after := w.attach("after", network.Request{Networks: []string{"net1"}})
		check("started meanwhile", after, "127.0.1.1")
		check("given", given, "192.0.2.7")
		if n := len(w.resolv(before)); n != size {
			t.Errorf("the size of resolv.conf changed from %d to %d: it cannot be changed by one write", size, n)
		}
		w.end()
		if w.h.Store.Answered("net1") {
			t.Error("the lock is still there")
		}
		check("at the end", before, "192.0.2.53")
		check("started meanwhile, at the end", after, "192.0.2.53")
		check("given, at the end", given, "192.0.2.7")
		w.detach(after)
	}
}

// A second one answers nothing, and does not disturb the first.
func TestNames_Twice(t *testing.T) {
	w := newWorld(t)
	one := w.create(1, nil)
	c := w.attach("c", network.Request{Networks: []string{"net1"}})
	w.start()
	w.wait(one, "c.", mdns.TypeA, "NOERROR "+c.Endpoints[0].Addresses[0].String())
	eventually(t, "answered", func() bool { return w.h.Store.Answered("net1") })
	done, err := w.h.Store.Answer("net1")
	var taken *store.AnsweredError
	if !errors.As(err, &taken) {
		done()
		t.Fatalf("a second process answers too: %v", err)
	}
}

type services struct {
	changed chan struct{}
	mu      sync.Mutex
	list    []dns.Service
}

func (s *services) Changed() <-chan struct{} { return s.changed }

func (s *services) Services(string) []dns.Service {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.list
}

func TestNames_Services(t *testing.T) {
	w := newWorld(t)
	one := w.create(1, nil)
	src := &services{changed: make(chan struct{}, 1)}
	w.opts.Services = src
	w.start()
	w.wait(one, "web.prod.svc.cluster.local.", mdns.TypeA, "NXDOMAIN")
	src.mu.Lock()
	src.list = []dns.Service{{Name: "web", Namespace: "prod", Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.7")}}}
	src.mu.Unlock()
	src.changed <- struct{}{}
	w.wait(one, "web.prod.svc.cluster.local.", mdns.TypeA, "NOERROR 10.96.0.7")
}

// What inotify does not tell is found by comparing.
func TestNames_Compare(t *testing.T) {
	w := newWorld(t)
	one := w.create(1, nil)
	w.opts.Compare = 20 * time.Millisecond
	w.start()
	w.wait(one, "c.", mdns.TypeA, "NXDOMAIN")
	// Written in place, which nobody does and nobody is told about.
	c := w.attach("c", network.Request{Networks: []string{"net1"}})
	w.wait(one, "c.", mdns.TypeA, "NOERROR "+c.Endpoints[0].Addresses[0].String())
	path := w.h.Store.ContainerDir(c.Key) + "/record.json"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(b), `"aliases":[]`, `"aliases":["new"]`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	w.wait(one, "new.", mdns.TypeA, "NOERROR "+c.Endpoints[0].Addresses[0].String())
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(testenv.Timeout(30 * time.Second))
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
