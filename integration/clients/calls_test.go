package clients

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// What differs from call to call, and what it is called in docs/clients.md.
var callParts = [...][2]string{
	{`\b[0-9a-f]{64}\b`, "ID"},
	{`/[^ ]*/(exec-process-|runc-process)\d+`, "FILE"},
	{`/[^ ]*/(oci-log|log\.json)\b`, "LOG"},
	{`--pid-file /[^ ]*`, "--pid-file PIDFILE"},
	{`--console-socket /[^ ]*`, "--console-socket SOCKET"},
	{`--bundle /[^ ]*`, "--bundle BUNDLE"},
	{`--root /run/[^ ]*`, "--root ROOT"},
	{`--resources=/[^ ]*`, "--resources=FILE"},
	{`buildah-buildah\d+`, "ID"},
}

// calls are the forms in which the engine has called the runtime, each once.
func (c *client) calls(names ...string) []string {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(c.dir, "argv"))
	if err != nil {
		c.t.Fatal(err)
	}
	text := string(b)
	for _, p := range callParts {
		text = regexp.MustCompile(p[0]).ReplaceAllString(text, p[1])
	}
	var list []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		for i, w := range words {
			if slices.Contains(names, w) {
				words[i] = "ID"
			}
		}
		if line := strings.Join(words, " "); !slices.Contains(list, line) {
			list = append(list, line)
		}
	}
	slices.Sort(list)
	return list
}

// checkCalls compares the calls with those that docs/clients.md lists for the
// engine, in the block below a comment with its name. A line that ends in
// "# sometimes" need not be there. names are containers with names of their own.
func (c *client) checkCalls(engine string, names ...string) {
	c.t.Helper()
	page, err := os.ReadFile("../../docs/clients.md")
	if err != nil {
		c.t.Fatal(err)
	}
	_, block, found := strings.Cut(string(page), "<!-- calls of "+engine+" -->\n```\n")
	block, _, _ = strings.Cut(block, "```")
	if !found {
		c.t.Errorf("docs/clients.md has no calls of %s", engine)
	}
	have := c.calls(names...)
	var listed []string
	for line := range strings.Lines(block) {
		line, sometimes := strings.CutSuffix(strings.TrimSpace(line), "# sometimes")
		line = strings.TrimSpace(line)
		if listed = append(listed, line); !sometimes && !slices.Contains(have, line) {
			c.t.Errorf("%s has not called the runtime as docs/clients.md says: %s", engine, line)
		}
	}
	for _, line := range have {
		if !slices.Contains(listed, line) {
			c.t.Errorf("%s has called the runtime in a way that is not in docs/clients.md: %s", engine, line)
		}
	}
}
