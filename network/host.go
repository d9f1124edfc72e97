package network

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/internal/nfnetlink"
	"github.com/minirun/minirun/internal/rtnetlink"
	"github.com/minirun/minirun/network/ipam"
	"github.com/minirun/minirun/network/store"
	"golang.org/x/sys/unix"
)

// DefaultName is the network that is made when it is first used.
const DefaultName = "bridge"

// A Host is the networks of a directory of records, in the network namespace of
// the calling process.
type Host struct {
	Store store.Store
	// Gone reports whether the container of a record does not exist any more. One
	// that cannot be told is not gone. If nil, only another boot makes them so.
	Gone func(*store.Container) bool
	// Warn, if not nil, is told what will not work as it should.
	Warn func(text string)
	// Cgroup is the directory of the cgroup whose processes reach published ports by
	// loopback addresses; empty: the root, all processes.
	Cgroup string
}

// Dir is where the records of a store are.
func Dir(storeDir string) store.Store { return store.Store(storeDir + "/networks") }

// A Spec is what a user says about a new network.
type Spec struct {
	Name     string
	Subnets  []netip.Prefix
	Gateways []netip.Addr
	IPv6     bool // a subnet of IPv6 too
	Internal bool
	Isolate  store.Isolation
	MTU      int
	DNS      []netip.Addr
	Labels   []store.Label
}

// SubnetError reports a subnet that cannot be had.
type SubnetError struct {
	Subnet netip.Prefix
	Reason string
}

func (e *SubnetError) Error() string { return "subnet " + e.Subnet.String() + " " + e.Reason }

// Hint says what to do.
func (*SubnetError) Hint() string {
	return "leave --subnet out to have one chosen that is free; ip route and minirun network list show what is taken"
}

// Create makes a network. Nothing of it is in the kernel before the first
// container.
func (h *Host) Create(spec *Spec) (*store.Network, error) {
	unlock, err := h.Store.Lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	return h.create(spec)
}

func (h *Host) create(spec *Spec) (*store.Network, error) {
	if err := store.CheckName(spec.Name); err != nil {
		return nil, err
	}
	if spec.MTU != 0 && (spec.MTU < 68 || spec.MTU > 65535 || spec.MTU < 1280 && spec.IPv6) {
		return nil, fmt.Errorf("network %q: MTU %d: want 68 to 65535, at least 1280 with IPv6", spec.Name, spec.MTU)
	}
	isolate, err := store.ParseIsolation(string(spec.Isolate))
	if err != nil {
		return nil, err
	}
	n := &store.Network{
		Name: spec.Name, ID: randomHex(10), Created: time.Now().UTC(), Internal: spec.Internal,
		Isolate: isolate, MTU: spec.MTU, DNS: spec.DNS, Labels: spec.Labels,
	}
	n.Bridge = "mr-" + n.ID
	if n.Subnets, err = h.subnets(spec); err != nil {
		return nil, fmt.Errorf("network %q: %w", spec.Name, err)
	}
	return n, h.Store.Add(n)
}

// subnets checks those that were asked for and finds those that were not.
func (h *Host) subnets(spec *Spec) (list []store.Subnet, err error) {
	c, err := rtnetlink.Dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	routes, err := c.Routes()
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	networks, err := h.Store.Networks()
	if err != nil {
		return nil, err
	}
	var others []netip.Prefix
	for _, n := range networks {
		for _, s := range n.Subnets {
			others = append(others, s.Prefix)
		}
	}
	var has4, has6 bool
	for _, p := range spec.Subnets {
		if err := ipam.CheckSubnet(p); err != nil {
			return nil, &SubnetError{p, err.Error()}
		}
		if p.Addr().Is4() && has4 || p.Addr().Is6() && has6 {
			return nil, &SubnetError{p, "is the second one of its family: a network has one of each"}
		}
		if o, hit := ipam.Overlap(p, others); hit {
			return nil, &SubnetError{p, "overlaps " + o.String() + " of network " + owner(networks, o)}
		}
		if o, hit := ipam.Overlap(p, routes); hit {
			return nil, &SubnetError{p, "overlaps the host's route to " + o.String()}
		}
		has4, has6 = has4 || p.Addr().Is4(), has6 || p.Addr().Is6()
		list = append(list, store.Subnet{Prefix: p, Gateway: ipam.Gateway(p)})
	}
	if !has4 && (len(spec.Subnets) == 0 || spec.IPv6) {
		p, err := ipam.Subnet(ipam.DefaultPools(), append(routes, others...))
		if err != nil {
			return nil, &Error{fmt.Errorf("find a subnet: %w: every one overlaps a route of the host or another network", err), "name one with --subnet, or remove networks: minirun network prune"}
		}
		list = append([]store.Subnet{{Prefix: p, Gateway: ipam.Gateway(p)}}, list...)
	}
	if spec.IPv6 && !has6 {
		var b [7]byte
		_, _ = unix.Getrandom(b[:], 0)
		p := ipam.ULA(b)
		list = append(list, store.Subnet{Prefix: p, Gateway: ipam.Gateway(p)})
	}
	for _, g := range spec.Gateways {
		found := false
		for i := range list {
			if ipam.Usable(list[i].Prefix, g) {
				list[i].Gateway, found = g, true
			}
		}
		if !found {
			return nil, fmt.Errorf("gateway %s is no address of a host in the network's subnets", g)
		}
	}
	return list, nil
}

