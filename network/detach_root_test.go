package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	own "github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/internal/nfnetlink"
	"github.com/minirun/minirun/internal/rtnetlink"
	"golang.org/x/sys/unix"
)

// Who holds the network namespace of a container that is gone cannot use its
// address any more, whatever he does with the interface that he still has.
func TestRootDetach_HeldNamespace(t *testing.T) {
	l := newLab(t)
	l.create(Spec{Name: "web", Subnets: []own.Prefix{own.MustParsePrefix("10.50.0.0/24")}})
	q := &Request{Networks: []string{"web"}, IPs: []own.Addr{own.MustParseAddr("10.50.0.9")}, Ports: ports(t, "8080:80")}
	former := l.attach("former", q)
	former.serve("tcp", 80)
	other := l.attach("other", &Request{Networks: []string{"web"}})
	other.serve("tcp", 80)
	l.remote.wantCall("before", "tcp", lan4+":8080", remote4)
	l.detach(former.key)
	b := l.attach("next", q)
	attack := func(what string) {
		t.Helper()
		former.do(func() error {
			c, err := rtnetlink.Dial()
			if err != nil {
				return err
			}
			defer c.Close()
			i, err := c.LinkByName("eth0")
			if err != nil {
				return err
			}
			if err := c.Unplug("eth0"); err != nil { // down, and up again
				return err
			}
			return c.Up(i.Index)
		})
		former.wantNoCall(what+": from the former container", "tcp", other.record.Endpoints[0].Address4().String()+":80")
		former.wantNoCall(what+": from the former container to the outside", "tcp", lan4+":8080")
	}
	attack("held")
	b.serve("tcp", 80)
	l.remote.wantCall("the next one", "tcp", lan4+":8080", remote4)
	// Nothing is left of it in the end.
	if text := l.host.run("ip", "-o", "link"); !strings.Contains(text, former.record.Endpoints[0].Link) {
		t.Fatalf("the interface is not there: the test tests nothing:\n%s", text)
	}
	l.host.do(func() error { _, err := l.h.Prune(); return err })
	text := l.host.run("ip", "-o", "link")
	if strings.Contains(text, former.record.Endpoints[0].Link) || !strings.Contains(text, b.record.Endpoints[0].Link) {
		t.Errorf("interfaces after prune:\n%s", text)
	}
	l.remote.wantCall("after prune", "tcp", lan4+":8080", remote4)
}

// flows counts the tracked connections of an address.
func (l *lab) flows(a own.Addr) (n int) {
	l.t.Helper()
	l.host.do(func() error {
		c, err := nfnetlink.Dial()
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.DeleteFlows(func(f *nfnetlink.Flow) bool {
			if f.Original.Src == a || f.Original.Dst == a || f.Reply.Src == a {
				n++
			}
			return false
		})
		return err
	})
	return n
}

// Whoever gets an address, by whatever way, gets nothing of the connections of the
// one who had it.
func TestRootDetach_FormerConnections(t *testing.T) {
	l := newLab(t)
	subnets := []own.Prefix{own.MustParsePrefix("10.50.0.0/29"), own.MustParsePrefix("fd00:50::/64")}
	l.create(Spec{Name: "web", Subnets: subnets})
	ip4, ip6 := own.MustParseAddr("10.50.0.3"), own.MustParseAddr("fd00:50::3")
	talk := func(b *box) {
		t.Helper()
		for _, to := range []string{remote4, remote6} {
			b.do(func() error {
				c, err := net.Dial("udp", netip.AddrPortFrom(netip.MustParseAddr(to), 9).String())
				if err != nil {
					return err
				}
				defer c.Close()
				_, err = c.Write([]byte("x"))
				return err
			})
		}
		for deadline := patience(); l.flows(ip4) != 1 || l.flows(ip6) != 1; time.Sleep(time.Millisecond) { // neighbours have to be found first
			if time.Now().After(deadline) {
				t.Fatalf("%d and %d connections", l.flows(ip4), l.flows(ip6))
			}
		}
	}
	gone := func(what string) {
		t.Helper()
		if a, b := l.flows(ip4), l.flows(ip6); a+b != 0 {
			t.Errorf("%s: %d and %d connections are left", what, a, b)
		}
	}
	q := func() *Request { return &Request{Networks: []string{"web"}, IPs: []own.Addr{ip4, ip6}} }
	b := l.attach("one", q())
	talk(b)
	l.detach(b.key)
	// Others get other addresses; that is the case that has to be fast.
	other := l.attach("other", &Request{Networks: []string{"web"}})
	if l.flows(ip4) != 1 {
		t.Error("the connections were looked for at once: minirun waits for it without need")
	}
	// The next one with it.
	b = l.attach("two", q())
	gone("the next one by --ip")
	talk(b)
	l.detach(b.key)
	for i := range 4 { // until the pool has come round
		l.attach("pool"+string(rune('a'+i)), &Request{Networks: []string{"web"}})
	}
	gone("the next one of the pool")
	l.detach(other.key)
	for i := range 4 {
		l.detach("pool" + string(rune('a'+i)) + ".0")
	}
	// With ports: at once, so that clients learn it.
	ported := q()
	ported.Ports = ports(t, "8080:80")
	b = l.attach("three", ported)
	talk(b)
	l.detach(b.key)
	gone("a container with ports that is gone")
	// A network that is gone.
	b = l.attach("four", q())
	talk(b)
	l.detach(b.key)
	l.host.do(func() error { return l.h.Remove("web") })
	gone("the network is gone")
	// A list that grows too long.
	l.create(Spec{Name: "web", Subnets: subnets})
	b = l.attach("five", q())
	talk(b)
	if err := os.WriteFile(string(l.h.Store)+"/networks/web/former", []byte(strings.Repeat("10.50.0.100\n", maxFormer/12)), 0o600); err != nil {
		t.Fatal(err)
	}
	l.detach(b.key)
	gone("the list was too long")
	if list, err := l.h.Store.Former("web"); len(list) != 0 || err != nil {
		t.Errorf("the list is still %d long (%v)", len(list), err)
	}
	// A disk that takes no more: the list is a directory that is in the way.
	b = l.attach("six", q())
	talk(b)
	path := string(l.h.Store) + "/networks/web/former"
	if err := unix.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	l.detach(b.key)
	gone("nothing can be written")
	if err := unix.Rmdir(path); err != nil {
		t.Fatal(err)
	}
}

// A bridge that is full is a clear error, and leaves nothing behind.
func TestRootAttach_BridgeFull(t *testing.T) {
	l := newLab(t)
	n := l.create(Spec{Name: "web", Subnets: []own.Prefix{own.MustParsePrefix("10.50.0.0/16")}})
	b := l.attach("first", &Request{Networks: []string{"web"}})
	var batch strings.Builder
	for i := range 511 {
		fmt.Fprintf(&batch, "link add name a%d master %s type veth peer name b%d\nlink set b%d master %s\n", i, n.Bridge, i, i, n.Bridge)
	}
	file := t.TempDir() + "/batch"
	if err := os.WriteFile(file, []byte(batch.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	l.host.run("ip", "-batch", file)
	second, err := l.try("second", &Request{Networks: []string{"web"}})
	var hint interface{ Hint() string }
	if !errors.Is(err, unix.EXFULL) || !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "at most 1023") {
		t.Fatalf("one too many: %v", err)
	}
	l.detach(second.key)
	if links := l.links(); strings.Count(links, linkPrefix) != 1 {
		t.Errorf("interfaces %s", links)
	}
	l.detach(b.key) // its port is free at once, although its namespace is held
	l.attach("third", &Request{Networks: []string{"web"}})
}
