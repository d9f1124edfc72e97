package integration

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/internal/testenv"
)

// atPtracer makes a container whose root may look into every process that it sees.
func atPtracer(s *specs.Spec) {
	caps := []string{"CAP_SYS_PTRACE", "CAP_KILL", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_CHOWN"}
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	s.Root.Readonly = false
}

// atSpyOn starts a container with a spy in it, runs f, and returns what the spy saw.
func atSpyOn(t *testing.T, b *ociBox, f func()) []string {
	t.Helper()
	log := filepath.Join(b.bundle, "log")
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, _ := pipe(t)
	cmd := testenv.Command(t, "create", "--bundle", b.bundle, b.id)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, out
	if r := testenv.RunCmd(t, cmd); r.Code != 0 {
		t.Fatalf("create: %d\n%s", r.Code, readFile(t, log))
	}
	b.must("start")
	eventually(t, "the spy starts", func() bool { return strings.Contains(readFile(t, log), "spying\n") })
	f()
	writeFile(t, b.rootfs("tmp/stop"), "")
	b.stopped()
	seen := atLines(readFile(t, log))
	if len(seen) == 0 || seen[len(seen)-1] != "done" {
		t.Fatalf("the spy did not come to its end: %q", seen)
	}
	return seen
}

// atExec runs a command in the container with pipes as its streams.
func atExec(t *testing.T, b *ociBox, cmd *exec.Cmd) string {
	t.Helper()
	r, w := pipe(t)
	in, _ := pipe(t)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, w, w
	testenv.RunCmd(t, cmd)
	w.Close()
	var out strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		out.Write(buf[:n])
		if err != nil {
			return out.String()
		}
	}
}

// R1, CVE-2016-9962: a container with CAP_SYS_PTRACE looks at processes that
// enter it, for descriptors, roots and programs of the host.
func TestRootAttackExecSpy(t *testing.T) {
	setup(t)
	b := newBox(t, atPtracer, func(s *specs.Spec) { s.Process.Args = []string{"/bin/attack-spy"} })
	atInstall(t, b.rootfs(), "spy")
	binary := testenv.Binary(t)
	before := atHash(t, binary)
	canary := t.TempDir()
	seen := atSpyOn(t, b, func() {
		deadline := time.Now().Add(testenv.Timeout(4 * time.Second))
		for i := 0; i < 200 && time.Now().Before(deadline); i++ {
			atExec(t, b, testenv.Command(t, "exec", b.id, "/bin/true"))
		}
		// The control: a directory of the host that the user hands in.
		dir, err := os.Open(canary)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		cmd := testenv.Command(t, "exec", "--preserve-fds", "1", b.id, "/bin/sleep", "0.2")
		cmd.ExtraFiles = []*os.File{dir}
		atExec(t, b, cmd)
	})
	control := false
	for _, line := range seen {
		switch {
		case strings.HasSuffix(line, canary):
			control = true
		case strings.Contains(line, "FOREIGN"), strings.Contains(line, "WRITABLE"):
			t.Errorf("seen from the container: %s", line)
		}
	}
	if !control {
		t.Errorf("the spy does not see the directory that was handed in: %q", seen)
	}
	if atHash(t, binary) != before {
		t.Error("the host's binary has changed")
	}
}

