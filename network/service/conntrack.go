package service

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// flow is a connection that the kernel tracks.
type flow struct {
	proto  Protocol
	dest   netip.AddrPort // what the client asked for
	server netip.AddrPort // who answers
	dnat   bool
	state  uint8 // of the protocol
	raw    []byte
	id     []byte
}

// Constants of nf_conntrack_tcp.h and nfnetlink_conntrack.h that package unix lacks.
const (
	ctGet, ctDelete = 1, 2

	ctaTupleOrig, ctaTupleReply, ctaStatus, ctaProtoInfo, ctaID = 1, 2, 3, 4, 12
	ctaFilter, ctaStatusMask, ctaFilterOrig, ctaFilterReply     = 25, 26, 1, 2

	ctaTupleIP, ctaTupleProto                               = 1, 2
	ctaIPv4Src, ctaIPv4Dst, ctaIPv6Src, ctaIPv6Dst          = 1, 2, 3, 4
	ctaProtoNum, ctaProtoSrcPort, ctaProtoDstPort           = 1, 2, 3
	ctaProtoInfoTCP, ctaProtoInfoSCTP, ctaProtoInfoState    = 1, 3, 1
	statusDstNAT                                            = 1 << 5
	tcpSynSent, tcpLastAck, sctpCookieWait, sctpShutdownAck = 1, 6, 2, 7
)

// open says whether the connection may still carry data. UDP has no connections:
// what was active lately counts.
func (f flow) open() bool {
	switch f.proto {
	case TCP:
		return f.state >= tcpSynSent && f.state <= tcpLastAck
	case SCTP:
		return f.state >= sctpCookieWait && f.state <= sctpShutdownAck
	}
	return true
}

// conntrack reads and deletes tracked connections of one network namespace. Its
// socket is opened when it is needed, and anew after an error, since answers may
// still be on their way.
type conntrack struct {
	netns int

	mu   sync.Mutex
	conn *netlink.Conn
	slow bool // the kernel does not delete by patterns
}

func (c *conntrack) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return nil
	}
	err := c.conn.Close()
	c.conn = nil
	return err
}

// execute sends one message and returns the answers.
func (c *conntrack) execute(m netlink.Message) ([]netlink.Message, error) {
	if c.conn == nil {
		conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: c.netns})
		if err != nil {
			return nil, explain("open a netlink socket to conntrack", err)
		}
		conn.SetReadBuffer(16 << 20)
		c.conn = conn
	}
	c.conn.SetDeadline(time.Now().Add(answerTime))
	replies, err := c.conn.Execute(m)
	if err != nil {
		c.conn.Close()
		c.conn = nil
	}
	return replies, err
}

func ctMessage(what uint16, flags netlink.HeaderFlags, family byte, attrs []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_CTNETLINK<<8 | what), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...),
	}
}

// translated has a dump leave out what is not translated. Kernels before 5.15 do
// not leave it out.
func translated() []byte {
	status := binary.BigEndian.AppendUint32(nil, statusDstNAT)
	b, _ := netlink.MarshalAttributes([]netlink.Attribute{{Type: ctaStatus, Data: status}, {Type: ctaStatusMask, Data: status}})
	return b
}

// flows returns the tracked connections for which want is true, of those that the
// kernel sends with a filter.
func (c *conntrack) flows(filter []byte, want func(flow) bool) ([]flow, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Both families at once: the kernel goes through its whole table for each dump.
	replies, err := c.execute(ctMessage(ctGet, netlink.Dump, unix.AF_UNSPEC, filter))
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EOPNOTSUPP) {
		return nil, &ModuleError{"list tracked connections", []string{"nf_conntrack_netlink"}, err}
	}
	if err != nil {
		return nil, explain("list tracked connections", err)
	}
	var all []flow
	for _, m := range replies {
		if len(m.Data) < 4 {
			continue
		}
		if fl, err := parseFlow(m.Data[4:]); err == nil && want(fl) {
			all = append(all, fl)
		}
	}
	return all, nil
}

