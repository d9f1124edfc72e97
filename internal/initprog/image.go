package initprog

import (
	"encoding/binary"
	"errors"
	"runtime"
	"syscall"
	"unsafe"
)

// interpreterAddress is where the interpreter's code lies in this binary.
func interpreterAddress() unsafe.Pointer

// The marker that interp_*.s puts behind the interpreter.
const endMarker uint64 = 0x21444e4550545249

const (
	elfHeader = 64
	elfProgHd = 56
	codeStart = elfHeader + 3*elfProgHd
)

// interpreterCode is the machine code of the interpreter with its end marker.
func interpreterCode() []byte {
	const limit = 1024
	b := unsafe.Slice((*byte)(interpreterAddress()), limit)
	for i := 0; i+8 <= limit; i++ {
		if binary.LittleEndian.Uint64(b[i:]) == endMarker {
			return b[:i+8]
		}
	}
	panic("initprog: the interpreter has no end marker")
}

// An Image is a program in the form of a static ELF executable.
type Image struct {
	head []byte // ELF headers and interpreter, padded to the first op
	ops  []op
	pad  []byte // to the page of the data segment
	data []byte

	meta     []opMeta
	subjects []subject
	opStart  uint64 // address of the first op
}

// ErrTooLarge reports a program that does not fit between its two segments:
// more than some 40,000 ops or more than 1 GiB of data.
var ErrTooLarge = errors.New("init program too large")

// Link resolves the labels and lays out the executable. The builder must not be
// used afterwards.
func (b *Builder) Link() (*Image, error) {
	if b.err != nil {
		return nil, b.err
	}
	if len(b.ops) == 0 {
		return nil, errors.New("empty init program")
	}
	code := interpreterCode()
	start := (codeStart + len(code) + 15) &^ 15
	first := uint64(textBase + start)
	// One op may be added below.
	if start+(len(b.ops)+1)*opSize > dataBase-textBase || len(b.data) > 1<<30 {
		return nil, ErrTooLarge
	}
	b.resolve(uint32(first))
	textLen := start + len(b.ops)*opSize
	le := binary.LittleEndian
	le.PutUint64(b.data[headerFirst-dataBase:], first)

	machine := native()
	page := machine.page()
	dataOff := (textLen + page - 1) &^ (page - 1)
	head := make([]byte, start)
	copy(head, "\x7fELF\x02\x01\x01")
	le.PutUint16(head[16:], 2) // ET_EXEC
	le.PutUint16(head[18:], uint16(machine))
	le.PutUint32(head[20:], 1)
	le.PutUint64(head[24:], textBase+codeStart)
	le.PutUint64(head[32:], elfHeader)
	le.PutUint16(head[52:], elfHeader)
	le.PutUint16(head[54:], elfProgHd)
	le.PutUint16(head[56:], 3)
	segment := func(i int, typ, flags uint32, off, addr, size int) {
		p := head[elfHeader+i*elfProgHd:]
		le.PutUint32(p[0:], typ)
		le.PutUint32(p[4:], flags)
		le.PutUint64(p[8:], uint64(off))
		le.PutUint64(p[16:], uint64(addr))
		le.PutUint64(p[24:], uint64(addr))
		le.PutUint64(p[32:], uint64(size))
		le.PutUint64(p[40:], uint64(size))
		le.PutUint64(p[48:], uint64(page))
	}
	const load, gnuStack = 1, 0x6474e551
	segment(0, load, 4|1, 0, textBase, textLen)
	segment(1, load, 4|2, dataOff, dataBase, len(b.data))
	segment(2, gnuStack, 4|2, 0, 0, 0) // the stack is not executable
	copy(head[codeStart:], code)
	return &Image{
		head: head,
		ops:  b.ops,
		pad:  make([]byte, dataOff-textLen),
		data: b.data,
		meta: b.meta, subjects: b.subjects, opStart: first,
	}, nil
}

// resolve turns labels into the addresses of ops, the first of which is at first.
// Where control can run past the last op, one is added that fails: nothing that
// was not planned may follow.
func (b *Builder) resolve(first uint32) {
	ends := false
	target := func(l Label, i int, taken bool) uint32 {
		n := int32(i + 1)
		switch {
		case l != next:
			n = b.labels[l]
		case b.meta[i].retry != next: // step over the countdown
			n++
		}
		if n < 0 {
			panic("initprog: jump to a label that was never placed")
		}
		ends = ends || taken && int(n) == len(b.ops)
		return first + uint32(n)*uint32(opSize)
	}
	for i := range b.ops {
		o, m := &b.ops[i], &b.meta[i]
		zero, nonzero := o.outcomes()
		o.zero, o.nonzero = target(m.zero, i, zero), target(m.nonzero, i, nonzero)
		for j := range m.non {
			o.on[j].to = target(m.on[j], i, true)
		}
	}
	if ends {
		b.Fail(syscall.ENOEXEC, "run past the last op")
		o := &b.ops[len(b.ops)-1]
		o.zero = first + uint32(len(b.ops))*uint32(opSize) // never taken
		o.nonzero = o.zero
	}
}

// native is the machine that this binary makes images for.
func native() Machine {
	if runtime.GOARCH == "arm64" {
		return ARM64
	}
	return AMD64
}

// Bytes is the whole executable.
func (m *Image) Bytes() []byte {
	b := make([]byte, 0, m.Size())
	for _, p := range m.parts() {
		b = append(b, p...)
	}
	return b
}

// Size is the length of the executable in bytes.
func (m *Image) Size() int { return len(m.head) + len(m.ops)*opSize + len(m.pad) + len(m.data) }

// Ops is the number of ops.
func (m *Image) Ops() int { return len(m.ops) }

func (m *Image) parts() [][]byte {
	ops := unsafe.Slice((*byte)(unsafe.Pointer(&m.ops[0])), len(m.ops)*opSize)
	return [][]byte{m.head, ops, m.pad, m.data}
}
