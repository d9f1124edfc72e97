package network

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/internal/rtnetlink"
	"github.com/minirun/minirun/network/loopback"
	"github.com/minirun/minirun/network/store"
	"golang.org/x/sys/unix"
)

// Whoever calls a published port, the server sees who it is: the remote machine,
// the host itself by its address, another container of the same network, one of
// another network. A container that calls itself is seen as the gateway. It must
// not matter whether br_netfilter has bridges ask the rules of IP.
func TestRootPublish_ClientAddress(t *testing.T) {
	for _, filter := range []string{"1", "0"} {
		t.Run("br_netfilter "+filter, func(t *testing.T) {
			l := newLab(t)
			l.bridgeFilter(filter)
			clientAddresses(t, l)
		})
	}
}

func clientAddresses(t *testing.T, l *lab) {
	l.create(Spec{Name: "web", IPv6: true})
	l.create(Spec{Name: "other", IPv6: true})
	server := l.attach("server", &Request{Networks: []string{"web"}, Ports: ports(t, "8080:80", "5353:53/udp", "7000-7009:7000-7009", "7100-7103:9100-9103/udp", lan4+":8443:80")})
	same := l.attach("same", &Request{Networks: []string{"web"}})
	other := l.attach("other", &Request{Networks: []string{"other"}})
	server.serve("tcp", 80)
	server.serve("udp", 53)
	server.serve("tcp", 7005)
	server.serve("udp", 9102)
	e := &server.record.Endpoints[0]
	web, err := l.h.Store.Network("web")
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range []struct{ name, lan, remote, same, other, direct string }{
		{"IPv4", lan4, remote4, same.record.Endpoints[0].Address4().String(), other.record.Endpoints[0].Address4().String(), e.Address4().String()},
		{"IPv6", lan6, remote6, same.record.Endpoints[0].Address6().String(), other.record.Endpoints[0].Address6().String(), e.Address6().String()},
	} {
		at := func(port string) string { return net.JoinHostPort(f.lan, port) }
		gateway := web.Subnets[i].Gateway.String()
		for _, p := range []struct{ protocol, port string }{{"tcp", "8080"}, {"udp", "5353"}, {"tcp", "7005"}, {"udp", "7102"}} {
			l.remote.wantCall(f.name+" remote", p.protocol, at(p.port), f.remote)
			l.host.wantCall(f.name+" host", p.protocol, at(p.port), f.lan)
			same.wantCall(f.name+" same network", p.protocol, at(p.port), f.same)
			other.wantCall(f.name+" other network", p.protocol, at(p.port), f.other)
			server.wantCall(f.name+" itself", p.protocol, at(p.port), gateway)
		}
		same.wantCall(f.name+" direct", "tcp", net.JoinHostPort(f.direct, "80"), f.same)
		l.host.wantCall(f.name+" host direct", "tcp", net.JoinHostPort(f.direct, "80"), gateway)
		other.wantNoCall(f.name+" another network, direct", "tcp", net.JoinHostPort(f.direct, "80"))
	}
	l.remote.wantCall("at one address", "tcp", net.JoinHostPort(lan4, "8443"), remote4)
	l.remote.wantNoCall("at another address", "tcp", net.JoinHostPort(lan6, "8443"))
	l.detach(server.key)
	l.remote.wantNoCall("after detach", "tcp", net.JoinHostPort(lan4, "8080"))
	if text := l.table(); strings.Contains(text, server.record.Endpoints[0].Address4().String()) {
		t.Errorf("after detach the table still has its address:\n%s", text)
	}
}

