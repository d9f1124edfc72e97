package bundle

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

var updateGolden = flag.Bool("update", false, "rewrite the golden files")

func TestDefault_Golden(t *testing.T) {
	got, err := AppendJSON(nil, Default())
	if err != nil {
		t.Fatal(err)
	}
	const name = "testdata/default.golden"
	if *updateGolden {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestDefault_Valid(t *testing.T) {
	for name, s := range map[string]*specs.Spec{"default": Default(), "rootless": DefaultRootless()} {
		if err := Validate(s); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if w := Warnings(s); w != nil {
			t.Errorf("%s: %q", name, w)
		}
	}
}

func TestDefault_NotShared(t *testing.T) {
	a := Default()
	a.Process.Capabilities.Bounding[0] = "x"
	a.Mounts[1].Options[0] = "x"
	if b := Default(); b.Process.Capabilities.Effective[0] == "x" || a.Process.Capabilities.Effective[0] == "x" || b.Mounts[1].Options[0] == "x" {
		t.Error("two defaults, or two sets of one, share memory")
	}
}

func TestDefaultRootless(t *testing.T) {
	s := DefaultRootless()
	var types []string
	for _, ns := range s.Linux.Namespaces {
		types = append(types, string(ns.Type))
	}
	if slices.Contains(types, "network") || !slices.Contains(types, "user") {
		t.Errorf("namespaces %q", types)
	}
	if m := s.Linux.UIDMappings; len(m) != 1 || m[0].HostID != uint32(os.Geteuid()) || m[0].Size != 1 {
		t.Errorf("uidMappings %v", m)
	}
	for _, m := range s.Mounts {
		for _, option := range m.Options {
			if strings.HasPrefix(option, "gid=") {
				t.Errorf("mount %s: option %s needs a second group id", m.Destination, option)
			}
		}
	}
	if s.Linux.Resources != nil {
		t.Error("has resources")
	}
}

func TestAppendJSON_ForeignBlocks(t *testing.T) {
	for _, s := range []*specs.Spec{{Solaris: &specs.Solaris{}}, {Windows: &specs.Windows{}}, {VM: &specs.VM{}}, {ZOS: &specs.ZOS{}}, {FreeBSD: &specs.FreeBSD{}}} {
		if got, err := AppendJSON([]byte("x"), s); err == nil || string(got) != "x" {
			t.Errorf("got %q, %v: the block would be lost", got, err)
		}
	}
}
