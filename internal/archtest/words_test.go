package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestNoWorkplaceWords keeps out of the project what only makes sense where
// somebody worked on it: paths of the checkout and what lies beside it, names
// of papers that are not part of it, hosts of package registries.
func TestNoWorkplaceWords(t *testing.T) {
	words := []string{
		// Papers and habits of a workplace. Put together, so that this file is clean.
		"design" + ".md", "style" + ".md", "prototype" + "-init", "init-" + "prototype", "PREAMBLE" + ".md",
		"work" + "place", "co-author" + "ed-by:", "as an AI " + "language",
		// Where the go command and others fetch from is a matter of their configuration.
		"proxy.golang" + ".org", "sum.golang" + ".org", "deb.debian" + ".org", "registry.npmjs" + ".org", "pypi" + ".org",
		"crates" + ".io", "rubygems" + ".org",
	}
	var alternatives []string
	for _, w := range words {
		alternatives = append(alternatives, `(?i:`+regexp.QuoteMeta(w)+`)`)
	}
	for _, p := range ownPaths(t) {
		alternatives = append(alternatives, `(?:^|[^[:alnum:]_.}/*-])`+regexp.QuoteMeta(p)+`(?:$|[^[:alnum:]_-])`)
	}
	bad := regexp.MustCompile(strings.Join(alternatives, "|"))
	for _, name := range files(t) {
		if name == "internal/archtest/words_test.go" {
			continue // it has to name some of them
		}
		for i, line := range strings.Split(read(t, name), "\n") {
			if m := bad.FindString(line); m != "" {
				t.Errorf("%s:%d: %q has no meaning outside of a workplace", name, i+1, strings.TrimSpace(m))
			}
		}
	}
}

// ownPaths are the checkout's path and those of what lies beside it. The parent
// alone would be too short: it may be /src or /work.
func ownPaths(t *testing.T) []string {
	t.Helper()
	dir := repo(t)
	paths := []string{dir}
	parent := filepath.Dir(dir)
	switch parent {
	case "/", os.TempDir(), "/home", "/root", "/usr/src", "/usr/local/src":
		return paths // what is there is not ours
	}
	entries, err := os.ReadDir(parent)
	if err != nil {
		return paths
	}
	for _, e := range entries {
		paths = append(paths, filepath.Join(parent, e.Name()))
	}
	return paths
}
