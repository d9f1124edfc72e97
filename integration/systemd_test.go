package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/internal/testenv"
)

// innerSystemd is Debian's systemd as process 1 of a pid namespace, with a
// delegated cgroup as the root of its hierarchy.
type innerSystemd struct {
	t     testing.TB
	group string // its root, on the host
	pid   string
}

func bootSystemd(t testing.TB) *innerSystemd {
	t.Helper()
	s := &innerSystemd{t: t, group: filepath.Join(cgroupMounts()[0], testenv.UniqueID(t))}
	testenv.Own(t, s.group)
	if err := os.Mkdir(s.group, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	writeFile(t, dir+"/test.target", "[Unit]\nDefaultDependencies=no\n")
	userUnits(t, dir)
	// Process 1 alone is in the group: it moves itself, and makes it the root.
	script := `exec unshare --pid --mount --ipc --fork --kill-child --mount-proc --propagation private sh -c '
echo 0 > "$1/cgroup.procs" && exec unshare --cgroup sh -c "$2" sh "$3"' sh "$1" '
set -e
mount -t tmpfs tmpfs /run
mount --bind "$1/passwd" /etc/passwd
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec env -i container=test PATH=/usr/bin:/bin SYSTEMD_UNIT_PATH="$1:/run/systemd/system.control:/run/systemd/transient" SYSTEMD_LOG_TARGET=console \
	/lib/systemd/systemd --system --unit=test.target' "$2"`
	log, err := os.Create(dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("sh", "-c", script, "sh", s.group, dir)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		writeFile(t, s.group+"/cgroup.kill", "1")
		_ = cmd.Wait()
		eventually(t, "systemd's groups are removed", func() bool {
			reapAll()
			var groups []string
			_ = filepath.WalkDir(s.group, func(path string, d os.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					groups = append(groups, path)
				}
				return nil
			})
			for i := len(groups) - 1; i >= 0; i-- {
				_ = os.Remove(groups[i])
			}
			_, err := os.Stat(s.group)
			return err != nil
		})
		if t.Failed() {
			t.Logf("systemd said:\n%s", readFile(t, dir+"/log"))
		}
	})
	unshare := strconv.Itoa(cmd.Process.Pid)
	deadline := time.Now().Add(testenv.Timeout(30 * time.Second))
	for {
		children, _ := os.ReadFile("/proc/" + unshare + "/task/" + unshare + "/children")
		s.pid = strings.TrimSpace(string(children))
		if s.pid != "" && s.in("systemctl", "is-active", "--quiet", "test.target").Code == 0 {
			return s
		}
		if time.Now().After(deadline) || !alive(cmd.Process.Pid) {
			t.Fatalf("systemd does not start:\n%s", readFile(t, dir+"/log"))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// in runs a command where systemd is, also as far as cgroups go: none of its
// processes may come from outside (nsdelegate).
func (s *innerSystemd) in(args ...string) testenv.Result {
	s.t.Helper()
	return testenv.RunCmd(s.t, s.command(args...))
}

func (s *innerSystemd) command(args ...string) *exec.Cmd {
	s.t.Helper()
	if err := os.Mkdir(s.group+"/tests", 0o755); err != nil && !os.IsExist(err) {
		s.t.Fatal(err)
	}
	script := `echo $$ > "$1/tests/cgroup.procs"; pid=$2; shift 2; exec nsenter -t "$pid" -m -p -C -- "$@"`
	return exec.Command("sh", append([]string{"-c", script, "sh", s.group, s.pid}, args...)...)
}

// do runs minirun there.
func (s *innerSystemd) do(args ...string) testenv.Result {
	s.t.Helper()
	return s.in(append([]string{testenv.Binary(s.t), "--root", testenv.StateRoot(s.t), "--systemd-cgroup"}, args...)...)
}

func (s *innerSystemd) must(args ...string) string {
	s.t.Helper()
	r := s.do(args...)
	if r.Code != 0 || r.Stderr != "" {
		s.t.Fatalf("minirun %q: %+v", args, r)
	}
	return r.Stdout
}

// show are properties of a unit.
func (s *innerSystemd) show(unit, properties string) string {
	s.t.Helper()
	r := s.in("systemctl", "show", unit, "--property", properties)
	return strings.TrimSpace(strings.ReplaceAll(r.Stdout, "\n", " "))
}

// The systemd driver with a real systemd: one boot for all of it.
func TestVMSystemd(t *testing.T) {
	setup(t)
	s := bootSystemd(t)
	const slice, prefix = "mini-test.slice", "box"
	id := testenv.UniqueID(t)
	unit := prefix + "-" + id + ".scope"
	limit, pids, quota, period := int64(32<<20), int64(30), int64(33333), uint64(100000)
	box := limBox(t, forever, func(c *specs.Spec) {
		c.Linux.CgroupsPath = slice + ":" + prefix + ":" + id
		c.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
		c.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
		c.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
		c.Annotations = map[string]string{"org.systemd.property.TimeoutStopUSec": "uint64 5000000"}
	})
	bundle := []string{"--bundle", box.bundle}
	group := s.group + "/mini.slice/" + slice + "/" + unit
	read := func(file string) string { return strings.TrimSpace(readFile(t, group+"/"+file)) }

	s.must(append(append([]string{"create"}, bundle...), id)...)
	s.must("start", id)
	want := []string{
		"ControlGroup=/mini.slice/" + slice + "/" + unit, "Delegate=yes", "MemoryMax=33554432", "TasksMax=30", "Slice=" + slice,
		"CPUQuotaPerSecUSec=340ms", "TimeoutStopUSec=5s", "ActiveState=active",
	}
	shown := s.show(unit, "ControlGroup,Delegate,MemoryMax,TasksMax,CPUQuotaPerSecUSec,Slice,TimeoutStopUSec,ActiveState")
	for _, w := range want {
		if !strings.Contains(" "+shown+" ", " "+w+" ") {
			t.Errorf("systemd shows %s, want %s in it", shown, w)
		}
	}
	if got := read("cpu.max") + ", " + read("memory.max") + ", " + read("pids.max"); got != "33333 100000, 33554432, 30" {
		t.Errorf("limits %s", got)
	}
	// The container's view of cgroups begins at its own group, and exec is in it.
	if got := s.must("exec", id, "cat", "/proc/self/cgroup"); got != "0::/\n" {
		t.Errorf("exec is in cgroup %q", got)
	}
	if r := s.do("exec", id, "eat", "64m"); r.Code != 137 {
		t.Errorf("above the memory limit: %+v", r)
	}
	if r := s.do("exec", id, "sh", "-c", "for i in $(seq 40); do sleep 1000 & done; kill $(jobs -p); wait"); r.Code == 0 {
		t.Errorf("above the limit of processes: %+v", r)
	}

	// Update reaches both, and survives that systemd sets all limits again.
	s.must("update", "--memory", "50331648", "--memory-swap", "50331648", "--pids-limit", "33", id)
	if r := s.in("systemctl", "daemon-reload"); r.Code != 0 {
		t.Errorf("daemon-reload: %+v", r)
	}
	if got := s.show(unit, "MemoryMax,TasksMax"); !strings.Contains(got, "MemoryMax=50331648") || !strings.Contains(got, "TasksMax=33") {
		t.Errorf("after update: %s", got)
	}
	if got := read("memory.max") + ", " + read("pids.max"); got != "50331648, 33" {
		t.Errorf("after update: limits %s", got)
	}

	// A unit that exists is not touched.
	other := testenv.UniqueID(t)
	if r := s.do(append(append([]string{"create"}, bundle...), other)...); r.Code != 1 || !strings.Contains(r.Stderr, "hint: ") {
		t.Errorf("the same unit twice: %+v", r)
	}
	if got := s.show(unit, "ActiveState"); got != "ActiveState=active" {
		t.Errorf("afterwards %s", got)
	}

	s.must("delete", "--force", id)
	gone := func(what string) {
		t.Helper()
		eventually(t, "the unit goes after "+what, func() bool { return s.show(unit, "LoadState") == "LoadState=not-found" })
		if _, err := os.Stat(group); err == nil {
			t.Errorf("after %s the cgroup is left", what)
		}
		if _, err := os.Stat(filepath.Join(testenv.StateRoot(t), id)); err == nil {
			t.Errorf("after %s the record is left", what)
		}
	}
	gone("delete")

	// A container that cannot start leaves no unit.
	change(t, box.bundle, func(c map[string]any) { c["process"].(map[string]any)["args"] = []string{"/nonexistent"} })
	for range 3 { // systemd may be ahead of us when it removes the group
		if r := s.do(append(append([]string{"run"}, bundle...), id)...); r.Code != 127 {
			t.Errorf("without a program: %+v", r)
		}
		gone("a failed run")
	}
	change(t, box.bundle, func(c map[string]any) {
		c["process"].(map[string]any)["args"] = []string{"true"}
		c["annotations"] = map[string]string{"org.systemd.property.ExecStopPost": "[('/bin/touch', ['touch', '/run/pwned'], false)]"}
	})
	if r := s.do(append(append([]string{"run"}, bundle...), id)...); r.Code != 1 || !strings.Contains(r.Stderr, `annotations["org.systemd.property.ExecStopPost"]: this property of a unit may not be set`) {
		t.Errorf("a property that runs programs: %+v", r)
	}
	change(t, box.bundle, func(c map[string]any) { delete(c, "annotations") })
	if r := s.do(append(append([]string{"run"}, bundle...), id)...); r.Code != 0 || r.Stderr != "" {
		t.Errorf("run: %+v", r)
	}
	gone("run")

	// Killed while systemd has the unit and nobody the container: delete converges.
	change(t, box.bundle, func(c map[string]any) {
		c["process"].(map[string]any)["args"] = []string{"sleep", "1000"}
		c["hooks"] = map[string]any{"createRuntime": []any{map[string]any{"path": "/bin/sh", "args": []string{"sh", "-c", "kill -KILL $PPID"}}}}
	})
	if r := s.do(append(append([]string{"create"}, bundle...), id)...); r.Code != 128+9 {
		t.Errorf("minirun was to be killed by the hook: %+v", r)
	}
	s.must("delete", "--force", id)
	gone("a create that was killed")

	// Killed as soon as the unit's group is there, or soon after.
	change(t, box.bundle, func(c map[string]any) { delete(c, "hooks") })
	for i := range 3 {
		killed := s.killWhen(group, time.Duration(i)*20*time.Millisecond, append(append([]string{"create"}, bundle...), id)...)
		t.Logf("create was killed by its signal: %v", killed)
		s.must("delete", "--force", id)
		gone("a create that was killed when its group was made")
	}

	// A container that is restored gets a unit, too.
	testenv.Supervisor(t)
	images, out := t.TempDir()+"/images", t.TempDir()+"/out"
	detached := func(args ...string) {
		t.Helper()
		line := append([]string{"sh", "-c", `exec "$@" >>"$0" 2>&1 </dev/null`, out, testenv.Binary(t), "--root", testenv.StateRoot(t), "--systemd-cgroup"}, args...)
		if r := s.in(line...); r.Code != 0 {
			t.Fatalf("minirun %q: %+v\n%s", args, r, readFile(t, out))
		}
	}
	detached(append(append([]string{"create"}, bundle...), id)...)
	s.must("start", id)
	if r := s.do("checkpoint", "--image-path", images, id); r.Code != 0 {
		t.Fatalf("checkpoint: %+v", r)
	}
	gone("checkpoint")
	detached(append(append([]string{"restore", "--detach", "--image-path", images}, bundle...), id)...)
	if got := s.show(unit, "ActiveState,Slice,MemoryMax"); !strings.Contains(got, "ActiveState=active") || !strings.Contains(got, "Slice="+slice) || !strings.Contains(got, "MemoryMax=33554432") {
		t.Errorf("after restore systemd shows %s", got)
	}
	if got := s.must("exec", id, "cat", "/proc/self/cgroup"); got != "0::/\n" || read("memory.max") != "33554432" {
		t.Errorf("after restore exec is in cgroup %q, the limit is %s", got, read("memory.max"))
	}
	s.must("delete", "--force", id)
	gone("delete of a restored container")
}

// killWhen starts minirun as do does, and kills it when the directory is there
// and the time has passed. It reports whether minirun was still running.
func (s *innerSystemd) killWhen(dir string, after time.Duration, args ...string) bool {
	s.t.Helper()
	cmd := s.command(append([]string{testenv.Binary(s.t), "--root", testenv.StateRoot(s.t), "--systemd-cgroup"}, args...)...)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	for {
		select {
		case <-ended:
			return false
		case <-time.After(time.Millisecond):
		}
		if _, err := os.Stat(dir); err == nil {
			break
		}
	}
	time.Sleep(after)
	// nsenter waits for its child, which is minirun.
	pid := strconv.Itoa(cmd.Process.Pid)
	children, _ := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
	for child := range strings.FieldsSeq(string(children)) {
		if n, err := strconv.Atoi(child); err == nil {
			_ = syscall.Kill(n, syscall.SIGKILL)
		}
	}
	<-ended
	return cmd.ProcessState.ExitCode() != 0
}
