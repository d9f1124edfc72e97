package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// hostGroup makes a cgroup that is not minirun's, and removes it at the end. Its
// name is the path in the hierarchy.
func hostGroup(t *testing.T) (name, dir string) {
	t.Helper()
	name = "/" + testenv.UniqueID(t)
	dir = cgroupMounts()[0] + name
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	return name, dir
}

func setFile(t *testing.T, path, value string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// bystander is a process of somebody else in the group.
func bystander(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	setFile(t, filepath.Join(dir, "cgroup.procs"), strconv.Itoa(cmd.Process.Pid))
	return cmd
}

func at(path string) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Linux.CgroupsPath = path }
}

// A group that is not free is refused before anything is recorded, and stays as
// it is.
func TestRootCgroupNotFree(t *testing.T) {
	setup(t)
	name, dir := hostGroup(t)
	b := newBox(t, at(name))
	check := func(what, text string) {
		t.Helper()
		for _, verb := range []string{"create", "run"} {
			r := b.do(verb, "--bundle", b.bundle)
			if r.Code != 1 || !strings.Contains(r.Stderr, text) || !strings.Contains(r.Stderr, "hint: ") {
				t.Errorf("%s: %s: %+v, want %q", what, verb, r, text)
			}
			if !exists(dir) || exists(filepath.Join(testenv.StateRoot(t), b.id)) {
				t.Errorf("%s: the group is gone, or a record is left", what)
			}
		}
	}
	setFile(t, dir+"/cgroup.freeze", "1")
	check("frozen", "container's cgroup unexpectedly frozen")
	setFile(t, dir+"/cgroup.freeze", "0")

	other := bystander(t, dir)
	check("processes of others", "container's cgroup is not empty: 1 process(es) found")

	// And if minirun is killed at any moment of that: delete must not take the
	// other's process for the container's.
	for n := 1; ; n++ {
		_, reached := tracedRun(t, minirunItself, n, []uint64{unix.SYS_MKDIRAT, sysMkdir}, "create", "--bundle", b.bundle, b.id)
		if r := b.do("delete", "--force"); r.Code != 0 {
			t.Errorf("killed at call %d, delete --force: %+v", n, r)
		}
		if !alive(other.Process.Pid) {
			t.Fatalf("create was killed at call %d, and delete has killed a process of somebody else", n)
		}
		if !reached {
			break
		}
	}
	_ = other.Process.Kill()
	_ = other.Wait()

	setFile(t, dir+"/cgroup.type", "threaded")
	check("threaded", `is of type "threaded"`)
}

// One path for two containers: whoever comes second is refused, also while the
// group is empty because the first has stopped.
func TestRootCgroupTwice(t *testing.T) {
	setup(t)
	first := newBox(t, forever)
	second := newBox(t, forever, at(first.cgroup))
	first.up()
	second.refused(1, "container's cgroup is not empty", "create", "--bundle", second.bundle)
	first.wantStatus("running")
	first.kill("KILL")
	first.stopped()
	second.refused(1, `is that of container "`+first.id+`"`, "create", "--bundle", second.bundle)
	first.must("delete")
	second.up()
	first.refused(1, "container's cgroup is not empty", "create", "--bundle", first.bundle)
	second.wantStatus("running")
}

// The forms of linux.cgroupsPath, and a group that exists and is free.
func TestRootCgroupPaths(t *testing.T) {
	setup(t)
	name, dir := hostGroup(t)
	for path, want := range map[string]string{
		name[1:] + "/relative": name + "/relative",
		name + "/a/./b//c/":    name + "/a/b/c",
		name + "/existing":     name + "/existing",
	} {
		if strings.HasSuffix(path, "existing") {
			if err := os.Mkdir(dir+"/existing", 0o755); err != nil {
				t.Fatal(err)
			}
		}
		b := newBox(t, forever, at(path)).up()
		if got := readFile(t, "/proc/"+strconv.Itoa(b.pid())+"/cgroup"); !strings.Contains(got, "0::"+want+"\n") {
			t.Errorf("%s: the process is in %q", path, got)
		}
		b.must("delete", "--force")
		if exists(cgroupMounts()[0] + want) {
			t.Errorf("%s is left", want)
		}
	}
	for _, d := range []string{"/a/b", "/a"} { // parents are shared and stay
		if err := os.Remove(dir + d); err != nil {
			t.Error(err)
		}
	}
	for path, text := range map[string]string{"/../x": "linux.cgroupsPath", name + "/../../x": "..", "/": "root of the hierarchy", "a:b:c": "systemd"} {
		b := newBox(t, at(path))
		b.refused(1, text, "create", "--bundle", b.bundle)
	}
}

