package integration

import (
	"encoding/json"
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

func TestRootLifecycle(t *testing.T) {
	setup(t)
	mark := filepath.Join(t.TempDir(), "ran")
	b := newBox(t, forever, func(s *specs.Spec) {
		s.Annotations = map[string]string{"org.example.b": "2", "org.example.a": "quote \" and ü"}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mark", Source: filepath.Dir(mark), Options: []string{"bind"}})
		s.Process.Args[2] = "echo ran > /mark/ran; " + s.Process.Args[2]
	})
	pidFile := filepath.Join(t.TempDir(), "pid")
	before := time.Now().Add(-time.Second)
	b.create("--pid-file", pidFile)

	s := b.state()
	if s.Status != "created" || s.ID != b.id || s.Bundle != b.bundle || s.Rootfs != b.rootfs() || s.Owner != "root" || s.OCIVersion == "" {
		t.Errorf("state after create: %+v", s)
	}
	if s.Created.Before(before) || s.Created.After(time.Now()) || s.Created.Location() != time.UTC {
		t.Errorf("created %v, want now in UTC", s.Created)
	}
	if s.Annotations["org.example.a"] != "quote \" and ü" || len(s.Annotations) != 2 {
		t.Errorf("annotations %v", s.Annotations)
	}
	if got := readFile(t, pidFile); got != strconv.Itoa(*s.Pid) {
		t.Errorf("pid file has %q, want %d without a newline", got, *s.Pid)
	}
	time.Sleep(20 * time.Millisecond)
	if _, err := os.Stat(mark); err == nil {
		t.Error("the process ran before start")
	}

	b.must("start")
	b.wantStatus("running")
	eventually(t, "the process runs", func() bool { _, err := os.Stat(mark); return err == nil })
	if again := b.state(); *again.Pid != *s.Pid || !again.Created.Equal(s.Created) {
		t.Errorf("state after start: %+v, before %+v", again, s)
	}

	b.must("kill")
	b.stopped()
	if pid := b.pid(); pid != 0 {
		t.Errorf("pid %d of a stopped container, want 0", pid)
	}
	b.must("delete")
	b.gone()
	if r := b.do("state"); r.Code != 1 || !strings.Contains(r.Stderr, "does not exist") || r.Stdout != "" {
		t.Errorf("state after delete: %+v", r)
	}
	b.create() // the ID is free again
}

// What a verb answers in each state, as engines know it from runc.
func TestRootVerbsByState(t *testing.T) {
	setup(t)
	created := newBox(t, forever)
	created.create()
	running := newBox(t, forever).up()
	stopped := newBox(t).up().stopped()
	unknown := &ociBox{t: t, id: testenv.UniqueID(t)}
	tests := []struct {
		box  *ociBox
		args []string
		code int
		text string // in standard error; "" means that there is none
	}{
		{created, []string{"create"}, 1, "container with given ID already exists"},
		{created, []string{"run"}, 1, "container with given ID already exists"},
		{stopped, []string{"create"}, 1, "container with given ID already exists"},
		{running, []string{"start"}, 1, "cannot start an already running container"},
		{stopped, []string{"start"}, 1, "cannot start a container that has stopped"},
		{unknown, []string{"start"}, 1, "container does not exist"},
		{running, []string{"delete"}, 1, "that is not stopped: running"},
		{unknown, []string{"delete"}, 1, "container does not exist"},
		{unknown, []string{"delete", "--force"}, 0, ""},
		{unknown, []string{"delete", "-f"}, 0, ""},
		{unknown, []string{"state"}, 1, "container does not exist"},
		{stopped, []string{"kill"}, 1, "container not running"},
		{stopped, []string{"kill", "--all"}, 0, ""},
		{unknown, []string{"kill"}, 1, "container does not exist"},
		{created, []string{"kill", "--all", "--help"}, 0, ""},
	}
	for _, tt := range tests {
		flags := tt.args[1:]
		if tt.args[0] == "create" || tt.args[0] == "run" {
			flags = tt.box.at(flags)
		}
		r := tt.box.do(tt.args[0], flags...)
		if r.Code != tt.code || !strings.Contains(r.Stderr, tt.text) || tt.text == "" && r.Stderr != "" {
			t.Errorf("%v: exit status %d, %q; want %d and %q", tt.args, r.Code, r.Stderr, tt.code, tt.text)
		}
	}
	if r := stopped.exec("true"); r.Code != 255 || !strings.Contains(r.Stderr, "cannot exec in a stopped container") {
		t.Errorf("exec in a stopped container: %+v", r)
	}
	if r := unknown.exec("true"); r.Code != 255 || !strings.Contains(r.Stderr, "does not exist") {
		t.Errorf("exec in an unknown container: %+v", r)
	}
	created.wantStatus("created")
	running.wantStatus("running")

	pid := created.pid()
	created.must("delete") // as engines need it: the process that waits is killed
	created.gone()
	if alive(pid) {
		t.Error("the process of a created container survives its deletion")
	}
	pid = running.pid()
	running.must("delete", "--force")
	running.gone()
	if alive(pid) {
		t.Error("the process of a running container survives delete --force")
	}
	stopped.must("delete", "-f")
	stopped.must("delete", "-f") // and again
}

func TestRootKillSignals(t *testing.T) {
	setup(t)
	dir := t.TempDir()
	b := newBox(t, func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/out", Source: dir, Options: []string{"bind"}})
	}, script(`for s in HUP INT USR1 USR2 TERM WINCH; do trap "echo $s >> /out/log" $s; done
		trap "echo RT3 >> /out/log" 37; echo ready >> /out/log; while :; do sleep 1000 & wait $!; done`))
	log := filepath.Join(dir, "log")
	writeFile(t, log, "")
	b.up()
	got := []string{"ready"}
	check := func() {
		t.Helper()
		eventually(t, "signal log has "+strings.Join(got, " "), func() bool { return slices.Equal(lines(readFile(t, log)), got) })
	}
	check()
	for _, tt := range []struct{ arg, want string }{
		{"", "TERM"},
		{"15", "TERM"},
		{"TERM", "TERM"},
		{"SIGTERM", "TERM"},
		{"term", "TERM"},
		{"sigusr1", "USR1"},
		{"USR2", "USR2"},
		{"1", "HUP"},
		{"SIGINT", "INT"},
		{"WINCH", "WINCH"},
		{"37", "RT3"},
		{"RTMIN+3", "RT3"},
	} {
		args := []string{"kill", b.id}
		if tt.arg != "" {
			args = append(args, tt.arg)
		}
		if r := testenv.Run(t, args...); r.Code != 0 || r.Stderr+r.Stdout != "" {
			t.Fatalf("kill %q: %+v", tt.arg, r)
		}
		got = append(got, tt.want)
		check()
	}
	for _, bad := range []string{"NOSUCH", "SIGNOSUCH", "65", "-1", "", "1.5", "9x"} {
		if r := testenv.Run(t, "kill", b.id, bad); r.Code != 1 || !strings.Contains(r.Stderr, "unknown signal") {
			t.Errorf("kill with signal %q: %+v, want unknown signal", bad, r)
		}
	}
	b.wantStatus("running")
	if r := testenv.Run(t, "kill", b.id, "KILL"); r.Code != 0 {
		t.Errorf("kill KILL: %+v", r)
	}
	b.stopped()
}

