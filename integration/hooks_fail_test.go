package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// verbOf is the command that runs a kind of hook.
func verbOf(kind string) string {
	switch kind {
	case "startContainer", "poststart":
		return "start"
	case "poststop":
		return "delete"
	}
	return "create"
}

// until brings a container without a record to the point where verb is next.
func (b *ociBox) until(verb string) {
	b.t.Helper()
	if verb != "create" {
		b.create()
	}
	if verb == "delete" {
		_ = unix.Kill(b.pid(), unix.SIGKILL)
		b.stopped()
	}
}

// verb runs verb, with global flags before it.
func (b *ociBox) verb(verb string, global ...string) *exec.Cmd {
	args := append(slices.Clone(global), verb)
	if verb == "create" || verb == "run" {
		args = append(args, "--bundle", b.bundle)
	}
	return testenv.Command(b.t, append(args, b.id)...)
}

// A hook that fails ends create or start, and the container; hooks behind it do
// not run, those of poststop do. A failing poststop hook is a warning.
func TestRootHooksFail(t *testing.T) {
	setup(t)
	dir := filepath.Join(t.TempDir(), "x")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/plain", "#!/bin/sh\n")
	failures := []struct {
		name, want string
		hook       specs.Hook
	}{
		{"status", "exit status 3, output: sorry", hostHook("echo sorry >&2; exit 3")},
		{"lines", `exit status 1, output: "a\nb\x1b"`, hostHook(`printf 'a\nb\033\n'; exit 1`)},
		{"signal", "signal: killed", hostHook("kill -9 $$")},
		{"missing", "no such file or directory", specs.Hook{Path: "/no/such/hook"}},
		{"not executable", "permission denied", specs.Hook{Path: dir + "/plain"}},
		{"directory", "permission denied", specs.Hook{Path: dir}},
	}
	for _, kind := range hookKinds {
		for _, f := range failures {
			for _, verb := range []string{verbOf(kind), "run"} {
				if verb == "run" && f.name != "status" {
					continue
				}
				what := kind + ": " + f.name + ": " + verb
				if f.name == "directory" && kind == "startContainer" {
					f.want = "is a directory"
				}
				b := newBox(t, script("exit 0"), hooked(kind, "echo first"), func(s *specs.Spec) { addHook(s, kind, f.hook) },
					hooked(kind, "echo third"), hooked("poststop", "echo poststop"))
				if err := os.MkdirAll(b.rootfs(dir), 0o755); err != nil {
					t.Fatal(err)
				}
				writeFile(t, b.rootfs(dir, "plain"), "#!/bin/sh\n")
				if verb != "run" {
					b.until(verb)
				}
				r := testenv.RunCmd(t, b.verb(verb))
				code := 1
				if kind == "poststop" {
					code = 0
				}
				if text := kind + " hook #1 " + strconv.Quote(f.hook.Path) + ": " + f.want; r.Code != code || !strings.Contains(r.Stderr, text) {
					t.Errorf("%s: %+v, want status %d and %q", what, r, code, text)
				}
				if kind == "poststop" && !strings.Contains(r.Stderr, "warning: ") {
					t.Errorf("%s: no warning: %+v", what, r)
				}
				if verb == "start" {
					b.wantStatus("stopped")
					if log := b.hookLog(); log != "first\n" {
						t.Errorf("%s: before delete hooks say %q", what, log)
					}
					b.must("delete")
				}
				want := "first\npoststop\n"
				switch kind {
				case "startContainer":
					want = "poststop\nfirst\n" // another log
				case "poststop":
					want = "first\nthird\npoststop\n"
				}
				if log := b.hookLog(); log != want {
					t.Errorf("%s: hooks say %q, want %q", what, log, want)
				}
				if !b.gone() {
					t.Error(what)
				}
			}
		}
	}
}

// A create that fails by itself, after the hooks, takes back what they did; one
// that fails before anything was made does not.
func TestRootHooksCreateFails(t *testing.T) {
	setup(t)
	b := newBox(t, hooked("createRuntime", "echo attach"), hooked("poststop", "echo detach"),
		func(s *specs.Spec) { s.Process.Args = []string{"/no/such/program"} })
	if r := b.do("create", "--bundle", b.bundle); r.Code != 127 || !strings.Contains(r.Stderr, "/no/such/program") {
		t.Errorf("create: %+v", r)
	}
	if log := b.hookLog(); log != "attach\ndetach\n" || !b.gone() {
		t.Errorf("hooks say %q", log)
	}
	change(t, b.bundle, func(c map[string]any) { c["process"].(map[string]any)["cwd"] = "relative" })
	if r := b.do("create", "--bundle", b.bundle); r.Code != 1 {
		t.Errorf("create: %+v", r)
	}
	if log := b.hookLog(); log != "attach\ndetach\n" || !b.gone() {
		t.Errorf("hooks say %q", log)
	}
}

