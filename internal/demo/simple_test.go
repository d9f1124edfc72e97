package demo

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestSimple(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("content\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing")
	tests := []struct {
		args   []string
		stdin  string
		stdout string
		code   int
	}{
		{args: []string{"true"}},
		{args: []string{"false"}, code: 1},
		{args: []string{"exit"}},
		{args: []string{"exit", "0"}},
		{args: []string{"exit", "42"}, code: 42},
		{args: []string{"exit", "255"}, code: 255},
		{args: []string{"exit", "256"}, code: 2},
		{args: []string{"exit", "-1"}, code: 2},
		{args: []string{"exit", "1", "2"}, code: 2},
		{args: []string{"echo"}, stdout: "\n"},
		{args: []string{"echo", "a", "b  c"}, stdout: "a b  c\n"},
		{args: []string{"echo", "-n", "a"}, stdout: "a"},
		{args: []string{"echo", "a", "-n"}, stdout: "a -n\n"},
		{args: []string{"cat"}, stdin: "from stdin", stdout: "from stdin"},
		{args: []string{"cat", file, "-", file}, stdin: "between\n", stdout: "content\nbetween\ncontent\n"},
		{args: []string{"cat", missing, file}, stdout: "content\n", code: 1},
		{args: []string{"cat", dir}, code: 1},
		{args: []string{"env"}, stdout: "B=2\nA=1\n"},
		{args: []string{"env", "x"}, code: 2},
		{args: []string{"id"}, stdout: "uid=" + strconv.Itoa(os.Getuid()) + " gid=" + strconv.Itoa(os.Getgid()) + idGroups(t) + "\n"},
		{args: []string{"sleep", "0"}},
		{args: []string{"sleep", "0.01", "0.01"}},
		{args: []string{"sleep"}, code: 2},
		{args: []string{"sleep", "-1"}, code: 2},
		{args: []string{"sleep", "NaN"}, code: 2},
		{args: []string{"sleep", "1x"}, code: 2},
		{args: []string{"hello", "x"}, code: 2},
		{args: []string{"sandbox", "x"}, code: 2},
	}
	for _, tt := range tests {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			cmd := command(t, tt.args[0], tt.args[1:]...)
			cmd.Stdin = strings.NewReader(tt.stdin)
			cmd.Env = []string{"B=2", "A=1"}
			stdout, stderr, code := run(t, cmd)
			if stdout != tt.stdout || code != tt.code {
				t.Errorf("got %q, status %d, want %q, status %d (stderr %q)", stdout, code, tt.stdout, tt.code, stderr)
			}
			if (stderr != "") != (tt.code != 0 && tt.args[0] != "false" && tt.code < 3) {
				t.Errorf("status %d with stderr %q", code, stderr)
			}
		})
	}
}

func idGroups(t *testing.T) string {
	t.Helper()
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	var text []string
	for _, g := range groups {
		text = append(text, strconv.Itoa(g))
	}
	if len(text) == 0 {
		return ""
	}
	return " groups=" + strings.Join(text, ",")
}

// TestWriteError: what cannot be written is a failure, not a success.
func TestWriteError(t *testing.T) {
	for _, name := range []string{"hello", "echo", "env", "sandbox", "id"} {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		cmd := command(t, name)
		cmd.Stdout = full
		_ = cmd.Run()
		full.Close()
		if code := cmd.ProcessState.ExitCode(); code != 1 {
			t.Errorf("%s > /dev/full: status %d, want 1", name, code)
		}
	}
}

func TestHello(t *testing.T) {
	stdout, _, code := run(t, command(t, "hello"))
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"minirun/demo", host, "process ", strconv.Itoa(os.Getuid()) + ":" + strconv.Itoa(os.Getgid()), "kernel     Linux ", "sandbox"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("hello does not say %q:\n%s", want, stdout)
		}
	}
	if code != 0 {
		t.Errorf("status %d, want 0", code)
	}
}

