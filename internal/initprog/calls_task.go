package initprog

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// Calls for what a process inherits and keeps beyond execve(2): how it is
// scheduled, where its memory comes from, what machine it sees.

// SchedSetattr sets policy and parameters of this process; see sched_setattr(2).
func (b *Builder) SchedSetattr(a *unix.SchedAttr) Ref {
	p := b.Words(
		uint64(unix.SizeofSchedAttr)|uint64(a.Policy)<<32, a.Flags,
		uint64(uint32(a.Nice))|uint64(a.Priority)<<32,
		a.Runtime, a.Deadline, a.Period, 0)
	return b.add(unix.SYS_SCHED_SETATTR, "", Const(0), p, Const(0))
}

// SchedSetaffinity lets this process run on the processors in mask alone, a bit
// for each in the order of the kernel's masks.
func (b *Builder) SchedSetaffinity(mask []byte) Ref {
	return b.add(unix.SYS_SCHED_SETAFFINITY, "", Const(0), Const(uint64(len(mask))), b.Bytes(mask))
}

// IoprioSet sets the I/O priority of this process; see ioprio_set(2).
func (b *Builder) IoprioSet(class, priority uint64) Ref {
	const who, shift = 1, 13 // IOPRIO_WHO_PROCESS, IOPRIO_CLASS_SHIFT
	return b.add(unix.SYS_IOPRIO_SET, "", Const(who), Const(0), Const(class<<shift|priority))
}

// SetMempolicy sets where the memory of this process comes from; nodes has a bit
// for each node. See set_mempolicy(2).
func (b *Builder) SetMempolicy(mode uint64, nodes []byte) Ref {
	if len(nodes) == 0 {
		return b.add(unix.SYS_SET_MEMPOLICY, "", Const(mode), Const(0), Const(0))
	}
	// The kernel reads one bit less than it is told.
	return b.add(unix.SYS_SET_MEMPOLICY, "", Const(mode), b.Bytes(nodes), Const(uint64(8*len(nodes)+1)))
}

// Personality sets the execution domain; see personality(2).
func (b *Builder) Personality(domain uint64) Ref {
	return b.add(unix.SYS_PERSONALITY, "", Const(domain))
}

// task is what these calls have at the address n: a struct sched_attr, or a mask
// whose size is in another argument.
func (l *lister) task(kind byte, n uint64, o *Op) (string, bool) {
	if kind == 'T' {
		return l.words(n, 7, func(_ []string, v []uint64) string {
			s := "{policy=" + strconv.FormatUint(v[0]>>32, 10) + ", nice=" + strconv.Itoa(int(int32(v[2])))
			for i, name := range [...]string{"flags", "priority", "runtime", "deadline", "period"} {
				if f := [...]uint64{v[1], v[2] >> 32, v[3], v[4], v[5]}[i]; f != 0 {
					s += ", " + name + "=" + strconv.FormatUint(f, 10)
				}
			}
			return s + "}"
		})
	}
	size := o.Args[1]
	if o.Number == unix.SYS_SET_MEMPOLICY {
		size = Const(o.Args[2].bits / 8)
	}
	if n == 0 || size.load {
		return "", false
	}
	mask := l.at(n, size.bits)
	for len(mask) > 0 && mask[len(mask)-1] == 0 {
		mask = mask[:len(mask)-1]
	}
	s := ""
	for i := len(mask) - 1; i >= 0; i-- {
		s += strconv.FormatUint(0x100|uint64(mask[i]), 16)[1:]
	}
	return "[0x" + s + "]", mask != nil
}
