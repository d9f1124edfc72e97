package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/internal/testenv"
)

const userRuntimeDir = "/run/user/54321"

// userUnits are what a systemd needs for a systemd of the user: a message bus, and
// user@.service as Debian has it, but without logind and PAM.
func userUnits(t testing.TB, dir string) {
	t.Helper()
	writeFile(t, dir+"/passwd", readFile(t, "/etc/passwd")+"tester:x:"+strconv.Itoa(userID)+":"+strconv.Itoa(userID)+"::/:/bin/sh\n")
	writeFile(t, dir+"/dbus.socket", "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/dbus/system_bus_socket\n")
	writeFile(t, dir+"/dbus.service", `[Unit]
DefaultDependencies=no
Requires=dbus.socket
[Service]
Type=notify
ExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile
`)
	user := filepath.Join(dir, "user")
	if err := os.Mkdir(user, 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, user+"/test.target", "[Unit]\nDefaultDependencies=no\n")
	writeFile(t, dir+"/user@.service", `[Unit]
DefaultDependencies=no
Wants=dbus.service
After=dbus.service
[Service]
User=%i
Type=notify
Slice=user-%i.slice
Delegate=pids memory cpu
KillMode=mixed
ExecStartPre=+/usr/bin/install -d -m 700 -o %i -g %i /run/user /run/user/%i
ExecStartPre=+/bin/chmod 755 /run/user
Environment=XDG_RUNTIME_DIR=/run/user/%i SYSTEMD_LOG_TARGET=console SYSTEMD_UNIT_PATH=`+user+`:/run/user/%i/systemd/transient
ExecStart=/lib/systemd/systemd --user --unit=test.target
`)
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// asUser runs a command as the user in a session of its own, in a cgroup that is
// not below the user's systemd.
func (s *innerSystemd) asUser(args []string) *exec.Cmd {
	uid := strconv.Itoa(userID)
	return s.command(append([]string{
		"setpriv", "--reuid", uid, "--regid", uid, "--clear-groups",
		"env", "XDG_RUNTIME_DIR=" + userRuntimeDir,
	}, args...)...)
}

// The systemd driver as an ordinary user, with the user's own systemd below the
// system's, from a session outside of it and from a scope inside.
func TestVMRootlessSystemd(t *testing.T) {
	setup(t)
	s := bootSystemd(t)
	if r := s.in("systemctl", "start", "user@"+strconv.Itoa(userID)+".service"); r.Code != 0 {
		t.Fatalf("the user's systemd does not start: %+v", r)
	}
	limit, pids, quota, period := int64(32<<20), int64(30), int64(50000), uint64(100000)
	u := newUserBox(t, nil, func(c *specs.Spec) {
		c.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
		c.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
		c.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
		c.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat /proc/self/cgroup > /hook"}}}}
		c.Root.Readonly = false
	})
	if err := os.Link(u.bin(), filepath.Join(u.bundle, "rootfs/bin/eat")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(u.bundle, "rootfs"), userID, userID); err != nil {
		t.Fatal(err)
	}
	u.via = s.asUser
	do := func(args ...string) testenv.Result {
		t.Helper()
		return u.do(append([]string{"--systemd-cgroup"}, args...)...)
	}
	must := func(args ...string) string {
		t.Helper()
		return u.must(append([]string{"--systemd-cgroup"}, args...)...)
	}
	manager := func(args ...string) testenv.Result {
		t.Helper()
		return u.command(append([]string{"systemctl", "--user"}, args...)...)
	}
	unit := "minirun-" + u.id + ".scope"
	show := func(properties string) string {
		t.Helper()
		return strings.TrimSpace(strings.ReplaceAll(manager("show", unit, "--property", properties).Stdout, "\n", " "))
	}
	group := s.group + "/user.slice/user-54321.slice/user@54321.service/user.slice/" + unit
	read := func(file string) string { return strings.TrimSpace(readFile(t, group+"/"+file)) }

	must("create", "--bundle", u.bundle, u.id)
	want := []string{
		"ControlGroup=" + strings.TrimPrefix(group, s.group), "Delegate=yes", "MemoryMax=33554432", "TasksMax=30", "CPUQuotaPerSecUSec=500ms", "ActiveState=active",
	}
	shown := show("ControlGroup,Delegate,MemoryMax,TasksMax,CPUQuotaPerSecUSec,ActiveState")
	for _, w := range want {
		if !strings.Contains(" "+shown+" ", " "+w+" ") {
			t.Errorf("systemd shows %s, want %s in it", shown, w)
		}
	}
	if got := read("cpu.max") + ", " + read("memory.max") + ", " + read("pids.max"); got != "50000 100000, 33554432, 30" {
		t.Errorf("limits %s", got)
	}
	// Exec from a session: the system's systemd moves the process, before start too.
	if got := must("exec", u.id, "cat", "/proc/self/cgroup"); got != "0::/\n" {
		t.Errorf("exec before start is in cgroup %q", got)
	}
	must("start", u.id)
	if got := must("exec", u.id, "cat", "/proc/self/cgroup", "/hook"); got != "0::/\n0::/\n" {
		t.Errorf("exec and the hook are in cgroups %q", got)
	}
	if r := do("exec", u.id, "eat", "64m"); r.Code != 137 {
		t.Errorf("exec above the memory limit: %+v", r)
	}
	if r := do("exec", u.id, "sh", "-c", "for i in $(seq 40); do sleep 1000 & done; kill $(jobs -p); wait"); r.Code == 0 {
		t.Errorf("exec above the limit of processes: %+v", r)
	}
	if r := do("exec", "--cgroup", "missing", u.id, "true"); r.Code == 0 || !strings.Contains(r.Stderr, unit+"/missing") {
		t.Errorf("exec into a group that is not there: %+v", r)
	}
	must("update", "--memory", "50331648", "--pids-limit", "33", u.id)
	if r := manager("daemon-reload"); r.Code != 0 {
		t.Errorf("daemon-reload: %+v", r)
	}
	if got := show("MemoryMax,TasksMax") + ", " + read("memory.max") + ", " + read("pids.max"); got != "MemoryMax=50331648 TasksMax=33, 50331648, 33" {
		t.Errorf("after update: %s", got)
	}
	// From a scope of the user's systemd it takes no help.
	inside := []string{"systemd-run", "--user", "--scope", "--quiet", u.bin(), "--root", u.root, "--systemd-cgroup"}
	if r := u.command(append(inside, "exec", u.id, "cat", "/proc/self/cgroup")...); r.Code != 0 || r.Stdout != "0::/\n" {
		t.Errorf("exec from a scope of the user's: %+v", r)
	}
	gone := func(what string) {
		t.Helper()
		eventually(t, "the unit goes after "+what, func() bool { return show("LoadState") == "LoadState=not-found" })
		if _, err := os.Stat(group); err == nil {
			t.Errorf("after %s the cgroup is left", what)
		}
	}
	must("delete", "--force", u.id)
	gone("delete")
	change(t, u.bundle, func(c map[string]any) { c["process"].(map[string]any)["args"] = []string{"cat", "/proc/self/cgroup"} })
	if r := u.command(append(inside, "run", "--bundle", u.bundle, u.id)...); r.Code != 0 || r.Stdout != "0::/\n" {
		t.Errorf("run from a scope of the user's: %+v", r)
	}
	gone("run")

	// Without the system's message bus nobody can move a process from a session.
	change(t, u.bundle, func(c map[string]any) { c["process"].(map[string]any)["args"] = []string{"sleep", "1000"} })
	must("create", "--bundle", u.bundle, u.id)
	if r := s.in("systemctl", "stop", "dbus.socket", "dbus.service"); r.Code != 0 {
		t.Fatalf("stop of the bus: %+v", r)
	}
	if r := do("exec", u.id, "true"); r.Code != 255 || !strings.Contains(r.Stderr, unit) || !strings.Contains(r.Stderr, "systemd-run --user --scope") {
		t.Errorf("exec without the bus: %+v", r)
	}
	if got := lines(read("cgroup.procs")); len(got) != 1 {
		t.Errorf("processes in the container: %v", got)
	}
	must("delete", "--force", u.id)
	gone("delete without the bus")
	if left, _ := os.ReadDir(u.root); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