func owner(networks []*store.Network, p netip.Prefix) string {
	for _, n := range networks {
		for _, s := range n.Subnets {
			if s.Prefix == p {
				return n.Name
			}
		}
	}
	return "?"
}

// InUseError reports a network that containers are in.
type InUseError struct {
	Name       string
	Containers []string
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("network %q is in use by %s", e.Name, strings.Join(e.Containers, ", "))
}

// Hint says what to do.
func (*InUseError) Hint() string {
	return "delete these containers first; minirun network prune forgets those that are gone"
}

// Remove removes a network that no container is in.
func (h *Host) Remove(name string) error {
	unlock, err := h.Store.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	return h.remove(name)
}

func (h *Host) remove(name string) error {
	n, err := h.Store.Network(name)
	if err != nil {
		return err
	}
	list, err := h.containers()
	if err != nil {
		return err
	}
	e := &InUseError{Name: name}
	for _, c := range list {
		for i := range c.Endpoints {
			if c.Endpoints[i].Network == name {
				e.Containers = append(e.Containers, c.ID)
			}
		}
	}
	if len(e.Containers) > 0 {
		return e
	}
	if err := h.dismantle(n); err != nil {
		return err
	}
	if err := h.forgetFormer(name, nil); err != nil { // another network may have its addresses next
		return err
	}
	return h.Store.RemoveNetwork(name)
}

// dismantle takes what there is of a network out of the kernel.
func (h *Host) dismantle(n *store.Network) error {
	c, err := rtnetlink.Dial()
	if err != nil {
		return err
	}
	defer c.Close()
	l, err := c.LinkByName(n.Bridge)
	if err == nil {
		err = c.DelLink(l.Index)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove interface %q: %w", n.Bridge, err)
	}
	nf, err := nfnetlink.Dial()
	if err != nil {
		return err
	}
	defer nf.Close()
	if there, err := h.checkTable(nf); err != nil || !there {
		return ignoreForeign(err)
	}
	b := nfnetlink.NewBatch()
	addNetwork(b, n)
	for _, set := range networkSets(n) {
		b.DelElements(inet, Table, set, nfnetlink.Element{Key: ifname(n.Bridge)})
	}
	if n.Isolate != store.Containers {
		b.DelElements(inet, Table, "same", nfnetlink.Element{Key: append(ifname(n.Bridge), ifname(n.Bridge)...)})
	}
	return nftError(nf.Commit(b))
}

// ignoreForeign is for what we remove: in a table of others there is nothing of ours.
func ignoreForeign(err error) error {
	var foreign *ForeignTableError
	if errors.As(err, &foreign) {
		return nil
	}
	return err
}

// containers reads all records that can be read. Half ones have nothing in the
// kernel.
func (h *Host) containers() (list []*store.Container, err error) {
	keys, err := h.Store.Keys()
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		c, err := h.Store.Container(key)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return list, nil
}

// Containers lists what the containers of all networks have.
func (h *Host) Containers() ([]*store.Container, error) { return h.containers() }

// Reload makes the rules and the bridges what the records say: after somebody has
// flushed them.
func (h *Host) Reload() error {
	unlock, err := h.Store.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	c, err := rtnetlink.Dial()
	if err != nil {
		return err
	}
	defer c.Close()
	networks, err := h.Store.Networks()
	if err != nil {
		return err
	}
	for _, n := range networks {
		if err := h.switchNames(n); err != nil {
			return err
		}
		if l, err := c.LinkByName(n.Bridge); err == nil {
			if err := h.setUp(c, n, l.Index); err != nil {
				return err
			}
			h.warnObstacles(n)
		}
	}
	if err := h.reload(); err != nil {
		return err
	}
	list, err := h.here()
	if err == nil {
		h.leadAll(list)
	}
	return err
}

// reload makes the table, under the lock.
func (h *Host) reload() error {
	networks, err := h.Store.Networks()
	if err != nil {
		return err
	}
	list, err := h.here()
	if err != nil {
		return err
	}
	nf, err := nfnetlink.Dial()
	if err != nil {
		return nftError(err)
	}
	defer nf.Close()
	if _, err := h.checkTable(nf); err != nil {
		return err
	}
	b := nfnetlink.NewBatch()
	h.addTable(b, networks, list)
	return nftError(nf.Commit(b))
}

// here are the containers of this boot.
func (h *Host) here() ([]*store.Container, error) {
	list, err := h.containers()
	if err != nil {
		return nil, err
	}
	boot, err := bootID()
	return slices.DeleteFunc(list, func(c *store.Container) bool { return c.BootID != boot }), err
}

