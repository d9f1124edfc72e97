package integration

import (
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A process of exec takes one place of RLIMIT_NPROC, not that of the process which
// makes it as well, and has the limit that was asked for.
func TestRootExecProcessLimit(t *testing.T) {
	setup(t)
	const uid = 2_013_611 // of nobody else on this machine: all processes of a user count
	b := newBox(t, func(s *specs.Spec) {
		s.Process.Args = []string{"sleep", "1000"}
		s.Process.User = specs.User{UID: uid, GID: uid}
		s.Process.Capabilities = nil
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NPROC", Soft: 2, Hard: 2}}
	}).up()
	for range 5 {
		if out := strings.Fields(b.execOut("grep", "Max processes", "/proc/self/limits")); !slices.Equal(out[2:4], []string{"2", "2"}) {
			t.Errorf("limits %q, want 2 and 2", out)
		}
	}
	if r := b.exec("sh", "-c", "true & wait; echo forked"); !strings.Contains(r.Stderr, "can't fork") {
		t.Errorf("a third process of the user: %+v", r)
	}
}
