package demo

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestMain lets the test binary be the applets, as minirun's main does.
func TestMain(m *testing.M) {
	if code, ok := Main(filepath.Base(os.Args[0]), os.Args[1:]); ok {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// command is a real process that runs an applet.
func command(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Args = append([]string{name}, args...)
	return cmd
}

// run returns what the applet wrote and its exit status.
func run(t *testing.T, cmd *exec.Cmd) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %v: %v", cmd.Args, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestApplets_SortedAndKnown(t *testing.T) {
	names := Applets()
	if !slices.IsSorted(names) {
		t.Errorf("Applets() = %v, not sorted", names)
	}
	for _, name := range []string{"burn", "cat", "eat", "echo", "env", "exit", "false", "forks", "hello", "httpd", "id", "ls", "sandbox", "sleep", "true"} {
		if !slices.Contains(names, name) {
			t.Errorf("Applets() lacks %q", name)
		}
	}
	for _, name := range names {
		// Every listed name must be known to Main; wrong usage keeps it harmless.
		cmd := command(t, name, "--no-such-option")
		cmd.Env = []string{}
		if name == "burn" || name == "httpd" || name == "forks" || name == "eat" || name == "sleep" {
			if _, errs, code := run(t, cmd); code != 2 || !strings.HasPrefix(errs, "usage: "+name) {
				t.Errorf("%s --no-such-option: status %d, stderr %q, want 2 and the usage", name, code, errs)
			}
		}
	}
}

func TestMain_NoApplet(t *testing.T) {
	for _, name := range []string{"", "minirun", "sh", "Hello", "hello ", "/bin/hello", "demo.test"} {
		if code, ok := Main(name, nil); ok || code != 0 {
			t.Errorf("Main(%q) = %d, %v, want 0, false", name, code, ok)
		}
	}
}

func TestMain_NoAllocation(t *testing.T) {
	args := []string{"create", "x"}
	if n := testing.AllocsPerRun(100, func() { Main("minirun", args) }); n != 0 {
		t.Errorf("Main for a name that is no applet allocates %v times, want 0", n)
	}
}

// TestNoInit: every minirun command links this package, so nothing may run at
// init. The compiler's output has a function init, or init.0, if something does.
func TestNoInit(t *testing.T) {
	archive, err := exec.CommandContext(t.Context(), "go", "list", "-export", "-f", "{{.Export}}", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	symbols, err := exec.CommandContext(t.Context(), "go", "tool", "nm", strings.TrimSpace(string(archive))).Output()
	if err != nil {
		t.Fatalf("go tool nm: %v", err)
	}
	const pkg = " T github.com/minirun/minirun/internal/demo."
	if !bytes.Contains(symbols, []byte(pkg+"Main\n")) {
		t.Fatal("go tool nm shows no function Main: this test would find nothing")
	}
	for line := range strings.Lines(string(symbols)) {
		if _, name, ok := strings.Cut(strings.TrimSpace(line), pkg); ok && (name == "init" || strings.HasPrefix(name, "init.")) {
			t.Errorf("the package has init work: %s", name)
		}
	}
}

func TestNoHeavyImports(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, "golang.org/x/sys/unix") {
		t.Fatal("go list -deps shows no x/sys/unix: this test would find nothing")
	}
	for _, banned := range []string{"net", "net/http", "net/netip", "encoding/json", "flag", "regexp", "os/exec", "text/template"} {
		if slices.Contains(deps, banned) {
			t.Errorf("package depends on %s", banned)
		}
	}
}
