package loopback

import "golang.org/x/sys/unix"

// assembler writes instructions of BPF (Documentation/bpf/instruction-set.rst).
// All jumps are forward.
type assembler struct {
	code []uint64
	open []reference
}

type reference struct {
	at    int
	label string
}

func (a *assembler) add1(op, dst, src byte, off int16, imm int32) {
	a.code = append(a.code, uint64(op)|uint64(dst|src<<4)<<8|uint64(uint16(off))<<16|uint64(uint32(imm))<<32)
}

func (a *assembler) mov(dst, src byte) {
	a.add1(unix.BPF_ALU64|unix.BPF_MOV|unix.BPF_X, dst, src, 0, 0)
}

func (a *assembler) add(dst byte, v int32) {
	a.add1(unix.BPF_ALU64|unix.BPF_ADD|unix.BPF_K, dst, 0, 0, v)
}

func (a *assembler) and(dst byte, mask int32) {
	a.add1(unix.BPF_ALU64|unix.BPF_AND|unix.BPF_K, dst, 0, 0, mask)
}

// set sets the lower word and clears the upper one.
func (a *assembler) set(dst byte, v int32) {
	a.add1(unix.BPF_ALU|unix.BPF_MOV|unix.BPF_K, dst, 0, 0, v)
}

func (a *assembler) set64(dst byte, v uint64) {
	a.add1(unix.BPF_LD|unix.BPF_DW|unix.BPF_IMM, dst, 0, 0, int32(uint32(v)))
	a.add1(0, 0, 0, 0, int32(uint32(v>>32)))
}

func (a *assembler) setMap(dst byte, fd int) {
	a.add1(unix.BPF_LD|unix.BPF_DW|unix.BPF_IMM, dst, unix.BPF_PSEUDO_MAP_FD, 0, int32(fd))
	a.add1(0, 0, 0, 0, 0)
}

func (a *assembler) load(dst, from byte, off int16) {
	a.add1(unix.BPF_LDX|unix.BPF_W|unix.BPF_MEM, dst, from, off, 0)
}

func (a *assembler) load64(dst, from byte, off int16) {
	a.add1(unix.BPF_LDX|unix.BPF_DW|unix.BPF_MEM, dst, from, off, 0)
}

func (a *assembler) store(to byte, off int16, src byte) {
	a.add1(unix.BPF_STX|unix.BPF_W|unix.BPF_MEM, to, src, off, 0)
}

func (a *assembler) storeImm(to byte, off int16, v int32) {
	a.add1(unix.BPF_ST|unix.BPF_W|unix.BPF_MEM, to, 0, off, v)
}

func (a *assembler) call(helper int32) { a.add1(unix.BPF_JMP|unix.BPF_CALL, 0, 0, 0, helper) }
func (a *assembler) exit()             { a.add1(unix.BPF_JMP|unix.BPF_EXIT, 0, 0, 0, 0) }

func (a *assembler) branch(op, dst, src byte, imm int32, label string) {
	a.open = append(a.open, reference{len(a.code), label})
	a.add1(op, dst, src, 0, imm)
}

func (a *assembler) jump(label string) { a.branch(unix.BPF_JMP|unix.BPF_JA, 0, 0, 0, label) }

// jumpEqual and jumpNotEqual compare lower words.
func (a *assembler) jumpEqual(r byte, v int32, label string) {
	a.branch(unix.BPF_JMP32|unix.BPF_JEQ|unix.BPF_K, r, 0, v, label)
}

func (a *assembler) jumpNotEqual(r byte, v int32, label string) {
	a.branch(unix.BPF_JMP32|unix.BPF_JNE|unix.BPF_K, r, 0, v, label)
}

func (a *assembler) jumpEqual64(r byte, v int32, label string) {
	a.branch(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, r, 0, v, label)
}

func (a *assembler) jumpNotEqual64(r byte, v int32, label string) {
	a.branch(unix.BPF_JMP|unix.BPF_JNE|unix.BPF_K, r, 0, v, label)
}

func (a *assembler) jumpNotEqualReg(r, with byte, label string) {
	a.branch(unix.BPF_JMP|unix.BPF_JNE|unix.BPF_X, r, with, 0, label)
}

// label is where the jumps to it that were written so far lead.
func (a *assembler) label(name string) {
	kept := a.open[:0]
	for _, r := range a.open {
		if r.label == name {
			a.code[r.at] |= uint64(uint16(len(a.code)-r.at-1)) << 16
		} else {
			kept = append(kept, r)
		}
	}
	a.open = kept
}
