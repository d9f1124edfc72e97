package service

import (
	"maps"

	"github.com/minirun/minirun/internal/rtnetlink"
	"github.com/minirun/minirun/network/loopback"
)

// nodePort is one at the loopback addresses of a family.
type nodePort struct {
	family int
	proto  Protocol
	port   uint16
}

// ledNodePorts adds the node ports of services that have open endpoints. Others are
// refused by the host: nobody listens.
func ledNodePorts(to map[nodePort]bool, entries []*entry) {
	for _, e := range entries {
		for _, p := range e.svc.Ports {
			if p.NodePort == 0 || p.Protocol == SCTP {
				continue
			}
			for f := range families() {
				if len(p.openIn(f)) > 0 {
					to[nodePort{f, p.Protocol, p.NodePort}] = true
				}
			}
		}
	}
}

// lead has node ports open at loopback addresses of the host, after a change, or
// whatever is there if all is true. They are led to an address of the host, where the
// rules take over. It is no reason for services not to work.
func (b *Balancer) lead(d delta, all bool) {
	if len(b.opts.Loopback) == 0 {
		return
	}
	was, is := map[nodePort]bool{}, map[nodePort]bool{}
	ledNodePorts(was, d.before)
	ledNodePorts(is, d.after)
	if !all && maps.Equal(was, is) {
		return
	}
	for _, e := range b.services {
		ledNodePorts(is, []*entry{e})
	}
	var list []loopback.Entry
	for n := range is {
		for _, a := range b.opts.Loopback {
			if familyIndex(a) == n.family {
				list = append(list, loopback.Entry{Protocol: uint8(n.proto), From: familyOf(a).any.As16(), Port: n.port, To: a.As16(), ToPort: n.port})
				break
			}
		}
	}
	b.leadTo(list)
}

func (b *Balancer) leadTo(list []loopback.Entry) {
	replace := func() error { return loopback.Replace(b.opts.Cgroup, loopback.NodePorts, list) }
	var err error
	if b.opts.NetNS == 0 {
		err = replace()
	} else {
		err = rtnetlink.In(b.opts.NetNS, replace)
	}
	if err != nil && len(list) > 0 {
		b.opts.Log.Warn("node ports are not open at 127.0.0.1 and ::1, only at the host's other addresses", "error", err)
	}
}
