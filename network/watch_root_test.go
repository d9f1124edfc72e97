package network

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/network/service"
	"github.com/minirun/minirun/network/watch"
)

// echo is a server of the namespace that sends back what it gets, until the test ends.
func (s *space) echo(port int) {
	s.t.Helper()
	s.do(func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		s.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				stop := context.AfterFunc(s.t.Context(), func() { c.Close() })
				go func() {
					defer stop()
					defer c.Close()
					_, _ = io.Copy(c, c)
				}()
			}
		}()
		return nil
	})
}

// A talk is an open connection to an echo.
type talk struct {
	t *testing.T
	net.Conn
	r    *bufio.Reader
	what string
}

func (s *space) talk(what, address string) *talk {
	s.t.Helper()
	k := &talk{t: s.t, what: what}
	s.do(func() (err error) {
		k.Conn, err = net.DialTimeout("tcp", address, time.Until(patience()))
		return err
	})
	s.t.Cleanup(func() { k.Close() })
	k.r = bufio.NewReader(k.Conn)
	return k
}

func (k *talk) say(when string) {
	k.t.Helper()
	_ = k.SetDeadline(patience())
	_, err := io.WriteString(k, when+"\n")
	if err == nil {
		var line string
		if line, err = k.r.ReadString('\n'); err == nil && line != when+"\n" {
			err = fmt.Errorf("got %q", line)
		}
	}
	if err != nil {
		k.t.Errorf("the connection %s, %s: %v", k.what, when, err)
	}
}

// watched is a lab with a published port, a service and a watcher that looks after
// both tables. gate, if not nil, is asked before each repair.
type watched struct {
	*lab
	server   *box
	balancer *service.Balancer
	restored chan string
}

const testService = "10.96.0.7:80"

