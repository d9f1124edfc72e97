package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
	"github.com/minirun/minirun/runtime/bundle"
)

// fakeResctrl puts a directory in place of resctrl that behaves as the kernel's:
// a new directory has its files at once, and goes with them.
func fakeResctrl(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	var fs unix.Statfs_t
	if err := unix.Statfs(root, &fs); err != nil {
		t.Fatal(err)
	}
	fill := func(dir string, class bool) {
		files := map[string]string{"tasks": ""}
		if class {
			files["schemata"] = "    L3:0=0ff;1=0ff\n    MB:0= 100;1= 100\n"
			if err := os.Mkdir(filepath.Join(dir, "mon_groups"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(root, true)
	old := resctrl
	t.Cleanup(func() { resctrl = old })
	resctrl = resctrlFS{
		root: root, magic: int64(fs.Type),
		mkdir: func(path string) error {
			err := unix.Mkdir(path, 0o755)
			if err == nil {
				fill(path, filepath.Base(filepath.Dir(path)) != "mon_groups")
			}
			return err
		},
		rmdir: func(path string) error {
			if _, err := os.Stat(path); err != nil {
				return errors.Unwrap(err)
			}
			return os.RemoveAll(path)
		},
	}
	return root
}

func TestRdt(t *testing.T) {
	root := fakeResctrl(t)
	exists := func(path string) bool {
		_, err := os.Stat(filepath.Join(root, path))
		return err == nil
	}
	read := func(path string) string {
		b, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, name := range []string{"gold", "web2"} {
		if err := resctrl.mkdir(filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name     string
		want     specs.LinuxIntelRdt
		class    string // below the root
		schemata string // in it afterwards; "": as it was
		monitor  bool
		stays    bool // after delete
	}{
		{name: "nothing said", class: "web"},
		{name: "schemata of its own", want: specs.LinuxIntelRdt{Schemata: []string{"L3:0=f", "MB:0=20"}}, class: "web", schemata: "L3:0=f\nMB:0=20\n"},
		{name: "older fields", want: specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f"}, class: "web", schemata: "L3:0=f\n"},
		{name: "the last of three", want: specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f", MemBwSchema: "MB:0=20", Schemata: []string{"L3:0=3"}}, class: "web", schemata: "L3:0=3\n"},
		{name: "monitored", want: specs.LinuxIntelRdt{EnableMonitoring: true}, class: "web", monitor: true},
		{name: "a new name", want: specs.LinuxIntelRdt{ClosID: "silver", Schemata: []string{"L3:0=1"}}, class: "silver", schemata: "L3:0=1\n", stays: true},
		{name: "that of somebody else", want: specs.LinuxIntelRdt{ClosID: "gold", EnableMonitoring: true}, class: "gold", monitor: true, stays: true},
		{name: "with the same schemata", want: specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:1=ff;0=FF", MemBwSchema: "MB:0=100"}, class: "gold", stays: true},
		{name: "the default one", want: specs.LinuxIntelRdt{ClosID: "/", EnableMonitoring: true}, class: ".", monitor: true, stays: true},
	} {
		rdt, err := planRdt("web", &tt.want)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		c := &Container{State: State{ID: "web", Rdt: rdt}}
		if err := c.makeRdt(&tt.want); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err := c.joinRdt(4711); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if got := read(tt.class + "/tasks"); got != "4711" {
			t.Errorf("%s: tasks %q", tt.name, got)
		}
		if got := read(tt.class + "/schemata"); tt.schemata != "" && !strings.HasPrefix(got, tt.schemata) || tt.schemata == "" && !strings.HasPrefix(got, "    L3:") {
			t.Errorf("%s: schemata %q, want %q", tt.name, got, tt.schemata)
		}
		if exists(tt.class+"/mon_groups/web") != tt.monitor || tt.monitor && read(tt.class+"/mon_groups/web/tasks") != "4711" {
			t.Errorf("%s: monitored is %v, want %v", tt.name, !tt.monitor, tt.monitor)
		}
		for range 2 { // it converges
			if err := c.removeRdt(); err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
		if exists(tt.class) != tt.stays || exists(tt.class+"/mon_groups/web") {
			t.Errorf("%s: the class stays %v, want %v", tt.name, !tt.stays, tt.stays)
		}
		_ = os.WriteFile(filepath.Join(root, tt.class, "tasks"), nil, 0o644)
		_ = os.RemoveAll(filepath.Join(root, "web"))
	}
}

func TestRdt_Refused(t *testing.T) {
	root := fakeResctrl(t)
	if err := resctrl.mkdir(filepath.Join(root, "gold")); err != nil {
		t.Fatal(err)
	}
	fails := func(name string, err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	_, err := planRdt("web", &specs.LinuxIntelRdt{ClosID: "none"})
	fails("a class that is not there", err, `linux.intelRdt.closID: there is no class "none"`)

	other := &specs.LinuxIntelRdt{ClosID: "gold", Schemata: []string{"L3:0=ff;1=7f"}}
	rdt, err := planRdt("web", other)
	if err != nil {
		t.Fatal(err)
	}
	c := &Container{State: State{ID: "web", Rdt: rdt}}
	fails("another schema", c.makeRdt(other), `the class "gold" is there already and has another schema than "L3:1=7f"`)

	// Made by somebody else meanwhile: not ours to remove.
	own := &specs.LinuxIntelRdt{}
	if rdt, err = planRdt("web", own); err != nil || !rdt.Own {
		t.Fatalf("%+v, %v", rdt, err)
	}
	if err := resctrl.mkdir(filepath.Join(root, "web")); err != nil {
		t.Fatal(err)
	}
	c = &Container{State: State{ID: "web", Rdt: rdt}}
	fails("made meanwhile", c.makeRdt(own), "file exists")
	if err := c.removeRdt(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(root, "web", "schemata")); err != nil {
		t.Errorf("the undo removes what somebody else has made: %v", err)
	}

	full := resctrl.mkdir
	resctrl.mkdir = func(string) error { return unix.ENOSPC }
	rdt, _ = planRdt("db", own)
	c = &Container{State: State{ID: "db", Rdt: rdt}}
	fails("no class left", c.makeRdt(own), "no space left on device")
	resctrl.mkdir = full

	resctrl.magic++
	_, err = planRdt("web", own)
	fails("another file system", err, "linux.intelRdt: Intel RDT is not available")
	if rdt, err := planRdt("web", nil); err != nil || rdt != (Rdt{}) {
		t.Errorf("none asked for: %+v, %v", rdt, err)
	}
}

// The record keeps what delete has to remove.
func TestRdt_State(t *testing.T) {
	s := State{ID: "web", Rdt: Rdt{Class: "web", Own: true, Monitor: "web"}}
	got, err := parseState(s.appendJSON(nil))
	if err != nil || got.Rdt != s.Rdt {
		t.Errorf("%+v, %v", got, err)
	}
}

// A container in a class: its processes are in there before they run.
func TestRootRdt(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	root := fakeResctrl(t)
	dir := testenv.Bundle(t, func(s *specs.Spec) {
		s.Process.Args = []string{"sleep", "3600"}
		s.Root.Readonly = false
		s.Linux.IntelRdt = &specs.LinuxIntelRdt{Schemata: []string{"L3:0=f"}, EnableMonitoring: true}
	})
	b, err := bundle.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	store, err := OpenStore(testenv.StateRoot(t))
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	stdio := [3]int{int(null.Fd()), int(null.Fd()), int(null.Fd())}
	id := testenv.UniqueID(t)
	c, err := store.Run(CreateOptions{ID: id, Bundle: b, Stdio: stdio})
	if err != nil {
		t.Fatal(err)
	}
	deleted := false
	defer func() {
		if !deleted { // the test has failed
			_ = c.Delete(Force, nil)
			_, _ = c.Wait()
		}
	}()
	class := filepath.Join(root, id)
	tasks := func() string {
		t.Helper()
		one, err1 := os.ReadFile(filepath.Join(class, "tasks"))
		two, err2 := os.ReadFile(filepath.Join(class, "mon_groups", id, "tasks"))
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if string(one) != string(two) {
			t.Errorf("%q in the class, %q in the monitoring group", one, two)
		}
		return string(one)
	}
	if got := tasks(); got != strconv.Itoa(c.Pid) {
		t.Errorf("the container: %q, want %d", got, c.Pid)
	}
	exec := func(args ...string) (*Process, error) {
		return c.Exec(ExecOptions{Stdio: stdio, Process: func(p *specs.Process) (*specs.Process, error) {
			p.Args = args
			return p, nil
		}})
	}
	p, err := exec("true")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(); err != nil {
		t.Error(err)
	}
	// It is the first process of exec that is put there; the kernel hands the
	// class on to the one that this starts.
	if got := tasks(); got == strconv.Itoa(c.Pid) || got == "" {
		t.Errorf("exec: %q", got)
	}
	// A process that cannot be put there does not run.
	if err := errors.Join(os.Remove(filepath.Join(class, "tasks")), os.Mkdir(filepath.Join(class, "tasks"), 0o755)); err != nil {
		t.Fatal(err)
	}
	if _, err := exec("touch", "/tmp/ran"); err == nil || !strings.Contains(err.Error(), "linux.intelRdt") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat("/proc/" + strconv.Itoa(c.Pid) + "/root/tmp/ran"); err == nil {
		t.Error("it ran")
	}
	if err := c.UpdateRdt("L3:0=7", ""); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(filepath.Join(class, "schemata")); !strings.HasPrefix(string(got), "L3:0=7\n") {
		t.Errorf("update: %q", got)
	}
	deleted = true
	if err := c.Delete(Force, nil); err != nil {
		t.Error(err)
	}
	if _, err := c.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(class); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the class is left: %v", err)
	}
	// A create that fails takes it back.
	b, err = bundle.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	b.Spec.Process.Args = []string{"nosuchprogram"}
	if _, err := store.Create(CreateOptions{ID: id, Bundle: b, Stdio: stdio}); err == nil || !strings.Contains(err.Error(), "nosuchprogram") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(class); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the class of a create that failed is left: %v", err)
	}
}
