package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
)

// A container from an image whose record is damaged is removed whole by
// delete --force: its processes, its cgroup, its record and its snapshot.
func TestRootDeleteDamagedImageContainer(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	store, id := t.TempDir(), testenv.UniqueID(t)
	run := func(args ...string) testenv.Result {
		t.Helper()
		return testenv.Run(t, append([]string{"--store", store}, args...)...)
	}
	if r := run("run", "--image", "minirun/demo", "--detach", id, "sleep", "1000"); r.Code != 0 {
		t.Fatal(r.Stderr)
	}
	snapshots := filepath.Join(store, "overlay", "snapshots")
	if n := len(entries(t, snapshots)); n != 1 {
		t.Fatalf("%d snapshots, want 1", n)
	}
	state := filepath.Join(testenv.StateRoot(t), id, "state.json")
	if err := os.WriteFile(state, []byte(`{"version":1,"id":"`), 0o600); err != nil {
		t.Fatal(err)
	}
	r := run("delete", id)
	if r.Code != 1 || !strings.Contains(r.Stderr, "state.json") || !strings.Contains(r.Stderr, "delete --force") {
		t.Errorf("delete of a damaged one: status %d, %s", r.Code, r.Stderr)
	}
	if r := run("delete", "--force", id); r.Code != 0 {
		t.Errorf("delete --force: status %d, %s", r.Code, r.Stderr)
	}
	if left := append(entries(t, snapshots), entries(t, testenv.StateRoot(t))...); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if r := run("run", "--image", "minirun/demo", "--rm", id, "true"); r.Code != 0 {
		t.Errorf("the ID cannot be used again: %s", r.Stderr)
	}
}

// --debug tells every step.
func TestRootDebug(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	bundle := testenv.Bundle(t, nil)
	log := filepath.Join(t.TempDir(), "log")
	if r := testenv.Run(t, "--debug", "--log", log, "--log-format", "json", "run", "--bundle", bundle, testenv.UniqueID(t)); r.Code != 0 || r.Stderr != "" {
		t.Errorf("status %d, %s", r.Code, r.Stderr)
	}
	b, _ := os.ReadFile(log)
	for _, want := range []string{`"level":"debug"`, "mounts: mount proc on /proc", "root change: pivot_root"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the log has no %q:\n%s", want, b)
		}
	}
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}
