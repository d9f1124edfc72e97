package integration

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

const limMiB = 1 << 20

// A process that takes more than its limit is killed, and run says why.
func TestVMLimitsMemory(t *testing.T) {
	setup(t)
	r := limBox(t, limMemory(32*limMiB), limArgs("eat", "128m")).run()
	if r.Code != 137 || !strings.Contains(r.Stderr, "memory limit of 33554432 bytes was reached") || !strings.Contains(r.Stderr, "hint: raise linux.resources.memory.limit") {
		t.Errorf("a hog: %+v", r)
	}
	if !strings.Contains(r.Stdout, "ate 8388608 of") || strings.Contains(r.Stdout, "ate 33554432 of") {
		t.Errorf("it came to %q", r.Stdout)
	}
	if r := limBox(t, limMemory(32*limMiB), limArgs("eat", "8m")).run(); r.Code != 0 || r.Stderr != "" {
		t.Errorf("one that stays below: %+v", r)
	}
	// Killed by somebody else is another matter.
	if r := limBox(t, limMemory(32*limMiB), script("kill -9 $$")).run(); strings.Contains(r.Stderr, "memory") {
		t.Errorf("killed without need: %+v", r)
	}
}

// exec runs under the container's limit.
func TestVMLimitsExec(t *testing.T) {
	setup(t)
	b := limBox(t, forever, limMemory(32*limMiB)).up()
	if got := b.execOut("cat", "/proc/self/cgroup"); got != "0::/\n" {
		t.Errorf("cgroup of an exec %q", got)
	}
	r := b.exec("eat", "128m")
	if r.Code != 137 {
		t.Errorf("a hog: %+v", r)
	}
	if b.state().Status != "running" {
		t.Error("the container's own process is gone")
	}
	if n := limKeyed(t, b.limRead("memory.events"))["oom_kill"]; n < 1 {
		t.Errorf("oom_kill %d", n)
	}
}

// A container that has made groups of its own, with controllers, leaves no
// place for processes in its own group: exec joins the init instead.
func TestVMLimitsExecInSubgroup(t *testing.T) {
	setup(t)
	b := limBox(t, limMemory(64*limMiB), func(s *specs.Spec) {
		for i := range s.Mounts {
			if s.Mounts[i].Type == "cgroup" {
				s.Mounts[i].Options = []string{"nosuid", "noexec", "nodev", "rw"}
			}
		}
		script("mkdir /sys/fs/cgroup/sub && echo 1 >/sys/fs/cgroup/sub/cgroup.procs && " +
			"echo +memory >/sys/fs/cgroup/cgroup.subtree_control; exec sleep 1000")(s)
	}).up()
	// Not by exec: its process in the container's own group would keep the container from enabling the controller.
	eventually(t, "the container enables a controller for its groups", func() bool { return b.limRead("cgroup.subtree_control") == "memory" })
	if got := b.execOut("cat", "/proc/self/cgroup"); got != "0::/sub\n" {
		t.Errorf("cgroup of an exec %q, want that of the init", got)
	}
	b.must("delete", "--force")
	b.gone()
}

// Swap is limited on its own: swap in the spec is memory and swap together.
func TestVMLimitsSwap(t *testing.T) {
	setup(t)
	file := filepath.Join(t.TempDir(), "swap")
	for _, args := range [][]string{{"dd", "if=/dev/zero", "of=" + file, "bs=1M", "count=96"}, {"chmod", "600", file}, {"mkswap", file}, {"swapon", file}} {
		if r := testenv.RunCmd(t, exec.Command(args[0], args[1:]...)); r.Code != 0 {
			t.Fatalf("%v: %+v", args, r)
		}
	}
	defer testenv.RunCmd(t, exec.Command("swapoff", file))
	memory, total := int64(24*limMiB), int64(56*limMiB)
	swap := limited(func(r *specs.LinuxResources) { r.Memory = &specs.LinuxMemory{Limit: &memory, Swap: &total} })
	b := limBox(t, swap, script("cat /sys/fs/cgroup/memory.swap.max; eat 40m >/dev/null; cat /sys/fs/cgroup/memory.swap.peak 2>/dev/null; true"))
	if r := b.run(); r.Code != 0 || lines(r.Stdout)[0] != fmt.Sprint(32*limMiB) {
		t.Errorf("40 MiB in 24 MiB of memory and 32 MiB of swap: %+v", r)
	}
	if r := limBox(t, swap, limArgs("eat", "80m")).run(); r.Code != 137 {
		t.Errorf("80 MiB: %+v", r)
	}
	only := limited(func(r *specs.LinuxResources) { r.Memory = &specs.LinuxMemory{Limit: &memory, Swap: &memory} })
	if r := limBox(t, only, limArgs("eat", "40m")).run(); r.Code != 137 {
		t.Errorf("40 MiB without swap: %+v", r)
	}
}