// Without a pid namespace nobody ends the other processes when init ends.
func TestRootKillAll(t *testing.T) {
	setup(t)
	noPid := func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	}
	pids := func(b *ociBox) (out []int) {
		for _, root := range cgroupMounts() {
			raw, _ := os.ReadFile(filepath.Join(root, b.cgroup, "cgroup.procs"))
			for _, f := range strings.Fields(string(raw)) {
				n, _ := strconv.Atoi(f)
				out = append(out, n)
			}
		}
		return out
	}
	none := func(what string, list []int) {
		t.Helper()
		eventually(t, what, func() bool { return !slices.ContainsFunc(list, alive) })
	}
	start := func(text string) (*ociBox, []int) {
		b := newBox(t, noPid, script(text)).up()
		eventually(t, "three processes", func() bool { return len(pids(b)) == 3 })
		return b, pids(b)
	}

	b, list := start("sleep 1000 & sleep 1000 & wait")
	b.must("kill", "--all") // TERM
	none("kill --all reaches all", list)
	b.stopped()

	b, list = start("sleep 1000 & sleep 1000 & wait")
	if r := testenv.Run(t, "kill", b.id, "KILL"); r.Code != 0 {
		t.Fatal(r)
	}
	none("KILL without a pid namespace reaches all", list)

	// Orphans of an init that has ended: delete takes them along.
	b, list = start("sleep 1000 & sleep 1000 & exec sleep 1000")
	signalPid(t, b.pid(), unix.SIGKILL)
	b.stopped()
	if got := pids(b); len(got) != 2 {
		t.Fatalf("%d processes after the end of init, want the 2 orphans", len(got))
	}
	if r := testenv.Run(t, "kill", "--all", b.id, "TERM"); r.Code != 0 {
		t.Errorf("kill --all of the orphans: %+v", r)
	}
	none("kill --all of a stopped container reaches its orphans", list)
	b.must("delete")

	b, list = start("sleep 1000 & sleep 1000 & exec sleep 1000")
	signalPid(t, b.pid(), unix.SIGKILL)
	b.stopped()
	b.must("delete")
	none("delete reaches orphans", list)
	b.gone()
}

