package seccomp

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// Observed returns the filter with a listener that is asked about every call
// that f answers with an errno or a kill. Whoever has the listener must answer
// as f would; when nobody has it, the kernel answers ENOSYS. No call runs that f
// would have kept from running. write(2) must be allowed by f, because the
// process that loads the filter has to say where the listener is.
func (f *Filter) Observed(goarch string) (*Filter, error) {
	if f.Flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 {
		return nil, errors.New("the profile has SCMP_ACT_NOTIFY rules, and a process can have one listener only: its agent is told of those calls")
	}
	native := nativeArch(goarch)
	nr, _ := SyscallNumber(goarch, "write")
	if action, _, err := simulate(f, data{nr: uint32(nr), arch: native.token}); err != nil || restrictive(action) {
		return nil, errors.New("the profile does not allow write, which is needed to say where denied calls are told of")
	}
	o := &Filter{Insns: append([]byte(nil), f.Insns...), Flags: f.Flags | unix.SECCOMP_FILTER_FLAG_NEW_LISTENER}
	for i := 0; i < len(o.Insns); i += 8 {
		in := decode(o.Insns[i:])
		if in.code == opRet && answerable(in.k) {
			binary.NativeEndian.PutUint32(o.Insns[i+4:], retNotify)
		}
	}
	return o, nil
}

// answerable reports whether an action can be carried out by who has the
// listener: an errno is an answer, and a kill is a signal. SIGSYS of
// SCMP_ACT_TRAP is not: the process may handle it, and see who called.
func answerable(action uint32) bool {
	switch action & retActionMask {
	case retErrno, retKillThread, retKillProcess:
		return true
	}
	return false
}
