package initprog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
)

// RecordSize is the length of a record that a program writes to its sync
// descriptor: two words. {0, n} is progress (n is for the sender to choose),
// anything else {address of the op, errno} a failure.
const RecordSize = 16

// A StepError is a failure inside the init program, in words.
type StepError struct {
	Phase   string        // stage of the set-up: "mounts"
	Object  string        // what it was about: "/proc"
	Syscall string        // the call that failed: "fsopen"
	Detail  string        // what completes the call's name; may be empty
	Op      int           // number of the op in the program
	Err     syscall.Errno // the cause
}

func (e *StepError) Error() string {
	var s strings.Builder
	for _, p := range []string{e.Phase, e.Object} {
		if p != "" {
			s.WriteString(p)
			s.WriteString(": ")
		}
	}
	s.WriteString(e.Syscall)
	if e.Detail != "" && e.Detail != e.Object {
		s.WriteString(" " + printable(e.Detail))
	}
	s.WriteString(": ")
	s.WriteString(e.Err.Error())
	return s.String()
}

// printable keeps an error on one line of a sensible length: a detail may be
// what was written to a file.
func printable(s string) string {
	const limit = 200
	cut := ""
	if len(s) > limit {
		s, cut = s[:limit], "..."
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return strconv.Quote(s) + cut
		}
	}
	return s + cut
}

func (e *StepError) Unwrap() error { return e.Err }

// A Record is what a program reported.
type Record struct{ Address, Value uint64 }

// ParseRecord decodes RecordSize bytes.
func ParseRecord(p []byte) Record {
	return Record{binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])}
}

// Progress reports whether the record is a sign of progress.
func (r Record) Progress() bool { return r.Address == 0 }

// Failure puts the failure r of a process that ran m into words.
func (m *Image) Failure(r Record) error {
	i := (r.Address - m.opStart) / uint64(opSize)
	if r.Address < m.opStart || i >= uint64(len(m.meta)) || (r.Address-m.opStart)%uint64(opSize) != 0 {
		return fmt.Errorf("container init sent a record that matches no op: %#x, %d", r.Address, r.Value)
	}
	return m.stepError(int(i), syscall.Errno(r.Value))
}

func (m *Image) stepError(i int, errno syscall.Errno) *StepError {
	n := i
	if m.ops[i].nr == pseudoCountdown && i > 0 { // what failed again and again is the op before
		n--
	}
	nr, meta := m.ops[n].nr, &m.meta[n]
	s := m.subjects[meta.subject]
	e := &StepError{Phase: s.phase, Object: s.object, Syscall: SyscallName(nr), Detail: meta.detail, Op: i, Err: errno}
	if nr >= pseudoValue && meta.detail != "" { // its detail says what is wrong
		e.Syscall, e.Detail = meta.detail, ""
	}
	return e
}

// Pending lists, for every op from number from on, the failure it would report,
// so that it can be kept for a process that outlives this one.
func (m *Image) Pending(from int) []PendingOp {
	var ops []PendingOp
	for i := from; i < len(m.meta); i++ {
		e := m.stepError(i, 0)
		ops = append(ops, PendingOp{m.opStart + uint64(i*opSize), e.Phase, e.Object, e.Syscall, e.Detail})
	}
	return ops
}

// A PendingOp is an op that a waiting process has still to do.
type PendingOp struct {
	Address                        uint64
	Phase, Object, Syscall, Detail string
}

// Failure puts the failure of the op into words.
func (p PendingOp) Failure(errno syscall.Errno) error {
	return &StepError{Phase: p.Phase, Object: p.Object, Syscall: p.Syscall, Detail: p.Detail, Op: -1, Err: errno}
}

// IsStep returns the failure of an init program in err's chain, or nil.
func IsStep(err error) *StepError {
	var e *StepError
	if errors.As(err, &e) {
		return e
	}
	return nil
}
