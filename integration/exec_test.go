package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// statusOf parses /proc/PID/status.
func statusOf(text string) map[string]string {
	m := make(map[string]string)
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			m[k] = strings.Join(strings.Fields(v), " ")
		}
	}
	return m
}

func TestRootExec(t *testing.T) {
	setup(t)
	b := newBox(t, forever, writable, func(s *specs.Spec) {
		s.Process.Env = append(s.Process.Env, "FROM=config", "TWICE=1")
		s.Process.Cwd = "/tmp"
		umask := uint32(0o027)
		s.Process.User.Umask = &umask
	}).up()
	for _, tt := range []struct {
		name, want string
		args       []string
	}{
		{"environment and directory of the container", "config 1 /tmp\n", []string{"sh", "-c", "echo $FROM $TWICE $PWD"}},
		{"--env", "x 2\n", []string{"--env", "FROM=x", "-e", "TWICE=2", "--", "sh", "-c", "echo $FROM $TWICE"}},
		{"--cwd", "/home/user\n", []string{"--cwd", "/home/user", "--", "pwd"}},
		{"--cwd is made", "/var/new/dir\n", []string{"--cwd=/var/new/dir", "--", "pwd"}},
		{"user of the container", "0:0\n", []string{"sh", "-c", "echo $(id -u):$(id -g)"}},
		{"--user", "1000:0 1000\n", []string{"--user", "1000", "--", "sh", "-c", "echo $(id -u):$(id -g) $(id -u)"}},
		{"--user with group", "1000:29 29\n", []string{"-u", "1000:29", "--", "sh", "-c", "echo $(id -u):$(id -g) $(id -G)"}},
		{"--additional-gids", "1000:1000 1000 29 30\n", []string{"-u", "1000:1000", "-g", "29", "--additional-gids", "30", "--", "sh", "-c", "echo $(id -u):$(id -g) $(id -G)"}},
		{"HOME", "/root\n", []string{"sh", "-c", "echo $HOME"}},
		{"HOME of the user", "/home/user\n", []string{"-u", "1000", "--", "sh", "-c", "echo $HOME"}},
		{"HOME of nobody we know", "/\n", []string{"-u", "4242", "--", "sh", "-c", "echo $HOME"}},
		{"umask", "0027\n", []string{"sh", "-c", "umask"}},
		{"umask with a user", "0027\n", []string{"-u", "1000", "--", "sh", "-c", "umask"}},
		{"its pid namespace", "1\n", []string{"sh", "-c", "ps -o pid | grep -cw 1"}},
		{"arguments with spaces", "a b|c\n", []string{"printf", "%s|%s\n", "a b", "c"}},
		{"hostname", "minirun\n", []string{"hostname"}},
	} {
		if got := b.execOut(tt.args...); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	for _, tt := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"sh", "-c", "exit 7"}, 7, ""},
		{[]string{"sh", "-c", "kill -9 $$"}, 137, ""},
		{[]string{"nosuchprogram"}, 255, "executable file not found in $PATH"},
		{[]string{"/etc/passwd"}, 255, "permission denied"},
		{[]string{"/etc"}, 255, "is a directory"},
		{[]string{"-u", "user", "--", "true"}, 255, "invalid id"},
		{[]string{"-u", "1:x", "--", "true"}, 255, "invalid id"},
		{[]string{"-u", "-1", "--", "true"}, 255, "invalid id"},
		{[]string{"-u", "4294967295", "--", "true"}, 255, "invalid id"},
		{[]string{"-g", "audio", "--", "true"}, 255, "invalid id"},
		{[]string{"-c", "CAP_NOSUCH", "--", "true"}, 255, "CAP_NOSUCH"},
		{[]string{"--cwd", "relative", "--", "true"}, 255, "absolute"},
		{[]string{"--cwd", "/etc/passwd", "--", "true"}, 255, "chdir to cwd"},
		{[]string{"--env", "=x", "--", "true"}, 255, "env"},
		{[]string{"--detach", "--tty", "--", "true"}, 255, "cannot allocate tty if runc will detach"},
		{[]string{"--process", "/no/such/file", "--"}, 255, "/no/such/file"},
		{[]string{"--pid-file", "/no/such/dir/pid", "--", "sleep", "1000"}, 255, "/no/such/dir"},
		{[]string{"--cgroup", "nosuchgroup", "--", "true"}, 255, "nosuchgroup"},
		{[]string{"--cgroup", "../..", "--", "true"}, 255, ".."},
	} {
		r := b.exec(tt.args...)
		if r.Code != tt.code || !strings.Contains(r.Stderr, tt.text) || tt.text == "" && r.Stderr != "" {
			t.Errorf("exec %q: %+v, want exit status %d and %q", tt.args, r, tt.code, tt.text)
		}
	}
	b.wantStatus("running")
	// No process of all that is left inside: init, its sleep, and the shell that counts.
	if out := b.execOut("sh", "-c", "set -- /proc/[0-9]*; echo $#"); out != "3\n" {
		t.Errorf("%s processes in the container, want 3:\n%s", strings.TrimSpace(out), b.execOut("ps"))
	}
	b.must("kill")
	b.stopped()
}