// delete makes the kernel forget the connections. One that has ended meanwhile is fine.
func (c *conntrack) delete(flows []flow) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range flows {
		attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
			{Type: ctaTupleOrig | netlink.Nested, Data: f.raw},
			{Type: ctaID, Data: f.id},
		})
		if err != nil {
			return err
		}
		_, err = c.execute(ctMessage(ctDelete, netlink.Acknowledge, familyOf(f.dest.Addr()).proto, attrs))
		if err != nil && !errors.Is(err, syscall.ENOENT) {
			return explain(fmt.Sprintf("forget the %s connection to %s at %s", f.proto, f.dest, f.server), err)
		}
	}
	return nil
}

// pattern is the connections from a frontend to a former endpoint, of IPv4: Linux
// 6.18 and before take for equal those addresses of IPv6 in filters that are not.
type pattern struct {
	fe     frontend
	server netip.AddrPort
}

// maxPatterns is how many are worth it: the kernel goes through its table for each,
// but in a tenth of the time that a dump takes.
const maxPatterns = 8

// Bits of a filter of tuples: what of it counts.
const (
	filterSrc, filterDst, filterProto, filterSrcPort, filterDstPort = 1 << 0, 1 << 1, 1 << 3, 1 << 4, 1 << 5
)

// deletePatterns has the kernel forget connections without telling us of them.
// It says whether it can: Linux 6.8 and later do.
func (c *conntrack) deletePatterns(list []pattern) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.slow {
		return false, nil
	}
	for _, p := range list {
		attrs, err := p.attributes()
		if err != nil {
			return false, err
		}
		m := ctMessage(ctDelete, netlink.Acknowledge, unix.AF_INET, attrs)
		m.Data[1] = 1 // version 1: the family counts
		_, err = c.execute(m)
		switch {
		case err == nil, errors.Is(err, syscall.ENOENT):
		case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.EOPNOTSUPP):
			c.slow = true // it has looked for one connection, and missed most of its tuple
			return false, nil
		default:
			return false, explain(fmt.Sprintf("forget connections to %s at %s", p.fe, p.server), err)
		}
	}
	return true, nil
}

func (p pattern) attributes() ([]byte, error) {
	var first error
	nest := func(typ uint16, list ...netlink.Attribute) netlink.Attribute {
		b, err := netlink.MarshalAttributes(list)
		if err != nil && first == nil {
			first = err
		}
		return netlink.Attribute{Type: typ | netlink.Nested, Data: b}
	}
	port := func(typ, n uint16) netlink.Attribute {
		return netlink.Attribute{Type: typ, Data: binary.BigEndian.AppendUint16(nil, n)}
	}
	flags := func(typ uint16, bits uint32) netlink.Attribute {
		return netlink.Attribute{Type: typ, Data: binary.NativeEndian.AppendUint32(nil, bits)}
	}
	proto := netlink.Attribute{Type: ctaProtoNum, Data: []byte{byte(p.fe.proto)}}
	original := []netlink.Attribute{nest(ctaTupleProto, proto, port(ctaProtoDstPort, p.fe.port))}
	bits := uint32(filterProto | filterDstPort)
	if !p.fe.node() {
		original = append(original, nest(ctaTupleIP, netlink.Attribute{Type: ctaIPv4Dst, Data: p.fe.addr.AsSlice()}))
		bits |= filterDst
	}
	status := binary.BigEndian.AppendUint32(nil, statusDstNAT)
	b, err := netlink.MarshalAttributes([]netlink.Attribute{
		nest(ctaTupleOrig, original...),
		nest(ctaTupleReply,
			nest(ctaTupleIP, netlink.Attribute{Type: ctaIPv4Src, Data: p.server.Addr().AsSlice()}),
			nest(ctaTupleProto, proto, port(ctaProtoSrcPort, p.server.Port()))),
		{Type: ctaStatus, Data: status},
		{Type: ctaStatusMask, Data: status},
		nest(ctaFilter, flags(ctaFilterOrig, bits), flags(ctaFilterReply, filterSrc|filterProto|filterSrcPort)),
	})
	return b, errors.Join(first, err)
}

