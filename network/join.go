package network

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/internal/nfnetlink"
	"github.com/minirun/minirun/internal/rtnetlink"
	"github.com/minirun/minirun/network/ipam"
	"github.com/minirun/minirun/network/store"
	"golang.org/x/sys/unix"
)

// A Member is a container that exists, and joins or leaves a network.
type Member struct {
	Key, ID, Root string
	NetNS         int // open on its network namespace; -1 if that is gone
	// Alive, if not nil, is asked under the lock whether the container still has the
	// namespace. Whoever deletes it waits for the lock, and then finds the record.
	Alive func() error
}

// Joining and leaving are steps between which minirun can be killed. The record says
// Pending before the first and until the last one. Who finds that does all of them
// again to leave; who wants to join leaves first. Deletion takes back whatever the
// record says, complete or not.

// Join connects a container to one more network: the interface is there when Join
// returns. On an error nothing is left.
func (h *Host) Join(m *Member, network string, ips []netip.Addr, aliases []string) (*store.Endpoint, error) {
	if err := (&Request{IPs: ips, Aliases: aliases}).check(); err != nil {
		return nil, err
	}
	unlock, err := h.Store.Lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	n, err := h.Store.Network(network)
	if err != nil {
		return nil, err
	}
	if m.Alive != nil {
		if err := m.Alive(); err != nil {
			return nil, err
		}
	}
	if unix.Access(h.Store.ContainerDir(m.Key)+"/"+CNIFile, unix.F_OK) == nil {
		return nil, &Error{fmt.Errorf("container %q is in networks of CNI", m.ID), "a container has networks of CNI or others: name them when it is made"}
	}
	c, err := h.memberRecord(m)
	if err != nil {
		return nil, err
	}
	if i := endpointIn(c, network); i >= 0 {
		if !c.Endpoints[i].Pending {
			return nil, &Error{fmt.Errorf("container %q is in network %q already", c.ID, network), "minirun network disconnect " + network + " " + c.ID + " takes it out"}
		}
		if err := h.takeOut(c, i, m.NetNS); err != nil {
			return nil, err
		}
	}
	e := store.Endpoint{Network: n.Name, NetworkID: n.ID, Link: linkPrefix + randomHex(linkLen-len(linkPrefix)), Aliases: aliases, Pending: true}
	if e.Name, err = freeName(c, m.NetNS); err != nil {
		return nil, err
	}
	c.Endpoints = append(c.Endpoints, e)
	if err := h.join(c, n, ips, m.NetNS); err != nil {
		return nil, errors.Join(err, h.takeOut(c, len(c.Endpoints)-1, m.NetNS))
	}
	return &c.Endpoints[len(c.Endpoints)-1], nil
}

// memberRecord is the record of a container, a new one if it was in no network so far.
func (h *Host) memberRecord(m *Member) (*store.Container, error) {
	c, err := h.Store.Container(m.Key)
	if !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	c = &store.Container{Key: m.Key, ID: m.ID, Root: m.Root, Hostname: m.ID[:min(len(m.ID), 63)]}
	c.BootID, err = bootID()
	return c, err
}

func endpointIn(c *store.Container, network string) int {
	for i := range c.Endpoints {
		if c.Endpoints[i].Network == network {
			return i
		}
	}
	return -1
}

// freeName is the first of eth0, eth1, ... that the container has no interface of.
func freeName(c *store.Container, netns int) (name string, err error) {
	err = rtnetlink.In(netns, func() error {
		l, err := rtnetlink.Dial()
		if err != nil {
			return err
		}
		defer l.Close()
	next:
		for i := 0; ; i++ {
			name = "eth" + strconv.Itoa(i)
			for j := range c.Endpoints {
				if c.Endpoints[j].Name == name {
					continue next
				}
			}
			if _, err := l.LinkByName(name); err != nil {
				if errors.Is(err, unix.ENODEV) {
					return nil
				}
				return fmt.Errorf("look for interface %q: %w", name, err)
			}
		}
	})
	return name, err
}

