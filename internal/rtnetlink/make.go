package rtnetlink

import (
	"encoding/binary"
	"os"
	goruntime "runtime"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/netip"
	"golang.org/x/sys/unix"
)

// In runs f with the calling thread in the network namespace that netns is open
// on: what f opens belongs to it, /proc/sys/net too.
func In(netns int, f func() error) error {
	goruntime.LockOSThread()
	own, err := linux.OpenAt(unix.AT_FDCWD, "/proc/thread-self/ns/net", unix.O_RDONLY, 0)
	if err != nil {
		goruntime.UnlockOSThread()
		return err
	}
	defer linux.Close(own)
	if err := unix.Setns(netns, unix.CLONE_NEWNET); err != nil {
		goruntime.UnlockOSThread()
		return os.NewSyscallError("setns", err)
	}
	err = f()
	if back := unix.Setns(own, unix.CLONE_NEWNET); back != nil {
		// Not unlocked: the thread must not run anything else any more.
		return os.NewSyscallError("setns", back)
	}
	goruntime.UnlockOSThread()
	return err
}

// AddBridge makes a bridge with the hardware address mac, which then does not
// follow those of its ports. It is down. unix.EEXIST if the name is taken.
func (c *Conn) AddBridge(name string, mac [6]byte, mtu int) error {
	m := newMessage(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	m.link(0, 0, 0)
	m.str(unix.IFLA_IFNAME, name)
	m.attribute(unix.IFLA_ADDRESS, mac[:])
	if mtu > 0 {
		m.num(unix.IFLA_MTU, uint32(mtu))
	}
	m.nest(unix.IFLA_LINKINFO, func() {
		m.str(unix.IFLA_INFO_KIND, "bridge")
		m.nest(unix.IFLA_INFO_DATA, func() {
			// Nobody asks who listens to what: without that, snooping only loses packets.
			m.attribute(unix.IFLA_BR_MCAST_SNOOPING, []byte{0})
		})
	})
	return c.do(m, nil)
}

// vethInfoPeer is VETH_INFO_PEER of linux/veth.h.
const vethInfoPeer = 1

// A Veth is a pair of interfaces: one here, in a bridge, the other one elsewhere.
type Veth struct {
	Name     string
	Master   int // index of the bridge
	MTU      int // of both; 0: the system's
	PeerName string
	PeerMAC  [6]byte
	PeerNS   int // descriptor of the network namespace of the peer
}

// AddVeth makes a pair, with the end here up. unix.EEXIST if a name is taken.
func (c *Conn) AddVeth(v *Veth) error {
	m := newMessage(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	m.link(0, unix.IFF_UP, unix.IFF_UP)
	m.str(unix.IFLA_IFNAME, v.Name)
	m.num(unix.IFLA_MASTER, uint32(v.Master))
	if v.MTU > 0 {
		m.num(unix.IFLA_MTU, uint32(v.MTU))
	}
	m.nest(unix.IFLA_LINKINFO, func() {
		m.str(unix.IFLA_INFO_KIND, "veth")
		m.nest(unix.IFLA_INFO_DATA, func() {
			m.nest(vethInfoPeer, func() {
				m.link(0, 0, 0) // it cannot be up before both are there
				m.str(unix.IFLA_IFNAME, v.PeerName)
				m.attribute(unix.IFLA_ADDRESS, v.PeerMAC[:])
				if v.MTU > 0 {
					m.num(unix.IFLA_MTU, uint32(v.MTU))
				}
				m.num(unix.IFLA_NET_NS_FD, uint32(v.PeerNS))
			})
		})
	})
	return c.do(m, nil)
}

// A PortMode is what is special about a port of a bridge.
type PortMode uint16

const (
	// Isolated ports do not exchange frames with one another: what they have to say
	// goes through the host.
	Isolated PortMode = unix.IFLA_BRPORT_ISOLATED
	// Hairpin ports get frames back that they have sent, if those are for them: so
	// it is where br_netfilter translates addresses on a bridge.
	Hairpin PortMode = unix.IFLA_BRPORT_MODE
)

// SetPort gives a port of a bridge modes. unix.ENODEV if there is no interface of
// the name.
func (c *Conn) SetPort(name string, modes ...PortMode) error {
	m := newMessage(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	m.link(0, 0, 0)
	m.str(unix.IFLA_IFNAME, name)
	m.nest(unix.IFLA_LINKINFO, func() {
		m.str(unix.IFLA_INFO_SLAVE_KIND, "bridge")
		m.nest(unix.IFLA_INFO_SLAVE_DATA, func() {
			for _, mode := range modes {
				m.attribute(uint16(mode), []byte{1})
			}
		})
	})
	return c.do(m, nil)
}

// Of linux/if_link.h.
const (
	inetConf         = 1 // IFLA_INET_CONF
	inet6AddrGenMode = 8 // IFLA_INET6_ADDR_GEN_MODE
	addrGenNone      = 1 // IN6_ADDR_GEN_MODE_NONE
	acceptRedirects  = 4 // IPV4_DEVCONF_ACCEPT_REDIRECTS of linux/ip.h
)

// NoLinkLocal keeps the kernel from giving an interface an address of IPv6 when it
// gets a carrier. With one it makes itself known to all who are in the same bridge,
// each of whom has that to process. An interface without IPv6 is as good.
func (c *Conn) NoLinkLocal(name string) error {
	err := c.setFamily(name, unix.AF_INET6, func(m *message) { m.attribute(inet6AddrGenMode, []byte{addrGenNone}) })
	if err == unix.EAFNOSUPPORT {
		return nil
	}
	return err
}

// NoRedirects has an interface take no redirects of IPv4, if "all" takes none.
func (c *Conn) NoRedirects(name string) error {
	return c.setFamily(name, unix.AF_INET, func(m *message) {
		m.nest(inetConf, func() { m.num(acceptRedirects, 0) })
	})
}

func (c *Conn) setFamily(name string, family uint16, values func(m *message)) error {
	m := newMessage(unix.RTM_SETLINK, unix.NLM_F_ACK)
	m.link(0, 0, 0)
	m.str(unix.IFLA_IFNAME, name)
	m.nest(unix.IFLA_AF_SPEC, func() {
		m.nest(family, func() { values(m) })
	})
	return c.do(m, nil)
}

// Unplug takes an interface out of its bridge and sets it down: nothing passes it any
// more, whatever is done at the other end. That takes a hundredth of the time of
// DelLink, which waits until every processor has forgotten the interface. It goes by
// the name: to ask for the index would have the kernel finish what it knows of the
// carrier first.
func (c *Conn) Unplug(name string) error {
	m := newMessage(unix.RTM_SETLINK, unix.NLM_F_ACK)
	m.link(0, 0, unix.IFF_UP)
	m.str(unix.IFLA_IFNAME, name)
	m.num(unix.IFLA_MASTER, 0)
	return c.do(m, nil)
}

// DelLink removes an interface, and the other end of it if it is a pair.
func (c *Conn) DelLink(index int) error {
	m := newMessage(unix.RTM_DELLINK, unix.NLM_F_ACK)
	m.link(index, 0, 0)
	return c.do(m, nil)
}

// AddPrefix gives an interface an address. unix.EEXIST if it has it.
func (c *Conn) AddPrefix(index int, p netip.Prefix, flags uint32) error {
	m := newMessage(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	body := make([]byte, unix.SizeofIfAddrmsg)
	body[0], body[1] = family(p.Addr()), byte(p.Bits())
	binary.NativeEndian.PutUint32(body[4:], uint32(index))
	m.add(body)
	m.attribute(unix.IFA_LOCAL, p.Addr().AsSlice())
	m.attribute(unix.IFA_ADDRESS, p.Addr().AsSlice())
	m.num(unix.IFA_FLAGS, flags)
	return c.do(m, nil)
}

// AddRoute leads to p through a gateway that is on the link of the interface,
// whatever its addresses say.
func (c *Conn) AddRoute(p netip.Prefix, gateway netip.Addr, index int) error {
	return c.route(p, gateway, index, unix.NLM_F_REPLACE)
}

// EnsureRoute is AddRoute if there is no route to p yet.
func (c *Conn) EnsureRoute(p netip.Prefix, gateway netip.Addr, index int) error {
	if err := c.route(p, gateway, index, unix.NLM_F_EXCL); err != unix.EEXIST {
		return err
	}
	return nil
}

func (c *Conn) route(p netip.Prefix, gateway netip.Addr, index int, flag uint16) error {
	m := newMessage(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_ACK|flag)
	body := make([]byte, unix.SizeofRtMsg)
	body[0], body[1] = family(p.Addr()), byte(p.Bits())
	body[4], body[5], body[6], body[7] = unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
	binary.NativeEndian.PutUint32(body[8:], unix.RTNH_F_ONLINK)
	m.add(body)
	if p.Bits() > 0 {
		m.attribute(unix.RTA_DST, p.Masked().Addr().AsSlice())
	}
	m.attribute(unix.RTA_GATEWAY, gateway.AsSlice())
	m.num(unix.RTA_OIF, uint32(index))
	return c.do(m, nil)
}

// Routes lists where routes lead to, default routes and what is only local aside.
func (c *Conn) Routes() ([]netip.Prefix, error) { return c.routes(unix.RT_TABLE_UNSPEC) }

func (c *Conn) routes(beside uint32) (list []netip.Prefix, err error) {
	for _, f := range []byte{unix.AF_INET, unix.AF_INET6} {
		m := newMessage(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
		body := make([]byte, unix.SizeofRtMsg)
		body[0] = f
		m.add(body)
		err := c.do(m, func(typ uint16, body []byte) {
			if typ != unix.RTM_NEWROUTE || len(body) < unix.SizeofRtMsg || body[0] != f || body[4] == unix.RT_TABLE_LOCAL || beside != 0 && tableOf(body) == beside {
				return
			}
			bits := int(body[1])
			linux.NetlinkAttributes(body[unix.SizeofRtMsg:], func(typ uint16, value, _ []byte) {
				if a, ok := netip.AddrFromSlice(value); ok && typ == unix.RTA_DST && bits > 0 {
					list = append(list, netip.PrefixFrom(a, bits))
				}
			})
		})
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Kind is what kind of interface one is: "bridge", "veth"; "" for a device.
func (c *Conn) Kind(index int) (kind string, err error) {
	m := newMessage(unix.RTM_GETLINK, 0)
	m.link(index, 0, 0)
	err = c.do(m, func(typ uint16, body []byte) {
		if typ == unix.RTM_NEWLINK && len(body) >= unix.SizeofIfInfomsg {
			kind = kindOf(body[unix.SizeofIfInfomsg:])
		}
	})
	return kind, err
}

func kindOf(b []byte) (kind string) {
	linux.NetlinkAttributes(b, func(typ uint16, value, _ []byte) {
		if typ != unix.IFLA_LINKINFO {
			return
		}
		linux.NetlinkAttributes(value, func(typ uint16, value, _ []byte) {
			if typ == unix.IFLA_INFO_KIND {
				kind = unix.ByteSliceToString(value)
			}
		})
	})
	return kind
}

// LinkStats is an interface and what went through it, as the interface sees it.
type LinkStats struct {
	Link
	Kind                 string
	Master               int
	RxPackets, TxPackets uint64
	RxBytes, TxBytes     uint64
	RxErrors, TxErrors   uint64
	RxDropped, TxDropped uint64
}

// Links lists all interfaces.
func (c *Conn) Links() (list []LinkStats, err error) {
	m := newMessage(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	m.link(0, 0, 0)
	err = c.do(m, func(typ uint16, body []byte) {
		if typ != unix.RTM_NEWLINK || len(body) < unix.SizeofIfInfomsg {
			return
		}
		var l LinkStats
		l.Index, l.Flags = int(int32(binary.NativeEndian.Uint32(body[4:]))), binary.NativeEndian.Uint32(body[8:])
		l.Kind = kindOf(body[unix.SizeofIfInfomsg:])
		linux.NetlinkAttributes(body[unix.SizeofIfInfomsg:], func(typ uint16, value, _ []byte) {
			switch {
			case typ == unix.IFLA_IFNAME:
				l.Name = unix.ByteSliceToString(value)
			case typ == unix.IFLA_MASTER && len(value) >= 4:
				l.Master = int(binary.NativeEndian.Uint32(value))
			case typ == unix.IFLA_STATS64 && len(value) >= 64: // struct rtnl_link_stats64
				for i, p := range []*uint64{&l.RxPackets, &l.TxPackets, &l.RxBytes, &l.TxBytes, &l.RxErrors, &l.TxErrors, &l.RxDropped, &l.TxDropped} {
					*p = binary.NativeEndian.Uint64(value[8*i:])
				}
			}
		})
		list = append(list, l)
	})
	return list, err
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// nest is an attribute whose value is the attributes that f adds.
func (m *message) nest(typ uint16, f func()) {
	at := len(m.b)
	m.add([]byte{0, 0, 0, 0})
	binary.NativeEndian.PutUint16(m.b[at+2:], typ|unix.NLA_F_NESTED)
	f()
	binary.NativeEndian.PutUint16(m.b[at:], uint16(len(m.b)-at))
}
