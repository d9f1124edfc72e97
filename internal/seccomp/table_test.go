package seccomp

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const amd64Token, i386Token = 0xc000003e, 0x40000003

func TestCompile_Actions(t *testing.T) {
	tests := []struct {
		action specs.LinuxSeccompAction
		errno  *uint
		want   uint32
	}{
		{"SCMP_ACT_KILL", nil, 0},
		{"SCMP_ACT_KILL_THREAD", nil, 0},
		{"SCMP_ACT_KILL_PROCESS", nil, 0x80000000},
		{"SCMP_ACT_TRAP", nil, 0x30000},
		{"SCMP_ACT_ERRNO", nil, 0x50001},
		{"SCMP_ACT_ERRNO", ptr(0), 0x50000},
		{"SCMP_ACT_ERRNO", ptr(4095), 0x50fff},
		{"SCMP_ACT_TRACE", nil, 0x7ff00001},
		{"SCMP_ACT_TRACE", ptr(0xffff), 0x7ff0ffff},
		{"SCMP_ACT_LOG", nil, 0x7ffc0000},
		{"SCMP_ACT_NOTIFY", nil, 0x7fc00000},
		{"SCMP_ACT_ALLOW", nil, 0x7fff0000},
	}
	for _, tt := range tests {
		def := specs.LinuxSeccompAction("SCMP_ACT_TRAP")
		if tt.action == def {
			def = "SCMP_ACT_LOG"
		}
		f := mustCompile(t, profile(def, specs.LinuxSyscall{Names: []string{"getpid"}, Action: tt.action, ErrnoRet: tt.errno}), "amd64")
		if got := run(t, f, data{nr: 39, arch: amd64Token}); got != tt.want {
			t.Errorf("%s: got %#x, want %#x", tt.action, got, tt.want)
		}
		if got := run(t, f, data{nr: 38, arch: amd64Token}); got != actionValue[def] {
			t.Errorf("%s: default action: got %#x", tt.action, got)
		}
		if listener := f.Flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0; listener != (tt.action == "SCMP_ACT_NOTIFY") {
			t.Errorf("%s: listener %v", tt.action, listener)
		}
		if tt.action == "SCMP_ACT_NOTIFY" {
			continue
		}
		f = mustCompile(t, &specs.LinuxSeccomp{DefaultAction: tt.action, DefaultErrnoRet: tt.errno}, "amd64")
		if got := run(t, f, data{nr: 39, arch: amd64Token}); got != tt.want {
			t.Errorf("default %s: got %#x, want %#x", tt.action, got, tt.want)
		}
	}
}

