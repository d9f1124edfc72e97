package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// hookPath is what the shells of hooks on the host need.
const hookPath = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"

// hostHook is a hook on the host that runs a script, in the bundle's directory.
func hostHook(text string, env ...string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", text}, Env: append([]string{hookPath}, env...)}
}

// hookKinds are all kinds in the order in which they run.
var hookKinds = []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}

// addHook adds a hook of a kind.
func addHook(s *specs.Spec, kind string, h specs.Hook) {
	if s.Hooks == nil {
		s.Hooks = &specs.Hooks{}
	}
	list := map[string]*[]specs.Hook{
		"prestart": &s.Hooks.Prestart, "createRuntime": &s.Hooks.CreateRuntime, "createContainer": &s.Hooks.CreateContainer, //nolint:staticcheck // deprecated and still used
		"startContainer": &s.Hooks.StartContainer, "poststart": &s.Hooks.Poststart, "poststop": &s.Hooks.Poststop,
	}[kind]
	*list = append(*list, h)
}

// hooked adds a hook that runs a script. Its standard output is the file log in
// the bundle, and in the container's root for startContainer.
func hooked(kind, text string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Root.Readonly = false
		log := "log"
		if kind == "startContainer" {
			log = "/log"
		}
		if kind == "createContainer" { // its working directory is the rootfs
			log = "../log; cd .."
		}
		addHook(s, kind, hostHook("exec >> "+log+"\n"+text))
	}
}

// hookLog is what hooked hooks have written.
func (b *ociBox) hookLog() string {
	raw, _ := os.ReadFile(filepath.Join(b.bundle, "log"))
	inside, _ := os.ReadFile(b.rootfs("log"))
	return string(raw) + string(inside)
}

