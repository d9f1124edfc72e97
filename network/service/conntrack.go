package service

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
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

// conntrack reads and deletes tracked connections of one network namespace.
type conntrack struct{ conn *netlink.Conn }

func openConntrack(netns int) (*conntrack, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: netns})
	if err != nil {
		return nil, explain("open a netlink socket to conntrack", err)
	}
	conn.SetReadBuffer(16 << 20)
	conn.SetDeadline(time.Now().Add(answerTime))
	return &conntrack{conn}, nil
}

func (c *conntrack) close() error { return c.conn.Close() }

func ctMessage(what uint16, flags netlink.HeaderFlags, family byte, attrs []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_CTNETLINK<<8 | what), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...),
	}
}

// flows returns the tracked connections for which want is true.
func (c *conntrack) flows(want func(flow) bool) ([]flow, error) {
	// Both families at once: the kernel goes through its whole table for each dump.
	replies, err := c.conn.Execute(ctMessage(ctGet, netlink.Dump, unix.AF_UNSPEC, nil))
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
	for _, f := range flows {
		attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
			{Type: ctaTupleOrig | netlink.Nested, Data: f.raw},
			{Type: ctaID, Data: f.id},
		})
		if err != nil {
			return err
		}
		_, err = c.conn.Execute(ctMessage(ctDelete, netlink.Acknowledge, familyOf(f.dest.Addr()).proto, attrs))
		if err != nil && !errors.Is(err, syscall.ENOENT) {
			return explain(fmt.Sprintf("forget the %s connection to %s at %s", f.proto, f.dest, f.server), err)
		}
	}
	return nil
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
	c, err := openConntrack(b.opts.NetNS)
	if err != nil {
		return err
	}
	defer c.close()
	flows, err := c.flows(stale.matches)
	if err != nil {
		return err
	}
	if err := c.delete(flows); err != nil {
		return err
	}
	return b.forgetClients(stale)
}

// stale tells which connections are to be forgotten.
type stale struct {
	fronts map[frontend]*front
	sticky map[string]bool // names of tables of clients to go through
}

type front struct {
	virtual bool
	keep    map[netip.AddrPort]bool
	numbers map[uint32]bool // of open endpoints, if there is affinity
}

// newStale finds the frontends whose connections have to be looked at: those that
// lost an endpoint, those that are new, and those of UDP that got an endpoint.
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
	s := stale{map[frontend]*front{}, map[string]bool{}}
	was, is := all(before), all(after)
	for fe, f := range was {
		now := is[fe]
		if now == nil {
			s.fronts[fe] = &front{virtual: f.virtual}
			continue
		}
		for ep := range f.keep {
			if !now.keep[ep] {
				s.fronts[fe] = now
			}
		}
	}
	for fe, f := range is {
		if old := was[fe]; old == nil || fe.proto == UDP && len(f.keep) > len(old.keep) {
			s.fronts[fe] = f
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
	c, err := openConntrack(b.opts.NetNS)
	if err != nil {
		return nil, err
	}
	defer c.close()
	_, err = c.flows(func(f flow) bool {
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
