package network

import (
	"errors"
	"fmt"

	"github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/internal/nfnetlink"
	"github.com/minirun/minirun/network/store"
	"golang.org/x/sys/unix"
)

// Entries of connections outlive the containers that they are about. The next one
// with a port must not be missed by what was sent to the last one, and the next one
// with an address not get it. To find them takes the kernel long, so it is done as
// late as it can be: for a container with published ports when it goes, whose clients
// then learn at once that nobody is there; for one without when somebody else gets
// its address, and then for all such addresses of the network.

// forgetPorts removes the entries of connections that were made to a published
// port when it led nowhere: of UDP they live as long as the client goes on.
func forgetPorts(nf *nfnetlink.Conn, c *store.Container) error {
	wanted := false
	for i := range c.Ports {
		wanted = wanted || c.Ports[i].Protocol != "tcp"
	}
	if !wanted {
		return nil
	}
	return forget(nf, func(flow *nfnetlink.Flow) bool {
		o := &flow.Original
		for i := range c.Ports {
			p := &c.Ports[i]
			if p.Protocol != "tcp" && flow.Protocol == protocolNumber(p.Protocol) && o.DstPort >= p.Host && int(o.DstPort) < int(p.Host)+int(p.Count) &&
				(!p.IP.IsValid() || p.IP.IsUnspecified() || p.IP == o.Dst) && flow.Reply.Src == o.Dst {
				return true
			}
		}
		return false
	})
}

func forget(nf *nfnetlink.Conn, match func(flow *nfnetlink.Flow) bool) error {
	_, err := nf.DeleteFlows(match)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("remove entries of connections: %w", err)
	if withoutConntrack(err) {
		err = &Error{err, "the kernel lacks a module: modprobe nf_conntrack_netlink"}
	}
	return err
}

// withoutConntrack reports whether err is what a kernel says that does not tell of its
// connection tracking.
func withoutConntrack(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT)
}

func forgetAddresses(nf *nfnetlink.Conn, list []netip.Addr) error {
	addresses := make(map[netip.Addr]struct{}, len(list))
	for _, a := range list {
		addresses[a] = struct{}{}
	}
	return forget(nf, func(flow *nfnetlink.Flow) bool {
		for _, a := range [...]netip.Addr{flow.Original.Src, flow.Original.Dst, flow.Reply.Src} {
			if _, ok := addresses[a]; ok {
				return true
			}
		}
		return false
	})
}

// maxFormer bounds the addresses of a network whose entries are left for later, by
// the size of the list in bytes.
const maxFormer = 32 << 10

// forgetContainer removes the entries of a container's connections, or has it done
// later. Its addresses are still its own.
func (h *Host) forgetContainer(nf *nfnetlink.Conn, c *store.Container) error {
	if len(c.Ports) > 0 {
		var all []netip.Addr
		for i := range c.Endpoints {
			all = append(all, c.Endpoints[i].Addresses...)
		}
		return forgetAddresses(nf, all)
	}
	for i := range c.Endpoints {
		e := &c.Endpoints[i]
		size, err := h.Store.AddFormer(e.Network, e.Addresses)
		switch {
		case err != nil: // a full disk keeps nobody from leaving
			err = forgetAddresses(nf, e.Addresses)
		case size > maxFormer:
			err = h.forgetFormer(e.Network, nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// forgetFormer removes the entries that were left for later, if one of the
// addresses is among those that they are about; without addresses in any case.
func (h *Host) forgetFormer(network string, addresses []netip.Addr) error {
	former, err := h.Store.Former(network)
	if err != nil || len(former) == 0 {
		return err
	}
	found := addresses == nil
	for _, a := range former {
		for _, b := range addresses {
			found = found || a == b
		}
	}
	if !found {
		return nil
	}
	nf, err := nfnetlink.Dial()
	if err != nil {
		return nftError(err)
	}
	defer nf.Close()
	// Who has one of them now has got it after this was done: all else is older.
	if err := forgetAddresses(nf, former); err != nil {
		return err
	}
	return h.Store.DropFormer(network)
}
