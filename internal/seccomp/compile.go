package seccomp

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Filter is a compiled program.
type Filter struct {
	Insns []byte // struct sock_filter[], 8 bytes each, host byte order
	Flags uint64 // SECCOMP_FILTER_FLAG_* for seccomp(2)
}

// MaxLen is the largest number of instructions the kernel takes (BPF_MAXINSNS).
const MaxLen = unix.BPF_MAXINSNS

// Len returns the number of instructions.
func (f *Filter) Len() int { return len(f.Insns) / 8 }

// badArch is the action for a call through an ABI that the profile does not list. libseccomp kills the thread, which
// leaves the rest of a multi-threaded process in an undefined state.
const badArch = retKillProcess

type compiler struct {
	emitter
	def   uint32 // default action
	above uint32 // action for calls newer than the profile
	flags uint64
	ids   []uint16 // numbers of all names, rule by rule
	rules []rule

	// The architecture in work: what each slot does, 0 default, > 0 rule number plus one, < 0 complement of a chain.
	slots   [slotCount]int32
	chains  []chain
	entries []entry
	spans   []span
	alts    []alt
	conds   []cond

	// First backing of the lists above: one allocation for nearly all profiles.
	first struct {
		chains  [32]chain
		entries [128]entry
		spans   [192]span
		alts    [64]alt
		conds   [64]cond
		rets    [16]retAt
	}
}

func newCompiler() *compiler {
	c := new(compiler)
	f := &c.first
	c.chains, c.entries, c.spans, c.alts, c.conds, c.rets = f.chains[:0], f.entries[:0], f.spans[:0], f.alts[:0], f.conds[:0], f.rets[:0]
	return c
}

// chain is the list of conditional rules for one slot, in the order of the profile.
type chain struct {
	head, tail int32
	code       target
}

type entry struct {
	rule, next int32
	mux        uint8 // sub-call of socketcall(2) or ipc(2), 0 for a direct call
}

// Compile translates a profile into a program for a machine whose native architecture is goarch (a GOARCH). An error
// names the JSON path of what is wrong. The package comment has the semantics.
func Compile(p *specs.LinuxSeccomp, goarch string) (*Filter, error) {
	native := nativeArch(goarch)
	if native == nil {
		return nil, fmt.Errorf("linux.seccomp: architecture %q has no system call table", goarch)
	}
	var list [len(archs) + 1]*arch
	n := 1
	list[0] = native
	for i, name := range p.Architectures {
		a := findArch(string(name))
		if a == nil {
			return nil, bad(fmt.Sprintf("architectures[%d]", i), name, errUnknown)
		}
		if a.table != nil && !contains(list[:n], a) {
			list[n] = a
			n++
		}
	}
	c := newCompiler()
	if err := c.parse(p); err != nil {
		return nil, err
	}
	c.above = c.def
	if restrictive(c.def) {
		c.above = retErrno | uint32(unix.ENOSYS)
	}

	// From the end: the last architecture first, the native one right behind the entry.
	next := ret(badArch)
	for i := n - 1; i >= 0; i-- {
		a, x32 := list[i], (*arch)(nil)
		if a.token == archX8664 {
			// x86_64 and x32 share a section, emitted where the first of them stands.
			other := -1
			for j := range list[:n] {
				if j != i && list[j].token == archX8664 {
					other = j
				}
			}
			if other >= 0 && other < i {
				continue
			}
			if other >= 0 {
				x32 = list[other]
			}
			if a.base == x32Bit {
				a, x32 = x32, a
			}
		}
		code := c.section(a, x32)
		next = c.branch(opJeq, list[i].token, code, next)
	}
	next = c.load(offArch, next)
	if next < 0 { // whatever the call, the action is the same
		c.n = 0
		c.fall(next)
	}
	if c.n > MaxLen {
		return nil, fmt.Errorf("linux.seccomp: the filter has %d instructions, the kernel takes %d", c.n, MaxLen)
	}
	return &Filter{Insns: c.buf[len(c.buf)-c.n*8:], Flags: c.flags}, nil
}

