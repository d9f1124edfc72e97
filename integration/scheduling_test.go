package integration

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// schedulingOf is how the kernel treats a process: scheduler, I/O priority,
// memory policy, personality.
func schedulingOf(t *testing.T, pid int) string {
	t.Helper()
	a, err := unix.SchedGetAttr(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := fmt.Sprintf("policy %d nice %d priority %d flags %d", a.Policy, a.Nice, a.Priority, a.Flags)
	if a.Policy == unix.SCHED_DEADLINE {
		s += fmt.Sprintf(" runtime %d deadline %d period %d", a.Runtime, a.Deadline, a.Period)
	}
	io, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_GET, 1, uintptr(pid), 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	maps := strings.Fields(lines(readFile(t, fmt.Sprintf("/proc/%d/numa_maps", pid)))[0])
	return s + fmt.Sprintf(", io %d/%d, memory %s, personality %s", io>>13, io&7, maps[1], strings.TrimSpace(readFile(t, fmt.Sprintf("/proc/%d/personality", pid))))
}

// Nothing else than what was asked for changes; the rest is the caller's.
func TestRootScheduling(t *testing.T) {
	setup(t)
	const plainSched, plainRest = "policy 0 nice 0 priority 0 flags 0, io 0/0", ", memory default, personality 00000000"
	scheduler := func(s specs.Scheduler) func(*specs.Spec) {
		return func(c *specs.Spec) { c.Process.Scheduler = &s }
	}
	memory := func(p specs.LinuxMemoryPolicy) func(*specs.Spec) {
		return func(c *specs.Spec) { c.Linux.MemoryPolicy = &p }
	}
	for _, tt := range []struct {
		name   string
		mutate func(*specs.Spec)
		want   string
	}{
		{"nothing", func(*specs.Spec) {}, plainSched + plainRest},
		{"nice", scheduler(specs.Scheduler{Policy: specs.SchedOther, Nice: 7}), "policy 0 nice 7 priority 0 flags 0, io 0/0" + plainRest},
		{"a negative one", scheduler(specs.Scheduler{Policy: specs.SchedBatch, Nice: -3}), "policy 3 nice -3 priority 0 flags 0, io 0/0" + plainRest},
		{"idle", scheduler(specs.Scheduler{Policy: specs.SchedIdle}), "policy 5 nice 0 priority 0 flags 0, io 0/0" + plainRest},
		{"real time", scheduler(specs.Scheduler{Policy: specs.SchedRR, Priority: 2, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}}), "policy 2 nice 0 priority 2 flags 1, io 0/0" + plainRest},
		{"I/O", func(s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
		}, "policy 0 nice 0 priority 0 flags 0, io 2/6" + plainRest},
		{"I/O when idle", func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_IDLE} }, "policy 0 nice 0 priority 0 flags 0, io 3/0" + plainRest},
		{"real-time I/O", func(s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_RT, Priority: 1}
		}, "policy 0 nice 0 priority 0 flags 0, io 1/1" + plainRest},
		{"memory", memory(specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}}), plainSched + ", memory bind=static:0, personality 00000000"},
		{"memory of here", memory(specs.LinuxMemoryPolicy{Mode: specs.MpolLocal}), plainSched + ", memory local, personality 00000000"},
		{"memory as by default", memory(specs.LinuxMemoryPolicy{Mode: specs.MpolDefault}), plainSched + plainRest},
		{"personality", func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux} }, plainSched + plainRest},
	} {
		b := newBox(t, forever, tt.mutate, func(s *specs.Spec) { s.Process.User = specs.User{UID: 1000, GID: 1000} })
		b.up()
		if got := schedulingOf(t, b.pid()); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
		if got := schedulingOf(t, execPid(t, b)); got != tt.want {
			t.Errorf("%s: exec: %s, want %s", tt.name, got, tt.want)
		}
	}
	// Another process than the container's.
	b := newBox(t, forever, scheduler(specs.Scheduler{Policy: specs.SchedOther, Nice: 7})).up()
	p := &specs.Process{
		Args: []string{"sleep", "3600"}, Cwd: "/", Env: []string{"PATH=/bin"},
		Scheduler:  &specs.Scheduler{Policy: specs.SchedBatch, Nice: 3},
		IOPriority: &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 1},
	}
	if got, want := schedulingOf(t, execPid(t, b, "--process", processFile(t, p))), "policy 3 nice 3 priority 0 flags 0, io 2/1"+plainRest; got != want {
		t.Errorf("exec --process: %s, want %s", got, want)
	}
}