// The ways out, in and across that networks have and do not have.
func TestRootIsolation(t *testing.T) {
	l := newLab(t)
	l.create(Spec{Name: "plain"})
	l.create(Spec{Name: "open1", Isolate: store.None})
	l.create(Spec{Name: "open2", Isolate: store.None})
	l.create(Spec{Name: "apart", Isolate: store.Containers})
	l.create(Spec{Name: "inside", Internal: true})
	l.remote.serve("tcp", 80)
	boxes := map[string]*box{}
	for _, name := range []string{"plain1 plain", "plain2 plain", "open1 open1", "open2 open2", "apart1 apart", "apart2 apart", "inside1 inside", "inside2 inside"} {
		id, n, _ := strings.Cut(name, " ")
		q := &Request{Networks: []string{n}}
		if id == "plain1" {
			q.Ports = ports(t, "8080:80")
		}
		boxes[id] = l.attach(id, q)
		boxes[id].serve("tcp", 80)
	}
	address := func(id string) string { return boxes[id].record.Endpoints[0].Address4().String() }
	reaches := func(from, to string) bool {
		switch {
		case from[:len(from)-1] == to[:len(to)-1]: // the same network, or two open ones
			return !strings.HasPrefix(from, "apart")
		}
		return false
	}
	for from, b := range boxes {
		for to := range boxes {
			if from == to || from[0] > to[0] { // each pair of networks in one direction
				continue
			}
			if reaches(from, to) {
				b.wantCall(from+" to "+to, "tcp", address(to)+":80", address(from))
			} else {
				b.wantNoCall(from+" to "+to, "tcp", address(to)+":80")
			}
		}
		if strings.HasPrefix(from, "inside") {
			b.wantNoCall(from+" to the outside", "tcp", remote4+":80")
			b.wantNoCall(from+" to a published port", "tcp", lan4+":8080")
		} else {
			b.wantCall(from+" to the outside", "tcp", remote4+":80", lan4)
		}
	}
	boxes["apart1"].wantCall("apart, published", "tcp", lan4+":8080", address("apart1"))
	// Somebody on the LAN sends packets for a container to the host.
	l.remote.do(func() error {
		c, err := rtnetlink.Dial()
		if err != nil {
			return err
		}
		defer c.Close()
		p, err := c.LinkByName("lan")
		if err != nil {
			return err
		}
		return c.AddRoute(netip.PrefixFrom(netip.MustParseAddr(address("plain1")), 24).Masked(), netip.MustParseAddr(lan4), p.Index)
	})
	l.remote.wantNoCall("from the LAN past the published port", "tcp", address("plain1")+":80")
	l.remote.wantCall("from the LAN", "tcp", lan4+":8080", remote4)
	// The user's chain comes first.
	l.host.run("nft", "add", "rule", "inet", UserTable, "forward", "ip", "saddr", remote4, "ct", "state", "new", "drop")
	l.remote.wantNoCall("dropped by the user", "tcp", lan4+":8080")
	l.host.do(l.h.Reload)
	l.remote.wantNoCall("dropped by the user, after a reload", "tcp", lan4+":8080")
}

// An interface that made itself known by IPv6 would wake every container of its
// network. Only a container that has IPv6 does so, and no port of a bridge.
func TestRootAttach_Quiet(t *testing.T) {
	l := newLab(t)
	l.create(Spec{Name: "four"})
	l.create(Spec{Name: "both", IPv6: true})
	b := l.attach("box", &Request{Networks: []string{"four", "both"}})
	mode := func(s *space, name string) string {
		t.Helper()
		var text []byte
		s.do(func() (err error) {
			text, err = os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/addr_gen_mode")
			return err
		})
		return strings.TrimSpace(string(text))
	}
	const none = "1"
	for _, e := range b.record.Endpoints {
		if got := mode(l.host, e.Link); got != none {
			t.Errorf("the host's end of %s has mode %s, want %s", e.Name, got, none)
		}
	}
	if got := mode(b.space, "eth0"); got != none {
		t.Errorf("eth0, without IPv6, has mode %s, want %s", got, none)
	}
	if got := mode(b.space, "eth1"); got == none {
		t.Errorf("eth1, with IPv6, has mode %s", got)
	}
	// Nobody takes redirects, by whatever means they were switched off.
	b.do(func() error {
		for _, name := range []string{"ipv4/conf/all", "ipv4/conf/eth0", "ipv4/conf/eth1", "ipv6/conf/all", "ipv6/conf/eth1"} {
			text, err := os.ReadFile("/proc/sys/net/" + name + "/accept_redirects")
			if err != nil || strings.TrimSpace(string(text)) != "0" {
				t.Errorf("%s: redirects %q, %v", name, text, err)
			}
		}
		return nil
	})
}

