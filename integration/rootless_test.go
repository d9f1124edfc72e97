package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/internal/testenv"
)

// The life of a container of a user who has one id and no helpers.
func TestRootRootlessLife(t *testing.T) {
	setup(t)
	adj := 500
	u := newUserBox(t, nil, func(s *specs.Spec) {
		s.Process.OOMScoreAdj = &adj
		s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}} // cannot be loaded, as in runc
	}).up()
	out := u.must("exec", u.id, "sh", "-c", `id -u; id -g; cat /proc/self/setgroups /proc/1/oom_score_adj /proc/self/oom_score_adj
echo x > /dev/null && head -c 2 /dev/zero | od -An -tx1
mknod /tmp/sda b 8 0 2>/dev/null || mkdir /sys/fs/cgroup/mine 2>/dev/null || echo closed`)
	if want := "0\n0\ndeny\n500\n500\n 00 00\nclosed\n"; out != want {
		t.Errorf("inside: %q, want %q", out, want)
	}
	var state ociState
	if err := json.Unmarshal([]byte(u.must("state", u.id)), &state); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(*state.Pid)
	if got := strings.Join(strings.Fields(readFile(t, "/proc/"+pid+"/uid_map")), " "); got != "0 54321 1" {
		t.Errorf("uid_map %q", got)
	}
	if s := statusOf(readFile(t, "/proc/"+pid+"/status")); s["Uid"] != "54321 54321 54321 54321" {
		t.Errorf("on the host: uid %s", s["Uid"])
	}
	if got := u.must("list", "-q"); got != u.id+"\n" {
		t.Errorf("list: %q", got)
	}
	for _, args := range [][]string{{"pause", u.id}, {"ps", u.id}, {"kill", "--all", u.id, "TERM"}} {
		if r := u.do(args...); r.Code != 1 || !strings.Contains(r.Stderr, "has no cgroup") || !strings.Contains(r.Stderr, "hint: ") {
			t.Errorf("%v without a cgroup: %+v", args, r)
		}
	}
	u.must("kill", u.id, "KILL")
	eventually(t, "the container stops", func() bool { return strings.Contains(u.must("state", u.id), "stopped") })
	u.must("delete", u.id)
	if r := u.do("run", "--bundle", u.bundle, "--detach", u.id); r.Code != 0 {
		t.Errorf("run: %+v", r)
	}
	u.must("delete", "--force", u.id)
	if left, _ := os.ReadDir(u.root); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// With newuidmap and newgidmap a user has as many ids as /etc/subuid says.
func TestRootRootlessHelpers(t *testing.T) {
	setup(t)
	maps := []specs.LinuxIDMapping{{ContainerID: 0, HostID: userID, Size: 1}, {ContainerID: 1, HostID: userFirst, Size: 65536}}
	u := newUserBox(t, maps, func(s *specs.Spec) {
		s.Process.User.AdditionalGids = []uint32{7, 29}
	})
	// What is in PATH is nobody's promise: this one would be found first.
	evil := u.dir + "/newuidmap"
	if err := os.WriteFile(evil, []byte("#!/bin/sh\ntouch "+u.dir+"/executed\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	u.env = []string{"PATH=" + u.dir + ":" + os.Getenv("PATH")}
	u.up()
	if _, err := os.Stat(u.dir + "/executed"); err == nil {
		t.Error("a newuidmap in PATH was executed")
	}
	got := u.must("exec", u.id, "sh", "-c", "tr -s ' ' </proc/self/uid_map; cat /proc/self/setgroups; id -G; stat -c %g /dev/pts/ptmx; ls -ld /dev/pts | wc -l")
	if want := " 0 54321 1\n 1 600000 65536\nallow\n0 7 29\n0\n1\n"; got != want {
		t.Errorf("inside: %q, want %q", got, want)
	}
	if got := u.must("exec", "-u", "1000:1000", u.id, "id", "-u"); got != "1000\n" {
		t.Errorf("another user: %q", got)
	}
	u.must("delete", "--force", u.id)
	for _, missing := range []string{"", "tester:600000:100\n", "other:600000:65536\n"} {
		u.subordinate = missing
		u.refused("linux.uidMappings: newuidmap: ", "hint: ids 600000 to 665535 are not this user's: as root, add the line tester:600000:65536 to /etc/subuid")
	}
}

// What an ordinary user cannot have is refused with the field, and nothing is left.
func TestRootRootlessRefused(t *testing.T) {
	setup(t)
	memory := int64(32 << 20)
	for _, tt := range []struct {
		name   string
		change func(*specs.Spec)
		want   []string
	}{
		{"no user namespace", func(s *specs.Spec) {
			share(specs.UserNamespace)(s)
			s.Linux.UIDMappings, s.Linux.GIDMappings = nil, nil
		}, []string{"linux.namespaces: rootless containers require user namespaces", "hint: add {\"type\": \"user\"}"}},
		{"groups", func(s *specs.Spec) { s.Process.User.AdditionalGids = []uint32{0} }, []string{
			"process.user.additionalGids: cannot set any additional groups in a rootless container",
		}},
		{"limit", func(s *specs.Spec) { s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &memory} }, []string{
			"linux.resources.memory.limit: no permission is granted for cgroups", "hint: have a group delegated: start minirun with systemd-run --user --scope -p Delegate=yes",
		}},
		{"path", func(s *specs.Spec) { s.Linux.CgroupsPath = "/minirun-nobody/x" }, []string{
			"linux.cgroupsPath: no permission is granted for cgroups", "permission denied", "hint: have a group delegated",
		}},
		{"sbin", func(s *specs.Spec) {
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 0, Size: 1}}
		}, []string{"linux.uidMappings: newuidmap", "ids 0 to 0 are not this user's"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			newUserBox(t, nil, tt.change).refused(tt.want...)
		})
	}
}

