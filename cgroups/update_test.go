package cgroups

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRestoring(t *testing.T) {
	const none = "nothing"
	for _, tt := range []struct{ file, value, text, want string }{
		{"memory.max", "100", "max\n", "max"},
		{"cpu.max", "50000 100000", "max 100000\n", "max 100000"},
		{"cpuset.cpus", "1", "\n", ""},
		{"io.max", "8:0 rbps=5", "8:0 rbps=7 wbps=max riops=max wiops=3\n8:16 rbps=1 wbps=max riops=max wiops=max\n", "8:0 rbps=7 wbps=max riops=max wiops=3"},
		{"io.max", "8:0 rbps=5 wiops=2", "8:16 rbps=1 wbps=max riops=max wiops=max\n", "8:0 rbps=max wiops=max"},
		{"io.max", "8:1 rbps=5", "8:16 rbps=1 wbps=max riops=max wiops=max\n", "8:1 rbps=max"},
		{"io.max", "8:0 rbps=5", "", "8:0 rbps=max"},
		{"io.weight", "50", "default 100\n8:0 200\n", "default 100"},
		{"io.weight", "8:0 50", "default 100\n8:0 200\n", "8:0 200"},
		{"io.weight", "8:0 50", "default 100\n", "8:0 default"},
		{"io.bfq.weight", "50", "default 100\n", "default 100"},
		{"io.weight", "50", "", none},
		{"io.latency", "8:0 target=5", "", "8:0 target=0"},
		{"misc.max", "sev 5", "sev max\nsev_es 3\n", "sev max"},
		{"rdma.max", "m hca_handle=2", "m hca_handle=max hca_object=2000\n", "m hca_handle=max hca_object=2000"},
		{"rdma.max", "n hca_handle=2", "m hca_handle=max hca_object=2000\n", none},
		{"unknown.file", "1", "a 1\nb 2\n", none},
	} {
		got, ok := restoring(tt.file, tt.value, tt.text)
		if !ok {
			got = none
		}
		if got != tt.want {
			t.Errorf("%s = %s over %q: %q, want %q", tt.file, tt.value, tt.text, got, tt.want)
		}
	}
}

// fakeGroup is a directory that looks like a group. Its files take anything.
func fakeGroup(t *testing.T, files map[string]string) *Group {
	t.Helper()
	g := Open(t.TempDir(), "/g")
	if err := os.Mkdir(g.Dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(g.Dir(), name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

// When the last of several settings fails, all others are as before.
func TestUpdate_AllOrNothing(t *testing.T) {
	files := map[string]string{
		"cgroup.controllers": "cpu memory pids\n", "memory.max": "1111\n", "cpu.max": "max 100000\n", "cpu.idle": "0\n", "cpu.weight": "77\n",
	}
	g := fakeGroup(t, files)
	l := &Limits{Settings: []Setting{
		{File: "memory.max", Value: "2222", Field: "a"},
		{File: "cpu.max", Value: "100 100000", Field: "b"},
		{File: "cpu.idle", Value: "1", Field: "c"},
		{File: "memory.nosuch", Value: "max", Field: "d", Optional: true},
		{File: "pids.max", Value: "5", Field: "e"},
	}}
	err := g.Update(l)
	if err == nil || !strings.Contains(err.Error(), `write pids.max "5": no such file or directory`) {
		t.Fatalf("update: %v", err)
	}
	for name, want := range files {
		b, err := os.ReadFile(filepath.Join(g.Dir(), name))
		// The kernel's files do not keep the tail of a longer value, these do.
		if err != nil || !strings.HasPrefix(string(b), strings.TrimSpace(want)) {
			t.Errorf("%s is %q, was %q: %v", name, b, want, err)
		}
	}
	l.Settings = l.Settings[:4]
	if err := g.Update(l); err != nil {
		t.Error(err)
	}
	if got := read(t, g, "memory.max"); got != "2222" {
		t.Errorf("memory.max is %q after an update that succeeds", got)
	}
}

// What cannot be set back is told.
func TestUpdate_RestoreFails(t *testing.T) {
	g := fakeGroup(t, map[string]string{"cgroup.controllers": "pids memory\n"})
	dir, err := os.Open(g.Dir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	a := application{g: g, l: new(Limits), dir: int(dir.Fd()), old: []Setting{{File: "memory.max", Value: "5", Field: "a"}}}
	if err := a.restore(); err == nil || err.Error() != `cgroup "/g": setting back: cgroup "/g": write memory.max "5": no such file or directory` {
		t.Errorf("restore: %v", err)
	}
}

func TestHugepageSize(t *testing.T) {
	for name, want := range map[string]string{"hugepages-2048kB": "2MB", "hugepages-1048576kB": "1GB", "hugepages-64kB": "64KB", "hugepages-32768kB": "32MB"} {
		if got := hugepageSize(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
