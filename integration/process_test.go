package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestRootProcess(t *testing.T) {
	setup(t)
	umask := uint32(0o137)
	for _, tt := range []struct {
		name   string
		mutate func(*specs.Spec)
		script string
		want   string
	}{
		{"defaults", func(*specs.Spec) {}, "id -u; id -g; umask; pwd; echo $HOME; hostname; ulimit -n", "0\n0\n0022\n/\n/root\nminirun\n1024\n"},
		{"user", func(s *specs.Spec) {
			s.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{29, 30}, Umask: &umask}
		}, "id -u; id -g; id -G | tr ' ' '\\n' | sort -n | tr '\\n' ' '; umask; echo $HOME", "1000\n1001\n29 30 1001 0137\n/home/user\n"},
		{"no groups", func(s *specs.Spec) { s.Process.User = specs.User{UID: 65534, GID: 65534} }, "echo $(grep Groups: /proc/self/status); echo $HOME", "Groups:\n/\n"},
		{"HOME given", func(s *specs.Spec) { s.Process.Env = append(s.Process.Env, "HOME=/h") }, "echo $HOME", "/h\n"},
		{"HOME empty", func(s *specs.Spec) { s.Process.Env = append(s.Process.Env, "HOME=") }, "echo $HOME", "/root\n"},
		{"environment, the last wins", func(s *specs.Spec) { s.Process.Env = append(s.Process.Env, "A=1", "B=x=y", "A=2", "EMPTY=") }, "env | grep -E '^(A|B|EMPTY)=' | sort", "A=2\nB=x=y\nEMPTY=\n"},
		{"nothing of ours in the environment", func(s *specs.Spec) { s.Process.Env = []string{"PATH=/bin"} }, "env | grep -vE '^(PWD|SHLVL|_)=' | sort", "HOME=/root\nPATH=/bin\n"},
		{"cwd", func(s *specs.Spec) { s.Process.Cwd = "/home/user" }, "pwd", "/home/user\n"},
		{"cwd is made", func(s *specs.Spec) { s.Process.Cwd = "/var/a/b"; s.Root.Readonly = false }, "pwd; stat -c %a /var/a/b", "/var/a/b\n755\n"},
		{"no new privileges", func(*specs.Spec) {}, "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n"},
		{"new privileges", func(s *specs.Spec) { s.Process.NoNewPrivileges = false }, "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t0\n"},
		{"oom score", func(s *specs.Spec) { n := 555; s.Process.OOMScoreAdj = &n }, "cat /proc/self/oom_score_adj", "555\n"},
		{"rlimits", func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{
				{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200},
				{Type: "RLIMIT_CORE"},
				{Type: "RLIMIT_NPROC", Soft: 77, Hard: 88},
				{Type: "RLIMIT_STACK", Soft: 1 << 20, Hard: 2 << 20},
				{Type: "RLIMIT_AS", Soft: 1 << 30, Hard: 1 << 30},
				{Type: "RLIMIT_FSIZE", Soft: 4096, Hard: 8192},
			}
		}, "awk '/open files|core file|processes|stack|address|file size/ {print $(NF-2), $(NF-1)}' /proc/self/limits", "4096 8192\n1048576 2097152\n0 0\n77 88\n100 200\n1073741824 1073741824\n"},
		{"domain name", func(s *specs.Spec) { s.Domainname = "example.org" }, "cat /proc/sys/kernel/domainname /proc/sys/kernel/hostname", "example.org\nminirun\n"},
		{"loopback", func(*specs.Spec) {}, "ifconfig lo | grep -o 'UP LOOPBACK'; ping -c1 -W1 127.0.0.1 >/dev/null 2>&1; grep -c lo: /proc/net/dev", "UP LOOPBACK\n1\n"},
		{"init", func(*specs.Spec) {}, "echo $$; tr '\\0' ' ' < /proc/1/cmdline | cut -c1-6; cat /proc/1/comm; true", "1\nsh -c \nsh\n"},
		{"arguments", func(s *specs.Spec) { s.Process.Args = append(s.Process.Args, "x", "a b", "", "c\nd") }, `printf '<%s>' "$@"`, "<a b><><c\nd>"},
		{"session", func(*specs.Spec) {}, "cut -d' ' -f5,6 /proc/1/stat", "1 1\n"},
	} {
		b := newBox(t, script(tt.script), tt.mutate)
		r := b.run()
		if r.Code != 0 || r.Stderr != "" || r.Stdout != tt.want {
			t.Errorf("%s: %q %q exit status %d, want %q", tt.name, r.Stdout, r.Stderr, r.Code, tt.want)
		}
	}
}

