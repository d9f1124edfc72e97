package kfeature

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestCgroupHasKill(t *testing.T) {
	dir := t.TempDir()
	if known, _ := cgroupHasKill(dir); known {
		t.Error("a directory without cgroup.events was taken for a cgroup")
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.events"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if known, err := cgroupHasKill(dir); !known || !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("cgroup without the file: %v, %v", known, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if known, err := cgroupHasKill(dir); !known || err != nil {
		t.Errorf("cgroup with the file: %v, %v", known, err)
	}
}

// TestRootCgroupKill: with a cgroup to look at there is an answer.
func TestRootCgroupKill(t *testing.T) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	point := ""
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, " - cgroup2 ") {
			point = strings.Fields(line)[4]
		}
	}
	if point == "" {
		t.Fatal("cgroup v2 is not mounted")
	}
	group := filepath.Join(point, "minirun-kfeature-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.Remove(group); err != nil {
			t.Error(err)
		}
	}()
	if err := probeCgroupKill(); err != nil {
		t.Errorf("got %v, want an answer", err)
	}
}
