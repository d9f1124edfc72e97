package watch

import (
	"github.com/minirun/minirun/internal/nfnetlink"
	"golang.org/x/sys/unix"
)

// GuardTable is a table that does nothing but keep the kernel's address
// translation in place. It goes with the socket that made it.
const GuardTable = "minirun_guard"

// guard makes it.
func (w *Watcher) guard() (*nfnetlink.Conn, error) {
	var c *nfnetlink.Conn
	err := inNamespace(w.opts.NetNS, func() (err error) {
		c, err = nfnetlink.Dial()
		return err
	})
	if err != nil {
		return nil, err
	}
	b := nfnetlink.NewBatch()
	b.AddOwnedTable(unix.NFPROTO_INET, GuardTable)
	for _, h := range []struct {
		name string
		hook nfnetlink.Hook
	}{
		{"prerouting", nfnetlink.Hook{Type: "nat", Number: unix.NF_INET_PRE_ROUTING, Priority: -95}},
		{"input", nfnetlink.Hook{Type: "nat", Number: unix.NF_INET_LOCAL_IN, Priority: 105}},
		{"output", nfnetlink.Hook{Type: "nat", Number: unix.NF_INET_LOCAL_OUT, Priority: -95}},
		{"postrouting", nfnetlink.Hook{Type: "nat", Number: unix.NF_INET_POST_ROUTING, Priority: 105}},
	} {
		b.AddChain(unix.NFPROTO_INET, GuardTable, h.name, &h.hook)
	}
	// A rule that asks for the connection keeps connection tracking in place. It
	// changes nothing: what it accepts, the end of the chain would.
	b.AddRule(unix.NFPROTO_INET, GuardTable, "prerouting", new(nfnetlink.Rule).CT(unix.NFT_CT_STATE, 0).AnyOf(1<<1, 0).Accept())
	if err := c.Commit(b); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}
