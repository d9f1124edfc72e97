package store

import (
	"fmt"
	"strconv"
	"time"

	"github.com/minirun/minirun/internal/jsonread"
	"github.com/minirun/minirun/internal/netip"
)

// Isolation says whom the containers of a network can reach besides the outside.
type Isolation string

const (
	Networks   Isolation = "networks"   // those of their network; the default
	None       Isolation = "none"       // and those of other networks that say the same
	Containers Isolation = "containers" // nobody, but by published ports
)

// ParseIsolation reads one; "" is [Networks].
func ParseIsolation(s string) (Isolation, error) {
	switch i := Isolation(s); i {
	case "":
		return Networks, nil
	case Networks, None, Containers:
		return i, nil
	}
	return "", fmt.Errorf("unknown isolation %q: want networks, none or containers", s)
}

// A Network is what is recorded of a network.
type Network struct {
	Name     string
	ID       string // random; part of the names of its interfaces
	Created  time.Time
	Bridge   string // the interface that it is on the host
	Subnets  []Subnet
	Internal bool // no way out
	Isolate  Isolation
	MTU      int // 0: that of the interface
	DNS      []netip.Addr
	Labels   []Label
}

// A Subnet is one of at most two of a network: one of each family.
type Subnet struct {
	Prefix  netip.Prefix
	Gateway netip.Addr // the host's address in it
}

// Label is a name and a value.
type Label struct{ Name, Value string }

// A Container is what one container has of networks.
type Container struct {
	Key    string // unique, see [IDOf]
	ID     string
	Root   string // the state directory that the container is recorded in
	BootID string // of the boot that all of this is about

	Hostname  string
	Aliases   []string
	Endpoints []Endpoint
	Ports     []Port
}

// An Endpoint is a container in a network.
type Endpoint struct {
	Network   string
	NetworkID string
	Link      string       // interface on the host
	Name      string       // interface in the container
	Addresses []netip.Addr // at most one of each family
	MAC       [6]byte
	Aliases   []string // in this network alone
	// Pending says that the container is being connected or disconnected: what there
	// is of the endpoint is not known. Without addresses it may have any.
	Pending bool
}

// Complete reports whether the record says all that the container has.
func (c *Container) Complete() bool {
	for i := range c.Endpoints {
		if c.Endpoints[i].Pending && len(c.Endpoints[i].Addresses) == 0 {
			return false
		}
	}
	return len(c.Endpoints) > 0
}

// Address4 is the endpoint's address of IPv4, if it has one.
func (e *Endpoint) Address4() netip.Addr { return e.address(true) }

// Address6 is the same of IPv6.
func (e *Endpoint) Address6() netip.Addr { return e.address(false) }

func (e *Endpoint) address(v4 bool) netip.Addr {
	for _, a := range e.Addresses {
		if a.Is4() == v4 {
			return a
		}
	}
	return netip.Addr{}
}

// A Port is one published port, or a range of them.
type Port struct {
	IP        netip.Addr // of the host; not valid: all
	Host      uint16     // 0: the system chooses
	Container uint16
	Count     uint16 // how many, from Host and Container on
	Protocol  string // tcp, udp or sctp
}

// String is the port as the user writes it.
func (p *Port) String() string {
	s := ""
	if p.IP.IsValid() {
		if s = p.IP.String() + ":"; p.IP.Is6() {
			s = "[" + p.IP.String() + "]:"
		}
	}
	return s + portRange(p.Host, p.Count) + ":" + portRange(p.Container, p.Count) + "/" + p.Protocol
}

func portRange(first, count uint16) string {
	s := strconv.Itoa(int(first))
	if count > 1 {
		s += "-" + strconv.Itoa(int(first)+int(count)-1)
	}
	return s
}

// overlaps reports whether the host's ports are in part the same.
func (p *Port) overlaps(q *Port) bool {
	if p.Protocol != q.Protocol || int(p.Host)+int(p.Count) <= int(q.Host) || int(q.Host)+int(q.Count) <= int(p.Host) {
		return false
	}
	return !p.IP.IsValid() || !q.IP.IsValid() || p.IP == q.IP ||
		p.IP.Is4() == q.IP.Is4() && (p.IP.IsUnspecified() || q.IP.IsUnspecified())
}

const version = 1

