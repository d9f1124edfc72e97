package seccomp

import (
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Return values of a filter (include/uapi/linux/seccomp.h).
const (
	retKillProcess = unix.SECCOMP_RET_KILL_PROCESS
	retKillThread  = unix.SECCOMP_RET_KILL_THREAD
	retTrap        = unix.SECCOMP_RET_TRAP
	retErrno       = unix.SECCOMP_RET_ERRNO
	retNotify      = unix.SECCOMP_RET_USER_NOTIF
	retTrace       = unix.SECCOMP_RET_TRACE
	retLog         = unix.SECCOMP_RET_LOG
	retAllow       = unix.SECCOMP_RET_ALLOW
	retActionMask  = unix.SECCOMP_RET_ACTION_FULL
)

// Limits of the kernel: the largest errno a filter can return (MAX_ERRNO) and the data of SECCOMP_RET_TRACE.
const (
	maxErrno = 4095
	maxTrace = 0xffff
)

// rule is one entry of linux.seccomp.syscalls after validation.
type rule struct {
	ret    uint32
	lo, hi int // its names are compiler.ids[lo:hi]
	args   []specs.LinuxSeccompArg
	split  bool // conditions repeat an argument: each one is a rule of its own
	skip   bool // same as the default action
}

// errorText is an error that needs no initialization when the program starts.
type errorText string

func (e errorText) Error() string { return string(e) }

const errUnknown = errorText("unknown value")

// bad is an error at a JSON path of the profile.
func bad(path string, value any, err error) error {
	return fmt.Errorf("linux.seccomp.%s: %w %q", path, err, fmt.Sprint(value))
}

// action translates an action and its errno (which may be nil) to a return value. field says what was wrong: the
// action itself (false) or the errno (true).
func action(act specs.LinuxSeccompAction, errnoRet *uint) (ret uint32, inErrno bool, err error) {
	limit := uint(0)
	switch act {
	case specs.ActKill, specs.ActKillThread:
		ret = retKillThread
	case specs.ActKillProcess:
		ret = retKillProcess
	case specs.ActTrap:
		ret = retTrap
	case specs.ActErrno:
		ret, limit = retErrno, maxErrno
	case specs.ActTrace:
		ret, limit = retTrace, maxTrace
	case specs.ActAllow:
		ret = retAllow
	case specs.ActLog:
		ret = retLog
	case specs.ActNotify:
		ret = retNotify
	default:
		return 0, false, errUnknown
	}
	if errnoRet == nil {
		if limit != 0 {
			ret |= uint32(unix.EPERM)
		}
		return ret, false, nil
	}
	if limit == 0 {
		return 0, true, fmt.Errorf("action %s takes no errno, have", act)
	}
	if *errnoRet > limit {
		return 0, true, fmt.Errorf("larger than %d:", limit)
	}
	return ret | uint32(*errnoRet), false, nil
}

// parse validates the profile: default action, flags and rules. Names become numbers of the name table; a name that no
// architecture has is dropped.
func (c *compiler) parse(p *specs.LinuxSeccomp) error {
	def, inErrno, err := action(p.DefaultAction, p.DefaultErrnoRet)
	switch {
	case err != nil && inErrno:
		return bad("defaultErrnoRet", *p.DefaultErrnoRet, err)
	case err != nil:
		return bad("defaultAction", p.DefaultAction, err)
	case def == retNotify:
		// The process that loads the filter could not even hand over the listener.
		return bad("defaultAction", p.DefaultAction, errors.New("not possible as default:"))
	}
	c.def = def

	names := 0
	for i := range p.Syscalls {
		names += len(p.Syscalls[i].Names)
	}
	c.ids = make([]uint16, 0, names)
	c.rules = make([]rule, 0, len(p.Syscalls))
	notify := false
	for i := range p.Syscalls {
		s := &p.Syscalls[i]
		ret, inErrno, err := action(s.Action, s.ErrnoRet)
		switch {
		case err != nil && inErrno:
			return bad(fmt.Sprintf("syscalls[%d].errnoRet", i), *s.ErrnoRet, err)
		case err != nil:
			return bad(fmt.Sprintf("syscalls[%d].action", i), s.Action, err)
		}
		r := rule{ret: ret, lo: len(c.ids), args: s.Args, skip: ret == def}
		if r.split, err = checkArgs(i, s.Args); err != nil {
			return err
		}
		for j, name := range s.Names {
			if name == "" {
				return bad(fmt.Sprintf("syscalls[%d].names[%d]", i, j), name, errors.New("empty name"))
			}
			if ret == retNotify && name == "write" {
				return bad(fmt.Sprintf("syscalls[%d].names[%d]", i, j), name, errors.New("SCMP_ACT_NOTIFY cannot be used for"))
			}
			if id := lookupName(name); id >= 0 {
				c.ids = append(c.ids, uint16(id))
			}
		}
		r.hi = len(c.ids)
		notify = notify || ret == retNotify
		c.rules = append(c.rules, r)
	}
	if p.ListenerMetadata != "" && p.ListenerPath == "" {
		return bad("listenerMetadata", p.ListenerMetadata, errors.New("not allowed without listenerPath:"))
	}
	if notify && p.ListenerPath == "" {
		return bad("listenerPath", "", errors.New("SCMP_ACT_NOTIFY needs a path, have"))
	}
	c.flags, err = flags(p.Flags, notify)
	return err
}

// checkArgs validates the conditions of rule i and reports whether an argument has several.
func checkArgs(i int, args []specs.LinuxSeccompArg) (repeats bool, err error) {
	seen := uint(0)
	for j := range args {
		a := &args[j]
		if a.Index > 5 {
			return false, bad(fmt.Sprintf("syscalls[%d].args[%d].index", i, j), a.Index, errors.New("a system call has arguments 0 to 5, not"))
		}
		switch a.Op {
		case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual:
		default:
			return false, bad(fmt.Sprintf("syscalls[%d].args[%d].op", i, j), a.Op, errUnknown)
		}
		repeats = repeats || seen&(1<<a.Index) != 0
		seen |= 1 << a.Index
	}
	return repeats, nil
}

// flags translates linux.seccomp.flags to SECCOMP_FILTER_FLAG_*. Absent flags mean SPEC_ALLOW, as in runc: without it
// every process in the container runs with the mitigation for speculative store bypass, which costs some percent.
func flags(list []specs.LinuxSeccompFlag, notify bool) (uint64, error) {
	var f uint64
	if list == nil {
		f = unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	}
	for i, s := range list {
		switch s {
		case "SECCOMP_FILTER_FLAG_TSYNC":
			// The thread that loads the filter is the only one of its process: nothing to synchronize, and together with
			// NEW_LISTENER the kernel would refuse it.
		case specs.LinuxSeccompFlagLog:
			f |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			f |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case specs.LinuxSeccompFlagWaitKillableRecv:
			if notify { // EINVAL without a listener
				f |= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
			}
		default:
			return 0, bad(fmt.Sprintf("flags[%d]", i), s, errUnknown)
		}
	}
	if notify {
		f |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	return f, nil
}
