package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// Engines read the document with the specification's own types. It needs no
// root and no container.
func TestFeatures(t *testing.T) {
	testenv.Supervisor(t)
	out, err := exec.Command(testenv.Binary(t), "features").Output()
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(out))
	d.DisallowUnknownFields()
	var f features.Features
	if err := d.Decode(&f); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if f.OCIVersionMin == "" || f.OCIVersionMax == "" || f.Linux == nil || len(f.MountOptions) == 0 || f.Linux.Seccomp == nil || f.Linux.Cgroup == nil {
		t.Errorf("%s", out)
	}
	if !strings.HasPrefix(string(out), "{\n    \"ociVersionMin\"") {
		t.Errorf("not indented as runc does it: %.40q", out)
	}
	version, err := exec.Command(testenv.Binary(t), "version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if v := f.Annotations["io.github.minirun.version"]; v == "" || !strings.HasPrefix(string(version), "minirun version "+v+"\n") {
		t.Errorf("version %q, want that of %q", v, version)
	}
	if out, err := exec.Command(testenv.Binary(t), "features", "x").CombinedOutput(); err == nil {
		t.Errorf("an argument is accepted: %s", out)
	}
}

// facts are the values of a document, each with its path; an array is a set.
func facts(prefix string, v any, set map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			facts(prefix+"."+k, e, set)
		}
	case []any:
		for _, e := range v {
			facts(prefix+"[]", e, set)
		}
	default:
		set[fmt.Sprintf("%s = %v", strings.TrimPrefix(prefix, "."), v)] = true
	}
}

// What runc says of itself minirun says too, but for what is in the table.
func TestRootFeaturesLikeRunc(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.Supervisor(t)
	ask := func(program string) map[string]bool {
		t.Helper()
		out, err := exec.Command(program, "features").Output()
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(out, &v); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		set := map[string]bool{}
		facts("", v, set)
		return set
	}
	ours, theirs := ask(testenv.Binary(t)), ask("runc")
	different := []struct {
		fact, why string
		always    bool
	}{
		{"ociVersionMax", "minirun is built with a later one", true},
		{"linux.cgroup.v1 = true", "minirun has no cgroup v1", true},
		{"mountOptions[] = acl", "passed to the file system, as by crun", true},
		{"mountOptions[] = noacl", "passed to the file system, as by crun", true},
		{"linux.apparmor.enabled = true", "asked of the code", false},
		{"linux.selinux.enabled = true", "asked of the code", false},
		{"annotations.org.opencontainers.runc.version", "runc's own", true},
		{"annotations.org.opencontainers.runc.commit", "runc's own", true},
		{"annotations.io.github.seccomp.libseccomp.version", "minirun has its own compiler of filters", true},
	}
	used := make([]bool, len(different))
facts:
	for fact := range theirs {
		if ours[fact] {
			continue
		}
		for i, d := range different {
			if fact == d.fact || strings.HasPrefix(fact, d.fact+" = ") {
				used[i] = true
				continue facts
			}
		}
		t.Errorf("runc says, and minirun does not: %s", fact)
	}
	for i, d := range different {
		if d.always && !used[i] {
			t.Errorf("no difference any more: %s (%s)", d.fact, d.why)
		}
	}
	for _, want := range []string{"linux.cgroup.systemd = true", "linux.cgroup.systemdUser = true", "linux.cgroup.v2 = true", "linux.cgroup.v1 = false"} {
		if !ours[want] {
			t.Errorf("minirun does not say %s", want)
		}
	}
}
