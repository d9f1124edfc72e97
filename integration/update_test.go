package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// recorded are the limits that the container's record has.
func (b *ociBox) recorded() *specs.LinuxResources {
	b.t.Helper()
	var s specs.Spec
	if err := json.Unmarshal([]byte(readFile(b.t, filepath.Join(testenv.StateRoot(b.t), b.id, "config.json"))), &s); err != nil {
		b.t.Fatal(err)
	}
	if s.Process == nil || len(s.Mounts) == 0 {
		b.t.Error("the record has lost its other fields")
	}
	return s.Linux.Resources
}

// updateFrom runs update with resources on standard input.
func (b *ociBox) updateFrom(resources string) testenv.Result {
	b.t.Helper()
	cmd := testenv.Command(b.t, "update", "--resources", "-", b.id)
	cmd.Stdin = strings.NewReader(resources)
	return testenv.RunCmd(b.t, cmd)
}

// What needs no controller: values that are the kernel's defaults, and mistakes.
func TestRootUpdate(t *testing.T) {
	setup(t)
	b := newBox(t, forever)
	b.create()
	shares := func() uint64 {
		if r := b.recorded(); r.CPU != nil && r.CPU.Shares != nil {
			return *r.CPU.Shares
		}
		return 0
	}
	b.must("update", "--cpu-share", "1024") // in a created container too
	if got := shares(); got != 1024 {
		t.Errorf("cpu.shares %d is recorded", got)
	}
	b.must("start")
	b.must("update", "--pids-limit=-1", "--memory", "-1", "--cpu-quota", "-1", "--blkio-weight", "0", "--memory-swap", "", "--cpu-period", "0")
	r := b.recorded()
	if r.Pids == nil || *r.Pids.Limit != -1 || *r.Memory.Limit != -1 || *r.Memory.Swap != -1 || *r.CPU.Quota != -1 || r.CPU.Period != nil || shares() != 1024 {
		t.Errorf("recorded after an update by flags: %+v", r)
	}
	// docker, when it changes something that is none of ours.
	zeros := `{"memory":{"limit":0,"reservation":0,"swap":0,"kernel":0},"cpu":{"shares":0,"quota":0,"period":0},"blockIO":{"weight":0}}`
	if r := b.updateFrom(zeros); r.Code != 0 || r.Stderr != "" || r.Stdout != "" {
		t.Errorf("update with zeros: %+v", r)
	}
	file := filepath.Join(t.TempDir(), "resources.json")
	writeFile(t, file, `{"pids":{"limit":-1},"devices":[{"allow":true,"access":"rwm"}]}`)
	b.must("update", "-r", file)
	if r := testenv.Run(t, "update", "--kernel-memory", "1m", "--kernel-memory-tcp", "1m", b.id); r.Code != 0 || !strings.Contains(r.Stderr, "kernel memory are ignored") {
		t.Errorf("kernel memory: %+v", r)
	}
	b.must("update", "--cpu-rt-period", "1000000") // no effect: not in cgroup v2
	before := readFile(t, filepath.Join(testenv.StateRoot(t), b.id, "config.json"))
	for _, tt := range []struct {
		args []string
		text string
	}{
		{[]string{"--memory", "1x"}, `flag --memory: invalid value "1x": invalid size`},
		{[]string{"--memory", "-2"}, "--memory"},
		{[]string{"--memory", "inf"}, "--memory"},
		{[]string{"--memory", "9999999999g"}, "--memory"},
		{[]string{"--cpu-quota", "x"}, "--cpu-quota"},
		{[]string{"--cpu-share", "-1"}, "--cpu-share"},
		{[]string{"--pids-limit", "many"}, "--pids-limit"},
		{[]string{"--pids-limit", "-7"}, "linux.resources.pids.limit"},
		{[]string{"--blkio-weight", "5"}, "linux.resources.blockIO.weight"},
		{[]string{"--blkio-weight", "70000"}, "--blkio-weight"},
		{[]string{"--cpu-idle", "2"}, "linux.resources.cpu.idle"},
		{[]string{"--cpu-period", "10"}, "linux.resources.cpu.period"},
		{[]string{"--cpu-rt-runtime", "1000"}, "linux.resources.cpu.realtimeRuntime"},
		{[]string{"--l3-cache-schema", "L3:0=f"}, "Intel RDT/CAT: l3 cache schema is not enabled"},
		{[]string{"--mem-bw-schema", "MB:0=50"}, "Intel RDT/MBA: memory bandwidth schema is not enabled"},
		{[]string{"--resources", "/nowhere"}, "no such file or directory"},
		{[]string{"--resources", b.bundle}, "is a directory"},
		{[]string{"--no-such-flag", "1"}, "--no-such-flag"},
	} {
		b.refused(1, tt.text, "update", tt.args...)
	}
	for resources, text := range map[string]string{
		"{":                                  "resources",
		"":                                   "resources",
		`[]`:                                 "resources",
		`{"memory":{"limit":"1"}}`:           "memory.limit",
		`{"memory":{"limit":-2}}`:            "linux.resources.memory.limit",
		`{"unified":{"cgroup.freeze":"1"}}`:  "cgroup.freeze",
		`{"unified":{"cgroup.procs":"1"}}`:   "cgroup.procs",
		`{"unified":{"../cgroup.kill":"1"}}`: "file name",
	} {
		if r := b.updateFrom(resources); r.Code != 1 || !strings.Contains(r.Stderr, text) {
			t.Errorf("update with %s: %+v, want %q", resources, r, text)
		}
	}
	if after := readFile(t, filepath.Join(testenv.StateRoot(t), b.id, "config.json")); after != before {
		t.Errorf("updates that failed have changed the record:\n%s\nwas\n%s", after, before)
	}
	b.must("pause")
	b.must("update", "--cpu-share", "1024")
	b.must("resume")
	b.execOut("true") // its configuration is still one
	b.kill("KILL")
	b.stopped()
	b.refused(1, "container not running", "update", "--cpu-share", "1024")
	b.must("delete")
	b.gone()
	b.refused(1, "container does not exist", "update", "--cpu-share", "1024")
}