// A process with a deadline cannot fork, unless its children are scheduled like others.
func TestRootSchedulingDeadline(t *testing.T) {
	setup(t)
	for _, flags := range [][]specs.LinuxSchedulerFlag{nil, {specs.SchedFlagResetOnFork}} {
		b := newBox(t, func(s *specs.Spec) {
			s.Process.Args = []string{"sleep", "3600"} // a shell would fork
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 1_000_000, Deadline: 20_000_000, Period: 30_000_000, Flags: flags}
		}).up()
		want := fmt.Sprintf("policy 6 nice 0 priority 0 flags %d runtime 1000000 deadline 20000000 period 30000000, io 0/0, memory default, personality 00000000", len(flags))
		if got := schedulingOf(t, b.pid()); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// A machine that looks like an older one, and a filter that would deny the call.
func TestRootPersonality(t *testing.T) {
	setup(t)
	if runtime.GOARCH != "amd64" {
		t.Skip("not every arm64 processor runs 32-bit programs")
	}
	b := newBox(t, forever, func(s *specs.Spec) {
		s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"personality", "set_mempolicy", "sched_setattr"}, Action: specs.ActKillProcess}}}
		s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolLocal}
		s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Nice: 1}
	}).up()
	if got := b.execOut("uname", "-m"); got != "i686\n" {
		t.Errorf("%q", got)
	}
	if got := readFile(t, fmt.Sprintf("/proc/%d/personality", b.pid())); got != "00000008\n" {
		t.Errorf("init: %q", got)
	}
}

// What the kernel refuses is refused by the field's name, and nothing stays.
func TestRootSchedulingRefused(t *testing.T) {
	setup(t)
	user := func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
		s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
	}
	for _, tt := range []struct {
		name   string
		mutate func(*specs.Spec)
		want   []string
	}{
		{"a node that is not there", func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "900"}
		}, []string{"linux.memoryPolicy: MPOL_BIND", "invalid argument", "has_memory"}},
		{"root of a user namespace", func(s *specs.Spec) {
			user(s)
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedFIFO, Priority: 1}
		}, []string{"process.scheduler: SCHED_FIFO", "operation not permitted", "CAP_SYS_NICE"}},
		{"its I/O", func(s *specs.Spec) {
			user(s)
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_RT}
		}, []string{"process.ioPriority: IOPRIO_CLASS_RT", "operation not permitted", "CAP_SYS_NICE"}},
	} {
		b := newBox(t, tt.mutate)
		r := b.run()
		for _, want := range tt.want {
			if r.Code != 1 || !strings.Contains(r.Stderr, want) {
				t.Errorf("%s: %+v, want %q", tt.name, r, want)
			}
		}
		if !b.gone() {
			t.Errorf("%s: something is left", tt.name)
		}
	}
}

