package initprog

import (
	"encoding/binary"
	"sync/atomic"
	"syscall"
)

// A Value is an argument of a system call: a constant that is known when the
// program is built, or a slot that holds it when the program runs.
type Value struct {
	bits uint64 // the constant, or the address of the slot
	load bool
}

// Const is a value known now.
func Const(v uint64) Value { return Value{bits: v} }

// FD is a descriptor whose number is known now.
func FD(n int) Value { return Value{bits: uint64(int64(n))} }

// Sync is the slot that holds the descriptor failures are reported to. Storing
// another descriptor there redirects them.
func Sync() Value { return Value{bits: headerSync, load: true} }

// IsZero reports whether v is the zero Value, used for "no value". The constant
// 0, and so FD(0), is that too.
func (v Value) IsZero() bool { return v == Value{} }

// A Label is a place in the program that ops jump to. The zero Label is
// invalid; NewLabel makes one and Place puts it in front of the next op.
type Label int32

const next Label = 0 // go on with the following op

// A Builder collects the ops of one program. Its methods never fail: mistakes
// that depend on the input (a program that became too large) are reported by
// Link. A Builder is used once and by one goroutine.
type Builder struct {
	ops      []op
	meta     []opMeta
	labels   []int32 // op index of each label; -1 while not placed
	data     []byte  // data segment from dataBase on
	subjects []subject
	empty    uint64 // address of ""
	retries  Value  // budget shared by all retried path lookups
	placed   int32  // the furthest op that Place has put a label in front of
	err      error  // the first mistake that depends on the input
}

// retryBudget is how often RetrySome may repeat ops in one program. Whoever
// renames directories all the time can make openat2(2) fail with EAGAIN again
// and again, but not forever.
const retryBudget = 4096

// subject is what a run of ops is about: it is named in errors and listings.
type subject struct{ phase, object string }

// opMeta is what the interpreter need not know about an op.
type opMeta struct {
	subject       int32
	zero, nonzero Label
	on            [3]Label
	non           int8
	retry         Label  // RetrySome: the countdown behind the op, which "next" steps over
	detail        string // completes the system call's name in errors: "size=64k"
}

// memory is for the first program of a process: that of the container. It is large
// enough for the default configuration, and costs nothing before it is touched.
// On the heap, each slice would be a span of its own.
var memory struct {
	taken    atomic.Bool
	ops      [384]op
	meta     [384]opMeta
	labels   [256]int32
	data     [12 << 10]byte
	subjects [128]subject
}

// NewBuilder returns an empty program that reports failures to descriptor sync.
func NewBuilder(sync int) *Builder {
	b := &Builder{}
	if m := &memory; m.taken.CompareAndSwap(false, true) {
		b.ops, b.meta, b.labels, b.data, b.subjects = m.ops[:0], m.meta[:0], m.labels[:1], m.data[:headerSize], m.subjects[:1]
	} else {
		b.data, b.labels, b.subjects = make([]byte, headerSize, 2<<10), make([]int32, 1, 32), make([]subject, 1, 16)
	}
	binary.LittleEndian.PutUint64(b.data[headerSync-dataBase:], uint64(sync))
	b.empty = b.address("")
	b.retries = b.Slot(retryBudget + 1) // it fails when it gets to 0
	return b
}

// Phase names the stage that the following ops belong to, for errors and
// listings: "namespaces", "mounts". It clears the object.
func (b *Builder) Phase(name string) { b.subjects = append(b.subjects, subject{phase: name}) }

// Object names what the following ops work on: "/proc", "hostname".
func (b *Builder) Object(name string) {
	b.subjects = append(b.subjects, subject{b.subjects[len(b.subjects)-1].phase, name})
}

// Len is the number of ops so far.
func (b *Builder) Len() int { return len(b.ops) }

// Bytes puts p into the data segment, aligned to 8 bytes, and returns its address.
func (b *Builder) Bytes(p []byte) Value {
	b.align()
	a := dataBase + uint64(len(b.data))
	b.data = append(b.data, p...)
	return Const(a)
}

// String puts s with a terminating NUL into the data segment. s must not
// contain a NUL; callers have validated what comes from outside.
func (b *Builder) String(s string) Value {
	if s == "" && b.empty != 0 {
		return Const(b.empty)
	}
	return Const(b.address(s))
}

func (b *Builder) address(s string) uint64 {
	a := dataBase + uint64(len(b.data))
	b.data = append(append(b.data, s...), 0)
	return a
}

// Words puts 64-bit words into the data segment and returns the address of the first.
func (b *Builder) Words(words ...uint64) Value {
	b.align()
	a := dataBase + uint64(len(b.data))
	for _, w := range words {
		b.data = binary.LittleEndian.AppendUint64(b.data, w)
	}
	return Const(a)
}

// Strings puts a NULL-terminated array of strings into the data segment, as
// execve(2) takes it.
func (b *Builder) Strings(ss []string) Value {
	w := make([]uint64, 0, len(ss)+1)
	for _, s := range ss {
		w = append(w, b.address(s))
	}
	return b.Words(append(w, 0)...)
}

// Slot reserves a word in the data segment that ops store results to and take
// arguments from.
func (b *Builder) Slot(initial uint64) Value {
	v := b.Words(initial)
	v.load = true
	return v
}

// SlotAt makes a slot of the word at offset bytes behind the address v, so that
// a result can be stored into the middle of a structure.
func SlotAt(v Value, offset int) Value { return Value{bits: v.bits + uint64(offset), load: true} }

