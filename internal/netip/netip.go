// Package netip is addresses and subnets, by the names that net/netip has for them,
// without zones. net/netip interns zones, which makes maps and starts a goroutine
// before main: a third of what the packages of minirun would take to initialize, at
// every start. Tests compare the two.
package netip

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"strconv"
)

// Addr is an address of IPv4 or IPv6. The zero Addr is none. It can be compared
// with == and be a key of a map.
type Addr struct {
	hi, lo uint64 // of IPv4 in the form of ::ffff:a.b.c.d
	family byte   // 0, 4 or 6
}

const mapped = 0xffff << 32

// AddrFrom4 is the address of IPv4 with these bytes.
func AddrFrom4(b [4]byte) Addr {
	return Addr{lo: mapped | uint64(binary.BigEndian.Uint32(b[:])), family: 4}
}

// AddrFrom16 is the address of IPv6 with these bytes.
func AddrFrom16(b [16]byte) Addr {
	return Addr{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:]), 6}
}

// AddrFromSlice is the address with 4 or 16 bytes.
func AddrFromSlice(b []byte) (a Addr, ok bool) {
	switch len(b) {
	case 4:
		return AddrFrom4([4]byte(b)), true
	case 16:
		return AddrFrom16([16]byte(b)), true
	}
	return a, false
}

// IPv4Unspecified is 0.0.0.0.
func IPv4Unspecified() Addr { return AddrFrom4([4]byte{}) }

// IPv6Unspecified is "::".
func IPv6Unspecified() Addr { return Addr{family: 6} }

// IPv6Loopback is ::1.
func IPv6Loopback() Addr { return Addr{lo: 1, family: 6} }

// IsValid reports whether there is an address.
func (a Addr) IsValid() bool { return a.family != 0 }

// Is4 reports whether it is one of IPv4.
func (a Addr) Is4() bool { return a.family == 4 }

// Is6 reports whether it is one of IPv6.
func (a Addr) Is6() bool { return a.family == 6 }

// Is4In6 reports whether it is one of IPv4 in the form of IPv6.
func (a Addr) Is4In6() bool { return a.family == 6 && a.hi == 0 && a.lo>>32 == 0xffff }

// Unmap turns such a one into one of IPv4.
func (a Addr) Unmap() Addr {
	if a.Is4In6() {
		a.family = 4
	}
	return a
}

// BitLen is 32, 128, or 0 without an address.
func (a Addr) BitLen() int {
	switch a.family {
	case 4:
		return 32
	case 6:
		return 128
	}
	return 0
}

// As4 is the address in 4 bytes. It must be one of IPv4, or one in the form of IPv6.
func (a Addr) As4() (b [4]byte) {
	if a.Unmap().family != 4 {
		panic("netip: As4 of " + a.String())
	}
	binary.BigEndian.PutUint32(b[:], uint32(a.lo))
	return b
}

// As16 is the address in 16 bytes; one of IPv4 in the form of IPv6.
func (a Addr) As16() (b [16]byte) {
	binary.BigEndian.PutUint64(b[:8], a.hi)
	binary.BigEndian.PutUint64(b[8:], a.lo)
	return b
}

// AsSlice is the address in 4 or 16 bytes, nil without one.
func (a Addr) AsSlice() []byte {
	switch a.family {
	case 4:
		b := a.As4()
		return b[:]
	case 6:
		b := a.As16()
		return b[:]
	}
	return nil
}

// IsLoopback reports whether it is one that a host calls itself by.
func (a Addr) IsLoopback() bool {
	if a = a.Unmap(); a.family == 4 {
		return uint8(a.lo>>24) == 127
	}
	return a == IPv6Loopback()
}

// IsUnspecified reports whether it is 0.0.0.0 or "::".
func (a Addr) IsUnspecified() bool { return a == IPv4Unspecified() || a == IPv6Unspecified() }

// IsMulticast reports whether it is one of a group.
func (a Addr) IsMulticast() bool {
	if a = a.Unmap(); a.family == 4 {
		return uint8(a.lo>>28)&15 == 14
	}
	return a.family == 6 && a.hi>>56 == 0xff
}