// Every operator against values around its operand, on a 64-bit and a 32-bit ABI, with a neighbour rule and alone.
func TestCompile_Operators(t *testing.T) {
	values := []uint64{0, 1, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff, 1 << 32, 1<<32 | 1, 1<<33 - 1, 1 << 63, 1<<64 - 2, 1<<64 - 1}
	ops := map[specs.LinuxSeccompOperator]func(x, v, w uint64) bool{
		"SCMP_CMP_NE": func(x, v, _ uint64) bool { return x != v }, "SCMP_CMP_EQ": func(x, v, _ uint64) bool { return x == v },
		"SCMP_CMP_LT": func(x, v, _ uint64) bool { return x < v }, "SCMP_CMP_LE": func(x, v, _ uint64) bool { return x <= v },
		"SCMP_CMP_GT": func(x, v, _ uint64) bool { return x > v }, "SCMP_CMP_GE": func(x, v, _ uint64) bool { return x >= v },
		"SCMP_CMP_MASKED_EQ": func(x, v, w uint64) bool { return x&v == w&v },
	}
	for op, want := range ops {
		for _, v := range values {
			for index := range uint(6) {
				one := deny(9, "read", arg(index, op, v, v/2))
				other := deny(10, "read", arg(index, specs.OpEqualTo, 123456))
				for _, rules := range [][]specs.LinuxSyscall{{one}, {one, other}} {
					p := profile(specs.ActAllow, rules...)
					p.Architectures = []specs.Arch{specs.ArchX86, specs.ArchS390X}
					f := mustCompile(t, p, "amd64")
					for _, x := range append(values, v+1, v-1, v/2, 123456) {
						d := data{arch: amd64Token}
						d.args[index] = x
						s390 := data{arch: 0x80000016, nr: 3, args: d.args}
						i386 := data{arch: i386Token, nr: 3}
						i386.args[index] = x & 0xffffffff
						for _, d := range []data{d, s390, i386} {
							v, x := v, d.args[index]
							if d.arch == i386Token && op != "SCMP_CMP_MASKED_EQ" && v >= 0xffffffff80000000 {
								v &= 0xffffffff
							}
							if op == "SCMP_CMP_MASKED_EQ" && d.arch == i386Token && v >= 1<<63 {
								continue // covered by FuzzCompile
							}
							expect := uint32(retAllow)
							switch {
							case want(x, v, v/2):
								expect = retErrno | 9
							case len(rules) > 1 && x == 123456:
								expect = retErrno | 10
							}
							if got := run(t, f, d); got != expect {
								t.Fatalf("args[%d] = %#x %s %#x on %#x: got %s, want %s\n%s", index, x, op, v, d.arch, actionName(got),
									actionName(expect), Disassemble(f))
							}
						}
					}
				}
			}
		}
	}
}

// Rules of one call: AND within an entry, OR between entries, an argument named twice makes an OR, no conditions win.
func TestCompile_Rules(t *testing.T) {
	eq := func(i uint, v uint64) specs.LinuxSeccompArg { return arg(i, specs.OpEqualTo, v) }
	read := func(a0, a1 uint64) data { return data{arch: amd64Token, args: [6]uint64{a0, a1}} }
	tests := []struct {
		name  string
		rules []specs.LinuxSyscall
		call  data
		want  uint32
	}{
		{"and: both", []specs.LinuxSyscall{deny(9, "read", eq(0, 1), eq(1, 2))}, read(1, 2), retErrno | 9},
		{"and: first only", []specs.LinuxSyscall{deny(9, "read", eq(0, 1), eq(1, 2))}, read(1, 3), retAllow},
		{"and: second only", []specs.LinuxSyscall{deny(9, "read", eq(0, 1), eq(1, 2))}, read(3, 2), retAllow},
		{"or: second entry", []specs.LinuxSyscall{deny(9, "read", eq(0, 1)), deny(8, "read", eq(1, 2))}, read(0, 2), retErrno | 8},
		{"or: the first entry decides", []specs.LinuxSyscall{deny(9, "read", eq(0, 1)), deny(8, "read", eq(1, 2))}, read(1, 2), retErrno | 9},
		{"same argument twice: first", []specs.LinuxSyscall{deny(9, "read", eq(0, 1), eq(0, 2))}, read(1, 0), retErrno | 9},
		{"same argument twice: second", []specs.LinuxSyscall{deny(9, "read", eq(0, 1), eq(0, 2))}, read(2, 0), retErrno | 9},
		{"same argument twice: a third condition is a rule too", []specs.LinuxSyscall{deny(9, "read", eq(0, 1), eq(0, 2), eq(1, 7))}, read(5, 7), retErrno | 9},
		{"unconditional after", []specs.LinuxSyscall{deny(9, "read", eq(0, 1)), deny(8, "read")}, read(1, 0), retErrno | 8},
		{"unconditional before", []specs.LinuxSyscall{deny(8, "read"), deny(9, "read", eq(0, 1))}, read(1, 0), retErrno | 8},
		{"two unconditional", []specs.LinuxSyscall{deny(8, "read"), deny(9, "read")}, read(1, 0), retErrno | 8},
		{"same as default is no rule", []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow}, deny(9, "read", eq(0, 1))}, read(1, 0), retErrno | 9},
		{"unknown name", []specs.LinuxSyscall{deny(9, "no_such_call"), deny(8, "read")}, read(0, 0), retErrno | 8},
		{"name of another architecture", []specs.LinuxSyscall{deny(9, "set_tls"), deny(8, "riscv_hwprobe")}, read(0, 0), retAllow},
		{"no names", []specs.LinuxSyscall{{Action: specs.ActKill}}, read(0, 0), retAllow},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := run(t, mustCompile(t, profile(specs.ActAllow, tt.rules...), "amd64"), tt.call); got != tt.want {
				t.Errorf("got %s, want %s", actionName(got), actionName(tt.want))
			}
		})
	}
}