// minirun is killed at every system call of update. The record is the old or the
// new one, and neither another update nor delete minds.
func TestRootCrashUpdate(t *testing.T) {
	setup(t)
	b := newBox(t, forever).up()
	points := 0
	for n := 1; ; n++ {
		code, reached := tracedRun(t, minirunItself, n, []uint64{unix.SYS_FLOCK}, "update", "--cpu-share", "1024", "--cpu-quota", "-1", "--pids-limit", "-1", b.id)
		what := "update killed at call " + strconv.Itoa(n)
		r := b.recorded()
		if !reached {
			if code != 0 || r.CPU == nil || r.Pids == nil {
				t.Fatalf("%s: exit status %d, recorded %+v", what, code, r)
			}
			break
		}
		points++
		if (r.CPU == nil) != (r.Pids == nil || *r.Pids.Limit != -1) {
			t.Errorf("%s: half a record: %+v", what, r)
		}
		b.wantStatus("running")
		if n%4 == 0 {
			b.must("update", "--memory", "-1")
			b.converge(what)
			b.up()
		} else if r.CPU != nil { // begin anew
			b.converge(what)
			b.up()
		}
	}
	t.Logf("%d crash points", points)
	if points < 8 {
		t.Errorf("only %d crash points", points)
	}
	b.must("update", "--cpu-share", "1024")
	b.converge("after it all")
}

