package seccomp

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// cond is a condition on one argument, reduced to three comparisons and their negations.
type cond struct {
	arg  uint8
	op   uint8
	neg  bool
	val  uint64
	mask uint64 // condMasked only
}

const (
	condEQ = iota
	condGT
	condGE
	condMasked // arg & mask == val
)

type verdict uint8

const (
	depends verdict = iota
	always
	never
)

// narrow reports a 64-bit value as the kernel would see it in a 32-bit register: unsigned values below 1<<32 and
// sign-extended negative ones.
func narrow(v uint64) (uint64, bool) {
	if v>>32 == 0 || v>>31 == 1<<33-1 {
		return v & 0xffffffff, true
	}
	return 0, false
}

// reduce translates a condition of the profile for architecture a. On a 32-bit ABI a value that no register can hold
// settles the condition.
func reduce(a *arch, s *specs.LinuxSeccompArg) (cond, verdict) {
	c := cond{arg: uint8(s.Index), val: s.Value}
	switch s.Op {
	case specs.OpEqualTo:
		c.op = condEQ
	case specs.OpNotEqual:
		c.op, c.neg = condEQ, true
	case specs.OpGreaterThan:
		c.op = condGT
	case specs.OpLessEqual:
		c.op, c.neg = condGT, true
	case specs.OpGreaterEqual:
		c.op = condGE
	case specs.OpLessThan:
		c.op, c.neg = condGE, true
	default: // masked; libseccomp masks the value too
		c.op, c.mask, c.val = condMasked, s.Value, s.ValueTwo&s.Value
	}
	full := uint64(1<<64 - 1)
	if !a.wide {
		full = 1<<32 - 1
		v, ok := narrow(c.val)
		if c.op == condMasked {
			// The value has no bits outside the mask, so a negative one comes with a mask that is negative too.
			c.mask &= full
		}
		if !ok { // no register is equal to it or above it
			if c.neg {
				return c, always
			}
			return c, never
		}
		c.val = v
	}
	if c.op == condMasked {
		switch c.mask {
		case 0:
			return c, always
		case full:
			c.op = condEQ
		}
	}
	return c, depends
}

// holds evaluates a reduced condition, not a masked one, for a value.
func (c *cond) holds(v uint64) bool {
	var r bool
	switch c.op {
	case condEQ:
		r = v == c.val
	case condGT:
		r = v > c.val
	default:
		r = v >= c.val
	}
	return r != c.neg
}

func (a *arch) argLow(arg uint8) uint32 {
	off := offArgs + 8*uint32(arg)
	if a.big {
		off += 4
	}
	return off
}

func (a *arch) argHigh(arg uint8) uint32 { return a.argLow(arg) ^ 4 }

// emit emits the test of one condition.
func (c *cond) emit(e *emitter, a *arch, yes, no target) target {
	if c.neg {
		yes, no = no, yes
	}
	lo, hi := a.argLow(c.arg), a.argHigh(c.arg)
	l, h := uint32(c.val), uint32(c.val>>32)
	switch c.op {
	case condMasked:
		yes = masked(e, lo, uint32(c.mask), l, yes, no)
		if a.wide {
			yes = masked(e, hi, uint32(c.mask>>32), h, yes, no)
		}
		return yes
	case condEQ:
		yes = e.test(lo, opJeq, l, yes, no)
		if a.wide {
			yes = e.test(hi, opJeq, h, yes, no)
		}
		return yes
	}
	op := uint16(opJgt)
	if c.op == condGE {
		op = opJge
	}
	low := e.test(lo, op, l, yes, no)
	if !a.wide {
		return low
	}
	if h == 0 {
		return e.test(hi, opJeq, 0, low, yes)
	}
	return e.load(hi, e.branch(opJgt, h, yes, e.branch(opJeq, h, low, no)))
}

func masked(e *emitter, off, mask, val uint32, yes, no target) target {
	switch {
	case mask == 0:
		return yes
	case mask == 1<<32-1:
		return e.test(off, opJeq, val, yes, no)
	case val == 0:
		return e.test(off, opJset, mask, no, yes)
	}
	next := e.branch(opJeq, val, yes, no)
	if next < 0 {
		return next
	}
	e.fall(next)
	return e.load(off, e.put(opAnd, 0, 0, mask))
}

// alt is an alternative of a chain: if all its conditions hold, ret is the action.
type alt struct {
	ret   uint32
	conds []cond
}

// emitAlts emits alternatives, the first that holds decides, else def.
func emitAlts(e *emitter, a *arch, alts []alt, def uint32) target {
	if len(alts) > 1 && sameArg(alts) {
		return emitRanges(e, a, alts, def)
	}
	next := ret(def)
	for i := len(alts) - 1; i >= 0; i-- {
		t := ret(alts[i].ret)
		for j := len(alts[i].conds) - 1; j >= 0; j-- {
			t = alts[i].conds[j].emit(e, a, t, next)
		}
		next = t
	}
	return next
}

// sameArg reports whether all alternatives compare one and the same argument: then they split its values into ranges.
func sameArg(alts []alt) bool {
	for i := range alts {
		c := alts[i].conds
		if len(c) != 1 || c[0].op == condMasked || c[0].arg != alts[0].conds[0].arg {
			return false
		}
	}
	return true
}

// emitRanges emits a search tree for alternatives on one argument.
func emitRanges(e *emitter, a *arch, alts []alt, def uint32) target {
	var boundBuf [64]uint64
	var highBuf [8]span
	var lowBuf [64]span
	bounds := append(boundBuf[:0], 0)
	for i := range alts {
		c := &alts[i].conds[0]
		if c.op != condGT {
			bounds = append(bounds, c.val)
		}
		if c.op != condGE {
			bounds = append(bounds, c.val+1) // 0 behind the last value: a bound anyway
		}
	}
	slices.Sort(bounds)
	bounds = slices.Compact(bounds)
	if !a.wide && bounds[len(bounds)-1] == 1<<32 {
		bounds = bounds[:len(bounds)-1]
	}

	to := func(v uint64) target {
		for i := range alts {
			if alts[i].conds[0].holds(v) {
				return ret(alts[i].ret)
			}
		}
		return ret(def)
	}
	arg := alts[0].conds[0].arg
	highs, lows := highBuf[:0], lowBuf[:0]
	for i := 0; i < len(bounds); {
		// All bounds with the same high half, and what the values below the first of them get.
		h := uint32(bounds[i] >> 32)
		lows = lows[:0]
		if uint32(bounds[i]) != 0 {
			lows = addSpan(lows, 0, to(bounds[i]-1))
		}
		var last target
		for ; i < len(bounds) && uint32(bounds[i]>>32) == h; i++ {
			last = to(bounds[i])
			lows = addSpan(lows, uint32(bounds[i]), last)
		}
		t := e.tree(lows)
		if len(lows) > 1 {
			t = e.load(a.argLow(arg), t)
		}
		highs = addSpan(highs, h, t)
		if h != 1<<32-1 {
			highs = addSpan(highs, h+1, last)
		}
	}
	if !a.wide || len(highs) == 1 {
		return highs[0].to
	}
	return e.load(a.argHigh(arg), e.tree(highs))
}