func TestCompile_Architectures(t *testing.T) {
	open := func(archs ...specs.Arch) *specs.LinuxSeccomp {
		p := profile(specs.ActAllow, deny(9, "execve"))
		p.Architectures = archs
		return p
	}
	tests := []struct {
		name   string
		archs  []specs.Arch
		goarch string
		call   data
		want   uint32
	}{
		{"native although not listed", nil, "amd64", data{nr: 59, arch: amd64Token}, retErrno | 9},
		{"other number", nil, "amd64", data{nr: 11, arch: amd64Token}, retAllow},
		{"32 bit not listed", nil, "amd64", data{nr: 20, arch: i386Token}, retKillProcess},
		{"32 bit listed", []specs.Arch{specs.ArchX86}, "amd64", data{nr: 11, arch: i386Token}, retErrno | 9},
		{"x32 not listed", nil, "amd64", data{nr: x32Bit | 39, arch: amd64Token}, retKillProcess},
		{"x32 listed", []specs.Arch{specs.ArchX32}, "amd64", data{nr: x32Bit | 520, arch: amd64Token}, retErrno | 9},
		{"x32 has its own execve", []specs.Arch{specs.ArchX32}, "amd64", data{nr: x32Bit | 59, arch: amd64Token}, retAllow},
		{"x32 number without the bit", []specs.Arch{specs.ArchX32}, "amd64", data{nr: 520, arch: amd64Token}, retAllow},
		{"a tracer's -1 is not x32", nil, "amd64", data{nr: 1<<32 - 1, arch: amd64Token}, retAllow},
		{"listed twice", []specs.Arch{specs.ArchX86_64, specs.ArchX86_64}, "amd64", data{nr: 59, arch: amd64Token}, retErrno | 9},
		{"arm64", []specs.Arch{specs.ArchARM}, "arm64", data{nr: 221, arch: 0xc00000b7}, retErrno | 9},
		{"arm below arm64", []specs.Arch{specs.ArchARM}, "arm64", data{nr: 11, arch: 0x40000028}, retErrno | 9},
		{"mips o32", nil, "mipsle", data{nr: 4011, arch: 0x40000008}, retErrno | 9},
		{"no table for this one: as if not listed", []specs.Arch{specs.ArchS390}, "s390x", data{nr: 11, arch: 0x16}, retKillProcess},
		{"x86_64 below 386", []specs.Arch{specs.ArchX86_64}, "386", data{nr: 59, arch: amd64Token}, retErrno | 9},
		{"x32 alone below 386", []specs.Arch{specs.ArchX32}, "386", data{nr: 39, arch: amd64Token}, retKillProcess},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := run(t, mustCompile(t, open(tt.archs...), tt.goarch), tt.call); got != tt.want {
				t.Errorf("got %s, want %s", actionName(got), actionName(tt.want))
			}
		})
	}
	for _, a := range archs { // each name of the specification is accepted
		mustCompile(t, open(specs.Arch(a.scmp)), "amd64")
	}
}

