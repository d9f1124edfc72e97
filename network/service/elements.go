package service

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"
)

// element is one element of a set or, with a value, of a map.
type element struct{ set, key, val string }

// entry is a service with the slots that its endpoints have: for each port and
// family one slot table, which all addresses of that port use.
type entry struct {
	svc   Service
	slots [][2][]netip.AddrPort
}

// newEntry shares the slots out. As much as possible stays as in old, which may be nil.
func newEntry(svc Service, old *entry) *entry {
	e := &entry{svc: svc.clone(), slots: make([][2][]netip.AddrPort, len(svc.Ports))}
	for i, p := range e.svc.Ports {
		var prev [2][]netip.AddrPort
		if old != nil {
			same := func(o Port) bool { return o.Protocol == p.Protocol && o.Port == p.Port && o.NodePort == p.NodePort }
			if j := slices.IndexFunc(old.svc.Ports, same); j >= 0 {
				prev = old.slots[j]
			}
		}
		for f := range e.slots[i] {
			open := p.openIn(f)
			e.slots[i][f] = fill(prev[f], open, slotsFor(open))
		}
	}
	return e
}

func (p Port) openIn(family int) []Endpoint {
	var open []Endpoint
	for _, e := range p.Endpoints {
		if e.open() && familyIndex(e.Address.Addr()) == family {
			open = append(open, e)
		}
	}
	return open
}

// elements calls add for each element that the kernel has to have for e. Elements
// of two services, or of two ports of one, may be the same: they are counted.
func (e *entry) elements(add func(element)) {
	fams := families()
	for _, a := range e.svc.Addresses {
		add(element{set: familyOf(a).set(setAddresses), key: string(a.AsSlice())})
	}
	for i, p := range e.svc.Ports {
		for _, ep := range p.Endpoints {
			a := string(ep.Address.Addr().AsSlice())
			add(element{set: familyOf(ep.Address.Addr()).set(setHairpin), key: a + a})
		}
		if p.NodePort != 0 {
			add(element{set: setNodePorts, key: protoPortKey(p.Protocol, p.NodePort)})
		}
		e.svc.frontends(p, func(fe frontend, virtual bool) {
			fi := familyIndex(fe.addr)
			e.frontendElements(fams[fi], fe, virtual, e.slots[i][fi], p.openIn(fi), add)
		})
	}
}

func (e *entry) frontendElements(f family, fe frontend, virtual bool, slots []netip.AddrPort, open []Endpoint, add func(element)) {
	key := fe.key()
	if len(slots) == 0 {
		if !virtual {
			add(element{set: f.set(setClosed), key: key})
		}
		return
	}
	t := seconds(e.svc.Affinity)
	numbers := numbered(open, t)
	for i, ep := range slots {
		k := key
		if len(slots) > 1 {
			k = key + u32(uint32(i))
		}
		if t == 0 {
			add(element{f.slotSet(len(slots)), k, endpointKey(ep)})
		} else {
			add(element{f.numberSet(len(slots)), k, portKey(fe.port) + u32(numbers[ep])})
		}
	}
	if t == 0 {
		return
	}
	add(element{set: f.timed(setSticky, t), key: key})
	for ep, n := range numbers {
		add(element{f.set(setLive), key + u32(n), endpointKey(ep)})
	}
}

func u32(n uint32) string { return string(binary.NativeEndian.AppendUint32(nil, n)) }

// numbered gives endpoints numbers for the table of clients. They depend on the
// address, so that an endpoint keeps its clients when others come and go, and
// over a restart of ours; where two of a service meet, the later moves on. t is
// the affinity: without, nobody needs numbers.
func numbered(open []Endpoint, t int) map[netip.AddrPort]uint32 {
	if t == 0 {
		return nil
	}
	numbers, taken := make(map[netip.AddrPort]uint32, len(open)), make(map[uint32]bool, len(open))
	for _, e := range open {
		h := fnv.New32a()
		h.Write([]byte(endpointKey(e.Address)))
		n := h.Sum32()
		for taken[n] {
			n++
		}
		numbers[e.Address], taken[n] = n, true
	}
	return numbers
}

func portKey(port uint16) string { return string([]byte{byte(port >> 8), byte(port), 0, 0}) }

func protoPortKey(p Protocol, port uint16) string {
	return string([]byte{byte(p), 0, 0, 0}) + portKey(port)
}

func (f frontend) key() string { return string(f.addr.AsSlice()) + protoPortKey(f.proto, f.port) }

func endpointKey(a netip.AddrPort) string { return string(a.Addr().AsSlice()) + portKey(a.Port()) }

// counts are the elements of all services, each with how many want it. Elements
// of the big maps, which have one owner, are not kept: only those that services share.
type counts map[element]int

// shared says whether several services may have the same element of a set.
// Frontends have one owner, so all sets with frontends in their keys are not.
func (e element) shared() bool {
	switch e.set {
	case setAddresses + "4", setAddresses + "6", setHairpin + "4", setHairpin + "6", setNodePorts:
		return true
	}
	return false
}

// change is what a transaction does to the elements of sets.
type change struct{ del, add map[string][]element }

func (c change) empty() bool { return len(c.del) == 0 && len(c.add) == 0 }

// difference compares the elements of services before and after, and brings
// the counts up to date.
func difference(before, after []*entry, n counts) change {
	type value struct {
		val    string
		exists bool
	}
	old := map[[2]string]value{}
	c := change{map[string][]element{}, map[string][]element{}}
	touched := map[element]int{}
	for _, e := range before {
		e.elements(func(el element) {
			if el.shared() {
				touched[el]--
				return
			}
			old[[2]string{el.set, el.key}] = value{el.val, true}
		})
	}
	for _, e := range after {
		e.elements(func(el element) {
			if el.shared() {
				touched[el]++
				return
			}
			k := [2]string{el.set, el.key}
			was := old[k]
			if was.exists && was.val == el.val {
				delete(old, k)
				return
			}
			c.add[el.set] = append(c.add[el.set], el)
		})
	}
	for k, v := range old {
		c.del[k[0]] = append(c.del[k[0]], element{k[0], k[1], v.val})
	}
	for el, d := range touched {
		was := n[el]
		switch n[el] += d; {
		case was == 0 && n[el] > 0:
			c.add[el.set] = append(c.add[el.set], el)
		case was > 0 && n[el] == 0:
			c.del[el.set] = append(c.del[el.set], el)
		}
		if n[el] == 0 {
			delete(n, el)
		}
	}
	return c
}