func TestSleep_Signal(t *testing.T) {
	cmd := command(t, "sleep", "infinity")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	awaitHandler(t, cmd.Process.Pid, syscall.SIGTERM)
	start := time.Now()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 128+15 {
		t.Errorf("status %d (%v), want 143", code, cmd.ProcessState)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("ended %v after SIGTERM", d)
	}
}

// awaitHandler waits until the process is asleep, past its start: the Go
// runtime catches SIGTERM from its beginning, so SigCgt alone says nothing.
func awaitHandler(t *testing.T, pid int, _ syscall.Signal) {
	t.Helper()
	idle := 0
	for deadline := time.Now().Add(10 * time.Second); idle < 5; time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			t.Fatal(err)
		}
		idle++
		if !strings.Contains(string(b), ") S ") {
			idle = 0
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d does not come to rest: %s", pid, b)
		}
	}
}

func TestLs(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b", "a", ".hidden"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("12345"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	owner := strconv.Itoa(os.Getuid()) + ":" + strconv.Itoa(os.Getgid())
	tests := []struct {
		args   []string
		stdout string
		code   int
	}{
		{[]string{dir}, "a\nb\nlink\n", 0},
		{[]string{"-a", dir}, ".hidden\na\nb\nlink\n", 0},
		{[]string{"-l", dir}, "- 0600 " + owner + " 5 a\n- 0600 " + owner + " 5 b\nl 0777 " + owner + " 1 link -> a\n", 0},
		{[]string{"-l", "/dev/null"}, devNull(t) + " /dev/null\n", 0},
		{[]string{dir + "/missing", dir}, dir + ":\na\nb\nlink\n", 1},
		{[]string{"-x"}, "", 2},
	}
	for _, tt := range tests {
		stdout, stderr, code := run(t, command(t, "ls", tt.args...))
		if len(tt.args) == 2 && tt.code == 1 {
			stdout = strings.TrimPrefix(stdout, "\n")
		}
		if stdout != tt.stdout || code != tt.code {
			t.Errorf("ls %v: got %q, status %d, want %q, status %d (%s)", tt.args, stdout, code, tt.stdout, tt.code, stderr)
		}
	}
}

// devNull is what is to be seen of /dev/null: its owner is the machine's affair.
func devNull(t *testing.T) string {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat("/dev/null", &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("c %04o %d:%d 1:3", st.Mode&0o7777, st.Uid, st.Gid)
}

func TestSeconds(t *testing.T) {
	tests := []struct {
		in   string
		want time.Duration
		ok   bool
	}{
		{"0", 0, true},
		{"1", time.Second, true},
		{"0.25", 250 * time.Millisecond, true},
		{"infinity", forever, true},
		{"1e300", forever, true},
		{"-0.1", 0, false},
		{"nan", 0, false},
		{"", 0, false},
		{"1s", 0, false},
	}
	for _, tt := range tests {
		if got, ok := seconds(tt.in); got != tt.want || ok != tt.ok {
			t.Errorf("seconds(%q) = %v, %v, want %v, %v", tt.in, got, ok, tt.want, tt.ok)
		}
	}
}

func TestSize(t *testing.T) {
	tests := []struct {
		in   string
		want int64
		ok   bool
	}{
		{"0", 0, true},
		{"12", 12, true},
		{"4k", 4096, true},
		{"3M", 3 << 20, true},
		{"2G", 2 << 30, true},
		{"2g", 2 << 30, true},
		{"", 0, false},
		{"k", 0, false},
		{"-1", 0, false},
		{"1T", 0, false},
		{"9223372036854775807k", 0, false},
		{"9999999999G", 0, false},
	}
	for _, tt := range tests {
		if got, ok := size(tt.in); got != tt.want || ok != tt.ok {
			t.Errorf("size(%q) = %d, %v, want %d, %v", tt.in, got, ok, tt.want, tt.ok)
		}
	}
}
