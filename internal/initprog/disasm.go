package initprog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"syscall"
)

// A Program is an image taken apart again, from its bytes alone. It is what an
// image does, where the builder only knows what was meant.
type Program struct {
	Machine Machine
	Code    []byte // the interpreter with its end marker
	Ops     []Op
	Sync    int64 // descriptor that failures are reported to at first

	data []byte // data segment
}

// A Machine is the architecture of an image, as e_machine of elf(5) has it.
type Machine uint16

// The architectures that there is an interpreter for.
const (
	AMD64 Machine = 62
	ARM64 Machine = 183
)

// page is the largest page size of the machine's kernels.
func (m Machine) page() int {
	if m == ARM64 {
		return 65536
	}
	return 4096
}

// An Op is one op of a Program. Places to go on are numbers of ops; one behind
// the last op is where a call that never returns would go on.
type Op struct {
	Number        uint32 // of the system call, on the program's machine
	Args          [6]Value
	Store         uint64 // address of the slot that gets the result; 0: none
	Zero, Nonzero int
	Errors        []ErrorJump
}

// An ErrorJump says where a program goes on after an error.
type ErrorJump struct {
	Errno syscall.Errno
	To    int
}

// Any reports whether the jump is for all errors that have none of their own.
func (j ErrorJump) Any() bool { return uint32(j.Errno) == anyErrno }

// A FormatError says why bytes are no image of an init program.
type FormatError struct{ Reason string }

func (e *FormatError) Error() string { return "not an init program: " + e.Reason }

func bad(format string, args ...any) error {
	return &FormatError{Reason: fmt.Sprintf(format, args...)}
}

// Disassemble takes an image apart. It accepts what Link makes, for either
// architecture, and nothing else; the error is a *FormatError. Its result
// refers to elf.
func Disassemble(elf []byte) (*Program, error) {
	le := binary.LittleEndian
	const ident = "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	if len(elf) < codeStart || string(elf[:len(ident)]) != ident {
		return nil, bad("no 64-bit little-endian ELF file")
	}
	p := &Program{Machine: Machine(le.Uint16(elf[18:]))}
	if p.Machine != AMD64 && p.Machine != ARM64 {
		return nil, bad("machine %d", p.Machine)
	}
	if le.Uint16(elf[16:]) != 2 || le.Uint64(elf[24:]) != textBase+codeStart || le.Uint64(elf[32:]) != elfHeader ||
		le.Uint16(elf[54:]) != elfProgHd || le.Uint16(elf[56:]) != 3 {
		return nil, bad("unexpected ELF header")
	}
	text, err := p.segment(elf, 0, textBase, 4|1)
	if err != nil {
		return nil, err
	}
	if p.data, err = p.segment(elf, 1, dataBase, 4|2); err != nil {
		return nil, err
	}
	if len(text) < codeStart || len(text) > dataBase-textBase || len(p.data) < headerSize {
		return nil, bad("segments of %d and %d bytes", len(text), len(p.data))
	}
	p.Sync = int64(le.Uint64(p.data[headerSync-dataBase:]))
	first, err := p.interpreter(text, le.Uint64(p.data[headerFirst-dataBase:]))
	if err != nil {
		return nil, err
	}
	if err := p.decode(text[first:], textBase+uint64(first)); err != nil {
		return nil, err
	}
	return p, nil
}

// segment returns the bytes of program header i.
func (p *Program) segment(elf []byte, i int, addr uint64, flags uint32) ([]byte, error) {
	le := binary.LittleEndian
	h := elf[elfHeader+i*elfProgHd:]
	off, size, n := le.Uint64(h[8:]), le.Uint64(h[32:]), uint64(len(elf))
	if le.Uint32(h[0:]) != 1 || le.Uint32(h[4:]) != flags || le.Uint64(h[16:]) != addr || le.Uint64(h[40:]) != size ||
		off%uint64(p.Machine.page()) != 0 || off > n || size > n-off {
		return nil, bad("unexpected program header %d", i)
	}
	return elf[off : off+size], nil
}

