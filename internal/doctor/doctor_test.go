package doctor

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/kfeature"
)

var update = flag.Bool("update", false, "write the golden files")

// files makes a root directory from a text: "== /path" lines, each followed by content.
func files(t *testing.T, text string) string {
	t.Helper()
	root := t.TempDir()
	for part := range strings.SplitSeq(text, "== ") {
		name, content, ok := strings.Cut(part, "\n")
		if !ok || name == "" {
			continue
		}
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o644)
		if strings.Contains(name, "/bin/") {
			mode = 0o755
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const healthy = `
== /proc/self/mountinfo
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
31 27 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
== /proc/self/limits
Limit                     Soft Limit           Hard Limit           Units
Max open files            1024                 524288               files
== /proc/self/status
Name:	minirun
CapBnd:	000001ffffffffff
== /proc/sys/kernel/cap_last_cap
40
== /proc/filesystems
nodev	overlay
	ext4
== /lib/modules/6.18.1-test/modules.dep
kernel/fs/erofs/erofs.ko.xz: kernel/lib/lz4.ko.xz
kernel/net/bridge/br_netfilter.ko.xz: kernel/net/bridge/bridge.ko.xz
kernel/net/bridge/bridge.ko.xz:
kernel/drivers/net/veth.ko.xz:
== /lib/modules/6.18.1-test/modules.builtin
kernel/net/netfilter/nf_tables.ko
== /sys/module/br_netfilter/refcnt
0
== /sys/fs/cgroup/cgroup.controllers
cpuset cpu io memory hugetlb pids rdma misc
== /sys/fs/cgroup/system.slice/memory.max
max
== /sys/fs/cgroup/system.slice/memory.swap.max
max
== /sys/kernel/security/lsm
lockdown,capability,landlock,apparmor
== /run/systemd/system/x
== /etc/passwd
root:x:0:0:root:/root:/bin/sh
== /etc/subuid
alice:100000:65536
root:200000:65536
== /etc/subgid
0:200000:65536
== /usr/bin/newuidmap
== /usr/bin/newgidmap
== /usr/bin/ps
== /usr/bin/criu
`

const hybrid = `
== /proc/self/mountinfo
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/uni\040fied rw,relatime - cgroup2 cgroup2 rw
== /proc/self/limits
Max open files            256                  512                  files
== /proc/self/status
CapBnd:	000001fffeffffff
== /proc/sys/kernel/cap_last_cap
40
== /proc/cgroups
#subsys_name	hierarchy	num_cgroups	enabled
pids	0	1	1
hugetlb	0	1	0
== /sys/fs/cgroup/uni fied/cgroup.controllers
cpuset
== /boot/config-6.1.0-9-test
# CONFIG_MODULES is not set
CONFIG_OVERLAY_FS=y
CONFIG_VETH=y
# CONFIG_BRIDGE is not set
CONFIG_NF_TABLES=m
`

const old = `
== /proc/self/mountinfo
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
== /proc/self/status
CapBnd:	00000000a80425fb
== /lib/modules/4.19.0-test/modules.dep
kernel/net/bridge/br_netfilter.ko: kernel/net/bridge/bridge.ko
kernel/net/bridge/bridge.ko:
== /proc/sys/kernel/modules_disabled
1
== /etc/subuid
bob:1:x
`

// probes answers for a kernel: everything whose version is above limit is missing.
func probes(major, minor int, odd map[*kfeature.Feature]error) func(*kfeature.Feature) error {
	return func(f *kfeature.Feature) error {
		if err, ok := odd[f]; ok {
			return err
		}
		kernel := strings.Split(f.MinKernel, ".")
		if !atLeast(strconv.Itoa(major)+"."+strconv.Itoa(minor), atoi(kernel[0]), atoi(kernel[1])) {
			return &kfeature.Error{Name: f.Name, MinKernel: f.MinKernel}
		}
		return nil
	}
}

func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

func hosts(t *testing.T) map[string]*host {
	return map[string]*host{
		"healthy": {root: files(t, healthy), release: "6.18.1-test", arch: "amd64", probe: probes(7, 0, nil)},
		"hybrid": {root: files(t, hybrid), release: "6.1.0-9-test", arch: "arm64", probe: probes(6, 1, map[*kfeature.Feature]error{
			kfeature.UserNamespaces: &kfeature.Error{Name: "user namespaces", Reason: "user.max_user_namespaces is 0"},
			kfeature.DeviceBPF:      &kfeature.ProbeError{Name: "cgroup device BPF", Err: kfeature.ErrNeedsRoot},
		})},
		"old": {root: files(t, old), release: "4.19.0-test", arch: "riscv64", uid: 1000, probe: probes(4, 19, map[*kfeature.Feature]error{
			kfeature.Overlay: unix.EIO,
		})},
	}
}

func TestGolden(t *testing.T) {
	for name, h := range hosts(t) {
		t.Run(name, func(t *testing.T) {
			checks := h.all()
			var text, colour, js bytes.Buffer
			for _, err := range []error{WriteText(&text, checks, false), WriteText(&colour, checks, true), WriteJSON(&js, checks)} {
				if err != nil {
					t.Fatal(err)
				}
			}
			golden(t, name+".txt.golden", text.Bytes())
			golden(t, name+".json.golden", js.Bytes())
			plain := regexp.MustCompile("\x1b\\[[0-9]*m").ReplaceAllString(colour.String(), "")
			if plain != text.String() || colour.Len() == text.Len() {
				t.Error("coloured text is not the plain text with colours")
			}
		})
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs, got:\n%s", path, got)
	}
}

func TestFailed(t *testing.T) {
	want := map[string]bool{"healthy": false, "hybrid": false, "old": true}
	for name, h := range hosts(t) {
		if got := failed(h.all()); got != want[name] {
			t.Errorf("%s: failed is %v, want %v", name, got, want[name])
		}
	}
	// Not knowing whether something required is there is no failure.
	h := hosts(t)["healthy"]
	h.probe = func(f *kfeature.Feature) error {
		return &kfeature.ProbeError{Name: f.Name, Err: kfeature.ErrNeedsRoot}
	}
	if failed(h.all()) {
		t.Error("unknown counts as missing")
	}
}

// TestNames: names are an interface, so they are unique and not empty, and
// everything that is not there says what that means.
func TestNames(t *testing.T) {
	for host, h := range hosts(t) {
		seen := map[string]bool{}
		for _, c := range h.all() {
			if c.Name == "" || c.group == "" || seen[c.Name] {
				t.Errorf("%s: check %+v: name empty or not unique", host, c)
			}
			seen[c.Name] = true
			if c.State == Missing && c.Lost == "" {
				t.Errorf("%s: %s is missing and says not what is lost", host, c.Name)
			}
			if c.State == OK && (c.Lost != "" || c.Hint != "") {
				t.Errorf("%s: %s is there and says that something is lost", host, c.Name)
			}
		}
	}
	for _, f := range kfeature.All() {
		if _, lost, _ := use(f); lost == "" {
			t.Errorf("nothing is said about a kernel without %s", f.Name)
		}
	}
}

func TestParseCgroupMounts(t *testing.T) {
	tests := []struct{ name, mountinfo, want string }{
		{"none", "27 1 254:0 / / rw - ext4 /dev/vda rw\n", "not mounted"},
		{"v2", "31 27 0:28 / /sys/fs/cgroup rw - cgroup2 none rw\n", "version 2 at /sys/fs/cgroup"},
		{"v2 twice", "31 27 0:28 / /a rw - cgroup2 none rw\n32 27 0:28 / /b rw - cgroup2 none rw\n", "version 2 at /a"},
		{"v1", "32 31 0:29 / /c rw - cgroup cgroup rw,cpu\n", "version 1 only"},
		{"named", "32 31 0:29 / /c rw - cgroup cgroup rw,name=systemd\n", "version 1 only"},
		{"hybrid", "32 31 0:29 / /c rw - cgroup cgroup rw,name=systemd\n33 31 0:30 / /d rw - cgroup2 cgroup rw\n", "hybrid: version 2 at /d, version 1 beside it"},
		{"garbage", "\n - cgroup2\nx - cgroup2 x\n1 2 3 4 5 - cgroup2 a b\n", "not mounted"},
	}
	for _, tt := range tests {
		if got := parseCgroupMounts(tt.mountinfo).String(); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
	if got := parseCgroupMounts("32 31 0:29 / /a\\040b rw - cgroup cgroup rw,cpu,cpuacct,xattr\n").v1; len(got) != 2 || got["cpu"] != "/a b" || got["cpuacct"] != "/a b" {
		t.Errorf("v1 controllers: got %v", got)
	}
}

func TestAtLeast(t *testing.T) {
	tests := []struct {
		release string
		want    bool
	}{
		{"5.14.0", true}, {"5.14-rc1", true}, {"5.13.19", false}, {"6.1.0-37-amd64", true}, {"4.20", false}, {"10.0", true}, {"", false}, {"x.y", false},
	}
	for _, tt := range tests {
		if got := atLeast(tt.release, 5, 14); got != tt.want {
			t.Errorf("atLeast(%q, 5, 14) = %v, want %v", tt.release, got, tt.want)
		}
	}
}

func TestMain_Usage(t *testing.T) {
	tests := []struct {
		args   []string
		code   int
		stderr string
	}{
		{[]string{"--help"}, 0, ""},
		{[]string{"--format", "yaml"}, 2, "minirun: doctor: unknown format \"yaml\"\nhint: text and json are known\n"},
		{[]string{"x"}, 2, "minirun: doctor: unexpected argument \"x\"\n"},
		{[]string{"--nope"}, 2, "minirun: doctor: flag provided but not defined: -nope\n"},
	}
	for _, tt := range tests {
		var stdout, stderr bytes.Buffer
		if code := Main(tt.args, &stdout, &stderr); code != tt.code || stderr.String() != tt.stderr {
			t.Errorf("doctor %v: %d, %q, want %d, %q", tt.args, code, stderr.String(), tt.code, tt.stderr)
		}
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, unix.ENOSPC }

// TestMain_Host runs it for real, in both forms.
func TestMain_Host(t *testing.T) {
	var text, js, stderr bytes.Buffer
	code := Main(nil, &text, &stderr)
	again := Main([]string{"--format=json"}, &js, &stderr)
	if code != again || code > 1 || stderr.Len() != 0 {
		t.Fatalf("status %d and %d, stderr %q", code, again, stderr.String())
	}
	if bytes.ContainsRune(text.Bytes(), 0x1b) {
		t.Error("colours although the output is no terminal")
	}
	var members []map[string]any
	if err := json.Unmarshal(js.Bytes(), &members); err != nil {
		t.Fatal(err)
	}
	if len(members) < 50 {
		t.Errorf("%d checks", len(members))
	}
	for _, m := range members {
		if len(m) != 6 {
			t.Errorf("check %v has not exactly the members name, state, required, detail, lost, hint", m)
		}
		if line := m["state"].(string); !strings.Contains(text.String(), "  "+line) || !strings.Contains(text.String(), m["name"].(string)) {
			t.Errorf("check %v is not in the text", m["name"])
		}
	}
	if code := Main(nil, fullDisk{}, &stderr); code != 1 || !strings.Contains(stderr.String(), "no space left") {
		t.Errorf("full disk: status %d, stderr %q", code, stderr.String())
	}
}

// TestColoured: a terminal gets colours unless its user says no.
func TestColoured(t *testing.T) {
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer ptmx.Close()
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	if !coloured(ptmx) {
		t.Error("no colours on a terminal")
	}
	if coloured(&bytes.Buffer{}) {
		t.Error("colours in a buffer")
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if coloured(null) {
		t.Error("colours in /dev/null")
	}
	t.Setenv("NO_COLOR", "1")
	if coloured(ptmx) {
		t.Error("colours in spite of NO_COLOR")
	}
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "dumb")
	if coloured(ptmx) {
		t.Error("colours on a dumb terminal")
	}
}

// TestRootHost: on this host, as root, containers run.
func TestRootHost(t *testing.T) {
	for _, c := range Checks() {
		if c.Required && c.State != OK {
			t.Errorf("%+v", c)
		}
	}
}

// What an ordinary user needs beside that.
func TestUser(t *testing.T) {
	const found = healthy + `== /run/user/7/systemd/private
== /proc/self/cgroup
1:cpu:/
0::/user.slice/mine/leaf
== /sys/fs/cgroup/user.slice/mine/cgroup.procs
`
	tests := []struct {
		name, files string
		env         map[string]string
		want        string
	}{
		{"all", found, map[string]string{"XDG_RUNTIME_DIR": "/run/user/7"}, "XDG_RUNTIME_DIR ok, systemd of the user ok, cgroup of the user ok: groups can be made in /sys/fs/cgroup/user.slice/mine"},
		{"a bus", found, map[string]string{"XDG_RUNTIME_DIR": "/elsewhere", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/x"}, "XDG_RUNTIME_DIR ok, systemd of the user unknown, cgroup of the user ok: groups can be made in /sys/fs/cgroup/user.slice/mine"},
		{"nothing", healthy + "== /proc/self/cgroup\n0::/elsewhere\n", nil, "XDG_RUNTIME_DIR missing, systemd of the user missing, cgroup of the user missing: no group can be made beside or below ours"},
		{"no cgroup", healthy, nil, "XDG_RUNTIME_DIR missing, systemd of the user missing, cgroup of the user unknown: open /proc/self/cgroup: no such file or directory"},
	}
	for _, tt := range tests {
		h := &host{root: files(t, tt.files), release: "6.18.1-test", arch: "amd64", uid: 7, env: tt.env, probe: probes(7, 0, nil)}
		var got []string
		for _, c := range h.all() {
			if c.Name == "XDG_RUNTIME_DIR" || strings.HasSuffix(c.Name, "of the user") {
				got = append(got, c.Name+" "+string(c.State))
				if c.Name == "cgroup of the user" {
					got[len(got)-1] += ": " + c.Detail
				}
			}
		}
		if text := strings.Join(got, ", "); text != tt.want {
			t.Errorf("%s:\n%s, want\n%s", tt.name, text, tt.want)
		}
	}
}