func (n *Network) appendJSON(b []byte) []byte {
	b = jsonread.AppendInt(append(b, `{"version":`...), version)
	b = jsonread.AppendString(jsonread.AppendKey(b, "name"), n.Name)
	b = jsonread.AppendString(jsonread.AppendKey(b, "id"), n.ID)
	b = jsonread.AppendTime(jsonread.AppendKey(b, "created"), n.Created)
	b = jsonread.AppendString(jsonread.AppendKey(b, "bridge"), n.Bridge)
	b = append(jsonread.AppendKey(b, "subnets"), '[')
	for i := range n.Subnets {
		b = append(jsonread.AppendComma(b), '{')
		b = jsonread.AppendString(jsonread.AppendKey(b, "subnet"), n.Subnets[i].Prefix.String())
		b = jsonread.AppendString(jsonread.AppendKey(b, "gateway"), n.Subnets[i].Gateway.String())
		b = append(b, '}')
	}
	b = append(b, ']')
	b = jsonread.AppendBool(jsonread.AppendKey(b, "internal"), n.Internal)
	b = jsonread.AppendString(jsonread.AppendKey(b, "isolate"), string(n.Isolate))
	b = jsonread.AppendInt(jsonread.AppendKey(b, "mtu"), int64(n.MTU))
	b = appendAddrs(jsonread.AppendKey(b, "dns"), n.DNS)
	b = append(jsonread.AppendKey(b, "labels"), '{')
	for _, l := range n.Labels {
		b = jsonread.AppendString(jsonread.AppendKey(b, l.Name), l.Value)
	}
	return append(b, "}}\n"...)
}

func appendAddrs(b []byte, list []netip.Addr) []byte {
	b = append(b, '[')
	for _, a := range list {
		b = jsonread.AppendString(jsonread.AppendComma(b), a.String())
	}
	return append(b, ']')
}

func appendStrings(b []byte, list []string) []byte {
	b = append(b, '[')
	for _, v := range list {
		b = jsonread.AppendString(jsonread.AppendComma(b), v)
	}
	return append(b, ']')
}

// reader reads values that are more than JSON. The first error of them sticks.
type reader struct {
	jsonread.Reader
	version int
	err     error
}

func (r *reader) keep(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *reader) end() error {
	if err := r.End(); err != nil {
		return err
	}
	switch {
	case r.version > version:
		return fmt.Errorf("has version %d, this minirun reads up to %d", r.version, version)
	case r.version < 1:
		return fmt.Errorf("has no version")
	}
	return r.err
}

func (r *reader) addr(a *netip.Addr) {
	var s string
	r.String(&s)
	if s == "" || r.Err() != nil {
		return
	}
	v, err := netip.ParseAddr(s)
	r.keep(err)
	*a = v
}

func (r *reader) addrs(list *[]netip.Addr) {
	for ok := r.Array(); ok; ok = r.NextElem() {
		var a netip.Addr
		r.addr(&a)
		*list = append(*list, a)
	}
}

func (r *reader) strings(list *[]string) {
	for ok := r.Array(); ok; ok = r.NextElem() {
		var s string
		r.String(&s)
		*list = append(*list, s)
	}
}

func (r *reader) uint16(p *uint16) {
	var n int
	r.Int(&n)
	if n < 0 || n > 65535 {
		r.keep(fmt.Errorf("port %d", n))
	}
	*p = uint16(n)
}

func parseNetwork(raw []byte) (*Network, error) {
	n := new(Network)
	r := &reader{Reader: jsonread.New(raw)}
	for key, ok := r.Object(); ok; key, ok = r.NextKey() {
		switch key {
		case "version":
			r.Int(&r.version)
		case "name":
			r.String(&n.Name)
		case "id":
			r.String(&n.ID)
		case "created":
			var s string
			r.String(&s)
			t, err := time.Parse(time.RFC3339Nano, s)
			r.keep(err)
			n.Created = t
		case "bridge":
			r.String(&n.Bridge)
		case "subnets":
			for ok := r.Array(); ok; ok = r.NextElem() {
				n.Subnets = append(n.Subnets, r.subnet())
			}
		case "internal":
			r.Bool(&n.Internal)
		case "isolate":
			var s string
			r.String(&s)
			i, err := ParseIsolation(s)
			r.keep(err)
			n.Isolate = i
		case "mtu":
			r.Int(&n.MTU)
		case "dns":
			r.addrs(&n.DNS)
		case "labels":
			for name, ok := r.Object(); ok; name, ok = r.NextKey() {
				l := Label{Name: name}
				r.String(&l.Value)
				n.Labels = append(n.Labels, l)
			}
		default:
			r.Skip()
		}
	}
	return n, r.end()
}

func (r *reader) subnet() (s Subnet) {
	for key, ok := r.Object(); ok; key, ok = r.NextKey() {
		switch key {
		case "subnet":
			var text string
			r.String(&text)
			p, err := netip.ParsePrefix(text)
			r.keep(err)
			s.Prefix = p
		case "gateway":
			r.addr(&s.Gateway)
		default:
			r.Skip()
		}
	}
	return s
}

