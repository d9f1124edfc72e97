package netip

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	std "net/netip"
	"strings"
	"testing"
)

// same compares an address with the standard library's.
func same(t *testing.T, what string, got Addr, want std.Addr) {
	t.Helper()
	if got.String() != want.String() || got.IsValid() != want.IsValid() || got.Is4() != want.Is4() || got.Is6() != want.Is6() || string(got.AsSlice()) != string(want.AsSlice()) {
		t.Fatalf("%s: %s, want %s", what, got, want)
	}
	if got.IsValid() && got.As16() != want.As16() {
		t.Fatalf("%s: bytes %x, want %x", what, got.As16(), want.As16())
	}
	for name, pair := range map[string][2]bool{
		"Is4In6":             {got.Is4In6(), want.Is4In6()},
		"IsLoopback":         {got.IsLoopback(), want.IsLoopback()},
		"IsMulticast":        {got.IsMulticast(), want.IsMulticast()},
		"IsUnspecified":      {got.IsUnspecified(), want.IsUnspecified()},
		"IsLinkLocalUnicast": {got.IsLinkLocalUnicast(), want.IsLinkLocalUnicast()},
	} {
		if pair[0] != pair[1] {
			t.Fatalf("%s: %s of %s is %v", what, name, want, pair[0])
		}
	}
	if got.Next().String() != want.Next().String() || got.Unmap().String() != want.Unmap().String() || got.BitLen() != want.BitLen() {
		t.Fatalf("%s: %s: next %s, unmapped %s, %d bits; want %s, %s, %d", what, want, got.Next(), got.Unmap(), got.BitLen(), want.Next(), want.Unmap(), want.BitLen())
	}
	text, err := got.MarshalText()
	if wantText, _ := want.MarshalText(); err != nil || string(text) != string(wantText) {
		t.Fatalf("%s: text %q, %v", what, text, err)
	}
}

// check reads a text both ways.
func check(t *testing.T, s string) {
	t.Helper()
	got, err := ParseAddr(s)
	want, wantErr := std.ParseAddr(s)
	if want.Zone() != "" { // we have none
		want, wantErr = std.Addr{}, errors.New("zone")
	}
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("ParseAddr(%q): %s, %v; want %s, %v", s, got, err, want, wantErr)
	}
	same(t, s, got, want)
	p, err := ParsePrefix(s)
	wantP, wantErr := std.ParsePrefix(s)
	if (err == nil) != (wantErr == nil) || p.String() != wantP.String() || p.Masked().String() != wantP.Masked().String() || p.Bits() != wantP.Bits() {
		t.Fatalf("ParsePrefix(%q): %s, %v; want %s, %v", s, p, err, wantP, wantErr)
	}
}

func texts() []string {
	list := strings.Fields(`0.0.0.0 1.2.3.4 255.255.255.255 127.0.0.1 224.0.0.1 239.1.1.1 240.0.0.1 169.254.1.1 169.253.255.255 10.201.255.255
		1.2.3 1.2.3.4.5 1.2.3.256 01.2.3.4 1.2.3.04 1..2.3 1.2.3. .1.2.3 1.2.3.4x 1.2.3.0000 1.2.3.1000 -1.2.3.4 +1.2.3.4
		:: ::1 ::2 1:: fe80::1 febf::1 fec0::1 ff02::1 fd00::1 2001:db8::1 2001:db8:0:0:1:0:0:1 1:0:0:2:0:0:0:3 1:2:3:4:5:6:7:8 1:2:3:4:5:6:7:: ::2:3:4:5:6:7:8
		1:2:3:4:5:6:7 1:2:3:4:5:6:7:8:9 1::2::3 ::: :1 1: 1:2:3:4:5:6:7:8: 12345::1 ::12345 g::1 ::ffff:1.2.3.4 ::ffff:127.0.0.1 ::ffff:0.0.0.0 ::ffff:255.255.255.255 ::fffe:1.2.3.4 ::1.2.3.4
		1:2:3:4:5:6:1.2.3.4 1:2:3:4:5:6:7:1.2.3.4 1:2:3:4:5::1.2.3.4 1:2:3:4:5:6::1.2.3.4 1.2.3.4:: ::1.2.3.4:5 ::1.2.3 fe80::1%eth0 ::ffff:1.2.3.4%x
		FE80::ABCD 0:0:0:0:0:0:0:0 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 1:2:3:4::5:6:7:8 1:2:3::5:6:7:8
		10.0.0.0/8 10.1.2.3/8 10.0.0.0/0 10.0.0.0/32 10.0.0.0/33 10.0.0.0/08 10.0.0.0/ 10.0.0.0/-1 10.0.0.0/+8 /8 fd00::/64 fd00::1/64 ::/0 ::/128 ::/129 ::1/127 ::ffff:1.2.3.4/100 1.2.3.4/8/8 fe80::1%a/64 ::/300`)
	return append(list, "", " 1.2.3.4", "1.2.3.4 ", "1", "abc")
}

func TestSameAsStandard(t *testing.T) {
	same(t, "zero", Addr{}, std.Addr{})
	for _, s := range texts() {
		check(t, s)
	}
	if Addr.IsValid(Addr{}) || (Prefix{}).IsValid() || (Prefix{}).Contains(Addr{}) || (Prefix{}).Masked() != (Prefix{}) || (Prefix{}).String() != (std.Prefix{}).String() {
		t.Error("zero values")
	}
	same(t, "unspecified", IPv4Unspecified(), std.IPv4Unspecified())
	same(t, "unspecified", IPv6Unspecified(), std.IPv6Unspecified())
	same(t, "loopback", IPv6Loopback(), std.IPv6Loopback())
	for n := range 20 {
		a, ok := AddrFromSlice(make([]byte, n))
		want, wantOK := std.AddrFromSlice(make([]byte, n))
		if same(t, "slice", a, want); ok != wantOK {
			t.Errorf("%d bytes: %v", n, ok)
		}
	}
	// Pairs of prefixes that often have something in common.
	r := rand.New(rand.NewPCG(1, 2))
	random := func() (Addr, std.Addr) {
		var b [16]byte
		binary.BigEndian.PutUint64(b[:], r.Uint64()&r.Uint64()&0x8000_0000_0000_8001)
		binary.BigEndian.PutUint64(b[8:], r.Uint64()&r.Uint64()&0x8000_0001_8000_0101)
		if r.IntN(2) == 0 {
			return AddrFrom4([4]byte(b[12:])), std.AddrFrom4([4]byte(b[12:]))
		}
		if r.IntN(4) == 0 {
			copy(b[:], "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff")
		}
		return AddrFrom16(b), std.AddrFrom16(b)
	}
	for range 20000 {
		a, wantA := random()
		b, wantB := random()
		same(t, "random", a, wantA)
		n, m := r.IntN(131)-1, r.IntN(131)-1
		p, q, wantP, wantQ := PrefixFrom(a, n), PrefixFrom(b, m), std.PrefixFrom(wantA, n), std.PrefixFrom(wantB, m)
		if p.String() != wantP.String() || p.Masked().String() != wantP.Masked().String() || p.Contains(b) != wantP.Contains(wantB) ||
			p.Overlaps(q) != wantP.Overlaps(wantQ) || (a == b) != (wantA == wantB) || (p == q) != (wantP == wantQ) {
			t.Fatalf("%s and %s: differ from the standard library", wantP, wantQ)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range texts() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { check(t, s) })
}