// Calls newer than the newest that the profile names get ENOSYS, so that a libc takes its fallback.
func TestCompile_NewerThanProfile(t *testing.T) {
	allow := func(names ...string) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: names, Action: specs.ActAllow}
	}
	const nosys, eperm = retErrno | 38, retErrno | 1
	s390 := uint32(0x80000016)
	tests := []struct {
		name   string
		def    specs.LinuxSeccompAction
		errno  *uint
		names  []string
		goarch string
		call   data
		want   uint32
	}{
		{"newer", specs.ActErrno, nil, []string{"read", "clone3"}, "amd64", data{nr: 436, arch: amd64Token}, nosys},
		{"older but not named", specs.ActErrno, nil, []string{"read", "clone3"}, "amd64", data{nr: 434, arch: amd64Token}, eperm},
		{"kill", specs.ActKillProcess, nil, []string{"read", "clone3"}, "amd64", data{nr: 436, arch: amd64Token}, nosys},
		{"trap", specs.ActTrap, nil, []string{"read", "clone3"}, "amd64", data{nr: 436, arch: amd64Token}, nosys},
		{"permissive default", specs.ActLog, nil, []string{"read", "clone3"}, "amd64", data{nr: 436, arch: amd64Token}, retLog},
		{"a tracer emulates", specs.ActTrace, nil, []string{"clone3"}, "amd64", data{nr: 436, arch: amd64Token}, retTrace | 1},
		{"no names", specs.ActErrno, nil, nil, "amd64", data{nr: 436, arch: amd64Token}, eperm},
		{"x32's own numbers do not hide new ones", specs.ActErrno, nil, []string{"clone3", "execve"}, "amd64", data{nr: x32Bit | 436, arch: amd64Token}, nosys},
		{"x32's own numbers", specs.ActErrno, nil, []string{"clone3", "execve"}, "amd64", data{nr: x32Bit | 519, arch: amd64Token}, eperm},
		{"above x32's own numbers", specs.ActErrno, nil, []string{"clone3", "execve"}, "amd64", data{nr: x32Bit | 521, arch: amd64Token}, nosys},
		{"private Arm calls do not hide new ones", specs.ActErrno, nil, []string{"clone3", "set_tls"}, "arm", data{nr: 436, arch: 0x40000028}, nosys},
		{"private Arm call", specs.ActErrno, nil, []string{"clone3", "set_tls"}, "arm", data{nr: 0xf0005, arch: 0x40000028}, retAllow},
		{"private Arm call not named", specs.ActErrno, nil, []string{"clone3", "set_tls"}, "arm", data{nr: 0xf0002, arch: 0x40000028}, eperm},
		{"s390x hides unknown numbers behind 0", specs.ActErrno, nil, []string{"clone3"}, "s390x", data{nr: 0, arch: s390}, nosys},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := profile(tt.def, allow(tt.names...))
			p.DefaultErrnoRet = tt.errno
			p.Architectures = []specs.Arch{specs.ArchX32}
			f := mustCompile(t, p, tt.goarch)
			if got := run(t, f, tt.call); got != tt.want {
				t.Errorf("got %s, want %s\n%s", actionName(got), actionName(tt.want), Disassemble(f))
			}
		})
	}
}