func contains(list []*arch, a *arch) bool {
	for _, b := range list {
		if a == b {
			return true
		}
	}
	return false
}

// restrictive reports whether an action keeps a call from running. A tracer emulates, so TRACE lets it run.
func restrictive(action uint32) bool {
	switch action & retActionMask {
	case retAllow, retLog, retTrace:
		return false
	}
	return true
}

// section emits the code for one value of seccomp_data.arch: of architecture a (nil when only x32 is listed) and, with
// it, of x32.
func (c *compiler) section(a, x32 *arch) target {
	c.chains, c.entries, c.spans = c.chains[:0], c.entries[:0], c.spans[:0]
	last := ret(badArch)
	if a != nil {
		c.addArch(a)
		last = c.spans[len(c.spans)-1].to
	} else {
		c.spans = addSpan(c.spans, 0, last)
	}
	if x32 != nil {
		c.addArch(x32)
	} else if a.token == archX8664 {
		c.spans = addSpan(c.spans, x32Bit, ret(badArch))
	}
	if a == nil || a.token == archX8664 {
		// A tracer skips a call by setting its number to -1; that is not an x32 call (seccomp(2), "Caveats").
		c.spans = addSpan(c.spans, 1<<32-1, last)
	}
	return c.load(offNr, c.tree(c.spans))
}

// addArch adds the spans of an architecture.
func (c *compiler) addArch(a *arch) {
	first := len(c.chains)
	c.slots = [slotCount]int32{}
	// The slots form regions that grow on their own: ordinary calls, those that only x32 has, private ones of Arm.
	ends := [3]int{mainSlots, mainSlots, slotCount}
	if a.base == x32Bit {
		ends[0] = 512
	}
	tops := c.resolve(a, ends[:])
	for i := first; i < len(c.chains); i++ {
		c.emitChain(a, i)
	}

	if a.base != x32Bit {
		c.spans = addSpan(c.spans, 0, ret(c.def))
	}
	start := 0
	for i, end := range ends {
		if top := tops[i]; top >= 0 {
			for s := start; s <= top; s++ {
				if s > start+1 && c.slots[s] == c.slots[s-1] {
					continue // slot 0 may be special, so look at the second slot too
				}
				c.spans = addSpan(c.spans, a.number(s), c.slot(a, s))
			}
			c.spans = addSpan(c.spans, a.number(top)+1, ret(c.above))
		} else if i == 0 {
			c.spans = addSpan(c.spans, a.number(start), ret(c.def))
		}
		start = end
	}
}

func (c *compiler) slot(a *arch, s int) target {
	v := c.slots[s]
	switch {
	case v > 0:
		return ret(c.rules[v-1].ret)
	case v < 0:
		return c.chains[^v].code
	case s == 0 && a.token == 0x80000016 && c.above != c.def:
		// s390x passes calls whose number it does not know as number 0 (formerly setup(2)).
		return ret(c.above)
	}
	return ret(c.def)
}

// resolve fills the slots for an architecture and returns the highest named slot in each region, or -1.
func (c *compiler) resolve(a *arch, ends []int) (tops [3]int) {
	tops = [3]int{-1, -1, -1}
	for i := range c.rules {
		r := &c.rules[i]
		for _, id := range c.ids[r.lo:r.hi] {
			if s := int(a.table[id]); s != noSlot {
				for k, end := range ends {
					if s < end {
						tops[k] = max(tops[k], s)
						break
					}
				}
				if !r.skip {
					c.add(s, i, 0)
				}
			}
			if m := nameMux[id]; a.muxes && m != 0 {
				tops[0] = max(tops[0], c.addMuxed(a, i, m))
			}
		}
	}
	return tops
}