func TestRootRunExitStatus(t *testing.T) {
	setup(t)
	for _, tt := range []struct {
		script string
		code   int
	}{{"exit 0", 0}, {"exit 7", 7}, {"exit 255", 255}, {"kill -TERM $$", 143}, {"kill -SEGV $$", 139}} {
		// Signals that init sends to itself do nothing: a child takes them.
		b := newBox(t, script("sh -c '"+tt.script+"'; exit $?"))
		if r := b.run(); r.Code != tt.code {
			t.Errorf("%q: exit status %d, want %d (%s)", tt.script, r.Code, tt.code, r.Stderr)
		}
		b.gone()
	}
	// Init itself killed from outside: 128+n.
	b := newBox(t, forever)
	cmd := testenv.Command(t, "run", "--bundle", b.bundle, b.id)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it runs", func() bool { r := b.do("state"); return r.Code == 0 && strings.Contains(r.Stdout, `"running"`) })
	if r := testenv.Run(t, "kill", b.id, "9"); r.Code != 0 {
		t.Error(r)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 137 {
		t.Errorf("exit status %d of a killed container, want 137", code)
	}
	b.gone()
}

func TestRootRunStreams(t *testing.T) {
	setup(t)
	b := newBox(t, script("cat; echo err >&2; exit 3"))
	cmd := testenv.Command(t, "run", "--bundle", b.bundle, b.id)
	cmd.Stdin = strings.NewReader("from stdin\n")
	if r := testenv.RunCmd(t, cmd); r.Stdout != "from stdin\n" || r.Stderr != "err\n" || r.Code != 3 {
		t.Errorf("got %+v", r)
	}
	// The working directory is the default bundle.
	b = newBox(t, script("pwd"))
	cmd = testenv.Command(t, "run", b.id)
	cmd.Dir = b.bundle
	if r := testenv.RunCmd(t, cmd); r.Stdout != "/\n" || r.Code != 0 {
		t.Errorf("run in the bundle: %+v", r)
	}
}

func TestRootRunForwardsSignals(t *testing.T) {
	setup(t)
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGUSR1, unix.SIGHUP, unix.SIGQUIT, unix.SIGWINCH, unix.SIGUSR2} {
		b := newBox(t, script(`trap 'exit 42' `+strconv.Itoa(int(sig))+`; echo ready; while :; do sleep 1000 & wait $!; done`))
		r, w := pipe(t)
		cmd := testenv.Command(t, "run", "--bundle", b.bundle, b.id)
		cmd.Stdout = w
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if _, err := r.Read(make([]byte, 16)); err != nil {
			t.Fatal(err)
		}
		signalPid(t, cmd.Process.Pid, sig)
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 42 {
			t.Errorf("%v: exit status %d, want 42 from the trap", sig, code)
		}
		b.gone()
	}
}

func TestRootRunDetachAndKeep(t *testing.T) {
	setup(t)
	b := newBox(t, forever)
	pidFile := filepath.Join(t.TempDir(), "pid")
	b.must("run", b.at([]string{"--detach", "--pid-file", pidFile})...)
	b.wantStatus("running")
	if got := readFile(t, pidFile); got != strconv.Itoa(b.pid()) {
		t.Errorf("pid file %q, state %d", got, b.pid())
	}
	b.must("delete", "--force")

	b = newBox(t, script("exit 5"))
	if r := b.run("--keep"); r.Code != 5 {
		t.Errorf("run --keep: %+v", r)
	}
	b.wantStatus("stopped")
	b.must("delete")
	b.gone()
}

