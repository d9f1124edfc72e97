package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/internal/nfnetlink"
	"github.com/minirun/minirun/network/store"
	"golang.org/x/sys/unix"
)

// Names in nftables. The second table is the user's: it is made empty, its chains
// see packets before ours do, and nobody here looks at it again.
const (
	Table     = "minirun"
	UserTable = "minirun_user"
)

const inet = unix.NFPROTO_INET

// Numbers that nft(8) knows data types by.
const (
	typeIPv4   = 7
	typeIPv6   = 8
	typeProto  = 12
	typePort   = 13
	typeIfname = 41
)

// family is what differs between the two kinds of addresses.
type family struct {
	suffix   string
	proto    byte // unix.NFPROTO_*
	addrType uint32
	size     uint32 // of an address
	src, dst uint32 // offsets in the header
}

func v4() *family { return &family{"4", unix.NFPROTO_IPV4, typeIPv4, 4, 12, 16} }
func v6() *family { return &family{"6", unix.NFPROTO_IPV6, typeIPv6, 16, 8, 24} }

func familyOf(a netip.Addr) *family {
	if a.Is4() {
		return v4()
	}
	return v6()
}

// words is the number of registers that an address takes.
func (f *family) words() uint32 { return f.size / 4 }

// tableText is what the table says about itself: the directory that it comes from.
func tableText(s store.Store) []byte {
	text := "networks of " + string(s) + "\x00"
	if len(text) > 120 {
		text = text[:119] + "\x00"
	}
	return append([]byte{0, byte(len(text))}, text...) // a comment, in nft's words
}

// ForeignTableError reports a table that other records describe.
type ForeignTableError struct{ Have, Want string }

func (e *ForeignTableError) Error() string {
	return fmt.Sprintf("nftables table inet %s has the %s, want the %s", Table, e.Have, e.Want)
}

// Hint says what to do.
func (*ForeignTableError) Hint() string {
	return "one directory of networks at a time: use the same --store, or, if nothing of the other one is in use, nft delete table inet " + Table
}

// checkTable reports whether our table is there.
func (h *Host) checkTable(c *nfnetlink.Conn) (bool, error) {
	have, err := c.Table(inet, Table)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, nftError(err)
	}
	if want := tableText(h.Store); string(have) != string(want) {
		name := func(b []byte) string {
			if len(b) < 3 {
				return "rules of somebody else"
			}
			return strings.TrimRight(string(b[2:]), "\x00")
		}
		return true, &ForeignTableError{name(have), name(want)}
	}
	return true, nil
}

// nftError explains what nftables has refused. EINVAL is what a kernel without nf_tables
// says to a question, and EOPNOTSUPP to a change.
func nftError(err error) error {
	var hint string
	var said *Error
	switch {
	case err == nil, errors.As(err, &said):
		return err
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		hint = "rules of the host take root with CAP_NET_ADMIN; without it use --network none or host"
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EINVAL):
		hint = "the kernel lacks a part of nf_tables: modprobe nf_tables nft_chain_nat nft_fib_inet nft_masq nft_nat"
	default:
		return fmt.Errorf("rules of nftables: %w", err)
	}
	return &Error{&rulesError{err}, hint}
}

// A rulesError says that we cannot have rules at all, and so have none.
type rulesError struct{ err error }

func (e *rulesError) Error() string { return "rules of nftables: " + e.err.Error() }
func (e *rulesError) Unwrap() error { return e.err }

// Error is an error with a way out.
type Error struct {
	Err  error
	hint string
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *Error) Hint() string { return e.hint }

// sets are those of the table.
func sets() []nfnetlink.Set {
	name := nfnetlink.Field{Type: typeIfname, Len: 16, HostOrder: true}
	list := []nfnetlink.Set{
		{Name: "bridges", Key: []nfnetlink.Field{name}},
		{Name: "internal", Key: []nfnetlink.Field{name}},
		{Name: "open", Key: []nfnetlink.Field{name}},
		{Name: "same", Key: []nfnetlink.Field{name, name}},
	}
	for _, f := range []*family{v4(), v6()} {
		addr := nfnetlink.Field{Type: f.addrType, Len: f.size}
		port := nfnetlink.Field{Type: typePort, Len: 2}
		key := []nfnetlink.Field{addr, {Type: typeProto, Len: 1}, port}
		list = append(list,
			nfnetlink.Set{Name: "publish" + f.suffix, Key: key, Data: []nfnetlink.Field{addr, port}, Interval: true},
			nfnetlink.Set{Name: "ranges" + f.suffix, Key: key, Data: []nfnetlink.Field{addr}, Interval: true},
			nfnetlink.Set{Name: "hairpin" + f.suffix, Key: []nfnetlink.Field{addr, addr}})
	}
	return list
}

