package seccomp

import "fmt"

// data is struct seccomp_data without the instruction pointer.
type data struct {
	nr, arch uint32
	args     [6]uint64
}

// word is what "ld [off]" reads on a machine of the byte order of d.arch.
func (d *data) word(off uint32) (uint32, error) {
	switch {
	case off == 0:
		return d.nr, nil
	case off == 4:
		return d.arch, nil
	case off < 16 || off > 60 || off%4 != 0:
		return 0, fmt.Errorf("load of offset %d", off)
	}
	v := d.args[(off-16)/8]
	high := off%8 == 4
	if bigEndian(d.arch) {
		high = !high
	}
	if high {
		v >>= 32
	}
	return uint32(v), nil
}

// bigEndian is decided by __AUDIT_ARCH_LE alone (include/uapi/linux/audit.h).
func bigEndian(token uint32) bool { return token&0x40000000 == 0 }

// Allows reports whether the filter lets a call of the machine's own ABI pass: it
// is neither denied nor told to anybody.
func (f *Filter) Allows(goarch string, nr uint32, args ...uint64) bool {
	a := nativeArch(goarch)
	if a == nil {
		return false
	}
	d := data{nr: nr, arch: a.token}
	copy(d.args[:], args)
	action, _, err := simulate(f, d)
	return err == nil && action&retActionMask == retAllow
}

// simulate runs a program as the kernel does and returns the action and the number of instructions executed. It refuses
// what bpf_check_classic and seccomp_check_filter refuse.
func simulate(f *Filter, d data) (action uint32, steps int, err error) {
	n := f.Len()
	if n == 0 || n > 4096 || len(f.Insns)%8 != 0 {
		return 0, 0, fmt.Errorf("%d instructions", n)
	}
	var a uint32
	for pc := 0; ; {
		if pc >= n {
			return 0, steps, fmt.Errorf("jump to %d of %d", pc, n)
		}
		in := decode(f.Insns[pc*8:])
		steps++
		pc++
		jump := func(c bool) {
			if c {
				pc += int(in.jt)
			} else {
				pc += int(in.jf)
			}
		}
		switch in.code {
		case 0x20:
			if a, err = d.word(in.k); err != nil {
				return 0, steps, err
			}
		case 0x54:
			a &= in.k
		case 0x06:
			return in.k, steps, nil
		case 0x05:
			pc += int(in.k)
		case 0x15:
			jump(a == in.k)
		case 0x25:
			jump(a > in.k)
		case 0x35:
			jump(a >= in.k)
		case 0x45:
			jump(a&in.k != 0)
		default:
			return 0, steps, fmt.Errorf("instruction %#x", in.code)
		}
	}
}