// Rules are what they were when they come from the records again.
func TestRootReload(t *testing.T) {
	l := newLab(t)
	l.create(Spec{Name: "web", IPv6: true, Subnets: []netip.Prefix{netip.MustParsePrefix("10.50.0.0/24"), netip.MustParsePrefix("fd00:50::/64")}})
	l.create(Spec{Name: "inside", Internal: true, Isolate: store.None})
	l.attach("one", &Request{Networks: []string{"web", "inside"}, Ports: ports(t, "80:8080", "9000-9100:9000-9100/udp", "100-102:200-202", "[2001:db8::1]:53:53/udp")})
	l.attach("two", &Request{Networks: []string{"inside"}})
	before := l.table()
	names := regexp.MustCompile(`mr-[0-9a-f]{10}|networks of [^"]*`)
	want, err := os.ReadFile("testdata/table.nft")
	if got := names.ReplaceAllString(before, "NAME"); err != nil || sorted(got) != sorted(string(want)) {
		t.Errorf("the table differs from testdata/table.nft (%v):\n%s", err, got)
	}
	l.host.run("nft", "flush", "ruleset")
	l.host.do(l.h.Reload)
	if after := l.table(); sorted(after) != sorted(before) {
		t.Errorf("got\n%s\nwant\n%s", after, before)
	}
	l.host.run("nft", "flush", "chain", "inet", Table, "forward")
	l.host.do(l.h.Reload)
	if after := l.table(); sorted(after) != sorted(before) {
		t.Errorf("got\n%s\nwant\n%s", after, before)
	}
	l.detach("one.0")
	l.detach("two.0")
	l.detach("two.0") // twice
	if links := l.links(); strings.Contains(links, "mv") {
		t.Errorf("interfaces %s", links)
	}
	l.host.do(func() error { _, err := l.h.PruneNetworks(); return err })
	if text := l.table(); strings.Contains(text, "elements") {
		t.Errorf("elements are left:\n%s", text)
	}
	if links := l.links(); strings.Contains(links, "mr-") {
		t.Errorf("bridges %s", links)
	}
}

// sorted makes tables comparable: nft does not promise an order of elements, and
// breaks their lines as it likes.
func sorted(table string) string {
	table = regexp.MustCompile(`(?m)^.* hook .*\n`).ReplaceAllString(table, "") // versions name priorities differently
	var out []string
	for _, part := range strings.Split(table, "elements = {") {
		list, rest, isList := strings.Cut(part, "}")
		if !isList {
			list, rest = "", part
		}
		elements := strings.Split(list, ",")
		for i := range elements {
			elements[i] = strings.Join(strings.Fields(elements[i]), " ")
		}
		slices.Sort(elements)
		out = append(out, strings.Join(elements, "\n"), strings.Join(strings.Fields(rest), " "))
	}
	return strings.Join(out, "\n")
}

// UDP that has been sent to a port before a container published it goes to the
// container as soon as it does, and not where its connection used to lead.
func TestRootPublish_StaleConnections(t *testing.T) {
	l := newLab(t)
	l.create(Spec{Name: "web"})
	l.attach("first", &Request{Networks: []string{"web"}}) // the rules are there
	var c net.Conn
	l.remote.do(func() (err error) {
		c, err = net.Dial("udp", lan4+":5353")
		return err
	})
	defer c.Close()
	ask := func(what, want string) {
		t.Helper()
		buf := make([]byte, 64)
		for deadline := patience(); ; {
			_, _ = c.Write([]byte("?")) // refused, as long as nobody is there
			_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			n, err := c.Read(buf)
			if err == nil && string(buf[:n]) == want {
				return
			}
			if want == "" && err != nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %q, %v, want %q", what, buf[:n], err, want)
			}
		}
	}
	ask("nobody", "")
	server := func(id string) *box {
		b := l.attach(id, &Request{Networks: []string{"web"}, Ports: ports(t, "5353:53/udp")})
		b.serve("udp", 53)
		return b
	}
	b := server("one")
	ask("the first one", remote4)
	l.detach(b.key)
	server("two")
	ask("the one after it", remote4)
}

