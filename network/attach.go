package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/internal/nfnetlink"
	"github.com/minirun/minirun/internal/rtnetlink"
	"github.com/minirun/minirun/network/ipam"
	"github.com/minirun/minirun/network/store"
	"golang.org/x/sys/unix"
)

// A Request is what a container wants of networks.
type Request struct {
	Networks []string
	IPs      []netip.Addr // in the first network
	MAC      [6]byte      // of the first network; zero: one that goes with the address
	Aliases  []string
	Ports    []store.Port // Host 0: any
	CNI      []string     // networks of CNI plugins, in place of Networks
	Files
}

// An Attachment is a container's part in its networks: first in the records, and
// after [Attachment.Connect] in the kernel.
type Attachment struct {
	host     *Host
	record   *store.Container
	networks []*store.Network
	cni      bool
}

// Record is what the container has. It must not be changed.
func (a *Attachment) Record() *store.Container { return a.record }

// Reserve takes addresses and ports for a container and writes its files. Nothing
// of it is in the kernel. key is unique; on an error nothing is left.
func (h *Host) Reserve(key, id, root string, q *Request) (*Attachment, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	unlock, err := h.Store.Lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	a := &Attachment{host: h, record: &store.Container{Key: key, ID: id, Root: root, Hostname: q.Hostname, Aliases: q.Aliases}}
	if a.record.BootID, err = bootID(); err != nil {
		return nil, err
	}
	for _, name := range q.Networks {
		n, err := h.Store.Network(name)
		var missing *store.NotExistError
		if errors.As(err, &missing) && name == DefaultName {
			n, err = h.create(&Spec{Name: DefaultName})
		}
		if err != nil {
			return nil, err
		}
		if n.Internal && len(q.Ports) > 0 && len(a.networks) == 0 {
			return nil, &Error{fmt.Errorf("publish %s: network %q is internal: nobody outside reaches it", q.Ports[0].String(), name), "name a network that is not internal first"}
		}
		a.networks = append(a.networks, n)
	}
	// The record comes first: what has no record belongs to nobody.
	if err := h.Store.Save(a.record); err != nil {
		return nil, err
	}
	err = a.reserve(q)
	if err != nil {
		err = errors.Join(err, h.Store.FreeAll(key), h.Store.RemoveContainer(key))
		return nil, err
	}
	return a, nil
}

func (q *Request) check() error {
	if len(q.CNI) > 0 && len(q.Networks) > 0 {
		return fmt.Errorf("networks cni:%s and %s: a container has networks of CNI or others", q.CNI[0], q.Networks[0])
	}
	seen := map[string]bool{}
	for _, name := range append(q.Networks[:len(q.Networks):len(q.Networks)], q.CNI...) {
		if seen[name] {
			return fmt.Errorf("network %q is named twice", name)
		}
		seen[name] = true
	}
	for i := range q.IPs {
		for j := range i {
			if q.IPs[i].Is4() == q.IPs[j].Is4() {
				return fmt.Errorf("addresses %s and %s: want one of each family", q.IPs[j], q.IPs[i])
			}
		}
	}
	return q.Files.check(q.Aliases)
}

// An interface of a container on the host is called mv and 12 random digits.
const (
	linkPrefix = "mv"
	linkLen    = 14
)

func (a *Attachment) reserve(q *Request) error {
	h, c := a.host, a.record
	for i, n := range a.networks {
		e := store.Endpoint{Network: n.Name, NetworkID: n.ID, Link: linkPrefix + randomHex(linkLen-len(linkPrefix)), Name: "eth" + strconv.Itoa(i)}
		var want []netip.Addr
		if i == 0 {
			want = q.IPs
		}
		var err error
		if e.Addresses, err = h.takeAll(n, want, c.Key); err != nil {
			return err
		}
		if e.MAC = ipam.MAC(e.Addresses[0]); i == 0 && q.MAC != [6]byte{} {
			e.MAC = q.MAC
		}
		c.Endpoints = append(c.Endpoints, e)
	}
	for i := range q.Ports {
		p := q.Ports[i]
		if err := checkLoopback(&p); err != nil {
			return err
		}
		if len(q.CNI) == 0 && p.IP.IsValid() && c.Endpoints[0].Address4().IsValid() != p.IP.Is4() && c.Endpoints[0].Address6().IsValid() != p.IP.Is6() {
			return &Error{fmt.Errorf("publish %s: the container has no address of that family", p.String()), "minirun network create --ipv6 makes a network with both"}
		}
		if err := h.takePort(&p, c.Key); err != nil {
			return err
		}
		c.Ports = append(c.Ports, p)
	}
	if err := h.Store.Save(c); err != nil {
		return err
	}
	if a.cni = len(q.CNI) > 0; a.cni {
		if err := a.writeCNI(q); err != nil {
			return err
		}
	}
	return a.writeFiles(&q.Files)
}