// Somebody has moved the container's process away and removed the group.
func TestRootCgroupGone(t *testing.T) {
	setup(t)
	_, elsewhere := hostGroup(t)
	b := newBox(t, script("exec sleep 1000")).up()
	eventually(t, "it is one process", func() bool { return len(b.psPids()) == 1 })
	own := filepath.Dir(b.v2File("cgroup.procs"))
	setFile(t, elsewhere+"/cgroup.procs", strconv.Itoa(b.pid()))
	eventually(t, "the group can be removed", func() bool { return os.Remove(own) == nil })

	b.wantStatus("running")
	const gone = "is gone, though its process lives"
	b.refused(1, gone, "pause")
	b.refused(1, gone, "update", "--cpu-share", "1024")
	b.refused(1, gone, "events", "--stats")
	b.refused(1, "container not paused", "resume")
	if r := b.exec("true"); r.Code != 255 || !strings.Contains(r.Stderr, gone) {
		t.Errorf("exec: %+v", r)
	}
	if got := b.must("ps", "--format", "json").Stdout; got != "null\n" {
		t.Errorf("ps: %q", got)
	}
	b.kill("TERM")
	b.wantStatus("running") // process 1 of a pid namespace ignores it
	b.must("delete", "--force")
	b.gone()

	b.up()
	setFile(t, elsewhere+"/cgroup.procs", strconv.Itoa(b.pid()))
	b.kill("KILL")
	b.stopped()
	b.must("delete")
	b.gone()
}

