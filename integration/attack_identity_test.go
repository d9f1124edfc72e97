package integration

import (
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// R3, R20, CVE-2016-8867, CVE-2022-29162: the five capability sets of create and
// exec, for root and others.
func TestRootAttackCapabilities(t *testing.T) {
	setup(t)
	const status = "grep Cap /proc/self/status"
	none := sbCapMask()
	kill, both := sbCapMask("CAP_KILL"), sbCapMask("CAP_KILL", "CAP_CHOWN")
	plain := &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"}}
	ambient := &specs.LinuxCapabilities{
		Bounding: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"},
		Inheritable: []string{"CAP_KILL"}, Ambient: []string{"CAP_KILL"},
	}
	// Not in the permitted set, so it must not come into any other that counts.
	odd := &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}, Effective: []string{"CAP_CHOWN"}, Ambient: []string{"CAP_CHOWN"}}
	for _, c := range []struct {
		name string
		caps *specs.LinuxCapabilities
		uid  uint32
		exec []string  // nil: create
		want [5]string // inheritable, permitted, effective, bounding, ambient
	}{
		{"create root", plain, 0, nil, [5]string{none, kill, kill, kill, none}},
		{"create user", plain, 1000, nil, [5]string{none, none, none, kill, none}},
		{"create user ambient", ambient, 1000, nil, [5]string{kill, kill, kill, kill, kill}},
		{"create without", nil, 0, nil, [5]string{none, none, none, none, none}},
		{"create odd", odd, 1000, nil, [5]string{none, none, none, kill, none}},
		{"exec root", plain, 0, []string{}, [5]string{none, kill, kill, kill, none}},
		{"exec user", plain, 0, []string{"-u", "1000:1000"}, [5]string{none, none, none, kill, none}},
		{"exec root of a user's", plain, 1000, []string{"-u", "0:0"}, [5]string{none, kill, kill, kill, none}},
		{"exec root cap", plain, 0, []string{"--cap", "CAP_CHOWN"}, [5]string{none, both, both, both, none}},
		{"exec user cap", plain, 0, []string{"-u", "1000", "--cap", "CAP_CHOWN"}, [5]string{none, none, none, both, none}},
		{"exec user ambient", ambient, 0, []string{"-u", "1000"}, [5]string{kill, kill, kill, kill, kill}},
		{"exec user ambient cap", ambient, 0, []string{"-u", "1000", "--cap", "CAP_CHOWN"}, [5]string{kill, kill, kill, both, kill}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t, func(s *specs.Spec) {
				s.Process.NoNewPrivileges = false
				s.Process.Capabilities = c.caps
				s.Process.User = specs.User{UID: c.uid, GID: c.uid}
				script(status)(s)
				if c.exec != nil {
					forever(s)
				}
			})
			var out string
			if c.exec == nil {
				out = b.run().Stdout
			} else {
				b.up()
				out = b.execOut(append(append(slices.Clone(c.exec), "--"), "sh", "-c", status)...)
			}
			var got [5]string
			for i, l := range lines(out) {
				if i < 5 && len(strings.Fields(l)) == 2 {
					got[i] = strings.Fields(l)[1]
				}
			}
			if got != c.want {
				t.Errorf("inheritable, permitted, effective, bounding, ambient\n\thave %v\n\twant %v", got, c.want)
			}
		})
	}
}