func parseFlow(b []byte) (flow, error) {
	var f flow
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return f, err
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case ctaTupleOrig:
			f.raw = slices.Clone(ad.Bytes())
			var proto uint8
			_, f.dest, proto, err = parseTuple(f.raw)
			f.proto = Protocol(proto)
		case ctaTupleReply:
			f.server, _, _, err = parseTuple(ad.Bytes())
		case ctaStatus:
			f.dnat = ad.Uint32()&statusDstNAT != 0
		case ctaID:
			f.id = slices.Clone(ad.Bytes())
		case ctaProtoInfo:
			ad.Nested(func(of *netlink.AttributeDecoder) error {
				for of.Next() {
					if of.Type() != ctaProtoInfoTCP && of.Type() != ctaProtoInfoSCTP {
						continue
					}
					of.Nested(func(in *netlink.AttributeDecoder) error {
						for in.Next() {
							if in.Type() == ctaProtoInfoState {
								f.state = in.Uint8()
							}
						}
						return nil
					})
				}
				return nil
			})
		}
		if err != nil {
			return f, err
		}
	}
	return f, ad.Err()
}

func parseTuple(b []byte) (src, dst netip.AddrPort, proto uint8, err error) {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return src, dst, 0, err
	}
	ad.ByteOrder = binary.BigEndian
	var from, to netip.Addr
	var sport, dport uint16
	for ad.Next() {
		switch ad.Type() {
		case ctaTupleIP:
			ad.Nested(func(in *netlink.AttributeDecoder) error {
				for in.Next() {
					switch a, _ := netip.AddrFromSlice(in.Bytes()); in.Type() {
					case ctaIPv4Src, ctaIPv6Src:
						from = a
					case ctaIPv4Dst, ctaIPv6Dst:
						to = a
					}
				}
				return nil
			})
		case ctaTupleProto:
			ad.Nested(func(in *netlink.AttributeDecoder) error {
				in.ByteOrder = binary.BigEndian
				for in.Next() {
					switch in.Type() {
					case ctaProtoNum:
						proto = in.Uint8()
					case ctaProtoSrcPort:
						sport = in.Uint16()
					case ctaProtoDstPort:
						dport = in.Uint16()
					}
				}
				return nil
			})
		}
	}
	return netip.AddrPortFrom(from, sport), netip.AddrPortFrom(to, dport), proto, ad.Err()
}

// forget deletes tracked connections that would go on to where they must not:
// to endpoints that are gone, and, of a virtual address, to wherever its packets
// went before it had an endpoint. Connections of draining endpoints stay. An entry
// of UDP would otherwise live as long as the client goes on asking.
func (b *Balancer) forget(before, after []*entry) error {
	stale := newStale(before, after)
	if len(stale.fronts) == 0 {
		return nil
	}
	done := false
	if !stale.search && len(stale.patterns) <= maxPatterns {
		var err error
		if done, err = b.ct.deletePatterns(stale.patterns); err != nil {
			return err
		}
	}
	if !done {
		flows, err := b.ct.flows(nil, stale.matches)
		if err != nil {
			return err
		}
		if err := b.ct.delete(flows); err != nil {
			return err
		}
	}
	return b.forgetClients(stale)
}

// stale tells which connections are to be forgotten.
type stale struct {
	fronts   map[frontend]*front
	sticky   map[string]bool // names of tables of clients to go through
	patterns []pattern       // they are these ...
	search   bool            // ... and others
}

type front struct {
	virtual bool
	keep    map[netip.AddrPort]bool
	numbers map[uint32]bool // of open endpoints, if there is affinity
}

