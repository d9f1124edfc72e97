package nfnetlink

import (
	"encoding/binary"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/netip"
	"golang.org/x/sys/unix"
)

// A Flow is an entry of connection tracking.
type Flow struct {
	Protocol         uint8
	Original, Reply  Tuple
	family           byte
	original, zoneID []byte
}

// A Tuple is one direction of it.
type Tuple struct {
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
}

// Attributes of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctMsgGet        = 1
	ctMsgDelete     = 2
	ctMsgGetStats   = 5
	ctaStatsEntries = 1
	ctaTupleOrig    = 1
	ctaTupleReply   = 2
	ctaZone         = 18
	ctaTupleIP      = 1
	ctaTupleProto   = 2
	ctaIPv4Src      = 1
	ctaIPv4Dst      = 2
	ctaIPv6Src      = 3
	ctaIPv6Dst      = 4
	ctaProtoNum     = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3
)

// Flows is how many connections are tracked in the network namespace.
func (c *Conn) Flows() (n int, err error) {
	c.seq++
	m := new(attrs)
	at := m.header(unix.NFNL_SUBSYS_CTNETLINK<<8|ctMsgGetStats, 0, c.seq, unix.AF_UNSPEC, 0)
	m.end(at)
	err = c.request(m, func(body []byte) {
		linux.NetlinkAttributes(body[min(len(body), 4):], func(typ uint16, v, _ []byte) {
			if typ == ctaStatsEntries && len(v) >= 4 {
				n = int(binary.BigEndian.Uint32(v))
			}
		})
	})
	return n, err
}

// DeleteFlows removes the entries that match says yes to, and returns how many. One
// that is gone meanwhile does not count. The kernel goes through the table of all
// network namespaces for it, 5 ms where that has its usual size: hence both families
// at once, and not at all if there are no entries.
func (c *Conn) DeleteFlows(match func(*Flow) bool) (n int, err error) {
	if n, err := c.Flows(); err != nil || n == 0 {
		return 0, err
	}
	c.seq++
	m := new(attrs)
	at := m.header(unix.NFNL_SUBSYS_CTNETLINK<<8|ctMsgGet, unix.NLM_F_DUMP, c.seq, unix.AF_UNSPEC, 0)
	m.end(at)
	var doomed []Flow
	err = c.request(m, func(body []byte) {
		if f, ok := parseFlow(body[min(len(body), 4):]); ok && match(&f) {
			f.family = body[0]
			f.original = append([]byte(nil), f.original...)
			f.zoneID = append([]byte(nil), f.zoneID...)
			doomed = append(doomed, f)
		}
	})
	if err != nil {
		return 0, err
	}
	for i := range doomed {
		f := &doomed[i]
		c.seq++
		m := new(attrs)
		at := m.header(unix.NFNL_SUBSYS_CTNETLINK<<8|ctMsgDelete, unix.NLM_F_ACK, c.seq, f.family, 0)
		m.attribute(ctaTupleOrig|unix.NLA_F_NESTED, f.original)
		if len(f.zoneID) > 0 {
			m.attribute(ctaZone, f.zoneID)
		}
		m.end(at)
		switch err := c.request(m, nil); err {
		case nil:
			n++
		case unix.ENOENT:
		default:
			return n, err
		}
	}
	return n, nil
}

func parseFlow(b []byte) (f Flow, ok bool) {
	linux.NetlinkAttributes(b, func(typ uint16, v, _ []byte) {
		switch typ {
		case ctaTupleOrig:
			f.original = v
			f.Protocol = parseTuple(v, &f.Original)
		case ctaTupleReply:
			parseTuple(v, &f.Reply)
			ok = true
		case ctaZone:
			f.zoneID = v
		}
	})
	return f, ok && f.original != nil
}

func parseTuple(b []byte, t *Tuple) (protocol uint8) {
	linux.NetlinkAttributes(b, func(typ uint16, v, _ []byte) {
		switch typ {
		case ctaTupleIP:
			linux.NetlinkAttributes(v, func(typ uint16, v, _ []byte) {
				a, ok := netip.AddrFromSlice(v)
				switch {
				case !ok:
				case typ == ctaIPv4Src, typ == ctaIPv6Src:
					t.Src = a
				case typ == ctaIPv4Dst, typ == ctaIPv6Dst:
					t.Dst = a
				}
			})
		case ctaTupleProto:
			linux.NetlinkAttributes(v, func(typ uint16, v, _ []byte) {
				switch {
				case typ == ctaProtoNum && len(v) > 0:
					protocol = v[0]
				case typ == ctaProtoSrcPort && len(v) >= 2:
					t.SrcPort = binary.BigEndian.Uint16(v)
				case typ == ctaProtoDstPort && len(v) >= 2:
					t.DstPort = binary.BigEndian.Uint16(v)
				}
			})
		}
	})
	return protocol
}