// Records of containers that are gone are in nobody's way.
func TestRootHeal(t *testing.T) {
	l := newLab(t)
	l.create(Spec{Name: "web", Subnets: []netip.Prefix{netip.MustParsePrefix("10.50.0.0/30")}})
	q := func() *Request { return &Request{Networks: []string{"web"}, Ports: ports(t, "80:80")} }
	l.attach("one", q())
	if _, err := l.try("two", q()); !errors.Is(err, fs.ErrExist) && !strings.Contains(err.Error(), "no free address") {
		t.Fatalf("while it exists: %v", err)
	}
	l.h.Gone = func(c *store.Container) bool { return c.ID != "three" }
	l.attach("three", q())
	if links := l.links(); strings.Count(links, "mv") != 1 {
		t.Errorf("interfaces %s", links)
	}
	// Another boot: whatever the record says is over.
	r, err := l.h.Store.Container("three.0")
	if err != nil {
		t.Fatal(err)
	}
	r.BootID = "another"
	if err := l.h.Store.Save(r); err != nil {
		t.Fatal(err)
	}
	l.host.do(func() error { _, err := l.h.Prune(); return err })
	if keys, _ := l.h.Store.Keys(); len(keys) != 0 {
		t.Errorf("records %q", keys)
	}
}

// Somebody else's policy is in the way. What minirun says about it is true, and
// what it offers helps.
func TestRootObstacles(t *testing.T) {
	for _, tt := range []struct{ name, rules, want string }{
		{"docker", "add chain ip filter DOCKER-USER; add rule ip filter FORWARD jump DOCKER-USER", "iptables -I DOCKER-USER -i mr-"},
		{"a policy alone", "", "iptables -I FORWARD -o mr-"},
		{"another table", "delete table ip filter; add table inet mine; add chain inet mine mychain { type filter hook forward priority 5; policy drop; }", "nft insert rule inet mine mychain iifname mr-"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			l.create(Spec{Name: "web"})
			l.host.run("nft", "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }; "+tt.rules)
			b := l.attach("one", &Request{Networks: []string{"web"}, Ports: ports(t, "8080:80")})
			b.serve("tcp", 80)
			l.remote.wantNoCall("with the policy", "tcp", lan4+":8080")
			if len(l.warned) != 1 || !strings.Contains(l.warned[0], tt.want) {
				t.Fatalf("warned: %q, want %q", l.warned, tt.want)
			}
			_, commands, _ := strings.Cut(l.warned[0], "\n")
			for _, c := range strings.Split(commands, "\n") {
				l.host.run(strings.Fields(c)...)
			}
			l.remote.wantCall("with what was offered", "tcp", lan4+":8080", remote4)
			l.warned = nil
			l.attach("two", &Request{Networks: []string{"web"}})
			if len(l.warned) != 0 {
				t.Errorf("warned again: %q", l.warned)
			}
		})
	}
	l := newLab(t)
	n := l.create(Spec{Name: "web"})
	for _, tt := range []struct{ rules, want string }{
		{"add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }; add chain ip filter ufw-before-forward", "ufw route allow in on " + n.Bridge},
		{"add table inet firewalld; add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; policy accept; }", "firewall-cmd --permanent --zone=trusted --add-interface=" + n.Bridge},
		{"add table ip6 filter; add chain ip6 filter FORWARD { type filter hook forward priority 0; policy drop; }", ""},
		{"add table ip filter; add chain ip filter INPUT { type filter hook input priority 0; policy drop; }", ""},
	} {
		l.host.run("nft", "flush ruleset; "+tt.rules)
		l.host.do(func() error {
			list, err := Obstacles(n)
			if got := len(list) > 0; got != (tt.want != "") || got && !strings.Contains(list[0].String(), tt.want) {
				t.Errorf("%q: %v, want %q", tt.rules, list, tt.want)
			}
			return err
		})
	}
}

