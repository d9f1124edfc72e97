package service

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
)

// Table is the name of the nftables table, of family inet.
const Table = "minirun_svc"

// Options of a Balancer. The zero value works.
type Options struct {
	// NetNS is a descriptor of the network namespace to work in; 0 is the current
	// one. It must stay open as long as the Balancer is.
	NetNS int
	// Table replaces the name of the nftables table.
	Table string
	// Log gets what happens without being asked for. Nil: nothing is logged.
	Log *slog.Logger
	// Restored is called after each repair of the table.
	Restored func(reason string)
	// Loopback are addresses of the host, one of each family at most and none of
	// loopback: of the gateway of a network for example. With them node ports are
	// open at loopback addresses too, and clients there are seen as these.
	Loopback []netip.Addr
	// Cgroup is the directory of the cgroup whose processes reach node ports by
	// loopback addresses; empty: the root, all processes.
	Cgroup string
}

// Balancer keeps services in the kernel. Its methods may be called concurrently.
type Balancer struct {
	opts Options

	mu       sync.Mutex
	k        kernel
	services map[string]*entry
	owners   map[frontend]string
	addrs    map[netip.Addr]uses
	times    map[int]int // affinity timeouts: how many services have them
	counts   counts
	schema   *schema // what the kernel has; nil if unknown
	removed  bool    // the table is not to be there
	ct       conntrack
}

// New makes a Balancer without services. It touches nothing until it is told
// services: the rules of a predecessor go on until then.
func New(opts Options) *Balancer {
	opts.Table = cmp.Or(opts.Table, Table)
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Balancer{
		opts: opts, k: kernel{netns: opts.NetNS}, ct: conntrack{netns: opts.NetNS},
		services: map[string]*entry{}, owners: map[frontend]string{}, addrs: map[netip.Addr]uses{}, times: map[int]int{}, counts: counts{},
	}
}

// Close lets go of the sockets. The rules stay.
func (b *Balancer) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return errors.Join(b.k.close(), b.ct.close())
}

// Set makes svc what it is from now on, in one transaction. When it returns, no
// new connection reaches an endpoint that svc does not have open.
func (b *Balancer) Set(svc Service) error { return b.Apply([]Service{svc}, nil) }

// Delete removes the service called name. One that does not exist is no error.
func (b *Balancer) Delete(name string) error { return b.Apply(nil, []string{name}) }

// Replace makes services all that there are, and the kernel's table exactly
// theirs, whatever it had before. Supervisors call it once when they start.
func (b *Balancer) Replace(services []Service) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var gone []string
	for name := range b.services {
		if !slices.ContainsFunc(services, func(s Service) bool { return s.Name == name }) {
			gone = append(gone, name)
		}
	}
	b.schema = nil
	return b.apply(services, gone, true)
}

// Apply sets some services and deletes others, all in one transaction.
func (b *Balancer) Apply(set []Service, remove []string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.apply(set, remove, false)
}

func (b *Balancer) apply(set []Service, remove []string, all bool) error {
	d, err := b.plan(set, remove)
	b.removed = false
	if err != nil {
		return err
	}
	if err := b.commit(d); err != nil {
		return err
	}
	b.take(d)
	b.lead(d, all)
	if err := b.forget(d.before, d.after); err != nil {
		return fmt.Errorf("services are in effect, but connections of former endpoints are not forgotten: %w", err)
	}
	return nil
}

// delta is a change of services: those that it touches, as they were and as they will be.
type delta struct {
	before, after []*entry
	ts            []int // affinity timeouts afterwards
}

// uses is how many services call an address virtual, and how many shared.
type uses struct{ virtual, shared int }

