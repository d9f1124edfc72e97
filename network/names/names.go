package names

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	inet "github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/network"
	"github.com/minirun/minirun/network/dns"
	"github.com/minirun/minirun/network/store"
)

// Source has names that no record of a network has: those of services.
type Source interface {
	// Services are those that clients of a network may ask for.
	Services(network string) []dns.Service
	// Changed gets a value after Services has changed. A value that nobody has taken
	// yet stands for all changes before it is taken.
	Changed() <-chan struct{}
}

// Options of Names. The zero value but for Store works.
type Options struct {
	Store store.Store
	// Services may be nil.
	Services Source
	// Skip, if not nil, names networks that somebody else answers for.
	Skip func(*store.Network) bool
	// Domain of services; empty means dns.DefaultDomain.
	Domain string
	// Resolv, Port, Listen, Dial and Log are those of dns.Options.
	Resolv string
	Port   uint16
	Listen func(network, address string) (net.Listener, net.PacketConn, error)
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Log    *slog.Logger
	// Compare is how often all records are compared; a minute if 0.
	Compare time.Duration
	// Answering, if not nil, is told when a network's names begin to be answered, and
	// when no more.
	Answering func(network string, at []netip.Addr, answered bool)
}

// Names answers for the networks of a directory of records.
type Names struct {
	opts   Options
	server *dns.Server
	boot   string
	watch  *watcher

	networks   map[string]*state
	containers map[string]*store.Container // by key
	members    map[string]map[string]bool  // of networks, by key
	changed    map[string]bool             // networks whose table is old
}

// state is what Run knows of a network.
type state struct {
	record *store.Network
	done   func() // of the lock; nil if its names are not answered
	said   string // the last error
}