// join does it for the last endpoint of a record.
func (h *Host) join(c *store.Container, n *store.Network, ips []netip.Addr, netns int) error {
	if err := h.Store.Save(c); err != nil { // first of all: leases of nobody would stay
		return err
	}
	i := len(c.Endpoints) - 1
	e := &c.Endpoints[i]
	var err error
	if e.Addresses, err = h.takeAll(n, ips, c.Key); err != nil {
		return err
	}
	e.MAC = ipam.MAC(e.Addresses[0])
	if err := h.Store.Save(c); err != nil {
		return err
	}
	a, err := h.attachment(c)
	if err != nil {
		return err
	}
	outside, err := rtnetlink.Dial()
	if err != nil {
		return err
	}
	defer outside.Close()
	l, err := outside.LinkByName(n.Bridge)
	index := 0
	if err == nil && l.Flags&unix.IFF_UP != 0 {
		index = l.Index
	} else if index, err = h.makeBridge(outside, n); err != nil {
		return err
	}
	if err := a.plug(outside, i, index, netns); err != nil {
		return err
	}
	if err := rtnetlink.In(netns, func() error { return a.inside(i) }); err != nil {
		return err
	}
	if err := h.publishAgain(c); err != nil {
		return err
	}
	if err := h.meet(c, i); err != nil {
		return err
	}
	e.Pending = false
	return h.Store.Save(c)
}

// attachment is that of a record, under the lock.
func (h *Host) attachment(c *store.Container) (*Attachment, error) {
	a := &Attachment{host: h, record: c}
	for i := range c.Endpoints {
		n, err := h.Store.Network(c.Endpoints[i].Network)
		if err != nil {
			return nil, err
		}
		a.networks = append(a.networks, n)
	}
	return a, nil
}

// publishAgain has the rules say what the record says, under the lock. What they say
// already does no harm.
func (h *Host) publishAgain(c *store.Container) error {
	nf, err := nfnetlink.Dial()
	if err != nil {
		return nftError(err)
	}
	defer nf.Close()
	there, err := h.checkTable(nf)
	if err != nil {
		return err
	}
	if !there {
		err = h.reload()
	} else {
		b := nfnetlink.NewBatch()
		addPorts(b, c)
		err = nftError(nf.Commit(b))
	}
	if err != nil || len(c.Ports) == 0 {
		return err
	}
	if err := h.lead(c); err != nil {
		return err
	}
	return forgetPorts(nf, c)
}

// meet has the container and the others of a network know each other by name.
func (h *Host) meet(c *store.Container, i int) error { return h.names(c, i, appendLines) }

// part is the opposite.
func (h *Host) part(c *store.Container, i int) error { return h.names(c, i, dropLines) }