// plan checks the change. What it costs depends on the change alone and not on
// how many services there are.
func (b *Balancer) plan(set []Service, remove []string) (delta, error) {
	var d delta
	var errs []error
	touched := map[string]bool{}
	touch := func(name string) {
		if e := b.services[name]; e != nil && !touched[name] {
			d.before = append(d.before, e)
		}
		touched[name] = true
	}
	named := map[string]bool{}
	for _, s := range set {
		if named[s.Name] {
			errs = append(errs, fmt.Errorf("service %q is there twice", s.Name))
		}
		named[s.Name] = true
		errs = append(errs, s.Validate())
		touch(s.Name)
	}
	for _, name := range remove {
		if !named[name] {
			touch(name)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return d, err
	}
	mine := map[frontend]string{}
	for _, s := range set {
		for _, p := range s.Ports {
			s.frontends(p, func(fe frontend, _ bool) {
				if o, taken := b.owners[fe]; taken && !touched[o] {
					errs = append(errs, &ConflictError{s.Name, o, fe.String()})
				}
				if o, taken := mine[fe]; taken {
					errs = append(errs, &ConflictError{s.Name, o, fe.String()})
				}
				mine[fe] = s.Name
			})
		}
		d.after = append(d.after, newEntry(s, b.services[s.Name]))
	}
	errs = append(errs, b.mixed(d))
	d.ts = b.timeoutsAfter(d)
	return d, errors.Join(errs...)
}

// mixed refuses an address that one service calls virtual and another shared:
// virtual means that no port of it is anybody else's.
func (b *Balancer) mixed(d delta) error {
	n := map[netip.Addr]uses{}
	add := func(e *entry, k int) {
		e.uses(func(a netip.Addr, u uses) {
			sum := n[a]
			n[a] = uses{sum.virtual + k*u.virtual, sum.shared + k*u.shared}
		})
	}
	for _, e := range d.before {
		add(e, -1)
	}
	for _, e := range d.after {
		add(e, 1)
	}
	var errs []error
	for a, u := range n {
		if all := b.addrs[a]; all.virtual+u.virtual > 0 && all.shared+u.shared > 0 {
			errs = append(errs, fmt.Errorf("address %s is virtual for one service and shared for another", a))
		}
	}
	return errors.Join(errs...)
}

func (e *entry) uses(f func(netip.Addr, uses)) {
	for _, a := range e.svc.Addresses {
		f(a, uses{virtual: 1})
	}
	for _, a := range e.svc.Shared {
		f(a, uses{shared: 1})
	}
}

func (b *Balancer) timeoutsAfter(d delta) []int {
	n := maps.Clone(b.times)
	for _, e := range d.before {
		n[seconds(e.svc.Affinity)]--
	}
	for _, e := range d.after {
		n[seconds(e.svc.Affinity)]++
	}
	var ts []int
	for t, k := range n {
		if t > 0 && k > 0 {
			ts = append(ts, t)
		}
	}
	slices.Sort(ts)
	return ts
}

// take makes the change ours.
func (b *Balancer) take(d delta) {
	for i, es := range [][]*entry{d.before, d.after} {
		k := 2*i - 1
		for _, e := range es {
			if b.times[seconds(e.svc.Affinity)] += k; b.times[seconds(e.svc.Affinity)] == 0 {
				delete(b.times, seconds(e.svc.Affinity))
			}
			e.uses(func(a netip.Addr, u uses) {
				all := b.addrs[a]
				b.addrs[a] = uses{all.virtual + k*u.virtual, all.shared + k*u.shared}
				if b.addrs[a] == (uses{}) {
					delete(b.addrs, a)
				}
			})
			for _, p := range e.svc.Ports {
				e.svc.frontends(p, func(fe frontend, _ bool) {
					if k > 0 {
						b.owners[fe] = e.svc.Name
					} else {
						delete(b.owners, fe)
					}
				})
			}
			if k > 0 {
				b.services[e.svc.Name] = e
			} else {
				delete(b.services, e.svc.Name)
			}
		}
	}
}

// with is all services as they are after the change.
func (b *Balancer) with(d delta) map[string]*entry {
	next := maps.Clone(b.services)
	for _, e := range d.before {
		delete(next, e.svc.Name)
	}
	for _, e := range d.after {
		next[e.svc.Name] = e
	}
	return next
}

// commit brings the kernel to the services after d. If it does not have what we
// think, everything is compared and put right.
func (b *Balancer) commit(d delta) error {
	if b.schema == nil {
		_, err := b.resync(b.with(d))
		return err
	}
	target := b.schema
	if !slices.Equal(d.ts, b.schema.timeouts) {
		target = newSchema(b.opts.Table, d.ts)
	}
	ch := difference(d.before, d.after, b.counts)
	if ch.empty() && target == b.schema {
		return nil
	}
	err := b.k.transaction(func(c *nftables.Conn) error {
		if target != b.schema {
			if err := target.structureChanges(c, b.schema); err != nil {
				return err
			}
		}
		return target.elementChanges(c, ch)
	})
	if err == nil {
		b.schema = target
		return nil
	}
	b.opts.Log.Warn("the kernel's rules of services are not what they were", "table", b.opts.Table, "error", err)
	b.schema = nil
	if _, again := b.resync(b.with(d)); again != nil {
		b.recount(b.services)
		return errors.Join(again, fmt.Errorf("change the rules of services: %w", err))
	}
	return nil
}

func (b *Balancer) recount(services map[string]*entry) {
	b.counts = counts{}
	for _, e := range services {
		e.elements(func(el element) {
			if el.shared() {
				b.counts[el]++
			}
		})
	}
}

// timeouts lists the affinity timeouts of services, in seconds, sorted.
func timeouts(services map[string]*entry) []int {
	n := map[int]bool{}
	for _, e := range services {
		if t := seconds(e.svc.Affinity); t > 0 {
			n[t] = true
		}
	}
	return slices.Sorted(maps.Keys(n))
}

// Resync compares the kernel's table with what it has to be and puts it right. It
// says whether there was anything to do.
func (b *Balancer) Resync() (changed bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.resync(b.services)
}

// resync does so for the given services: nothing if all is right, the elements that
// differ if only those do, else a new table, in place of the old one at one moment.
func (b *Balancer) resync(services map[string]*entry) (bool, error) {
	have, err := b.k.read(b.opts.Table)
	if err != nil {
		return false, err
	}
	want := newSchema(b.opts.Table, timeouts(services))
	ch := change{map[string][]element{}, map[string][]element{}}
	whole := !have.exists || have.structure != want.text()
	if whole {
		have.elements = nil
	}
	seen := map[element]bool{}
	for _, e := range services {
		e.elements(func(el element) {
			if el.shared() {
				if seen[el] {
					return
				}
				seen[el] = true
			}
			val, ok := have.elements[el.set][el.key]
			switch {
			case ok && val == el.val:
				delete(have.elements[el.set], el.key)
				return
			}
			ch.add[el.set] = append(ch.add[el.set], el)
		})
	}
	for set, m := range have.elements {
		for key, val := range m {
			ch.del[set] = append(ch.del[set], element{set, key, val})
		}
	}
	if !whole && ch.empty() {
		b.schema = want
		b.recount(services)
		return false, nil
	}
	err = b.k.transaction(func(c *nftables.Conn) error {
		if whole {
			if have.exists {
				c.DelTable(want.table)
			}
			if err := want.structureChanges(c, nil); err != nil {
				return err
			}
		}
		return want.elementChanges(c, ch)
	})
	if err != nil {
		b.schema = nil
		return false, b.k.refused(b.opts.Table, "write the rules of services", err)
	}
	b.schema = want
	b.recount(services)
	return true, nil
}

// Remove takes the table out of the kernel: no service works any more. It needs
// no services to be known, and cleans up after any predecessor.
func (b *Balancer) Remove() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.services, b.owners, b.addrs, b.times = map[string]*entry{}, map[frontend]string{}, map[netip.Addr]uses{}, map[int]int{}
	b.counts, b.schema, b.removed = counts{}, nil, true
	if len(b.opts.Loopback) > 0 {
		b.leadTo(nil)
	}
	have, err := b.k.read(b.opts.Table)
	if err != nil || !have.exists {
		return err
	}
	err = b.k.transaction(func(c *nftables.Conn) error {
		c.DelTable(&nftables.Table{Name: b.opts.Table, Family: nftables.TableFamilyINet})
		return nil
	})
	if err != nil {
		return explain("remove the rules of services", err)
	}
	return nil
}

// Services returns all services, sorted by name.
func (b *Balancer) Services() []Service {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []Service
	for _, name := range slices.Sorted(maps.Keys(b.services)) {
		all = append(all, b.services[name].svc.clone())
	}
	return all
}