// Bits of linux/netfilter/nf_conntrack_common.h.
const (
	stateEstablished = 1 << 1
	stateRelated     = 1 << 2
	statusDNAT       = 1 << 5
)

type rule struct {
	chain string
	r     *nfnetlink.Rule
}

func in() *nfnetlink.Rule  { return new(nfnetlink.Rule).Meta(unix.NFT_META_IIFNAME, 0) }
func out() *nfnetlink.Rule { return new(nfnetlink.Rule).Meta(unix.NFT_META_OIFNAME, 0) }
func inOut() *nfnetlink.Rule {
	return in().Meta(unix.NFT_META_OIFNAME, 4)
}

func (f *family) only() *nfnetlink.Rule {
	return new(nfnetlink.Rule).Meta(unix.NFT_META_NFPROTO, 0).Equal([]byte{f.proto}, 0)
}

func (f *family) load(r *nfnetlink.Rule, offset, to uint32) *nfnetlink.Rule {
	return r.Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, offset, f.size, to)
}

// destination loads destination address, protocol and port.
func (f *family) destination() *nfnetlink.Rule {
	w := f.words()
	return f.load(f.only(), f.dst, 0).Meta(unix.NFT_META_L4PROTO, w).Payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, w+1)
}

// rules of the table. They are always the same.
func rules() []rule {
	v4, v6 := v4(), v6()
	list := []rule{
		// A container that publishes port 53 does not get what others ask the host.
		{"prerouting", in().In("bridges", 0).Payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, 0).Equal([]byte{0, 53}, 0).InterfaceDestination().Return()},
		{"prerouting", new(nfnetlink.Rule).LocalDestination().Jump("publish")},
		// What a loopback address is the source of cannot leave the host: the kernel
		// would drop what we have sent elsewhere. See loopback.go.
		{"output", v4.load(v4.only(), v4.dst, 0).Mask([]byte{255, 0, 0, 0}, 0).Equal([]byte{127, 0, 0, 0}, 0).Return()},
		{"output", v6.load(v6.only(), v6.dst, 0).Equal(netip.IPv6Loopback().AsSlice(), 0).Return()},
		{"output", new(nfnetlink.Rule).LocalDestination().Jump("publish")},
	}
	for _, f := range []*family{v4, v6} {
		list = append(list,
			rule{"publish", f.destination().Map("publish"+f.suffix, 0).DNAT(f.proto, true)},
			rule{"publish", f.destination().Map("ranges"+f.suffix, 0).DNAT(f.proto, false)},
			// Who calls himself by a published port would answer himself directly.
			rule{"postrouting", f.load(f.load(f.only(), f.src, 0), f.dst, f.words()).In("hairpin"+f.suffix, 0).Masquerade()})
	}
	return append(list,
		rule{"postrouting", inOut().In("bridges", 0).NotIn("bridges", 4).Masquerade()},

		rule{"forward", new(nfnetlink.Rule).CT(unix.NFT_CT_STATE, 0).AnyOf(stateEstablished|stateRelated, 0).Accept()},
		rule{"forward", inOut().In("same", 0).Accept()},
		rule{"forward", in().In("internal", 0).Drop()},
		rule{"forward", out().In("internal", 0).Drop()},
		rule{"forward", out().In("bridges", 0).CT(unix.NFT_CT_STATUS, 0).AnyOf(statusDNAT, 0).Accept()},
		rule{"forward", inOut().In("open", 0).In("open", 4).Accept()},
		rule{"forward", out().In("bridges", 0).Drop()},
		rule{"forward", in().In("bridges", 0).Accept()},

		// A container that is told to talk to its neighbour directly would bypass
		// address translation, or find that the ports of the bridge are isolated.
		rule{"redirect", out().In("bridges", 0).Meta(unix.NFT_META_L4PROTO, 0).Equal([]byte{unix.IPPROTO_ICMP}, 0).
			Payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1, 0).Equal([]byte{5}, 0).Drop()},
		rule{"redirect", out().In("bridges", 0).Meta(unix.NFT_META_L4PROTO, 0).Equal([]byte{unix.IPPROTO_ICMPV6}, 0).
			Payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1, 0).Equal([]byte{137}, 0).Drop()},
	)
}