// After create, the container's process belongs to the caller's subreaper, which
// gets its exit status: that is how containerd and conmon learn it.
func TestRootReparenting(t *testing.T) {
	setup(t)
	staged := func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	}
	for _, tt := range []struct {
		name   string
		mutate []func(*specs.Spec)
	}{{"fast", nil}, {"staged", []func(*specs.Spec){staged}}} {
		b := newBox(t, append(tt.mutate, script("exit 9"))...)
		b.create()
		pid := b.pid()
		b.must("start")
		var ws unix.WaitStatus
		for {
			if _, err := unix.Wait4(pid, &ws, 0, nil); err != unix.EINTR {
				if err != nil {
					t.Fatalf("%s: the init is not the subreaper's child: %v", tt.name, err)
				}
				break
			}
		}
		if ws.ExitStatus() != 9 {
			t.Errorf("%s: exit status %d, want 9", tt.name, ws.ExitStatus())
		}
		b.wantStatus("stopped")

		// The same for exec --detach.
		b = newBox(t, append(tt.mutate, forever)...).up()
		pidFile := filepath.Join(t.TempDir(), "pid")
		b.execOut("--detach", "--pid-file", pidFile, "--", "sh", "-c", "exit 11")
		pid, _ = strconv.Atoi(readFile(t, pidFile))
		for {
			if _, err := unix.Wait4(pid, &ws, 0, nil); err != unix.EINTR {
				if err != nil {
					t.Fatalf("%s: the exec process is not the subreaper's child: %v", tt.name, err)
				}
				break
			}
		}
		if ws.ExitStatus() != 11 {
			t.Errorf("%s: exec exit status %d, want 11", tt.name, ws.ExitStatus())
		}
		init := b.pid()
		b.must("delete", "--force")
		_, _ = unix.Wait4(init, &ws, 0, nil)
	}
}

// In the foreground run is the parent of orphans: without a pid namespace they
// would otherwise go to the host's init.
func TestRootRunReapsOrphans(t *testing.T) {
	setup(t)
	for _, flags := range [][]string{nil, {"--no-subreaper"}} {
		b := newBox(t, func(s *specs.Spec) {
			s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
		}, script(`(sh -c 'while [ -e /proc/'$$' ] && ! [ -e /tmp/go ]; do sleep 0.01; done; grep PPid /proc/self/status > /dev/null; cut -d" " -f4 /proc/$$/stat' &) ; sleep 0.2; touch /tmp/go; sleep 0.3`), writable)
		r, w := pipe(t)
		cmd := testenv.Command(t, append([]string{"run"}, append(b.at(flags), b.id)...)...)
		cmd.Stdout = w
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		buf := make([]byte, 64)
		n, _ := r.Read(buf)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		got, _ := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
		if (got == cmd.Process.Pid) != (flags == nil) {
			t.Errorf("run %v: the orphan's parent is %d, minirun %d", flags, got, cmd.Process.Pid)
		}
		b.gone()
	}
}

func TestRootPidFile(t *testing.T) {
	setup(t)
	dir := t.TempDir()
	b := newBox(t)
	path := filepath.Join(dir, "pid")
	writeFile(t, path, "old content that is longer")
	b.create("--pid-file", path)
	if got := readFile(t, path); got != strconv.Itoa(b.pid()) {
		t.Errorf("pid file %q", got)
	}
	b.must("delete")
	entries, _ := os.ReadDir(dir)
	if len(entries) != 1 {
		t.Errorf("files beside the pid file: %v", entries)
	}
	// It cannot be written: nothing is left.
	for _, verb := range []string{"create", "run"} {
		r := b.do(verb, b.at([]string{"--pid-file", filepath.Join(dir, "missing", "pid")})...)
		if r.Code != 1 || !strings.Contains(r.Stderr, "missing") {
			t.Errorf("%s with a bad pid file: %+v", verb, r)
		}
		b.gone()
	}
	// A relative one starts at the working directory.
	cmd := testenv.Command(t, "create", "--bundle", b.bundle, "--pid-file", "rel.pid", b.id)
	cmd.Dir = dir
	if r := testenv.RunCmd(t, cmd); r.Code != 0 || readFile(t, filepath.Join(dir, "rel.pid")) != strconv.Itoa(b.pid()) {
		t.Errorf("relative pid file: %+v", r)
	}
}

