package seccomp

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// The instructions of classic BPF that the compiler uses, all of which the kernel's action cache understands
// (seccomp_is_const_allow in kernel/seccomp.c), except loads of arguments.
const (
	opLoad = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opAnd  = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opRet  = unix.BPF_RET | unix.BPF_K
	opJump = unix.BPF_JMP | unix.BPF_JA
	opJeq  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opJgt  = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	opJge  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	opJset = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
)

// Offsets in struct seccomp_data.
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

// A target is where a jump goes: an instruction already emitted (its index counted from the end of the program, >= 0),
// or a return with an action (< 0), which the emitter places within reach.
type target int64

func ret(action uint32) target { return -1 - target(action) }

// emitter builds a program from its end to its start. All jumps of classic BPF go forward, so every target of a jump
// is known when the jump is written, and one that is out of the reach of 8 bits gets a stepping stone: another copy of
// the return, or an unconditional jump, whose offset has 32 bits.
type emitter struct {
	buf  []byte // filled from the end
	n    int    // instructions so far
	rets []retAt
}

type retAt struct {
	action uint32
	at     int
}

// size of a conditional jump's reach, less the two stepping stones that may come in between.
const reach = 255 - 2

func (e *emitter) put(code uint16, jt, jf int, k uint32) target {
	if e.n*8 == len(e.buf) {
		b := make([]byte, max(8192, 2*len(e.buf)))
		copy(b[len(b)-len(e.buf):], e.buf)
		e.buf = b
	}
	e.n++
	i := e.buf[len(e.buf)-e.n*8:]
	binary.NativeEndian.PutUint16(i, code)
	i[2], i[3] = byte(jt), byte(jf)
	binary.NativeEndian.PutUint32(i[4:], k)
	return target(e.n - 1)
}

func (e *emitter) putRet(action uint32) target {
	at := e.put(opRet, 0, 0, action)
	for i := range e.rets {
		if e.rets[i].action == action {
			e.rets[i].at = int(at)
			return at
		}
	}
	e.rets = append(e.rets, retAt{action, int(at)})
	return at
}

// near returns the index of an instruction that is, or leads to, t and can be reached by the next conditional jump.
func (e *emitter) near(t target) int {
	if t < 0 {
		action := uint32(-1 - t)
		for _, r := range e.rets {
			if r.action == action && e.n-r.at-1 <= reach {
				return r.at
			}
		}
		return int(e.putRet(action))
	}
	if e.n-int(t)-1 <= reach {
		return int(t)
	}
	return int(e.put(opJump, 0, 0, uint32(e.n-int(t)-1)))
}

// branch emits a conditional jump to yes or no.
func (e *emitter) branch(op uint16, k uint32, yes, no target) target {
	if yes == no {
		return yes
	}
	y := e.near(yes)
	n := e.near(no)
	return e.put(op, e.n-y-1, e.n-n-1, k)
}

// fall makes t the next instruction of what is emitted now.
func (e *emitter) fall(t target) {
	switch {
	case t < 0:
		e.putRet(uint32(-1 - t))
	case int(t) != e.n-1:
		e.put(opJump, 0, 0, uint32(e.n-int(t)-1))
	}
}

// load emits a load of the word at off in seccomp_data, then next. Nothing is loaded for a plain return.
func (e *emitter) load(off uint32, next target) target {
	if next < 0 {
		return next
	}
	e.fall(next)
	return e.put(opLoad, 0, 0, off)
}

// test emits "load the word at off, compare with k". A branch that goes to a load of the same word goes behind it.
func (e *emitter) test(off uint32, op uint16, k uint32, yes, no target) target {
	if yes == no {
		return yes
	}
	return e.load(off, e.branch(op, k, e.loaded(off, yes), e.loaded(off, no)))
}

func (e *emitter) loaded(off uint32, t target) target {
	if t > 0 {
		i := e.buf[len(e.buf)-(int(t)+1)*8:]
		if binary.NativeEndian.Uint16(i) == opLoad && binary.NativeEndian.Uint32(i[4:]) == off {
			return t - 1
		}
	}
	return t
}

// span is a range of values that share a target: from start to the start of the next span.
type span struct {
	start uint32
	to    target
}

// addSpan appends a span, merging it with the previous one where it can.
func addSpan(s []span, start uint32, to target) []span {
	if n := len(s); n > 0 {
		if s[n-1].start == start { // the previous one was empty
			s = s[:n-1]
			return addSpan(s, start, to)
		}
		if s[n-1].to == to {
			return s
		}
	}
	return append(s, span{start, to})
}

// tree emits a binary search for the accumulator in spans; the first span starts at 0.
func (e *emitter) tree(s []span) target {
	switch {
	case len(s) == 1:
		return s[0].to
	case len(s) == 2:
		return e.branch(opJge, s[1].start, s[1].to, s[0].to)
	case len(s) == 3 && s[0].to == s[2].to && s[2].start == s[1].start+1:
		return e.branch(opJeq, s[1].start, s[1].to, s[0].to)
	}
	// A single value between two spans of equal target is one comparison if it is not cut apart.
	m := len(s) / 2
	if m+1 < len(s) && s[m-1].to == s[m+1].to && s[m+1].start == s[m].start+1 {
		m++
	}
	high := e.tree(s[m:])
	low := e.tree(s[:m])
	return e.branch(opJge, s[m].start, high, low)
}
