package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ociBox is one container of a test: an ID and a bundle. What is left of it is
// deleted at the end of the test, which must always work.
type ociBox struct {
	t      testing.TB
	id     string
	bundle string
	cgroup string // cgroupsPath in its config.json
}

// setup starts a test that needs root. The test process becomes the parent of
// the containers that minirun leaves behind, as an engine is, and reaps them at
// the end: the host's init may take its time.
func setup(t *testing.T) {
	t.Helper()
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		reapAll()
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	})
}

// reapAll waits a while for the end of all children. No command may run.
func reapAll() {
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); {
		switch pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); {
		case err == unix.ECHILD:
			return
		case pid == 0:
			time.Sleep(2 * time.Millisecond)
		}
	}
}

// reapContainers reaps children of ours in the background, but for minirun, until
// the returned function is called. A pid namespace does not end before processes
// that exec has put in it, and that are our children, are reaped.
func reapContainers(t testing.TB) (stop func()) {
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			var info unix.Siginfo
			_ = unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
			pid := int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), 16))) // si_pid, see sigaction(2)
			comm, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
			if pid > 0 && string(comm) != "minirun\n" {
				_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
				continue
			}
			select {
			case <-done:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	stop = sync.OnceFunc(func() { close(done); <-stopped })
	t.Cleanup(stop) // a test that has failed must not take the children of the next one
	return stop
}

// newBox makes a bundle and an ID. Nothing is created yet.
func newBox(t testing.TB, mutate ...func(*specs.Spec)) *ociBox {
	t.Helper()
	b := &ociBox{t: t, id: testenv.UniqueID(t)}
	b.bundle = testenv.Bundle(t, func(s *specs.Spec) {
		for _, m := range mutate {
			m(s)
		}
		b.cgroup = s.Linux.CgroupsPath
	})
	// Root of a user namespace must find its way to the bundle, too.
	if err := os.Chmod(filepath.Dir(b.bundle), 0o755); err != nil {
		t.Fatal(err)
	}
	testenv.StateRoot(t) // before the cleanup below, so that it goes after it
	t.Cleanup(func() {
		defer reapContainers(t)()
		if r := testenv.Run(t, "delete", "--force", b.id); r.Code != 0 {
			t.Errorf("delete --force at the end of the test: %+v", r)
		}
	})
	return b
}

// script makes sh run a script as the container's process.
func script(text string) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Process.Args = []string{"sh", "-c", text} }
}

// forever is a process that ends at TERM, and at no other time.
func forever(s *specs.Spec) {
	script(`trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done`)(s)
}

func writable(s *specs.Spec) { s.Root.Readonly = false }

// do runs "minirun VERB FLAGS... ID".
func (b *ociBox) do(verb string, flags ...string) testenv.Result {
	b.t.Helper()
	return testenv.Run(b.t, append(append([]string{verb}, flags...), b.id)...)
}

// must is do and fails the test unless it succeeds without a word.
func (b *ociBox) must(verb string, flags ...string) testenv.Result {
	b.t.Helper()
	r := b.do(verb, flags...)
	if r.Code != 0 || r.Stderr != "" {
		b.t.Fatalf("minirun %s %v: exit status %d, want 0\n%s%s", verb, flags, r.Code, r.Stdout, r.Stderr)
	}
	return r
}

func (b *ociBox) create(flags ...string) { b.t.Helper(); b.must("create", b.at(flags)...) }

// run runs the container in the foreground.
func (b *ociBox) run(flags ...string) testenv.Result {
	b.t.Helper()
	return b.do("run", b.at(flags)...)
}

// output is the standard output of a run that must succeed without a warning.
func (b *ociBox) output(flags ...string) string {
	b.t.Helper()
	return b.must("run", b.at(flags)...).Stdout
}

func (b *ociBox) at(flags []string) []string {
	return append([]string{"--bundle", b.bundle}, flags...)
}

// up creates and starts the container.
func (b *ociBox) up() *ociBox {
	b.t.Helper()
	b.create()
	b.must("start")
	return b
}

