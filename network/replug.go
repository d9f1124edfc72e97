package network

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/rtnetlink"
	"github.com/minirun/minirun/network/store"
)

// Replug puts the interfaces of a container back into their bridges, if somebody has
// taken them out or set them down, and says what it has done; empty: all was right. An
// interface that is gone is an error.
func (h *Host) Replug(key string) (done string, err error) {
	record, err := h.Store.Container(key)
	if err != nil {
		return "", err
	}
	c, err := rtnetlink.Dial()
	if err != nil {
		return "", err
	}
	defer c.Close()
	for i := range record.Endpoints {
		e := &record.Endpoints[i]
		if e.Pending || e.Link == "" {
			continue
		}
		n, err := h.Store.Network(e.Network)
		if err != nil {
			return done, err
		}
		l, err := c.LinkByName(e.Link)
		if err != nil {
			return done, fmt.Errorf("interface %s: %w", e.Link, err)
		}
		b, err := c.LinkByName(n.Bridge)
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return done, fmt.Errorf("interface %s: %w", n.Bridge, err)
		}
		if err == nil && l.Master == b.Index && l.Flags&unix.IFF_UP != 0 && b.Flags&unix.IFF_UP != 0 {
			continue
		}
		bridge, err := h.bridge(c, n)
		if err != nil {
			return done, err
		}
		if err := c.Plug(l.Index, bridge); err != nil {
			return done, linkError("put interface "+e.Link+" into bridge "+n.Bridge, err)
		}
		if modes := portModes(n, i, record); len(modes) > 0 {
			err = c.SetPort(e.Link, modes...)
		}
		if err != nil {
			return done, linkError("set up interface "+e.Link, err)
		}
		done = fmt.Sprintf("interface %s was not in bridge %s, or was down", e.Link, n.Bridge)
	}
	return done, nil
}

// portModes are those of the port of an endpoint.
func portModes(n *store.Network, i int, record *store.Container) (modes []rtnetlink.PortMode) {
	if n.Isolate == store.Containers {
		modes = append(modes, rtnetlink.Isolated)
	}
	// Who calls himself by a published port or a service comes back by the way he
	// went, and where br_netfilter is, the bridge itself has to turn him round.
	if i == 0 && (len(record.Ports) > 0 || unix.Access("/proc/sys/net/bridge", unix.F_OK) == nil) {
		modes = append(modes, rtnetlink.Hairpin)
	}
	return modes
}
