package service

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func endpoints(weights ...uint32) []Endpoint {
	var es []Endpoint
	for i, w := range weights {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		es = append(es, Endpoint{Address: netip.AddrPortFrom(a, 80), Weight: w})
	}
	return es
}

func count(slots []netip.AddrPort) map[netip.AddrPort]int {
	n := map[netip.AddrPort]int{}
	for _, a := range slots {
		n[a]++
	}
	return n
}

func TestFill_Shares(t *testing.T) {
	tests := []struct {
		weights []uint32
		size    int
		want    []int
	}{
		{[]uint32{7}, 1, []int{1}},
		{[]uint32{1, 1}, 12, []int{6, 6}},
		{[]uint32{1, 1, 1, 1, 1}, 60, []int{12, 12, 12, 12, 12}},
		{[]uint32{1, 1, 1}, 12, []int{4, 4, 4}},
		{[]uint32{9, 1}, 60, []int{54, 6}},
		{[]uint32{1, 1, 1, 1, 1, 1, 1}, 60, []int{9, 9, 9, 9, 8, 8, 8}},
		{[]uint32{99, 1}, 840, []int{832, 8}},
		{[]uint32{MaxWeight, 1}, 5040, []int{5039, 1}},
	}
	for _, tt := range tests {
		es := endpoints(tt.weights...)
		if n := slotsFor(es); n != tt.size {
			t.Errorf("weights %v: %d slots, want %d", tt.weights, n, tt.size)
		}
		n := count(fill(nil, es, tt.size))
		for i, e := range es {
			if n[e.Address] != tt.want[i] {
				t.Errorf("weights %v: endpoint %d has %d slots, want %d", tt.weights, i, n[e.Address], tt.want[i])
			}
		}
	}
	if s := fill(nil, nil, 60); s != nil {
		t.Errorf("slots without endpoints: %v", s)
	}
}

// More endpoints than the usual slots go to a larger class, and each gets one.
func TestFill_Many(t *testing.T) {
	for _, n := range []int{61, 800, 1000, maxSlots} {
		es := endpoints(make([]uint32, n)...)
		for i := range es {
			es[i].Weight = 3
		}
		size := slotsFor(es)
		if size < n {
			t.Fatalf("%d endpoints get %d slots", n, size)
		}
		if have := len(count(fill(nil, es, size))); have != n {
			t.Errorf("%d of %d endpoints have a slot", have, n)
		}
	}
}

// Whatever changes, each endpoint has its share to within one slot (or the one
// that everybody gets), and no slot moves that need not.
func TestFill_Property(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 300 {
		es := endpoints(make([]uint32, 1+r.IntN(20))...)
		for i := range es {
			es[i].Weight = 1
			if round%2 == 0 {
				es[i].Weight = 1 + r.Uint32N(20)
			}
		}
		const size = 840
		slots := fill(nil, es, size)
		for range 20 {
			next := slices.Clone(es)
			switch k := r.IntN(len(next)); r.IntN(3) {
			case 0:
				if len(next) > 1 {
					next = slices.Delete(next, k, k+1)
				}
			case 1:
				a := netip.AddrFrom4([4]byte{10, 1, byte(r.Uint32()), byte(r.Uint32())})
				next = append(next, Endpoint{Address: netip.AddrPortFrom(a, 80), Weight: 1 + r.Uint32N(20)})
			case 2:
				next[k].Weight = 1 + r.Uint32N(20)
			}
			after := fill(slots, next, size)
			if err := checkFill(slots, after, next); err != nil {
				t.Fatal(err)
			}
			slots, es = after, next
		}
	}
}

func checkFill(before, after []netip.AddrPort, es []Endpoint) error {
	total := 0
	for _, e := range es {
		total += int(e.Weight)
	}
	was, is := count(before), count(after)
	n := 0
	for _, e := range es {
		have := is[e.Address]
		n += have
		low := len(after) * int(e.Weight) / total
		if have != max(1, low) && have != low+1 {
			return fmt.Errorf("endpoint %v has %d of %d slots, weight %d of %d", e.Address, have, len(after), e.Weight, total)
		}
	}
	if n != len(after) {
		return fmt.Errorf("%d slots of %d lead to endpoints", n, len(after))
	}
	moved, need := 0, 0
	for i := range after {
		if before[i] != after[i] {
			moved++
		}
	}
	for a, k := range is {
		need += max(0, k-was[a])
	}
	if moved != need {
		return fmt.Errorf("%d slots moved, %d had to", moved, need)
	}
	return nil
}