// exec runs "minirun exec FLAGS... ID COMMAND...", the two lists separated by "--".
func (b *ociBox) exec(args ...string) testenv.Result {
	b.t.Helper()
	flags := []string{"exec"}
	for i, a := range args {
		if a == "--" {
			return testenv.Run(b.t, append(append(append(flags, args[:i]...), b.id), args[i+1:]...)...)
		}
	}
	return testenv.Run(b.t, append(append(flags, b.id), args...)...)
}

// execOut is the output of an exec that must succeed.
func (b *ociBox) execOut(args ...string) string {
	b.t.Helper()
	r := b.exec(args...)
	if r.Code != 0 || r.Stderr != "" {
		b.t.Fatalf("exec %q: %+v", args, r)
	}
	return r.Stdout
}

// ociState is what `minirun state` prints.
type ociState struct {
	OCIVersion  string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Pid         *int              `json:"pid"`
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations"`
	Owner       string            `json:"owner"`
}

func (b *ociBox) state() ociState {
	b.t.Helper()
	var s ociState
	if err := json.Unmarshal([]byte(b.must("state").Stdout), &s); err != nil {
		b.t.Fatal(err)
	}
	if s.Pid == nil {
		b.t.Fatal("state has no pid")
	}
	return s
}

func (b *ociBox) pid() int { b.t.Helper(); return *b.state().Pid }

func (b *ociBox) wantStatus(want string) {
	b.t.Helper()
	if s := b.state(); s.Status != want {
		b.t.Fatalf("status %q, want %q", s.Status, want)
	}
}

// stopped waits for the end of the container's process.
func (b *ociBox) stopped() *ociBox {
	b.t.Helper()
	eventually(b.t, "the container stops", func() bool { return b.state().Status == "stopped" })
	return b
}

func (b *ociBox) rootfs(path ...string) string {
	return filepath.Join(append([]string{b.bundle, "rootfs"}, path...)...)
}

// gone fails the test if anything of the container is left on the host.
func (b *ociBox) gone() bool {
	b.t.Helper()
	ok := true
	left := func(what, name string) {
		b.t.Helper()
		b.t.Errorf("the %s %s is left", what, name)
		ok = false
	}
	if _, err := os.Lstat(filepath.Join(testenv.StateRoot(b.t), b.id)); err == nil {
		left("state directory", b.id)
	}
	for _, root := range cgroupMounts() {
		if _, err := os.Lstat(filepath.Join(root, b.cgroup)); err == nil {
			left("cgroup", b.cgroup)
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(mounts), b.bundle) {
		left("mount below", b.bundle)
	}
	return ok
}

// cgroupMounts are the places where cgroup v2 is mounted.
func cgroupMounts() []string {
	raw, _ := os.ReadFile("/proc/self/mountinfo")
	var out []string
	for line := range strings.Lines(string(raw)) {
		before, after, _ := strings.Cut(line, " - ")
		if strings.HasPrefix(after, "cgroup2 ") {
			out = append(out, strings.Fields(before)[4])
		}
	}
	return out
}

// eventually polls for a condition that another process brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(testenv.Timeout(10 * time.Second))
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out: %s", what)
		}
		time.Sleep(3 * time.Millisecond)
	}
}

func alive(pid int) bool {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	rest := string(raw[strings.LastIndexByte(string(raw), ')')+1:])
	return !strings.HasPrefix(rest, " Z") && !strings.HasPrefix(rest, " X")
}

func writeFile(t testing.TB, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// change edits a bundle's config.json as a tree of JSON values.
func change(t testing.TB, bundle string, edit func(config map[string]any)) {
	t.Helper()
	path := filepath.Join(bundle, "config.json")
	var config map[string]any
	if err := json.Unmarshal([]byte(readFile(t, path)), &config); err != nil {
		t.Fatal(err)
	}
	edit(config)
	raw, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, string(raw))
}

// lines splits output into its lines.
func lines(s string) []string { return strings.Split(strings.TrimRight(s, "\n"), "\n") }

// pipe is os.Pipe for a test.
func pipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func signalPid(t testing.TB, pid int, sig unix.Signal) {
	t.Helper()
	if err := unix.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
}
