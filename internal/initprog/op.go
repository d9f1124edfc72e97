package initprog

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Addresses in the process that runs a program. Both segments lie below 4 GiB,
// so that a jump target fits into 32 bits.
const (
	textBase = 0x400000 // ELF header, interpreter, ops: read and execute
	dataBase = 0x800000 // header, then data: read and write

	// The header at dataBase: what the interpreter needs to know.
	headerFirst  = dataBase      // address of the first op
	headerSync   = dataBase + 8  // descriptor that failures are reported to; an ordinary slot
	headerRecord = dataBase + 16 // the record it reports: op address, errno
	headerSize   = 32
)

// An op is one system call with everything the interpreter has to know about
// it. The layout is shared with interp_*.s.
type op struct {
	nr      uint32     // system call number, or one of the pseudo calls below
	load    uint32     // bit i: argument i is the address of the value, not the value
	args    [6]uint64  //
	store   uint64     // address that receives the result, errors included; 0: nowhere
	zero    uint32     // address of the next op when the result is 0
	nonzero uint32     // address of the next op when the result is positive
	on      [3]errJump // what to do for these errors; any other error ends the program
}

type errJump struct{ errno, to uint32 }

const opSize = int(unsafe.Sizeof(op{})) // 96; interp_*.s depends on it

// Pseudo calls: handled by the interpreter without entering the kernel.
const (
	// pseudoValue has its first argument as result. It moves words between
	// slots, jumps, and with a negative errno it fails.
	pseudoValue = 0x10000
	// pseudoCountdown takes its second argument from the word that its first one
	// points to. The result is what is left, or -EAGAIN once nothing is. It
	// bounds retries and measures files.
	pseudoCountdown = 0x10001
)

// anyErrno in on[0] matches every error that no other pair matches.
const anyErrno = ^uint32(0)

// outcomes reports which kinds of success the op can have: exit_group and execve
// do not return, and the result of a constant is known.
func (o *op) outcomes() (zero, nonzero bool) {
	switch {
	case o.nr == unix.SYS_EXIT_GROUP, o.nr == unix.SYS_EXECVE:
		return false, false
	case o.nr == pseudoCountdown:
		return false, true
	case o.nr == pseudoValue && o.load&1 == 0:
		v := o.args[0]
		return v == 0, v != 0 && v < ^uint64(4094)
	}
	return true, true
}
