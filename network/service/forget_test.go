package service

import (
	"bufio"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
)

// Connections of a removed endpoint end, by whichever address of the service they
// came. Those that the endpoint has otherwise go on: from another service, and from
// clients that know its own address and port. Both ways to delete them do it right.
func TestRootService_Forget(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	for name, slow := range map[string]bool{"by patterns": false, "one by one": true} {
		t.Run(name, func(t *testing.T) {
			four := func(s Service) Service { // patterns are for IPv4
				s.Addresses = s.Addresses[:1]
				for i, p := range s.Ports {
					s.Ports[i].Endpoints = p.Endpoints[:1]
				}
				return s
			}
			if slow {
				four = func(s Service) Service { return s }
			}
			w := newWorld(t, 2)
			two := Service{Name: "two", Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.20")}, Ports: []Port{{
				Protocol: TCP, Port: 80, Endpoints: []Endpoint{{Address: ep4(0), Weight: 1}},
			}}}
			own := four(web(0))
			own.Ports[0].NodePort = 8080 // as the endpoint's
			b := w.balancer(t, own, two)
			b.ct.slow = slow
			type talk struct {
				net.Conn
				r *bufio.Reader
			}
			open := map[string]talk{}
			for _, x := range []struct{ name, to string }{
				{"gone, address", "10.96.0.10:80"},
				{"gone, IPv6", "[fd96::10]:80"},
				{"gone, node port", "192.0.2.1:8080"},
				{"other service", "10.96.0.20:80"},
				{"direct", ep4(0).String()},
				{"direct IPv6", ep6(0).String()},
			} {
				if !slow && strings.HasPrefix(x.to, "[fd96") {
					continue
				}
				c, err := w.client.dial("tcp", x.to)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(testenv.Timeout(30 * time.Second)))
				k := talk{c, bufio.NewReader(c)}
				if line, err := k.r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "0 ") {
					t.Fatalf("%s: %q, %v", x.name, line, err)
				}
				open[x.name] = k
			}
			n, err := b.Connections("web")
			if err != nil || n[ep4(0)] != 2 || slow && n[ep6(0)] != 1 {
				t.Errorf("open connections %v, %v; want 2 at %s and 1 at %s", n, err, ep4(0), ep6(0))
			}
			next := four(web(1))
			next.Ports[0].NodePort = 8080
			if err := b.Set(next); err != nil {
				t.Fatal(err)
			}
			for name, c := range open {
				c.Write([]byte("hello\n"))
				line, err := c.r.ReadString('\n')
				if strings.HasPrefix(name, "gone") {
					if !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("%s: %q, %v, want a reset", name, line, err)
					}
				} else if err != nil || line != "hello\n" {
					t.Errorf("%s: %q, %v", name, line, err)
				}
			}
			if !slow && b.ct.slow {
				t.Log("this kernel does not delete by patterns")
			}
		})
	}
}
