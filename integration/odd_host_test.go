package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// An ID may be as long as the name of a file, also where it names the cgroup.
func TestRootLongID(t *testing.T) {
	setup(t)
	for _, length := range []int{247, 248, 255} {
		b := newBox(t, forever, func(s *specs.Spec) { s.Linux.CgroupsPath = "" })
		b.id += strings.Repeat("x", length-len(b.id))
		if b.cgroup = "/minirun-" + b.id; length > 247 {
			b.cgroup = "/" + b.id
		}
		b.up()
		if _, err := os.Stat(b.v2File("cgroup.procs")); err != nil {
			t.Error(err)
		}
		if out := b.execOut("echo", "in"); out != "in\n" {
			t.Errorf("exec with an ID of %d bytes: %q", length, out)
		}
		b.must("pause")
		b.must("resume")
		b.kill("KILL")
		b.stopped()
		b.must("delete")
		b.gone()
	}
	b := newBox(t, forever)
	if r := testenv.Run(t, "create", "--bundle", b.bundle, strings.Repeat("x", 256)); r.Code != 1 || !strings.Contains(r.Stderr, "use 1 to 255 letters") {
		t.Errorf("an ID of 256 bytes: %+v", r)
	}
}

// Where memfds may not be executed (vm.memfd_noexec=2, which belongs to a pid
// namespace) the init program is a file; where files may not be either, create
// says so and leaves nothing.
func TestRootMemfdNoexec(t *testing.T) {
	setup(t)
	if _, err := os.Stat("/proc/sys/vm/memfd_noexec"); err != nil {
		t.Skip("this kernel has no vm.memfd_noexec (Linux 6.3)")
	}
	b := newBox(t, script("echo ran"))
	dir := t.TempDir()
	in := func(state, script string) testenv.Result {
		t.Helper()
		return testenv.RunCmd(t, exec.Command("unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--propagation", "private", "sh", "-c",
			"set -e; echo 2 >/proc/sys/vm/memfd_noexec\n"+script, state, testenv.Binary(t), b.bundle, b.id))
	}
	plain := filepath.Join(dir, "plain")
	if r := in(plain, `"$1" --root "$0" run --bundle "$2" "$3"`); r.Code != 0 || r.Stdout != "ran\n" || r.Stderr != "" {
		t.Errorf("with a state root that programs can be in: %+v", r)
	}
	const noexec = `mount -t tmpfs -o mode=700,noexec tmpfs "$0"
"$1" --root "$0" run --bundle "$2" "$3" || echo "status $?, left: $(ls -A "$0")"`
	other := filepath.Join(dir, "noexec")
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	r := in(other, noexec)
	if r.Stdout != "status 1, left: \n" || !strings.Contains(r.Stderr, "vm.memfd_noexec=2") || !strings.Contains(r.Stderr, "mount option noexec") || strings.Contains(r.Stderr, "goroutine") {
		t.Errorf("with one that they cannot be in: %+v", r)
	}
	b.gone()
}
