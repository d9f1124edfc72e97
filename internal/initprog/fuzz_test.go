package initprog

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A script turns bytes into choices; behind its end all of them are 0.
type script []byte

func (s *script) next(n int) int {
	if len(*s) == 0 {
		return 0
	}
	c := int((*s)[0]) % n
	*s = (*s)[1:]
	return c
}

func (s *script) word() uint64 {
	var b [8]byte
	*s = (*s)[copy(b[:], *s):]
	return binary.LittleEndian.Uint64(b[:])
}

// intended is what an op was meant to do, kept apart from the builder: places
// are labels, next is nil.
type intended struct {
	nr            uint32
	args          []Value
	store         Value
	zero, nonzero *place
	errors        []intendedError
	retries       bool
	object        string
}

type intendedError struct {
	errno syscall.Errno
	to    *place
}

// place is a label and the op it was put in front of.
type place struct {
	label Label
	op    int
}

// FuzzBuilder builds programs of all words in all orders and checks that what
// comes out of the image is what was said.
func FuzzBuilder(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("a program that the fuzzer can start from, long enough for a few ops of several kinds"))
	for i := range 8 {
		seed := make([]byte, 400)
		for j := range seed {
			seed[j] = byte(j*j*(i+3) + j>>2*i + 11*i)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := script(raw)
		b := NewBuilder(s.next(100))
		want := buildRandom(b, &s)
		if len(want) == 0 {
			return
		}
		n := b.Len()
		img, err := b.Link()
		if err != nil {
			t.Fatal(err)
		}
		elf := img.Bytes()
		p, err := Disassemble(elf)
		if err != nil {
			t.Fatal(err)
		}
		checkIntended(t, want, n, p)
		listing := img.Listing()
		if got := strings.Count(listing, "\n"); got < len(p.Ops) {
			t.Errorf("%d lines for %d ops", got, len(p.Ops))
		}
		for i := range p.Ops {
			if e := img.Failure(Record{img.opStart + uint64(i*opSize), 2}); IsStep(e) == nil || e.Error() == "" {
				t.Errorf("op %d has no failure: %v", i, e)
			}
		}
		if i := strings.IndexFunc(listing, func(r rune) bool { return r < ' ' && r != '\n' }); i >= 0 {
			t.Errorf("the listing has a control character at %d", i)
		}
	})
}

// buildRandom returns what it meant by op number, nil for countdowns.
func buildRandom(b *Builder, s *script) []*intended {
	var want []*intended
	slots := []Value{Sync(), b.Slot(0)}
	var places []*place
	object := ""
	label := func() *place {
		if k := s.next(len(places) + 2); k < len(places) {
			return places[k]
		}
		p := &place{b.NewLabel(), -1}
		places = append(places, p)
		return p
	}
	value := func() Value {
		switch s.next(5) {
		case 0:
			return Const(s.word())
		case 1:
			return b.String(strings.Repeat("x\n", s.next(200)))
		case 2:
			return b.Words(make([]uint64, s.next(5))...)
		case 3:
			v := SlotAt(b.Words(1, 2, 3), 8*s.next(3))
			slots = append(slots, v)
			return v
		}
		return slots[s.next(len(slots))]
	}
	numbers := []uint32{unix.SYS_OPENAT2, unix.SYS_EXECVE, unix.SYS_PRCTL, unix.SYS_SENDMSG, unix.SYS_CAPSET, unix.SYS_SETGROUPS, pseudoValue, 5000}
	numbers = append(numbers, allNumbers...)
	for len(*s) > 0 && len(want) < 300 {
		switch s.next(8) {
		case 0: // put a label in front of the next op
			if p := label(); p.op < 0 {
				p.op = b.Len()
				b.Place(p.label)
			}
			continue
		case 1:
			object = string(rune('a' + s.next(26)))
			b.Object(object)
			continue
		}
		in := &intended{nr: numbers[s.next(len(numbers))], object: object}
		for range s.next(7) {
			in.args = append(in.args, value())
		}
		if in.nr == pseudoCountdown { // made by RetrySome alone
			in.nr = pseudoValue
		}
		want = append(want, in)
		r := b.add(in.nr, "detail", in.args...)
		for len(in.errors) < 3 && s.next(3) > 0 {
			switch s.next(7) {
			case 0:
				in.zero = label()
				r.OnZero(in.zero.label)
			case 1:
				in.nonzero = label()
				r.OnNonzero(in.nonzero.label)
			case 2:
				in.store = slots[s.next(len(slots))]
				r.To(in.store)
			case 3:
				e := intendedError{syscall.Errno(1 + s.next(200)), label()}
				in.errors = append(in.errors, e)
				r.On(e.errno, e.to.label)
			case 4:
				e := intendedError{errno: syscall.Errno(1 + s.next(200))}
				in.errors = append(in.errors, e)
				r.Ignore(e.errno)
			case 5:
				if len(in.errors) == 0 {
					in.errors = append(in.errors, intendedError{errno: syscall.Errno(anyErrno)})
					r.IgnoreAny()
				}
			case 6:
				if b.placed == int32(b.Len()) {
					break // not allowed here
				}
				e := intendedError{syscall.Errno(1 + s.next(200)), &place{op: int(r.i) + 1}}
				in.errors = append(in.errors, e)
				r.RetrySome(e.errno)
				if !in.retries {
					want = append(want, nil)
					in.retries = true
				}
			}
		}
	}
	for _, p := range places { // labels nobody placed are in front of the end
		if p.op < 0 {
			p.op = b.Len()
			b.Place(p.label)
		}
	}
	return want
}

