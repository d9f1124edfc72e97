package seccomp

import (
	"fmt"
	"strings"
	"testing"
)

var dockerCaps = strings.Fields(`CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID CAP_SETUID
	CAP_SETFCAP CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE`)

// With Docker's capabilities the profile equals Docker's for every call, but for socketcall(SYS_SOCKET).
func TestDefault_LikeDocker(t *testing.T) {
	args := [][6]uint64{{}, {1}, {2}, {8}, {12}, {13}, {19}, {38}, {39}, {40}, {45}, {46}, {1 << 28}, {0, 1 << 28}, {0xffffffff}, {1<<32 | 2}}
	for _, goarch := range []string{"amd64", "arm64"} {
		ours := mustCompile(t, Default(goarch, dockerCaps), goarch)
		theirs := mustCompile(t, docker(t, goarch), goarch)
		if ours.Len() > 450 {
			t.Errorf("%s: %d instructions", goarch, ours.Len())
		}
		for _, nr := range numbers() {
			for i := range archs {
				for _, a := range args {
					d := data{nr, archs[i].token, a}
					got, want := run(t, ours, d), run(t, theirs, d)
					if d.arch == i386Token && nr == 102 && goarch == "amd64" && (a[0] < 2 || a[0] > 20) {
						want = retErrno | 1 // SYS_SOCKET, and what is no sub-call; 1<<32|2 is 2 in 32 bits
						if uint32(a[0]) == 2 {
							want = retAllow
						}
					}
					if got != want {
						t.Errorf("%s: %s call %d %q %x: got %s, want %s", goarch, archs[i].scmp, nr, archs[i].name(nr), a, actionName(got), actionName(want))
					}
				}
			}
		}
	}
}

// AF_ALG and AF_VSOCK are out of reach on each ABI of an amd64 container.
func TestDefault_Families(t *testing.T) {
	f := mustCompile(t, Default("amd64", []string{"CAP_SYS_ADMIN", "CAP_NET_ADMIN"}), "amd64")
	for _, d := range []data{{nr: 41, arch: amd64Token}, {nr: x32Bit | 41, arch: amd64Token}, {nr: 359, arch: i386Token}} {
		for family := range uint64(64) {
			d.args[0] = family
			want := uint32(retErrno | 1)
			if strings.Contains(" 0 1 2 3 4 5 6 7 8 9 10 11 13 14 15 16 17 18 21 22 24 26 27 28 29 30 31 32 33 35 36 39 41 42 43 44 45 ", fmt.Sprintf(" %d ", family)) {
				want = retAllow
			}
			if got := run(t, f, d); got != want {
				t.Errorf("call %#x, family %d: got %s, want %s", d.nr, family, actionName(got), actionName(want))
			}
		}
	}
	call := func(f *Filter, sub uint64) uint32 {
		return run(t, f, data{nr: 102, arch: i386Token, args: [6]uint64{sub}})
	}
	for sub := uint64(1); sub <= 20; sub++ {
		want := uint32(retAllow)
		if sub == 1 {
			want = retErrno | 1
		}
		if got := call(f, sub); got != want {
			t.Errorf("socketcall(%d): got %s, want %s", sub, actionName(got), actionName(want))
		}
	}
	// An image for 386 could not open a socket without it.
	if got := call(mustCompile(t, Default("386", nil), "amd64"), 1); got != retAllow {
		t.Errorf("386: socketcall(1): got %s", actionName(got))
	}
}

// Each capability brings its calls, and only those.
func TestDefault_Capabilities(t *testing.T) {
	tests := []struct{ capability, allowed, denied string }{
		{"", "read ptrace", "bpf mount unshare setns reboot chroot init_module acct kcmp iopl settimeofday vhangup mbind syslog perf_event_open open_by_handle_at keyctl add_key request_key io_uring_setup userfaultfd pivot_root swapon kexec_load create_module quotactl fsopen move_mount"},
		{"CAP_SYS_ADMIN", "bpf clone clone3 mount unshare setns fsopen open_tree umount2 sethostname quotactl perf_event_open syslog", "reboot chroot init_module acct kcmp iopl settimeofday keyctl pivot_root"},
		{"CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv", "bpf mount"},
		{"CAP_SYS_MODULE", "init_module finit_module delete_module", "bpf"},
		{"CAP_SYS_BOOT", "reboot", "acct"},
		{"CAP_SYS_CHROOT", "chroot", "acct"},
		{"CAP_SYS_PACCT", "acct", "reboot"},
		{"CAP_SYS_RAWIO", "iopl ioperm", "acct"},
		{"CAP_SYS_TIME", "settimeofday clock_settime", "acct"},
		{"CAP_SYS_TTY_CONFIG", "vhangup", "acct"},
		{"CAP_SYS_NICE", "mbind get_mempolicy set_mempolicy", "move_pages"},
		{"CAP_SYSLOG", "syslog", "acct"},
		{"CAP_BPF", "bpf", "perf_event_open"},
		{"CAP_PERFMON", "perf_event_open", "bpf"},
		{"CAP_DAC_READ_SEARCH", "open_by_handle_at", "bpf"},
	}
	for _, tt := range tests {
		f := mustCompile(t, Default("amd64", []string{tt.capability}), "amd64")
		check := func(names string, want uint32) {
			for _, name := range strings.Fields(names) {
				nr, ok := SyscallNumber("amd64", name)
				if got := run(t, f, data{nr: uint32(nr), arch: amd64Token, args: [6]uint64{cloneNamespaces}}); !ok || got != want {
					t.Errorf("%s: %s: got %s, want %s", tt.capability, name, actionName(got), actionName(want))
				}
			}
		}
		check(tt.allowed, retAllow)
		check(tt.denied, retErrno|1)
		if tt.capability != "CAP_SYS_ADMIN" {
			check("clone", retErrno|1)
			check("clone3", retErrno|38)
		}
	}
}

func TestDefault_EveryArchitecture(t *testing.T) {
	for i := range archs {
		if goarch := archs[i].goarch; goarch != "" {
			f := mustCompile(t, Default(goarch, nil), goarch)
			for name, want := range map[string]uint32{"read": retAllow, "mount": retErrno | 1, "clone3": retErrno | 38} {
				nr, ok := SyscallNumber(goarch, name)
				if got := run(t, f, data{nr: uint32(nr), arch: archs[i].token}); !ok || got != want {
					t.Errorf("%s: %s: got %s, want %s", goarch, name, actionName(got), actionName(want))
				}
			}
			// Namespace flags are the second argument of clone on s390x.
			nr, _ := SyscallNumber(goarch, "clone")
			d := data{nr: uint32(nr), arch: archs[i].token}
			index := 0
			if goarch == "s390x" {
				index = 1
			}
			d.args[index] = 1 << 28
			if got := run(t, f, d); got != retErrno|1 {
				t.Errorf("%s: clone(CLONE_NEWUSER): got %s", goarch, actionName(got))
			}
		}
	}
}

func BenchmarkDefault(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Default("amd64", dockerCaps)
	}
}