// TestRootHooks looks at every hook from inside: when it runs, in which
// namespaces and root, as whom, with which environment and input.
func TestRootHooks(t *testing.T) {
	setup(t)
	const report = `printf '{"kind":"%s","args":["%s","%s"],"mnt":"%s","pidns":"%s","netns":"%s","uid":"%s","cwd":"%s","env":"%s","self":%d,"state":' ` +
		`$KIND "$0" "$1" $(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/pid) $(readlink /proc/self/ns/net) $(id -u) "$(pwd)" "$(env | grep -v -e ^PWD= -e ^SHLVL= -e ^_= -e ^OLDPWD= | sort | tr '\n' ' ')" $$; cat; echo "}"`
	type seen struct {
		Kind, Mnt, Pidns, Netns, UID, Cwd, Env string
		Args                                   []string
		Self                                   int
		State                                  specs.State
	}
	ns := func(name string) string {
		l, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	for _, how := range []string{"create, start", "run", "run --detach"} {
		b := newBox(t, forever, func(s *specs.Spec) {
			s.Annotations = map[string]string{"org.example.key": `a "quoted" value`}
			s.Process.Env = append(s.Process.Env, "OF_PROCESS=1")
			for _, kind := range hookKinds {
				h := hooked(kind, report)
				h(s)
			}
			for kind, list := range map[string][]specs.Hook{
				"prestart": s.Hooks.Prestart, "createRuntime": s.Hooks.CreateRuntime, "createContainer": s.Hooks.CreateContainer, //nolint:staticcheck // deprecated and still used
				"startContainer": s.Hooks.StartContainer, "poststart": s.Hooks.Poststart, "poststop": s.Hooks.Poststop,
			} {
				list[0].Args = append(list[0].Args, "zero", "one")
				list[0].Env = append(list[0].Env, "KIND="+kind)
			}
			if how == "run" {
				script("exit 0")(s)
			}
		})
		pid := 0
		wantKinds := func(after string, kinds ...string) {
			t.Helper()
			var got []string
			for _, l := range lines(b.hookLog()) {
				var k struct{ Kind string }
				_ = json.Unmarshal([]byte(l), &k)
				got = append(got, k.Kind)
			}
			for _, k := range kinds {
				if !slices.Contains(got, k) {
					t.Errorf("%s: after %s there is no %s in %v", how, after, k, got)
				}
			}
			if len(got) != len(kinds) {
				t.Errorf("%s: after %s: %v, want %v", how, after, got, kinds)
			}
		}
		switch how {
		case "create, start":
			b.create()
			wantKinds("create", hookKinds[:3]...)
			pid = b.pid()
			b.must("start")
			wantKinds("start", hookKinds[:5]...)
			signalPid(t, pid, unix.SIGKILL)
			b.stopped()
			wantKinds("kill", hookKinds[:5]...)
			b.must("delete")
		case "run":
			b.must("run", "--bundle", b.bundle)
		default:
			b.must("run", "--bundle", b.bundle, "--detach")
			wantKinds("run --detach", hookKinds[:5]...)
			pid = b.pid()
			stop := reapContainers(t)
			b.must("delete", "--force")
			stop()
		}
		wantKinds("delete", hookKinds...)
		inner := map[string]string{}
		order := []string{}
		for _, l := range lines(b.hookLog()) {
			var h seen
			if err := json.Unmarshal([]byte(l), &h); err != nil {
				t.Fatalf("%s: %v: %s", how, err, l)
			}
			if h.Kind != "startContainer" { // it has a log of its own
				order = append(order, h.Kind)
			}
			inside := h.Kind == "createContainer" || h.Kind == "startContainer"
			bad := func(what string, got, want any) { t.Errorf("%s: %s: %s is %v, want %v", how, h.Kind, what, got, want) }
			for name, got := range map[string]string{"mnt": h.Mnt, "pid": h.Pidns, "net": h.Netns} {
				if (got == ns(name)) == inside {
					bad(name+" namespace", got, "another")
				}
				if inside && inner[name] != "" && inner[name] != got {
					bad(name+" namespace", got, inner[name])
				}
				if inside {
					inner[name] = got
				}
			}
			wantState := specs.State{Version: b.spec().Version, ID: b.id, Bundle: b.bundle, Annotations: map[string]string{"org.example.key": `a "quoted" value`}}
			wantState.Status = map[string]specs.ContainerState{
				"prestart": "creating", "createRuntime": "creating", "createContainer": "creating",
				"startContainer": "created", "poststart": "running", "poststop": "stopped",
			}[h.Kind]
			switch {
			case inside:
				wantState.Pid = 1
			case h.Kind != "poststop":
				if wantState.Pid = pid; pid == 0 {
					wantState.Pid = h.State.Pid
				}
				pid = wantState.Pid
			}
			sameJSON(t, how+": "+h.Kind, h.State, wantState)
			wantEnv := hookPath + " "
			if h.Kind < "z" {
				wantEnv = "KIND=" + h.Kind + " " + wantEnv
			}
			if h.Env != wantEnv {
				bad("environment", h.Env, wantEnv)
			}
			cwd := b.bundle
			if h.Kind == "startContainer" {
				cwd = "/"
			}
			// That of createContainer, which the script has left, is in TestRootHooksLikeRunc.
			if h.Cwd != cwd || h.UID != "0" || !slices.Equal(h.Args, []string{"zero", "one"}) {
				bad("directory, user, arguments", []any{h.Cwd, h.UID, h.Args}, []any{cwd, 0, "zero one"})
			}
			if inside != (h.Self < 100) {
				bad("own pid", h.Self, "one of its pid namespace")
			}
		}
		if want := []string{"prestart", "createRuntime", "createContainer", "poststart", "poststop"}; !slices.Equal(order, want) {
			t.Errorf("%s: order %v, want %v", how, order, want)
		}
		if !b.gone() {
			t.Error(how)
		}
	}
}

// spec is the bundle's configuration.
func (b *ociBox) spec() *specs.Spec {
	b.t.Helper()
	var s specs.Spec
	if err := json.Unmarshal([]byte(readFile(b.t, filepath.Join(b.bundle, "config.json"))), &s); err != nil {
		b.t.Fatal(err)
	}
	return &s
}

// What engines use hooks for: a hook of create configures the new network
// namespace, sees the mounts, and a hook of the container changes its files
// before they become its root. The process finds all of it.
func TestRootHooksPrepareContainer(t *testing.T) {
	setup(t)
	busybox := testenv.Busybox(t)
	for _, kind := range []string{"prestart", "createRuntime"} {
		b := newBox(t, writable, script("ip -4 addr show lo | grep -c 10.88.99.1; cat /tmp/mounted /started; ulimit -n"),
			hooked(kind, `pid=$(sed 's/.*"pid"://; s/,.*//'); nsenter -t $pid -n `+busybox+` ip addr add 10.88.99.1/32 dev lo
				grep -c "$(pwd)/rootfs/proc .* - proc" /proc/$pid/mountinfo; readlink /proc/$pid/root`),
			hooked("createContainer", `mount -t tmpfs hook rootfs/tmp && echo mounted > rootfs/tmp/mounted; grep -c "$(pwd)" /proc/self/mountinfo > /dev/null && echo mounts`),
			hooked("startContainer", `echo started > /started; readlink /proc/self/root`),
			func(s *specs.Spec) { // the process is nobody's hook: its limits stay
				s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 77, Hard: 77}}
			})
		if out, want := b.output(), "1\nmounted\nstarted\n77\n"; out != want {
			t.Errorf("%s: the process says %q, want %q\n%s", kind, out, want, b.hookLog())
		}
		if log, want := b.hookLog(), "1\n/\nmounts\n/\n"; log != want {
			t.Errorf("%s: hooks say %q, want %q", kind, log, want)
		}
		if m := readFile(t, "/proc/self/mountinfo"); strings.Contains(m, b.bundle) {
			t.Errorf("%s: a mount of the hook is on the host", kind)
		}
	}
}