// CVE-2022-24769: a program with inheritable file capabilities gives a user
// nothing, unless the process has them in its inheritable set.
func TestRootAttackFileCapabilities(t *testing.T) {
	setup(t)
	for _, inheritable := range []bool{false, true} {
		caps := &specs.LinuxCapabilities{Bounding: []string{"CAP_NET_RAW"}, Effective: []string{"CAP_NET_RAW"}, Permitted: []string{"CAP_NET_RAW"}}
		want := sbCapMask()
		if inheritable { // the control
			caps.Inheritable = []string{"CAP_NET_RAW"}
			want = sbCapMask("CAP_NET_RAW")
		}
		mutate := func(s *specs.Spec) {
			s.Process.NoNewPrivileges = false
			s.Process.Capabilities = caps
			s.Process.User = specs.User{UID: 1000, GID: 1000}
		}
		raise := func(b *ociBox) {
			data, err := os.ReadFile(b.rootfs("bin/busybox"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(b.rootfs("raise"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(b.rootfs("raise/grep"), data, 0o755); err != nil {
				t.Fatal(err)
			}
			var v [20]byte // struct vfs_cap_data, version 2, effective: linux/capability.h
			binary.LittleEndian.PutUint32(v[:], 0x02000001)
			binary.LittleEndian.PutUint32(v[8:], 1<<unix.CAP_NET_RAW)
			if err := unix.Setxattr(b.rootfs("raise/grep"), "security.capability", v[:], 0); err != nil {
				t.Fatal(err)
			}
		}
		run := newBox(t, mutate, func(s *specs.Spec) { s.Process.Args = []string{"/raise/grep", "CapPrm", "/proc/self/status"} })
		raise(run)
		if got := run.output(); got != "CapPrm:\t"+want+"\n" {
			t.Errorf("run, inheritable %v: %q, want %s", inheritable, got, want)
		}
		up := newBox(t, mutate, forever)
		raise(up)
		up.up()
		if got := up.execOut("/raise/grep", "CapPrm", "/proc/self/status"); got != "CapPrm:\t"+want+"\n" {
			t.Errorf("exec, inheritable %v: %q, want %s", inheritable, got, want)
		}
	}
}

// atJunkUsers are users that something took for root once: CVE-2016-3697,
// CVE-2024-40635, CVE-2026-30892, CVE-2026-46680.
var atJunkUsers = []string{
	"", "root", "nobody", "-1", "-0", "+0", "+1", "0x0", "0x10", "00x", " 0", "0 ", "\t1", "1\n", "1.0", "1e3", "1_000", "4294967295", "4294967296",
	"18446744073709551616", "99999999999999999999999", "2147483648:x", ":", ":0", "0:", "1:", "1:-1", "1:4294967295", "1:4294967296",
	"1:2:3", "1::", "1000:root", "0;1", "1000,0", "٣", "１", "1\x00", "1000:1000:", "user:user",
}

// R18, R28: junk for a user never becomes root.
func TestRootAttackExecUser(t *testing.T) {
	setup(t)
	b := newBox(t, forever).up()
	for _, u := range atJunkUsers {
		if strings.Contains(u, "\x00") {
			continue // no argument of a program
		}
		r := b.exec("--user", u, "--", "sh", "-c", "id -u; id -g")
		if r.Code == 0 && u != "" {
			t.Errorf("exec -u %q runs: %q", u, r.Stdout)
		}
		if u != "" && !strings.Contains(r.Stderr, "invalid") {
			t.Errorf("exec -u %q: %+v, want an error about the id", u, r)
		}
	}
	for u, want := range map[string]string{"0": "0\n0\n", "1": "1\n0\n", "1000:7": "1000\n7\n", "2147483648:3000000000": "2147483648\n3000000000\n", "4294967294:4294967294": "4294967294\n4294967294\n"} {
		if got := b.execOut("--user", u, "--", "sh", "-c", "id -u; id -g"); got != want {
			t.Errorf("exec -u %s: %q, want %q", u, got, want)
		}
	}
}

// R21: names that leave their place.
func TestRootAttackNames(t *testing.T) {
	setup(t)
	b := newBox(t, forever)
	ids := []string{"", ".", "..", "../x", "a/b", "/abs", "a\nb", "a b", "a;b", "ä", ".hidden", "a\x01", strings.Repeat("x", 256), "-x/../y", "x\\y", "%2e%2e", "$(x)", "*"}
	for _, id := range ids {
		for _, verb := range []string{"create", "state", "delete", "kill", "exec"} {
			good := b.id
			b.id = id
			r := b.do(verb)
			switch verb {
			case "create":
				r = b.do(verb, "--bundle", b.bundle)
			case "exec":
				r = b.exec("true")
			}
			b.id = good
			if r.Code == 0 {
				t.Errorf("%s %q works", verb, id)
			}
		}
	}
	b.up()
	for _, path := range []string{"..", "../..", "/..", "a/../../..", "x/../..", ".", "/", "../" + b.id, "a\x01/..", strings.Repeat("../", 20)} {
		r := b.exec("--cgroup", path, "--", "cat", "/proc/self/cgroup")
		if r.Code != 0 {
			continue
		}
		inside := false
		for _, l := range lines(r.Stdout) {
			inside = inside || l == "0::/" || strings.HasPrefix(l, "0::/") && !strings.Contains(l, "..")
		}
		if !inside {
			t.Errorf("exec --cgroup %q runs outside of the container's cgroup: %q", path, r.Stdout)
		}
	}
	// The control: a path that does lead to another group.
	if r := b.exec("--cgroup", "nowhere", "--", "true"); r.Code == 0 || !strings.Contains(r.Stderr, "nowhere") {
		t.Errorf("exec --cgroup nowhere: %+v", r)
	}
	for _, cgroup := range []string{"/../../x", "../x", "/a/../../../x"} {
		bad := newBox(t, func(s *specs.Spec) { s.Linux.CgroupsPath = cgroup })
		if r := bad.run(); r.Code == 0 || !strings.Contains(r.Stderr, "cgroup") {
			t.Errorf("cgroupsPath %q: %+v", cgroup, r)
		}
	}
}