func newWatched(t *testing.T, buffer int, gate func()) *watched {
	l := newLab(t)
	l.host.run("ip", "route", "add", "default", "via", remote4) // services need a route
	w := &watched{lab: l, restored: make(chan string, 100)}
	l.create(Spec{Name: "web", IPv6: true})
	w.server = l.attach("server", &Request{Networks: []string{"web"}, Ports: ports(t, "8080:80")})
	w.server.echo(80)
	w.balancer = service.New(service.Options{NetNS: l.host.fd})
	t.Cleanup(func() { w.balancer.Close() })
	to := endpoint(w.server.record.Endpoints[0].Address4())
	err := w.balancer.Replace([]service.Service{{
		Name: "web", Addresses: []netip.Addr{netip.MustParseAddrPort(testService).Addr()},
		Ports: []service.Port{{Protocol: service.TCP, Port: 80, NodePort: 30080, Endpoints: []service.Endpoint{{Address: to, Weight: 1}}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	networks := watch.Table{Name: Table, Ours: watch.ByProgram(), Repair: l.h.Repair}
	services := w.balancer.Watched()
	list := []watch.Table{networks, services}
	first := make(chan error, 10)
	for i := range list {
		repair := list[i].Repair
		list[i].Repair = func(reason string) (bool, error) {
			if reason == "" {
				changed, err := repair(reason)
				first <- err
				return changed, err
			}
			if gate != nil {
				gate()
			}
			return repair(reason)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- l.host.try(func() error { // Repair works in the namespace of the thread
			x, err := watch.New(watch.Options{Tables: list, Buffer: buffer, Restored: func(table, _ string) { w.restored <- table }})
			if err != nil {
				return err
			}
			return x.Run(ctx)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("watch: %v", err)
		}
	})
	for range list {
		select {
		case err := <-first:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(time.Until(patience())):
			t.Fatal("the watcher does not begin")
		}
	}
	return w
}

// wait waits until the tables were restored.
func (w *watched) wait(what string, tables ...string) {
	w.t.Helper()
	missing := map[string]bool{}
	for _, name := range tables {
		missing[name] = true
	}
	for deadline := time.After(time.Until(patience())); len(missing) > 0; {
		select {
		case name := <-w.restored:
			delete(missing, name)
		case <-deadline:
			w.t.Fatalf("%s: not restored: %v", what, missing)
		}
	}
}

func (w *watched) both() string {
	return sorted(w.table()) + sorted(w.host.run("nft", "list", "table", "inet", service.Table))
}

// What others do to our tables is put right, and nobody's connection ends.
func TestRootWatch_Restores(t *testing.T) {
	w := newWatched(t, 0, nil)
	talks := []*talk{
		w.remote.talk("from outside to the published port", lan4+":8080"),
		w.host.talk("of the host to the service", testService),
		w.remote.talk("from outside to the node port", lan4+":30080"),
	}
	before := w.both()
	for _, x := range []struct{ damage, tables string }{
		{"flush ruleset", "minirun minirun_svc"},
		{"delete table inet minirun", "minirun"},
		{"flush chain inet minirun forward", "minirun"},
		{"flush map inet minirun publish4", "minirun"},
		{"insert rule inet minirun prerouting drop", "minirun"},
		{"delete table inet minirun_svc", "minirun_svc"},
		// What firewalld does when it is reloaded without its own flush of tables.
		{"flush ruleset; add table inet other; add chain inet other c { type filter hook forward priority 10; }", "minirun minirun_svc"},
	} {
		w.host.run("nft", x.damage)
		start := time.Now()
		w.wait(x.damage, strings.Fields(x.tables)...)
		t.Logf("%s: restored %s after nft returned", x.damage, time.Since(start).Round(100*time.Microsecond))
		if after := w.both(); after != before {
			t.Errorf("%s: restored, but not as it was:\n%s\nwant\n%s", x.damage, after, before)
		}
		for _, k := range talks {
			k.say("after " + x.damage)
		}
		w.remote.talk("after "+x.damage, lan4+":8080").say("hello")
		w.host.talk("after "+x.damage, testService).say("hello")
	}
	// Our own changes are not damage, nor are those to tables of others.
	n := len(w.restored)
	b := w.attach("two", &Request{Networks: []string{"web"}, Ports: ports(t, "8081:80")})
	w.detach(b.key)
	w.host.run("nft", "add table inet third; add chain inet third c")
	if err := w.balancer.Delete("web"); err != nil {
		t.Fatal(err)
	}
	w.host.run("nft", "delete table inet minirun")
	w.wait("the last one", Table)
	if got := len(w.restored) - n; got != 0 {
		t.Errorf("%d repairs of what was no damage", got)
	}
}

// While the rules are away, connections that are there go on: the kernel keeps
// what it translates for them, as long as a watcher runs.
func TestRootWatch_Gap(t *testing.T) {
	ask, goOn := make(chan struct{}), make(chan struct{})
	w := newWatched(t, 0, func() { ask <- struct{}{}; <-goOn })
	k := w.remote.talk("to the published port", lan4+":8080")
	s := w.host.talk("to the service", testService)
	k.say("before")
	w.host.run("nft", "flush", "ruleset")
	<-ask // it has been noticed, and waits
	if list := w.host.run("nft", "list", "ruleset"); strings.Contains(list, "dnat") {
		t.Errorf("the rules are there:\n%s", list)
	}
	for i := range 5 {
		k.say(fmt.Sprint("in the gap, ", i))
		s.say(fmt.Sprint("in the gap, ", i))
	}
	if _, err := w.remote.call("tcp", lan4+":8080", time.Until(patience())); err == nil {
		t.Error("a new connection in the gap: the rules are not away")
	}
	goOn <- struct{}{}
	<-ask
	goOn <- struct{}{}
	w.wait("the gap", Table, service.Table)
	w.remote.talk("after the gap", lan4+":8080").say("hello")
}

// More changes than the socket holds: everything is looked at.
func TestRootWatch_Lost(t *testing.T) {
	entered, leave := make(chan struct{}, 1), make(chan struct{})
	var once bool
	w := newWatched(t, 1, func() {
		if !once {
			once = true
			entered <- struct{}{}
			<-leave
		}
	})
	before := w.both()
	w.host.run("nft", "flush chain inet minirun forward")
	<-entered // nobody reads now
	var b strings.Builder
	b.WriteString("add table inet flood\nadd set inet flood s { type ipv4_addr; }\nadd element inet flood s { ")
	for i := range 2000 {
		fmt.Fprintf(&b, "10.1.%d.%d, ", i>>8, i&255)
	}
	b.WriteString("11.0.0.0 }\n")
	path := t.TempDir() + "/flood"
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	w.host.run("nft", "-f", path)
	w.host.run("nft", "delete table inet minirun; delete table inet minirun_svc")
	leave <- struct{}{}
	w.wait("lost messages", service.Table, Table)
	for deadline := patience(); w.both() != before; {
		if time.Now().After(deadline) {
			t.Fatalf("not restored:\n%s", w.both())
		}
		w.wait("lost messages", Table)
	}
}