// A startContainer hook is confined as the process is, and has its environment
// unless it brings one.
func TestRootHooksStartContainerConfined(t *testing.T) {
	setup(t)
	const look = `grep -E '^(Uid|Gid|Groups|CapEff|CapBnd|CapPrm|NoNewPrivs|Seccomp):' /proc/self/status; ulimit -n; pwd; echo $MARK; mkdir /tmp/x 2>&1 | sed 's/.*: //'`
	b := newBox(t, writable, script(look), func(s *specs.Spec) {
		p := s.Process
		p.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{7}}
		p.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL"}}
		p.Cwd, p.NoNewPrivileges = "/tmp", true
		p.Env = append(p.Env, "MARK=mine")
		p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 78, Hard: 78}}
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno}}}
		addHook(s, "startContainer", specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", "{ " + look + "; } > /tmp/log"}})
	})
	if err := os.Chmod(b.rootfs("tmp"), 0o777); err != nil {
		t.Fatal(err)
	}
	process := b.output()
	if !strings.Contains(process, "not permitted") || !strings.Contains(process, "Seccomp:\t2") || !strings.Contains(process, "mine") {
		t.Fatalf("the process is not confined: %s", process)
	}
	if hook := readFile(t, b.rootfs("tmp/log")); hook != process {
		t.Errorf("the hook:\n%s\nthe process:\n%s", hook, process)
	}
}

// With a user namespace, createContainer and startContainer are in it.
func TestRootHooksUserNamespace(t *testing.T) {
	setup(t)
	b := newBox(t, script("exit 0"), withUser, func(s *specs.Spec) {
		s.Root.Readonly = true
		for _, kind := range hookKinds {
			addHook(s, kind, hostHook(`echo `+kind+` $(id -u) $(sed 's/  */ /g' /proc/self/uid_map) >&2; exit 5`))
		}
	})
	want := map[string]string{"createContainer": "0 0 100000 65536", "startContainer": "0 0 100000 65536"}
	for _, kind := range hookKinds {
		line := want[kind]
		if line == "" {
			line = "0 0 0 4294967295"
		}
		r := b.run()
		if text := kind + ` hook #0 "/bin/sh": exit status 5, output: ` + kind + " " + line; !strings.Contains(r.Stderr, text) {
			t.Errorf("%s: %+v, want %q", kind, r, text)
		}
		change(t, b.bundle, func(c map[string]any) { delete(c["hooks"].(map[string]any), kind) })
	}
	b.must("run", "--bundle", b.bundle)
}

// Hooks without a pid namespace of the container's own: the pid is the same
// inside and outside.
func TestRootHooksSharedPidNamespace(t *testing.T) {
	setup(t)
	const pid = `sed 's/.*"pid"://; s/,.*//'; echo`
	b := newBox(t, script("exit 0"), hooked("createRuntime", pid), hooked("createContainer", pid), hooked("startContainer", pid), func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	})
	b.create()
	n := strconv.Itoa(b.pid())
	b.must("start")
	b.stopped()
	b.must("delete")
	if got, want := strings.Fields(b.hookLog()), []string{n, n, n}; !slices.Equal(got, want) {
		t.Errorf("pids %v, want %v", got, want)
	}
}

// explain shows the hooks of create, and runs none.
func TestRootHooksExplain(t *testing.T) {
	setup(t)
	b := newBox(t, hooked("prestart", "echo ran"), hooked("createContainer", "echo ran"))
	r := testenv.Run(t, "explain", "--bundle", b.bundle)
	for _, want := range []string{"prestart /bin/sh -c", "createContainer /bin/sh -c"} {
		if r.Code != 0 || !strings.Contains(r.Stdout, want) {
			t.Errorf("no %q in %+v", want, r)
		}
	}
	if log := b.hookLog(); log != "" {
		t.Errorf("explain has run hooks: %s", log)
	}
}

