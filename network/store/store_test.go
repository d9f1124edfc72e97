package store

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/internal/testenv"
	"github.com/minirun/minirun/network/ipam"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func newNetwork(name, subnet string) *Network {
	p := netip.MustParsePrefix(subnet)
	return &Network{
		Name: name, ID: "0123456789", Bridge: "mr-0123456789", Created: time.Now().UTC(), Isolate: Networks,
		Subnets: []Subnet{{p, ipam.Gateway(p)}},
	}
}

func open(t *testing.T) Store {
	t.Helper()
	s := Store(t.TempDir() + "/networks")
	unlock, err := s.Lock()
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	return s
}

func TestNetwork_RoundTrip(t *testing.T) {
	s := open(t)
	n := newNetwork("web", "10.1.0.0/24")
	n.Subnets = append(n.Subnets, Subnet{netip.MustParsePrefix("fd00:1::/64"), addr("fd00:1::1")})
	n.Internal, n.Isolate, n.MTU = true, Containers, 1400
	n.DNS = []netip.Addr{addr("9.9.9.9"), addr("fd00::53")}
	n.Labels = []Label{{"a", "b\"c"}}
	if err := s.Add(n); err != nil {
		t.Fatal(err)
	}
	got, err := s.Network("web")
	if err != nil || !reflect.DeepEqual(got, n) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, n)
	}
	var exist *ExistError
	if err := s.Add(n); !errors.As(err, &exist) || !errors.Is(err, fs.ErrExist) {
		t.Errorf("the same name again: %v", err)
	}
	if list, err := s.Networks(); err != nil || len(list) != 1 {
		t.Errorf("got %v, %v", list, err)
	}
	if err := s.RemoveNetwork("web"); err != nil {
		t.Error(err)
	}
	var gone *NotExistError
	if err := s.RemoveNetwork("web"); !errors.As(err, &gone) {
		t.Errorf("removed twice: %v", err)
	}
	if _, err := s.Network("web"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed: %v", err)
	}
}

func TestContainer_RoundTrip(t *testing.T) {
	s := open(t)
	c := &Container{
		Key: "a.b", ID: "a", Root: "/run/x", BootID: "boot", Hostname: "h", Aliases: []string{"x", "y"},
		Endpoints: []Endpoint{{"web", "12", "mv12", "eth0", []netip.Addr{addr("10.0.0.2"), addr("fd00::2")}, [6]byte{2, 1, 2, 3, 4, 5}, []string{"z"}, true}, {Network: "half", Pending: true}},
		Ports:     []Port{{netip.Addr{}, 80, 8080, 1, "tcp"}, {addr("127.0.0.1"), 1, 1, 65535, "udp"}},
	}
	if err := s.Save(c); err != nil {
		t.Fatal(err)
	}
	got, err := s.Container("a.b")
	if err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, c)
	}
	if a4, a6 := got.Endpoints[0].Address4(), got.Endpoints[0].Address6(); a4 != addr("10.0.0.2") || a6 != addr("fd00::2") {
		t.Errorf("addresses %v, %v", a4, a6)
	}
	if err := s.RemoveContainer("a.b"); err != nil {
		t.Error(err)
	}
	if _, err := s.Container("a.b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed: %v", err)
	}
	for _, bad := range []string{"", "../x", "a/b"} {
		if s.RemoveContainer(bad) == nil {
			t.Errorf("removed %q", bad)
		}
	}
}

