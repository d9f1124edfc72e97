package seccomp

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func amd64(nr uint32, args ...uint64) *Call {
	c := &Call{Arch: archX8664, Nr: nr}
	copy(c.Args[:], args)
	return c
}

// The filter with a listener asks about what the plain one denies, and does the
// same otherwise.
func TestObserved(t *testing.T) {
	p := docker(t, "amd64")
	p.Syscalls = append(p.Syscalls,
		specs.LinuxSyscall{Names: []string{"sync"}, Action: specs.ActKillProcess},
		specs.LinuxSyscall{Names: []string{"uselib"}, Action: specs.ActTrap},
		specs.LinuxSyscall{Names: []string{"nfsservctl"}, Action: specs.ActTrace},
		specs.LinuxSyscall{Names: []string{"swapoff"}, Action: specs.ActLog})
	f := mustCompile(t, p, "amd64")
	o, err := f.Observed("amd64")
	if err != nil {
		t.Fatal(err)
	}
	if o.Flags != f.Flags|unix.SECCOMP_FILTER_FLAG_NEW_LISTENER {
		t.Errorf("flags %#x", o.Flags)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	seen := map[uint32]int{}
	for i := range 200000 {
		d := data{nr: uint32(i % 700), arch: []uint32{archX8664, archX8664, 0x40000003, 0xc00000b7}[rnd.IntN(4)]}
		if rnd.IntN(5) == 0 {
			d.nr |= x32Bit
		}
		d.args[rnd.IntN(6)] = rnd.Uint64() >> rnd.IntN(64)
		want, got := run(t, f, d), run(t, o, d)
		seen[want&retActionMask]++
		if answerable(want) {
			want = retNotify
		}
		if got != want {
			t.Fatalf("%+v: %s, want %s", d, actionName(got), actionName(want))
		}
	}
	for _, a := range []uint32{retKillProcess, retErrno, retTrap, retTrace, retLog, retAllow} {
		if seen[a] == 0 {
			t.Errorf("no call with %s was tried", actionName(a))
		}
	}

	for _, tt := range []struct {
		p    *specs.LinuxSeccomp
		want string
	}{
		{profile(specs.ActAllow, specs.LinuxSyscall{Names: []string{"mkdir"}, Action: specs.ActNotify}), "SCMP_ACT_NOTIFY"},
		{profile(specs.ActAllow, deny(1, "write")), "does not allow write"},
		{profile(specs.ActErrno), "does not allow write"},
	} {
		if _, err := mustCompile(t, tt.p, "amd64").Observed("amd64"); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v, want %q", err, tt.want)
		}
	}
}