// On 32-bit x86 and others, a call can also be made through socketcall(2) or ipc(2).
func TestCompile_Multiplexers(t *testing.T) {
	const socketcall, ipc = 102, 117
	allow := func(names string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: strings.Fields(names), Action: specs.ActAllow, Args: args}
	}
	tests := []struct {
		name string
		def  specs.LinuxSeccompAction
		rule []specs.LinuxSyscall
		nr   uint32
		a0   uint64
		want uint32
	}{
		{"denied call", specs.ActAllow, []specs.LinuxSyscall{deny(9, "connect")}, socketcall, 3, retErrno | 9},
		{"others stay", specs.ActAllow, []specs.LinuxSyscall{deny(9, "connect")}, socketcall, 2, retAllow},
		{"denied ipc", specs.ActAllow, []specs.LinuxSyscall{deny(9, "shmget")}, ipc, 23, retErrno | 9},
		{"denied ipc in another version", specs.ActAllow, []specs.LinuxSyscall{deny(9, "shmget")}, ipc, 1<<16 | 23, retErrno | 9},
		{"allowed call", specs.ActErrno, []specs.LinuxSyscall{allow("connect write")}, socketcall, 3, retAllow},
		{"not allowed call", specs.ActErrno, []specs.LinuxSyscall{allow("connect write")}, socketcall, 1, retErrno | 1},
		{"conditions cannot be checked: not allowed", specs.ActErrno, []specs.LinuxSyscall{allow("socket write", arg(0, specs.OpEqualTo, 1))}, socketcall, 1, retErrno | 1},
		{"conditions cannot be checked: denied", specs.ActAllow, []specs.LinuxSyscall{deny(9, "socket", arg(0, specs.OpEqualTo, 38))}, socketcall, 1, retErrno | 9},
		{"the multiplexer is allowed as such", specs.ActErrno, []specs.LinuxSyscall{allow("socketcall"), allow("socket", arg(0, specs.OpEqualTo, 1))}, socketcall, 1, retAllow},
		{"a call without direct number", specs.ActAllow, []specs.LinuxSyscall{deny(9, "semop")}, ipc, 1, retErrno | 9},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := profile(tt.def, tt.rule...)
			f := mustCompile(t, p, "386")
			if got := run(t, f, data{nr: tt.nr, arch: i386Token, args: [6]uint64{tt.a0}}); got != tt.want {
				t.Errorf("got %s, want %s\n%s", actionName(got), actionName(tt.want), Disassemble(f))
			}
		})
	}
}

func TestCompile_Flags(t *testing.T) {
	type list = []specs.LinuxSeccompFlag
	notify := specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActNotify}
	tests := []struct {
		flags list
		rules []specs.LinuxSyscall
		want  uint64
	}{
		{nil, nil, 4},
		{list{}, nil, 0},
		{list{"SECCOMP_FILTER_FLAG_LOG"}, nil, 2},
		{list{"SECCOMP_FILTER_FLAG_SPEC_ALLOW"}, nil, 4},
		{list{"SECCOMP_FILTER_FLAG_TSYNC"}, nil, 0},
		{list{"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"}, nil, 0},
		{list{"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_LOG"}, []specs.LinuxSyscall{notify}, 0x2a},
		{nil, []specs.LinuxSyscall{notify}, 12},
	}
	for _, tt := range tests {
		p := profile(specs.ActAllow, tt.rules...)
		p.Flags = tt.flags
		if f := mustCompile(t, p, "amd64"); f.Flags != tt.want {
			t.Errorf("%q: got %#x, want %#x", tt.flags, f.Flags, tt.want)
		}
	}
}