// The order in which PATH is searched, as the user who will run it.
func TestRootPathLookup(t *testing.T) {
	setup(t)
	b := newBox(t, func(s *specs.Spec) {
		s.Process.Env = []string{"PATH=/first:/second:/third"}
		s.Process.Args = []string{"prog"}
		s.Process.Cwd = "/tmp"
	})
	put := func(path, says string, mode os.FileMode) {
		if err := os.MkdirAll(b.rootfs(path, ".."), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(b.rootfs(path), []byte("#!/bin/sh\necho "+says+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(b.rootfs(path), mode); err != nil {
			t.Fatal(err)
		}
	}
	if r := b.run(); r.Code != 127 || !strings.Contains(r.Stderr, "executable file not found in $PATH") {
		t.Errorf("nowhere: %+v", r)
	}
	put("third/prog", "third", 0o755)
	if got := b.output(); got != "third\n" {
		t.Errorf("only in the third: %q", got)
	}
	put("second/prog", "second", 0o755)
	if got := b.output(); got != "second\n" {
		t.Errorf("in two: %q", got)
	}
	if err := os.MkdirAll(b.rootfs("first/prog"), 0o755); err != nil { // a directory is none
		t.Fatal(err)
	}
	if got := b.output(); got != "second\n" {
		t.Errorf("a directory before: %q", got)
	}
	if err := os.Remove(b.rootfs("first/prog")); err != nil {
		t.Fatal(err)
	}
	put("first/prog", "first", 0o644) // one that cannot be executed is none
	if got := b.output(); got != "second\n" {
		t.Errorf("not executable before: %q", got)
	}
	put("tmp/here", "here", 0o755)
	change(t, b.bundle, func(c map[string]any) { c["process"].(map[string]any)["args"] = []string{"./here"} })
	if got := b.output(); got != "here\n" {
		t.Errorf("relative to the working directory: %q", got)
	}
	put("second/mine", "mine", 0o700) // of root alone
	change(t, b.bundle, func(c map[string]any) {
		p := c["process"].(map[string]any)
		p["args"], p["user"] = []string{"mine"}, map[string]any{"uid": 1000, "gid": 1000}
		p["capabilities"] = map[string]any{}
	})
	if r := b.run(); r.Code != 126 && r.Code != 127 || !strings.Contains(r.Stderr, `exec: "mine"`) {
		t.Errorf("a program of another user: %+v", r)
	}
	b.gone()
}

func TestRootCapabilities(t *testing.T) {
	setup(t)
	// Numbers from capability.h: CHOWN 0, DAC_OVERRIDE 1, KILL 5, NET_BIND_SERVICE 10, NET_RAW 13.
	for _, tt := range []struct {
		name string
		uid  uint32
		caps *specs.LinuxCapabilities
		nnp  bool
		want string // CapInh CapPrm CapEff CapBnd CapAmb
	}{
		{"none", 0, &specs.LinuxCapabilities{}, true, "0 0 0 0 0"},
		{"no object", 0, nil, true, "0 0 0 0 0"},
		{"bounding for root", 0, &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN", "CAP_KILL"}}, false, "0 21 21 21 0"},
		{"all five for root", 0, &specs.LinuxCapabilities{
			Bounding: []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"}, Permitted: []string{"CAP_KILL", "CAP_CHOWN"}, Effective: []string{"CAP_KILL"},
			Inheritable: []string{"CAP_CHOWN"}, Ambient: []string{"CAP_CHOWN"},
		}, true, "1 21 21 2021 1"},
		{"a user has none", 1000, &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL"}}, true, "0 0 0 20 0"},
		{"a user with ambient", 1000, &specs.LinuxCapabilities{
			Bounding: []string{"CAP_NET_BIND_SERVICE", "CAP_KILL"}, Permitted: []string{"CAP_NET_BIND_SERVICE", "CAP_KILL"}, Effective: []string{"CAP_KILL"},
			Inheritable: []string{"CAP_NET_BIND_SERVICE"}, Ambient: []string{"CAP_NET_BIND_SERVICE"},
		}, true, "400 400 400 420 400"},
	} {
		b := newBox(t, func(s *specs.Spec) {
			s.Process.User = specs.User{UID: tt.uid, GID: tt.uid}
			s.Process.Capabilities, s.Process.NoNewPrivileges = tt.caps, tt.nnp
			s.Process.Args = []string{"cat", "/proc/self/status"}
		})
		s := statusOf(b.output())
		var got []string
		for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
			v := strings.TrimLeft(s[set], "0")
			if v == "" {
				v = "0"
			}
			got = append(got, v)
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, strings.Join(got, " "), tt.want)
		}
	}
}

func TestRootSeccomp(t *testing.T) {
	setup(t)
	eperm := uint(1)
	errno := uint(95) // EOPNOTSUPP
	profile := &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls: []specs.LinuxSyscall{
			{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: &errno},
			{Names: []string{"sethostname", "no_such_call_ever"}, Action: specs.ActErrno, ErrnoRet: &eperm},
			{Names: []string{"unlink", "unlinkat"}, Action: specs.ActKillProcess},
			{Names: []string{"dup2", "dup3"}, Action: specs.ActErrno, ErrnoRet: &errno, Args: []specs.LinuxSeccompArg{{Index: 1, Value: 77, Op: specs.OpEqualTo}}},
		},
	}
	for _, tt := range []struct {
		nnp bool
		uid uint32
	}{{true, 0}, {false, 0}, {true, 1000}, {false, 1000}} {
		b := newBox(t, func(s *specs.Spec) {
			s.Linux.Seccomp = profile
			s.Process.NoNewPrivileges = tt.nnp
			s.Process.User = specs.User{UID: tt.uid, GID: tt.uid}
			s.Process.Rlimits = nil
		}, script("mkdir /tmp/x; echo mkdir $?; grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status | tr '\\n' ' '; touch /tmp/f; (rm /tmp/f); echo rm $?"), writable)
		r := b.run()
		nnp := 0
		if tt.nnp {
			nnp = 1
		}
		want := fmt.Sprintf("mkdir 1\nNoNewPrivs:\t%d Seccomp:\t2 rm 159\n", nnp)
		if r.Stdout != want || !strings.Contains(r.Stderr, "Operation not supported") {
			t.Errorf("%+v: %+v, want %q", tt, r, want)
		}
	}
	// exec is under the same filter.
	b := newBox(t, forever, func(s *specs.Spec) { s.Linux.Seccomp = profile }).up()
	if r := b.exec("mkdir", "/tmp/y"); r.Code != 1 || !strings.Contains(r.Stderr, "Operation not supported") {
		t.Errorf("exec: %+v", r)
	}
	if r := b.exec("rm", "/etc/passwd"); r.Code != 159 {
		t.Errorf("exec of something that kills: %+v", r)
	}
	// One that forbids all but the execution of the program: it is loaded last.
	tight := newBox(t, func(s *specs.Spec) {
		s.Process.Args = []string{"true"}
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{
			Names:  []string{"execve", "brk", "arch_prctl", "set_tid_address", "set_robust_list", "rseq", "prlimit64", "readlinkat", "readlink", "getrandom", "mprotect", "exit_group", "getuid", "mmap", "write", "uname", "setuid", "getgid", "setgid", "prctl"},
			Action: specs.ActAllow,
		}}}
	})
	if r := tight.run(); r.Code != 0 {
		t.Errorf("a tight filter: %+v", r)
	}
}
