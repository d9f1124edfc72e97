package runtime

import (
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/initprog"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// What is written for a label, and what is said when the kernel does not take it.
func TestLabels(t *testing.T) {
	b := initprog.NewBuilder(3)
	steps := labels(&specs.Process{SelinuxLabel: "u:r:t:s0", ApparmorProfile: "docker-default"})
	for _, s := range steps {
		b.Phase(s.Phase())
		s.Emit(b)
	}
	image, err := b.Link()
	if err != nil {
		t.Fatal(err)
	}
	text := image.Listing()
	at := 0
	for _, want := range []string{
		"process.selinuxLabel: u:r:t:s0", `openat(AT_FDCWD, "/proc/self/attr/exec", O_WRONLY|O_CLOEXEC, 0)`, `"u:r:t:s0", 8)`,
		`openat(AT_FDCWD, "/proc/self/attr/keycreate", `, `"u:r:t:s0", 8)`,
		"process.apparmorProfile: docker-default", `openat(AT_FDCWD, "/proc/self/attr/apparmor/exec", `, `"exec docker-default", 19)`,
	} {
		i := strings.Index(text[at:], want)
		if i < 0 {
			t.Fatalf("%q is not in its place:\n%s", want, text)
		}
		at += i
	}
	if s := labels(&specs.Process{}); len(s) != 0 {
		t.Errorf("without labels: %d steps", len(s))
	}
	err = stepFailure(&initprog.StepError{Phase: phaseSelinux, Object: "u:r:t:s0", Syscall: "write", Err: unix.EINVAL})
	if want := "process.selinuxLabel: \"u:r:t:s0\": write `/proc/self/attr/exec`: invalid argument"; err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
