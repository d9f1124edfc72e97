package seccomp

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// insn is a decoded struct sock_filter.
type insn struct {
	code   uint16
	jt, jf uint8
	k      uint32
}

func decode(b []byte) insn {
	return insn{binary.NativeEndian.Uint16(b), b[2], b[3], binary.NativeEndian.Uint32(b[4:])}
}

// held is what the accumulator holds at an instruction: a word of seccomp_data, on one architecture.
type held struct {
	known bool
	off   uint32
	token uint32
}

// Disassemble returns a listing of a compiled filter, one instruction a line: index, mnemonic with operand, targets of
// a jump as indexes, and what the operand means.
//
//	4: jge #59 ? 9 : 5    // execve
func Disassemble(f *Filter) string {
	n := f.Len()
	state := make([]held, n+1)
	pass := func(to int, h held) {
		if to < n && !state[to].known {
			h.known = true
			state[to] = h
		}
	}
	var b strings.Builder
	for i := range n {
		in, st := decode(f.Insns[i*8:]), state[i]
		var text, note string
		switch in.code {
		case opLoad:
			text, note = fmt.Sprintf("ld [%d]", in.k), wordName(in.k, st.token)
			pass(i+1, held{off: in.k, token: st.token})
		case opAnd:
			text = fmt.Sprintf("and #%#x", in.k)
			pass(i+1, st)
		case opRet:
			text = "ret " + actionName(in.k)
		case opJump:
			text = fmt.Sprintf("ja %d", i+1+int(in.k))
			pass(i+1+int(in.k), st)
		case opJeq, opJgt, opJge, opJset:
			yes, no := i+1+int(in.jt), i+1+int(in.jf)
			text = fmt.Sprintf("%s #%s ? %d : %d", jumpName(in.code), constant(st, in.k), yes, no)
			note = meaning(st, in.k)
			h := st
			if st.off == offArch && in.code == opJeq {
				h.token = in.k
			}
			pass(yes, h)
			pass(no, st)
		default:
			text = fmt.Sprintf("code %#x jt %d jf %d k %#x", in.code, in.jt, in.jf, in.k)
		}
		if note != "" {
			fmt.Fprintf(&b, "%4d: %-32s // %s\n", i, text, note)
		} else {
			fmt.Fprintf(&b, "%4d: %s\n", i, text)
		}
	}
	return b.String()
}

func jumpName(code uint16) string {
	switch code {
	case opJeq:
		return "jeq"
	case opJgt:
		return "jgt"
	case opJge:
		return "jge"
	}
	return "jset"
}

func constant(st held, k uint32) string {
	if st.off == offNr && k < x32Bit {
		return fmt.Sprint(k)
	}
	return fmt.Sprintf("%#x", k)
}

// wordName names a word of seccomp_data.
func wordName(off, token uint32) string {
	switch {
	case off == offNr:
		return "system call number"
	case off == offArch:
		return "architecture"
	}
	high := off&4 != 0
	for i := range archs {
		if archs[i].token == token && archs[i].big {
			high = !high
		}
	}
	if high {
		return fmt.Sprintf("args[%d] high", (off-offArgs)/8)
	}
	return fmt.Sprintf("args[%d] low", (off-offArgs)/8)
}

// meaning explains the constant of a comparison: an architecture or a system call.
func meaning(st held, k uint32) string {
	if !st.known || st.off > offArch {
		return ""
	}
	for i := range archs {
		a := &archs[i]
		switch {
		case st.off == offArch && a.token == k:
			return strings.TrimPrefix(a.scmp, "SCMP_ARCH_")
		case st.off == offNr && a.token == st.token:
			if s := a.name(k); s != "" {
				return s
			}
			if a.scmp == "SCMP_ARCH_X32" && k&x32Bit != 0 {
				return "x32"
			}
		}
	}
	return ""
}

// actionName is the text of a return value: the action and, where it has one, its data.
func actionName(ret uint32) string {
	data := ret &^ retActionMask
	switch ret & retActionMask {
	case retKillProcess:
		return "KILL_PROCESS"
	case retKillThread:
		return "KILL_THREAD"
	case retTrap:
		return "TRAP"
	case retErrno:
		if s := unix.ErrnoName(unix.Errno(data)); s != "" {
			return "ERRNO(" + s + ")"
		}
		return fmt.Sprintf("ERRNO(%d)", data)
	case retNotify:
		return "NOTIFY"
	case retTrace:
		return fmt.Sprintf("TRACE(%d)", data)
	case retLog:
		return "LOG"
	case retAllow:
		return "ALLOW"
	}
	return fmt.Sprintf("%#x", ret)
}
