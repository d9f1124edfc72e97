package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/internal/testenv"
)

// Who dies for lack of memory is told so, whoever it is and whosever limit it was.
func TestVMLimitsOOM(t *testing.T) {
	setup(t)
	// A process of exec that does not get as far as its program: the init cannot
	// be chosen, and there is no memory left.
	b := limBox(t, forever, limMemory(64*limMiB), func(s *specs.Spec) {
		never := -1000
		s.Process.OOMScoreAdj = &never
	}).up()
	process := filepath.Join(t.TempDir(), "process.json")
	writeFile(t, process, `{"cwd":"/","args":["true"],"env":["PATH=/bin"],"user":{"uid":0,"gid":0}}`)
	b.must("update", "--memory", "4096")
	for _, flags := range [][]string{{"-p", process}, {"-d", "-p", process}} {
		r := testenv.Run(t, append(append([]string{"exec"}, flags...), b.id)...)
		if r.Code != 255 || !strings.Contains(r.Stderr, "the memory limit of 4096 bytes was reached") {
			t.Errorf("exec %v: %+v", flags, r)
		}
	}
	b.must("update", "--memory", "64m")
	if r := b.exec("true"); r.Code != 0 || r.Stderr != "" {
		t.Errorf("exec after memory has come back: %+v", r)
	}
	if r := b.exec("sh", "-c", "kill -9 $$"); r.Code != 137 || r.Stderr != "" {
		t.Errorf("an exec killed by somebody else: %+v", r)
	}

	// With memory.oom.group the hog takes the container along.
	b = limBox(t, forever, limMemory(32*limMiB), limited(func(r *specs.LinuxResources) { r.Unified = map[string]string{"memory.oom.group": "1"} })).up()
	if r := b.exec("eat", "128m"); r.Code != 137 && r.Code != 255 || !strings.Contains(r.Stderr, "memory limit of 33554432 bytes was reached") {
		t.Errorf("a hog in a container that dies as one: %+v", r)
	}
	b.stopped()
	b.must("delete")
	b.gone()

	// The limit can be that of a group above.
	parent := filepath.Join(limCgroups, testenv.UniqueID(t))
	if err := os.Mkdir(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.Remove(parent) }()
	for _, w := range [][2]string{{"cgroup.subtree_control", "+memory"}, {"memory.max", "33554432"}} {
		if err := os.WriteFile(filepath.Join(parent, w[0]), []byte(w[1]), 0); err != nil {
			t.Fatal(err)
		}
	}
	b = limBox(t, limArgs("eat", "128m"), func(s *specs.Spec) { s.Linux.CgroupsPath = "/" + filepath.Base(parent) + "/box" })
	r := b.run()
	if r.Code != 137 || !strings.Contains(r.Stderr, `the memory limit of cgroup "/`+filepath.Base(parent)+`", 33554432 bytes, was reached`) {
		t.Errorf("a limit of the parent: %+v", r)
	}
}