// The container gets what --preserve-fds and LISTEN_FDS say, and nothing else
// that the caller has open.
func TestRootDescriptors(t *testing.T) {
	setup(t)
	const list = "ls /proc/self/fd; cat <&3; echo LISTEN_FDS=$LISTEN_FDS"
	files := func() []*os.File {
		var out []*os.File
		for _, text := range []string{"three", "four", "five", "six"} {
			r, w := pipe(t)
			w.WriteString(text + "\n")
			w.Close()
			out = append(out, r)
		}
		return out
	}
	run := func(cmd *exec.Cmd) testenv.Result {
		cmd.ExtraFiles = files()
		return testenv.RunCmd(t, cmd)
	}
	b := newBox(t, script("ls /proc/self/fd"))
	// ls itself has 3 open: the directory.
	if r := run(testenv.Command(t, "run", "--bundle", b.bundle, b.id)); r.Stdout != "0\n1\n2\n3\n" {
		t.Errorf("descriptors without --preserve-fds: %+v", r)
	}
	b = newBox(t, script("ls /proc/self/fd; cat <&3; cat <&4"))
	if r := run(testenv.Command(t, "run", "--bundle", b.bundle, "--preserve-fds", "2", b.id)); r.Stdout != "0\n1\n2\n3\n4\n5\nthree\nfour\n" {
		t.Errorf("descriptors with --preserve-fds 2: %+v", r)
	}
	b = newBox(t)
	r := b.run("--preserve-fds", "2")
	if r.Code != 1 || !strings.Contains(r.Stderr, "preserved-fd 0 (of 2)") {
		t.Errorf("--preserve-fds without descriptors: %+v", r)
	}
	b.gone()
	if r := b.run("--preserve-fds", "-1"); r.Code != 1 {
		t.Errorf("--preserve-fds -1: %+v", r)
	}

	up := newBox(t, forever).up()
	if r := run(testenv.Command(t, "exec", up.id, "ls", "/proc/self/fd")); r.Stdout != "0\n1\n2\n3\n" {
		t.Errorf("descriptors of exec: %+v", r)
	}
	if r := run(testenv.Command(t, "exec", "--preserve-fds", "1", up.id, "sh", "-c", list)); r.Stdout != "0\n1\n2\n3\n4\nthree\nLISTEN_FDS=\n" {
		t.Errorf("descriptors of exec --preserve-fds 1: %+v", r)
	}
	if r := up.exec("--preserve-fds", "3", "--", "true"); r.Code != 255 || !strings.Contains(r.Stderr, "preserved-fd 0 (of 3)") {
		t.Errorf("exec --preserve-fds without descriptors: %+v", r)
	}
}

// Socket activation, see sd_listen_fds(3).
func TestRootListenFDs(t *testing.T) {
	setup(t)
	for _, tt := range []struct {
		name, pid, want string
	}{
		{"for us", "$$", "fds=1 pid=1 names=web hello\n"},
		{"for somebody else", "1", "fds= pid= names= \n"},
	} {
		b := newBox(t, script(`read line <&3 2>/dev/null; echo "fds=$LISTEN_FDS pid=$LISTEN_PID names=$LISTEN_FDNAMES $line"`))
		r, w := pipe(t)
		w.WriteString("hello\n")
		w.Close()
		cmd := exec.Command("sh", "-c", `export LISTEN_FDS=1 LISTEN_FDNAMES=web LISTEN_PID=`+tt.pid+`; exec "$0" "$@"`,
			testenv.Binary(t), "--root", testenv.StateRoot(t), "run", "--bundle", b.bundle, b.id)
		cmd.ExtraFiles = []*os.File{r}
		if r := testenv.RunCmd(t, cmd); r.Stdout != tt.want {
			t.Errorf("%s: %+v, want %q", tt.name, r, tt.want)
		}
	}
	// With --preserve-fds, that many follow those of socket activation, and no more.
	b := newBox(t, script(`for fd in 3 4 5; do read line <&$fd && echo "$fd $line"; done 2>/dev/null; echo $LISTEN_FDS`))
	cmd := exec.Command("sh", "-c", `export LISTEN_FDS=1 LISTEN_PID=$$; exec "$0" "$@"`,
		testenv.Binary(t), "--root", testenv.StateRoot(t), "run", "--preserve-fds", "1", "--bundle", b.bundle, b.id)
	for _, text := range []string{"activated\n", "preserved\n", "neither\n"} {
		r, w := pipe(t)
		w.WriteString(text)
		w.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, r)
	}
	if r := testenv.RunCmd(t, cmd); r.Stdout != "3 activated\n4 preserved\n1\n" {
		t.Errorf("with --preserve-fds: %+v", r)
	}
}

