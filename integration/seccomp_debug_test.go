package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// denies makes a profile that gives an errno for some calls and kills for others.
func denies(errno uint, names []string, kill ...string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
			{Names: names, Action: specs.ActErrno, ErrnoRet: &errno},
			{Names: append(kill, "sync"), Action: specs.ActKillProcess},
		}}
	}
}

var denialLine = regexp.MustCompile(`(?m)^\S+Z (\S+): denied (\w+)\((\S+), (\S+), \S+, \S+, \S+, \S+\) with (\w+), pid (\d+) \((\d+) in the container\) "(\w+)", by (.*); to allow it, (.*)$`)

func TestRootDebugSeccomp(t *testing.T) {
	setup(t)
	testenv.Supervisor(t)
	file := filepath.Join(t.TempDir(), "denied")
	b := newBox(t, script(`for i in $(seq 1 12); do mkdir /tmp/x; done 2>&1 | sort | uniq -c; sh -c 'rmdir /tmp' 2>&1; exec 2>/dev/null; sync; echo $?`), writable,
		denies(uint(unix.EXDEV), []string{"mkdir", "mkdirat", "rmdir", "unlinkat"}))
	want := "12 mkdir: can't create directory '/tmp/x': Invalid cross-device link\nrmdir: '/tmp': Invalid cross-device link\n137\n"
	check := func(what, out, text string) {
		t.Helper()
		if got := strings.TrimLeft(out, " "); got != want {
			t.Errorf("%s: output %q, want %q", what, got, want)
		}
		found := denialLine.FindAllStringSubmatch(text, -1)
		if len(found) != 3 || !strings.HasPrefix(found[0][2], "mkdir") || found[0][5] != "EXDEV" || found[0][8] != "mkdir" ||
			found[1][5] != "EXDEV" || found[2][2] != "sync" || found[2][5] != "KILL_PROCESS" || found[2][8] != "sync" {
			t.Errorf("%s: %q\n%s", what, found, text)
			return
		}
		for i, entry := range []string{"[0]", "[0]", "[1]"} {
			if found[i][1] != b.id || found[i][9] != "linux.seccomp.syscalls"+entry || !strings.Contains(found[i][10], `{"names":["`+found[i][2]+`"],"action":"SCMP_ACT_ALLOW"}`) {
				t.Errorf("%s: %q", what, found[i])
			}
			if host, _ := strconv.Atoi(found[i][6]); host == 0 || found[i][6] == found[i][7] {
				t.Errorf("%s: pids %s and %s", what, found[i][6], found[i][7])
			}
		}
		if !strings.Contains(text, " for the 10th time\n") {
			t.Errorf("%s: ten calls are not reported:\n%s", what, text)
		}
	}

	r := b.run("--debug-seccomp", file)
	if r.Code != 0 || r.Stderr != "" {
		t.Errorf("run: %+v", r)
	}
	check("run", r.Stdout, readFile(t, file))
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}

	r = b.run("--debug-seccomp=-")
	check("run, standard error", r.Stdout, r.Stderr)

	// create and start: the supervisor outlives both.
	out, file2 := filepath.Join(t.TempDir(), "out"), filepath.Join(t.TempDir(), "denied")
	b.upWith(out, "--debug-seccomp", file2)
	b.stopped()
	check("start", readFile(t, out), readFile(t, file2))
	b.must("delete")
	b.gone()
}

func TestRootDebugSeccompExec(t *testing.T) {
	setup(t)
	testenv.Supervisor(t)
	b := newBox(t, forever, writable, denies(uint(unix.EXDEV), []string{"mkdir", "mkdirat"})).up()
	r := b.exec("--debug-seccomp", "-", "--", "mkdir", "/tmp/x")
	if r.Code != 1 || len(denialLine.FindAllString(r.Stderr, -1)) != 1 || !strings.Contains(r.Stderr, "Invalid cross-device link") {
		t.Errorf("exec: %+v", r)
	}
	file := filepath.Join(t.TempDir(), "denied")
	if r := b.exec("--detach", "--debug-seccomp", file, "--", "sync"); r.Code != 0 {
		t.Errorf("exec: %+v", r)
	}
	eventually(t, "the kill is reported", func() bool {
		raw, _ := os.ReadFile(file)
		return denialLine.Match(raw)
	})
	// Without the flag nothing is reported.
	if r := b.exec("mkdir", "/tmp/x"); r.Code != 1 || r.Stderr != "mkdir: can't create directory '/tmp/x': Invalid cross-device link\n" {
		t.Errorf("exec: %+v", r)
	}
	for _, args := range [][]string{{"--detach", "--debug-seccomp", "-", "--", "true"}, {"--debug-seccomp", "", "--", "true"}} {
		if r := b.exec(args...); r.Code != 1 || !strings.Contains(r.Stderr, "--debug-seccomp") {
			t.Errorf("exec %q: %+v", args, r)
		}
	}
	if r := b.exec("--debug-seccomp", "/no/such/dir/file", "--", "true"); r.Code != 255 || !strings.Contains(r.Stderr, "/no/such/dir/file") {
		t.Errorf("exec: %+v", r)
	}
	b.wantStatus("running")
}