// New makes a Names. Nothing is open before Run.
func New(o Options) (*Names, error) {
	if o.Store == "" {
		return nil, errors.New("names of networks: no directory of records")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Compare == 0 {
		o.Compare = time.Minute
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	return &Names{opts: o, boot: strings.TrimSpace(string(boot))}, nil
}

// Run answers until ctx ends.
func (s *Names) Run(ctx context.Context) (err error) {
	unlock, err := s.opts.Store.Lock() // makes the directories
	if err != nil {
		return err
	}
	unlock()
	if s.watch, err = newWatcher(s.opts.Store); err != nil {
		return fmt.Errorf("watch the records of networks: %w", err)
	}
	o := &s.opts
	s.server = dns.New(dns.Options{Port: o.Port, Resolv: o.Resolv, Listen: o.Listen, Dial: o.Dial, Log: o.Log})
	s.networks, s.containers = map[string]*state{}, map[string]*store.Container{}
	s.members, s.changed = map[string]map[string]bool{}, map[string]bool{}
	defer func() { err = errors.Join(err, s.close()) }()
	s.compare()
	s.publish()
	tick := time.NewTicker(o.Compare)
	defer tick.Stop()
	var services <-chan struct{}
	if o.Services != nil {
		services = o.Services.Changed()
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.compare()
		case <-services:
			for name := range s.networks {
				s.changed[name] = true
			}
		case e, ok := <-s.watch.events:
			if !ok {
				return fmt.Errorf("watch the records of networks: %w", s.watch.err)
			}
			s.handle(e)
		}
		s.publish()
	}
}

// handle does what a batch of events asks for.
func (s *Names) handle(e batch) {
	if e.lost {
		s.compare()
		return
	}
	for key := range e.containers {
		s.container(key)
	}
	for name := range e.networks {
		s.network(name)
	}
}

// compare reads all records: of containers first, so that a network that begins to
// be answered has its names.
func (s *Names) compare() {
	networks, containers, err := s.watch.all()
	if err != nil {
		s.opts.Log.Error("compare the records of networks", "error", err)
		return
	}
	for name := range s.networks {
		networks[name] = true
	}
	for key := range s.containers {
		containers[key] = true
	}
	for key := range containers {
		s.container(key)
	}
	for _, name := range slices.Sorted(maps.Keys(networks)) {
		s.network(name)
	}
}

// network makes the sockets of a network what its record says.
func (s *Names) network(name string) {
	n, err := s.opts.Store.Network(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.opts.Log.Error("record of a network", "network", name, "error", err)
		return
	}
	if n != nil && s.opts.Skip != nil && s.opts.Skip(n) {
		n = nil
	}
	have := s.networks[name]
	if have != nil && (n == nil || n.ID != have.record.ID) {
		s.shut(name)
		have = nil
	}
	if n == nil {
		return
	}
	if have == nil {
		have = &state{}
		s.networks[name] = have
	}
	have.record = n
	if have.done == nil {
		if err := s.open(have); err != nil {
			if err.Error() != have.said {
				s.opts.Log.Error("names of a network are not answered", "network", name, "error", err)
			}
			have.said = err.Error()
			return
		}
		have.said = ""
		if s.opts.Answering != nil {
			s.opts.Answering(name, gateways(n), true)
		}
	}
	s.changed[name] = true
}

func gateways(n *store.Network) (list []netip.Addr) {
	for _, sub := range n.Subnets {
		list = append(list, address(sub.Gateway))
	}
	return list
}

// address is an address of a record.
func address(a inet.Addr) netip.Addr {
	std, _ := netip.AddrFromSlice(a.AsSlice())
	return std
}

func addresses(list []inet.Addr) (std []netip.Addr) {
	for _, a := range list {
		std = append(std, address(a))
	}
	return std
}

func prefixes(n *store.Network) (list []netip.Prefix) {
	for _, sub := range n.Subnets {
		list = append(list, netip.PrefixFrom(address(sub.Prefix.Addr()), sub.Prefix.Bits()))
	}
	return list
}

// open has names answered, with all that is known of them, before anybody is told
// to ask for them.
func (s *Names) open(st *state) error {
	n := st.record
	if err := s.server.Open(n.Name, gateways(n), prefixes(n)); err != nil {
		return explain(err)
	}
	if err := s.server.Set(n.Name, s.records(n)); err != nil {
		return errors.Join(err, s.server.Shut(n.Name))
	}
	done, err := s.opts.Store.Answer(n.Name)
	if err != nil {
		return errors.Join(err, s.server.Shut(n.Name))
	}
	st.done = done
	return s.switchNames(n.Name)
}

func (s *Names) switchNames(name string) error {
	err := (&network.Host{Store: s.opts.Store}).SwitchNames(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed meanwhile
	}
	return err
}

// shut ends it: first nobody is told to ask any more.
func (s *Names) shut(name string) {
	st := s.networks[name]
	delete(s.networks, name)
	delete(s.changed, name)
	if st == nil || st.done == nil {
		return
	}
	st.done()
	err := s.switchNames(name)
	if err = errors.Join(err, s.server.Shut(name)); err != nil {
		s.opts.Log.Error("end answering names", "network", name, "error", err)
	}
	if s.opts.Answering != nil {
		s.opts.Answering(name, gateways(st.record), false)
	}
}

func (s *Names) close() error {
	for _, name := range slices.Collect(maps.Keys(s.networks)) {
		s.shut(name)
	}
	return errors.Join(s.server.Close(), s.watch.close())
}

// container reads one record again.
func (s *Names) container(key string) {
	c, err := s.opts.Store.Container(key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.opts.Log.Error("record of a container's networks", "container", store.IDOf(key), "error", err)
		return
	}
	if err == nil && c.BootID != s.boot {
		c = nil
	}
	old := s.containers[key]
	delete(s.containers, key)
	s.enroll(old, key, false)
	if c != nil {
		s.containers[key] = c
		s.enroll(c, key, true)
	}
}

func (s *Names) enroll(c *store.Container, key string, in bool) {
	if c == nil {
		return
	}
	for i := range c.Endpoints {
		name := c.Endpoints[i].Network
		s.changed[name] = true
		if !in {
			delete(s.members[name], key)
			continue
		}
		if s.members[name] == nil {
			s.members[name] = map[string]bool{}
		}
		s.members[name][key] = true
	}
}

// publish has the server answer what is known now.
func (s *Names) publish() {
	for name := range s.changed {
		st := s.networks[name]
		if st == nil || st.done == nil {
			continue
		}
		if err := s.server.Set(name, s.records(st.record)); err != nil {
			s.opts.Log.Error("names of a network", "network", name, "error", err)
		}
	}
	clear(s.changed)
}

// records are all names of a network.
func (s *Names) records(n *store.Network) dns.Records {
	r := dns.Records{Domain: s.opts.Domain, Inside: n.Internal, Resolvers: addresses(n.DNS), Subnets: prefixes(n)}
	keys := slices.Sorted(maps.Keys(s.members[n.Name]))
	for _, key := range keys {
		c := s.containers[key]
		for i := range c.Endpoints {
			e := &c.Endpoints[i]
			if e.Network != n.Name || len(e.Addresses) == 0 {
				continue
			}
			if h, ok := host(c, e); ok {
				r.Hosts = append(r.Hosts, h)
			}
			if len(c.Endpoints) == 1 {
				continue
			}
			if r.Also == nil {
				r.Also = map[netip.Addr][]string{}
			}
			for j := range c.Endpoints {
				for _, a := range addresses(e.Addresses) {
					if j != i {
						r.Also[a] = append(r.Also[a], c.Endpoints[j].Network)
					}
				}
			}
		}
	}
	if s.opts.Services != nil {
		r.Services = s.opts.Services.Services(n.Name)
	}
	return r
}

// host has all names of a container in a network that are names of hosts.
func host(c *store.Container, e *store.Endpoint) (dns.Host, bool) {
	var names []string
	for _, name := range slices.Concat([]string{c.ID, c.Hostname}, c.Aliases, e.Aliases) {
		if dns.CheckName(name) == nil && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return dns.Host{}, false
	}
	return dns.Host{Name: names[0], Aliases: names[1:], Addresses: addresses(e.Addresses)}, true
}
