package cgroups

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// Opcodes of struct bpf_insn (Documentation/bpf/standardization/instruction-set.rst).
// All arithmetic and all comparisons are on 32 bits: a major number with the top
// bit set must compare equal to its immediate, which 64-bit jumps sign-extend.
const (
	opLoad32 = 0x61 // BPF_LDX | BPF_MEM | BPF_W: dst = *(u32 *)(src + off)
	opAnd32  = 0x54 // BPF_ALU | BPF_AND | BPF_K
	opShr32  = 0x74 // BPF_ALU | BPF_RSH | BPF_K
	opMov32  = 0xb4 // BPF_ALU | BPF_MOV | BPF_K
	opMovReg = 0xbc // BPF_ALU | BPF_MOV | BPF_X
	opJeq32  = 0x16 // BPF_JMP32 | BPF_JEQ | BPF_K (Linux 5.1)
	opJne32  = 0x56 // BPF_JMP32 | BPF_JNE | BPF_K
	opJset32 = 0x46 // BPF_JMP32 | BPF_JSET | BPF_K
	opExit   = 0x95 // BPF_JMP | BPF_EXIT
)

// Registers. The context is struct bpf_cgroup_dev_ctx {u32 access_type, major, minor}.
const (
	regResult = 0
	regCtx    = 1
	regType   = 2 // access_type & 0xffff: BPF_DEVCG_DEV_*
	regAccess = 3 // the accesses that no rule has decided yet: BPF_DEVCG_ACC_*
	regMajor  = 4
	regMinor  = 5
)

type insn struct {
	op, dst, src uint8
	off          int16
	imm          int32
}

// asm collects instructions. Jumps go forward only, to labels that are placed
// later: an eBPF program without backward jumps is accepted by every verifier.
type asm struct {
	insns []insn
	jumps []struct{ at, label int }
	place []int // label -> index of the instruction
}

func (a *asm) emit(op, dst, src uint8, off int16, imm int32) {
	a.insns = append(a.insns, insn{op, dst, src, off, imm})
}

func (a *asm) label() int {
	a.place = append(a.place, -1)
	return len(a.place) - 1
}

func (a *asm) jump(op, reg uint8, imm int32, label int) {
	a.jumps = append(a.jumps, struct{ at, label int }{len(a.insns), label})
	a.emit(op, reg, 0, 0, imm)
}

func (a *asm) put(label int) { a.place[label] = len(a.insns) }

func (a *asm) bytes() []byte {
	for _, j := range a.jumps {
		a.insns[j.at].off = int16(a.place[j.label] - j.at - 1)
	}
	b := make([]byte, 0, 8*len(a.insns))
	for _, i := range a.insns {
		regs := i.dst | i.src<<4
		if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 { // bit fields swap too
			regs = i.dst<<4 | i.src
		}
		b = append(b, i.op, regs)
		b = binary.NativeEndian.AppendUint16(b, uint16(i.off))
		b = binary.NativeEndian.AppendUint32(b, uint32(i.imm))
	}
	return b
}

// assembleFilter makes the program that evaluates rules from the last to the
// first. An allow rule that matches takes its accesses off regAccess, and when
// none is left the answer is yes; a deny rule that matches one of the accesses
// left answers no; behind the rules the answer is base.
//
// Neighbours of the same verdict commute, so each run of them is sorted by type
// and major number and the comparisons are shared. That halves the program of a
// usual container.
func assembleFilter(rules []deviceRule, base bool) []byte {
	a := &asm{insns: make([]insn, 0, 8+4*len(rules)), jumps: make([]struct{ at, label int }, 0, 4+3*len(rules)), place: make([]int, 0, 4+3*len(rules))}
	if len(rules) > 0 {
		a.emit(opLoad32, regAccess, regCtx, 0, 0)
		a.emit(opMovReg, regType, regAccess, 0, 0)
		a.emit(opAnd32, regType, 0, 0, 0xffff)
		a.emit(opShr32, regAccess, 0, 0, 16)
		a.emit(opLoad32, regMajor, regCtx, 4, 0)
		a.emit(opLoad32, regMinor, regCtx, 8, 0)
	}
	yes, no := a.label(), a.label()
	for end := len(rules); end > 0; {
		start := end - 1
		for start > 0 && rules[start-1].allow == rules[end-1].allow {
			start--
		}
		run := slices.Clone(rules[start:end])
		slices.SortStableFunc(run, func(x, y deviceRule) int {
			return cmp.Or(cmp.Compare(y.typ, x.typ), cmp.Compare(y.access, x.access), cmp.Compare(x.major, y.major), cmp.Compare(x.minor, y.minor))
		})
		for len(run) > 0 {
			n := prefix(run, func(r deviceRule) bool { return r.typ == run[0].typ })
			a.byType(run[:n], yes, no)
			run = run[n:]
		}
		end = start
	}
	first, second := yes, no // fall through to the base
	if !base {
		first, second = no, yes
	}
	for _, l := range [...]int{first, second} {
		a.put(l)
		result := int32(0)
		if l == yes {
			result = 1
		}
		a.emit(opMov32, regResult, 0, 0, result)
		a.emit(opExit, 0, 0, 0, 0)
		if len(rules) == 0 {
			break
		}
	}
	return a.bytes()
}

// prefix returns how many rules at the beginning of run satisfy same.
func prefix(run []deviceRule, same func(deviceRule) bool) int {
	n := 0
	for n < len(run) && same(run[n]) {
		n++
	}
	return n
}

// byType emits rules that all have the same verdict and type.
func (a *asm) byType(run []deviceRule, yes, no int) {
	end := a.label()
	if t := run[0].typ; t != 0 {
		a.jump(opJne32, regType, t, end)
	}
	for len(run) > 0 {
		r := &run[0]
		n := prefix(run, func(x deviceRule) bool { return x.major == r.major })
		next := a.label()
		switch {
		case r.major == wildcard:
		case n == 1 && r.minor == wildcard && r.access == accAll:
			a.jump(opJeq32, regMajor, int32(uint32(r.major)), verdict(r, yes, no))
			n, run = 0, run[1:]
		default:
			a.jump(opJne32, regMajor, int32(uint32(r.major)), next)
		}
		for i := range run[:n] {
			a.rule(&run[i], yes, no)
		}
		run = run[n:]
		a.put(next)
	}
	a.put(end)
}

// rule emits what is left of a rule once type and major number match.
func (a *asm) rule(r *deviceRule, yes, no int) {
	next := a.label()
	if r.minor != wildcard {
		if r.access == accAll {
			a.jump(opJeq32, regMinor, int32(uint32(r.minor)), verdict(r, yes, no))
			a.put(next)
			return
		}
		a.jump(opJne32, regMinor, int32(uint32(r.minor)), next)
	}
	if r.allow {
		a.emit(opAnd32, regAccess, 0, 0, accAll&^r.access)
		a.jump(opJeq32, regAccess, 0, yes)
	} else {
		a.jump(opJset32, regAccess, r.access, no)
	}
	a.put(next)
}

func verdict(r *deviceRule, yes, no int) int {
	if r.allow {
		return yes
	}
	return no
}
