package imagestore_test

import (
	"os/exec"
	"strings"
	"testing"
)

// minirund executes many short commands too: what a package does when the
// program starts is part of each.
func TestImports_Lean(t *testing.T) {
	banned := map[string]string{
		"regexp":                                           "compiles expressions at init",
		"github.com/distribution/reference":                "1.4 ms at init",
		"github.com/opencontainers/go-digest":              "0.3 ms at init",
		"github.com/opencontainers/image-spec/specs-go/v1": "imports go-digest",
		"github.com/klauspost/compress/zstd":               "0.2 ms at init; unpacking is for minirund",
		"archive/tar":                                      "unpacking is for minirund",
		"net":                                              "not needed",
		"github.com/minirun/minirun/overlay":               "the two stores do not know each other",
	}
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, dep := range strings.Fields(string(out)) {
		if why, ok := banned[dep]; ok {
			t.Errorf("imports %s: %s", dep, why)
		}
	}
	if !strings.Contains(string(out), "github.com/minirun/minirun/internal/linux\n") {
		t.Error("the list of imports is not one")
	}
}