// add gives a slot a rule. A rule without conditions replaces all those with conditions, whatever the order, and the
// first one without conditions stays.
func (c *compiler) add(slot, rule int, mux uint8) {
	v := c.slots[slot]
	if v > 0 {
		return
	}
	if mux == 0 && len(c.rules[rule].args) == 0 {
		c.slots[slot] = int32(rule) + 1
		return
	}
	at := int32(len(c.entries))
	c.entries = append(c.entries, entry{rule: int32(rule), next: -1, mux: mux})
	if v == 0 {
		c.slots[slot] = ^int32(len(c.chains))
		c.chains = append(c.chains, chain{head: at, tail: at})
		return
	}
	ch := &c.chains[^v]
	c.entries[ch.tail].next = at
	ch.tail = at
}

// addMuxed repeats a rule for the sub-call of socketcall(2) or ipc(2), and returns the slot of that multiplexer, or -1.
// The arguments of the call are in memory there, where a filter cannot look: a rule with conditions is only taken over
// if it is stricter than the default action, and then without them.
func (c *compiler) addMuxed(a *arch, rule int, mux uint8) int {
	id := socketcallID
	if mux&muxIPC != 0 {
		id = ipcID
	}
	slot := int(a.table[id])
	if slot == noSlot {
		return -1
	}
	if r := &c.rules[rule]; !r.skip && (len(r.args) == 0 || rank(r.ret) < rank(c.def)) {
		c.add(slot, rule, mux)
	}
	return slot
}

// rank orders actions from strict to permissive as the kernel does between filters (seccomp(2)).
func rank(action uint32) int32 { return int32(action & retActionMask) }

// emitChain emits the code of chain i, unless an earlier chain of the section has the same rules. Chains of x86_64 and
// x32 can share code: their arguments look the same.
func (c *compiler) emitChain(a *arch, i int) {
	ch := &c.chains[i]
	for j := range c.chains[:i] {
		if c.equal(ch.head, c.chains[j].head) {
			ch.code = c.chains[j].code
			return
		}
	}
	c.alts, c.conds = c.alts[:0], c.conds[:0]
	for at := ch.head; at >= 0; at = c.entries[at].next {
		if c.addAlts(a, &c.entries[at]) {
			break
		}
	}
	ch.code = emitAlts(&c.emitter, a, c.alts, c.def)
}

func (c *compiler) equal(p, q int32) bool {
	for p >= 0 && q >= 0 {
		x, y := &c.entries[p], &c.entries[q]
		if x.rule != y.rule || x.mux != y.mux {
			return false
		}
		p, q = x.next, y.next
	}
	return p == q
}

// addAlts adds the alternatives of a chain entry and reports whether one of them always holds.
func (c *compiler) addAlts(a *arch, en *entry) bool {
	r := &c.rules[en.rule]
	start := len(c.conds)
	if en.mux != 0 {
		// The kernel looks at the low 32 bits of the sub-call, for ipc(2) at the low 16: above is a version.
		arg := specs.LinuxSeccompArg{Op: specs.OpMaskedEqual, Value: 0xffffffff, ValueTwo: uint64(en.mux)}
		if en.mux&muxIPC != 0 {
			arg.Value, arg.ValueTwo = 0xffff, uint64(en.mux&^muxIPC)
		}
		m, _ := reduce(a, &arg)
		c.conds = append(c.conds, m)
		c.alts = append(c.alts, alt{r.ret, c.conds[start:]})
		return false
	}
	possible := true
	for i := range r.args {
		m, v := reduce(a, &r.args[i])
		if v == depends {
			c.conds = append(c.conds, m)
		}
		if !r.split {
			possible = possible && v != never
			continue
		}
		switch v {
		case depends:
			c.alts = append(c.alts, alt{r.ret, c.conds[len(c.conds)-1:]})
		case always:
			c.alts = append(c.alts, alt{r.ret, nil})
			return true
		}
	}
	if r.split || !possible {
		return false
	}
	c.alts = append(c.alts, alt{r.ret, c.conds[start:]})
	return len(c.conds) == start
}