// Ids of mounts are mapped by those whose user namespace the file system belongs
// to. A user has no right to that for a file system of the host, which is told;
// nothing is left. Of a new file system it is the container's own.
func TestRootRootlessIDMap(t *testing.T) {
	setup(t)
	maps := []specs.LinuxIDMapping{{ContainerID: 0, HostID: userID, Size: 1}, {ContainerID: 1, HostID: userFirst, Size: 1000}}
	for _, tt := range []struct {
		name  string
		mount specs.Mount
		want  []string
	}{
		{"the container's mapping", specs.Mount{Destination: "/mnt", Source: "/tmp", Options: []string{"bind", "idmap"}}, []string{"idmapped mount", "hint: "}},
		{"one of its own", specs.Mount{Destination: "/mnt", Source: "/tmp", Options: []string{"bind"}, UIDMappings: mapped(0, 1, 1), GIDMappings: mapped(0, 1, 1)}, []string{"idmapped mount", "hint: "}},
		{"a new file system", specs.Mount{Destination: "/mnt", Type: "tmpfs", Source: "tmpfs", UIDMappings: mapped(0, 1, 1), GIDMappings: mapped(0, 1, 1)}, []string{"idmapped mount", "hint: "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			newUserBox(t, maps, func(s *specs.Spec) { s.Mounts = append(s.Mounts, tt.mount) }).refused(tt.want...)
		})
	}
}

// The default of --root, and --rootless as engines give it.
func TestRootRootlessDirectories(t *testing.T) {
	setup(t)
	u := newUserBox(t, nil, script("echo hello"))
	with := func(dir string, args ...string) testenv.Result {
		u.env = []string{"XDG_RUNTIME_DIR=" + dir}
		return u.command(append([]string{u.bin()}, args...)...)
	}
	if r := with("", "list"); r.Code != 1 || !strings.Contains(r.Stderr, "XDG_RUNTIME_DIR is not set") || !strings.Contains(r.Stderr, "hint: ") {
		t.Errorf("without XDG_RUNTIME_DIR: %+v", r)
	}
	if r := with("relative", "list"); r.Code != 1 || !strings.Contains(r.Stderr, "not an absolute path") {
		t.Errorf("with a relative XDG_RUNTIME_DIR: %+v", r)
	}
	if r := with(u.dir, "run", "--keep", "--bundle", u.bundle, u.id); r.Code != 0 || r.Stdout != "hello\n" {
		t.Errorf("run: %+v", r)
	}
	st, err := os.Stat(filepath.Join(u.dir, "minirun"))
	if err != nil || st.Mode() != os.ModeDir|os.ModeSticky|0o700 {
		t.Errorf("state root: %v, %v", st.Mode(), err)
	}
	if r := with(u.dir, "delete", u.id); r.Code != 0 {
		t.Errorf("delete: %+v", r)
	}
	for _, v := range []string{"auto", "true"} {
		if r := with(u.dir, "--rootless", v, "run", "--bundle", u.bundle, u.id); r.Code != 0 {
			t.Errorf("--rootless %s: %+v", v, r)
		}
	}
	// Told that we are not, missing privileges are errors.
	if r := with(u.dir, "--rootless=false", "run", "--bundle", u.bundle, u.id); r.Code != 1 || !strings.Contains(r.Stderr, "permission denied") {
		t.Errorf("--rootless=false: %+v", r)
	}
	if r := with(u.dir, "--rootless=maybe", "list"); r.Code != 1 || !strings.Contains(r.Stderr, "want auto, true or false") {
		t.Errorf("--rootless=maybe: %+v", r)
	}
}

