package integration

import (
	"bytes"
	"encoding/json"
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