// Ports at loopback addresses: of the host alone, for as long as the container has
// them, and not in place of what listens there.
func TestRootPublish_Loopback(t *testing.T) {
	l := newLab(t)
	l.create(Spec{Name: "web", IPv6: true})
	b := l.attach("server", &Request{Networks: []string{"web"}, Ports: ports(t, "8080:80", "127.0.0.1:8081:80", "[::1]:8082:80", lan4+":8083:80", "9000-9003:80-83/udp", "0.0.0.0:8084:80")})
	b.serve("tcp", 80)
	b.serve("udp", 82)
	web, err := l.h.Store.Network("web")
	if err != nil {
		t.Fatal(err)
	}
	gateway4, gateway6 := web.Subnets[0].Gateway.String(), web.Subnets[1].Gateway.String()
	check := func(when string) {
		t.Helper()
		l.host.wantCall(when, "tcp", "127.0.0.1:8080", gateway4)
		l.host.wantCall(when, "tcp", "[::1]:8080", gateway6)
		l.host.wantCall(when, "tcp", "127.0.0.1:8081", gateway4)
		l.host.wantNoCall(when, "tcp", "127.0.0.2:8081")
		l.host.wantNoCall(when, "tcp", "[::1]:8081")
		l.host.wantCall(when, "tcp", "[::1]:8082", gateway6)
		l.host.wantNoCall(when, "tcp", "127.0.0.1:8082")
		l.host.wantNoCall(when, "tcp", "127.0.0.1:8083")
		l.host.wantCall(when, "udp", "127.0.0.1:9002", gateway4)
		l.host.wantCall(when, "tcp", "127.0.0.1:8084", gateway4)
		l.host.wantNoCall(when, "tcp", "[::1]:8084")
	}
	check("published")
	for _, to := range []string{lan4 + ":8081", "[" + lan6 + "]:8082"} {
		l.remote.wantNoCall("a port of loopback, from outside", "tcp", to)
		l.host.wantNoCall("a port of loopback, by another address", "tcp", to)
	}
	// A container's loopback is its own.
	b.wantNoCall("of the container", "tcp", "127.0.0.1:8080")
	// Somebody has taken it all away.
	l.host.do(func() error { return loopback.Replace(l.h.Cgroup, loopback.Published, nil) })
	l.host.wantNoCall("taken away", "tcp", "127.0.0.1:8080")
	l.host.do(l.h.Reload)
	check("after a reload")
	l.detach(b.key)
	l.host.wantNoCall("after detach", "tcp", "127.0.0.1:8080")
	// What listens at loopback keeps its port.
	l.host.do(func() error {
		listener, err := net.Listen("tcp", "127.0.0.1:8080")
		if err == nil {
			t.Cleanup(func() { listener.Close() })
		}
		return err
	})
	for _, p := range []string{"8080:80", "127.0.0.1:8080:80", "8079-8081:80-82"} {
		if _, err := l.try("second", &Request{Networks: []string{"web"}, Ports: ports(t, p)}); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("publish %s where somebody listens: %v", p, err)
		}
	}
	// What cannot be had is refused before anything is made, or told.
	var hinted interface{ Hint() string }
	if _, err := l.try("third", &Request{Networks: []string{"web"}, Ports: ports(t, "127.0.0.1:99:80/sctp")}); !errors.As(err, &hinted) {
		t.Errorf("SCTP at loopback: %v", err)
	}
	l.h.Cgroup = t.TempDir() // no cgroup
	if _, err := l.try("fourth", &Request{Networks: []string{"web"}, Ports: ports(t, "127.0.0.1:99:80")}); err == nil {
		t.Error("a port at loopback that does not lead anywhere was published")
	}
	l.detach("fourth.0")
	l.warned = nil
	b = l.attach("fifth", &Request{Networks: []string{"web"}, Ports: ports(t, "98:80")})
	b.serve("tcp", 80)
	l.remote.wantCall("without loopback", "tcp", lan4+":98", remote4)
	if len(l.warned) != 1 || !strings.Contains(l.warned[0], "127.0.0.1 and ::1") {
		t.Errorf("warned: %q", l.warned)
	}
	l.detach(b.key)
}
