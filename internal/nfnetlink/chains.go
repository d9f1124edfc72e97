package nfnetlink

import (
	"encoding/binary"

	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// A Chain is one of any table.
type Chain struct {
	Family      byte // unix.NFPROTO_*
	Table, Name string
	Base        bool // the kernel enters it at Hook
	Hook        uint32
	Drops       bool // what no rule says anything about
}

// Chains lists the chains of all tables.
func (c *Conn) Chains() (list []Chain, err error) {
	c.seq++
	m := new(attrs)
	at := m.header(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, c.seq, unix.NFPROTO_UNSPEC, 0)
	m.end(at)
	err = c.request(m, func(body []byte) {
		if len(body) < 4 {
			return
		}
		ch := Chain{Family: body[0]}
		linux.NetlinkAttributes(body[4:], func(typ uint16, v, _ []byte) {
			switch {
			case typ == unix.NFTA_CHAIN_TABLE:
				ch.Table = unix.ByteSliceToString(v)
			case typ == unix.NFTA_CHAIN_NAME:
				ch.Name = unix.ByteSliceToString(v)
			case typ == unix.NFTA_CHAIN_POLICY && len(v) >= 4:
				ch.Drops = binary.BigEndian.Uint32(v) == nfDrop
			case typ == unix.NFTA_CHAIN_HOOK:
				ch.Base = true
				linux.NetlinkAttributes(v, func(typ uint16, v, _ []byte) {
					if typ == unix.NFTA_HOOK_HOOKNUM && len(v) >= 4 {
						ch.Hook = binary.BigEndian.Uint32(v)
					}
				})
			}
		})
		list = append(list, ch)
	})
	return list, err
}