// Where the host's namespaces are shared, its file systems stand in for those
// that cannot be mounted, and none can be written to (CVE-2023-25809).
func TestRootRootlessSharedNamespaces(t *testing.T) {
	setup(t)
	group := userCgroup(t, cgroupMounts()[0])
	for _, rbind := range []bool{false, true} {
		u := newUserBox(t, nil, share(specs.NetworkNamespace, specs.IPCNamespace, specs.CgroupNamespace), func(s *specs.Spec) {
			for i := range s.Mounts {
				if m := &s.Mounts[i]; rbind && m.Destination == "/sys" {
					*m = specs.Mount{Destination: "/sys", Type: "none", Source: "/sys", Options: []string{"rbind", "nosuid", "noexec", "nodev", "ro"}}
				}
			}
			if _, err := os.Stat("/dev/mqueue"); err != nil { // nothing to stand in for it
				s.Mounts[4] = specs.Mount{Destination: "/dev/mqueue", Type: "tmpfs", Source: "tmpfs"}
			}
			if rbind {
				s.Mounts = s.Mounts[:len(s.Mounts)-1] // no cgroup mount over it
			}
		})
		u.cgroup = group + "/leaf"
		u.up()
		out := u.must("exec", u.id, "sh", "-c", `ls /sys/class/net | head -1; ls -d /sys/kernel
find /sys -name cgroup.procs 2>/dev/null | head -1 | grep -c .
for d in $(find /sys/fs/cgroup -name cgroup.procs 2>/dev/null); do mkdir "${d%/*}/mine" 2>/dev/null && echo "made ${d%/*}/mine"; done; mount | grep -c ' /dev/mqueue '`)
		if !strings.Contains(out, "/sys/kernel\n1\n") || strings.Contains(out, "made") || !strings.HasSuffix(out, "1\n") {
			t.Errorf("rbind %v: inside: %q", rbind, out)
		}
		u.must("delete", "--force", u.id)
	}
}

// A cgroup of the user's own: beside the one that minirun is in.
func TestRootRootlessDelegated(t *testing.T) {
	setup(t)
	group := userCgroup(t, cgroupMounts()[0])
	u := newUserBox(t, nil)
	u.cgroup = group + "/leaf"
	u.up()
	if _, err := os.Stat(group + "/minirun-" + u.id); err != nil {
		t.Fatal(err)
	}
	u.must("pause", u.id)
	u.wantStatus("paused")
	u.must("resume", u.id)
	if got := u.must("exec", u.id, "cat", "/proc/self/cgroup"); !strings.Contains(got, "0::/\n") {
		t.Errorf("exec is in cgroup %q", got)
	}
	if got := strings.Count(u.must("ps", "--format", "json", u.id), ","); got < 1 {
		t.Errorf("ps has %d processes", got+1)
	}
	u.must("delete", "--force", u.id)
	if _, err := os.Stat(group + "/minirun-" + u.id); err == nil {
		t.Error("the cgroup is left")
	}
}

