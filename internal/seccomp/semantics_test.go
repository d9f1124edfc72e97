package seccomp

import (
	"slices"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// The evaluator below states the semantics of a profile as plainly as possible, rule by rule; it shares with the
// compiler only the tables of numbers. FuzzCompile compares the two.

var actionValue = map[specs.LinuxSeccompAction]uint32{
	specs.ActKill: 0, specs.ActKillThread: 0, specs.ActKillProcess: 0x80000000, specs.ActTrap: 0x30000,
	specs.ActErrno: 0x50000, specs.ActTrace: 0x7ff00000, specs.ActAllow: 0x7fff0000, specs.ActLog: 0x7ffc0000,
	specs.ActNotify: 0x7fc00000,
}

var strictness = []specs.LinuxSeccompAction{
	specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActErrno, specs.ActNotify, specs.ActTrace, specs.ActLog, specs.ActAllow,
}

func value(a specs.LinuxSeccompAction, errnoRet *uint) uint32 {
	v := actionValue[a]
	if a == specs.ActErrno || a == specs.ActTrace {
		if errnoRet != nil {
			return v | uint32(*errnoRet)
		}
		return v | 1
	}
	return v
}

func stricter(a, b specs.LinuxSeccompAction) bool {
	rank := func(x specs.LinuxSeccompAction) int {
		if x == specs.ActKill {
			x = specs.ActKillThread
		}
		return slices.Index(strictness, x)
	}
	return rank(a) < rank(b)
}

// abi finds the architecture of a call among those of the filter.
func abi(p *specs.LinuxSeccomp, goarch string, d data) *arch {
	native := nativeArch(goarch).scmp
	for i := range archs {
		a := &archs[i]
		isX32 := a.scmp == "SCMP_ARCH_X32"
		if a.token != d.arch || a.table == nil {
			continue
		}
		if a.token == 0xc000003e && isX32 != (d.nr&(1<<30) != 0 || d.nr >= 1<<31) && d.nr != 1<<32-1 {
			continue
		}
		if d.nr == 1<<32-1 && isX32 {
			continue
		}
		if a.scmp == native || slices.Contains(p.Architectures, specs.Arch(a.scmp)) {
			return a
		}
	}
	return nil
}

// byName has the numbers of all names of an architecture.
var byName = sync.OnceValue(func() map[*arch]map[string]uint32 {
	m := map[*arch]map[string]uint32{}
	for i := range archs {
		a := &archs[i]
		m[a] = map[string]uint32{}
		for id := range nameCount {
			if a.table != nil && a.table[id] != noSlot {
				m[a][nameAt(id)] = a.number(int(a.table[id]))
			}
		}
	}
	return m
})

func numberOn(a *arch, name string) (uint32, bool) {
	nr, ok := byName()[a][name]
	return nr, ok
}

func isSocketName(name string) bool { return subCalls[name] != 0 && subCalls[name] < 100 }

// Numbers of <linux/net.h> and, plus 100, of <linux/ipc.h>.
var subCalls = map[string]uint64{
	"socket": 1, "bind": 2, "connect": 3, "listen": 4, "accept": 5, "getsockname": 6, "getpeername": 7, "socketpair": 8,
	"send": 9, "recv": 10, "sendto": 11, "recvfrom": 12, "shutdown": 13, "setsockopt": 14, "getsockopt": 15,
	"sendmsg": 16, "recvmsg": 17, "accept4": 18, "recvmmsg": 19, "sendmmsg": 20,
	"semop": 101, "semget": 102, "semctl": 103, "semtimedop": 104, "msgsnd": 111, "msgrcv": 112, "msgget": 113,
	"msgctl": 114, "shmat": 121, "shmdt": 122, "shmget": 123, "shmctl": 124,
}

func holds(a *arch, c specs.LinuxSeccompArg, args [6]uint64) bool {
	x := args[c.Index]
	fit := func(v uint64) uint64 {
		if !a.wide && v >= 0xffffffff80000000 {
			return uint64(uint32(v)) // -1 and the like
		}
		return v
	}
	switch v := fit(c.Value); c.Op {
	case specs.OpEqualTo:
		return x == v
	case specs.OpNotEqual:
		return x != v
	case specs.OpLessThan:
		return x < v
	case specs.OpLessEqual:
		return x <= v
	case specs.OpGreaterThan:
		return x > v
	case specs.OpGreaterEqual:
		return x >= v
	default:
		return x&c.Value == fit(c.ValueTwo&c.Value)
	}
}

func matches(a *arch, args []specs.LinuxSeccompArg, d data) bool {
	repeated := false
	for i := range args {
		for j := range args[:i] {
			repeated = repeated || args[i].Index == args[j].Index
		}
	}
	if repeated {
		return slices.ContainsFunc(args, func(c specs.LinuxSeccompArg) bool { return holds(a, c, d.args) })
	}
	for _, c := range args {
		if !holds(a, c, d.args) {
			return false
		}
	}
	return true
}

// region tells the numbers that an ABI keeps apart from the common ones.
func region(a *arch, nr uint32) int {
	switch {
	case a.scmp == "SCMP_ARCH_X32" && nr != 1<<32-1 && nr&^(1<<30) >= 512:
		return 1
	case a.scmp == "SCMP_ARCH_ARM" && nr >= 0xf0000:
		return 1
	}
	return 0
}

type newestKey struct {
	p *specs.LinuxSeccomp
	a *arch
}

var newestCache sync.Map // newestKey to [2]int64

// newest returns the highest number in each region that the profile names, or -1. A sub-call names its multiplexer.
func newest(p *specs.LinuxSeccomp, a *arch) [2]int64 {
	if top, ok := newestCache.Load(newestKey{p, a}); ok {
		return top.([2]int64)
	}
	top := [2]int64{-1, -1}
	for _, s := range p.Syscalls {
		for _, name := range s.Names {
			if nr, ok := numberOn(a, name); ok {
				r := region(a, nr)
				top[r] = max(top[r], int64(nr))
			}
			mux := "ipc"
			if isSocketName(name) {
				mux = "socketcall"
			}
			if nr, ok := numberOn(a, mux); ok && a.muxes && subCalls[name] != 0 {
				top[0] = max(top[0], int64(nr))
			}
		}
	}
	newestCache.Store(newestKey{p, a}, top)
	return top
}

// evaluate is the action of a profile for one call on a machine of architecture goarch.
func evaluate(p *specs.LinuxSeccomp, goarch string, d data) uint32 {
	a := abi(p, goarch, d)
	if a == nil {
		return 0x80000000
	}
	if !a.wide {
		for i := range d.args {
			d.args[i] &= 0xffffffff
		}
	}
	def := value(p.DefaultAction, p.DefaultErrnoRet)

	// Newer than the profile?
	top := newest(p, a)
	r := region(a, d.nr)
	if top[r] < 0 {
		if r == 1 && top[0] >= 0 {
			r = 0 // nothing of the second region is named: it is all above the first
		}
	}
	if top[r] >= 0 && int64(d.nr) > top[r] {
		switch p.DefaultAction {
		case specs.ActAllow, specs.ActLog, specs.ActTrace:
			return def
		}
		return 0x50000 | 38
	}

	// Rules equal to the default do not count. One without conditions beats those with.
	muxed := func(name, mux string) bool {
		nr, ok := numberOn(a, mux)
		if !ok || !a.muxes || nr != d.nr || subCalls[name] == 0 || isSocketName(name) != (mux == "socketcall") {
			return false
		}
		if mux == "ipc" {
			return d.args[0]&0xffff == subCalls[name]-100
		}
		return d.args[0]&0xffffffff == subCalls[name]
	}
	byNumber := byName()[a]
	mux := a.muxes && (d.nr == byNumber["socketcall"] || d.nr == byNumber["ipc"])
	result := def
	decided := false
	for _, s := range p.Syscalls {
		v := value(s.Action, s.ErrnoRet)
		if v == def {
			continue
		}
		for _, name := range s.Names {
			if nr, ok := byNumber[name]; ok && nr == d.nr {
				if len(s.Args) == 0 {
					return v
				}
				if !decided && matches(a, s.Args, d) {
					result, decided = v, true
				}
			}
			if mux && muxed(name, "socketcall") || mux && muxed(name, "ipc") {
				if !decided && (len(s.Args) == 0 || stricter(s.Action, p.DefaultAction)) {
					result, decided = v, true
				}
			}
		}
	}
	if result == def && a.scmp == "SCMP_ARCH_S390X" && d.nr == 0 && top[0] >= 0 && !decided {
		switch p.DefaultAction {
		case specs.ActAllow, specs.ActLog, specs.ActTrace:
		default:
			return 0x50000 | 38
		}
	}
	return result
}
