package features

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/kfeature"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// constants are the values of constants of a type of the specification.
func constants(t *testing.T, typeName string) []string {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/opencontainers/runtime-spec").Output()
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(strings.TrimSpace(string(dir)), "specs-go", "config.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if id, ok := spec.Type.(*ast.Ident); ok && id.Name == typeName {
			for _, v := range spec.Values {
				s, err := strconv.Unquote(v.(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				values = append(values, s)
			}
		}
		return true
	})
	if len(values) < 3 {
		t.Fatalf("%s has the constants %q", typeName, values)
	}
	return values
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	got, want = slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n%q, want\n%q", what, got, want)
	}
}

// Everything that the specification has constants for is recognized.
func TestGet(t *testing.T) {
	f, err := Get("1.2.3", "abc")
	if err != nil {
		t.Fatal(err)
	}
	l := f.Linux
	same(t, "namespaces", l.Namespaces, constants(t, "LinuxNamespaceType"))
	same(t, "actions", l.Seccomp.Actions, constants(t, "LinuxSeccompAction"))
	same(t, "operators", l.Seccomp.Operators, constants(t, "LinuxSeccompOperator"))
	same(t, "flags", l.Seccomp.KnownFlags, append(constants(t, "LinuxSeccompFlag"), "SECCOMP_FILTER_FLAG_TSYNC"))
	for _, a := range constants(t, "Arch") {
		if !slices.Contains(l.Seccomp.Archs, a) {
			t.Errorf("architecture %s is not recognized", a)
		}
	}
	same(t, "modes", l.MemoryPolicy.Modes, constants(t, "MemoryPolicyModeType"))
	same(t, "memory flags", l.MemoryPolicy.Flags, constants(t, "MemoryPolicyFlagType"))
	if f.OCIVersionMin != "1.0.0" || f.OCIVersionMax != specs.Version {
		t.Errorf("versions %s to %s", f.OCIVersionMin, f.OCIVersionMax)
	}
	if !slices.Contains(f.MountOptions, "rro") || !slices.Contains(l.Capabilities, "CAP_CHECKPOINT_RESTORE") {
		t.Errorf("%q %q", f.MountOptions, l.Capabilities)
	}
	for _, known := range l.Seccomp.SupportedFlags {
		if !slices.Contains(l.Seccomp.KnownFlags, known) {
			t.Errorf("%s is supported and not known", known)
		}
	}
	if f.Annotations[AnnotationVersion] != "1.2.3" || f.Annotations[AnnotationCommit] != "abc" {
		t.Errorf("%q", f.Annotations)
	}

	var host map[string]*bool
	if err := json.Unmarshal([]byte(f.Annotations[AnnotationHost]), &host); err != nil {
		t.Fatal(err)
	}
	for _, k := range kfeature.All() {
		got, ok := host[k.Name]
		if !ok {
			t.Errorf("%s is not in the annotation", k.Name)
		}
		if got != nil && *got != (k.Supported() == nil) {
			t.Errorf("%s: %v, want %v", k.Name, *got, k.Supported())
		}
	}

	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if got := host["cgroup v2"]; got == nil || *got != strings.Contains(string(b), " - cgroup2 ") {
		t.Errorf("cgroup v2: %v", got)
	}
	for _, name := range []string{"systemd", "systemd of the user"} {
		if host[name] == nil {
			t.Errorf("%s is not in the annotation", name)
		}
	}
	runtimeDir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", runtimeDir)
	if *probed()["systemd of the user"] {
		t.Error("a systemd where there is none")
	}
	if err := os.MkdirAll(runtimeDir+"/systemd/private", 0o700); err != nil {
		t.Fatal(err)
	}
	if !*probed()["systemd of the user"] {
		t.Error("the user's systemd is not seen")
	}
}