func TestCompile_Errors(t *testing.T) {
	fine := deny(1, "read")
	rule := func(s specs.LinuxSyscall) *specs.LinuxSeccomp { return profile(specs.ActAllow, fine, fine, s) }
	noListener := rule(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActNotify})
	noListener.ListenerPath = ""
	tests := []struct {
		p    *specs.LinuxSeccomp
		want string
	}{
		{profile("SCMP_ACT_X"), `linux.seccomp.defaultAction: unknown value "SCMP_ACT_X"`},
		{profile(""), `linux.seccomp.defaultAction: unknown value ""`},
		{profile(specs.ActNotify), `linux.seccomp.defaultAction: not possible as default: "SCMP_ACT_NOTIFY"`},
		{&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: ptr(4096)}, `linux.seccomp.defaultErrnoRet: larger than 4095: "4096"`},
		{&specs.LinuxSeccomp{DefaultAction: specs.ActKill, DefaultErrnoRet: ptr(1)}, `linux.seccomp.defaultErrnoRet: action SCMP_ACT_KILL takes no errno, have "1"`},
		{&specs.LinuxSeccomp{DefaultAction: specs.ActKill, Architectures: []specs.Arch{specs.ArchX86, "SCMP_ARCH_VAX"}}, `linux.seccomp.architectures[1]: unknown value "SCMP_ARCH_VAX"`},
		{&specs.LinuxSeccomp{DefaultAction: specs.ActKill, Flags: []specs.LinuxSeccompFlag{"X"}}, `linux.seccomp.flags[0]: unknown value "X"`},
		{rule(specs.LinuxSyscall{Names: []string{"read"}, Action: "SCMP_ACT_X"}), `linux.seccomp.syscalls[2].action: unknown value "SCMP_ACT_X"`},
		{rule(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActTrace, ErrnoRet: ptr(65536)}), `linux.seccomp.syscalls[2].errnoRet: larger than 65535: "65536"`},
		{rule(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, ErrnoRet: ptr(0)}), `linux.seccomp.syscalls[2].errnoRet: action SCMP_ACT_ALLOW takes no errno, have "0"`},
		{rule(specs.LinuxSyscall{Names: []string{"read", ""}, Action: specs.ActKill}), `linux.seccomp.syscalls[2].names[1]: empty name ""`},
		{rule(specs.LinuxSyscall{Names: []string{"read", "write"}, Action: specs.ActNotify}), `linux.seccomp.syscalls[2].names[1]: SCMP_ACT_NOTIFY cannot be used for "write"`},
		{rule(deny(1, "read", arg(0, specs.OpEqualTo, 1), arg(1, "SCMP_CMP_X", 1))), `linux.seccomp.syscalls[2].args[1].op: unknown value "SCMP_CMP_X"`},
		{rule(deny(1, "read", arg(6, specs.OpEqualTo, 1))), `linux.seccomp.syscalls[2].args[0].index: a system call has arguments 0 to 5, not "6"`},
		{noListener, `linux.seccomp.listenerPath: SCMP_ACT_NOTIFY needs a path, have ""`},
	}
	for _, tt := range tests {
		if _, err := Compile(tt.p, "amd64"); err == nil || err.Error() != tt.want {
			t.Errorf("got  %v\nwant %s", err, tt.want)
		}
	}
	if _, err := Compile(profile(specs.ActAllow), "vax"); err == nil || !strings.Contains(err.Error(), `"vax"`) {
		t.Errorf("unknown GOARCH: %v", err)
	}
}

// scattered is a profile with one masked condition per call, which cannot share code, on n calls.
func scattered(n int) *specs.LinuxSeccomp {
	p := profile(specs.ActAllow)
	for nr := range n {
		if name := SyscallName("amd64", nr); name != "" {
			p.Syscalls = append(p.Syscalls, deny(uint(nr+1), name, arg(uint(nr%6), specs.OpMaskedEqual, 0xf0f0f0f0f0f0f0f0, uint64(nr)<<4)))
		}
	}
	return p
}

// Code of more than 1000 instructions between a comparison and its target.
func TestCompile_LongJumps(t *testing.T) {
	p := scattered(230)
	p.Architectures = []specs.Arch{specs.ArchX86}
	f := mustCompile(t, p, "amd64")
	if f.Len() < 2000 {
		t.Fatalf("only %d instructions", f.Len())
	}
	for nr := range uint32(340) {
		for _, token := range []uint32{amd64Token, i386Token, 0xc00000b7} {
			for _, v := range []uint64{uint64(nr) << 4, uint64(nr)<<4 | 0x0f0f, uint64(nr)<<4 ^ 0x10} {
				d := data{nr: nr, arch: token, args: [6]uint64{v, v, v, v, v, v}}
				if got, want := run(t, f, d), evaluate(p, "amd64", d); got != want {
					t.Fatalf("%+v: got %s, want %s", d, actionName(got), actionName(want))
				}
			}
		}
	}
	// The kernel's checker agrees. Rule 124, of getsid, looks at argument 124 % 6.
	onThread(t, mustCompile(t, p, runtime.GOARCH), func() {
		if got := raw(unix.SYS_GETSID, 0, 0, 0, 0, 124<<4); got != 125 {
			t.Errorf("getsid: got %v, want 125", got)
		}
		if got := raw(unix.SYS_GETSID, 0, 0, 0, 0, 125<<4); got != 0 {
			t.Errorf("getsid: got %v, want 0", got)
		}
	})
}

