package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A container waits for start in the pid namespace of another one, which has the
// same user and capabilities, without CAP_SYS_PTRACE. The other one must not get
// at what its init has open, or at its memory: the init is not dumpable.
func TestRootAttackWaitingInit(t *testing.T) {
	setup(t)
	spy := newBox(t, func(s *specs.Spec) { s.Process.Args = []string{"sleep", "1000"} }).up()
	b := newBox(t, func(s *specs.Spec) {
		s.Process.Args = []string{"sleep", "1000"}
		i := slices.IndexFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
		s.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/pid", spy.pid())
	})
	b.create()
	const look = `for p in /proc/[0-9]*; do
	[ "$(cat $p/comm)" = "$0" ] || continue
	echo found
	for l in exe root fd/0; do readlink $p/$l; done
	cat $p/environ $p/maps 2>/dev/null
done; true`
	if got := spy.execOut("sh", "-c", look, "minirun:init"); got != "found\n" {
		t.Errorf("of the waiting init the other container sees %q", got)
	}
	b.must("start")
	// The control: the same of the user's process is open to it.
	if got := spy.execOut("sh", "-c", look, "sleep"); strings.Count(got, "found\n") != 2 || strings.Count(got, "busybox\n") < 2 {
		t.Errorf("of the running processes it sees %q", got)
	}
}
