package seccomp

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func docker(t testing.TB, goarch string) *specs.LinuxSeccomp {
	t.Helper()
	b, err := os.ReadFile("testdata/docker-" + goarch + ".json")
	if err != nil {
		t.Fatal(err)
	}
	p := new(specs.LinuxSeccomp)
	if err := json.Unmarshal(b, p); err != nil {
		t.Fatal(err)
	}
	return p
}

// numbers of interest on an architecture: all near a table entry, region borders, and -1.
func numbers() []uint32 {
	var l []uint32
	for _, base := range []uint32{0, 4000, 5000, 6000, x32Bit, armPriv} {
		for n := range uint32(mainSlots + 10) {
			l = append(l, base+n)
		}
	}
	return append(l, 1<<31-1, 1<<31, x32Bit-1, 1<<32-2, 1<<32-1)
}

// checkAll compares the program of a profile with the evaluator for every number and the given arguments.
func checkAll(t *testing.T, p *specs.LinuxSeccomp, goarch string, args [][6]uint64) {
	t.Helper()
	f := mustCompile(t, p, goarch)
	for i := range archs {
		if archs[i].token != nativeArch(goarch).token && !slices.Contains(p.Architectures, specs.Arch(archs[i].scmp)) && i%5 != 0 {
			continue // a bad architecture like the others
		}
		for _, nr := range numbers() {
			for _, a := range args {
				d := data{nr, archs[i].token, a}
				if got, want := run(t, f, d), evaluate(p, goarch, d); got != want {
					t.Fatalf("%s, %s call %d %q %x: got %s, want %s\n%s", goarch, archs[i].scmp, nr, archs[i].name(nr), a,
						actionName(got), actionName(want), Disassemble(f))
				}
			}
		}
	}
}

func TestCompile_Docker(t *testing.T) {
	args := [][6]uint64{{}, {38}, {40}, {1 << 28}, {1}, {2, 1 << 28}, {0xffffffff}, {1<<32 | 2}}
	for _, goarch := range []string{"amd64", "arm64"} {
		p := docker(t, goarch)
		checkAll(t, p, goarch, args)
		f := mustCompile(t, p, goarch)
		total, worst := 0, 0
		for nr := range uint32(450) {
			_, steps, err := simulate(f, data{nr: nr, arch: nativeArch(goarch).token})
			if err != nil {
				t.Fatal(err)
			}
			total += steps
			worst = max(worst, steps)
		}
		t.Logf("%s: %d instructions, %.1f executed for a call on average, %d at most", goarch, f.Len(), float64(total)/450, worst)
		if f.Len() > 700 || total/450 > 12 {
			t.Errorf("%s: the program has %d instructions and runs %d for a call", goarch, f.Len(), total/450)
		}
	}
}

// randomProfile makes a profile that is small enough for rules to collide.
func randomProfile(r *rand.Rand, goarch string) *specs.LinuxSeccomp {
	actions := []specs.LinuxSeccompAction{
		specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActErrno,
		specs.ActTrace, specs.ActAllow, specs.ActLog, specs.ActNotify,
	}
	ops := []specs.LinuxSeccompOperator{
		specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual,
		specs.OpGreaterThan, specs.OpMaskedEqual,
	}
	common := []string{
		"read", "close", "clone", "socket", "socketcall", "ipc", "shmget", "connect", "personality", "setns", "mseal",
		"no_such_call", "set_tls", "semop", "recv", "execve", "restart_syscall", "io_setup", "getpid",
	}
	act := func(n int) (specs.LinuxSeccompAction, *uint) {
		a := actions[r.IntN(n)]
		if (a == specs.ActErrno || a == specs.ActTrace) && r.IntN(2) == 0 {
			return a, ptr([]uint{0, 1, 38, 4095}[r.IntN(4)])
		}
		return a, nil
	}
	p := &specs.LinuxSeccomp{ListenerPath: "/listener"}
	p.DefaultAction, p.DefaultErrnoRet = act(len(actions) - 1)
	for range r.IntN(5) {
		p.Architectures = append(p.Architectures, specs.Arch(archs[r.IntN(len(archs))].scmp))
	}
	for range r.IntN(20) {
		var s specs.LinuxSyscall
		s.Action, s.ErrnoRet = act(len(actions))
		for range 1 + r.IntN(4) {
			name := common[r.IntN(len(common))]
			if r.IntN(3) == 0 {
				name = nameAt(r.IntN(nameCount))
			}
			if name != "write" {
				s.Names = append(s.Names, name)
			}
		}
		if r.IntN(2) == 0 {
			for range 1 + r.IntN(3) {
				s.Args = append(s.Args, specs.LinuxSeccompArg{Index: uint(r.IntN(3)), Value: randomValue(r), ValueTwo: randomValue(r), Op: ops[r.IntN(len(ops))]})
			}
		}
		p.Syscalls = append(p.Syscalls, s)
	}
	return p
}

