package rtnetlink

import "golang.org/x/sys/unix"

// Plug puts an interface into a bridge and sets it up.
func (c *Conn) Plug(index, bridge int) error {
	m := newMessage(unix.RTM_SETLINK, unix.NLM_F_ACK)
	m.link(index, unix.IFF_UP, unix.IFF_UP)
	m.num(unix.IFLA_MASTER, uint32(bridge))
	return c.do(m, nil)
}