// takeAll takes an address of each of a network's subnets.
func (h *Host) takeAll(n *store.Network, want []netip.Addr, key string) (list []netip.Addr, err error) {
	for _, ip := range want {
		if err := usable(n, ip); err != nil {
			return nil, err
		}
	}
	for i := range n.Subnets {
		ip, err := h.take(n, &n.Subnets[i], want, key)
		if err != nil {
			return nil, err
		}
		list = append(list, ip)
	}
	return list, h.forgetFormer(n.Name, list)
}

func usable(n *store.Network, ip netip.Addr) error {
	for _, s := range n.Subnets {
		if ipam.Usable(s.Prefix, ip) && ip != s.Gateway {
			return nil
		}
	}
	text := ""
	for i, s := range n.Subnets {
		if i > 0 {
			text += " and "
		}
		text += s.Prefix.String()
	}
	return &Error{
		fmt.Errorf("address %s is not one that a container in network %q can have, of %s", ip, n.Name, text),
		"leave --ip out, or make a network with the subnet: minirun network create --subnet",
	}
}

// take takes the address that was asked for, or the next one. Before it gives up
// it looks whether who has it still exists.
func (h *Host) take(n *store.Network, s *store.Subnet, want []netip.Addr, key string) (netip.Addr, error) {
	try := func() (netip.Addr, error) { return h.Store.Next(n, s, key) }
	for _, ip := range want {
		if s.Prefix.Contains(ip) {
			try = func() (netip.Addr, error) { return ip, h.Store.Take(n.Name, ip, key) }
		}
	}
	ip, err := try()
	if !h.heal(err) {
		return ip, err
	}
	return try()
}

func (h *Host) takePort(p *store.Port, key string) error {
	if err := checkListeners(p); err != nil && !h.namesOnly(err, p) {
		return err
	}
	if p.Host == 0 {
		return h.anyPort(p, key)
	}
	err := h.Store.TakePort(p, key)
	if h.heal(err) {
		err = h.Store.TakePort(p, key)
	}
	return err
}

// heal frees what those have who do not exist any more, if err says that they
// are in the way, and reports whether that is worth another try.
func (h *Host) heal(err error) bool {
	var taken *store.TakenError
	var full *store.ExhaustedError
	switch {
	case errors.As(err, &taken):
		freed, err := h.detachGone(taken.Key)
		return freed && err == nil
	case errors.As(err, &full):
		freed, err := h.prune()
		return len(freed) > 0 && err == nil
	}
	return false
}

// Connect makes the container's interfaces. netns is open on its network
// namespace.
func (a *Attachment) Connect(netns int) error {
	err := a.connect(netns)
	var rules *rulesError
	if errors.As(err, &rules) {
		err = errors.Join(err, a.withdraw())
	}
	return err
}

// withdraw gives the ports back of a container that no rule leads to, so that it can be
// detached without rules.
func (a *Attachment) withdraw() error {
	unlock, err := a.host.Store.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	c := a.record
	for i := range c.Ports {
		if err := a.host.Store.FreePort(&c.Ports[i], c.Key); err != nil {
			return err
		}
	}
	c.Ports = nil
	return a.host.Store.Save(c)
}

func (a *Attachment) connect(netns int) error {
	if len(a.networks) == 0 {
		return nil
	}
	outside, err := rtnetlink.Dial()
	if err != nil {
		return err
	}
	defer outside.Close()
	for i, n := range a.networks {
		bridge, err := a.host.bridge(outside, n)
		if err != nil {
			return err
		}
		if err := a.plug(outside, i, bridge, netns); err != nil {
			return err
		}
	}
	if err := rtnetlink.In(netns, func() error { return a.inside(0) }); err != nil {
		return err
	}
	return a.publish()
}

// plug makes the pair of interfaces of an endpoint.
func (a *Attachment) plug(outside *rtnetlink.Conn, i, bridge, netns int) error {
	e, n := &a.record.Endpoints[i], a.networks[i]
	if err := outside.AddVeth(&rtnetlink.Veth{Name: e.Link, Master: bridge, MTU: n.MTU, PeerName: e.Name, PeerMAC: e.MAC, PeerNS: netns}); err != nil {
		return linkError("make interfaces "+e.Link+" and "+e.Name, err)
	}
	modes := portModes(n, i, a.record)
	var err error
	if len(modes) > 0 {
		err = outside.SetPort(e.Link, modes...)
	}
	// The bridge has addresses, its ports need none.
	if err == nil {
		err = outside.NoLinkLocal(e.Link)
	}
	if err != nil {
		return linkError("set up interface "+e.Link, err)
	}
	return nil
}