// A hook that hangs is killed with all of its group when its time is over, and
// one that writes without end too, without filling memory or the terminal.
func TestRootHooksTimeout(t *testing.T) {
	setup(t)
	const hang = `sleep 1234 & echo hanging; exec 2>&-; sleep 1234`
	one := 1
	for i, kind := range hookKinds {
		h := hostHook(hang)
		text := kind + ` hook #0 "/bin/sh": killed: it has not ended within 1s`
		var global []string
		if i%2 == 0 {
			h.Timeout = &one
			global = []string{"--hook-timeout", "1h"}
		} else {
			global = []string{"--hook-timeout", "1s"}
		}
		if kind == "createRuntime" {
			h.Args[2] = `echo hanging; yes hanging`
		}
		b := newBox(t, script("exit 0"), func(s *specs.Spec) { addHook(s, kind, h) })
		b.until(verbOf(kind))
		r := testenv.RunCmd(t, b.verb(verbOf(kind), global...))
		if (r.Code != 0) != (kind != "poststop") || !strings.Contains(r.Stderr, text) || len(r.Stderr) > 12<<10 {
			t.Errorf("%s: %+v, want %q", kind, r, text)
		}
		if !strings.Contains(r.Stderr, "output: ") { // it is not said how far a hook gets in a second
			t.Logf("%s: no output in time: %s", kind, r.Stderr)
		}
		if kind != "poststop" && (h.Timeout != nil) != strings.Contains(r.Stderr, "hooks."+kind+"[0].timeout is the limit") {
			t.Errorf("%s: the hint does not name the limit: %s", kind, r.Stderr)
		}
		if verbOf(kind) == "start" {
			b.wantStatus("stopped")
			b.must("delete")
		}
		if !b.gone() {
			t.Error(kind)
		}
	}
	for _, bad := range []string{"-1s", "x", ""} {
		if r := testenv.Run(t, "--hook-timeout", bad, "list"); r.Code != 1 || !strings.Contains(r.Stderr, "--hook-timeout") {
			t.Errorf("--hook-timeout %q: %+v", bad, r)
		}
	}
}

// A hook's end is that of its process: what it leaves in the background holds up
// nobody, and is not killed. Nor does one that neither reads nor writes, with a
// state that fits no pipe.
func TestRootHooksBackground(t *testing.T) {
	setup(t)
	long := strings.Repeat("long ", 100000)
	for _, kind := range hookKinds[:3] {
		b := newBox(t, script("exit 0"), hooked(kind, `exec >&2; sleep 1234 & echo $! > rest`), hooked(kind, `exec <&- >&- 2>&-; exit 0`),
			hooked(kind, `wc -c; true`), func(s *specs.Spec) { s.Annotations = map[string]string{"a": long} })
		b.create()
		if n, err := strconv.Atoi(strings.TrimSpace(b.hookLog())); err != nil || n < len(long) {
			t.Errorf("%s: a state of %q bytes", kind, b.hookLog())
		}
		pid, err := strconv.Atoi(strings.TrimSpace(readFile(t, filepath.Join(b.bundle, "rest"))))
		if err != nil {
			t.Fatal(err)
		}
		if kind == "createContainer" { // the pid is one of the container
			b.must("delete")
			continue
		}
		if !alive(pid) {
			t.Errorf("%s: what the hook has left was killed", kind)
		}
		signalPid(t, pid, unix.SIGKILL)
		b.must("delete")
	}
}

