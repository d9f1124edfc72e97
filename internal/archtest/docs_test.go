package archtest

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
)

// documents are the pages that the tests here hold to what there is.
var documents = []string{
	"README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/cli.md", "docs/security.md", "docs/state-format.md", "docs/images.md", "docs/registry.md", "docs/trust.md",
	"docs/spec-conformance.md", "docs/cgroups.md", "docs/seccomp.md", "docs/checkpoint.md", "docs/init.md", "docs/mounts.md", "docs/differences.md", "docs/sandbox.md", "docs/orchestrate.md", "docs/testing.md", "benchmarks/README.md",
}

// help runs minirun with --help behind the words.
func help(t *testing.T, words ...string) string {
	t.Helper()
	testenv.Supervisor(t) // beside minirun
	out, err := exec.Command(testenv.Binary(t), append(words, "--help")...).CombinedOutput()
	if err != nil {
		t.Fatalf("minirun %q --help: %v\n%s", words, err, out)
	}
	return string(out)
}

var (
	commandLine = regexp.MustCompile(`(?m)^ {2,3}([a-z]+)(?:, ([a-z]+))? {2,}\S`)
	flagName    = regexp.MustCompile(`--([a-z][a-z0-9-]*[a-z0-9])`)
)

// commandsIn lists the names in the block of help that heading begins.
func commandsIn(t *testing.T, text, heading string) []string {
	t.Helper()
	_, block, ok := strings.Cut(text, heading+"\n")
	if !ok {
		t.Fatalf("no %q in %q", heading, text)
	}
	block, _, _ = strings.Cut(block, "\n\n")
	var names []string
	for _, m := range commandLine.FindAllStringSubmatch(block+"\n", -1) {
		for _, n := range m[1:] {
			if n != "" {
				names = append(names, n)
			}
		}
	}
	if len(names) < 3 {
		t.Fatalf("commands %q in %q", names, block)
	}
	return names
}

// flagsIn lists the flags that a help text describes.
func flagsIn(text string) []string {
	var names []string
	for line := range strings.SplitSeq(text, "\n") {
		if !strings.HasPrefix(strings.TrimLeft(line, " "), "-") && !strings.HasPrefix(line, "usage: ") {
			continue
		}
		if m := flagName.FindStringSubmatch(line); m != nil && m[1] != "help" {
			names = append(names, m[1])
		}
	}
	return names
}

// sections cuts a page at its headings of the second level.
func sections(text string) map[string]string {
	m := map[string]string{}
	for _, part := range strings.Split("\n"+text, "\n## ")[1:] {
		title, body, _ := strings.Cut(part, "\n")
		m[title] = body
	}
	return m
}

// TestDocsMention holds docs/cli.md and the README against what the programs
// say of themselves: every command and flag is described, and none that is not.
func TestDocsMention(t *testing.T) {
	page := sections(read(t, "docs/cli.md"))
	readme := read(t, "README.md")
	top := help(t)
	names := commandsIn(t, top, "commands:")

	// heading -> flags that help texts have under it
	known := map[string][]string{}
	describe := func(name, text string) {
		t.Helper()
		var heading string
		for h := range page {
			if strings.Contains(h, "`"+name+"`") {
				heading = h
			}
		}
		if heading == "" {
			t.Errorf("docs/cli.md has no section for %s", name)
			return
		}
		for _, f := range flagsIn(text) {
			known[heading] = append(known[heading], f)
			if !regexp.MustCompile("(?m)^\\| .*`--" + f + "[` =]").MatchString(page[heading]) {
				t.Errorf("docs/cli.md, %q: no row for --%s of minirun %s", heading, f, name)
			}
		}
	}
	for _, name := range names {
		row := regexp.MustCompile("(?m)^\\| .*`" + name + "`")
		if !row.MatchString(page["Commands"]) {
			t.Errorf("docs/cli.md: %s is not in the table of commands", name)
		}
		if !row.MatchString(readme) {
			t.Errorf("README.md: %s is not in the table of commands", name)
		}
		text := help(t, name)
		describe(name, text)
		if !strings.Contains(text, "COMMANDS:") {
			continue
		}
		for _, sub := range commandsIn(t, text, "COMMANDS:") {
			if !strings.Contains(page["`"+name+"`"]+page["`image`, `images`"], "`"+name+" "+sub) {
				t.Errorf("docs/cli.md: %s %s is missing", name, sub)
			}
			describe(name, help(t, name, sub))
		}
	}
	_, global, _ := strings.Cut(top, "global flags:\n")
	for _, f := range flagsIn(global) {
		known["Global flags"] = append(known["Global flags"], f)
		if !strings.Contains(page["Global flags"], "--"+f) {
			t.Errorf("docs/cli.md: global flag --%s is missing", f)
		}
	}

	// And the other way round.
	row := regexp.MustCompile("(?m)^\\| [^|]*`--([a-z0-9-]+)")
	for heading, flags := range known {
		for _, m := range row.FindAllStringSubmatch(page[heading], -1) {
			if !slices.Contains(flags, m[1]) {
				t.Errorf("docs/cli.md, %q: --%s does not exist", heading, m[1])
			}
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z]+)` \\|").FindAllStringSubmatch(page["Commands"], -1) {
		if !slices.Contains(names, m[1]) {
			t.Errorf("docs/cli.md: command %s does not exist", m[1])
		}
	}
}

var (
	testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Z][A-Za-z0-9_]*)`")
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z]\w*)\(`)
	fileName = regexp.MustCompile("`([a-z][a-z0-9_/.-]*/[A-Za-z0-9_.-]+\\.(?:go|s|sh|md|json))`")
	link     = regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)]*)?\)`)
)

// TestDocsClaims checks that the tests, files and pages that the documents name
// exist: a defence without its test must not look like one with.
func TestDocsClaims(t *testing.T) {
	tests := map[string]bool{}
	for _, f := range files(t) {
		if strings.HasSuffix(f, "_test.go") {
			for _, m := range testFunc.FindAllStringSubmatch(read(t, f), -1) {
				tests[m[1]] = true
			}
		}
	}
	for _, name := range documents {
		text := read(t, name)
		for _, m := range testName.FindAllStringSubmatch(text, -1) {
			if !tests[m[1]] {
				t.Errorf("%s: there is no test %s", name, m[1])
			}
		}
		for _, m := range fileName.FindAllStringSubmatch(text, -1) {
			if !exists(t, m[1]) {
				t.Errorf("%s: there is no file %s", name, m[1])
			}
		}
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if target := path.Join(path.Dir(name), m[1]); !exists(t, target) {
				t.Errorf("%s: the link to %s leads nowhere", name, m[1])
			}
		}
	}
}

func exists(t *testing.T, name string) bool {
	t.Helper()
	_, err := os.Stat(filepath.Join(repo(t), name))
	return err == nil
}

// TestDependencies: each module that go.mod names as direct has its sentence, and
// so has each that we import and that go.mod does not know to be direct.
func TestDependencies(t *testing.T) {
	text := read(t, "docs/architecture.md")
	for _, f := range foreign {
		name := strings.TrimSuffix(f.path, "/")
		if !strings.Contains(text, fmt.Sprintf("`%s`", name)) {
			t.Errorf("docs/architecture.md: no sentence about %s", name)
		}
	}
	for line := range strings.SplitSeq(read(t, "go.mod"), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 || !strings.Contains(f[0], "/") || !strings.Contains(f[0], ".") || strings.Contains(line, "// indirect") {
			continue
		}
		if !strings.Contains(text, "`"+f[0]+"`") {
			t.Errorf("docs/architecture.md: no sentence about %s", f[0])
		}
	}
}
