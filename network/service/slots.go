package service

import (
	"net/netip"
	"slices"
)

// sizes are the numbers of slots that a service can have. Those with many
// divisors share them out evenly among most numbers of endpoints. One slot needs
// no random number: most services have one endpoint.
var sizes = [...]int{1, 12, 60, 840, maxSlots}

const maxSlots = 5040

// slotsFor chooses the number of slots: the smallest with which no endpoint gets
// an eighth more or less than its share.
func slotsFor(open []Endpoint) int {
	if len(open) <= 1 {
		return 1
	}
	total := uint64(0)
	for _, e := range open {
		total += uint64(e.Weight)
	}
size:
	for _, n := range sizes[1:] {
		if n == maxSlots {
			break
		}
		if n < len(open) {
			continue
		}
		for i, q := range quotas(open, n, nil) {
			want := uint64(n) * uint64(open[i].Weight)
			have := uint64(q) * total
			if off := max(want, have) - min(want, have); 8*off > want {
				continue size
			}
		}
		return n
	}
	return maxSlots
}

// quotas gives each of the endpoints its number of n slots: its share by weight,
// rounded by largest remainder, but one at least. Of equal remainders those win
// that held more before, so that less moves.
func quotas(open []Endpoint, n int, held []int) []int {
	total := uint64(0)
	for _, e := range open {
		total += uint64(e.Weight)
	}
	q := make([]int, len(open))
	rest := make([]uint64, len(open))
	order := make([]int, len(open))
	left := n
	for i, e := range open {
		share := uint64(n) * uint64(e.Weight)
		q[i], rest[i], order[i] = int(share/total), share%total, i
		if q[i] == 0 {
			q[i], rest[i] = 1, 0
		}
		left -= q[i]
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case rest[a] != rest[b]:
			if rest[a] > rest[b] {
				return -1
			}
			return 1
		case held != nil:
			return held[b] - held[a]
		}
		return 0
	})
	for i := 0; left > 0; i = (i + 1) % len(order) {
		q[order[i]]++
		left--
	}
	// Many that got one although their share was less: the largest give.
	for ; left < 0; left++ {
		most := 0
		for i := range q {
			if q[i] > q[most] {
				most = i
			}
		}
		q[most]--
	}
	return q
}

// fill shares n slots out among the open endpoints. A slot keeps the endpoint that
// it had in prev as long as that endpoint is entitled to it: exactly as many slots
// change as the shares do. Which slots a new endpoint gets does not matter, since
// each packet that asks draws a random one. Without open endpoints there are no slots.
func fill(prev []netip.AddrPort, open []Endpoint, n int) []netip.AddrPort {
	if len(open) == 0 {
		return nil
	}
	if len(prev) != n {
		prev = nil
	}
	index := make(map[netip.AddrPort]int, len(open))
	held := make([]int, len(open))
	for i, e := range open {
		index[e.Address] = i
	}
	for _, a := range prev {
		if i, ok := index[a]; ok {
			held[i]++
		}
	}
	want := quotas(open, n, held)
	slots := make([]netip.AddrPort, n)
	for s, a := range prev {
		if i, ok := index[a]; ok && want[i] > 0 {
			slots[s] = a
			want[i]--
		}
	}
	// In turn, so that the slots of one endpoint do not stand side by side.
	i := 0
	for s := range slots {
		if slots[s].IsValid() {
			continue
		}
		for want[i] == 0 {
			i = (i + 1) % len(open)
		}
		slots[s] = open[i].Address
		want[i]--
		i = (i + 1) % len(open)
	}
	return slots
}