// randomValue is often small, at the border of a half, or negative, and collides often.
func randomValue(r *rand.Rand) uint64 {
	v := []uint64{
		0, 1, 2, 5, 17, 0x7fffffff, 0x80000000, 0xffffffff, 1 << 32, 1<<32 | 1, 5 << 32, 1 << 63, 0xffffffff00000000,
		0xffffffff80000000, 1<<64 - 1, 0x10017, 0xffff,
	}[r.IntN(17)]
	switch r.IntN(6) {
	case 0:
		return v + 1
	case 1:
		return v - 1
	case 2:
		return v | uint64(r.Uint32())<<uint(r.IntN(33))
	}
	return v
}

func checkRandom(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	var natives []string
	for i := range archs {
		if archs[i].goarch != "" {
			natives = append(natives, archs[i].goarch)
		}
	}
	goarch := natives[r.IntN(len(natives))]
	if r.IntN(3) == 0 {
		goarch = []string{"amd64", "386"}[r.IntN(2)]
	}
	p := randomProfile(r, goarch)
	f, err := Compile(p, goarch)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	defer newestCache.Clear()
	all := numbers()
	for range 300 {
		a := &archs[r.IntN(len(archs))]
		if r.IntN(2) == 0 {
			a = nativeArch(goarch)
		} else if n := len(p.Architectures); n > 0 && r.IntN(2) == 0 {
			a = findArch(string(p.Architectures[r.IntN(n)]))
		}
		d := data{nr: all[r.IntN(len(all))], arch: a.token}
		if n := len(p.Syscalls); n > 0 && a.table != nil && r.IntN(4) != 0 {
			s := p.Syscalls[r.IntN(n)]
			if len(s.Names) > 0 {
				if nr, ok := numberOn(a, s.Names[r.IntN(len(s.Names))]); ok {
					d.nr = nr
				}
			}
			for i := range d.args {
				d.args[i] = randomValue(r)
			}
			for _, c := range s.Args {
				if r.IntN(2) == 0 {
					d.args[c.Index] = c.Value + uint64(r.IntN(3)) - 1
				}
			}
		}
		if a.muxes && r.IntN(4) == 0 {
			if nr, ok := numberOn(a, []string{"socketcall", "ipc"}[r.IntN(2)]); ok {
				d.nr, d.args[0] = nr, uint64(r.IntN(26)|r.IntN(2)<<16)
			}
		}
		got, _, err := simulate(f, d)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if want := evaluate(p, goarch, d); got != want {
			j, _ := json.MarshalIndent(p, "", " ")
			t.Fatalf("seed %d: %s, %s call %d %q %x: got %s, want %s\n%s\n%s", seed, goarch, a.scmp, d.nr, a.name(d.nr), d.args,
				actionName(got), actionName(want), j, Disassemble(f))
		}
	}
}

// libseccomp 2.5.4 compiled the same profile to testdata/docker-amd64.libseccomp-2.5.4.bpf. The two programs agree on
// all calls that this libseccomp knows the name of, but for deliberate differences.
func TestCompile_Libseccomp(t *testing.T) {
	b, err := os.ReadFile("testdata/docker-amd64.libseccomp-2.5.4.bpf") // little-endian
	if err != nil {
		t.Fatal(err)
	}
	theirs := &Filter{Insns: b}
	p := docker(t, "amd64")
	ours := mustCompile(t, p, "amd64")
	args := [][6]uint64{{}, {1}, {8}, {12}, {38}, {40}, {45}, {1 << 28}, {0x80000000}, {0xffffffff}, {1<<32 | 8}, {1 << 63}}
	for _, nr := range numbers() {
		for i := range archs {
			for _, a := range args {
				d := data{nr, archs[i].token, a}
				got, want := run(t, ours, d), run(t, theirs, d)
				switch name := SyscallName("amd64", int(nr)); {
				case got == want:
				case want == retKillThread && got == retKillProcess: // bad architecture
				case want == retErrno|1 && got == retErrno|38: // newer than the profile
				case nr&^x32Bit > 450 || name == "uretprobe": // newer than libseccomp
				case nr&x32Bit != 0 && a[0]>>32 != 0: // x32 arguments have 64 bits
				default:
					t.Errorf("%s call %d %q %x: got %s, libseccomp has %s", archs[i].scmp, nr, name, a, actionName(got), actionName(want))
				}
			}
		}
	}
	t.Logf("%d instructions, libseccomp %d", ours.Len(), theirs.Len())
}

func BenchmarkCompileDocker(b *testing.B) {
	p := docker(b, "amd64")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(p, "amd64"); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzCompile compares compiled programs with the evaluator, on random profiles and calls.
func FuzzCompile(f *testing.F) {
	for seed := range uint64(300) {
		f.Add(seed)
	}
	f.Fuzz(checkRandom)
}
