package archtest

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// corpusFiles have the rows of the corpus of hostile images, as literals that
// begin with the number, and run each for both unpackers.
var corpusFiles = map[string]string{
	"overlay/apply/malicious_test.go": "range allKinds",
	"overlay/apply/root_test.go":      "eachKind(",
	"integration/corpus_test.go":      `[]string{"extract", "index"}`,
	"integration/corpus_run_test.go":  "",
}

// TestCorpusRows: each of the 60 rows of the corpus has a test, and the table in
// docs/security.md says which.
func TestCorpusRows(t *testing.T) {
	row := regexp.MustCompile(`"([0-9][0-9]) [a-z]`)
	have := map[string][]string{}
	for file, both := range corpusFiles {
		text := read(t, file)
		if !strings.Contains(text, both) {
			t.Errorf("%s: no %s: are rows tested for both unpackers?", file, both)
		}
		for line := range strings.SplitSeq(text, "\n") {
			for _, m := range row.FindAllStringSubmatch(line, -1) {
				name := "TestRootCorpus"
				switch {
				case file == "overlay/apply/malicious_test.go":
					name = "TestMalicious"
				case strings.Contains(line, `name: "`+m[1]):
					name = "TestRootMalicious"
				}
				if !slices.Contains(have[m[1]], name) {
					have[m[1]] = append(have[m[1]], name)
				}
			}
		}
	}
	table := sections(read(t, "docs/security.md"))["Hostile images"]
	lines := regexp.MustCompile(`(?m)^\| ([0-9]+) \|.*\| ([^|]*) \|$`).FindAllStringSubmatch(table, -1)
	if len(lines) != 60 {
		t.Errorf("docs/security.md: %d rows in the table, want 60", len(lines))
	}
	for i, m := range lines {
		if m[1] != fmt.Sprint(i+1) {
			t.Errorf("docs/security.md: row %s in place of %d", m[1], i+1)
			continue
		}
		number := fmt.Sprintf("%02d", i+1)
		if len(have[number]) == 0 {
			t.Errorf("row %d of the corpus has no test", i+1)
		}
		for _, name := range have[number] {
			if !strings.Contains(m[2], "`"+name+"`") {
				t.Errorf("docs/security.md, row %d: %s is missing", i+1, name)
			}
		}
		for _, name := range strings.Split(m[2], ", ") {
			if !slices.Contains(have[number], strings.Trim(name, "`")) {
				t.Errorf("docs/security.md, row %d: %s has no such row", i+1, name)
			}
		}
	}
}