// addTable is the whole table.
func (h *Host) addTable(b *nfnetlink.Batch, networks []*store.Network, containers []*store.Container) {
	// A table that is not there cannot be deleted, one that is there can be made.
	b.AddTable(inet, Table, tableText(h.Store))
	b.DelTable(inet, Table)
	b.AddTable(inet, Table, tableText(h.Store))
	for _, s := range sets() {
		b.AddSet(inet, Table, &s)
	}
	b.AddChain(inet, Table, "publish", nil)
	for _, c := range []struct {
		name string
		hook nfnetlink.Hook
	}{
		{"prerouting", nfnetlink.Hook{Type: "nat", Number: unix.NF_INET_PRE_ROUTING, Priority: -100}},
		{"output", nfnetlink.Hook{Type: "nat", Number: unix.NF_INET_LOCAL_OUT, Priority: -100}},
		{"postrouting", nfnetlink.Hook{Type: "nat", Number: unix.NF_INET_POST_ROUTING, Priority: 100}},
		{"forward", nfnetlink.Hook{Type: "filter", Number: unix.NF_INET_FORWARD, Priority: 0}},
		{"redirect", nfnetlink.Hook{Type: "filter", Number: unix.NF_INET_LOCAL_OUT, Priority: 0}},
	} {
		b.AddChain(inet, Table, c.name, &c.hook)
	}
	for _, r := range rules() {
		b.AddRule(inet, Table, r.chain, r.r)
	}
	for _, n := range networks {
		addNetwork(b, n)
	}
	for _, c := range containers {
		addPorts(b, c)
	}
	b.AddTable(inet, UserTable, nil)
	b.AddChain(inet, UserTable, "forward", &nfnetlink.Hook{Type: "filter", Number: unix.NF_INET_FORWARD, Priority: -10})
	b.AddChain(inet, UserTable, "input", &nfnetlink.Hook{Type: "filter", Number: unix.NF_INET_LOCAL_IN, Priority: -10})
}

func ifname(s string) []byte {
	var b [16]byte
	copy(b[:15], s)
	return b[:]
}

// networkSets are the sets that a network is in.
func networkSets(n *store.Network) (names []string) {
	names = append(names, "bridges")
	if n.Internal {
		names = append(names, "internal")
	}
	if n.Isolate == store.None {
		names = append(names, "open")
	}
	return names
}

func addNetwork(b *nfnetlink.Batch, n *store.Network) {
	name := ifname(n.Bridge)
	for _, set := range networkSets(n) {
		b.AddElements(inet, Table, set, nfnetlink.Element{Key: name})
	}
	if n.Isolate != store.Containers {
		b.AddElements(inet, Table, "same", nfnetlink.Element{Key: append(ifname(n.Bridge), name...)})
	}
}

// elements are those of the maps of published ports, by the map.
func elements(c *store.Container, f func(set string, e nfnetlink.Element)) {
	if len(c.Ports) == 0 || len(c.Endpoints) == 0 {
		return
	}
	for _, to := range c.Endpoints[0].Addresses {
		fam := familyOf(to)
		a := to.AsSlice()
		f("hairpin"+fam.suffix, nfnetlink.Element{Key: append(to.AsSlice(), a...)})
		for i := range c.Ports {
			p := &c.Ports[i]
			if p.IP.IsValid() && p.IP.Is4() != to.Is4() || p.IP.IsLoopback() {
				continue
			}
			switch {
			case p.Count == 1:
				f("publish"+fam.suffix, portElement(fam, p, 0, 1, append(to.AsSlice(), port(p.Container)...)))
			case p.Host == p.Container:
				f("ranges"+fam.suffix, portElement(fam, p, 0, p.Count, a))
			default: // a range that moves is no range to nftables
				for n := range p.Count {
					f("publish"+fam.suffix, portElement(fam, p, n, 1, append(to.AsSlice(), port(p.Container+n)...)))
				}
			}
		}
	}
}

// port is one in a key: two bytes, and two more to fill the register.
func port(n uint16) []byte { return append(binary.BigEndian.AppendUint16(nil, n), 0, 0) }

func portElement(f *family, p *store.Port, offset, count uint16, data []byte) nfnetlink.Element {
	first, last := make([]byte, f.size, f.size+8), make([]byte, f.size, f.size+8)
	if p.IP.IsValid() && !p.IP.IsUnspecified() {
		copy(first, p.IP.AsSlice())
		copy(last, p.IP.AsSlice())
	} else {
		for i := range last {
			last[i] = 255
		}
	}
	proto := []byte{protocolNumber(p.Protocol), 0, 0, 0}
	first = append(append(first, proto...), port(p.Host+offset)...)
	last = append(append(last, proto...), port(p.Host+offset+count-1)...)
	return nfnetlink.Element{Key: first, End: last, Data: data}
}

func protocolNumber(name string) byte {
	switch name {
	case "udp":
		return unix.IPPROTO_UDP
	case "sctp":
		return unix.IPPROTO_SCTP
	}
	return unix.IPPROTO_TCP
}

func addPorts(b *nfnetlink.Batch, c *store.Container) {
	elements(c, func(set string, e nfnetlink.Element) { b.AddElements(inet, Table, set, e) })
}

// delPorts takes the elements out. What is not there would fail the batch: it is
// put there first.
func delPorts(b *nfnetlink.Batch, c *store.Container) {
	addPorts(b, c)
	elements(c, func(set string, e nfnetlink.Element) { b.DelElements(inet, Table, set, e) })
}
