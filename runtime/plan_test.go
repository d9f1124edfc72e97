package runtime

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/minirun/minirun/runtime/bundle"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// testBundle is the default bundle over a root file system that is not quite
// empty; no root is needed to plan it.
func testBundle(t *testing.T, mutate func(*specs.Spec)) *bundle.Bundle {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"rootfs/etc", "rootfs/proc"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := bundle.Default()
	s.Process.Terminal = false
	if mutate != nil {
		mutate(s)
	}
	raw, err := bundle.AppendJSON(nil, s)
	if err != nil {
		t.Fatal(err)
	}
	return &bundle.Bundle{Dir: dir, Raw: raw, Spec: s}
}

// The order of phases is part of the security: access is taken away before the
// root changes, privileges before the program is looked for, the filter last.
func TestPlanOrder(t *testing.T) {
	p, err := NewPlan("web", testBundle(t, nil), PlanOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var phases []string
	for _, s := range p.Steps {
		if n := len(phases); n == 0 || phases[n-1] != s.Phase() {
			phases = append(phases, s.Phase())
		}
		if s.String() == "" {
			t.Errorf("%T has no text", s)
		}
	}
	order := []string{"start-up", "session", "rootfs", "mounts", "devices", "masked paths", "root change", "rlimits", "working directory", "identity", "exec", "seccomp", "exec"}
	i := 0
	for _, ph := range phases {
		if i < len(order) && ph == order[i] {
			i++
		}
	}
	if i != len(order) {
		t.Errorf("phases %q do not have %q in this order (stopped at %q)", phases, order, order[i])
	}
	m, err := p.Image()
	if err != nil {
		t.Fatal(err)
	}
	if m.Ops() < 100 || m.Size() > 64<<10 {
		t.Errorf("%d operations in %d bytes", m.Ops(), m.Size())
	}
}

// The same configuration gives the same program: nothing depends on the order
// of a map or on time.
func TestPlanDeterministic(t *testing.T) {
	b := testBundle(t, func(s *specs.Spec) {
		s.Annotations = map[string]string{"a": "1", "b": "2", "c": "3"}
	})
	listing := ""
	for range 5 {
		p, err := NewPlan("web", b, PlanOptions{})
		if err != nil {
			t.Fatal(err)
		}
		m, err := p.Image()
		if err != nil {
			t.Fatal(err)
		}
		if l := m.Listing(); listing == "" {
			listing = l
		} else if l != listing {
			t.Fatal("two plans of one bundle differ")
		}
	}
}

func TestPlanErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		mutate func(*specs.Spec)
		want   string
	}{
		{"no process", func(s *specs.Spec) { s.Process = nil }, "config without process"},
		{"no mount namespace", func(s *specs.Spec) {
			s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.MountNamespace })
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
		}, "mount namespace is needed"},
		{"missing rootfs", func(s *specs.Spec) { s.Root.Path = "nothing" }, "does not exist"},
		{"position", func(s *specs.Spec) { s.Process.Cwd = "x" }, "config.json:"},
		{"notify", func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActNotify}}}
		}, "SCMP_ACT_NOTIFY"},
	} {
		_, err := NewPlan("web", testBundle(t, tt.mutate), PlanOptions{})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if _, err := NewPlan("a/b", testBundle(t, nil), PlanOptions{}); err == nil {
		t.Error("a bad ID is accepted")
	}
}
