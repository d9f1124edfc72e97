package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestRootCreateRemove(t *testing.T) {
	parent := parentPath(t)
	g, err := Create(mountOf(t), parent+"/a/b", nil)
	if err != nil {
		t.Fatal(err)
	}
	if !g.Exists() || g.CheckFree() != nil {
		t.Fatalf("after Create: exists %v, %v", g.Exists(), g.CheckFree())
	}
	if again, err := Create(g.Mount, g.Path, nil); err != nil || again.CheckFree() != nil {
		t.Fatalf("a second Create of an empty group: %v, %v", err, again.CheckFree())
	}
	for _, sub := range []string{"x/y/z", "x/w", "v"} {
		if err := os.MkdirAll(g.Dir()+"/"+sub, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Remove(time.Second); err != nil {
		t.Fatal(err)
	}
	if g.Exists() || !Open(g.Mount, parent+"/a").Exists() {
		t.Error("Remove must take the group and leave its parent")
	}
	if err := g.Remove(0); err != nil {
		t.Errorf("removing what is not there: %v", err)
	}
	if err := Open(g.Mount, parent).Remove(time.Second); err != nil {
		t.Fatal(err)
	}
}

// A container with a writable hierarchy decides how deep it is.
func TestRootRemoveDeep(t *testing.T) {
	g := create(t, parentPath(t))
	fd, err := g.FD()
	if err != nil {
		t.Fatal(err)
	}
	const depth = 600
	for range depth {
		if err := unix.Mkdirat(fd, "deeper-and-deeper", 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, "deeper-and-deeper", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		fd = next
	}
	unix.Close(fd)
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	low := lim
	low.Cur = 40
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	err = g.Remove(10 * time.Second)
	if e := unix.Setrlimit(unix.RLIMIT_NOFILE, &lim); e != nil {
		t.Fatal(e)
	}
	if err != nil || g.Exists() {
		t.Errorf("removing %d levels: %v", depth, err)
	}
}

func TestRootRemoveBusy(t *testing.T) {
	g := create(t, parentPath(t))
	sub := mkdir(t, g, "sub")
	h := block(t, sub)
	began := time.Now()
	err := g.Remove(100 * time.Millisecond)
	if te, ok := errors.AsType[*TimeoutError](err); !ok || te.Want != "empty" {
		t.Fatalf("removing a group with a process: %v", err)
	}
	if d := time.Since(began); d < 90*time.Millisecond || d > 20*time.Second {
		t.Errorf("it took %v", d)
	}
	time.AfterFunc(50*time.Millisecond, func() { h.stdin.Close() })
	began = time.Now()
	if err := g.Remove(time.Minute); err != nil || g.Exists() {
		t.Errorf("removing a group whose process ends: %v", err)
	}
	if d := time.Since(began); d > 30*time.Second {
		t.Errorf("it took %v after the process was told to end", d)
	}
	if err := h.Wait(); err != nil {
		t.Error(err)
	}
}

func TestRootKillTree(t *testing.T) {
	g := create(t, parentPath(t))
	sub := mkdir(t, g, "sub")
	tree := start(t, g, "helper-tree", "2")
	tree.ready(t)
	other := block(t, sub)
	pids, err := g.Procs()
	if err != nil || len(pids) != 8 || !slices.Contains(pids, tree.Process.Pid) || !slices.Contains(pids, other.Process.Pid) {
		t.Fatalf("Procs() = %v, %v; want 8 with %d and %d", pids, err, tree.Process.Pid, other.Process.Pid)
	}
	if err := g.WaitEmpty(0); !errors.Is(err, unix.EBUSY) {
		t.Errorf("WaitEmpty(0) of a populated group: %v", err)
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := g.WaitEmpty(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if p, err := g.Populated(); p || err != nil {
		t.Errorf("Populated() = %v, %v", p, err)
	}
	for _, h := range []*helper{tree, other} {
		if s := h.killedBy(); s != syscall.SIGKILL {
			t.Errorf("ended by signal %d", s)
		}
	}
}

func TestRootKillEach(t *testing.T) {
	g := create(t, parentPath(t))
	tree := start(t, g, "helper-tree", "2")
	tree.ready(t)
	if err := g.killEach(); err != nil {
		t.Fatal(err)
	}
	if s := tree.killedBy(); s != syscall.SIGKILL {
		t.Errorf("ended by signal %d", s)
	}
	if err := g.WaitEmpty(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if f, err := g.Frozen(); f || err != nil {
		t.Errorf("left frozen: %v, %v", f, err)
	}
}

func TestRootKillFrozen(t *testing.T) {
	g := create(t, parentPath(t))
	h := block(t, g)
	if err := g.Freeze(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	if s := h.killedBy(); s != syscall.SIGKILL {
		t.Errorf("ended by signal %d", s)
	}
}

func TestRootFreezeThaw(t *testing.T) {
	g := create(t, parentPath(t))
	h := start(t, g, "/bin/sh", "-c", "echo ready; while read x; do echo $x; done")
	h.ready(t)
	in := h.stdin.(interface{ Write([]byte) (int, error) })
	if err := g.Freeze(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if f, err := g.Frozen(); !f || err != nil {
		t.Fatalf("Frozen() = %v, %v", f, err)
	}
	fmt.Fprintln(in, "ready")
	fd := int(h.out.(*os.File).Fd())
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, _ := unix.Poll(fds, 100); n != 0 {
		t.Error("a frozen process answered")
	}
	if err := g.Thaw(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	h.ready(t)
	if f, err := g.Frozen(); f || err != nil {
		t.Errorf("Frozen() = %v, %v", f, err)
	}
}

// Below a frozen ancestor a group does not thaw.
func TestRootThawTimeout(t *testing.T) {
	parent := parentPath(t)
	outer := create(t, parent)
	g := create(t, parent+"/inner")
	block(t, g)
	if err := outer.Freeze(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	err := g.Thaw(50 * time.Millisecond)
	if te, ok := errors.AsType[*TimeoutError](err); !ok || te.Want != "thawed" {
		t.Errorf("Thaw below a frozen group: %v", err)
	}
	if err := outer.Thaw(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if err := g.Thaw(10 * time.Second); err != nil {
		t.Error(err)
	}
}

// A group that does not freeze in time must not stay half frozen.
func TestRootFreezeTimeout(t *testing.T) {
	g := create(t, parentPath(t))
	block(t, g)
	start(t, g, "helper-stuck").ready(t)
	err := g.Freeze(50 * time.Millisecond)
	if te, ok := errors.AsType[*TimeoutError](err); !ok || te.Want != "frozen" {
		t.Fatalf("got %v, want a *TimeoutError", err)
	}
	if f, err := g.Frozen(); f || err != nil {
		t.Errorf("left frozen: %v, %v", f, err)
	}
}

// Who gives up is answered long before the time is over, and the group thawed.
func TestRootFreezeUnless(t *testing.T) {
	g := create(t, parentPath(t))
	block(t, g)
	start(t, g, "helper-stuck").ready(t)
	asked := 0
	frozen, err := g.FreezeUnless(time.Hour, func() bool { asked++; return asked == 3 })
	if frozen || err != nil || asked != 3 {
		t.Errorf("FreezeUnless = %v, %v; asked %d times", frozen, err, asked)
	}
	if f, err := g.Frozen(); f || err != nil {
		t.Errorf("left frozen: %v, %v", f, err)
	}
}

func TestRootGone(t *testing.T) {
	g := Open(mountOf(t), parentPath(t)+"/none")
	if f, err := g.Frozen(); f || err != nil {
		t.Errorf("Frozen() = %v, %v", f, err)
	}
	if p, err := g.Populated(); p || err != nil {
		t.Errorf("Populated() = %v, %v", p, err)
	}
	if p, err := g.Procs(); len(p) != 0 || err != nil {
		t.Errorf("Procs() = %v, %v", p, err)
	}
	if n, err := g.OOMKills(); n != 0 || err != nil {
		t.Errorf("OOMKills() = %v, %v", n, err)
	}
	for name, err := range map[string]error{"Kill": g.Kill(), "Thaw": g.Thaw(0), "WaitEmpty": g.WaitEmpty(0), "Remove": g.Remove(0)} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := g.Freeze(0); !errors.Is(err, unix.ENOENT) {
		t.Errorf("Freeze: %v", err)
	}
	if _, err := g.FD(); !errors.Is(err, unix.ENOENT) {
		t.Errorf("FD: %v", err)
	}
}

// The file cgroup.events is open while the group goes away.
func TestRootWaitEmptyWhileRemoved(t *testing.T) {
	g := create(t, parentPath(t))
	h := block(t, g)
	done := make(chan error)
	go func() { done <- g.WaitEmpty(10 * time.Second) }()
	time.AfterFunc(60*time.Millisecond, func() {
		h.stdin.Close()
		_ = g.Remove(10 * time.Second)
	})
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A wait that nothing else ends, ends with the group.
func TestRootWaitGone(t *testing.T) {
	g := create(t, parentPath(t))
	time.AfterFunc(100*time.Millisecond, func() { _ = rmdir(unix.AT_FDCWD, g.Dir()) })
	began := time.Now()
	if err := g.wait(time.Minute, "never", func(events) bool { return false }); err != nil {
		t.Error(err)
	}
	if d := time.Since(began); d < 90*time.Millisecond || d > 30*time.Second {
		t.Errorf("it took %v", d)
	}
}

func TestRootCheckFree(t *testing.T) {
	path := parentPath(t)
	g := create(t, path)
	sub := mkdir(t, g, "sub")
	h := block(t, sub)
	again, err := Create(g.Mount, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.CheckFree(); err == nil || err.Error() != "container's cgroup is not empty: 1 process(es) found" {
		t.Errorf("got %v", err)
	}
	h.stdin.Close()
	if err := g.WaitEmpty(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if err := again.CheckFree(); err != nil {
		t.Errorf("empty: %v", err)
	}
	if err := g.Freeze(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if err := again.CheckFree(); err == nil || err.Error() != "container's cgroup unexpectedly frozen" {
		t.Errorf("got %v", err)
	}
	if err := g.Thaw(10 * time.Second); err != nil {
		t.Fatal(err)
	}
}

func TestRootAddAndPathOf(t *testing.T) {
	path := parentPath(t)
	g := create(t, path)
	other := mkdir(t, g, "other")
	h := block(t, g)
	if err := other.Add(h.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if got, err := PathOf(h.Process.Pid); err != nil || got != other.Path {
		t.Errorf("PathOf = %q, %v; want %q", got, err, other.Path)
	}
	if err := g.Add(1 << 30); !errors.Is(err, unix.ESRCH) {
		t.Errorf("adding no process: %v", err)
	}
}

func TestRootDelegate(t *testing.T) {
	g := create(t, parentPath(t))
	if err := g.Delegate(65534); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]uint32{"": 65534, "cgroup.procs": 65534, "cgroup.subtree_control": 65534, "cgroup.freeze": 0, "cgroup.kill": 0, "cgroup.max.depth": 0} {
		var st unix.Stat_t
		if err := unix.Stat(g.Dir()+"/"+file, &st); err != nil || st.Uid != want || st.Gid != 0 {
			t.Errorf("%q belongs to %d:%d, want %d:0 (%v)", file, st.Uid, st.Gid, want, err)
		}
	}
}

func TestRootConcurrent(t *testing.T) {
	parent := parentPath(t)
	mount := mountOf(t)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 40 {
				// The parent comes and goes: every worker removes it when it can.
				g, err := Create(mount, fmt.Sprintf("%s/p/%d/%d", parent, w%2, w), nil)
				if err != nil {
					t.Errorf("worker %d, round %d: %v", w, i, err)
					return
				}
				if err := g.Remove(time.Second); err != nil {
					t.Error(err)
				}
				_ = unix.Rmdir(fmt.Sprintf("%s%s/p/%d", mount, parent, w%2))
				_ = unix.Rmdir(mount + parent + "/p")
				_ = unix.Rmdir(mount + parent)
			}
		})
	}
	wg.Wait()
	if err := Open(mount, parent).Remove(time.Second); err != nil {
		t.Error(err)
	}
}

// The kernel's own limits on the tree are errors that name the directory.
func TestRootCreateRefused(t *testing.T) {
	g := create(t, parentPath(t))
	if err := g.write("cgroup.max.descendants", "1"); err != nil {
		t.Fatal(err)
	}
	_, err := Create(g.Mount, g.Path+"/a/b", nil)
	if pe, ok := errors.AsType[*fs.PathError](err); !ok || pe.Op != "mkdir" || pe.Path != g.Dir()+"/a/b" || pe.Err != unix.EAGAIN {
		t.Errorf("got %v", err)
	}
	if subs := listGroups(t, g); len(subs) != 0 {
		t.Errorf("left behind: %v", subs)
	}
}

// Threaded mode: a container cannot live there, and the error says so.
func TestRootThreaded(t *testing.T) {
	parent := parentPath(t)
	threaded := mkdir(t, create(t, parent), "t")
	if err := threaded.write("cgroup.type", "threaded"); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{parent, parent + "/t", parent + "/new", parent + "/t/new"} {
		g, err := Create(threaded.Mount, path, nil)
		te, ok := errors.AsType[*TypeError](err)
		if !ok || te.Type == "domain" || te.Hint() == "" {
			t.Errorf("Create(%q) = %v, %v; want a *TypeError", path, g, err)
		}
	}
	if Open(threaded.Mount, parent+"/new").Exists() || Open(threaded.Mount, parent+"/t/new").Exists() {
		t.Error("a refused Create left its group behind")
	}
}

// v1Mount returns where cgroup v1 has the controller on this machine, or "".
func v1Mount(t *testing.T, controller string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return findMount(string(b), "cgroup", controller)
}

// A limit without its controller is refused by name and leaves nothing behind.
// Where the hierarchy has all controllers an invented one is the missing one.
func TestRootControllerMissing(t *testing.T) {
	mount, path := mountOf(t), parentPath(t)
	b, err := os.ReadFile(mount + "/cgroup.controllers")
	if err != nil {
		t.Fatal(err)
	}
	available := strings.Fields(string(b))
	tests := []struct{ controller, v1, json, field string }{
		{"memory", "memory", `{"memory":{"limit":1048576}}`, "linux.resources.memory.limit"},
		{"cpu", "cpu", `{"cpu":{"shares":512}}`, "linux.resources.cpu.shares"},
		{"cpu", "cpu", `{"cpu":{"quota":50000}}`, "linux.resources.cpu.quota"},
		{"cpuset", "cpuset", `{"cpu":{"cpus":"0"}}`, "linux.resources.cpu.cpus"},
		{"pids", "pids", `{"pids":{"limit":10}}`, "linux.resources.pids.limit"},
		{"io", "blkio", `{"blockIO":{"weight":500}}`, "linux.resources.blockIO.weight"},
		{"nosuch", "nosuch", `{"unified":{"nosuch.max":"5"}}`, `linux.resources.unified["nosuch.max"]`},
	}
	tried := 0
	for _, tt := range tests {
		if slices.Contains(available, tt.controller) {
			continue
		}
		tried++
		l, err := FromOCI(resources(t, tt.json))
		if err != nil {
			t.Fatal(err)
		}
		_, err = CreateFor(mount, path+"/c", l)
		ce, ok := errors.AsType[*ControllerError](err)
		if !ok || ce.Controller != tt.controller || ce.Field != tt.field || ce.Mount != v1Mount(t, tt.v1) || ce.Hint() == "" {
			t.Errorf("%s: got %v (%+v)", tt.json, err, ce)
		}
		if Open(mount, path+"/c").Exists() || Open(mount, path).Exists() {
			t.Errorf("%s: a refused Create left its group behind", tt.json)
		}
		// The same limit for a group that exists, as in an update.
		g := create(t, path)
		if ce, ok := errors.AsType[*ControllerError](g.Apply(l)); !ok || ce.Field != tt.field {
			t.Errorf("%s: Apply: %v", tt.json, err)
		}
		if err := g.Remove(time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if tried == 0 {
		t.Error("nothing was missing")
	}
}

// What equals the kernel's defaults is fine without controllers.
func TestRootDefaultsNeedNothing(t *testing.T) {
	l, err := FromOCI(resources(t, `{"cpu":{"shares":1024,"quota":-1,"period":100000},"pids":{"limit":-1},"memory":{"limit":-1,"swap":-1},"unified":{"memory.high":"max"}}`))
	if err != nil {
		t.Fatal(err)
	}
	g, err := CreateFor(mountOf(t), parentPath(t), l)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Apply(l); err != nil {
		t.Error(err)
	}
	if err := g.Remove(time.Second); err != nil {
		t.Error(err)
	}
}

func TestRootUnifiedUnknownFile(t *testing.T) {
	g := create(t, parentPath(t))
	l, err := FromOCIUpdate(resources(t, `{"unified":{"cgroup.nosuch":"1"}}`))
	if err != nil {
		t.Fatal(err)
	}
	err = g.Apply(l)
	we, ok := errors.AsType[*WriteError](err)
	if !ok || !errors.Is(err, unix.ENOENT) || we.Field != `linux.resources.unified["cgroup.nosuch"]` {
		t.Errorf("got %v", err)
	}
	l, _ = FromOCIUpdate(resources(t, `{"unified":{"cgroup.max.depth":"3","cgroup.max.descendants":"5"}}`))
	if err := g.Apply(l); err != nil {
		t.Fatal(err)
	}
	if got := read(t, g, "cgroup.max.depth") + read(t, g, "cgroup.max.descendants"); got != "35" {
		t.Errorf("read back %q", got)
	}
	l, _ = FromOCIUpdate(resources(t, `{"unified":{"cgroup.max.depth":"three"}}`))
	want := `cgroup "` + g.Path + `": write cgroup.max.depth "three": invalid argument`
	if err := g.Apply(l); err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestRootDevices(t *testing.T) {
	g := create(t, parentPath(t))
	dir := t.TempDir()
	full := filepath.Join(dir, "full") // the number counts, not the name
	if err := unix.Mknod(full, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 7))); err != nil {
		t.Fatal(err)
	}
	check := func(how, name, want string) {
		t.Helper()
		if got := ask(t, g, "helper-open", how, name); got != want {
			t.Errorf("open %s %s: %s, want %s", how, name, got, want)
		}
	}
	const denied = "operation not permitted"
	check("rw", "/dev/zero", "ok") // no filter yet
	attach := func(rules ...specs.LinuxDeviceCgroup) {
		t.Helper()
		p, err := DeviceFilter(rules)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.AttachDevices(p); err != nil {
			t.Fatal(err)
		}
		if n := filters(t, g); n != 1 {
			t.Errorf("%d filters are attached, want 1", n)
		}
	}
	attach(rule(true, "c", 1, 3, "rw"), rule(true, "c", 1, 7, "r"), rule(true, "c", 1, 3, "m"))
	check("rw", "/dev/null", "ok")
	check("r", "/dev/zero", denied)
	check("r", full, "ok")
	check("w", full, denied)
	check("rw", full, denied)
	check("mknod", filepath.Join(dir, "null")+",1,3", "ok")
	check("mknod", filepath.Join(dir, "zero")+",1,5", denied)

	attach(rule(true, "c", 1, 5, "r")) // replaced, not added
	check("r", "/dev/zero", "ok")
	check("r", full, denied)
	sub := mkdir(t, g, "sub") // sub-groups obey too
	if got := ask(t, sub, "helper-open", "r", full); got != denied {
		t.Errorf("in a sub-group: %s", got)
	}

	attach(append([]specs.LinuxDeviceCgroup{{Access: "rwm"}}, DefaultDevices()...)...)
	for _, d := range []string{"null", "zero", "full", "random", "urandom"} {
		check("rw", "/dev/"+d, "ok")
	}
	kmsg := filepath.Join(dir, "kmsg")
	check("mknod", kmsg+",1,11", "ok")
	check("r", kmsg, denied)
}

// filters returns how many device programs are attached to the group.
func filters(t *testing.T, g *Group) int {
	t.Helper()
	fd, err := g.FD()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	ids, err := attachedPrograms(fd)
	if err != nil {
		t.Fatal(err)
	}
	return len(ids)
}

// While a filter is replaced there is no moment without one.
func TestRootDevicesAtomic(t *testing.T) {
	g := create(t, parentPath(t))
	a, _ := DeviceFilter([]specs.LinuxDeviceCgroup{rule(true, "c", 1, 3, "rw")})
	b, _ := DeviceFilter([]specs.LinuxDeviceCgroup{rule(true, "c", 1, 7, "rw")})
	if err := g.AttachDevices(a); err != nil {
		t.Fatal(err)
	}
	// At least so many tries and so many replacements, at the same time.
	const tries, replacements = 500, 100
	enough := filepath.Join(t.TempDir(), "enough")
	h := start(t, g, "/bin/sh", "-c", `echo ready; n=0
while [ $n -lt $0 ] || [ ! -e "$1" ]; do n=$((n+1)); ( : </dev/zero ) 2>/dev/null && echo leak; done`, strconv.Itoa(tries), enough)
	h.ready(t)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ; n += 2 {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Microsecond):
			}
			for _, p := range []*DeviceProgram{b, a} {
				if err := g.AttachDevices(p); err != nil {
					t.Error(err)
				}
			}
			if n == replacements {
				if err := os.WriteFile(enough, nil, 0o644); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	out := make([]byte, 5)
	n, _ := h.out.Read(out)
	close(stop)
	<-done
	if n != 0 {
		t.Error("/dev/zero could be opened while the filter was replaced")
		h.stdin.Close()
		_ = h.Process.Kill()
	}
	_ = h.Wait()
}

// More than one filter, as systemd may leave it: ours is the only one afterwards.
func TestRootDevicesMany(t *testing.T) {
	g := create(t, parentPath(t))
	fd, err := g.FD()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, minor := range []int64{3, 5, 7} {
		p, _ := DeviceFilter([]specs.LinuxDeviceCgroup{rule(true, "c", 1, minor, "rw")})
		if err := attachBeside(fd, p.Insns()); err != nil {
			t.Fatal(err)
		}
	}
	if n := filters(t, g); n != 3 {
		t.Fatalf("%d filters", n)
	}
	p, _ := DeviceFilter([]specs.LinuxDeviceCgroup{rule(true, "c", 1, 3, "rw")})
	if err := g.AttachDevices(p); err != nil {
		t.Fatal(err)
	}
	if n := filters(t, g); n != 1 {
		t.Errorf("%d filters, want 1", n)
	}
	if got := ask(t, g, "helper-open", "rw", "/dev/null"); got != "ok" {
		t.Error(got)
	}
}

// The verifier must take the biggest and the most awkward filters, quickly.
func TestRootDevicesLarge(t *testing.T) {
	g := create(t, parentPath(t))
	for name, make := range map[string]func(i int) specs.LinuxDeviceCgroup{
		"full": func(i int) specs.LinuxDeviceCgroup { return rule(true, "c", int64(i), int64(i), "rwm") },
		"partial": func(i int) specs.LinuxDeviceCgroup {
			return rule(true, "c", int64(i), int64(i), []string{"r", "w", "m"}[i%3])
		},
		"alternating": func(i int) specs.LinuxDeviceCgroup {
			return rule(i%2 == 0, "b", int64(i/4), int64(i), []string{"r", "w", "rw"}[i%3])
		},
	} {
		rules := []specs.LinuxDeviceCgroup{}
		for i := range maxDeviceRules {
			rules = append(rules, make(i))
		}
		p, err := DeviceFilter(rules)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := g.AttachDevices(p); err != nil {
			t.Errorf("%s: %d instructions: %v", name, len(p.Insns())/8, err)
		}
		if d := time.Since(began); d > time.Minute {
			t.Errorf("%s: %d instructions took %v", name, len(p.Insns())/8, d)
		} else {
			t.Logf("%s: %d instructions took %v", name, len(p.Insns())/8, d)
		}
	}
}

// Descriptors are few and all closed again.
func TestRootNoDescriptorLeft(t *testing.T) {
	count := func() int {
		e, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(e)
	}
	l, err := FromOCI(nil)
	if err != nil {
		t.Fatal(err)
	}
	path := parentPath(t)
	life := func() {
		g := create(t, path+"/x/y")
		for _, err := range []error{g.Apply(l), g.AttachDevices(l.Devices), g.Freeze(time.Second), g.Thaw(time.Second), g.Kill(), g.WaitEmpty(time.Second), g.Delegate(0), Open(g.Mount, path).Remove(time.Second)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if _, err := CreateFor(g.Mount, path+"/x", &Limits{Controllers: []string{"nosuch"}}); err == nil {
			t.Fatal("no error")
		}
	}
	life()
	before := count()
	for range 5 {
		life()
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func BenchmarkRootLife(b *testing.B) {
	m, err := Mount()
	if err != nil {
		b.Fatal(err)
	}
	l, err := FromOCI(nil)
	if err != nil {
		b.Fatal(err)
	}
	path := "/minirun-test-" + strconv.Itoa(os.Getpid()) + "-bench"
	for b.Loop() {
		g, err := CreateFor(m, path, l)
		if err == nil {
			err = g.Apply(l)
		}
		if err == nil {
			err = g.Remove(time.Second)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