func TestRootExecPrivileges(t *testing.T) {
	setup(t)
	b := newBox(t, forever, func(s *specs.Spec) {
		s.Process.NoNewPrivileges = false
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL", "CAP_CHOWN"}, Effective: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"}}
	}).up()
	get := func(args ...string) map[string]string {
		t.Helper()
		return statusOf(b.execOut(append(append(args, "--"), "cat", "/proc/self/status")...))
	}
	s := get()
	if s["NoNewPrivs"] != "0" || s["CapBnd"] != "0000000000000021" {
		t.Errorf("plain exec: NoNewPrivs %s, CapBnd %s", s["NoNewPrivs"], s["CapBnd"])
	}
	if s := get("--no-subreaper", "--no-new-privs"); s["NoNewPrivs"] != "1" {
		t.Errorf("--no-new-privs: %s", s["NoNewPrivs"])
	}
	// KILL is 5, NET_RAW 13, SYS_CHROOT 18.
	s = get("--cap", "CAP_NET_RAW", "-c", "sys_chroot")
	for _, set := range []string{"CapBnd", "CapPrm", "CapEff"} {
		n, _ := strconv.ParseUint(s[set], 16, 64)
		if n&(1<<13|1<<18) != 1<<13|1<<18 {
			t.Errorf("--cap: %s is %s, want bits 13 and 18 in it", set, s[set])
		}
	}
	if s["CapInh"] != "0000000000000000" || s["CapAmb"] != "0000000000000000" {
		t.Errorf("--cap: CapInh %s CapAmb %s, want none", s["CapInh"], s["CapAmb"])
	}
	if s["CapBnd"] != "0000000000042021" {
		t.Errorf("--cap: CapBnd %s, want the container's and the two", s["CapBnd"])
	}
	// Without --cap another user has none.
	if s := get("-u", "1000"); s["CapEff"] != "0000000000000000" || s["CapPrm"] != "0000000000000000" {
		t.Errorf("another user: CapPrm %s CapEff %s", s["CapPrm"], s["CapEff"])
	}
	if s := get("-u", "1000:1000"); s["Uid"] != "1000 1000 1000 1000" || s["Gid"] != "1000 1000 1000 1000" || s["Groups"] != "" {
		t.Errorf("ids %q %q groups %q", s["Uid"], s["Gid"], s["Groups"])
	}
}