// bridge is the index of a network's bridge, which is made if it is not there.
func (h *Host) bridge(c *rtnetlink.Conn, n *store.Network) (int, error) {
	l, err := c.LinkByName(n.Bridge)
	if err == nil && l.Flags&unix.IFF_UP != 0 {
		return l.Index, nil
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return 0, fmt.Errorf("look for interface %q: %w", n.Bridge, err)
	}
	unlock, err := h.Store.Lock()
	if err != nil {
		return 0, err
	}
	defer unlock()
	return h.makeBridge(c, n)
}

// makeBridge makes it, or what is missing of it, under the lock.
func (h *Host) makeBridge(c *rtnetlink.Conn, n *store.Network) (int, error) {
	mac := ipam.MAC(n.Subnets[0].Gateway)
	err := c.AddBridge(n.Bridge, mac, n.MTU)
	made := err == nil
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return 0, linkError("make bridge "+n.Bridge, err)
	}
	l, err := c.LinkByName(n.Bridge)
	if err != nil {
		return 0, fmt.Errorf("look for interface %q: %w", n.Bridge, err)
	}
	kind, err := c.Kind(l.Index)
	if err != nil {
		return 0, err
	}
	if kind != "bridge" {
		return 0, &Error{fmt.Errorf("interface %q of network %q is no bridge, but of kind %q", n.Bridge, n.Name, kind), "it is not ours: rename it, or make another network"}
	}
	if err := h.setUp(c, n, l.Index); err != nil {
		return 0, err
	}
	if err := h.reload(); err != nil {
		if made { // without rules nobody may be in it
			err = errors.Join(err, c.DelLink(l.Index))
		}
		return 0, err
	}
	h.warnObstacles(n)
	return l.Index, nil
}

func linkError(what string, err error) error {
	err = fmt.Errorf("%s: %w", what, err)
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return &Error{err, "networks take root with CAP_NET_ADMIN; without it use --network none or host"}
	case errors.Is(err, unix.EOPNOTSUPP):
		return &Error{err, "the kernel lacks a module: modprobe bridge veth"}
	case errors.Is(err, unix.EXFULL):
		return &Error{err, "a bridge has at most 1023 interfaces: make another network for more containers, or delete some"}
	}
	return err
}

// setUp gives a bridge what it needs. It is up when it has everything.
func (h *Host) setUp(c *rtnetlink.Conn, n *store.Network, index int) error {
	if err := writeSysctl("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	for _, s := range n.Subnets {
		if s.Prefix.Addr().Is6() {
			if err := forward6(n.Bridge); err != nil {
				return err
			}
		}
		p := netip.PrefixFrom(s.Gateway, s.Prefix.Bits())
		if err := c.AddPrefix(index, p, unix.IFA_F_NODAD); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("give interface %q the address %s: %w", n.Bridge, p, err)
		}
	}
	if err := c.Up(index); err != nil {
		return fmt.Errorf("set interface %q up: %w", n.Bridge, err)
	}
	return nil
}

// writeSysctl sets a kernel parameter that does not have the value.
func writeSysctl(name, value string) error {
	path := "/proc/sys/" + name
	if have, err := linux.ReadFile(path, 64); err == nil && strings.TrimSpace(string(have)) == value {
		return nil
	}
	return linux.WriteFileAt(unix.AT_FDCWD, path, value)
}

// forward6 lets the host forward IPv6. A host that forwards does not listen to
// routers any more, unless it is told to: interfaces that did go on doing so.
func forward6(bridge string) error {
	const conf = "net/ipv6/conf/"
	if err := writeSysctl(conf+bridge+"/disable_ipv6", "0"); err != nil {
		return &Error{err, "the kernel has no IPv6, or it is switched off: use a network without it"}
	}
	if err := writeSysctl(conf+bridge+"/accept_ra", "0"); err != nil {
		return err
	}
	have, err := linux.ReadFile("/proc/sys/"+conf+"all/forwarding", 64)
	if err != nil || strings.TrimSpace(string(have)) == "1" {
		return err
	}
	c, err := rtnetlink.Dial()
	if err != nil {
		return err
	}
	defer c.Close()
	links, err := c.Links()
	if err != nil {
		return err
	}
	for _, l := range links {
		if v, err := linux.ReadFile("/proc/sys/"+conf+l.Name+"/accept_ra", 64); err == nil && strings.TrimSpace(string(v)) == "1" && l.Name != bridge {
			if err := writeSysctl(conf+l.Name+"/accept_ra", "2"); err != nil {
				return err
			}
		}
	}
	return writeSysctl(conf+"all/forwarding", "1")
}

func bootID() (string, error) {
	b, err := linux.ReadFile("/proc/sys/kernel/random/boot_id", 64)
	return strings.TrimSpace(string(b)), err
}

func randomHex(n int) string {
	b := make([]byte, (n+1)/2)
	_, _ = unix.Getrandom(b, 0) // complete for so few bytes
	const digits = "0123456789abcdef"
	s := make([]byte, 0, 2*len(b))
	for _, c := range b {
		s = append(s, digits[c>>4], digits[c&15])
	}
	return string(s[:n])
}