// The configuration counts as it was at create: neither a bundle that is changed
// afterwards nor one that is gone changes what runs at start and delete.
func TestRootHooksBundleChanged(t *testing.T) {
	setup(t)
	for _, gone := range []bool{false, true} {
		dir := t.TempDir()
		b := newBox(t, script("exit 0"), func(s *specs.Spec) {
			addHook(s, "poststart", hostHook("echo poststart >> "+dir+"/log"))
			addHook(s, "poststop", hostHook("echo poststop >> "+dir+"/log"))
		})
		b.create()
		evil := hostHook("echo evil >> " + dir + "/log")
		change(t, b.bundle, func(c map[string]any) {
			c["hooks"] = map[string]any{"poststart": []any{evil}, "poststop": []any{evil}}
		})
		b.must("start")
		b.stopped()
		if gone {
			if err := os.Rename(b.bundle, b.bundle+".gone"); err != nil {
				t.Fatal(err)
			}
		}
		r := b.do("delete")
		if gone {
			if err := os.Rename(b.bundle+".gone", b.bundle); err != nil {
				t.Fatal(err)
			}
		}
		if r.Code != 0 || r.Stderr != "" {
			t.Errorf("delete: %+v", r)
		}
		if log := readFile(t, dir+"/log"); log != "poststart\npoststop\n" {
			t.Errorf("gone %v: hooks say %q", gone, log)
		}
	}
}

// A path names a file of the host for all hooks but startContainer, and one of
// the container for that: what lies at the same path on the other side is
// neither found nor run.
func TestRootAttackHookPath(t *testing.T) {
	setup(t)
	// A directory that is there on both sides, with other programs.
	dir := filepath.Join(t.TempDir(), "both")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(dir+"/hook", "#!/bin/sh\necho host; exit 9\n")
	write(dir+"/host", "#!/bin/sh\nexit 0\n")
	for _, kind := range hookKinds[:5] {
		for _, tt := range []struct{ name, host, container string }{
			{"hook", "exit status 9, output: host", "exit status 9, output: container"},
			{"host", "", "no such file or directory"},
			{"container", "no such file or directory", ""},
			{"link", "no such file or directory", "exit status 9, output: container"},
		} {
			b := newBox(t, writable, script("exit 0"), func(s *specs.Spec) { addHook(s, kind, specs.Hook{Path: dir + "/" + tt.name}) })
			write(b.rootfs(dir, "hook"), "#!/bin/sh\necho container; exit 9\n")
			write(b.rootfs(dir, "container"), "#!/bin/sh\nexit 0\n")
			if err := os.Symlink("hook", b.rootfs(dir, "link")); err != nil {
				t.Fatal(err)
			}
			want := tt.host
			if kind == "startContainer" {
				want = tt.container
			}
			r := b.run()
			if want == "" && r.Code != 0 || want != "" && (r.Code != 1 || !strings.Contains(r.Stderr, kind+" hook #0") || !strings.Contains(r.Stderr, want)) {
				t.Errorf("%s: %s: %+v, want %q", kind, tt.name, r, want)
			}
		}
	}
}

// The container's process cannot reach what a hook of the host runs on, and a
// hook gets nothing of the runtime's: no descriptor, no environment, and an
// input that it cannot change for the hook behind it.
func TestRootAttackHookInput(t *testing.T) {
	setup(t)
	const meddle = `ls /proc/self/fd | wc -l | sed 's/^ *//'; env | grep -c SECRET; { echo evil >&0; } 2>/dev/null; { echo evil > /proc/self/fd/0; } 2>/dev/null; cat > /dev/null & cat`
	for _, kind := range hookKinds[:3] {
		b := newBox(t, script("exit 0"), hooked(kind, meddle), hooked(kind, meddle))
		cmd := testenv.Command(t, "create", "--bundle", b.bundle, b.id)
		cmd.Env = append(os.Environ(), "SECRET=1")
		r, w := pipe(t)
		cmd.ExtraFiles = []*os.File{r, w}
		if r := testenv.RunCmd(t, cmd); r.Code != 0 {
			t.Fatalf("%s: %+v", kind, r)
		}
		var states []string
		for _, l := range strings.Split(strings.ReplaceAll(b.hookLog(), "}", "}\n"), "\n") {
			switch {
			case strings.HasPrefix(l, "{"):
				states = append(states, l)
			case strings.Contains(l, "evil"):
				t.Errorf("%s: the input was changed: %s", kind, l)
			}
		}
		// 0, 1, 2 and the one that ls reads the directory with.
		if fields := strings.Fields(b.hookLog()); len(fields) < 2 || fields[0] != "4" || fields[1] != "0" {
			t.Errorf("%s: descriptors and variables: %s", kind, b.hookLog())
		}
		if len(states) == 0 {
			t.Errorf("%s: no state in %s", kind, b.hookLog())
		}
		for _, s := range states {
			if !json.Valid([]byte(s)) || s != states[0] {
				t.Errorf("%s: states %q", kind, states)
			}
		}
		b.must("delete")
	}
}