// IsLinkLocalUnicast reports whether it has a meaning on one link only.
func (a Addr) IsLinkLocalUnicast() bool {
	if a = a.Unmap(); a.family == 4 {
		return uint16(a.lo>>16) == 169<<8|254
	}
	return a.family == 6 && a.hi>>54 == 0xfe80>>6
}

// Next is the address behind it; none behind the last one.
func (a Addr) Next() Addr {
	if a.lo++; a.lo == 0 {
		a.hi++
	}
	if a.family == 4 && uint32(a.lo) == 0 || a.family == 6 && a.hi|a.lo == 0 {
		return Addr{}
	}
	return a
}

// String is the address as people write it, for IPv6 as RFC 5952 has it.
func (a Addr) String() string {
	switch a.family {
	case 0:
		return "invalid IP"
	case 4:
		return string(a.append4(make([]byte, 0, 15)))
	}
	b := make([]byte, 0, 39)
	if a.Is4In6() {
		return string(a.append4(append(b, "::ffff:"...)))
	}
	at, n := a.zeros()
	for i := 0; i < 8; i++ {
		if i == at {
			b = append(b, "::"...)
			if i += n; i >= 8 {
				break
			}
		} else if i > 0 {
			b = append(b, ':')
		}
		b = strconv.AppendUint(b, uint64(a.group(i)), 16)
	}
	return string(b)
}

func (a Addr) append4(b []byte) []byte {
	for shift := 24; shift >= 0; shift -= 8 {
		b = strconv.AppendUint(b, uint64(uint8(a.lo>>shift)), 10)
		if shift > 0 {
			b = append(b, '.')
		}
	}
	return b
}

// group is one of the eight of an address of IPv6.
func (a Addr) group(i int) uint16 {
	if i < 4 {
		return uint16(a.hi >> (48 - 16*i))
	}
	return uint16(a.lo >> (48 - 16*(i-4)))
}

// zeros is the first of the longest runs of two or more groups of zeros.
func (a Addr) zeros() (at, n int) {
	at = -1
	for i := 0; i < 8; i++ {
		j := i
		for j < 8 && a.group(j) == 0 {
			j++
		}
		if j-i > max(n, 1) {
			at, n = i, j-i
		}
		i = max(i, j-1)
	}
	return at, n
}

// MarshalText is the address for encoders; empty without one.
func (a Addr) MarshalText() ([]byte, error) {
	if !a.IsValid() {
		return nil, nil
	}
	return []byte(a.String()), nil
}

func addrError(s string) error { return errors.New(strconv.Quote(s) + " is no IP address") }

// ParseAddr reads an address. It cannot have a zone.
func ParseAddr(s string) (Addr, error) {
	for i := range len(s) {
		switch s[i] {
		case '.':
			if b, ok := parse4(s); ok {
				return AddrFrom4(b), nil
			}
			return Addr{}, addrError(s)
		case ':':
			if b, ok := parse6(s); ok {
				return AddrFrom16(b), nil
			}
			return Addr{}, addrError(s)
		}
	}
	return Addr{}, addrError(s)
}

func parse4(s string) (b [4]byte, ok bool) {
	for i := range b {
		n, value := 0, 0
		for n < len(s) && s[n] >= '0' && s[n] <= '9' && n < 4 {
			value = 10*value + int(s[n]-'0')
			n++
		}
		if n == 0 || value > 255 || n > 1 && s[0] == '0' { // 010 is 8 to some readers
			return b, false
		}
		b[i] = byte(value)
		if s = s[n:]; i < 3 {
			if s == "" || s[0] != '.' {
				return b, false
			}
			s = s[1:]
		}
	}
	return b, s == ""
}

func parse6(s string) (b [16]byte, ok bool) {
	gap, at := -1, 0
	if len(s) >= 2 && s[0] == ':' && s[1] == ':' {
		gap, s = 0, s[2:]
	}
	for at < 16 && s != "" {
		n, value := 0, 0
		for n < len(s) && hex(s[n]) >= 0 && n < 5 {
			value = value<<4 | hex(s[n])
			n++
		}
		if n == 0 || n > 4 {
			return b, false
		}
		if n < len(s) && s[n] == '.' { // the rest is one of IPv4
			v4, ok := parse4(s)
			if !ok || at > 12 || gap < 0 && at != 12 {
				return b, false
			}
			copy(b[at:], v4[:])
			at, s = at+4, ""
			break
		}
		b[at], b[at+1] = byte(value>>8), byte(value)
		at += 2
		if s = s[n:]; s == "" {
			break
		}
		if s[0] != ':' || len(s) == 1 {
			return b, false
		}
		if s = s[1:]; s[0] == ':' {
			if gap >= 0 {
				return b, false
			}
			gap, s = at, s[1:]
		}
	}
	switch {
	case s != "", gap < 0 && at < 16, gap >= 0 && at == 16:
		return b, false
	case gap >= 0:
		n := at - gap
		copy(b[16-n:], b[gap:at])
		clear(b[gap : 16-n])
	}
	return b, true
}