// Records of later versions, broken ones and those that lie are errors that name
// the file.
func TestRecords_Bad(t *testing.T) {
	s := open(t)
	if err := s.Add(newNetwork("web", "10.1.0.0/24")); err != nil {
		t.Fatal(err)
	}
	path := s.networkDir("web") + "/" + networkFile
	good, _ := os.ReadFile(path)
	for _, tt := range []struct{ from, to, want string }{
		{`"version":1`, `"version":2`, "has version 2"},
		{`"version":1,`, ``, "no version"},
		{`10.1.0.0/24`, `10.1.0.0`, "ParsePrefix"},
		{`10.1.0.1`, `10.1.0.x`, "10.1.0.x"},
		{`"networks"`, `"maybe"`, "unknown isolation"},
		{`"name":"web"`, `"name":"other"`, "says that it is"},
		{`}`, ``, "line 1"},
	} {
		text := strings.Replace(string(good), tt.from, tt.to, 1)
		if text == string(good) {
			t.Fatalf("%q is not in the record", tt.from)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Network("web"); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q for %q: %v", tt.to, tt.from, err)
		}
		if _, err := s.Networks(); err == nil {
			t.Errorf("%q for %q: listed", tt.to, tt.from)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, ok := range []string{"a", "web", "Web_1.x-y", strings.Repeat("a", 63)} {
		if err := CheckName(ok); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "-a", ".", "..", "a/b", "a b", "a:b", "none", "host", "ns", strings.Repeat("a", 64), "ä", "a\n"} {
		if err := CheckName(bad); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestTake(t *testing.T) {
	s := open(t)
	if err := s.Add(newNetwork("web", "10.1.0.0/24")); err != nil {
		t.Fatal(err)
	}
	a := addr("10.1.0.2")
	for range 2 { // one's own is no error
		if err := s.Take("web", a, "x.1"); err != nil {
			t.Fatal(err)
		}
	}
	var taken *TakenError
	if err := s.Take("web", a, "y.1"); !errors.As(err, &taken) || taken.Key != "x.1" || err.Error() != `address 10.1.0.2 is taken by container "x"` {
		t.Errorf("got %v", err)
	}
	if got := s.Last("web", false); got != a {
		t.Errorf("last is %v", got)
	}
	if err := s.Free("web", a, "y.1"); err != nil { // not his
		t.Error(err)
	}
	if key, err := s.Holder("web", a); err != nil || key != "x.1" {
		t.Errorf("holder %q, %v", key, err)
	}
	for range 2 {
		if err := s.Free("web", a, "x.1"); err != nil {
			t.Error(err)
		}
	}
	if list, err := s.Leases("web"); err != nil || len(list) != 0 {
		t.Errorf("leases %v, %v", list, err)
	}
}

func TestPorts(t *testing.T) {
	s := open(t)
	port := func(ip string, host, count uint16, protocol string) *Port {
		p := &Port{Host: host, Container: host, Count: count, Protocol: protocol}
		if ip != "" {
			p.IP = addr(ip)
		}
		return p
	}
	for _, p := range []*Port{port("", 80, 1, "tcp"), port("10.0.0.1", 443, 1, "tcp"), port("", 1000, 100, "udp"), port("::", 53, 1, "udp"), port("", 65535, 1, "tcp")} {
		if err := s.TakePort(p, "x.1"); err != nil {
			t.Errorf("%v: %v", p, err)
		}
	}
	for _, tt := range []struct {
		p     *Port
		taken bool
	}{
		{port("", 80, 1, "tcp"), true},
		{port("", 80, 1, "udp"), false},
		{port("127.0.0.1", 80, 1, "tcp"), true},
		{port("10.0.0.2", 443, 1, "tcp"), false},
		{port("0.0.0.0", 443, 1, "tcp"), true},
		{port("", 443, 1, "tcp"), true},
		{port("::", 443, 1, "tcp"), false},
		{port("", 999, 1, "udp"), false},
		{port("", 990, 11, "udp"), true},
		{port("", 1099, 1, "udp"), true},
		{port("", 1100, 1, "udp"), false},
		{port("0.0.0.0", 53, 1, "udp"), false},
		{port("fd00::1", 53, 1, "udp"), true},
		{port("", 60000, 5536, "tcp"), true},
		{port("", 1, 65535, "sctp"), false},
	} {
		if got, err := s.PortTaken(tt.p); err != nil || got != tt.taken {
			t.Errorf("%v: taken %v, %v", tt.p, got, err)
		}
		err := s.TakePort(tt.p, "y.1")
		if got := errors.Is(err, fs.ErrExist); got != tt.taken || err != nil && !got {
			t.Errorf("%v: %v, want taken %v", tt.p, err, tt.taken)
		}
		if err == nil {
			if err := s.FreePort(tt.p, "y.1"); err != nil {
				t.Error(err)
			}
		}
	}
	if got := port("fd00::1", 80, 3, "tcp").String(); got != "[fd00::1]:80-82:80-82/tcp" {
		t.Errorf("got %s", got)
	}
	if err := s.FreeAll("x.1"); err != nil {
		t.Error(err)
	}
	if err := s.TakePort(port("", 1, 65535, "tcp"), "y.1"); err != nil {
		t.Errorf("after all were freed: %v", err)
	}
}

func TestMAC(t *testing.T) {
	m, err := ParseMAC("02:00:0a:ff:00:01")
	if err != nil || FormatMAC(m) != "02:00:0a:ff:00:01" {
		t.Errorf("got %x, %v", m, err)
	}
	for _, bad := range []string{"", "02:00:00:00:00", "01:00:00:00:00:01", "00:00:00:00:00:00", "02-00-00-00-00-01", "02:00:00:00:00:0g", "02:00:00:00:00:011"} {
		if _, err := ParseMAC(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// allocate is what an attach does: the next address that is free.
func allocate(s Store, network, key string) (netip.Addr, error) {
	unlock, err := s.Lock()
	if err != nil {
		return netip.Addr{}, err
	}
	defer unlock()
	n, err := s.Network(network)
	if err != nil {
		return netip.Addr{}, err
	}
	if err := s.Save(&Container{Key: key, ID: IDOf(key)}); err != nil {
		return netip.Addr{}, err
	}
	return s.Next(n, &n.Subnets[0], key)
}

func release(s Store, network, key string, a netip.Addr) error {
	unlock, err := s.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.Free(network, a, key); err != nil {
		return err
	}
	return s.RemoveContainer(key)
}

// Many take and give back at the same time: nobody ever has what another has.
func TestLeases_Concurrent(t *testing.T) {
	s := open(t)
	if err := s.Add(newNetwork("web", "10.1.0.0/27")); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	have := map[netip.Addr]string{}
	var wg sync.WaitGroup
	for i := range 8 { // each has three at a time: 24 of 29
		wg.Go(func() {
			for j := range 12 {
				var own [3]netip.Addr
				for k := range own {
					key := fmt.Sprintf("c%d.%d-%d", i, j, k)
					a, err := allocate(s, "web", key)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					if other, ok := have[a]; ok {
						t.Errorf("%s was given to %s and to %s", a, other, key)
					}
					have[a] = key
					mu.Unlock()
					own[k] = a
				}
				for k, a := range own {
					mu.Lock()
					delete(have, a)
					mu.Unlock()
					if err := release(s, "web", fmt.Sprintf("c%d.%d-%d", i, j, k), a); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if list, err := s.Leases("web"); err != nil || len(list) != 0 {
		t.Errorf("left: %v, %v", list, err)
	}
}

func TestNext_Exhausted(t *testing.T) {
	s := open(t)
	if err := s.Add(newNetwork("web", "10.1.0.0/29")); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if _, err := allocate(s, "web", "c."+strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := allocate(s, "web", "c.more")
	var full *ExhaustedError
	if !errors.As(err, &full) || !errors.Is(err, ipam.ErrExhausted) || !strings.Contains(full.Hint(), "minirun network create") {
		t.Errorf("got %v", err)
	}
}

// TestKillHelper is the process that TestLeases_Killed kills.
func TestKillHelper(t *testing.T) {
	dir := os.Getenv("MINIRUN_STORE_KILL")
	if dir == "" {
		return // run as a test of its own it has nothing to do
	}
	s := Store(dir)
	fmt.Println("begun")
	for i := 0; ; i++ {
		key := fmt.Sprintf("k.%d-%d", os.Getpid(), i)
		a, err := allocate(s, "web", key)
		if err == nil && i%2 == 0 {
			err = release(s, "web", key, a)
		}
		if err != nil {
			fmt.Println("error:", err)
			return
		}
	}
}

// A process that takes and gives back is killed at any moment. What it leaves is
// consistent: every lease belongs to a record or to nobody, and healing frees all.
func TestLeases_Killed(t *testing.T) {
	s := open(t)
	if err := s.Add(newNetwork("web", "10.0.0.0/16")); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		cmd := exec.Command(self, "-test.run=^TestKillHelper$")
		cmd.Env = append(os.Environ(), "MINIRUN_STORE_KILL="+string(s))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if line != "begun\n" {
			t.Fatalf("helper says %q, %v", line, err)
		}
		time.Sleep(testenv.Timeout(time.Duration(i*700) * time.Microsecond)) // any moment is a good one
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		keys, err := s.Keys()
		if err != nil {
			t.Fatal(err)
		}
		known := map[string]bool{}
		for _, k := range keys {
			known[k] = true
		}
		list, err := s.Leases("web")
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range list {
			if key, err := s.Holder("web", a); err != nil || !known[key] {
				t.Errorf("%s is held by %q, which has no record (%v)", a, key, err)
			}
		}
		if _, err := allocate(s, "web", "after."+strconv.Itoa(i)); err != nil {
			t.Fatalf("after a kill: %v", err)
		}
	}
	keys, _ := s.Keys()
	for _, k := range keys {
		if err := errors.Join(s.FreeAll(k), s.RemoveContainer(k)); err != nil {
			t.Error(err)
		}
	}
	if list, _ := s.Leases("web"); len(list) != 0 {
		t.Errorf("leases of nobody: %v", list)
	}
	if left, _ := filepath.Glob(string(s) + "/containers/*"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// The next address is found where the last one was, whatever else is taken, and what
// is in between still when the subnet is nearly full.
func TestNext_Full(t *testing.T) {
	s := open(t)
	if err := s.Add(newNetwork("web", "10.1.0.0/26")); err != nil { // 61 for containers
		t.Fatal(err)
	}
	have := map[netip.Addr]string{}
	for i := range 61 {
		key := fmt.Sprintf("c%d.0", i)
		a, err := allocate(s, "web", key)
		if err != nil || have[a] != "" {
			t.Fatalf("container %d: %s, which is that of %q, %v", i, a, have[a], err)
		}
		have[a] = key
	}
	var full *ExhaustedError
	if a, err := allocate(s, "web", "more.0"); !errors.As(err, &full) || full.Taken != 61 {
		t.Fatalf("one more: %s, %v", a, err)
	}
	free := netip.MustParseAddr("10.1.0.40")
	if err := release(s, "web", have[free], free); err != nil {
		t.Fatal(err)
	}
	if a, err := allocate(s, "web", "last.0"); err != nil || a != free {
		t.Errorf("got %s, %v; want the only one that is free, %s", a, err, free)
	}
}