func (c *Container) appendJSON(b []byte) []byte {
	b = jsonread.AppendInt(append(b, `{"version":`...), version)
	b = jsonread.AppendString(jsonread.AppendKey(b, "key"), c.Key)
	b = jsonread.AppendString(jsonread.AppendKey(b, "id"), c.ID)
	b = jsonread.AppendString(jsonread.AppendKey(b, "root"), c.Root)
	b = jsonread.AppendString(jsonread.AppendKey(b, "bootId"), c.BootID)
	b = jsonread.AppendString(jsonread.AppendKey(b, "hostname"), c.Hostname)
	b = appendStrings(jsonread.AppendKey(b, "aliases"), c.Aliases)
	b = append(jsonread.AppendKey(b, "endpoints"), '[')
	for i := range c.Endpoints {
		e := &c.Endpoints[i]
		b = append(jsonread.AppendComma(b), '{')
		b = jsonread.AppendString(jsonread.AppendKey(b, "network"), e.Network)
		b = jsonread.AppendString(jsonread.AppendKey(b, "networkId"), e.NetworkID)
		b = jsonread.AppendString(jsonread.AppendKey(b, "link"), e.Link)
		b = jsonread.AppendString(jsonread.AppendKey(b, "name"), e.Name)
		b = appendAddrs(jsonread.AppendKey(b, "addresses"), e.Addresses)
		if len(e.Addresses) > 0 {
			b = jsonread.AppendString(jsonread.AppendKey(b, "mac"), FormatMAC(e.MAC))
		}
		if len(e.Aliases) > 0 {
			b = appendStrings(jsonread.AppendKey(b, "aliases"), e.Aliases)
		}
		if e.Pending {
			b = jsonread.AppendBool(jsonread.AppendKey(b, "pending"), true)
		}
		b = append(b, '}')
	}
	b = append(b, ']')
	b = append(jsonread.AppendKey(b, "ports"), '[')
	for i := range c.Ports {
		p := &c.Ports[i]
		b = append(jsonread.AppendComma(b), '{')
		if p.IP.IsValid() {
			b = jsonread.AppendString(jsonread.AppendKey(b, "ip"), p.IP.String())
		}
		b = jsonread.AppendUint(jsonread.AppendKey(b, "host"), uint64(p.Host))
		b = jsonread.AppendUint(jsonread.AppendKey(b, "container"), uint64(p.Container))
		b = jsonread.AppendUint(jsonread.AppendKey(b, "count"), uint64(p.Count))
		b = jsonread.AppendString(jsonread.AppendKey(b, "protocol"), p.Protocol)
		b = append(b, '}')
	}
	return append(b, "]}\n"...)
}

func parseContainer(raw []byte) (*Container, error) {
	c := new(Container)
	r := &reader{Reader: jsonread.New(raw)}
	for key, ok := r.Object(); ok; key, ok = r.NextKey() {
		switch key {
		case "version":
			r.Int(&r.version)
		case "key":
			r.String(&c.Key)
		case "id":
			r.String(&c.ID)
		case "root":
			r.String(&c.Root)
		case "bootId":
			r.String(&c.BootID)
		case "hostname":
			r.String(&c.Hostname)
		case "aliases":
			r.strings(&c.Aliases)
		case "endpoints":
			for ok := r.Array(); ok; ok = r.NextElem() {
				c.Endpoints = append(c.Endpoints, r.endpoint())
			}
		case "ports":
			for ok := r.Array(); ok; ok = r.NextElem() {
				c.Ports = append(c.Ports, r.port())
			}
		default:
			r.Skip()
		}
	}
	return c, r.end()
}

func (r *reader) endpoint() (e Endpoint) {
	for key, ok := r.Object(); ok; key, ok = r.NextKey() {
		switch key {
		case "network":
			r.String(&e.Network)
		case "networkId":
			r.String(&e.NetworkID)
		case "link":
			r.String(&e.Link)
		case "name":
			r.String(&e.Name)
		case "addresses":
			r.addrs(&e.Addresses)
		case "mac":
			var s string
			r.String(&s)
			m, err := ParseMAC(s)
			r.keep(err)
			e.MAC = m
		case "aliases":
			r.strings(&e.Aliases)
		case "pending":
			r.Bool(&e.Pending)
		default:
			r.Skip()
		}
	}
	return e
}

func (r *reader) port() (p Port) {
	for key, ok := r.Object(); ok; key, ok = r.NextKey() {
		switch key {
		case "ip":
			r.addr(&p.IP)
		case "host":
			r.uint16(&p.Host)
		case "container":
			r.uint16(&p.Container)
		case "count":
			r.uint16(&p.Count)
		case "protocol":
			r.String(&p.Protocol)
		default:
			r.Skip()
		}
	}
	return p
}

// FormatMAC writes a hardware address as it is usually written.
func FormatMAC(m [6]byte) string {
	const digits = "0123456789abcdef"
	b := make([]byte, 0, 17)
	for i, c := range m {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, digits[c>>4], digits[c&15])
	}
	return string(b)
}

// ParseMAC reads a hardware address of one interface.
func ParseMAC(s string) (m [6]byte, err error) {
	ok := len(s) == 17
	for i := 0; ok && i < 6; i++ {
		v, err := strconv.ParseUint(s[3*i:3*i+2], 16, 8)
		ok = err == nil && (i == 5 || s[3*i+2] == ':')
		m[i] = byte(v)
	}
	if !ok || m[0]&1 != 0 || m == [6]byte{} {
		return m, fmt.Errorf("hardware address %q: want six bytes such as 02:00:00:00:00:01, and not of a group", s)
	}
	return m, nil
}
