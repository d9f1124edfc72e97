package rtnetlink

import (
	"encoding/binary"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/netip"
	"golang.org/x/sys/unix"
)

// A Rule has processes of this host look into one more table for a route to some
// addresses; see ip-rule(8).
type Rule struct {
	To       netip.Prefix
	Priority uint32
	Table    uint32
}

// Attributes and the action of a rule, see <linux/fib_rules.h>.
const (
	fraDst      = 1
	fraIIFName  = 3
	fraPriority = 6
	fraTable    = 15
	toTable     = 1 // FR_ACT_TO_TBL
)

// EnsureRule adds a rule for what this host sends, unless it is there.
func (c *Conn) EnsureRule(r *Rule) error {
	err := c.rule(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, r)
	if err == unix.EEXIST {
		return nil
	}
	return err
}

// DelRule removes a rule. unix.ENOENT if there is none.
func (c *Conn) DelRule(r *Rule) error { return c.rule(unix.RTM_DELRULE, 0, r) }

func (c *Conn) rule(typ, flags uint16, r *Rule) error {
	m := newMessage(typ, flags|unix.NLM_F_ACK)
	body := make([]byte, 12) // struct fib_rule_hdr
	body[0], body[1] = family(r.To.Addr()), byte(r.To.Bits())
	body[4], body[7] = unix.RT_TABLE_UNSPEC, toTable
	m.add(body)
	m.attribute(fraDst, r.To.Masked().Addr().AsSlice())
	m.str(fraIIFName, "lo") // what comes from elsewhere has another interface
	m.num(fraPriority, r.Priority)
	m.num(fraTable, r.Table)
	return c.do(m, nil)
}

// EnsureTableRoute adds a route to p through an interface to a table, unless there
// is one.
func (c *Conn) EnsureTableRoute(p netip.Prefix, index int, table uint32) error {
	err := c.tableRoute(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, p, index, table)
	if err == unix.EEXIST {
		return nil
	}
	return err
}

// DelTableRoute removes a route. unix.ESRCH if there is none.
func (c *Conn) DelTableRoute(p netip.Prefix, index int, table uint32) error {
	return c.tableRoute(unix.RTM_DELROUTE, 0, p, index, table)
}

func (c *Conn) tableRoute(typ, flags uint16, p netip.Prefix, index int, table uint32) error {
	m := newMessage(typ, flags|unix.NLM_F_ACK)
	body := make([]byte, unix.SizeofRtMsg)
	body[0], body[1] = family(p.Addr()), byte(p.Bits())
	body[4], body[5], body[6], body[7] = unix.RT_TABLE_UNSPEC, unix.RTPROT_STATIC, unix.RT_SCOPE_LINK, unix.RTN_UNICAST
	m.add(body)
	m.attribute(unix.RTA_DST, p.Masked().Addr().AsSlice())
	m.num(unix.RTA_OIF, uint32(index))
	m.num(unix.RTA_TABLE, table)
	return c.do(m, nil)
}

// RoutesBeside is Routes without those of one table.
func (c *Conn) RoutesBeside(table uint32) ([]netip.Prefix, error) { return c.routes(table) }

// Lookup asks for the route to an address, as a process of this host would send to
// it: unix.ENETUNREACH if there is none, and other errors for routes that refuse.
func (c *Conn) Lookup(a netip.Addr) error {
	m := newMessage(unix.RTM_GETROUTE, 0)
	body := make([]byte, unix.SizeofRtMsg)
	body[0], body[1] = family(a), byte(a.BitLen())
	m.add(body)
	m.attribute(unix.RTA_DST, a.AsSlice())
	return c.do(m, nil)
}

// tableOf is the table of a route.
func tableOf(body []byte) uint32 {
	table := uint32(body[4])
	linux.NetlinkAttributes(body[unix.SizeofRtMsg:], func(typ uint16, value, _ []byte) {
		if typ == unix.RTA_TABLE && len(value) >= 4 {
			table = binary.NativeEndian.Uint32(value)
		}
	})
	return table
}
