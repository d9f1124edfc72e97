package ipam

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/minirun/minirun/internal/netip"
)

func prefixes(t *testing.T, list ...string) (out []netip.Prefix) {
	t.Helper()
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestSubnet(t *testing.T) {
	pools := []Pool{{netip.MustParsePrefix("10.1.0.0/22"), 24}, {netip.MustParsePrefix("10.9.0.0/24"), 24}}
	for _, tt := range []struct {
		name  string
		taken []string
		want  string
	}{
		{"nothing taken", nil, "10.1.0.0/24"},
		{"a default route is no network", []string{"0.0.0.0/0"}, "10.1.0.0/24"},
		{"the first", []string{"10.1.0.0/24"}, "10.1.1.0/24"},
		{"a host in it", []string{"10.1.0.77/32"}, "10.1.1.0/24"},
		{"a larger one", []string{"10.1.0.0/23"}, "10.1.2.0/24"},
		{"another family", []string{"fd00::/8"}, "10.1.0.0/24"},
		{"the whole pool", []string{"10.1.0.0/16"}, "10.9.0.0/24"},
		{"all of it", []string{"10.0.0.0/8"}, ""},
		{"to the end", []string{"10.1.0.0/24", "10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24", "10.9.0.128/25"}, ""},
	} {
		got, err := Subnet(pools, prefixes(t, tt.taken...))
		if tt.want == "" {
			if !errors.Is(err, ErrExhausted) {
				t.Errorf("%s: got %v, %v, want ErrExhausted", tt.name, got, err)
			}
			continue
		}
		if err != nil || got.String() != tt.want {
			t.Errorf("%s: got %v, %v, want %s", tt.name, got, err, tt.want)
		}
	}
	if p, err := Subnet([]Pool{{netip.MustParsePrefix("255.255.255.0/24"), 24}}, prefixes(t, "255.255.255.0/24")); !errors.Is(err, ErrExhausted) {
		t.Errorf("at the end of all addresses: %v, %v", p, err)
	}
}

// What Subnet gives never overlaps what is taken, and as long as it says that
// nothing is left nothing is.
func TestSubnet_Property(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pool := Pool{netip.MustParsePrefix("10.0.0.0/18"), 24}
	for range 300 {
		var taken []netip.Prefix
		for range r.IntN(30) {
			a := netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(64)), byte(r.IntN(256))})
			taken = append(taken, netip.PrefixFrom(a, 18+r.IntN(15)).Masked())
		}
		free := 0
		for i := range 64 {
			if _, hit := Overlap(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 0}), 24), taken); !hit {
				free++
			}
		}
		got := 0
		for {
			s, err := Subnet([]Pool{pool}, taken)
			if err != nil {
				break
			}
			if o, hit := Overlap(s, taken); hit || !pool.Base.Contains(s.Addr()) || s.Bits() != 24 {
				t.Fatalf("%v: overlaps %v, of %v", s, o, taken)
			}
			got++
			taken = append(taken, s)
		}
		if got != free {
			t.Fatalf("%d subnets, %d are free: %v", got, free, taken)
		}
	}
}

func TestCheckSubnet(t *testing.T) {
	for _, ok := range []string{"10.0.0.0/8", "192.168.7.4/30", "fd00:1::/64", "2001:db8::/126"} {
		if err := CheckSubnet(netip.MustParsePrefix(ok)); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
	for _, bad := range []string{"10.0.0.1/24", "10.0.0.0/31", "10.0.0.0/7", "127.0.0.0/8", "224.0.0.0/24", "169.254.0.0/16", "::1/128", "fe80::/64", "fd00::/127", "fd00::/20", "::ffff:10.0.0.0/120", "0.0.0.0/8"} {
		p, err := netip.ParsePrefix(bad)
		if err != nil {
			t.Fatal(err)
		}
		if CheckSubnet(p) == nil {
			t.Errorf("%s: no error", bad)
		}
	}
	if CheckSubnet(netip.Prefix{}) == nil {
		t.Error("no prefix: no error")
	}
}

// Taking addresses until there are none gives each usable one exactly once.
func TestNext_All(t *testing.T) {
	for _, tt := range []struct {
		subnet string
		want   int
	}{{"10.0.0.0/24", 254}, {"10.0.0.0/30", 2}, {"fd00::/126", 3}, {"10.0.0.0/16", 65534}} {
		p := netip.MustParsePrefix(tt.subnet)
		taken := map[netip.Addr]bool{}
		var after netip.Addr
		for {
			a, err := Next(p, after, len(taken), func(a netip.Addr) bool { return taken[a] })
			if err != nil {
				break
			}
			if taken[a] || !Usable(p, a) {
				t.Fatalf("%s: %v: taken %v", p, a, taken[a])
			}
			taken[a] = true
			after = a
		}
		if len(taken) != tt.want {
			t.Errorf("%s: %d addresses, want %d", p, len(taken), tt.want)
		}
	}
}

// Addresses come and go at random: one that is given out is never taken, there is
// one as long as one is free, and one that was given back comes last.
func TestNext_Property(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, subnet := range []string{"10.0.0.0/28", "10.0.0.16/29", "fd00:5::/125", "fd00:5::/64"} {
		p := netip.MustParsePrefix(subnet)
		taken := map[netip.Addr]bool{Gateway(p): true}
		var list []netip.Addr
		var after netip.Addr
		for range 2000 {
			if r.IntN(2) == 0 && len(list) > 0 {
				i := r.IntN(len(list))
				delete(taken, list[i])
				list[i] = list[len(list)-1]
				list = list[:len(list)-1]
				continue
			}
			a, err := Next(p, after, len(taken), func(a netip.Addr) bool { return taken[a] })
			if err != nil {
				if p.Bits() == 64 || len(taken) < 1<<(p.Addr().BitLen()-p.Bits())-2 {
					t.Fatalf("%s: %v with %d taken", p, err, len(taken))
				}
				continue
			}
			if taken[a] || !Usable(p, a) {
				t.Fatalf("%s: got %v", p, a)
			}
			taken[a], after = true, a
			list = append(list, a)
		}
	}
	p := netip.MustParsePrefix("10.0.0.0/28")
	a, _ := Next(p, netip.Addr{}, 1, func(a netip.Addr) bool { return a == Gateway(p) })
	if b, _ := Next(p, a, 1, func(x netip.Addr) bool { return x == Gateway(p) }); b == a {
		t.Errorf("%v was given back and comes again at once", a)
	}
}

func TestULAAndMAC(t *testing.T) {
	p := ULA([7]byte{1, 2, 3, 4, 5, 6, 7})
	if p.String() != "fd01:203:405:607::/64" || CheckSubnet(p) != nil {
		t.Errorf("got %v", p)
	}
	if m := MAC(netip.MustParseAddr("10.1.2.3")); m != [6]byte{2, 0x6d, 10, 1, 2, 3} {
		t.Errorf("got %x", m)
	}
	if m := MAC(netip.MustParseAddr("fd00::8")); m != [6]byte{2, 0x6d, 0, 0, 0, 8} {
		t.Errorf("got %x", m)
	}
}
