package network

import (
	"errors"
	"fmt"

	"github.com/minirun/minirun/network/loopback"
	"github.com/minirun/minirun/network/store"
	"golang.org/x/sys/unix"
)

// What is for a loopback address nftables cannot send elsewhere: it would leave the
// host with a loopback address as its source. See package network/loopback.

// ledPorts are the ports of loopback addresses that lead to a container.
func ledPorts(c *store.Container) (list []loopback.Entry) {
	if len(c.Endpoints) == 0 {
		return nil
	}
	for i := range c.Ports {
		p := &c.Ports[i]
		if p.Protocol == "sctp" || p.IP.IsValid() && !p.IP.IsUnspecified() && !p.IP.IsLoopback() {
			continue
		}
		for _, to := range c.Endpoints[0].Addresses {
			from := p.IP
			if !from.IsValid() {
				from = zero(to)
			}
			if from.Is4() != to.Is4() {
				continue
			}
			for n := range p.Count {
				list = append(list, loopback.Entry{
					Protocol: protocolNumber(p.Protocol), From: from.As16(), Port: p.Host + n, To: to.As16(), ToPort: p.Container + n,
				})
			}
		}
	}
	return list
}

// checkLoopback refuses a port at a loopback address that cannot be had.
func checkLoopback(p *store.Port) error {
	if !p.IP.IsLoopback() {
		return nil
	}
	if p.Protocol == "sctp" {
		return &Error{fmt.Errorf("publish %s: no port of SCTP at loopback addresses", p.String()), "name another address of the host, or none"}
	}
	if err := loopback.Check(); err != nil {
		var e *loopback.Error
		hint := "name another address of the host, or none"
		if errors.As(err, &e) {
			hint += "; " + e.Hint()
		}
		return &Error{fmt.Errorf("publish %s: %w", p.String(), err), hint}
	}
	return nil
}

// lead lets ports of loopback lead to a container. What was asked for by name must
// work; otherwise there are the other addresses of the host.
func (h *Host) lead(c *store.Container) error {
	err := loopback.Add(h.Cgroup, loopback.Published, ledPorts(c))
	if err == nil {
		return nil
	}
	for i := range c.Ports {
		if c.Ports[i].IP.IsLoopback() {
			return fmt.Errorf("publish %s: %w", c.Ports[i].String(), err)
		}
	}
	h.warnLoopback(err)
	return nil
}

func (h *Host) warnLoopback(err error) {
	if h.Warn != nil {
		h.Warn("published ports are not open at 127.0.0.1 and ::1, only at the host's other addresses: " + err.Error())
	}
}

// leave undoes lead. Where it was impossible, there is nothing to undo.
func (h *Host) leave(c *store.Container) error {
	err := loopback.Remove(h.Cgroup, loopback.Published, ledPorts(c))
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// leadAll makes it what the records say.
func (h *Host) leadAll(list []*store.Container) {
	var all []loopback.Entry
	for _, c := range list {
		all = append(all, ledPorts(c)...)
	}
	if err := loopback.Replace(h.Cgroup, loopback.Published, all); err != nil && len(all) > 0 {
		h.warnLoopback(err)
	}
}