func hex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// MustParseAddr is for constants of tests.
func MustParseAddr(s string) Addr {
	a, err := ParseAddr(s)
	if err != nil {
		panic(err)
	}
	return a
}

// Prefix is the first bits of an address, and so a subnet. It can be compared with
// ==, but the bits behind the prefix count: see Masked.
type Prefix struct {
	addr Addr
	more uint8 // one more than the bits; 0: not valid
}

// PrefixFrom is the prefix of an address with so many bits; it is not valid if the
// address does not have them.
func PrefixFrom(a Addr, bits int) Prefix {
	if !a.IsValid() || bits < 0 || bits > a.BitLen() {
		return Prefix{addr: a}
	}
	return Prefix{a, uint8(bits) + 1}
}

// Addr is the address, with all its bits.
func (p Prefix) Addr() Addr { return p.addr }

// Bits is the length; -1 if the prefix is not valid.
func (p Prefix) Bits() int { return int(p.more) - 1 }

// IsValid reports whether it is one.
func (p Prefix) IsValid() bool { return p.more > 0 }

// masked clears all but the first n bits.
func (a Addr) masked(n int) Addr {
	if a.family == 4 {
		a.lo &^= 1<<(32-n) - 1
		return a
	}
	if n >= 64 {
		a.lo &^= 1<<(128-n) - 1
		return a
	}
	a.hi &^= 1<<(64-n) - 1
	a.lo = 0
	return a
}

// Masked is the prefix without the bits behind it.
func (p Prefix) Masked() Prefix {
	if !p.IsValid() {
		return Prefix{}
	}
	p.addr = p.addr.masked(p.Bits())
	return p
}

// Contains reports whether the address begins with the prefix.
func (p Prefix) Contains(a Addr) bool {
	return p.IsValid() && p.addr.family == a.family && p.addr.common(a) >= p.Bits()
}

// common is how many bits at the beginning are the same.
func (a Addr) common(b Addr) int {
	n := bits.LeadingZeros64(a.hi ^ b.hi)
	if n == 64 {
		n += bits.LeadingZeros64(a.lo ^ b.lo)
	}
	if a.family == 4 {
		n -= 96
	}
	return n
}

// Overlaps reports whether the two have addresses in common.
func (p Prefix) Overlaps(q Prefix) bool {
	return p.IsValid() && q.IsValid() && p.addr.family == q.addr.family && p.addr.common(q.addr) >= min(p.Bits(), q.Bits())
}

// String is ADDRESS/BITS.
func (p Prefix) String() string {
	if !p.IsValid() {
		return "invalid Prefix"
	}
	return p.addr.String() + "/" + strconv.Itoa(p.Bits())
}

// MarshalText is the prefix for encoders; empty without one.
func (p Prefix) MarshalText() ([]byte, error) {
	if !p.IsValid() {
		return nil, nil
	}
	return []byte(p.String()), nil
}

// ParsePrefix reads ADDRESS/BITS.
func ParsePrefix(s string) (Prefix, error) {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] != '/' {
			continue
		}
		a, err := ParseAddr(s[:i])
		text := s[i+1:]
		n, err2 := strconv.ParseUint(text, 10, 8)
		if err != nil || err2 != nil || len(text) > 1 && text[0] == '0' || int(n) > a.BitLen() {
			break
		}
		return PrefixFrom(a, int(n)), nil
	}
	return Prefix{}, errors.New(strconv.Quote(s) + " is no ADDRESS/BITS")
}

// MustParsePrefix is for constants of tests.
func MustParsePrefix(s string) Prefix {
	p, err := ParsePrefix(s)
	if err != nil {
		panic(err)
	}
	return p
}
