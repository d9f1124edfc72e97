package kfeature

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSupported_CachesConclusive(t *testing.T) {
	calls := 0
	var result error
	f := &Feature{Name: "thing", MinKernel: "9.9", probe: func() error { calls++; return result }}

	result = unix.EIO
	var pe *ProbeError
	for want := 1; want <= 2; want++ {
		err := f.Supported()
		if !errors.As(err, &pe) || !errors.Is(err, unix.EIO) || errors.Is(err, errors.ErrUnsupported) || calls != want {
			t.Fatalf("inconclusive: got %v after %d calls, want a *ProbeError and %d calls", err, calls, want)
		}
	}
	if got := f.Supported().Error(); got != "probe thing: input/output error" {
		t.Errorf("got %q", got)
	}

	result = no("")
	err := f.Supported()
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, errors.ErrUnsupported) || err.Error() != "thing not supported (needs Linux 9.9 or newer)" {
		t.Fatalf("got %v", err)
	}
	result = nil
	if again := f.Supported(); again != err || calls != 4 {
		t.Errorf("a conclusive answer was not kept: %v, %d calls", again, calls)
	}

	yes := &Feature{probe: func() error { calls++; return nil }}
	calls = 0
	for range 2 {
		if err := yes.Supported(); err != nil {
			t.Error(err)
		}
	}
	if calls != 1 {
		t.Errorf("yes: %d calls, want 1", calls)
	}
}

func TestError_Reason(t *testing.T) {
	f := &Feature{Name: "user namespaces", MinKernel: "3.8", probe: func() error { return no("user.max_user_namespaces is 0") }}
	if got := f.Supported().Error(); got != "user namespaces not supported (user.max_user_namespaces is 0)" {
		t.Errorf("got %q", got)
	}
}

func TestBySyscall(t *testing.T) {
	tests := []struct {
		err, want error
		answer    string // yes, no, unknown
	}{
		{nil, unix.EINVAL, "yes"},
		{unix.EINVAL, unix.EINVAL, "yes"},
		{unix.ENOSYS, unix.EINVAL, "no"},
		{unix.EPERM, unix.EINVAL, "unknown"},
		{unix.ENOMEM, unix.EINVAL, "unknown"},
		{unix.EBADF, unix.EINVAL, "unknown"},
	}
	for _, tt := range tests {
		got := "unknown"
		var missing *Error
		if err := bySyscall(tt.err, tt.want); err == nil {
			got = "yes"
		} else if errors.As(err, &missing) {
			got = "no"
		}
		if got != tt.answer {
			t.Errorf("bySyscall(%v, %v): %s, want %s", tt.err, tt.want, got, tt.answer)
		}
	}
}

// version is the running kernel's, as major*1000+minor.
func version(t *testing.T, release string) int {
	t.Helper()
	parts := strings.FieldsFunc(release, func(r rune) bool { return r == '.' || r == '-' || r == '+' })
	if len(parts) < 2 {
		t.Fatalf("kernel version %q", release)
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	if err1 != nil || err2 != nil {
		t.Fatalf("kernel version %q", release)
	}
	return major*1000 + minor
}

func kernel(t *testing.T) int {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	return version(t, unix.ByteSliceToString(u.Release[:]))
}

// TestAll asks this kernel everything and compares with its version: a kernel
// that is new enough may lack a feature for a reason that the answer names, but
// not because it is too old. Nothing may be left behind.
func TestAll(t *testing.T) {
	have := kernel(t)
	before := leaks(t)
	names := map[string]bool{}
	for _, f := range All() {
		if f.Name == "" || f.MinKernel == "" || f.probe == nil || names[f.Name] {
			t.Errorf("%+v: a feature needs a name of its own, a version and a probe", f.Name)
		}
		names[f.Name] = true
		err := f.Supported()
		var missing *Error
		isMissing := errors.As(err, &missing)
		t.Logf("%-32s %v", f.Name, err)
		if isMissing && missing.Reason == "" && have >= version(t, f.MinKernel) {
			t.Errorf("%s: %v, but this kernel is new enough", f.Name, err)
		}
		// Upstream kernels do not have a feature before its version; six is the
		// first major version whose features vendors had not yet carried back.
		if err == nil && version(t, f.MinKernel) >= 6000 && have < version(t, f.MinKernel) && have >= 6000 {
			t.Errorf("%s: supported, but this kernel is older than %s", f.Name, f.MinKernel)
		}
		if !isMissing && err != nil && !errors.Is(err, ErrNeedsRoot) && os.Geteuid() != 0 && f != CgroupKill {
			t.Errorf("%s: %v, want an answer or ErrNeedsRoot", f.Name, err)
		}
	}
	sameLeaks(t, before)
}

// TestRootAll: for root every probe but those that depend on the machine's
// mounts must have an answer.
func TestRootAll(t *testing.T) {
	for _, f := range All() {
		err := f.Supported()
		var unknown *ProbeError
		if errors.As(err, &unknown) && f != CgroupKill && f != EROFSFile {
			t.Errorf("%v: no answer for root", err)
		}
	}
}

// TestRootProbes_NoLeak repeats every probe: what one leaks, twenty show.
func TestRootProbes_NoLeak(t *testing.T) {
	before := leaks(t)
	for range 20 {
		for _, f := range All() {
			_ = f.probe()
		}
	}
	sameLeaks(t, before)
}

type leftovers struct{ fds, mounts, children string }

func leaks(t *testing.T) leftovers {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var l leftovers
	for _, fd := range fds {
		if target, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil {
			l.fds += fd.Name() + " " + target + "\n"
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	// Other processes of the machine may mount meanwhile: only what is ours by name or by kind counts.
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "minirun-probe") || strings.Contains(line, " - erofs ") && strings.Contains(line, "/proc/self/fd") {
			l.mounts += line
		}
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		children, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		l.children += string(children)
	}
	return l
}

func sameLeaks(t *testing.T, before leftovers) {
	t.Helper()
	if after := leaks(t); after != before {
		t.Errorf("left behind: before %+v\nafter %+v", before, after)
	}
}

// TestNoInit: short-lived commands link this package, so nothing may run at
// init. The compiler makes an init function for the variables, but all of them
// are laid out at link time, so it has to be an empty one.
func TestNoInit(t *testing.T) {
	archive, err := exec.CommandContext(t.Context(), "go", "list", "-export", "-f", "{{.Export}}", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	symbols, err := exec.CommandContext(t.Context(), "go", "tool", "nm", "-size", strings.TrimSpace(string(archive))).Output()
	if err != nil {
		t.Fatalf("go tool nm: %v", err)
	}
	seen := false
	for line := range strings.Lines(string(symbols)) {
		fields := strings.Fields(line) // address size type name
		if len(fields) != 4 || fields[2] != "T" {
			continue
		}
		name, _ := strings.CutPrefix(fields[3], "github.com/minirun/minirun/internal/kfeature.")
		size, _ := strconv.Atoi(fields[1])
		seen = seen || name == "All" && size > 0
		if name == "init" && size > 16 || strings.HasPrefix(name, "init.") {
			t.Errorf("the package has init work: %s, %d bytes", name, size)
		}
	}
	if !seen {
		t.Fatal("go tool nm shows no function All: this test would find nothing")
	}
	deps, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("go list -deps: %v", err)
	}
	for _, banned := range []string{"fmt", "regexp", "net", "encoding/json", "os/exec"} {
		for dep := range strings.Lines(string(deps)) {
			if strings.TrimSpace(dep) == banned {
				t.Errorf("package depends on %s", banned)
			}
		}
	}
}
