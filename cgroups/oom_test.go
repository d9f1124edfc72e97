package cgroups

import (
	"os"
	"path/filepath"
	"testing"
)

// Whose limit it was: nearest first, and only one that says so of itself.
func TestOOMLimit(t *testing.T) {
	for _, tt := range []struct {
		name        string
		files       map[string]string // below the mount
		path, limit string
	}{
		{"no controller", nil, "/a/b", ""},
		{"own", map[string]string{"a/b/memory.events.local": "oom 1\n", "a/b/memory.events": "oom 1\n", "a/b/memory.max": "7\n", "a/memory.events.local": "oom 5\n"}, "/a/b", "7"},
		{"above", map[string]string{"a/b/memory.events.local": "oom 0\n", "a/b/memory.events": "oom 0\n", "a/b/memory.max": "max\n", "a/memory.events.local": "oom 5\n", "a/memory.max": "9\n"}, "/a", "9"},
		{"below", map[string]string{"a/b/memory.events.local": "oom 0\n", "a/b/memory.events": "oom 2\n", "a/b/memory.max": "7\n", "a/memory.events.local": "oom 5\n"}, "/a/b/...", ""},
		{"nobody's", map[string]string{"a/b/memory.events.local": "oom 0\n", "a/b/memory.events": "oom 0\n", "a/b/memory.max": "7\n", "a/memory.events.local": "oom 0\n"}, "/a/b", ""},
		{"no local counters", map[string]string{"a/b/memory.events": "oom 2\n", "a/b/memory.max": "7\n"}, "/a/b", "7"},
	} {
		g := Open(t.TempDir(), "/a/b")
		if err := os.MkdirAll(g.Dir(), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range tt.files {
			if err := os.WriteFile(filepath.Join(g.Mount, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if path, limit := g.OOMLimit(); path != tt.path || limit != tt.limit {
			t.Errorf("%s: %q, %q; want %q, %q", tt.name, path, limit, tt.path, tt.limit)
		}
	}
}
