package integration

import (
	"crypto/sha256"
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
		case strings.Contains(line, "FOREIGN"):
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

func atHash(t *testing.T, path string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}
