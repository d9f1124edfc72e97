package service

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// netns is a network namespace without a name, kept by a descriptor.
type netns struct {
	t testing.TB
	f *os.File
}

func newNetns(t testing.TB) *netns {
	t.Helper()
	n := &netns{t: t}
	done := make(chan error)
	go func() {
		// The thread ends with its goroutine, and with it its namespace but for f.
		goruntime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.f, err = os.Open("/proc/thread-self/ns/net")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() { n.f.Close() })
	return n
}

// do runs f on a thread inside of the namespace.
func (n *netns) do(f func() error) error {
	done := make(chan error)
	go func() {
		goruntime.LockOSThread()
		if err := unix.Setns(int(n.f.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// sh runs a script inside of the namespace; descriptors of other namespaces are 3, 4...
func (n *netns) sh(script string, others ...*netns) string {
	n.t.Helper()
	var out []byte
	err := n.do(func() error {
		cmd := exec.Command("sh", "-ec", script)
		for _, o := range others {
			cmd.ExtraFiles = append(cmd.ExtraFiles, o.f)
		}
		var err error
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		n.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// world is a host with a client far away and some endpoints, each behind a link of
// its own and routed, as minirun's networks do it:
//
//	client 192.0.2.2, 2001:db8:1::2 -- 192.0.2.1 host 10.9.0.1 -- endpoint i: 10.9.0.(10+i), fd09::(10+i)
type world struct {
	host, client *netns
	eps          []*netns
}

func newWorld(t testing.TB, endpoints int) *world {
	t.Helper()
	w := &world{host: newNetns(t), client: newNetns(t)}
	w.host.sh(`ip link set lo up
		echo 1 >/proc/sys/net/ipv4/ip_forward
		echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
		echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
		ip link add lan type veth peer name eth0 netns /proc/self/fd/3
		ip addr add 192.0.2.1/24 dev lan; ip addr add 2001:db8:1::1/64 dev lan nodad; ip link set lan up
		ip route add default via 192.0.2.2; ip -6 route add default via 2001:db8:1::2`, w.client)
	w.client.sh(`ip link set lo up; ip link set eth0 up
		ip addr add 192.0.2.2/24 dev eth0; ip addr add 2001:db8:1::2/64 dev eth0 nodad
		ip route add default via 192.0.2.1; ip -6 route add default via 2001:db8:1::1`)
	for i := range endpoints {
		ep := newNetns(t)
		w.eps = append(w.eps, ep)
		w.host.sh(fmt.Sprintf(`ip link add ep%[1]d type veth peer name eth0 netns /proc/self/fd/3
			ip addr add 10.9.0.1/32 dev ep%[1]d; ip addr add fd09::1/128 dev ep%[1]d nodad; ip link set ep%[1]d up
			ip route add 10.9.0.%[2]d dev ep%[1]d; ip -6 route add fd09::%[2]d dev ep%[1]d`, i, 10+i), ep)
		ep.sh(fmt.Sprintf(`ip link set lo up; ip link set eth0 up
			ip addr add 10.9.0.%[1]d/32 dev eth0; ip addr add fd09::%[1]d/128 dev eth0 nodad
			ip route add 10.9.0.1 dev eth0; ip route add default via 10.9.0.1
			ip -6 route add fd09::1 dev eth0; ip -6 route add default via fd09::1`, 10+i))
		w.serve(t, i)
	}
	return w
}

// ep4 and ep6 are the addresses at which endpoint i serves.
func ep4(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 0, byte(10 + i)}), 8080)
}

func ep6(i int) netip.AddrPort {
	return netip.MustParseAddrPort(fmt.Sprintf("[fd09::%d]:8080", 10+i))
}

// serve answers connections and packets with "<i> <address of the client>".
func (w *world) serve(t testing.TB, i int) {
	t.Helper()
	var l net.Listener
	var p net.PacketConn
	err := w.eps[i].do(func() (err error) {
		if l, err = net.Listen("tcp", ":8080"); err == nil {
			p, err = net.ListenPacket("udp", ":8080")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); p.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				// One whose connection was forgotten never hears of its end.
				stop := context.AfterFunc(t.Context(), func() { c.Close() })
				defer stop()
				fmt.Fprintf(c, "%d %s\n", i, c.RemoteAddr())
				b := make([]byte, 100)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					c.Write(b[:n])
				}
			}()
		}
	}()
	go func() {
		b := make([]byte, 1500)
		for {
			_, from, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			p.WriteTo(fmt.Appendf(nil, "%d %s\n", i, from), from)
		}
	}()
}

// dial opens a connection from inside of the namespace.
func (n *netns) dial(network, addr string) (net.Conn, error) {
	var c net.Conn
	err := n.do(func() (err error) {
		d := net.Dialer{Timeout: testenv.Timeout(10 * time.Second)}
		c, err = d.Dial(network, addr)
		return err
	})
	return c, err
}

// ask connects and returns which endpoint answered and whom it saw.
func (n *netns) ask(network, addr string) (endpoint, peer string, err error) {
	c, err := n.dial(network, addr)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	return answer(c, network)
}

func answer(c net.Conn, network string) (endpoint, peer string, err error) {
	c.SetDeadline(time.Now().Add(testenv.Timeout(10 * time.Second)))
	if strings.HasPrefix(network, "udp") {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", "", err
		}
	}
	b := make([]byte, 200)
	k, err := c.Read(b)
	if err != nil {
		return "", "", err
	}
	endpoint, peer, _ = strings.Cut(strings.TrimSpace(string(b[:k])), " ")
	return endpoint, peer, nil
}

func (w *world) balancer(t testing.TB, services ...Service) *Balancer {
	t.Helper()
	b := New(Options{NetNS: int(w.host.f.Fd())})
	t.Cleanup(func() { b.Close() })
	if err := b.Replace(services); err != nil {
		t.Fatal(err)
	}
	return b
}

var (
	vip4 = netip.MustParseAddr("10.96.0.10")
	vip6 = netip.MustParseAddr("fd96::10")
)

// web is a service with the given endpoints at both families, TCP and UDP.
func web(eps ...int) Service {
	s := Service{Name: "web", Addresses: []netip.Addr{vip4, vip6}}
	for _, proto := range []Protocol{TCP, UDP} {
		p := Port{Protocol: proto, Port: 80, NodePort: 30080}
		for _, i := range eps {
			p.Endpoints = append(p.Endpoints, Endpoint{Address: ep4(i), Weight: 1}, Endpoint{Address: ep6(i), Weight: 1})
		}
		s.Ports = append(s.Ports, p)
	}
	return s
}