// linux.resources.unified writes what it says.
func TestVMLimitsUnified(t *testing.T) {
	setup(t)
	dir := t.TempDir()
	b := limBox(t, limited(func(r *specs.LinuxResources) {
		r.Unified = map[string]string{"memory.high": "16777216", "cpu.weight": "77"}
	}), func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, bindMount(dir, "/tmp"))
	}, script("cat /sys/fs/cgroup/memory.high /sys/fs/cgroup/cpu.weight; dd if=/dev/zero of=/tmp/file bs=1M count=48 2>/dev/null; cat /sys/fs/cgroup/memory.events"))
	r := b.run()
	if r.Code != 0 || !strings.HasPrefix(r.Stdout, "16777216\n77\n") {
		t.Fatalf("%+v", r)
	}
	if limKeyed(t, r.Stdout)["high"] == 0 {
		t.Errorf("memory.high was never reached: %s", r.Stdout)
	}
}

// The init program needs so little that the limit is a matter of the user's program.
func TestVMLimitsSmallest(t *testing.T) {
	setup(t)
	starts := func(kib int64, program string, more ...func(*specs.Spec)) bool {
		b := newBox(t, append(more, limMemory(kib<<10), limArgs(program))...)
		limTiny(t, b.rootfs("bin/tiny"))
		r := b.run()
		if r.Code == 0 {
			return true
		}
		if !strings.Contains(r.Stderr, "memory") {
			t.Errorf("%d KiB: not a word about memory: %+v", kib, r)
		}
		b.gone()
		return false
	}
	for program, want := range map[string]int64{"/bin/tiny": 512, "/bin/true": 1024} {
		if !starts(want, program, limPids(1)) {
			t.Errorf("%s does not start with a memory limit of %d KiB and a pids limit of 1", program, want)
		}
		low, high := int64(4), want
		if starts(low, program) {
			t.Errorf("%s starts with a memory limit of %d KiB, so the limit does not count", program, low)
		}
		for high-low > 16 {
			if middle := (low + high) / 2; starts(middle, program) {
				high = middle
			} else {
				low = middle
			}
		}
		t.Logf("smallest memory.max that %s starts with: about %d KiB", program, high)
	}
}

// Lack of memory during the set-up says so, and leaves nothing.
func TestVMLimitsTooSmall(t *testing.T) {
	setup(t)
	for _, verb := range slices.Repeat([]string{"run", "create"}, 3) {
		b := newBox(t, limMemory(4096))
		r := b.do(verb, "--bundle", b.bundle)
		if r.Code != 1 && r.Code != 137 || !strings.Contains(r.Stderr, "out of memory") || !strings.Contains(r.Stderr, "4096") {
			t.Errorf("%s: %+v", verb, r)
		}
		b.gone()
	}
}

// A user namespace changes nothing about the limits.
func TestVMLimitsUserns(t *testing.T) {
	setup(t)
	userns := func(s *specs.Spec) {
		maps := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		s.Linux.UIDMappings, s.Linux.GIDMappings = maps, maps
	}
	r := limBox(t, userns, limMemory(32*limMiB), limPids(20), script("cat /proc/self/uid_map /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max; exec eat 128m")).run()
	if r.Code != 137 || !strings.Contains(r.Stdout, "100000") || !strings.Contains(r.Stdout, "33554432\n20\n") || !strings.Contains(r.Stderr, "memory limit") {
		t.Errorf("%+v", r)
	}
	b := limBox(t, userns, forever, limPids(20)).up()
	if r := b.exec("forks", "100"); !strings.Contains(r.Stdout, "then: resource temporarily unavailable") {
		t.Errorf("%+v", r)
	}
}

// A controller that is not delegated is named, and so is the group that holds it back.
func TestVMLimitsNotDelegated(t *testing.T) {
	setup(t)
	parent := filepath.Join(limCgroups, testenv.UniqueID(t))
	inner := filepath.Join(parent, "inner")
	for _, d := range []string{parent, inner} {
		if err := unix.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, d := range []string{inner, parent} {
			if err := unix.Rmdir(d); err != nil {
				t.Errorf("%s: %v", d, err)
			}
		}
	})
	b := newBox(t, limMemory(32*limMiB), func(s *specs.Spec) { s.Linux.CgroupsPath = "/child" })
	cmd := testenv.Command(t, "run", "--bundle", b.bundle, b.id)
	enter := "echo $$ >" + inner + "/cgroup.procs && exec unshare --cgroup --mount sh -c 'umount /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"' sh \"$@\""
	r := testenv.RunCmd(t, exec.Command("sh", append([]string{"-c", enter, "sh"}, cmd.Args...)...))
	want := `cgroup controller "memory" is not available for linux.resources.memory.limit: parent cgroup "/" does not delegate it`
	if r.Code == 0 || !strings.Contains(r.Stderr, want) {
		t.Errorf("%+v, want %q", r, want)
	}
	// A parent with a process of its own.
	busy := newBox(t, limMemory(32*limMiB), func(s *specs.Spec) {
		s.Linux.CgroupsPath = strings.TrimPrefix(inner, limCgroups) + "/child"
	})
	cmd = testenv.Command(t, "run", "--bundle", busy.bundle, busy.id)
	r = testenv.RunCmd(t, exec.Command("sh", append([]string{"-c", "echo $$ >" + inner + "/cgroup.procs && exec \"$@\"", "sh"}, cmd.Args...)...))
	if r.Code == 0 || !strings.Contains(r.Stderr, `"+memory"`) && !strings.Contains(r.Stderr, `"memory"`) || !strings.Contains(r.Stderr, strings.TrimPrefix(inner, limCgroups)) {
		t.Errorf("%+v, want an error that names memory and the group %s", r, inner)
	}
}