func TestJudge(t *testing.T) {
	allow := func(name string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{"getpid", name}, Action: specs.ActAllow, Args: args}
	}
	for _, tt := range []struct {
		name   string
		p      *specs.LinuxSeccomp
		c      *Call
		call   string
		action string
		why    string
		advice string
	}{
		{
			"default", profile(specs.ActErrno, allow("write"), allow("fsopen")), amd64(250, 1, 1<<32-1),
			"keyctl(0x1, 0xffffffff, 0x0, 0x0, 0x0, 0x0)", "EPERM", "no entry of linux.seccomp.syscalls names it: linux.seccomp.defaultAction",
			`add to linux.seccomp.syscalls: {"names":["keyctl"],"action":"SCMP_ACT_ALLOW"}`,
		},
		{
			"arguments", profile(specs.ActErrno, allow("write"), allow("personality", arg(0, specs.OpEqualTo, 0))), amd64(135, 8, 9),
			"", "EPERM", "no entry of linux.seccomp.syscalls allows it with these arguments: linux.seccomp.defaultAction",
			`add to linux.seccomp.syscalls: {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]}`,
		},
		{
			"an entry that is first", profile(specs.ActAllow, deny(99, "mkdir")), amd64(83),
			"", "99", "linux.seccomp.syscalls[0]", `take "mkdir" out of linux.seccomp.syscalls[0].names, add to linux.seccomp.syscalls: {"names":["mkdir"],"action":"SCMP_ACT_ALLOW"}`,
		},
		{
			"newer", profile(specs.ActErrno, allow("write")), amd64(437),
			"", "ENOSYS", "the profile names no call as new as this", `add to linux.seccomp.syscalls: {"names":["openat2"],"action":"SCMP_ACT_ALLOW"}`,
		},
		{
			"unknown", profile(specs.ActErrno, allow("write")), amd64(999),
			"system call 999(0x0, 0x0, 0x0, 0x0, 0x0, 0x0)", "ENOSYS", "no rule can name it: the call is newer than the tables", "",
		},
		{
			"killed", profile(specs.ActKill, allow("write"), allow("fsopen")), amd64(162),
			"", "KILL_THREAD", "no entry of linux.seccomp.syscalls names it: linux.seccomp.defaultAction", `add to linux.seccomp.syscalls: {"names":["sync"],"action":"SCMP_ACT_ALLOW"}`,
		},
		{
			"another architecture", profile(specs.ActErrno, allow("write")), &Call{Arch: 0x40000003, Nr: 20},
			"getpid(0x0, 0x0, 0x0, 0x0, 0x0, 0x0) of SCMP_ARCH_X86", "KILL_PROCESS", "linux.seccomp.architectures has no SCMP_ARCH_X86", `add to linux.seccomp.architectures: "SCMP_ARCH_X86"`,
		},
		{"x32", profile(specs.ActErrno, allow("write")), amd64(x32Bit | 39), "getpid(0x0, 0x0, 0x0, 0x0, 0x0, 0x0) of SCMP_ARCH_X32", "KILL_PROCESS", "linux.seccomp.architectures has no SCMP_ARCH_X32", `add to linux.seccomp.architectures: "SCMP_ARCH_X32"`},
	} {
		j, err := NewJudge(tt.p, "amd64")
		if err != nil {
			t.Fatal(err)
		}
		r, err := j.Rule(tt.c)
		if err != nil || r.Allow {
			t.Fatalf("%s: %+v, %v", tt.name, r, err)
		}
		if tt.call != "" && tt.c.String() != tt.call {
			t.Errorf("%s: call %q, want %q", tt.name, tt.c, tt.call)
		}
		if r.Action != tt.action && !(tt.action == "99" && r.Errno == 99) || r.Why != tt.why || r.Advice != tt.advice {
			t.Errorf("%s: %s\nby %s\n%s\nwant %s\nby %s\n%s", tt.name, r.Action, r.Why, r.Advice, tt.action, tt.why, tt.advice)
		}
	}
}

// Whatever the default profile of docker denies, the advice allows it, and
// nothing with other arguments that an entry looks at.
func TestJudge_AdviceWorks(t *testing.T) {
	p := docker(t, "amd64")
	p.Syscalls = append(p.Syscalls, deny(5, "sync"), deny(6, "syncfs", arg(0, specs.OpEqualTo, 3)))
	j, err := NewJudge(p, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	denied := 0
	for nr := range uint32(480) {
		for _, c := range []*Call{amd64(nr), amd64(nr, 3, 1<<33), amd64(nr, unix.CLONE_NEWUSER|unix.CLONE_FS)} {
			r, err := j.Rule(c)
			if err != nil {
				t.Fatal(err)
			}
			if r.Allow || r.Name == "" {
				continue
			}
			denied++
			if r.Change == nil {
				t.Errorf("%s: no advice, %+v", c, r)
				continue
			}
			changed := r.Change.Apply(p, r.Name)
			if got := evaluate(changed, "amd64", data{nr: c.Nr, arch: c.Arch, args: c.Args}); restrictive(got) {
				t.Errorf("%s: %s after %s", c, actionName(got), r.Advice)
			}
		}
	}
	if denied < 100 {
		t.Errorf("only %d calls were denied", denied)
	}
}