// interpreter finds the interpreter's code and returns the offset of the first
// op, which is at the address first.
func (p *Program) interpreter(text []byte, first uint64) (int, error) {
	if first < textBase+codeStart || first >= textBase+uint64(len(text)) || first%16 != 0 {
		return 0, bad("first op at %#x", first)
	}
	off := int(first - textBase)
	var marker [8]byte
	binary.LittleEndian.PutUint64(marker[:], endMarker)
	end := bytes.Index(text[codeStart:off], marker[:])
	if end < 0 {
		return 0, bad("the interpreter has no end marker")
	}
	p.Code = text[codeStart : codeStart+end+8]
	if gap := text[codeStart+len(p.Code) : off]; len(gap) > 15 || len(bytes.Trim(gap, "\x00")) != 0 {
		return 0, bad("%d bytes between interpreter and ops", len(gap))
	}
	return off, nil
}

// decode reads the ops, the first of which is at the address base.
func (p *Program) decode(raw []byte, base uint64) error {
	if len(raw) == 0 || len(raw)%opSize != 0 {
		return bad("ops of %d bytes in all", len(raw))
	}
	le := binary.LittleEndian
	p.Ops = make([]Op, len(raw)/opSize)
	for i := range p.Ops {
		o, r := &p.Ops[i], raw[i*opSize:]
		o.Number = le.Uint32(r)
		load := le.Uint32(r[4:])
		if load >= 1<<len(o.Args) {
			return bad("op %d: argument mask %#x", i, load)
		}
		for j := range o.Args {
			o.Args[j] = Value{bits: le.Uint64(r[8+8*j:]), load: load&(1<<j) != 0}
			if o.Args[j].load && p.at(o.Args[j].bits, 8) == nil {
				return bad("op %d: argument %d is at %#x, outside the data", i, j, o.Args[j].bits)
			}
		}
		if o.Store = le.Uint64(r[56:]); o.Store != 0 && p.at(o.Store, 8) == nil {
			return bad("op %d: its result goes to %#x, outside the data", i, o.Store)
		}
		if o.Number == pseudoCountdown && p.at(o.Args[0].bits, 8) == nil {
			return bad("op %d: it counts at %#x, outside the data", i, o.Args[0].bits)
		}
		var jumps [5]int
		for j, off := range [5]int{64, 68, 76, 84, 92} {
			to := uint64(le.Uint32(r[off:]))
			if j >= 2 && le.Uint32(r[off-4:]) == 0 { // unused pair
				continue
			}
			if to < base || to > base+uint64(len(raw)) || (to-base)%uint64(opSize) != 0 {
				return bad("op %d: jump to %#x, which is no op", i, to)
			}
			jumps[j] = int(to-base) / opSize
			if j >= 2 {
				o.Errors = append(o.Errors, ErrorJump{syscall.Errno(le.Uint32(r[off-4:])), jumps[j]})
			}
		}
		o.Zero, o.Nonzero = jumps[0], jumps[1]
	}
	return nil
}

// at returns n bytes of the data segment, nil if they are not all there.
func (p *Program) at(addr uint64, n uint64) []byte {
	size := uint64(len(p.data))
	if addr < dataBase || addr-dataBase > size || n > size-(addr-dataBase) {
		return nil
	}
	return p.data[addr-dataBase:][:n:n]
}

// word returns the 64-bit word at addr.
func (p *Program) word(addr uint64) (uint64, bool) {
	b := p.at(addr, 8)
	if b == nil {
		return 0, false
	}
	return binary.LittleEndian.Uint64(b), true
}

// text returns the string at addr up to its NUL, at most limit bytes of it.
func (p *Program) text(addr uint64, limit int) (s string, more, ok bool) {
	if addr < dataBase || addr-dataBase >= uint64(len(p.data)) {
		return "", false, false
	}
	b := p.data[addr-dataBase:]
	if len(b) > limit+1 {
		b = b[:limit+1]
	}
	n := bytes.IndexByte(b, 0)
	if n < 0 {
		return string(b[:min(limit, len(b))]), true, len(b) > limit
	}
	return string(b[:n]), false, true
}
