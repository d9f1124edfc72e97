package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// A fork bomb comes to its limit, and one process is enough for true.
func TestVMLimitsPids(t *testing.T) {
	setup(t)
	r := limBox(t, limPids(20), limArgs("forks", "100")).run()
	n := 0
	if _, err := fmt.Sscanf(r.Stdout, "forked %d children, then: resource temporarily unavailable", &n); err != nil || n < 5 || n > 19 {
		t.Errorf("%+v: %d children, %v", r, n, err)
	}
	if r := limBox(t, limArgs("forks", "100")).run(); r.Stdout != "forked 100 children\n" {
		t.Errorf("without a limit: %+v", r)
	}
	if r := newBox(t, limPids(1)).run(); r.Code != 0 || r.Stderr != "" {
		t.Errorf("a limit of 1: %+v", r)
	}
}

// A quota is what a container gets of the CPU, whatever it asks for.
// Exec is two processes for a moment; where the limit leaves no room for them the
// error names it.
func TestVMLimitsPidsExec(t *testing.T) {
	setup(t)
	limit := int64(4)
	sleep := func(s *specs.Spec) { s.Process.Args = []string{"sleep", "3600"} }
	b := newBox(t, sleep, limited(func(r *specs.LinuxResources) { r.Pids = &specs.LinuxPids{Limit: &limit} })).up()
	for have := 1; have < 3; have++ { // with the init
		execPid(t, b)
	}
	refused := func(have, limit int) {
		t.Helper()
		r := b.exec("true")
		if want := fmt.Sprintf("pids limit reached: the container has %d of at most %d processes", have, limit); r.Code != 255 || !strings.Contains(r.Stderr, want) ||
			!strings.Contains(r.Stderr, "resource temporarily unavailable") || !strings.Contains(r.Stderr, "--pids-limit") {
			t.Errorf("%+v, want %q", r, want)
		}
		if got := strings.TrimSpace(b.limRead("pids.current")); got != strconv.Itoa(have) {
			t.Errorf("a refused exec leaves %s processes, want %d", got, have)
		}
	}
	refused(3, 4)
	if r := testenv.Run(t, "update", "--pids-limit", "3", b.id); r.Code != 0 {
		t.Fatalf("%+v", r)
	}
	refused(3, 3)
	if r := testenv.Run(t, "update", "--pids-limit", "5", b.id); r.Code != 0 {
		t.Fatalf("%+v", r)
	}
	if got := b.execOut("echo", "in"); got != "in\n" {
		t.Errorf("%q", got)
	}
}

func TestVMLimitsCPUQuota(t *testing.T) {
	setup(t)
	period := uint64(100000)
	for _, percent := range []int64{20, 50} {
		quota := percent * int64(period) / 100
		b := limBox(t, limited(func(r *specs.LinuxResources) { r.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period} }),
			limArgs("burn", "-t", "1000", "-n", "2")).up()
		stat := func() map[string]int64 { return limKeyed(t, b.limRead("cpu.stat")) }
		eventually(t, "it is throttled", func() bool { return stat()["nr_throttled"] > 3 })
		before := stat()
		elapsed := limTime(func() { time.Sleep(6 * time.Second) })
		after := stat()
		share := 100 * float64(after["usage_usec"]-before["usage_usec"]) / float64(elapsed.Microseconds())
		if share < 0.85*float64(percent) || share > 1.15*float64(percent) {
			t.Errorf("quota of %d%%: got %.1f%%\n%v\n%v", percent, share, before, after)
		}
		t.Logf("quota of %d%%: got %.1f%%", percent, share)
		b.must("delete", "--force")
	}
	free := limKeyed(t, limBox(t, limArgs("burn", "-t", "2", "-n", "2")).output())
	if share := float64(free["cpu_usec"]) / float64(free["wall_usec"]); share < 0.8 {
		t.Errorf("without a quota: %.2f CPUs", share)
	}
}

