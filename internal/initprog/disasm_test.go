package initprog

import (
	"encoding/binary"
	"errors"
	"slices"
	"syscall"
	"testing"
)

func TestDisassemble_IsWhatWasBuilt(t *testing.T) {
	img := link(t, everyCall)
	p, err := Disassemble(img.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if p.Machine != native() || p.Sync != 3 || string(p.Code) != string(interpreterCode()) {
		t.Errorf("machine %d, sync %d, %d bytes of code", p.Machine, p.Sync, len(p.Code))
	}
	compare(t, img, p)
}

// compare holds a disassembled program against what was linked.
func compare(t *testing.T, img *Image, p *Program) {
	t.Helper()
	if len(p.Ops) != len(img.ops) {
		t.Fatalf("%d ops, want %d", len(p.Ops), len(img.ops))
	}
	number := func(addr uint32) int { return int(uint64(addr)-img.opStart) / opSize }
	for i := range img.ops {
		o, got := &img.ops[i], &p.Ops[i]
		want := Op{Number: o.nr, Store: o.store, Zero: number(o.zero), Nonzero: number(o.nonzero)}
		for j := range o.args {
			want.Args[j] = Value{o.args[j], o.load&(1<<j) != 0}
		}
		for _, e := range o.on {
			if e.errno != 0 {
				want.Errors = append(want.Errors, ErrorJump{syscall.Errno(e.errno), number(e.to)})
			}
		}
		if got.Number != want.Number || got.Args != want.Args || got.Store != want.Store || got.Zero != want.Zero ||
			got.Nonzero != want.Nonzero || !slices.Equal(got.Errors, want.Errors) {
			t.Fatalf("op %d: got %+v, want %+v", i, got, want)
		}
	}
}

// Every field that the kernel or the interpreter relies on is checked.
func TestDisassemble_Refuses(t *testing.T) {
	good := link(t, everyCall).Bytes()
	first := binary.LittleEndian.Uint64(good[dataOffset(good):]) - textBase
	u64 := func(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }
	tests := []struct {
		name string
		off  int
		b    []byte
	}{
		{"magic", 0, []byte("E")},
		{"class", 4, []byte{1}},
		{"type", 16, []byte{3}},
		{"machine", 18, []byte{40}},
		{"entry", 24, u64(textBase)},
		{"program header offset", 32, u64(65)},
		{"number of program headers", 56, []byte{4}},
		{"text is writable", elfHeader + 4, []byte{7}},
		{"text elsewhere", elfHeader + 16, u64(0x500000)},
		{"data is executable", elfHeader + elfProgHd + 4, []byte{7}},
		{"data beyond the file", elfHeader + elfProgHd + 8, u64(1 << 40)},
		{"data too long", elfHeader + elfProgHd + 32, u64(^uint64(0))},
		{"zeros behind the data", elfHeader + elfProgHd + 40, u64(1 << 30)},
		{"first op", dataOffset(good), u64(textBase)},
		{"first op far away", dataOffset(good), u64(^uint64(15))},
		{"end marker", int(first) - 16, make([]byte, 16)},
		{"argument mask", int(first) + 4, []byte{0x40}},
		{"slot", int(first) + opSize + 8, u64(1)}, // the countdown's
		{"result", int(first) + 56, u64(dataBase - 8)},
		{"zero", int(first) + 64, []byte{1}},
		{"nonzero", int(first) + 68, []byte{0, 0, 0, 0}},
		{"error", int(first) + 76, []byte{0xff, 0xff, 0xff, 0xff}},
	}
	for _, tt := range tests {
		elf := slices.Clone(good)
		copy(elf[tt.off:], tt.b)
		var format *FormatError
		if p, err := Disassemble(elf); !errors.As(err, &format) {
			t.Errorf("%s: got %v, %v; want a FormatError", tt.name, p != nil, err)
		}
	}
	for _, n := range []int{0, 10, 64, codeStart, 1000, len(good) - 1} {
		if _, err := Disassemble(good[:n]); err == nil {
			t.Errorf("%d bytes of %d were taken", n, len(good))
		}
	}
}

// dataOffset is where the data segment lies in the file.
func dataOffset(elf []byte) int {
	return int(binary.LittleEndian.Uint64(elf[elfHeader+elfProgHd+8:]))
}
