package service

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
)

func TestValidate(t *testing.T) {
	ok := web(0, 1)
	if err := ok.Validate(); err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr
	for _, tt := range []struct {
		name string
		do   func(*Service)
		want string
	}{
		{"no name", func(s *Service) { s.Name = "" }, "without a name"},
		{"no address", func(s *Service) { s.Addresses[0] = netip.Addr{} }, "want one IPv4 or IPv6 address"},
		{"multicast", func(s *Service) { s.Addresses[0] = addr("224.0.0.1") }, "want one IPv4"},
		{"mapped", func(s *Service) { s.Addresses[0] = addr("::ffff:10.0.0.1") }, "want one IPv4"},
		{"zone", func(s *Service) { s.Addresses[0] = addr("fe80::1%eth0") }, "want one IPv4"},
		{"loopback", func(s *Service) { s.Shared = []netip.Addr{addr("127.0.0.1")} }, "loopback address cannot be a service's"},
		{"twice", func(s *Service) { s.Shared = []netip.Addr{vip4} }, "10.96.0.10 is there twice"},
		{"affinity", func(s *Service) { s.Affinity = 1500 * time.Millisecond }, "whole seconds"},
		{"long affinity", func(s *Service) { s.Affinity = 25 * time.Hour }, "from 1s to 24h"},
		{"protocol", func(s *Service) { s.Ports[0].Protocol = 1 }, "want TCP, UDP or SCTP"},
		{"no port", func(s *Service) { s.Ports[0].Port, s.Ports[0].NodePort = 0, 0 }, "node port of 0"},
		{"same port", func(s *Service) { s.Ports[1].Protocol = TCP }, "port 80/tcp is there twice"},
		{"endpoint without port", func(s *Service) { s.Ports[0].Endpoints[0].Address = netip.AddrPortFrom(vip4, 0) }, "want an address and a port"},
		{"endpoint at loopback", func(s *Service) { s.Ports[0].Endpoints[0].Address = netip.MustParseAddrPort("127.0.0.1:80") }, "does not route to there"},
		{"endpoint twice", func(s *Service) { s.Ports[0].Endpoints[2].Address = ep4(0) }, "is there twice"},
		{"weight", func(s *Service) { s.Ports[0].Endpoints[0].Weight = MaxWeight + 1 }, "is above 65536"},
		{"many", func(s *Service) {
			s.Ports[0].Endpoints = endpoints(slices.Repeat([]uint32{1}, maxSlots+1)...)
		}, "at most 5040"},
	} {
		s := web(0, 1)
		tt.do(&s)
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestConflicts(t *testing.T) {
	b := New(Options{})
	first := web(0)
	d, err := b.plan([]Service{first}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.take(d)
	other := web(1)
	other.Name = "other"
	var conflict *ConflictError
	if _, err := b.plan([]Service{other}, nil); !errors.As(err, &conflict) || conflict.Other != "web" || conflict.Hint() == "" {
		t.Errorf("the same addresses and ports: %v", err)
	}
	for i := range other.Ports {
		other.Ports[i].NodePort, other.Ports[i].Port = 0, 81
	}
	if _, err := b.plan([]Service{other}, nil); err != nil {
		t.Errorf("another port of a virtual address: %v", err)
	}
	other.Addresses, other.Shared = nil, other.Addresses
	if _, err := b.plan([]Service{other}, nil); err == nil || !strings.Contains(err.Error(), "virtual for one service and shared for another") {
		t.Errorf("virtual here and shared there: %v", err)
	}
	other = web(1)
	other.Name = "other"
	if _, err := b.plan([]Service{other}, []string{"web"}); err != nil {
		t.Errorf("in place of a service that goes in the same change: %v", err)
	}
	if _, err := b.plan([]Service{first, first}, nil); err == nil {
		t.Error("one name twice in a change was accepted")
	}
	// Everything that is counted goes away with the services.
	d, err = b.plan(nil, []string{"web"})
	if err != nil {
		t.Fatal(err)
	}
	b.take(d)
	if len(b.services)+len(b.owners)+len(b.addrs)+len(b.times) > 0 {
		t.Errorf("left of no services: %v %v %v %v", b.services, b.owners, b.addrs, b.times)
	}
}

// The kernel says no more than ENOENT; we find out what it did not know.
func TestDiagnose(t *testing.T) {
	got := diagnose(func(p part) error {
		if p.module == "nft_numgen" || p.module == "nft_fib_inet" {
			return errors.Join(errors.New("conn.Receive"), syscall.ENOENT)
		}
		return nil
	})
	if want := []string{"nft_numgen", "nft_fib_inet"}; !slices.Equal(got, want) {
		t.Errorf("missing: %v, want %v", got, want)
	}
	err := &ModuleError{"write the rules of services", got, syscall.ENOENT}
	if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Hint(), "modprobe nft_numgen nft_fib_inet") {
		t.Errorf("%v; hint: %s", err, err.Hint())
	}
}

// All parts are there on a machine where services work, and trying leaves nothing.
func TestRootService_Parts(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	n := newNetns(t)
	k := kernel{netns: int(n.f.Fd())}
	defer k.close()
	for _, p := range parts() {
		if err := k.try(Table, p); err != nil {
			t.Errorf("%s: %v", p.module, err)
		}
	}
	if list := n.sh("nft list ruleset"); list != "" {
		t.Errorf("trying left %s", list)
	}
}

// Without CAP_NET_ADMIN the error says what is missing.
func TestRootService_Permission(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	if os.Getenv("MINIRUN_TEST_UNPRIVILEGED") != "" {
		b := New(Options{})
		defer b.Close()
		err := b.Replace([]Service{web(0)})
		var denied *PermissionError
		if !errors.As(err, &denied) || !errors.Is(err, os.ErrPermission) || !strings.Contains(denied.Hint(), "CAP_NET_ADMIN") {
			t.Errorf("Replace: %v", err)
		}
		return
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/self"
	if err := os.WriteFile(path, self, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("setpriv", "--bounding-set=-all", "--inh-caps=-all", path, "-test.run=^TestRootService_Permission$", "-test.v")
	cmd.Env = append(os.Environ(), "MINIRUN_TEST_UNPRIVILEGED=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("without capabilities: %v\n%s", err, out)
	}
}
