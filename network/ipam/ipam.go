// Package ipam is the arithmetic of addresses: which subnet a new network gets,
// which address the next container, and what overlaps. It is pure: what is taken
// already is told to it, and who takes something is the matter of its caller.
package ipam

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/minirun/minirun/internal/netip"
)

// A Pool is what subnets of a size are cut from.
type Pool struct {
	Base netip.Prefix
	Bits int // of each subnet
}

// DefaultPools are where subnets come from unless a user names one. They avoid
// what docker, podman and libvirt take by default, and home networks.
func DefaultPools() []Pool {
	return []Pool{
		{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 201, 0, 0}), 16), 24},
		{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 202, 0, 0}), 16), 24},
		{netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 31, 0, 0}), 16), 24},
		{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, 192, 0}), 18), 24},
	}
}

// ErrExhausted is what there is nothing left of.
var ErrExhausted = errors.New("nothing is left")

// Subnet finds the first subnet of the pools that overlaps nothing that is taken.
func Subnet(pools []Pool, taken []netip.Prefix) (netip.Prefix, error) {
	for _, p := range pools {
		for s := netip.PrefixFrom(p.Base.Masked().Addr(), p.Bits); s.IsValid() && p.Base.Contains(s.Addr()); {
			o, hit := overlap(s, taken)
			if !hit {
				return s, nil
			}
			// Behind the larger of the two: a route to 10.0.0.0/8 is not walked
			// through in steps of 256 addresses.
			if o.Bits() > s.Bits() {
				o = s
			}
			next := last(o).Next()
			if !next.IsValid() {
				break
			}
			s = netip.PrefixFrom(next, p.Bits)
		}
	}
	return netip.Prefix{}, ErrExhausted
}

// Overlap returns the first of taken that overlaps p.
func Overlap(p netip.Prefix, taken []netip.Prefix) (netip.Prefix, bool) { return overlap(p, taken) }

func overlap(p netip.Prefix, taken []netip.Prefix) (netip.Prefix, bool) {
	for _, t := range taken {
		if t.Bits() > 0 && t.Overlaps(p) { // a default route leads everywhere and is nobody's network
			return t, true
		}
	}
	return netip.Prefix{}, false
}

// last is the last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As16()
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	for i := bits; i < 128; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a := netip.AddrFrom16(b)
	if p.Addr().Is4() {
		return a.Unmap()
	}
	return a
}

// CheckSubnet refuses what no network of containers can have.
func CheckSubnet(p netip.Prefix) error {
	a := p.Addr()
	switch {
	case !p.IsValid():
		return errors.New("want ADDRESS/BITS")
	case a != p.Masked().Addr():
		return fmt.Errorf("bits of the host are set: do you mean %s?", p.Masked())
	case a.Is4In6():
		return errors.New("this is an IPv4 address in the form of an IPv6 one")
	case a.IsLoopback(), a.IsMulticast(), a.IsLinkLocalUnicast(), a.IsUnspecified():
		return errors.New("these addresses have another meaning: loopback, multicast, link-local or none")
	case a.Is4() && (p.Bits() > 30 || p.Bits() < 8):
		return errors.New("want 8 to 30 bits")
	case a.Is6() && (p.Bits() > 126 || p.Bits() < 32):
		return errors.New("want 32 to 126 bits")
	}
	return nil
}

// Usable reports whether a host in the subnet can have the address: in it, and
// neither its first address nor, for IPv4, its last, the broadcast.
func Usable(p netip.Prefix, a netip.Addr) bool {
	return p.Contains(a) && a != p.Masked().Addr() && (a.Is6() || a != last(p))
}

// Gateway is the address that the host has in a subnet unless told otherwise: the first.
func Gateway(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }

// Next finds an address of the subnet that is not taken, behind after if that is
// one of the subnet: an address that has just become free is used again as late
// as possible, because neighbours remember who had it. n is at least the number
// of addresses that taken knows.
func Next(p netip.Prefix, after netip.Addr, n int, taken func(netip.Addr) bool) (netip.Addr, error) {
	first := Gateway(p)
	a := first
	if Usable(p, after) {
		a = after.Next()
	}
	// Among n+1 different addresses one is free; two more for the ends of the subnet.
	for range n + 3 {
		if !Usable(p, a) {
			a = first
		}
		if !taken(a) {
			return a, nil
		}
		a = a.Next()
	}
	return netip.Addr{}, ErrExhausted
}

// ULA is a subnet of 64 bits for private use, RFC 4193, from 56 random bits.
func ULA(random [7]byte) netip.Prefix {
	b := [16]byte{0xfd}
	copy(b[1:8], random[:])
	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}

// MAC is the hardware address that goes with an address: locally administered,
// and as unique within the subnet as the address.
func MAC(a netip.Addr) [6]byte {
	b := a.As16()
	var m [6]byte
	binary.BigEndian.PutUint16(m[:], 0x026d)
	copy(m[2:], b[12:])
	return m
}