// Weights divide one CPU among those who want it.
func TestVMLimitsCPUWeight(t *testing.T) {
	setup(t)
	shares := map[uint64]uint64{} // cpu.shares of v1 -> usec
	var boxes []*ociBox
	list := []uint64{256, 2048}
	for _, s := range list {
		boxes = append(boxes, limBox(t, limited(func(r *specs.LinuxResources) { r.CPU = &specs.LinuxCPU{Shares: &s, Cpus: "1"} }), limArgs("burn", "-t", "1000")).up())
	}
	usage := func(b *ociBox) int64 { return limKeyed(t, b.limRead("cpu.stat"))["usage_usec"] }
	for _, b := range boxes { // both past their start
		eventually(t, "it burns", func() bool { return usage(b) > 300_000 })
	}
	before := []int64{usage(boxes[0]), usage(boxes[1])}
	time.Sleep(5 * time.Second)
	for i, b := range boxes {
		shares[list[i]] = uint64(usage(b) - before[i])
	}
	if ratio := float64(shares[2048]) / float64(shares[256]); ratio < 3 || ratio > 16 {
		t.Errorf("eight times the shares got %.1f times the CPU: %v, cpu.weight %s and %s", ratio, shares, boxes[0].limRead("cpu.weight"), boxes[1].limRead("cpu.weight"))
	} else {
		t.Logf("eight times the shares got %.1f times the CPU, cpu.weight %s and %s", ratio, boxes[0].limRead("cpu.weight"), boxes[1].limRead("cpu.weight"))
	}
}

func TestVMLimitsCpuset(t *testing.T) {
	setup(t)
	for _, cpu := range []string{"0", "1"} {
		b := limBox(t, limited(func(r *specs.LinuxResources) { r.CPU = &specs.LinuxCPU{Cpus: cpu, Mems: "0"} }),
			script("nproc; grep Cpus_allowed_list /proc/self/status; cat /sys/fs/cgroup/cpuset.mems"))
		if got := strings.Fields(b.output()); len(got) != 4 || got[0] != "1" || got[2] != cpu || got[3] != "0" {
			t.Errorf("cpus %s: %q", cpu, got)
		}
	}
	b := newBox(t, limited(func(r *specs.LinuxResources) { r.CPU = &specs.LinuxCPU{Cpus: "7"} }))
	if r := b.run(); r.Code == 0 || !strings.Contains(r.Stderr, "cpuset.cpus") {
		t.Errorf("a CPU that is not there: %+v", r)
	}
}

// io.max slows direct writes to a disk down.
func TestVMLimitsIO(t *testing.T) {
	setup(t)
	dir := t.TempDir()
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	throttle := func(r *specs.LinuxResources) {
		d := specs.LinuxThrottleDevice{Rate: 1 << 20}
		d.Major, d.Minor = int64(unix.Major(st.Dev)), int64(unix.Minor(st.Dev))
		r.BlockIO = &specs.LinuxBlockIO{ThrottleWriteBpsDevice: []specs.LinuxThrottleDevice{d}}
	}
	write := func(more ...func(*specs.Spec)) (took time.Duration, stat string) {
		b := limBox(t, append(more, func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, bindMount(dir, "/tmp"))
		}, script("dd if=/dev/zero of=/tmp/file bs=128k count=32 oflag=direct 2>&1 && cat /sys/fs/cgroup/io.stat"))...)
		took = limTime(func() {
			r := b.run()
			if r.Code != 0 {
				t.Fatalf("%+v", r)
			}
			stat = r.Stdout
		})
		return took, stat
	}
	free, _ := write()
	slow, stat := write(limited(throttle))
	if slow < 3*time.Second || slow < free+2*time.Second {
		t.Errorf("4 MiB at 1 MiB/s took %v, without a limit %v\n%s", slow, free, stat)
	}
	t.Logf("4 MiB at 1 MiB/s took %v, without a limit %v", slow, free)
}

func TestVMLimitsHugetlb(t *testing.T) {
	setup(t)
	b := limBox(t, limited(func(r *specs.LinuxResources) {
		r.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}}
	}), script("cat /sys/fs/cgroup/hugetlb.2MB.max"))
	if got := b.output(); got != "4194304\n" {
		t.Errorf("hugetlb.2MB.max %q", got)
	}
}