// ConnectProcess does it for the network namespace of a process.
func (a *Attachment) ConnectProcess(pid int) error {
	if a.cni {
		return a.host.runCNI("add", a.record.Key, pid)
	}
	fd, err := linux.OpenAt(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid)+"/ns/net", unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	return a.Connect(fd)
}

// inside is what has to be done in the container's network namespace, for the
// networks from one on.
func (a *Attachment) inside(from int) error {
	c, err := rtnetlink.Dial()
	if err != nil {
		return err
	}
	defer c.Close()
	// A redirect would have it talk to its neighbours directly.
	if err := linux.WriteFileAt(unix.AT_FDCWD, "/proc/sys/net/ipv4/conf/all/accept_redirects", "0"); err != nil {
		return err
	}
	for i := from; i < len(a.networks); i++ {
		e, n := &a.record.Endpoints[i], a.networks[i]
		l, err := c.LinkByName(e.Name)
		if err != nil {
			return fmt.Errorf("look for interface %q: %w", e.Name, err)
		}
		err = c.NoRedirects(e.Name)
		if err == nil && !slices.ContainsFunc(e.Addresses, netip.Addr.Is6) {
			err = c.NoLinkLocal(e.Name)
		}
		if err != nil {
			return fmt.Errorf("set up interface %q: %w", e.Name, err)
		}
		for j, ip := range e.Addresses {
			if ip.Is6() {
				for _, name := range []string{"all", e.Name} {
					if err := linux.WriteFileAt(unix.AT_FDCWD, "/proc/sys/net/ipv6/conf/"+name+"/accept_redirects", "0"); err != nil {
						return err
					}
				}
			}
			p := netip.PrefixFrom(ip, n.Subnets[j].Prefix.Bits())
			if err := c.AddPrefix(l.Index, p, unix.IFA_F_NODAD|unix.IFA_F_NOPREFIXROUTE); err != nil {
				return fmt.Errorf("give interface %q the address %s: %w", e.Name, p, err)
			}
		}
		if err := c.Up(l.Index); err != nil {
			return fmt.Errorf("set interface %q up: %w", e.Name, err)
		}
		for _, s := range n.Subnets {
			to := s.Prefix
			if !n.Internal && a.leads(i, s.Gateway.Is4()) {
				to = netip.PrefixFrom(zero(s.Gateway), 0)
			}
			if err := c.AddRoute(to, s.Gateway, l.Index); err != nil {
				return fmt.Errorf("route %s through %s: %w", to, s.Gateway, err)
			}
		}
	}
	return nil
}

func zero(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// leads reports whether network i is the one that leads outside: the first one of
// the family that has a way out.
func (a *Attachment) leads(i int, v4 bool) bool {
	for _, n := range a.networks[:i] {
		for _, s := range n.Subnets {
			if !n.Internal && s.Gateway.Is4() == v4 {
				return false
			}
		}
	}
	return true
}

// publish lets the host's ports lead to the container.
func (a *Attachment) publish() error {
	nf, err := nfnetlink.Dial()
	if err != nil {
		return nftError(err)
	}
	defer nf.Close()
	there, err := a.host.checkTable(nf)
	if err != nil {
		return err
	}
	if !there { // somebody has flushed it; the ports are in the records
		unlock, err := a.host.Store.Lock()
		if err != nil {
			return err
		}
		defer unlock()
		if err := a.host.reload(); err != nil {
			return err
		}
		return a.host.lead(a.record)
	}
	b := nfnetlink.NewBatch()
	addPorts(b, a.record)
	if err := nf.Commit(b); err != nil {
		return nftError(err)
	}
	if err := a.host.lead(a.record); err != nil {
		return err
	}
	return forgetPorts(nf, a.record)
}

// Detach takes back everything that a container has of networks. It converges:
// what is not there is no error.
func (h *Host) Detach(key string) error {
	if err := unix.Access(h.Store.ContainerDir(key), unix.F_OK); err == unix.ENOENT {
		return nil // never was in one
	}
	// Before others have to wait, too.
	if fd, err := h.lockCNI(key); err == nil {
		linux.Close(fd)
	}
	unlock, err := h.Store.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	return h.detach(key)
}

func (h *Host) detach(key string) error {
	c, err := h.Store.Container(key)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.Join(h.Store.FreeAll(key), h.Store.RemoveContainer(key))
	}
	if err != nil {
		return &Error{err, "remove the record by hand, and the interfaces that are in it"}
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	if c.BootID == boot && len(c.Endpoints) > 0 {
		if err := h.disconnect(c); err != nil {
			return fmt.Errorf("container %q: %w", c.ID, err)
		}
	}
	if err := h.detachCNI(key); err != nil {
		return fmt.Errorf("container %q: %w", c.ID, err)
	}
	if err := h.dropPeer(c); err != nil {
		return err
	}
	for i := range c.Ports {
		if err := h.Store.FreePort(&c.Ports[i], key); err != nil {
			return err
		}
	}
	for i := range c.Endpoints {
		for _, ip := range c.Endpoints[i].Addresses {
			if err := h.Store.Free(c.Endpoints[i].Network, ip, key); err != nil {
				return err
			}
		}
	}
	if !c.Complete() { // the record of somebody who was killed while he took addresses
		if err := h.Store.FreeAll(key); err != nil {
			return err
		}
	}
	return h.Store.RemoveContainer(key)
}

// disconnect removes what is in the kernel. Ports go first: nobody is sent to an
// interface that is not there.
func (h *Host) disconnect(c *store.Container) error {
	nf, err := nfnetlink.Dial()
	if err != nil {
		return nftError(err)
	}
	defer nf.Close()
	if len(c.Ports) > 0 {
		if err := h.unpublish(nf, c); err != nil {
			return err
		}
	}
	links, err := rtnetlink.Dial()
	if err != nil {
		return err
	}
	defer links.Close()
	for i := range c.Endpoints {
		if err := unplug(links, c.Endpoints[i].Link); err != nil {
			return err
		}
	}
	if err := h.forgetContainer(nf, c); !withoutConntrack(err) { // else nobody can, and it could not be attached
		return err
	}
	return nil
}

// unplug takes an interface out of its bridge for good. It is the network namespace
// of the container that takes the pair with it when it ends, which the kernel does
// without anybody waiting. Where somebody else holds the namespace he keeps an
// interface that leads nowhere, until he ends or [Host.Prune] removes it.
func unplug(links *rtnetlink.Conn, name string) error {
	err := links.Unplug(name)
	if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) { // going already
		return fmt.Errorf("unplug interface %q: %w", name, err)
	}
	return nil
}

