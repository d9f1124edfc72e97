package demo

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// sandboxFacts parses the text form.
func sandboxFacts(t *testing.T, text string) map[string]string {
	t.Helper()
	m := map[string]string{}
	var keys []string
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if !ok {
			t.Errorf("line %q is not key: value", line)
		}
		if _, twice := m[key]; twice {
			t.Errorf("key %q twice", key)
		}
		m[key] = value
		keys = append(keys, key)
	}
	if !slices.IsSorted(keys) {
		t.Error("keys are not sorted")
	}
	return m
}

func TestSandbox_Deterministic(t *testing.T) {
	cmd := func() *exec.Cmd {
		c := command(t, "sandbox")
		c.Env = []string{"A=1", "MULTI=a\nb\\c"}
		return c
	}
	first, stderr, code := run(t, cmd())
	if code != 0 || stderr != "" {
		t.Fatalf("status %d: %s", code, stderr)
	}
	for range 3 {
		if again, _, _ := run(t, cmd()); again != first {
			t.Errorf("two runs differ:\n%s\n%s", first, again)
		}
	}
	got := sandboxFacts(t, first)
	for key, want := range map[string]string{"env A": "1", "env MULTI": `a\nb\\c`, "fd 0": "/dev/null", "fd 1": "pipe", "dev /dev/null": devNull(t)} {
		if got[key] != want {
			t.Errorf("%s: got %q, want %q", key, got[key], want)
		}
	}
	for _, key := range []string{"uid", "gid", "hostname", "cwd", "status CapEff", "status NoNewPrivs", "status Seccomp", "status Umask", "rlimit open_files", "mount /", "mount /proc", "oom_score_adj", "tty", "session", "masked /proc/kcore", "writable /"} {
		if got[key] == "" {
			t.Errorf("no %q in\n%s", key, first)
		}
	}
	for key := range got {
		if strings.HasPrefix(key, "namespace ") {
			t.Errorf("%q without -n", key)
		}
	}
}

func TestSandbox_JSON(t *testing.T) {
	env := []string{"A=1", "ODD=\"quoted\" \\ \n\x01 \xff é"}
	plain, js := command(t, "sandbox"), command(t, "sandbox", "--json")
	plain.Env, js.Env = env, env
	text, _, _ := run(t, plain)
	stdout, _, code := run(t, js)
	var m map[string]string
	if err := json.Unmarshal([]byte(stdout), &m); err != nil || code != 0 {
		t.Fatalf("status %d: %v in\n%s", code, err, stdout)
	}
	if want := "\"quoted\" \\ \n\x01 \ufffd é"; m["env ODD"] != want {
		t.Errorf("env ODD: got %q, want %q", m["env ODD"], want)
	}
	lines := sandboxFacts(t, text)
	if len(lines) != len(m) {
		t.Errorf("%d lines of text, %d members of JSON", len(lines), len(m))
	}
	for key, value := range lines {
		if key != "env ODD" && oneLine(m[key]) != value {
			t.Errorf("%s: text %q, JSON %q", key, value, m[key])
		}
	}
}

func TestSandbox_Namespaces(t *testing.T) {
	stdout, _, _ := run(t, command(t, "sandbox", "-n"))
	want, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	if got := sandboxFacts(t, stdout)["namespace mnt"]; got != want {
		t.Errorf("namespace mnt: got %q, want %q", got, want)
	}
}

// TestSandbox_Sees: what differs shows.
func TestSandbox_Sees(t *testing.T) {
	dir := t.TempDir()
	file, err := os.Create(dir + "/open")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := command(t, "sandbox")
	cmd.Dir = dir
	cmd.ExtraFiles = []*os.File{file}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// Set, start, restore: children inherit; only soft limits, so no privilege is needed.
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &old); err != nil {
		t.Fatal(err)
	}
	mask := unix.Umask(0o027)
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 0, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	stdout, _, code := run(t, cmd)
	unix.Umask(mask)
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &old); err != nil {
		t.Fatal(err)
	}
	if code != 0 {
		t.Fatalf("status %d", code)
	}
	got := sandboxFacts(t, stdout)
	for key, want := range map[string]string{"cwd": dir, "fd 3": dir + "/open", "status Umask": "0027", "session": "leader: yes, group leader: yes, foreground: no", "tty": "none"} {
		if got[key] != want {
			t.Errorf("%s: got %q, want %q", key, got[key], want)
		}
	}
	if !strings.HasPrefix(got["rlimit core_file_size"], "0 ") {
		t.Errorf("rlimit core_file_size: got %q, want 0", got["rlimit core_file_size"])
	}
}

// TestSandbox_OpenFilesLimit: the soft limit that the process was started with
// is shown, not the one that the Go runtime makes of it.
func TestSandbox_OpenFilesLimit(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `ulimit -Sn 123; exec "$0" "$@"`)
	link := t.TempDir() + "/sandbox" // sh sets argv[0] to the path
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(exe, link); err != nil {
		t.Fatal(err)
	}
	cmd.Args = append(cmd.Args, link)
	stdout, stderr, code := run(t, cmd)
	if code != 0 {
		t.Fatalf("status %d: %s", code, stderr)
	}
	if got := sandboxFacts(t, stdout)["rlimit open_files"]; !strings.HasPrefix(got, "123 ") {
		t.Errorf("rlimit open_files: got %q, want 123", got)
	}
}

// TestRootSandbox_Differs runs it where runtimes put it: other namespaces, no
// capabilities, another user.
func TestRootSandbox_Differs(t *testing.T) {
	cmd := command(t, "sandbox")
	exe, err := os.Open(cmd.Path) // the test binary's directory is root's alone
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	cmd.Path, cmd.ExtraFiles, cmd.Dir = "/proc/self/fd/3", []*os.File{exe}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Credential: &syscall.Credential{Uid: 1234, Gid: 1235, Groups: []uint32{7, 5}},
	}
	stdout, stderr, code := run(t, cmd)
	if code != 0 {
		t.Fatalf("status %d: %s", code, stderr)
	}
	got := sandboxFacts(t, stdout)
	for key, want := range map[string]string{
		"uid": "1234 1234", "gid": "1235 1235", "groups": "5 7", "cwd": "/", "status CapEff": "0000000000000000",
		"writable /": "no: permission denied",
	} {
		if got[key] != want {
			t.Errorf("%s: got %q, want %q", key, got[key], want)
		}
	}
}