// A frozen container is paused: no exec, but kill and delete work.
func TestVMLimitsFrozen(t *testing.T) {
	setup(t)
	freeze := func(b *ociBox) {
		t.Helper()
		if err := os.WriteFile(b.limCgroup("cgroup.freeze"), []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is frozen", func() bool { return strings.Contains(b.limRead("cgroup.events"), "frozen 1") })
		b.wantStatus("paused")
	}
	b := newBox(t, forever).up()
	freeze(b)
	if r := b.exec("true"); r.Code != 255 || !strings.Contains(r.Stderr, "cannot exec in a paused container (use --ignore-paused to override)") {
		t.Errorf("exec: %+v", r)
	}
	if r := b.do("delete"); r.Code == 0 || !strings.Contains(r.Stderr, "that is not stopped: paused") {
		t.Errorf("delete: %+v", r)
	}
	if r := testenv.Run(t, "kill", b.id, "KILL"); r.Code != 0 {
		t.Errorf("kill: %+v", r)
	}
	b.stopped()
	b.must("delete")
	b.gone()
	b = newBox(t, forever).up()
	freeze(b)
	b.must("delete", "--force")
	b.gone()
	b = newBox(t, forever).up()
	freeze(b)
	if err := os.WriteFile(b.limCgroup("cgroup.freeze"), []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it runs again", func() bool { return b.state().Status == "running" })
	b.execOut("true")
}

// The flags of run --image.
func TestVMLimitsImage(t *testing.T) {
	setup(t)
	testenv.Supervisor(t)
	store := filepath.Join(t.TempDir(), "store")
	run := func(flags []string, command ...string) testenv.Result {
		t.Helper()
		args := append([]string{"--root", testenv.StateRoot(t), "--store", store, "run", "--rm", "--image", "minirun/demo"}, flags...)
		return testenv.Run(t, append(append(args, testenv.UniqueID(t)), command...)...)
	}
	limits := []string{"--memory", "64m", "--cpus", "0.5", "--pids-limit", "20"}
	const dir = "/sys/fs/cgroup/"
	if r := run(limits, "cat", dir+"memory.max", dir+"cpu.max", dir+"pids.max"); r.Code != 0 || r.Stdout != "67108864\n50000 100000\n20\n" {
		t.Errorf("%+v", r)
	}
	if r := run(limits, "eat", "256m"); r.Code != 137 || !strings.Contains(r.Stderr, "memory limit of 67108864 bytes") || !strings.Contains(r.Stderr, "--memory") {
		t.Errorf("%+v", r)
	}
	if r := run(limits, "forks", "100"); !strings.Contains(r.Stdout, "then: resource temporarily unavailable") {
		t.Errorf("%+v", r)
	}
	if r := run(nil, "forks", "100"); r.Stdout != "forked 100 children\n" {
		t.Errorf("%+v", r)
	}
	r := run(limits, "burn", "-t", "5", "-n", "2")
	v := limKeyed(t, r.Stdout)
	if share := float64(v["cpu_usec"]) / float64(v["wall_usec"]); share < 0.42 || share > 0.58 {
		t.Errorf("--cpus 0.5 got %.2f: %+v", share, r)
	}
}

// What runs on the host's kernel runs on this older one, where some features
// have to be done without.
func TestVMLimitsOldKernel(t *testing.T) {
	setup(t)
	r := newBox(t, script("cat /proc/version; ls /proc/acpi /sys/firmware /proc/scsi; cat /proc/keys /proc/timer_list; echo $?; echo x >/proc/sys/kernel/hostname")).run()
	if !strings.HasPrefix(r.Stdout, "Linux version 6.1.") || strings.Contains(r.Stdout, "keyring") || !strings.Contains(r.Stderr, "Read-only file system") {
		t.Errorf("masked and read-only paths: %+v", r)
	}
	one, two := int64(1000), uint32(7)
	b := newBox(t, func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 86400 * one}}
		s.Linux.Seccomp = sbDockerSeccomp(t)
		s.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{two}}
		forever(s)
	}).up()
	if got := strings.Fields(b.execOut("cat", "/proc/uptime"))[0]; !strings.HasPrefix(got, "864") {
		t.Errorf("uptime in a time namespace: %s", got)
	}
	if got := b.execOut("grep", "-E", "Seccomp:|Groups", "/proc/self/status"); !strings.Contains(got, "Seccomp:\t2") {
		t.Errorf("%q", got)
	}
	b.must("delete", "--force")
	b.gone()

	testenv.Supervisor(t)
	store := filepath.Join(t.TempDir(), "store")
	volume := t.TempDir()
	writeFile(t, filepath.Join(volume, "file"), "from outside\n")
	for _, c := range []struct {
		flags []string
		args  []string
		want  string
	}{
		{nil, []string{"echo", "hello"}, "hello\n"},
		{[]string{"--read-only", "-v", volume + ":/data:ro"}, []string{"cat", "/data/file"}, "from outside\n"},
		{[]string{"-u", "1000:1000", "-w", "/made/here", "--tmpfs", "/tmp"}, []string{"id"}, "uid=1000"},
		{[]string{"--privileged"}, []string{"echo", "all"}, "all\n"},
	} {
		args := append([]string{"--root", testenv.StateRoot(t), "--store", store, "run", "--rm", "--image", "minirun/demo"}, c.flags...)
		r := testenv.Run(t, append(append(args, testenv.UniqueID(t)), c.args...)...)
		if r.Code != 0 || !strings.HasPrefix(r.Stdout, c.want) {
			t.Errorf("run --image %v: %+v", c.flags, r)
		}
	}
}