func TestRootList(t *testing.T) {
	setup(t)
	if r := testenv.Run(t, "list", "--format", "json"); r.Stdout != "null\n" || r.Code != 0 {
		t.Errorf("empty list as JSON: %+v", r)
	}
	if r := testenv.Run(t, "list", "-q"); r.Stdout != "" || r.Code != 0 {
		t.Errorf("empty list: %+v", r)
	}
	if r := testenv.Run(t, "list"); !strings.HasPrefix(r.Stdout, "ID ") || len(lines(r.Stdout)) != 1 {
		t.Errorf("empty table: %+v", r)
	}
	a, b := newBox(t, forever), newBox(t)
	a.create()
	b.up().stopped()
	ids := []string{a.id, b.id}
	slices.Sort(ids)
	if r := testenv.Run(t, "list", "--quiet"); !slices.Equal(lines(r.Stdout), ids) {
		t.Errorf("list -q: %+v, want %v", r, ids)
	}
	var states []ociState
	r := testenv.Run(t, "list", "-f", "json")
	if err := json.Unmarshal([]byte(r.Stdout), &states); err != nil || len(states) != 2 {
		t.Fatalf("list -f json: %v: %+v", err, r)
	}
	for _, s := range states {
		want := (&ociBox{t: t, id: s.ID}).state()
		if s.Status != want.Status || *s.Pid != *want.Pid || s.Bundle != want.Bundle || !s.Created.Equal(want.Created) {
			t.Errorf("list says %+v, state %+v", s, want)
		}
	}
	table := lines(testenv.Run(t, "list").Stdout)
	if len(table) != 3 {
		t.Fatalf("table %q", table)
	}
	for i, row := range table[1:] {
		f := strings.Fields(row)
		if len(f) != 6 || f[0] != ids[i] || f[5] != "root" {
			t.Errorf("row %q", row)
		}
	}
	// A damaged record is named and hides nobody.
	path := filepath.Join(testenv.StateRoot(t), a.id, "state.json")
	saved := readFile(t, path)
	writeFile(t, path, saved[:len(saved)/2])
	r = testenv.Run(t, "list")
	if r.Code != 0 || len(lines(r.Stdout)) != 2 || !strings.Contains(r.Stderr, "state.json") {
		t.Errorf("list with a damaged record: %+v", r)
	}
	if r := a.do("state"); r.Code != 1 || !strings.Contains(r.Stderr, "state.json") {
		t.Errorf("state of a damaged record: %+v", r)
	}
	pid := 0
	for _, root := range cgroupMounts() {
		raw, _ := os.ReadFile(filepath.Join(root, a.cgroup, "cgroup.procs"))
		pid, _ = strconv.Atoi(strings.TrimSpace(string(raw)))
	}
	a.must("delete", "--force")
	a.gone()
	if pid == 0 || alive(pid) {
		t.Errorf("process %d of a container with a damaged record survives delete --force", pid)
	}
}

func TestRootStateRootIsMadeAndPrivate(t *testing.T) {
	setup(t)
	root := filepath.Join(testenv.StateRoot(t), "a", "b")
	b := newBox(t)
	if r := testenv.Run(t, "--root", root, "create", "--bundle", b.bundle, b.id); r.Code != 0 {
		t.Fatal(r)
	}
	for _, dir := range []string{root, filepath.Join(root, b.id)} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v, want mode 0700", dir, info, err)
		}
	}
	if r := testenv.Run(t, "--root="+root, "delete", b.id); r.Code != 0 {
		t.Error(r)
	}
}

// A state root may be longer than a unix socket's address.
func TestRootLongStateRoot(t *testing.T) {
	setup(t)
	root := filepath.Join(testenv.StateRoot(t), strings.Repeat("d", 120), strings.Repeat("e", 120))
	b := newBox(t)
	for _, args := range [][]string{{"create", "--bundle", b.bundle}, {"start"}} {
		if r := testenv.Run(t, append(append([]string{"--root", root}, args...), b.id)...); r.Code != 0 {
			t.Fatalf("%v: %+v", args, r)
		}
	}
	if r := testenv.Run(t, "--root", root, "delete", "-f", b.id); r.Code != 0 {
		t.Error(r)
	}
}

// The engines' own calls give almost no environment.
func TestRootEmptyEnvironment(t *testing.T) {
	setup(t)
	b := newBox(t, forever)
	for _, args := range [][]string{{"create", "--bundle", b.bundle, b.id}, {"start", b.id}, {"kill", b.id, "9"}} {
		cmd := testenv.Command(t, args...)
		cmd.Env = []string{"XDG_RUNTIME_DIR="}
		if r := testenv.RunCmd(t, cmd); r.Code != 0 || r.Stderr != "" {
			t.Fatalf("%v: %+v", args, r)
		}
	}
	b.stopped()
}
