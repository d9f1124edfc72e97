package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/rtnetlink"
	"github.com/minirun/minirun/orchestrate/store"
)

// What a process of the host sends to a service gets another destination after the
// kernel has found a route for it, any route. Where there is none, not even a
// default one, a rule behind all others leads to a table of ours, which has one.
// So where there is another route, ours does nothing: neither way nor source
// address change. The rule is for packets of the host alone: what comes from pods
// has its destination already when a route is looked for.
const (
	routeTable    = 0x6d72 // "mr"
	routePriority = 33000  // behind main and default
	routeEvery    = time.Minute
)

// keepRoutes keeps the routes to the ranges of services. Others remove rules that
// they do not know when they begin, systemd-networkd for example.
func (d *Daemon) keepRoutes(ctx context.Context) error {
	for {
		text, err := d.ensureRoutes()
		if err != nil {
			return err
		}
		d.warnings.set("routes", text)
		select {
		case <-ctx.Done():
			return d.removeRoutes()
		case <-time.After(routeEvery):
		}
	}
}

// ensureRoutes makes the routes, and tells what is not reached all the same.
func (d *Daemon) ensureRoutes() (warning string, err error) {
	c, err := d.dial()
	if err != nil {
		return "", err
	}
	defer c.Close()
	var missing []string
	for _, p := range d.o.ServiceRanges {
		why := error(nil)
		if p.Addr().Is4() { // of IPv6, routes through lo refuse
			why = route(c, p)
		}
		if err := c.Lookup(inetPrefix(netip.PrefixFrom(p.Addr().Next(), p.Addr().BitLen())).Addr()); err != nil {
			text := fmt.Sprintf("this host has no route to %s (%v), so its own processes do not reach services there; pods do. Any route to it will do", p, err)
			if why != nil {
				text += fmt.Sprintf("; one of ours could not be made: %v", why)
			}
			missing = append(missing, text)
		}
	}
	return strings.Join(missing, "; "), nil
}

func route(c *rtnetlink.Conn, p netip.Prefix) error {
	lo, err := c.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := c.EnsureTableRoute(inetPrefix(p), lo.Index, routeTable); err != nil {
		return err
	}
	return c.EnsureRule(&rtnetlink.Rule{To: inetPrefix(p), Priority: routePriority, Table: routeTable})
}

// removeRoutes takes the routes back if no service is left in the kernel. As long
// as there are any, connections go on without us.
func (d *Daemon) removeRoutes() error {
	list, err := d.store.List("services", store.Selector{Match: func(o store.Object) bool {
		s, ok := o.(*corev1.Service)
		return ok && s.Spec.ClusterIP != "" && s.Spec.ClusterIP != corev1.ClusterIPNone
	}}, 1, "")
	if err != nil || len(list.Items) > 0 {
		return err
	}
	c, err := d.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	lo, err := c.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, p := range d.o.ServiceRanges {
		if !p.Addr().Is4() {
			continue
		}
		e := c.DelRule(&rtnetlink.Rule{To: inetPrefix(p), Priority: routePriority, Table: routeTable})
		if e == nil || errors.Is(e, unix.ENOENT) {
			e = c.DelTableRoute(inetPrefix(p), lo.Index, routeTable)
		}
		if e != nil && !errors.Is(e, unix.ESRCH) {
			err = errors.Join(err, fmt.Errorf("remove the route to %s: %w", p, e))
		}
	}
	return err
}

// warnings are what status shows beside the parts, by what they are about.
type warnings struct {
	mu sync.Mutex
	m  map[string]string
}

// set says something, or with an empty text that it is over.
func (w *warnings) set(about, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if text == "" {
		delete(w.m, about)
		return
	}
	if w.m == nil {
		w.m = map[string]string{}
	}
	w.m[about] = text
}

func (w *warnings) list() (list []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, about := range slices.Sorted(maps.Keys(w.m)) {
		list = append(list, w.m[about])
	}
	return list
}