// newStale finds the frontends whose connections have to be looked at: those that
// lost an endpoint, those that are new, and those of UDP that got their first endpoint.
func newStale(before, after []*entry) stale {
	all := func(es []*entry) map[frontend]*front {
		m := map[frontend]*front{}
		for _, e := range es {
			for _, p := range e.svc.Ports {
				e.svc.frontends(p, func(fe frontend, virtual bool) {
					f := &front{virtual, map[netip.AddrPort]bool{}, map[uint32]bool{}}
					for _, n := range numbered(p.openIn(familyIndex(fe.addr)), seconds(e.svc.Affinity)) {
						f.numbers[n] = true
					}
					for _, ep := range p.Endpoints {
						if familyIndex(ep.Address.Addr()) == familyIndex(fe.addr) {
							f.keep[ep.Address] = true
						}
					}
					m[fe] = f
				})
			}
		}
		return m
	}
	s := stale{fronts: map[frontend]*front{}, sticky: map[string]bool{}}
	was, is := all(before), all(after)
	for fe, f := range was {
		now := is[fe]
		if now == nil {
			now = &front{virtual: f.virtual}
			s.fronts[fe] = now
		}
		for ep := range f.keep {
			if !now.keep[ep] {
				s.fronts[fe] = now
				s.patterns = append(s.patterns, pattern{fe, ep})
				s.search = s.search || !ep.Addr().Is4()
			}
		}
	}
	for fe, f := range is {
		if old := was[fe]; old == nil || fe.proto == UDP && len(old.keep) == 0 && len(f.keep) > 0 {
			s.fronts[fe], s.search = f, true
		}
	}
	for _, e := range slices.Concat(before, after) {
		if t := seconds(e.svc.Affinity); t > 0 {
			for _, f := range families() {
				s.sticky[f.timed(setClients, t)] = true
			}
		}
	}
	return s
}

func (s stale) matches(f flow) bool {
	fe := frontend{f.dest.Addr(), f.dest.Port(), f.proto}
	if want := s.fronts[fe]; want != nil {
		return !want.keep[f.server] && (want.virtual || f.dnat)
	}
	fe.addr = familyOf(fe.addr).any
	want := s.fronts[fe]
	return want != nil && f.dnat && !want.keep[f.server]
}

// forgetClients takes clients of former endpoints out of the tables of affinity,
// so that they are bound to another one. Nobody was sent to a former endpoint
// since the transaction, whatever the table says.
func (b *Balancer) forgetClients(s stale) error {
	if b.schema == nil {
		return nil
	}
	for name := range s.sticky {
		set := b.schema.sets[name]
		if set == nil {
			continue
		}
		if err := b.k.forgetClients(set, s); err != nil {
			return fmt.Errorf("forget clients of former endpoints: %w", err)
		}
	}
	return nil
}

// Connections counts for each endpoint of a service the connections that are
// open, draining endpoints included. For UDP these are clients that were active
// within the kernel's timeout. Endpoints that two services share are told apart.
func (b *Balancer) Connections(name string) (map[netip.AddrPort]int, error) {
	b.mu.Lock()
	e := b.services[name]
	b.mu.Unlock()
	if e == nil {
		return nil, fmt.Errorf("service %q does not exist", name)
	}
	fronts := newStale(nil, []*entry{e}).fronts
	n := map[netip.AddrPort]int{}
	for _, p := range e.svc.Ports {
		for _, ep := range p.Endpoints {
			n[ep.Address] = 0
		}
	}
	_, err := b.ct.flows(translated(), func(f flow) bool {
		fe := frontend{f.dest.Addr(), f.dest.Port(), f.proto}
		want := fronts[fe]
		if want == nil && fe.addr.IsValid() {
			fe.addr = familyOf(fe.addr).any
			want = fronts[fe]
		}
		if want != nil && want.keep[f.server] && f.open() {
			n[f.server]++
		}
		return false
	})
	return n, err
}
