package testenv

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestUniqueID(t *testing.T) {
	valid := regexp.MustCompile(`^[A-Za-z0-9_+.-]{1,48}$`)
	seen := make(map[string]bool)
	for range 100 {
		id := UniqueID(t)
		if !valid.MatchString(id) || seen[id] {
			t.Fatalf("UniqueID = %q: not valid or used before", id)
		}
		seen[id] = true
	}
	t.Run("a name with / and ünïcode, and longer than what fits", func(t *testing.T) {
		if id := UniqueID(t); !valid.MatchString(id) {
			t.Errorf("UniqueID = %q, want it to match %v", id, valid)
		}
	})
}

func TestTimeout(t *testing.T) {
	tests := []struct {
		slow string
		want time.Duration
	}{{"", time.Second}, {"nonsense", time.Second}, {"0.1", time.Second}, {"2.5", 2500 * time.Millisecond}}
	for _, tt := range tests {
		t.Setenv("MINIRUN_TEST_SLOW", tt.slow)
		if got := Timeout(time.Second); got != tt.want {
			t.Errorf("Timeout(1s) with factor %q = %v, want %v", tt.slow, got, tt.want)
		}
	}
}

func TestStateRoot(t *testing.T) {
	var dir string
	t.Run("sub", func(t *testing.T) {
		dir = StateRoot(t)
		if again := StateRoot(t); again != dir {
			t.Errorf("second call gives %q, first gave %q", again, dir)
		}
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o700 {
			t.Errorf("mode %v, want 0700", info.Mode())
		}
	})
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("state root after the test: %v, want it gone", err)
	}
}

// The binaries under test must be the ones that `make build` gives to users.
func TestBuildFlagsMatchMakefile(t *testing.T) {
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\nLDFLAGS := " + BuildLDFlags + "\n", "\nTAGS := " + BuildTags + "\n", "\nexport CGO_ENABLED := 0\n"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("Makefile has no line %q", strings.TrimSpace(want))
		}
	}
}

func TestBinaryFromDirectory(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("MINIRUN_BIN_DIR", dir)
	if _, err := binary("minirun"); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("binary in an empty MINIRUN_BIN_DIR: error %v, want one that names make build", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "minirun"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := binary("minirun"); err != nil || got != filepath.Join(dir, "minirun") {
		t.Errorf("binary = %q, %v", got, err)
	}
}

func TestFindBusybox(t *testing.T) {
	// An ELF header without program headers is static.
	static := filepath.Join(t.TempDir(), "busybox")
	header := "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9) + "\x02\x00\x3e\x00\x01\x00\x00\x00" +
		strings.Repeat("\x00", 28) + "\x40\x00\x38\x00\x00\x00\x40\x00\x00\x00\x00\x00"
	if err := os.WriteFile(static, []byte(header), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := findBusybox("/nonexistent", static); err != nil || got != static {
		t.Errorf("findBusybox = %q, %v, want %q", got, err, static)
	}
	if _, err := findBusybox("/nonexistent"); err == nil || !strings.Contains(err.Error(), "apt-get install busybox-static") {
		t.Errorf("findBusybox without busybox: %v, want the apt line", err)
	}
	// Dynamic programs do not run in an empty root filesystem.
	sh, err := exec.LookPath("env")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := findBusybox(sh); err == nil {
		t.Errorf("findBusybox takes %s, which needs a dynamic loader", sh)
	}
}

func TestWriteRootfs(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "rootfs")
	if err := writeRootfs(dir, exe); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "true", "sleep", "cat", "id", "ls", "mount", "env"} {
		if target, err := os.Readlink(filepath.Join(dir, "bin", name)); err != nil || target != "busybox" {
			t.Errorf("bin/%s -> %q, %v, want busybox", name, target, err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "tmp")); err != nil || info.Mode() != os.ModeDir|os.ModeSticky|0o777 {
		t.Errorf("tmp: %v, %v, want mode 1777", info.Mode(), err)
	}
}

func TestBundle(t *testing.T) {
	var dir string
	t.Run("sub", func(t *testing.T) {
		dir = Bundle(t, func(s *specs.Spec) { s.Process.Args = []string{"sleep", "5"} })
		b, err := os.ReadFile(filepath.Join(dir, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		var spec specs.Spec
		if err := json.Unmarshal(b, &spec); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(spec.Process.Args, " "); got != "sleep 5" {
			t.Errorf("args %q, want the mutated ones", got)
		}
		if !strings.HasPrefix(spec.Linux.CgroupsPath, "/minirun-test-") {
			t.Errorf("cgroupsPath %q, want it below /minirun-test-<pid>", spec.Linux.CgroupsPath)
		}
		if _, err := os.Stat(filepath.Join(dir, spec.Root.Path, "bin/busybox")); err != nil {
			t.Error(err)
		}
	})
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("bundle after the test: %v, want it gone", err)
	}
}

func TestRunCmd(t *testing.T) {
	tests := []struct {
		script string
		want   Result
	}{
		{"echo out; echo err >&2", Result{"out\n", "err\n", 0}},
		{"exit 7", Result{Code: 7}},
		{"kill -9 $$", Result{Code: 137}},
	}
	for _, tt := range tests {
		if got := RunCmd(t, exec.Command("sh", "-c", tt.script)); got != tt.want {
			t.Errorf("%q: got %+v, want %+v", tt.script, got, tt.want)
		}
	}
}

// A container keeps the output descriptors of `minirun create`: waiting for their
// end would wait for the container.
func TestRunCmdDoesNotWaitForHeirs(t *testing.T) {
	start := time.Now()
	got, err := runCmd(exec.Command("sh", "-c", "sleep 20 & echo $!"), 15*time.Second)
	if err != nil || time.Since(start) > 10*time.Second {
		t.Fatalf("got %+v, %v after %v, want the result at once", got, err, time.Since(start))
	}
	killGroup(t, got.Stdout)
}

func TestRunCmdTimeout(t *testing.T) {
	_, err := runCmd(exec.Command("sh", "-c", "sleep 60; true"), 200*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "timed out") {
		t.Errorf("a command that hangs: error %v, want timed out", err)
	}
}

// Tests never run on the first thread, however many there are.
func TestFirstThread(t *testing.T) {
	for range 100 {
		done := make(chan int)
		go func() {
			goruntime.LockOSThread()
			defer goruntime.UnlockOSThread()
			done <- unix.Gettid()
		}()
		if <-done == os.Getpid() || unix.Gettid() == os.Getpid() {
			t.Fatal("on the first thread")
		}
	}
}