// The limits of a running container go up and down, and what it does follows.
func TestVMUpdateCommand(t *testing.T) {
	setup(t)
	b := limBox(t, forever, limMemory(64*limMiB), limPids(20)).up()
	want := func(values ...string) {
		t.Helper()
		for i := 0; i < len(values); i += 2 {
			if got := b.limRead(values[i]); got != values[i+1] {
				t.Errorf("%s is %q, want %q", values[i], got, values[i+1])
			}
		}
	}
	b.must("update", "--memory", "32m", "--memory-reservation", "16m", "--memory-swap", "48m", "--pids-limit", "30",
		"--cpu-period", "50000", "--cpu-quota", "20000", "--cpu-burst", "10000", "--cpu-share", "512", "--cpuset-cpus", "1", "--cpuset-mems", "0")
	want("memory.max", "33554432", "memory.low", "16777216", "memory.swap.max", "16777216", "pids.max", "30", "cpu.max", "20000 50000",
		"cpu.max.burst", "10000", "cpu.weight", "59", "cpuset.cpus", "1", "cpuset.mems", "0")
	b.must("update", "--cpu-quota", "40000") // the period stays
	b.must("update", "--memory", "40m")      // and so does the sum
	want("cpu.max", "40000 50000", "memory.max", "41943040", "memory.swap.max", "8388608")
	b.must("update", "--cpu-idle", "1")
	b.must("update", "--cpu-share", "1024")
	want("cpu.idle", "1")
	b.must("update", "--cpu-idle", "0")
	want("cpu.idle", "0", "cpu.weight", "100")

	// All or nothing: the last value is one that the kernel refuses.
	before := b.recorded()
	r := b.updateFrom(`{"memory":{"limit":83886080,"swap":83886080},"pids":{"limit":99},"cpu":{"quota":30000,"burst":5000,"shares":2,"cpus":"77"}}`)
	if r.Code != 1 || !strings.Contains(r.Stderr, `write cpuset.cpus "77"`) || !strings.Contains(r.Stderr, "linux.resources.cpu.cpus") {
		t.Errorf("a CPU that is not there: %+v", r)
	}
	want("memory.max", "41943040", "memory.swap.max", "8388608", "pids.max", "30", "cpu.max", "40000 50000", "cpu.max.burst", "10000", "cpu.weight", "100", "cpuset.cpus", "1")
	if after := b.recorded(); *after.Memory.Limit != *before.Memory.Limit || *after.Pids.Limit != *before.Pids.Limit {
		t.Errorf("recorded %+v, want %+v", after, before)
	}
	b.refused(1, "is below memory.limit", "update", "--memory", "50m")

	// The limit holds, and can be below what is used already: what cannot be
	// reclaimed is killed, unless the caller wants to be told.
	if r := b.exec("eat", "60m"); r.Code != 137 || !strings.Contains(r.Stderr, "memory limit of 41943040 bytes was reached") {
		t.Errorf("60 MiB in 40 MiB: %+v", r)
	}
	if r := b.updateFrom(`{"memory":{"limit":4096,"checkBeforeUpdate":true}}`); r.Code != 1 || !strings.Contains(r.Stderr, "current usage is") {
		t.Errorf("checkBeforeUpdate: %+v", r)
	}
	want("memory.max", "41943040")
	b.must("update", "--memory", "-1", "--pids-limit", "-1")
	want("memory.max", "max", "memory.swap.max", "max", "pids.max", "max")
	b.must("update", "--pids-limit", "2")
	if r := b.exec("forks"); r.Code == 0 {
		t.Errorf("two more processes with a pids limit of two: %+v", r)
	}
	b.must("pause")
	b.must("update", "--pids-limit", "40")
	want("pids.max", "40")
	b.must("delete", "--force")
	b.gone()
}

// minirun is killed in the middle of an update of real limits; another one, and
// delete, work.
func TestVMCrashUpdate(t *testing.T) {
	setup(t)
	b := limBox(t, forever, limMemory(64*limMiB)).up()
	for n := 1; ; n += 3 {
		_, reached := tracedRun(t, minirunItself, n, []uint64{unix.SYS_RENAMEAT, unix.SYS_FLOCK}, "update", "--memory", "32m", "--memory-swap", "48m", "--pids-limit", "10", b.id)
		what := "killed at call " + strconv.Itoa(n)
		b.must("update", "--memory", "64m", "--memory-swap", "96m", "--pids-limit", "20")
		for file, want := range map[string]string{"memory.max": "67108864", "memory.swap.max": "33554432", "pids.max": "20"} {
			if got := b.limRead(file); got != want {
				t.Errorf("%s: %s is %q, want %q", what, file, got, want)
			}
		}
		if r := b.recorded(); *r.Memory.Limit != 64*limMiB || *r.Pids.Limit != 20 {
			t.Errorf("%s: recorded %+v", what, r)
		}
		if !reached {
			break
		}
	}
	b.converge("after it all")
	if _, err := os.Stat(b.limCgroup("")); err == nil {
		t.Error("the cgroup is left")
	}
}

// Updates at the same time do not lose each other's values.
func TestRootUpdateParallel(t *testing.T) {
	setup(t)
	b := newBox(t, forever).up()
	updates := [][]string{{"--cpu-share", "1024"}, {"--pids-limit", "-1"}, {"--memory", "-1"}, {"--cpu-quota", "-1"}}
	for range 3 {
		results := make(chan testenv.Result, len(updates))
		for _, flags := range updates {
			cmd := testenv.Command(t, append(append([]string{"update"}, flags...), b.id)...)
			go func() { results <- testenv.RunCmd(t, cmd) }()
		}
		for range updates {
			if r := <-results; r.Code != 0 || r.Stderr != "" {
				t.Errorf("update: %+v", r)
			}
		}
		r := b.recorded()
		if r.CPU == nil || r.CPU.Shares == nil || r.CPU.Quota == nil || r.Memory == nil || r.Memory.Limit == nil || r.Pids == nil || r.Pids.Limit == nil || *r.Pids.Limit != -1 {
			t.Fatalf("recorded after updates at the same time: %+v", r)
		}
		b.must("delete", "--force")
		b.up()
	}
}
