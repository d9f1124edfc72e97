package service

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
)

// The measurements of `make bench-network`. They say nothing while other work runs,
// so the tests never run them: they need MINIRUN_BENCH_NETWORK=1. Short forms of
// those that must hold anywhere are tests of their own, below.
func measured(b *testing.B) {
	b.Helper()
	if os.Getenv("MINIRUN_BENCH_NETWORK") == "" {
		b.Skip("a measurement: make bench-network")
	}
	if os.Geteuid() != 0 {
		b.Fatal("needs root")
	}
}

// many makes n services of three endpoints each at addresses of their own.
func many(n int) []Service {
	var all []Service
	for i := range n {
		s := Service{Name: fmt.Sprintf("s%d", i), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 100, byte(i >> 8), byte(i)})}}
		p := Port{Protocol: TCP, Port: 80}
		for k := range 3 {
			a := netip.AddrFrom4([4]byte{10, byte(110 + k), byte(i >> 8), byte(i)})
			p.Endpoints = append(p.Endpoints, Endpoint{Address: netip.AddrPortFrom(a, 8080), Weight: 1})
		}
		s.Ports = []Port{p}
		all = append(all, s)
	}
	return all
}

func percentile(d []time.Duration, p int) time.Duration {
	slices.Sort(d)
	return d[(len(d)-1)*p/100]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// One endpoint is replaced by another: the transaction alone, and the whole call,
// which also forgets tracked connections of the former endpoint.
func BenchmarkEndpointChange(b *testing.B) {
	measured(b)
	for _, n := range []int{10, 1000, 5000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			host := newNetns(b)
			bal := New(Options{NetNS: int(host.f.Fd())})
			defer bal.Close()
			start := time.Now()
			if err := bal.Replace(many(n)); err != nil {
				b.Fatal(err)
			}
			load := time.Since(start)
			s := many(n)[n/2]
			var commit, all []time.Duration
			for i := range 1000 {
				other := netip.AddrFrom4([4]byte{10, 120, byte(i >> 8), byte(i)})
				s.Ports[0].Endpoints[i%3].Address = netip.AddrPortFrom(other, 8080)
				start := time.Now()
				bal.mu.Lock()
				d, err := bal.plan([]Service{s}, nil)
				if err == nil {
					err = bal.commit(d)
				}
				if err != nil {
					b.Fatal(err)
				}
				bal.take(d)
				commit = append(commit, time.Since(start))
				err = bal.forget(d.before, d.after)
				bal.mu.Unlock()
				if err != nil {
					b.Fatal(err)
				}
				all = append(all, time.Since(start))
			}
			b.ReportMetric(ms(load), "load-ms")
			b.ReportMetric(ms(percentile(commit, 50)), "commit-p50-ms")
			b.ReportMetric(ms(percentile(commit, 99)), "commit-p99-ms")
			b.ReportMetric(ms(percentile(all, 50)), "call-p50-ms")
			b.ReportMetric(ms(percentile(all, 99)), "call-p99-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// A connection through the address of a service, with few and with many services,
// and to the endpoint itself.
func BenchmarkFirstConnection(b *testing.B) {
	measured(b)
	w := newWorld(b, 1)
	bal := New(Options{NetNS: int(w.host.f.Fd())})
	defer bal.Close()
	connect := func(to string) float64 {
		var took []time.Duration
		err := w.client.do(func() error {
			for range 2000 {
				start := time.Now()
				c, err := net.Dial("tcp", to)
				if err != nil {
					return err
				}
				took = append(took, time.Since(start))
				c.Close()
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		return float64(percentile(took, 50)) / float64(time.Microsecond)
	}
	for _, n := range []int{1, 5000} {
		if err := bal.Replace(append(many(n-1), web(0))); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(connect("10.96.0.10:80"), fmt.Sprintf("of-%d-us", n))
		b.ReportMetric(connect(ep4(0).String()), fmt.Sprintf("direct-beside-%d-us", n))
	}
	b.ReportMetric(0, "ns/op")
}

// Throughput of one connection, in turns through the service and directly.
func BenchmarkThroughput(b *testing.B) {
	measured(b)
	w := newWorld(b, 1)
	w.balancer(b, web(0))
	var l net.Listener
	if err := w.eps[0].do(func() (err error) { l, err = net.Listen("tcp", ":8081"); return err }); err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(io.Discard, c); c.Close() }()
		}
	}()
	sink := Service{Name: "sink", Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.20")}, Ports: []Port{{
		Protocol: TCP, Port: 80, Endpoints: []Endpoint{{Address: netip.AddrPortFrom(ep4(0).Addr(), 8081), Weight: 1}},
	}}}
	w.balancer(b, web(0), sink)
	rate := func(to string) float64 {
		c, err := w.client.dial("tcp", to)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		buf := make([]byte, 256<<10)
		start, sent := time.Now(), 0
		for time.Since(start) < time.Second {
			n, err := c.Write(buf)
			if err != nil {
				b.Fatal(err)
			}
			sent += n
		}
		return float64(sent) / time.Since(start).Seconds()
	}
	var ratio []float64
	var direct float64
	for range 5 {
		d := rate("10.9.0.10:8081")
		ratio = append(ratio, rate("10.96.0.20:80")/d)
		direct = max(direct, d)
	}
	slices.Sort(ratio)
	b.ReportMetric(100*ratio[len(ratio)/2], "%-of-direct")
	b.ReportMetric(direct*8/1e9, "direct-Gbit/s")
	b.ReportMetric(0, "ns/op")
}

// spread opens connections to five endpoints and returns the shares of the one that
// got the fewest and of the one that got the most, in percent.
func spread(t testing.TB, conns int) (least, most float64) {
	w := newWorld(t, 5)
	w.balancer(t, web(0, 1, 2, 3, 4))
	n := map[string]int{}
	err := w.client.do(func() error {
		for range conns {
			c, err := net.DialTimeout("tcp", "10.96.0.10:80", testenv.Timeout(20*time.Second))
			if err != nil {
				return err
			}
			ep, _, err := answer(c, "tcp")
			c.Close()
			if err != nil {
				return err
			}
			n[ep]++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	low, high := conns, 0
	for i := range 5 {
		low, high = min(low, n[strconv.Itoa(i)]), max(high, n[strconv.Itoa(i)])
	}
	return float64(low) * 100 / float64(conns), float64(high) * 100 / float64(conns)
}

func BenchmarkSpread(b *testing.B) {
	measured(b)
	least, most := spread(b, 10_000)
	b.ReportMetric(least, "least-%")
	b.ReportMetric(most, "most-%")
	b.ReportMetric(0, "ns/op")
}

// Ten thousand connections over five endpoints: the bounds are five standard
// deviations away.
func TestRootService_Evenly(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	if least, most := spread(t, 10_000); least < 18 || most > 22 {
		t.Errorf("five endpoints got from %.1f %% to %.1f %% of the connections", least, most)
	}
}

// Hundreds of services when a supervisor starts: the kernel has none of them, and
// then all of them.
func BenchmarkStart(b *testing.B) {
	measured(b)
	host := newNetns(b)
	for i, what := range []string{"cold-ms", "unchanged-ms"} {
		bal := New(Options{NetNS: int(host.f.Fd())})
		start := time.Now()
		if err := bal.Replace(many(500)); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(ms(time.Since(start)), what)
		if i == 1 {
			start = time.Now()
			if err := bal.Apply(many(500), nil); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(ms(time.Since(start)), "apply-unchanged-ms")
		}
		bal.Close()
	}
	b.ReportMetric(0, "ns/op")
}

// replaced opens connections for d, about rate a second, while endpoints are
// replaced all the time: each is drained, waited for and then removed. It returns
// how many connections there were and how many of them failed.
func replaced(t testing.TB, d time.Duration, rate int) (conns, failed, changes int64) {
	w := newWorld(t, 3)
	b := w.balancer(t, web(0, 1))
	stop := time.Now().Add(d)
	var done, bad, swaps atomic.Int64
	var all sync.WaitGroup
	const clients = 8
	for range clients {
		all.Go(func() {
			gap := time.Second * clients / time.Duration(rate)
			next := time.Now()
			err := w.client.do(func() error { // one thread for all of them
				for time.Now().Before(stop) {
					c, err := net.DialTimeout("tcp", "10.96.0.10:80", testenv.Timeout(20*time.Second))
					if err == nil {
						_, _, err = answer(c, "tcp")
						c.Close()
					}
					if err != nil {
						t.Logf("connection: %v", err)
						bad.Add(1)
					}
					done.Add(1)
					next = next.Add(gap)
					time.Sleep(time.Until(next))
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Go(func() {
		for i := 0; time.Now().Before(stop); i++ {
			old, stay, come := i%3, (i+1)%3, (i+2)%3
			s := web(stay, come, old)
			for _, p := range s.Ports {
				p.Endpoints[4].Draining, p.Endpoints[5].Draining = true, true
			}
			if err := b.Set(s); err != nil {
				t.Error(err)
				return
			}
			for {
				n, err := b.Connections("web")
				if err != nil {
					t.Error(err)
					return
				}
				if n[ep4(old)] == 0 {
					break
				}
				time.Sleep(time.Millisecond)
			}
			if err := b.Set(web(stay, come)); err != nil {
				t.Error(err)
				return
			}
			swaps.Add(1)
		}
	})
	all.Wait()
	return done.Load(), bad.Load(), swaps.Load()
}

func BenchmarkReplaced(b *testing.B) {
	measured(b)
	conns, failed, changes := replaced(b, 10*time.Second, 1000)
	b.ReportMetric(float64(conns), "connections")
	b.ReportMetric(float64(failed), "failed")
	b.ReportMetric(float64(changes), "replacements")
	b.ReportMetric(0, "ns/op")
}

// No connection fails while endpoints are replaced.
func TestRootService_Replaced(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	conns, failed, changes := replaced(t, 2*time.Second, 1000)
	if failed != 0 || conns == 0 || changes == 0 {
		t.Errorf("%d of %d connections failed during %d replacements", failed, conns, changes)
	}
}

// Hundreds of services, a service of two hundred endpoints, and back: what the
// kernel has is what is wanted after each.
func TestRootService_Many(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	host := newNetns(t)
	b := New(Options{NetNS: int(host.f.Fd())})
	defer b.Close()
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if changed, err := b.Resync(); err != nil || changed {
			t.Fatalf("%s: the kernel has something else (%v)", what, err)
		}
	}
	check("300 services", b.Replace(many(300)))
	big := web()
	big.Ports = big.Ports[:1]
	big.Ports[0].Endpoints = endpoints(slices.Repeat([]uint32{1}, 200)...)
	check("200 endpoints", b.Set(big))
	big.Ports[0].Endpoints = big.Ports[0].Endpoints[:1]
	check("one of them is left", b.Set(big))
	check("few services", b.Replace([]Service{big}))
	if err := b.Set(Service{}); err == nil || errors.Is(err, os.ErrPermission) {
		t.Errorf("a service without a name: %v", err)
	}
	check("none", b.Delete("web"))
}