var allNumbers = func() []uint32 {
	b := NewBuilder(3)
	everyCall(b)
	var n []uint32
	for _, o := range b.ops {
		if !slices.Contains(n, o.nr) {
			n = append(n, o.nr)
		}
	}
	return n
}()

func checkIntended(t *testing.T, want []*intended, n int, p *Program) {
	t.Helper()
	if len(want) != n || len(p.Ops) != n && len(p.Ops) != n+1 {
		t.Fatalf("%d ops meant, %d built, %d in the image", len(want), n, len(p.Ops))
	}
	if len(p.Ops) > n && p.Ops[n].Args[0].bits != ^uint64(syscall.ENOEXEC-1) {
		t.Errorf("the last op is %+v", p.Ops[n])
	}
	for i, w := range want {
		got := &p.Ops[i]
		if w == nil {
			if got.Number != pseudoCountdown || got.Nonzero != i-1 || len(got.Errors) != 0 || got.Args[0].load {
				t.Errorf("op %d: %+v, want the countdown of the op before", i, got)
			}
			continue
		}
		after := i + 1
		if w.retries {
			after++
		}
		to := func(p *place) int {
			if p == nil {
				return after
			}
			return p.op
		}
		var args [6]Value
		copy(args[:], w.args)
		if got.Number != w.nr || got.Args != args || got.Store != w.store.bits || got.Zero != to(w.zero) || got.Nonzero != to(w.nonzero) {
			t.Errorf("op %d: %+v, want %+v", i, got, w)
		}
		var errs []ErrorJump
		for _, e := range w.errors {
			errs = append(errs, ErrorJump{e.errno, to(e.to)})
		}
		if !slices.Equal(got.Errors, errs) {
			t.Errorf("op %d: errors %v, want %v", i, got.Errors, errs)
		}
	}
}

// FuzzDisassemble feeds images with changes in them, and garbage.
func FuzzDisassemble(f *testing.F) {
	b := NewBuilder(3)
	everyCall(b)
	img, err := b.Link()
	if err != nil {
		f.Fatal(err)
	}
	good := img.Bytes()
	f.Add([]byte(nil), false)
	f.Add([]byte("\x7fELF\x02\x01\x01 and no more"), false)
	f.Add(good, false)
	f.Add([]byte{0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8}, true)
	first := uint32(img.opStart - textBase)
	for i := uint32(0); i < uint32(len(img.ops)); i += 3 { // an argument of an op elsewhere
		f.Add(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(nil, first+i*96+8+i%6*8), uint64(dataBase+i*64)), true)
	}
	f.Fuzz(func(t *testing.T, raw []byte, patch bool) {
		elf := raw
		if patch { // offset and word, again and again
			elf = slices.Clone(good)
			for len(raw) >= 12 {
				off := int(binary.LittleEndian.Uint32(raw)) % len(elf)
				copy(elf[off:], raw[4:12])
				raw = raw[12:]
			}
		}
		p, err := Disassemble(elf)
		if err != nil {
			var format *FormatError
			if p != nil || !errors.As(err, &format) {
				t.Errorf("got %v, %v", p, err)
			}
			return
		}
		if s := p.String(); strings.Count(s, "\n") != len(p.Ops) || len(s) > 32<<10*len(p.Ops) {
			t.Errorf("%d bytes, %d lines for %d ops", len(s), strings.Count(s, "\n"), len(p.Ops))
		}
	})
}