func atHash(t testing.TB, path string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

// R4, CVE-2019-5736: a program of the image is a script for /proc/self/exe, and
// what that is can be seen from inside.
func TestRootAttackProcSelfExe(t *testing.T) {
	setup(t)
	b := newBox(t, atPtracer, func(s *specs.Spec) { s.Process.Args = []string{"/bin/attack-spy"} })
	atInstall(t, b.rootfs(), "spy")
	if err := os.WriteFile(b.rootfs("bin/evil"), []byte("#!/proc/self/exe\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	binary := testenv.Binary(t)
	before := atHash(t, binary)
	seen := atSpyOn(t, b, func() {
		for range 60 {
			atExec(t, b, testenv.Command(t, "exec", b.id, "/bin/evil"))
		}
	})
	control := false
	for _, line := range seen {
		control = control || strings.HasPrefix(line, "exe memfd")
		if strings.Contains(line, "FOREIGN") || strings.Contains(line, "WRITABLE") {
			t.Errorf("seen from the container: %s", line)
		}
	}
	if !control {
		t.Errorf("the spy never sees the init program, so it would not see the host's binary either: %q", seen)
	}
	if atHash(t, binary) != before {
		t.Error("the host's binary has changed")
	}
	// As the container's own process, too.
	b2 := newBox(t, writable, func(s *specs.Spec) { s.Process.Args = []string{"/bin/evil"} })
	if err := os.WriteFile(b2.rootfs("bin/evil"), []byte("#!/proc/self/exe\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	b2.run()
	if atHash(t, binary) != before {
		t.Error("the host's binary has changed")
	}
}

// R11, CVE-2024-21626: the working directory is a descriptor of the host, by
// number or through links of the image.
func TestRootAttackWorkingDirectory(t *testing.T) {
	setup(t)
	host := t.TempDir()
	dir, err := os.Open(host)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	up := newBox(t, forever, writable)
	atInstall(t, up.rootfs(), "fds")
	up.create()
	up.must("start")
	check := func(cwd, out string) {
		t.Helper()
		for _, line := range atLines(out) {
			if strings.Contains(line, "FOREIGN") && !strings.HasSuffix(line, host) && !atInitStream(line) || strings.HasPrefix(line, "self cwd") ||
				strings.Contains(line, "unreachable") {
				t.Errorf("with cwd %s: %s", cwd, line)
			}
		}
	}
	control := false
	for _, n := range []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 20, 31, 63, 64, 255, 1023} {
		for _, cwd := range []string{fmt.Sprintf("/proc/self/fd/%d", n), fmt.Sprintf("/proc/self/fd/%d/..", n), fmt.Sprintf("/link%d", n)} {
			if strings.HasPrefix(cwd, "/link") {
				if n > 12 {
					continue
				}
				atReplace(t, up, cwd, fmt.Sprintf("/proc/thread-self/fd/%d", n))
			}
			cmd := testenv.Command(t, "exec", "--preserve-fds", "1", "--cwd", cwd, up.id, "/bin/attack-fds")
			cmd.ExtraFiles = []*os.File{dir}
			check(cwd, atExec(t, up, cmd))
			if n > 12 {
				continue
			}
			b := newBox(t, writable, func(s *specs.Spec) {
				s.Process.Cwd = cwd
				s.Process.Args = []string{"/bin/attack-fds"}
			})
			if err := os.Link(up.rootfs("bin/attack-fds"), b.rootfs("bin/attack-fds")); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(cwd, "/link") {
				atReplace(t, b, cwd, fmt.Sprintf("/proc/thread-self/fd/%d", n))
			}
			cmd = testenv.Command(t, "run", "--preserve-fds", "1", "--bundle", b.bundle, b.id)
			cmd.ExtraFiles = []*os.File{dir}
			check(cwd, atExec(t, b, cmd))
			if err := os.RemoveAll(b.bundle); err != nil {
				t.Fatal(err)
			}
		}
	}
	cmd := testenv.Command(t, "exec", "--preserve-fds", "1", up.id, "/bin/attack-fds")
	cmd.ExtraFiles = []*os.File{dir}
	for _, line := range atLines(atExec(t, up, cmd)) {
		control = control || line == "self fd/3 FOREIGN "+host
	}
	if !control {
		t.Error("the program does not find the directory that was handed in")
	}
	// The scan of process 1 in a container where nothing was handed in.
	for _, line := range atLines(atExec(t, up, testenv.Command(t, "exec", up.id, "/bin/attack-fds"))) {
		if strings.Contains(line, "FOREIGN") && !atInitStream(line) {
			t.Errorf("a descriptor of the host: %s", line)
		}
	}
}

// atInitStream: the standard streams of process 1 were handed in by the test.
func atInitStream(line string) bool {
	return strings.HasPrefix(line, "1 fd/0 ") || strings.HasPrefix(line, "1 fd/1 ") || strings.HasPrefix(line, "1 fd/2 ")
}

// R26, CVE-2017-5226: a container shares the caller's terminal and types into it.
func TestRootAttackTerminalInput(t *testing.T) {
	setup(t)
	b := newBox(t, func(s *specs.Spec) { s.Process.Args = []string{"/bin/attack-tiocsti"} })
	atInstall(t, b.rootfs(), "tiocsti")
	control := sbTerminal(t, exec.Command("sh", "-c", b.rootfs("bin/attack-tiocsti")+" || true"))
	if !strings.Contains(control, "pushed") {
		t.Errorf("the program cannot type into the terminal of its own session: %q", control)
	}
	want := "0 operation not permitted"
	if out := sbTerminal(t, testenv.Command(t, "run", "--bundle", b.bundle, b.id)); !strings.Contains(out, want) || strings.Contains(out, "pushed") {
		t.Errorf("run: %q, want %q", out, want)
	}
	up := newBox(t, forever)
	atInstall(t, up.rootfs(), "tiocsti")
	up.up()
	if out := sbTerminal(t, testenv.Command(t, "exec", up.id, "/bin/attack-tiocsti")); !strings.Contains(out, want) || strings.Contains(out, "pushed") {
		t.Errorf("exec: %q, want %q", out, want)
	}
}