func (h *Host) names(c *store.Container, i int, change func(file string, lines []byte) error) error {
	here := *c
	here.Endpoints = c.Endpoints[i : i+1]
	peers, err := h.peers(&here)
	if err != nil {
		return err
	}
	lines := ownLines(&here, 0)
	for _, p := range peers {
		lines = append(lines, p.lines...)
		if err := change(p.file, p.own); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// A container that was made without networks has no such file.
	if err := change(h.Store.ContainerDir(c.Key)+"/"+HostsFile, lines); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Leave disconnects a container from a network: the interface is gone when Leave
// returns.
func (h *Host) Leave(m *Member, network string) error {
	unlock, err := h.Store.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	if m.Alive != nil && m.NetNS >= 0 {
		if err := m.Alive(); err != nil {
			return err
		}
	}
	c, err := h.Store.Container(m.Key)
	i := -1
	switch {
	case err == nil:
		i = endpointIn(c, network)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if i < 0 {
		return &NotMemberError{m.ID, network}
	}
	return h.takeOut(c, i, m.NetNS)
}

// NotMemberError reports a container that is not in a network. It is fs.ErrNotExist.
type NotMemberError struct{ ID, Network string }

func (e *NotMemberError) Error() string {
	return fmt.Sprintf("container %q is not in network %q", e.ID, e.Network)
}

// Is makes it fs.ErrNotExist.
func (e *NotMemberError) Is(target error) bool { return target == fs.ErrNotExist }

// Hint says what to do.
func (e *NotMemberError) Hint() string {
	return "minirun network list and inspect show which containers are in which networks"
}

func (h *Host) takeOut(c *store.Container, i, netns int) error {
	c.Endpoints[i].Pending = true
	if err := h.Store.Save(c); err != nil {
		return err
	}
	nf, err := nfnetlink.Dial()
	if err != nil {
		return nftError(err)
	}
	defer nf.Close()
	// Ports lead to the first network that is left. Elements of the old address go
	// before the record forgets it.
	if i == 0 && len(c.Ports) > 0 {
		if err := h.unpublish(nf, c); err != nil {
			return err
		}
	}
	e := c.Endpoints[i]
	last := len(c.Endpoints) - 1
	copy(c.Endpoints[i:], c.Endpoints[i+1:])
	c.Endpoints[last] = e
	if err := h.Store.Save(c); err != nil {
		return err
	}
	links, err := rtnetlink.Dial()
	if err != nil {
		return err
	}
	defer links.Close()
	if last > 0 && len(c.Ports) > 0 {
		if err := h.publishAgain(c); err != nil {
			return err
		}
		if err := links.SetPort(c.Endpoints[0].Link, rtnetlink.Hairpin); err != nil && !errors.Is(err, unix.ENODEV) {
			return linkError("set up interface "+c.Endpoints[0].Link, err)
		}
	}
	if err := unplug(links, e.Link); err != nil {
		return err
	}
	if netns >= 0 {
		l, err := links.LinkByName(e.Link)
		if err == nil {
			err = links.DelLink(l.Index)
		}
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("remove interface %q: %w", e.Link, err)
		}
	}
	if err := h.part(c, last); err != nil {
		return err
	}
	gone := *c
	gone.Endpoints = c.Endpoints[last:]
	if err := h.forgetContainer(nf, &gone); err != nil {
		return err
	}
	for _, ip := range e.Addresses {
		if err := h.Store.Free(e.Network, ip, c.Key); err != nil {
			return err
		}
	}
	if len(e.Addresses) == 0 { // killed while it took them
		if err := h.freeIn(e.Network, c.Key); err != nil {
			return err
		}
	}
	c.Endpoints = c.Endpoints[:last]
	if netns >= 0 {
		if err := h.leadOutside(c, netns); err != nil {
			return err
		}
	}
	return h.Store.Save(c)
}

// unpublish takes a container's ports out of the rules.
func (h *Host) unpublish(nf *nfnetlink.Conn, c *store.Container) error {
	if err := h.leave(c); err != nil {
		return err
	}
	there, err := h.checkTable(nf)
	if err := ignoreForeign(err); err != nil {
		return err
	}
	if !there || err != nil {
		return nil
	}
	b := nfnetlink.NewBatch()
	delPorts(b, c)
	return nftError(nf.Commit(b))
}

// freeIn gives back all that a container has of a network.
func (h *Host) freeIn(network, key string) error {
	list, err := h.Store.Leases(network)
	if err != nil {
		return err
	}
	for _, ip := range list {
		if err := h.Store.Free(network, ip, key); err != nil {
			return err
		}
	}
	return nil
}

// leadOutside gives a container the default routes that it misses, by the first of
// its networks that has a way out.
func (h *Host) leadOutside(c *store.Container, netns int) error {
	a, err := h.attachment(c)
	if err != nil {
		return err
	}
	return rtnetlink.In(netns, func() error {
		links, err := rtnetlink.Dial()
		if err != nil {
			return err
		}
		defer links.Close()
		for i, n := range a.networks {
			for _, s := range n.Subnets {
				if n.Internal || !a.leads(i, s.Gateway.Is4()) {
					continue
				}
				l, err := links.LinkByName(c.Endpoints[i].Name)
				if errors.Is(err, unix.ENODEV) {
					continue // the container has removed or renamed it
				}
				if err == nil {
					err = links.EnsureRoute(netip.PrefixFrom(zero(s.Gateway), 0), s.Gateway, l.Index)
				}
				if err != nil && !errors.Is(err, unix.ENETDOWN) {
					return fmt.Errorf("route through %s: %w", s.Gateway, err)
				}
			}
		}
		return nil
	})
}
