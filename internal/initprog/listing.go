package initprog

import (
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listing prints the program, one op a line in the manner of strace(1), under
// the names of its phases and objects. The ops are read back from the image
// itself; only the names come from the builder.
//
//	mounts: /proc
//	    12  fsopen("proc", FSOPEN_CLOEXEC) -> s4
//	    13  mkdirat(s1, "proc", 0755), ignore EEXIST
//	    14  openat2(s1, "proc", {flags=O_PATH|O_CLOEXEC, ...}, 24) -> s5, success -> 20, ENOENT -> 16
//
// An op goes on with the next one, and ends the program on any error, unless it
// says otherwise. s1, s2 are slots, sync is the one that failures are reported
// to; "-> s4" stores the result, "-> 20" goes on with op 20.
func (m *Image) Listing() string {
	p, err := Disassemble(m.Bytes())
	if err != nil {
		return err.Error() + "\n" // does not happen: tested by FuzzBuilder
	}
	return p.list(m)
}

// String lists the ops without names of phases and objects.
func (p *Program) String() string { return p.list(nil) }

func (p *Program) list(m *Image) string {
	l := newLister(p)
	var b strings.Builder
	head := ""
	for i := range p.Ops {
		detail := ""
		if m != nil {
			s := m.subjects[m.meta[i].subject]
			h := s.phase
			if s.object != "" {
				h += ": " + printable(s.object)
			}
			if h != head {
				b.WriteString(h + "\n")
				head = h
			}
			detail = m.meta[i].detail
		}
		n := strconv.Itoa(i)
		b.WriteString(strings.Repeat(" ", max(0, 6-len(n))) + n + "  " + l.op(i, detail) + "\n")
	}
	return b.String()
}

// lister writes ops as text.
type lister struct {
	*Program
	slots map[uint64]string // names by address
}

func newLister(p *Program) *lister {
	l := &lister{p, map[uint64]string{headerSync: "sync"}}
	name := func(addr uint64) {
		if l.slots[addr] == "" {
			l.slots[addr] = "s" + strconv.Itoa(len(l.slots))
		}
	}
	for i := range p.Ops {
		o := &p.Ops[i]
		for _, a := range o.Args {
			if a.load {
				name(a.bits)
			}
		}
		if o.Number == pseudoCountdown && !o.Args[0].load {
			name(o.Args[0].bits)
		}
		if o.Store != 0 {
			name(o.Store)
		}
	}
	return l
}

// op is one op, without its number.
func (l *lister) op(i int, detail string) string {
	o := &l.Ops[i]
	var s string
	switch {
	case o.Number == pseudoValue:
		s = l.value(o, detail)
	case o.Number == pseudoCountdown:
		s = "countdown " + l.target(o.Args[0])
		if n := o.Args[1]; n != Const(1) {
			s += " by " + l.number(n)
		}
		if left, ok := l.word(o.Args[0].bits); ok && !o.Args[0].load {
			s += " from " + strconv.FormatUint(left, 10)
		}
	default:
		s = l.call(o)
	}
	if o.Store != 0 && o.Number != pseudoValue {
		s += " -> " + l.slots[o.Store]
	}
	return s + l.jumps(i)
}

// target is what the countdown counts: the word at a constant address.
func (l *lister) target(v Value) string {
	if v.load {
		return "*" + l.slots[v.bits]
	}
	return l.slots[v.bits]
}

// value is the pseudo call that moves a word, jumps or fails.
func (l *lister) value(o *Op, detail string) string {
	a := o.Args[0]
	if !a.load && a.bits > ^uint64(4095) {
		s := "fail " + errnoName(syscall.Errno(-a.bits))
		if detail != "" {
			s += " (" + printable(detail) + ")"
		}
		if o.Store != 0 {
			s += " -> " + l.slots[o.Store]
		}
		return s
	}
	v := l.number(a)
	if !a.load {
		if t, ok := l.quote(a.bits); ok && a.bits >= dataBase {
			v = t
		}
	}
	switch {
	case o.Store != 0:
		return l.slots[o.Store] + " = " + v
	case !a.load && a.bits == 0:
		return "jump"
	}
	return "test " + v
}

// jumps says where the op goes on, as far as that is not the next op or the end.
func (l *lister) jumps(i int) string {
	o := &l.Ops[i]
	raw := op{nr: o.Number}
	if l.Machine != native() && o.Number < pseudoValue {
		raw.nr = ^uint32(0) // some call or other
	}
	raw.args[0] = o.Args[0].bits
	if o.Args[0].load {
		raw.load = 1
	}
	zero, nonzero := raw.outcomes()
	zero, nonzero = zero && o.Zero != i+1, nonzero && o.Nonzero != i+1
	s := ""
	to := func(what string, n int) { s += ", " + what + " -> " + strconv.Itoa(n) }
	switch {
	case o.Number == pseudoValue && !o.Args[0].load && o.Args[0].bits == 0 && o.Store == 0:
		return " -> " + strconv.Itoa(o.Zero) + l.errors(i)
	case zero && nonzero && o.Zero == o.Nonzero:
		to("success", o.Zero)
	default:
		if zero {
			to("zero", o.Zero)
		}
		if nonzero {
			to("nonzero", o.Nonzero)
		}
	}
	return s + l.errors(i)
}

func (l *lister) errors(i int) string {
	s, ignored := "", ""
	for _, e := range l.Ops[i].Errors {
		name := "any error"
		if !e.Any() {
			name = errnoName(e.Errno)
		}
		switch o := &l.Ops[i]; {
		case e.To == o.Zero && e.To == o.Nonzero: // like success
			ignored += " " + name
		case e.To == i:
			s += ", retry " + name
		default:
			s += ", " + name + " -> " + strconv.Itoa(e.To)
		}
	}
	if ignored != "" {
		s += ", ignore" + ignored
	}
	return s
}

func errnoName(e syscall.Errno) string {
	if n := unix.ErrnoName(e); n != "" {
		return n
	}
	return "errno " + strconv.FormatUint(uint64(e), 10)
}

// number is an argument of no particular meaning.
func (l *lister) number(v Value) string {
	if v.load {
		return l.slots[v.bits]
	}
	return number(v.bits)
}

// number writes small numbers, negative ones too, in decimal.
func number(n uint64) string {
	if s := int64(n); s >= -1<<20 && s <= 1<<31 {
		return strconv.FormatInt(s, 10)
	}
	return "0x" + strconv.FormatUint(n, 16)
}

// quote is the string at an address.
func (l *lister) quote(addr uint64) (string, bool) {
	const limit = 256
	s, more, ok := l.text(addr, limit)
	if !ok {
		return "", false
	}
	q := strconv.Quote(s)
	if more {
		q += "..."
	}
	return q, true
}
