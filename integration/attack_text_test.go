package integration

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/internal/testenv"
)

// Names that an image chooses are in error texts, and those go to the terminal of
// root: they must not control it, nor add lines to the log.
func TestRootAttackTerminalText(t *testing.T) {
	setup(t)
	const evil = "/bin/\x1b]0;owned\a\x1b[2J\u009b1m\u202e\r\nlevel=info msg=fine"
	b := newBox(t, func(s *specs.Spec) { s.Process.Args = []string{evil} })
	log := b.bundle + "/log"
	r := testenv.Run(t, "--log", log, "run", "--bundle", b.bundle, b.id)
	if r.Code == 0 || !strings.Contains(r.Stderr, "owned") {
		t.Fatalf("run: %+v", r)
	}
	for _, text := range []string{r.Stderr, readFile(t, log)} {
		if strings.ContainsAny(text, "\x1b\a\r\u009b\u202e") {
			t.Errorf("control characters get through: %q", text)
		}
	}
	if n := strings.Count(readFile(t, log), "\n"); n != strings.Count(readFile(t, log), "time=") || strings.Contains(readFile(t, log), "\nlevel=info") {
		t.Errorf("the log has lines of the image's: %q", readFile(t, log))
	}
}