// What is refused, and what is only a warning.
func TestRootDebugSeccompRefused(t *testing.T) {
	setup(t)
	testenv.Supervisor(t)
	b := newBox(t, script("echo ran"), func(s *specs.Spec) { s.Linux.Seccomp = nil })
	if r := b.run("--debug-seccomp", "-"); r.Code != 0 || r.Stdout != "ran\n" || !strings.Contains(r.Stderr, "there is no profile") {
		t.Errorf("without a profile: %+v", r)
	}
	for _, args := range [][]string{{"create", "--debug-seccomp", "-"}, {"run", "-d", "--debug-seccomp", "-"}} {
		if r := b.do(args[0], b.at(args[1:])...); r.Code != 1 || !strings.Contains(r.Stderr, "want a file") {
			t.Errorf("%q: %+v", args, r)
		}
	}
	for _, tt := range []struct {
		mutate func(*specs.Spec)
		text   string
	}{
		{asks("/nowhere", "", "mkdir"), "SCMP_ACT_NOTIFY"},
		{denies(1, []string{"write"}), "does not allow write"},
	} {
		b := newBox(t, script("echo ran"), tt.mutate)
		if r := b.run("--debug-seccomp", "-"); r.Code != 1 || !strings.Contains(r.Stderr, tt.text) || r.Stdout != "" {
			t.Errorf("%+v, want %q", r, tt.text)
		}
		b.gone()
	}
}

// A denied call stays denied when the process that answers for it is killed:
// the kernel answers ENOSYS.
func TestRootDebugSeccompKilled(t *testing.T) {
	setup(t)
	testenv.Supervisor(t)
	file := filepath.Join(t.TempDir(), "denied")
	out := filepath.Join(t.TempDir(), "out")
	b := newBox(t, script(`read x </fifo; mkdir /tmp/x; rmdir /tmp/y; ls /tmp; echo done; exec sleep 1000`), writable,
		denies(uint(unix.EXDEV), []string{"mkdir", "mkdirat"}, "rmdir", "unlinkat"))
	if err := os.Mkdir(b.rootfs("tmp", "y"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(b.rootfs("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.upWith(out, "--debug-seccomp", file)
	pid := 0
	eventually(t, "a supervisor", func() bool {
		pid = supervisorOf(b.id)
		return pid != 0
	})
	signalPid(t, pid, unix.SIGKILL)
	eventually(t, "the supervisor ends", func() bool { return !alive(pid) })
	b.wantStatus("running")
	writeFile(t, b.rootfs("fifo"), "go\n")
	eventually(t, "the container goes on", func() bool { return strings.HasSuffix(readFile(t, out), "done\n") })
	want := "mkdir: can't create directory '/tmp/x': Function not implemented\nrmdir: '/tmp/y': Function not implemented\ny\ndone\n"
	if got := readFile(t, out); got != want {
		t.Errorf("output %q, want %q", got, want)
	}
}

func supervisorOf(id string) int {
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, n := range names {
		raw, _ := os.ReadFile(n)
		if args := strings.Split(string(raw), "\x00"); len(args) > 2 && args[1] == "seccomp-report" && args[len(args)-2] == id {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(n)))
			return pid
		}
	}
	return 0
}

// The advice of a report is an entry that can be added as it stands.
func TestRootDebugSeccompAdvice(t *testing.T) {
	setup(t)
	testenv.Supervisor(t)
	b := newBox(t, script("hostname changed 2>&1; hostname"), func(s *specs.Spec) {
		all := []string{"CAP_SYS_ADMIN"}
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: allButSethostname(t), Action: specs.ActAllow}}}
	})
	r := b.run("--debug-seccomp", "-")
	m := denialLine.FindStringSubmatch(r.Stderr)
	if m == nil || m[2] != "sethostname" {
		t.Fatalf("%+v", r)
	}
	_, entry, ok := strings.Cut(m[10], "add to linux.seccomp.syscalls: ")
	var add any
	if err := json.Unmarshal([]byte(entry), &add); err != nil || !ok {
		t.Fatalf("%q: %v", m[10], err)
	}
	change(t, b.bundle, func(config map[string]any) {
		p := config["linux"].(map[string]any)["seccomp"].(map[string]any)
		p["syscalls"] = append(p["syscalls"].([]any), add)
	})
	if out := b.output(); out != "changed\n" {
		t.Errorf("after the advice: %q", out)
	}
}

// allButSethostname lists the calls that docker's default profile names, but one.
func allButSethostname(t *testing.T) []string {
	t.Helper()
	raw, err := os.ReadFile("../benchmarks/profile/docker-seccomp.json")
	if err != nil {
		t.Fatal(err)
	}
	var p struct {
		Syscalls []struct {
			Names  []string
			Action string
		}
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range p.Syscalls {
		for _, n := range s.Names {
			if n != "sethostname" {
				names = append(names, n)
			}
		}
	}
	return names
}
