package initprog

import (
	"encoding/binary"
	"errors"
	"runtime"
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

// interpreterCode is the machine code of the interpreter.
func interpreterCode() []byte {
	const limit = 1024
	b := unsafe.Slice((*byte)(interpreterAddress()), limit)
	for i := 0; i+8 <= limit; i++ {
		if binary.LittleEndian.Uint64(b[i:]) == endMarker {
			return b[:i]
		}
	}
	panic("initprog: the interpreter has no end marker")
}

// An Image is a program in the form of a static ELF executable.
type Image struct {
	head []byte // ELF headers and interpreter, padded to the first op
	ops  []byte
	pad  []byte // to the page of the data segment
	data []byte

	meta     []opMeta
	subjects []subject
	numbers  []op // the ops, for system call numbers in failure reports
	opStart  uint64
}

// ErrTooLarge reports a program that does not fit between its two segments:
// more than some 40,000 ops or more than 2 GiB of data.
var ErrTooLarge = errors.New("init program too large")

// Link resolves the labels and lays out the executable. The builder must not be
// used afterwards.
func (b *Builder) Link() (*Image, error) {
	code := interpreterCode()
	start := (codeStart + len(code) + 15) &^ 15
	textLen := start + len(b.ops)*opSize
	if textLen > dataBase-textBase || len(b.data) > 1<<31 {
		return nil, ErrTooLarge
	}
	if len(b.ops) == 0 {
		return nil, errors.New("empty init program")
	}
	first := uint64(textBase + start)
	target := func(l Label, i int) uint32 {
		n := int32(i + 1)
		if l != next {
			n = b.labels[l]
		}
		if n < 0 {
			panic("initprog: jump to a label that was never placed")
		}
		return uint32(first) + uint32(n)*uint32(opSize)
	}
	for i := range b.ops {
		o, m := &b.ops[i], &b.meta[i]
		o.zero, o.nonzero = target(m.zero, i), target(m.nonzero, i)
		for j := range m.non {
			o.on[j].to = target(m.on[j], i)
		}
	}
	le := binary.LittleEndian
	le.PutUint64(b.data[headerFirst-dataBase:], first)

	machine, page := uint16(62), 4096 // EM_X86_64
	if runtime.GOARCH == "arm64" {
		machine, page = 183, 65536 // EM_AARCH64; pages may have 64 KiB
	}
	dataOff := (textLen + page - 1) &^ (page - 1)
	head := make([]byte, start)
	copy(head, "\x7fELF\x02\x01\x01")
	le.PutUint16(head[16:], 2) // ET_EXEC
	le.PutUint16(head[18:], machine)
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
		le.PutUint64(p[48:], 0x10000)
	}
	const load, gnuStack = 1, 0x6474e551
	segment(0, load, 4|1, 0, textBase, textLen)
	segment(1, load, 4|2, dataOff, dataBase, len(b.data))
	segment(2, gnuStack, 4|2, 0, 0, 0) // the stack is not executable
	copy(head[codeStart:], code)
	return &Image{
		head: head,
		ops:  unsafe.Slice((*byte)(unsafe.Pointer(&b.ops[0])), len(b.ops)*opSize),
		pad:  make([]byte, dataOff-textLen),
		data: b.data,
		meta: b.meta, subjects: b.subjects, numbers: b.ops, opStart: first,
	}, nil
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
func (m *Image) Size() int { return len(m.head) + len(m.ops) + len(m.pad) + len(m.data) }

// Ops is the number of ops.
func (m *Image) Ops() int { return len(m.numbers) }

func (m *Image) parts() [][]byte { return [][]byte{m.head, m.ops, m.pad, m.data} }
