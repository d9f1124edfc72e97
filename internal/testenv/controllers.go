package testenv

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// KeepControllers disables at the end of the test the controllers that other
// programs it runs have enabled in the root of the cgroup v2 hierarchy: runtimes
// enable what they find and leave it on. One that somebody else uses by then
// stays.
func KeepControllers(t testing.TB) {
	t.Helper()
	before := make(map[string][]string)
	for _, root := range cgroupRoots() {
		before[root] = enabledControllers(root)
	}
	t.Cleanup(func() {
		for root, names := range before {
			for _, c := range enabledControllers(root) {
				if !slices.Contains(names, c) {
					_ = os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("-"+c), 0)
				}
			}
		}
	})
}

func enabledControllers(root string) []string {
	text, _ := os.ReadFile(filepath.Join(root, "cgroup.subtree_control"))
	return strings.Fields(string(text))
}