// minirun is killed while a hook runs. The hook dies with it, the container's
// init too where it waits for the hook; delete --force removes everything and
// runs the poststop hooks.
func TestRootHooksKilledRuntime(t *testing.T) {
	setup(t)
	for _, kind := range hookKinds {
		// The first time it tells that it runs, and stays.
		b := newBox(t, forever, hooked(kind, `[ -e here ] && exit 0; echo $$ > here; exec sleep 1234`), hooked("poststop", "echo poststop"),
			func(s *specs.Spec) { s.Root.Readonly = false })
		verb := verbOf(kind)
		b.until(verb)
		cmd := b.verb(verb)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		here := filepath.Join(b.bundle, "here")
		if kind == "startContainer" {
			here = b.rootfs("here")
		}
		eventually(t, kind+": the hook runs", func() bool { raw, _ := os.ReadFile(here); return strings.HasSuffix(string(raw), "\n") })
		if verb == "create" {
			if s := b.state().Status; s != "creating" {
				t.Errorf("%s: status %s while it runs", kind, s)
			}
		}
		pid, err := strconv.Atoi(strings.TrimSpace(readFile(t, here)))
		if err != nil {
			t.Fatal(err)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if kind != "createContainer" && kind != "startContainer" {
			eventually(t, kind+": the hook dies with minirun", func() bool { return !alive(pid) })
		}
		switch verb {
		case "create":
			if r := b.do("start"); r.Code == 0 {
				t.Errorf("%s: start: %+v", kind, r)
			}
		case "start":
			want := "created"
			if kind == "poststart" {
				want = "running"
			}
			b.wantStatus(want)
		}
		b.converge(kind)
		if log := b.hookLog(); log != "poststop\n" {
			t.Errorf("%s: hooks say %q", kind, log)
		}
		b.usedAgain(kind)
	}
}

// minirun is killed at system calls of create, start and delete with hooks of
// all kinds. What was attached is detached in the end.
func TestRootCrashHooks(t *testing.T) {
	setup(t)
	b := newBox(t, forever, func(s *specs.Spec) {
		s.Root.Readonly = false
		for _, kind := range hookKinds {
			text := "true"
			switch kind {
			case "prestart":
				text = "touch attached"
			case "poststop":
				text = "rm -f attached"
			}
			addHook(s, kind, hostHook(text))
		}
	})
	for _, verb := range []string{"create", "start", "delete"} {
		points, step := 0, 5
		for n := 1; ; n += step {
			what := verb + " killed at call " + strconv.Itoa(n)
			b.until(verb)
			from := []uint64{unix.SYS_FLOCK}
			if verb == "create" {
				from = []uint64{unix.SYS_MKDIRAT, sysMkdir}
			}
			args := []string{verb}
			if verb == "create" {
				args = append(args, "--bundle", b.bundle)
			}
			code, reached := tracedRun(t, minirunItself, n, from, append(args, b.id)...)
			if !reached && code != 0 {
				t.Fatalf("%s: exit status %d under trace", what, code)
			}
			_, before := os.Stat(filepath.Join(testenv.StateRoot(t), b.id))
			b.converge(what)
			if _, err := os.Stat(filepath.Join(b.bundle, "attached")); err == nil {
				t.Errorf("%s: what the prestart hook had attached is left (record: %v)", what, before)
				os.Remove(filepath.Join(b.bundle, "attached"))
			}
			if !reached {
				break
			}
			points++
		}
		t.Logf("%s: %d crash points", verb, points)
		if points < 5 {
			t.Errorf("%s: only %d crash points", verb, points)
		}
	}
	b.usedAgain("in the end")
}

// minirun is killed right before a hook in the container asks to die with it: the
// hook does not run.
func TestRootHooksOrphan(t *testing.T) {
	setup(t)
	for _, verb := range []string{"create", "start"} {
		ran := filepath.Join(t.TempDir(), "ran")
		b := newBox(t, forever, writable, func(s *specs.Spec) {
			if verb == "create" {
				addHook(s, "createContainer", hostHook("echo > "+ran+"; exec sleep 1000"))
			} else {
				addHook(s, "startContainer", hostHook("echo > /ran; exec sleep 1000"))
			}
		})
		if verb == "start" {
			ran = b.rootfs("ran")
			b.create()
		}
		hook, minirun := 0, ""
		x := tracer{target: containerInit, n: -1, stderr: new(string), look: func(pid int, nr uint64) {
			if _, _, args := syscallWith(pid); nr != unix.SYS_PRCTL || args[0] != unix.PR_SET_PDEATHSIG {
				return
			}
			hook = pid
			stat := readFile(t, "/proc/"+strconv.Itoa(pid)+"/stat")
			minirun = strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])[1]
			parent, _ := strconv.Atoi(minirun)
			_ = unix.Kill(parent, unix.SIGKILL)
			for deadline := time.Now().Add(testenv.Timeout(10 * time.Second)); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
				threads, _ := filepath.Glob("/proc/" + minirun + "/task/*/stat")
				if !slices.ContainsFunc(threads, func(p string) bool {
					s, err := os.ReadFile(p)
					return err == nil && !strings.Contains(string(s), ") Z ") && !strings.Contains(string(s), ") X ")
				}) {
					return
				}
			}
		}}
		done := make(chan error)
		onThread(func() {
			args := []string{verb, b.id}
			if verb == "create" {
				args = []string{verb, "--bundle", b.bundle, b.id}
			}
			_, _, err := x.run(testenv.Command(t, args...).Args)
			done <- err
		})
		if err := <-done; err != nil || hook == 0 {
			t.Fatalf("%s: the hook asks nothing (%v): %s", verb, err, *x.stderr)
		}
		exists := func() bool { _, err := os.Stat(ran); return err == nil }
		stop := reapContainers(t)
		eventually(t, verb+": the hook runs or has ended", func() bool { return exists() || !alive(hook) })
		stop()
		if exists() {
			t.Errorf("%s: the hook of a minirun that was killed has run", verb)
		}
		b.converge(verb + " killed")
	}
}