// --process is how engines call exec.
func TestRootExecProcessFile(t *testing.T) {
	setup(t)
	b := newBox(t, forever, func(s *specs.Spec) { s.Process.Env = append(s.Process.Env, "FROM=config") }).up()
	dir := t.TempDir()
	file := filepath.Join(dir, "process.json")
	write := func(p *specs.Process) {
		raw, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, file, string(raw))
	}
	umask := uint32(0o077)
	p := &specs.Process{
		Args: []string{"sh", "-c", "echo [$FROM] $X $(id -u) $(id -G) $PWD $(umask) $(ulimit -n)"},
		Env:  []string{"PATH=/bin", "X=y"}, Cwd: "/var",
		User:    specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{29}, Umask: &umask},
		Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 99, Hard: 100}},
	}
	write(p)
	if got := b.execOut("--process", file, "--"); got != "[] y 1000 1000 29 /var 0077 99\n" {
		t.Errorf("exec --process: %q", got)
	}
	if got := b.execOut("-p="+file, "--"); !strings.HasPrefix(got, "[] y") {
		t.Errorf("exec -p=FILE: %q", got)
	}
	for _, bad := range []string{"", "{", `{"cwd":"/"}`, `{"args":["sh"],"cwd":"x"}`, `{"args":"sh","cwd":"/"}`} {
		writeFile(t, file, bad)
		if r := b.exec("--process", file, "--"); r.Code != 255 || r.Stderr == "" {
			t.Errorf("exec --process with %q: %+v", bad, r)
		}
	}

	// Detached, with a pid file; the output goes on.
	p.Args = []string{"sh", "-c", "read line; echo got $line; read line"}
	write(p)
	pidFile := filepath.Join(dir, "pid")
	in, w := pipe(t)
	r, out := pipe(t)
	cmd := testenv.Command(t, "exec", "--process", file, "--detach", "--pid-file", pidFile, b.id)
	cmd.Stdin, cmd.Stdout = in, out
	if r := testenv.RunCmd(t, cmd); r.Code != 0 || r.Stderr != "" {
		t.Fatalf("exec --detach: %+v", r)
	}
	pid, err := strconv.Atoi(readFile(t, pidFile))
	if err != nil || !alive(pid) {
		t.Fatalf("pid file: %d, %v", pid, err)
	}
	w.WriteString("hello\n")
	buf := make([]byte, 64)
	if n, err := r.Read(buf); string(buf[:n]) != "got hello\n" {
		t.Errorf("output of a detached exec %q, %v", buf[:n], err)
	}
	w.Close()
	in.Close()
	eventually(t, "it ends with its input", func() bool { return !alive(pid) })
}

func TestRootExecStreamsAndSignals(t *testing.T) {
	setup(t)
	b := newBox(t, forever).up()
	cmd := testenv.Command(t, "exec", b.id, "sh", "-c", "cat; echo e >&2; exit 4")
	cmd.Stdin = strings.NewReader("in\n")
	if r := testenv.RunCmd(t, cmd); r.Stdout != "in\n" || r.Stderr != "e\n" || r.Code != 4 {
		t.Errorf("streams: %+v", r)
	}
	for _, flag := range []string{"-i", "--interactive", "--interactive=false"} { // without it, too
		cmd := testenv.Command(t, "exec", flag, b.id, "cat")
		cmd.Stdin = strings.NewReader("in\n")
		if r := testenv.RunCmd(t, cmd); r.Stdout != "in\n" || r.Code != 0 {
			t.Errorf("%s: %+v", flag, r)
		}
	}
	r, w := pipe(t)
	cmd = testenv.Command(t, "exec", b.id, "sh", "-c", "trap 'exit 42' TERM; echo ready; while :; do sleep 1000 & wait $!; done")
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := r.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	signalPid(t, cmd.Process.Pid, unix.SIGTERM)
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 42 {
		t.Errorf("exit status %d, want 42: the signal is passed on", code)
	}
	// The end of the container ends its exec processes, and exec tells.
	cmd = testenv.Command(t, "exec", b.id, "sleep", "1001")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the exec runs", func() bool { return strings.Contains(b.execOut("ps"), "sleep 1001\n") })
	b.must("delete", "--force")
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 137 {
		t.Errorf("exit status %d of an exec whose container was deleted, want 137", code)
	}
	b.gone()
}

// In a created container exec works too: engines use it before start.
func TestRootExecInCreated(t *testing.T) {
	setup(t)
	b := newBox(t, script("exit 0"))
	b.create()
	if got := b.execOut("echo", "early"); got != "early\n" {
		t.Errorf("exec in a created container: %q", got)
	}
	b.wantStatus("created")
	b.must("start")
	b.stopped()
}

// Many at once, into one container.
func TestRootExecParallel(t *testing.T) {
	setup(t)
	b := newBox(t, forever).up()
	type result struct {
		i int
		r testenv.Result
	}
	results := make(chan result)
	const n = 16
	for i := range n {
		cmd := testenv.Command(t, "exec", b.id, "sh", "-c", "echo "+strconv.Itoa(i)+"; exit "+strconv.Itoa(i))
		go func() { results <- result{i, testenv.RunCmd(t, cmd)} }()
	}
	for range n {
		select {
		case r := <-results:
			if r.r.Code != r.i || r.r.Stdout != strconv.Itoa(r.i)+"\n" {
				t.Errorf("exec %d: %+v", r.i, r.r)
			}
		case <-time.After(testenv.Timeout(30 * time.Second)):
			t.Fatal("exec hangs")
		}
	}
	if _, err := os.Stat("/proc/" + strconv.Itoa(b.pid())); err != nil {
		t.Error(err)
	}
}
