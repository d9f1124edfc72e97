package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// hostCounts are numbers that must be the same before and after many containers.
func hostCounts(t *testing.T) map[string]int {
	t.Helper()
	m := map[string]int{}
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if strings.Contains(line, os.TempDir()+"/") {
			m["mounts"]++
		}
	}
	for _, root := range cgroupMounts() {
		_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() && strings.Contains(path, "Thousand") {
				m["cgroups"]++
			}
			return nil
		})
	}
	entries, _ := os.ReadDir(testenv.StateRoot(t))
	m["state directories"] = len(entries)
	fds, _ := os.ReadDir("/proc/self/fd")
	m["descriptors"] = len(fds)
	return m
}

// A thousand containers leave nothing: the kinds of life are mixed, and the
// bundle is the same all the time.
func TestRootThousandContainers(t *testing.T) {
	setup(t)
	plain, failing, user := newBox(t), newBox(t, func(s *specs.Spec) { s.Process.Args = []string{"nosuch"} }), newBox(t, withUser)
	before := hostCounts(t)
	start := time.Now()
	must := func(code int, args ...string) {
		t.Helper()
		if r := testenv.Run(t, args...); r.Code != code {
			t.Fatalf("%v: %+v, want exit status %d", args, r, code)
		}
	}
	const n = 1000
	for i := range n {
		switch b := plain; i % 5 {
		case 0:
			must(0, "create", "--bundle", b.bundle, b.id)
			must(0, "start", b.id)
			must(0, "delete", "--force", b.id)
		case 1:
			must(0, "run", "--bundle", b.bundle, b.id)
		case 2:
			must(0, "create", "--bundle", b.bundle, b.id)
			must(0, "delete", b.id)
		case 3:
			must(127, "create", "--bundle", failing.bundle, failing.id)
		case 4:
			must(0, "create", "--bundle", user.bundle, user.id)
			must(0, "delete", "-f", user.id)
		}
		if i%50 == 0 {
			for pid := 1; pid > 0; {
				pid, _ = unix.Wait4(-1, nil, unix.WNOHANG, nil)
			}
		}
	}
	t.Logf("%d containers in %v", n, time.Since(start).Round(time.Millisecond))
	reapAll()
	after := hostCounts(t)
	for what, have := range before {
		if after[what] != have {
			t.Errorf("%s: %d after, %d before", what, after[what], have)
		}
	}
	for _, b := range []*ociBox{plain, failing, user} {
		b.gone()
	}
}