// Root of a user namespace, as rootless podman calls its runtime: with all ids of
// the namespace and no other privilege.
func TestRootRootlessInUserNamespace(t *testing.T) {
	setup(t)
	b := newBox(t, script("id -u; id -G; cat /proc/self/uid_map | tr -s ' '; echo x >/dev/null; head -c 1 /dev/zero | od -An -tx1; ls /sys/class/net"), func(s *specs.Spec) {
		s.Linux.CgroupsPath = ""
		adj := -100
		s.Process.OOMScoreAdj = &adj // cannot be lowered, as in runc
		for i := range s.Mounts {
			if m := &s.Mounts[i]; m.Type == "devpts" {
				m.Options = append(m.Options[:len(m.Options)-1:len(m.Options)-1], "gid=70000") // mapped to nobody
			}
		}
	})
	root := filepath.Join(filepath.Dir(b.bundle), "state")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(root, 100000, 100000); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(filepath.Dir(b.bundle), "minirun")
	if err := os.WriteFile(bin, []byte(readFile(t, testenv.Binary(t))), 0o755); err != nil {
		t.Fatal(err)
	}
	for d := b.bundle; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) testenv.Result {
		cmd := testenv.Command(t, append([]string{"--root", root}, args...)...)
		cmd.Path, cmd.Dir = bin, "/"
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
			Credential: &syscall.Credential{},
		}
		return testenv.RunCmd(t, cmd)
	}
	want := "0\n0\n 0 100000 65536\n 00\nlo\n"
	if r := run("run", "--bundle", b.bundle, b.id); r.Code != 0 || r.Stdout != want {
		t.Errorf("got %+v, want %q", r, want)
	}
	// The container may have a user namespace of its own in it.
	change(t, b.bundle, func(c map[string]any) {
		l := c["linux"].(map[string]any)
		l["namespaces"] = append(l["namespaces"].([]any), map[string]any{"type": "user"})
		m := []any{map[string]any{"containerID": 0, "hostID": 1000, "size": 500}}
		l["uidMappings"], l["gidMappings"] = m, m
	})
	want = "0\n0\n 0 1000 500\n 00\nlo\n"
	if r := run("run", "--bundle", b.bundle, b.id); r.Code != 0 || r.Stdout != want {
		t.Errorf("nested: got %+v, want %q", r, want)
	}
}

// userCgroup is a group of the user's with a child to start minirun in.
func userCgroup(t testing.TB, parent string) string {
	t.Helper()
	group := filepath.Join(parent, testenv.UniqueID(t))
	testenv.Own(t, group)
	for _, d := range []string{group, group + "/leaf"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(d); err != nil {
				t.Error(err)
			}
		})
		for _, f := range []string{"", "/cgroup.procs", "/cgroup.subtree_control", "/cgroup.threads"} {
			if err := os.Chown(d+f, userID, userID); err != nil {
				t.Fatal(err)
			}
		}
	}
	return group
}

// The limits of a delegated group hold.
func TestVMRootlessLimits(t *testing.T) {
	setup(t)
	// Limits need controllers, and those the administrator has to hand down.
	above := filepath.Join(cgroupMounts()[0], testenv.UniqueID(t))
	if err := os.Mkdir(above, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(above); err != nil {
			t.Error(err)
		}
	})
	group := userCgroup(t, above)
	limit, pids := int64(24<<20), int64(20)
	u := newUserBox(t, nil, limArgs("eat", "64m"), func(s *specs.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
		s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
	})
	u.cgroup = group + "/leaf"
	u.refused("controller \"memory\" is not available for linux.resources.memory.limit: parent cgroup", "does not delegate it", "hint: enable it there")
	writeFile(t, above+"/cgroup.subtree_control", "+memory +pids")
	if err := os.Link(u.bin(), filepath.Join(u.bundle, "rootfs/bin/eat")); err != nil {
		t.Fatal(err)
	}
	if r := u.do("run", "--bundle", u.bundle, u.id); r.Code != 137 || !strings.Contains(r.Stderr, "the memory limit of "+strconv.FormatInt(limit, 10)+" bytes was reached") {
		t.Errorf("above the memory limit: %+v", r)
	}
	change(t, u.bundle, func(c map[string]any) {
		c["process"].(map[string]any)["args"] = []string{"sh", "-c", "for i in $(seq 30); do sleep 100 & done; wait"}
	})
	if r := u.do("run", "--bundle", u.bundle, u.id); r.Code == 0 || !strings.Contains(r.Stderr, "fork") {
		t.Errorf("above the limit of processes: %+v", r)
	}
}
