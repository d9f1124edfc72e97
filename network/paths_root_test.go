package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/minirun/minirun/network/service"
	"golang.org/x/sys/unix"
)

// The ways to a server, and whom it sees: always who has called, except where the
// answer would not come back, and of what comes by loopback, which is nobody's
// address outside of the host. IPv4 and IPv6, TCP and UDP, whether or not
// br_netfilter has bridges ask the rules of IP.
func TestRootPaths(t *testing.T) {
	for _, filter := range []string{"1", "0"} {
		t.Run("br_netfilter "+filter, func(t *testing.T) {
			l := newLab(t)
			l.bridgeFilter(filter)
			paths(t, l)
		})
	}
}

// Virtual addresses of services in the lab.
const service4, service6 = "10.96.0.7", "fd96::7"

// balance puts a service in front of port 80 of boxes, with the node port 30080.
func (l *lab) balance(boxes ...*box) *service.Balancer {
	l.t.Helper()
	for _, to := range []string{"10.96.0.0/16", "fd96::/64"} { // a route that the host needs for them; any will do
		via := remote4
		if strings.Contains(to, "::") {
			via = remote6
		}
		l.host.run("ip", "route", "replace", to, "via", via)
		back := lan4
		if via == remote6 {
			back = lan6
		}
		l.remote.run("ip", "route", "replace", to, "via", back)
	}
	n, err := l.h.Store.Network(boxes[0].record.Endpoints[0].Network)
	if err != nil {
		l.t.Fatal(err)
	}
	var gateways []netip.Addr
	for _, s := range n.Subnets {
		gateways = append(gateways, endpoint(s.Gateway).Addr())
	}
	b := service.New(service.Options{NetNS: l.host.fd, Loopback: gateways, Cgroup: l.h.Cgroup})
	l.t.Cleanup(func() { b.Close() })
	if err := b.Set(balanced(boxes...)); err != nil {
		l.t.Fatal(err)
	}
	return b
}

func balanced(boxes ...*box) service.Service {
	s := service.Service{Name: "web", Addresses: []netip.Addr{netip.MustParseAddr(service4), netip.MustParseAddr(service6)}}
	for _, proto := range []service.Protocol{service.TCP, service.UDP} {
		p := service.Port{Protocol: proto, Port: 80, NodePort: 30080}
		for _, x := range boxes {
			for _, a := range x.record.Endpoints[0].Addresses {
				p.Endpoints = append(p.Endpoints, service.Endpoint{Address: endpoint(a), Weight: 1})
			}
		}
		s.Ports = append(s.Ports, p)
	}
	return s
}

// endpoint is port 80 of a container; services have addresses of package net/netip.
func endpoint(a interface{ AsSlice() []byte }) netip.AddrPort {
	std, _ := netip.AddrFromSlice(a.AsSlice())
	return netip.AddrPortFrom(std, 80)
}

func paths(t *testing.T, l *lab) {
	l.create(Spec{Name: "web", IPv6: true})
	l.create(Spec{Name: "other", IPv6: true})
	server := l.attach("server", &Request{Networks: []string{"web"}, Ports: ports(t, "8080:80", "8080:80/udp")})
	same := l.attach("same", &Request{Networks: []string{"web"}})
	other := l.attach("other", &Request{Networks: []string{"other"}})
	server.serve("tcp", 80)
	server.serve("udp", 80)
	b := l.balance(server)
	web, err := l.h.Store.Network("web")
	if err != nil {
		t.Fatal(err)
	}
	address := func(b *box) [2]string {
		return [2]string{b.record.Endpoints[0].Address4().String(), b.record.Endpoints[0].Address6().String()}
	}
	lan, remote := [2]string{lan4, lan6}, [2]string{remote4, remote6}
	loop, svc := [2]string{"127.0.0.1", "::1"}, [2]string{service4, service6}
	gateway := [2]string{web.Subnets[0].Gateway.String(), web.Subnets[1].Gateway.String()}
	rows := []struct {
		what string
		from *space
		to   [2]string
		port string
		want [2]string
	}{
		{"another machine to a published port", l.remote, lan, "8080", remote},
		{"the host to a published port, by its LAN address", l.host, lan, "8080", lan},
		{"the host to a published port, by loopback", l.host, loop, "8080", gateway},
		{"another network to a published port", other.space, lan, "8080", address(other)},
		{"itself, by its published port", server.space, lan, "8080", gateway},
		{"a container to a service", same.space, svc, "80", address(same)},
		{"the host to a service", l.host, svc, "80", lan},
		{"another machine to a node port", l.remote, lan, "30080", remote},
		// Beyond the eight that people ask about.
		{"the same network to a published port", same.space, lan, "8080", address(same)},
		{"another network to a service", other.space, svc, "80", address(other)},
		{"another machine to a service", l.remote, svc, "80", remote},
		{"itself, by its service", server.space, svc, "80", gateway},
		{"a container to a node port", same.space, lan, "30080", address(same)},
		{"the host to a node port, by loopback", l.host, loop, "30080", gateway},
	}
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "path\tIPv4 TCP\tIPv4 UDP\tIPv6 TCP\tIPv6 UDP")
	for _, r := range rows {
		fmt.Fprint(w, r.what)
		for i := range r.to {
			for _, protocol := range []string{"tcp", "udp"} {
				got, err := r.from.call(protocol, net.JoinHostPort(r.to[i], r.port), time.Until(patience()))
				switch {
				case err != nil:
					fmt.Fprintf(w, "\tFAILED: %v", err)
				case got != r.want[i]:
					fmt.Fprintf(w, "\t%s, WRONG", got)
				default:
					fmt.Fprintf(w, "\t%s", got)
				}
				if err != nil || got != r.want[i] {
					t.Errorf("%s, IPv%d %s: server sees %q, %v; want %q", r.what, 4+2*i, protocol, got, err, r.want[i])
				}
			}
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	t.Logf("whom the server sees:\n%s", &text)

	// Services alone, of a container that publishes nothing.
	alone := l.attach("alone", &Request{Networks: []string{"web"}})
	alone.serve("tcp", 80)
	alone.serve("udp", 80)
	second := balanced(alone)
	second.Name, second.Addresses = "second", []netip.Addr{netip.MustParseAddr("10.96.0.8"), netip.MustParseAddr("fd96::8")}
	for i := range second.Ports {
		second.Ports[i].NodePort = 0
	}
	if err := b.Set(second); err != nil {
		t.Fatal(err)
	}
	for i, to := range []string{"10.96.0.8:80", "[fd96::8]:80"} {
		for _, protocol := range []string{"tcp", "udp"} {
			alone.wantCall("itself, by its service alone", protocol, to, gateway[i])
			server.wantCall("a container to the second service", protocol, to, address(server)[i])
			l.host.wantCall("the host to the second service", protocol, to, lan[i])
		}
	}
	// Without endpoints each of them hears that at once, by loopback too.
	first := balanced()
	if err := b.Set(first); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{service4 + ":80", lan4 + ":30080", "127.0.0.1:30080", "[::1]:30080"} {
		if _, err := l.host.call("tcp", to, time.Until(patience())); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("the host to %s without endpoints: %v", to, err)
		}
	}
	if _, err := same.call("tcp", service4+":80", time.Until(patience())); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a container to a service without endpoints: %v", err)
	}
}