func TestCompile_TooLong(t *testing.T) {
	p := scattered(330)
	for i := range p.Syscalls {
		for k := range uint64(3) {
			s := p.Syscalls[i]
			s.Args = []specs.LinuxSeccompArg{arg(5, specs.OpMaskedEqual, 0x0ff00ff0ff0, k<<4), arg(0, specs.OpEqualTo, k)}
			p.Syscalls = append(p.Syscalls, s)
		}
	}
	_, err := Compile(p, "amd64")
	if err == nil || !strings.Contains(err.Error(), "the kernel takes 4096") {
		t.Errorf("got %v", err)
	}
}

var update = flag.Bool("update", false, "write the golden files")

func TestDisassemble(t *testing.T) {
	p := profile(specs.ActErrno,
		specs.LinuxSyscall{Names: []string{"read", "write", "close", "openat", "exit_group"}, Action: specs.ActAllow},
		specs.LinuxSyscall{Names: []string{"socket"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{arg(0, specs.OpLessEqual, 2)}},
		specs.LinuxSyscall{Names: []string{"clone"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{arg(0, specs.OpMaskedEqual, cloneNamespaces)}},
		specs.LinuxSyscall{Names: []string{"kcmp"}, Action: specs.ActKillProcess},
		deny(38, "clone3"))
	p.Architectures = []specs.Arch{specs.ArchX86}
	got := Disassemble(mustCompile(t, p, "amd64"))
	const file = "testdata/disassembly.golden"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestNames(t *testing.T) {
	for _, tt := range []struct {
		goarch, name string
		nr           int
	}{
		{"amd64", "read", 0},
		{"amd64", "execve", 59},
		{"amd64", "clone3", 435},
		{"386", "execve", 11},
		{"arm64", "openat", 56},
		{"arm", "set_tls", 0xf0005},
		{"mipsle", "read", 4003},
		{"s390x", "exit", 1},
		{"ppc64le", "swapcontext", 249},
		{"riscv64", "riscv_hwprobe", 258},
		{"loong64", "statx", 291},
		{"mips64", "read", 5000},
	} {
		if nr, ok := SyscallNumber(tt.goarch, tt.name); nr != tt.nr || !ok {
			t.Errorf("SyscallNumber(%s, %s): got %d, %v, want %d", tt.goarch, tt.name, nr, ok, tt.nr)
		}
		if name := SyscallName(tt.goarch, tt.nr); name != tt.name {
			t.Errorf("SyscallName(%s, %d): got %q, want %q", tt.goarch, tt.nr, name, tt.name)
		}
	}
	if name := SyscallName("amd64", x32Bit|520); name != "execve" {
		t.Errorf("x32 call 520: got %q", name)
	}
	for _, tt := range []struct{ goarch, name string }{{"amd64", "set_tls"}, {"amd64", ""}, {"vax", "read"}, {"amd64", "nothing"}} {
		if nr, ok := SyscallNumber(tt.goarch, tt.name); ok {
			t.Errorf("SyscallNumber(%s, %q): got %d", tt.goarch, tt.name, nr)
		}
	}
	for _, nr := range []int{-1, 336 + 80, 1 << 40} {
		if name := SyscallName("amd64", nr); name != "" {
			t.Errorf("SyscallName(%d): got %q", nr, name)
		}
	}
	for id := range nameCount { // every name is found by the hash
		if got := lookupName(nameAt(id)); got != id {
			t.Errorf("%s: got %d, want %d", nameAt(id), got, id)
		}
	}
	if got := fmt.Sprint(lookupName("x")); got != "-1" {
		t.Errorf("lookupName(x): %s", got)
	}
}