// AddressOf is the address of a slot as a constant, for calls that fill it.
func AddressOf(slot Value) Value { return Const(slot.bits) }

func (b *Builder) align() {
	for len(b.data)%8 != 0 {
		b.data = append(b.data, 0)
	}
}

// NewLabel makes a label that is not placed yet.
func (b *Builder) NewLabel() Label {
	b.labels = append(b.labels, -1)
	return Label(len(b.labels) - 1)
}

// Place puts l in front of the next op that is added.
func (b *Builder) Place(l Label) {
	b.placed = int32(len(b.ops))
	b.labels[l] = b.placed
}

// Here makes a label in front of the next op.
func (b *Builder) Here() Label {
	l := b.NewLabel()
	b.Place(l)
	return l
}

// A Ref is an op just added, to say what follows on its result. Without any
// such word the program goes on with the next op on success and ends with a
// failure report on every error.
type Ref struct {
	b *Builder
	i int32
}

// To stores the result, error or not, in slot.
func (r Ref) To(slot Value) Ref {
	if !slot.load {
		panic("initprog: a result can only be stored in a slot")
	}
	r.b.ops[r.i].store = slot.bits
	return r
}

// Result stores the result in a new slot and returns that.
func (r Ref) Result() Value {
	s := r.b.Slot(0)
	r.To(s)
	return s
}

// OnZero continues at l when the result is 0.
func (r Ref) OnZero(l Label) Ref { r.b.meta[r.i].zero = l; return r }

// OnNonzero continues at l when the result is positive.
func (r Ref) OnNonzero(l Label) Ref { r.b.meta[r.i].nonzero = l; return r }

// OnSuccess continues at l when there was no error.
func (r Ref) OnSuccess(l Label) Ref { return r.OnZero(l).OnNonzero(l) }

// On continues at l on the error e. An op has room for three errors; a fourth
// is a bug in the caller and panics.
func (r Ref) On(e syscall.Errno, l Label) Ref {
	m := &r.b.meta[r.i]
	if int(m.non) == len(m.on) {
		panic("initprog: a fourth error")
	}
	if uint32(e) == anyErrno && m.non != 0 {
		panic("initprog: OnAny after another error")
	}
	r.b.ops[r.i].on[m.non].errno = uint32(e)
	m.on[m.non] = l
	m.non++
	return r
}

// Ignore treats the errors like success.
func (r Ref) Ignore(errs ...syscall.Errno) Ref {
	for _, e := range errs {
		r.On(e, next)
	}
	return r
}

// IgnoreAny treats every error like success.
func (r Ref) IgnoreAny() Ref { return r.OnAny(next) }

// OnAny continues at l on every error. It must be the first word on errors.
func (r Ref) OnAny(l Label) Ref { return r.On(syscall.Errno(anyErrno), l) }

// Retry repeats the op on the error e, without limit: for EINTR.
func (r Ref) Retry(e syscall.Errno) Ref {
	l := r.b.NewLabel()
	r.b.labels[l] = r.i
	return r.On(e, l)
}

// RetrySome repeats the op on the error e as long as the program's budget of
// 4096 retries lasts; then the program fails with EAGAIN. It adds an op, so it
// must come before the next op and before a label is placed in front of that.
func (r Ref) RetrySome(e syscall.Errno) Ref {
	b := r.b
	m := &b.meta[r.i]
	if m.retry != next { // one countdown serves all errors of an op
		return r.On(e, m.retry)
	}
	if end := int32(len(b.ops)); r.i != end-1 || b.placed == end {
		panic("initprog: RetrySome after the next op or label")
	}
	m.retry = b.Here()
	r.On(e, m.retry)
	back := b.NewLabel()
	b.labels[back] = r.i
	b.Countdown(b.retries, Const(1)).OnNonzero(back)
	return r
}

// Detail completes the name of the system call in errors and listings.
func (r Ref) Detail(s string) Ref { r.b.meta[r.i].detail = s; return r }

func (b *Builder) add(nr uint32, detail string, args ...Value) Ref {
	i := len(b.ops)
	b.ops = append(b.ops, op{nr: nr})
	o := &b.ops[i]
	for j, v := range args {
		if v.load {
			o.load |= 1 << j
		}
		o.args[j] = v.bits
	}
	b.meta = append(b.meta, opMeta{subject: int32(len(b.subjects) - 1), detail: detail})
	return Ref{b, int32(i)}
}

// Set stores the value v in slot. As everywhere, -4095 to -1 are errors: a
// descriptor of -1 is stored, and then ends the program unless that is ignored.
func (b *Builder) Set(slot, v Value) Ref { return b.add(pseudoValue, "set", v).To(slot) }

// Countdown takes n, less than 1<<62, from what is in slot. The result is what is
// left; when nothing is, it is EAGAIN.
func (b *Builder) Countdown(slot, n Value) Ref {
	return b.add(pseudoCountdown, "", AddressOf(slot), n)
}

// Jump continues at l.
func (b *Builder) Jump(l Label) Ref { return b.add(pseudoValue, "jump", Const(0)).OnZero(l) }

// Fail ends the program with the error e, reported for this op.
func (b *Builder) Fail(e syscall.Errno, detail string) Ref {
	return b.add(pseudoValue, detail, Const(uint64(-int64(e))))
}

// Bits is the constant of v, for structures that contain addresses.
func (v Value) Bits() uint64 { return v.bits }