// removeUnplugged removes the interfaces that unplug has left in namespaces which
// somebody holds.
func (h *Host) removeUnplugged() error {
	records, err := h.containers()
	if err != nil {
		return err
	}
	c, err := rtnetlink.Dial()
	if err != nil {
		return err
	}
	defer c.Close()
	links, err := c.Links()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	used := map[string]bool{}
	for _, r := range records {
		for i := range r.Endpoints {
			used[r.Endpoints[i].Link] = true
		}
	}
	var errs []error
	for i := range links {
		l := &links[i]
		if l.Kind != "veth" || l.Master != 0 || l.Flags&unix.IFF_UP != 0 || used[l.Name] || len(l.Name) != linkLen || !strings.HasPrefix(l.Name, linkPrefix) {
			continue
		}
		if err := c.DelLink(l.Index); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("remove interface %q: %w", l.Name, err))
		}
	}
	return errors.Join(errs...)
}

// detachGone detaches the container of a record if it does not exist any more.
func (h *Host) detachGone(key string) (bool, error) {
	c, err := h.Store.Container(key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err == nil {
		boot, err := bootID()
		if err != nil {
			return false, err
		}
		if c.BootID == boot && (h.Gone == nil || !h.Gone(c)) {
			return false, nil
		}
	}
	return true, h.detach(key)
}

// Prune detaches the containers that do not exist any more, and returns their keys.
func (h *Host) Prune() ([]string, error) {
	unlock, err := h.Store.Lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	return h.prune()
}

func (h *Host) prune() (freed []string, err error) {
	keys, err := h.Store.Keys()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, key := range keys {
		gone, err := h.detachGone(key)
		if gone && err == nil {
			freed = append(freed, key)
		}
		errs = append(errs, err)
	}
	errs = append(errs, h.freeOrphans(), h.removeUnplugged())
	return freed, errors.Join(errs...)
}

// freeOrphans frees the leases of keys that have no record, and removes networks
// that have none: both are left by somebody who was killed.
func (h *Host) freeOrphans() error {
	networks, err := h.Store.Networks()
	errs := []error{err}
	for _, n := range networks {
		list, err := h.Store.Leases(n.Name)
		errs = append(errs, err)
		for _, ip := range list {
			key, err := h.Store.Holder(n.Name, ip)
			if err != nil {
				continue // freed meanwhile
			}
			if _, err := os.Lstat(h.Store.ContainerDir(key)); errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, h.Store.Free(n.Name, ip, key))
			}
		}
	}
	return errors.Join(errs...)
}

// PruneNetworks removes the networks that no container is in, and returns their names.
func (h *Host) PruneNetworks() (removed []string, err error) {
	unlock, err := h.Store.Lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	networks, err := h.Store.Networks()
	errs := []error{err}
	for _, n := range networks {
		err := h.remove(n.Name)
		var used *InUseError
		switch {
		case err == nil:
			removed = append(removed, n.Name)
		case !errors.As(err, &used):
			errs = append(errs, err)
		}
	}
	return removed, errors.Join(errs...)
}