// A read-only hierarchy: nothing is made, nothing is believed to be done, and
// with a writable one everything converges.
func TestRootCgroupReadOnly(t *testing.T) {
	setup(t)
	b := newBox(t, forever)
	readOnly := func(args ...string) testenv.Result {
		t.Helper()
		root := cgroupMounts()[0]
		cmd := exec.Command("sh", append([]string{"-c", `mount -o remount,bind,ro "$0" && exec "$@"`, root}, testenv.Command(t, args...).Args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		return testenv.RunCmd(t, cmd)
	}
	refused := func(code int, args ...string) {
		t.Helper()
		if r := readOnly(args...); r.Code != code || !strings.Contains(r.Stderr, "read-only file system") {
			t.Errorf("%v on a read-only hierarchy: %+v", args, r)
		}
	}
	refused(1, "create", "--bundle", b.bundle, b.id)
	refused(1, "run", "--bundle", b.bundle, b.id)
	b.gone()
	b.up()
	refused(1, "pause", b.id)
	b.wantStatus("running")
	if r := readOnly("exec", b.id, "true"); r.Code != 0 { // needs to write nothing
		t.Logf("exec: %+v", r)
	}
	b.must("pause")
	refused(1, "resume", b.id)
	b.wantStatus("paused")
	refused(1, "delete", "--force", b.id)
	if s := b.state().Status; s != "paused" && s != "stopped" {
		t.Errorf("status %s", s)
	}
	b.must("delete", "--force")
	b.gone()
}

// exec --cgroup goes below the container's group and nowhere else.
func TestRootExecCgroup(t *testing.T) {
	setup(t)
	b := newBox(t, script("exec sleep 1000")).up()
	own := filepath.Dir(b.v2File("cgroup.procs"))
	if err := os.MkdirAll(own+"/sub/deep", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"sub", "/sub", "sub/deep", "./sub//deep/"} {
		want := "0::/" + strings.Trim(strings.ReplaceAll(strings.TrimPrefix(path, "."), "//", "/"), "/") + "\n"
		if got := b.execOut("--cgroup", path, "--", "cat", "/proc/self/cgroup"); !strings.Contains("\n"+got, "\n"+want) {
			t.Errorf("--cgroup %s: %q, want %q", path, got, want)
		}
	}
	before := len(lines(readFile(t, own+"/cgroup.procs")))
	for _, tt := range []struct{ path, text string }{
		{"..", `".." is not allowed`},
		{"../" + filepath.Base(own), `".." is not allowed`},
		{"sub/../..", `".." is not allowed`},
		{"/", "below the container's cgroup"},
		{"nosuch", "no such file or directory"},
		{"cgroup.procs", "not a directory"},
		{"sub\n", "newline"},
		{strings.Repeat("a/", 3000), "too long"},
		{strings.Repeat("a", 300), "255"},
	} {
		r := b.exec("--cgroup", tt.path, "--", "true")
		if tt.text == "too long" {
			tt.text = "longer than"
		}
		if r.Code != 255 || !strings.Contains(r.Stderr, tt.text) {
			t.Errorf("--cgroup %.40q: %+v, want %q", tt.path, r, tt.text)
		}
	}
	if after := len(lines(readFile(t, own+"/cgroup.procs"))); after != before {
		t.Errorf("%d processes, before %d", after, before)
	}
	b.must("delete", "--force") // with its sub-groups
	b.gone()
}

// With a user namespace, a cgroup namespace and a cgroup mount that can be
// written, root of the container may make groups, and change nothing that limits
// its own; without any of the three the group is the host's.
func TestRootCgroupDelegation(t *testing.T) {
	setup(t)
	own := func(mode string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Mounts = append(slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" }),
				specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", mode}})
		}
	}
	cgroupns := func(s *specs.Spec) {
		if !slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace }) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
		}
	}
	b := newBox(t, withUser, cgroupns, own("rw"), forever).up()
	for file, want := range map[string]uint32{"": 100000, "cgroup.procs": 100000, "cgroup.threads": 100000, "cgroup.subtree_control": 100000, "cgroup.freeze": 0, "cgroup.kill": 0, "cgroup.max.depth": 0} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(filepath.Dir(b.v2File("cgroup.procs")), file), &st); err != nil || st.Uid != want {
			t.Errorf("%q belongs to %d, want %d (%v)", file, st.Uid, want, err)
		}
	}
	b.execOut("mkdir", "/sys/fs/cgroup/sub")
	// One that freezes itself is in nobody's way.
	b.execOut("-d", "--", "sh", "-c", "echo 0 >/sys/fs/cgroup/sub/cgroup.procs && echo 1 >/sys/fs/cgroup/sub/cgroup.freeze")
	eventually(t, "a group of the container's own is frozen", func() bool { return strings.Contains(readFile(t, b.v2File("sub/cgroup.events")), "frozen 1") })
	for _, file := range []string{"cgroup.freeze", "cgroup.kill", "cgroup.max.depth", "cgroup.max.descendants"} {
		if r := b.exec("sh", "-c", "echo 1 >/sys/fs/cgroup/"+file); r.Code == 0 {
			t.Errorf("the container can write to its own %s", file)
		}
	}
	b.wantStatus("running")
	b.converge("with a frozen group of its own")

	for name, mutate := range map[string][]func(*specs.Spec){
		"read-only mount":   {withUser, cgroupns, own("ro")},
		"no user namespace": {cgroupns, own("rw")},
	} {
		b := newBox(t, append(mutate, forever)...).up()
		var st unix.Stat_t
		if err := unix.Stat(b.v2File("cgroup.procs"), &st); err != nil || st.Uid != 0 {
			t.Errorf("%s: cgroup.procs belongs to %d: %v", name, st.Uid, err)
		}
	}
}