// A hook is not stopped by the terminal's signals for minirun's group, and has
// none of ours: it is in another group, as leader of none, so that setsid(2) works.
func TestRootHooksProcessGroup(t *testing.T) {
	setup(t)
	b := newBox(t, script("exit 0"), hooked("createRuntime", `read -r _ _ _ _ pgrp _ < /proc/$$/stat; read -r _ _ _ _ theirs _ < /proc/$PPID/stat
[ $pgrp != $theirs ] && [ $pgrp != $$ ] && echo own`))
	cmd := exec.Command(testenv.Binary(t), "--root", testenv.StateRoot(t), "create", "--bundle", b.bundle, b.id)
	if r := testenv.RunCmd(t, cmd); r.Code != 0 {
		t.Fatalf("%+v", r)
	}
	if log := b.hookLog(); log != "own\n" {
		t.Errorf("log %q", log)
	}
	_ = unix.Kill(b.pid(), unix.SIGKILL)
	b.stopped()
	b.must("delete")
}

// The same hooks under runc: what they see, and what becomes of failures.
func TestRootHooksLikeRunc(t *testing.T) {
	setup(t)
	bundle := testenv.Bundle(t, nil)
	log, inside := filepath.Join(bundle, "log"), filepath.Join(bundle, "rootfs/log")
	var seen [2][]string
	for i, r := range sbRuntimes(t) {
		for _, fails := range append([]string{""}, hookKinds...) {
			if fails == "startContainer" || fails == "poststart" {
				// runc 1.1 runs poststart hooks before the process is executed, and
				// only logs their failures, as version 1.0 of the specification wants.
				continue
			}
			os.Remove(log)
			os.Remove(inside)
			spec := testenv.DefaultSpec()
			writable(spec)
			script("echo process")(spec)
			spec.Linux.CgroupsPath = "/" + testenv.UniqueID(t)
			for _, kind := range hookKinds {
				to := log
				if kind == "startContainer" {
					to = "/log"
				}
				text := `{ echo "` + kind + ` $0 $1 $(pwd) $(env | grep -v -e ^PWD= -e ^SHLVL= -e ^OLDPWD= -e ^_= | sort | tr '\n' ' ') $(readlink /proc/self/root)"; cat; echo; } >> ` + to
				if kind == fails {
					text += "; exit 4"
				}
				addHook(spec, kind, specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", text, "a", "b"}, Env: []string{hookPath, "X=" + kind}})
			}
			sbWriteConfig(t, bundle, spec)
			id := "hooks"
			got := testenv.RunCmd(t, r.command("run", "--bundle", bundle, id))
			r.delete(t, id)
			text := fmt.Sprintf("%s fails: status %d, output %q\n", fails, got.Code, got.Stdout)
			for _, path := range []string{log, inside} {
				raw, _ := os.ReadFile(path)
				text += string(raw)
			}
			text = regexp.MustCompile(`"ociVersion":"[^"]*"|"pid":\d\d+`).ReplaceAllString(text, "N")
			text = strings.Replace(text, `"status":"running"`, `"status":"created"`, 1)
			seen[i] = append(seen[i], text)
		}
	}
	for j, want := range seen[0] {
		if got := seen[1][j]; got != want {
			t.Errorf("minirun:\n%s\nrunc:\n%s", got, want)
		}
		if !strings.Contains(want, "prestart a b") {
			t.Errorf("no hook has run: %s", want)
		}
	}
}

// The agent of the process's filter answers for a startContainer hook too, which
// has a filter of its own.
func TestRootHooksSeccompAgent(t *testing.T) {
	setup(t)
	for _, how := range []string{"start", "run"} {
		a := newAgent(t, refuseMkdir)
		b := newBox(t, script("exit 0"), asks(a.path, "", "mkdir", "mkdirat"), hooked("startContainer", "mkdir /tmp/x 2>&1; true"))
		if how == "start" {
			b.create()
			b.must("start")
			b.stopped()
			b.must("delete")
		} else {
			b.output()
		}
		if log := b.hookLog(); !strings.Contains(log, "Invalid cross-device link") {
			t.Errorf("%s: the hook says %q; want the agent's errno", how, log)
		}
		hook, process := a.state(), a.state()
		if hook.Pid == process.Pid || hook.State.Pid != process.Pid || process.State.Pid != process.Pid {
			t.Errorf("%s: the agent is told of %+v and %+v", how, hook, process)
		}
	}
}