// The processors of exec: on which it enters the container, and where it runs.
func TestRootExecAffinity(t *testing.T) {
	setup(t)
	if runtime.NumCPU() < 2 {
		t.Skip("one processor")
	}
	show := []string{"--", "grep", "Cpus_allowed_list", "/proc/self/status"}
	all := strings.TrimSpace(strings.TrimPrefix(grepLine(t, "/proc/self/status", "Cpus_allowed_list:"), "Cpus_allowed_list:"))
	first, last, _ := strings.Cut(strings.ReplaceAll(all, ",", "-"), "-")
	if i := strings.LastIndexByte(last, '-'); i >= 0 {
		last = last[i+1:]
	}
	for _, tt := range []struct {
		affinity *specs.CPUAffinity
		want     string
	}{
		{nil, all},
		{&specs.CPUAffinity{}, all},
		{&specs.CPUAffinity{Initial: first}, first},
		{&specs.CPUAffinity{Final: last}, last},
		{&specs.CPUAffinity{Initial: first, Final: last}, last},
		{&specs.CPUAffinity{Initial: last, Final: first + "," + last + ",4000-5000"}, first + "," + last},
	} {
		b := newBox(t, forever, func(s *specs.Spec) { s.Process.ExecCPUAffinity = tt.affinity }).up()
		want := tt.want
		if want == "0,1" {
			want = "0-1" // as the kernel writes it
		}
		if got := strings.Fields(b.execOut(show...))[1]; got != want {
			t.Errorf("%+v: %s, want %s", tt.affinity, got, want)
		}
		// It is not for the container's own process.
		if got := strings.Fields(grepLine(t, "/proc/"+strconv.Itoa(b.pid())+"/status", "Cpus_allowed_list:"))[1]; got != all {
			t.Errorf("%+v: the container runs on %s, want %s", tt.affinity, got, all)
		}
	}
	b := newBox(t, forever).up()
	for _, tt := range []struct {
		affinity specs.CPUAffinity
		want     string
	}{
		{specs.CPUAffinity{Initial: "5000"}, "process.execCPUAffinity.initial"},
		{specs.CPUAffinity{Final: "5000"}, "process.execCPUAffinity.final"},
		{specs.CPUAffinity{Initial: "1-0"}, "process.execCPUAffinity.initial: want a list"},
		{specs.CPUAffinity{Final: "8192"}, "process.execCPUAffinity.final: the largest number is 8191"},
	} {
		p := &specs.Process{Args: []string{"true"}, Cwd: "/", Env: []string{"PATH=/bin"}, ExecCPUAffinity: &tt.affinity}
		r := testenv.Run(t, "exec", "--process", processFile(t, p), b.id)
		if r.Code != 255 || !strings.Contains(r.Stderr, tt.want) {
			t.Errorf("%+v: %+v, want %q", tt.affinity, r, tt.want)
		}
	}
}

// The score is there before the process is: it reads it first thing.
func TestRootExecOOMScore(t *testing.T) {
	setup(t)
	before := readFile(t, "/proc/self/oom_score_adj")
	adj := 321
	b := newBox(t, forever, func(s *specs.Spec) { s.Process.OOMScoreAdj = &adj }).up()
	for range 3 {
		if got := b.execOut("cat", "/proc/self/oom_score_adj"); got != "321\n" {
			t.Errorf("the container's: %q", got)
		}
	}
	run := func(adj *int) testenv.Result {
		p := &specs.Process{Args: []string{"cat", "/proc/self/oom_score_adj"}, Cwd: "/", Env: []string{"PATH=/bin"}, OOMScoreAdj: adj}
		return testenv.Run(t, "exec", "--process", processFile(t, p), b.id)
	}
	other, low := 444, -1000
	if r := run(&other); r.Stdout != "444\n" {
		t.Errorf("its own: %+v", r)
	}
	if r := run(nil); r.Stdout != before {
		t.Errorf("none: %+v, want the caller's %q", r, before)
	}
	if r := run(&low); r.Stdout != "-1000\n" && (r.Code != 255 || !strings.Contains(r.Stderr, "process.oomScoreAdj") || !strings.Contains(r.Stderr, "CAP_SYS_RESOURCE")) {
		t.Errorf("one that takes a privilege: %+v", r)
	}
}

// processFile is a file for exec --process.
func processFile(t *testing.T, p *specs.Process) string {
	t.Helper()
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "process.json")
	writeFile(t, file, string(raw))
	return file
}

// execPid adds a process that sleeps to the container, and returns its pid.
func execPid(t *testing.T, b *ociBox, flags ...string) int {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pid")
	args := append([]string{"exec", "--detach", "--pid-file", file}, flags...)
	args = append(args, b.id)
	if len(flags) == 0 {
		args = append(args, "sleep", "3600")
	}
	if r := testenv.Run(t, args...); r.Code != 0 {
		t.Fatalf("%+v", r)
	}
	pid, err := strconv.Atoi(readFile(t, file))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func grepLine(t *testing.T, file, prefix string) string {
	t.Helper()
	for _, line := range lines(readFile(t, file)) {
		if strings.HasPrefix(line, prefix) {
			return line
		}
	}
	t.Fatalf("%s has no line %s", file, prefix)
	return ""
}
