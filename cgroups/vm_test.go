package cgroups

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The tests of this file need a cgroup v2 hierarchy with all controllers.

// limited makes a group with limits.
func limited(t *testing.T, path, json string) *Group {
	t.Helper()
	l, err := FromOCI(resources(t, json))
	if err != nil {
		t.Fatal(err)
	}
	g := create(t, path, l.Controllers...)
	if err := g.Apply(l); err != nil {
		t.Fatalf("apply %s: %v", json, err)
	}
	return g
}

func update(t *testing.T, g *Group, json string) error {
	t.Helper()
	l, err := FromOCIUpdate(resources(t, json))
	if err != nil {
		t.Fatal(err)
	}
	return g.Apply(l)
}

// blockDevice returns the number of a disk that can be limited.
func blockDevice(t *testing.T) string {
	t.Helper()
	names, err := os.ReadDir("/sys/block")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if b, err := os.ReadFile("/sys/block/" + n.Name() + "/dev"); err == nil && strings.HasPrefix(n.Name(), "vd") {
			return strings.TrimSpace(string(b))
		}
	}
	t.Fatal("no disk")
	return ""
}

func TestVMSettings(t *testing.T) {
	disk := blockDevice(t)
	major, minor, _ := strings.Cut(disk, ":")
	dev := `"major":` + major + `,"minor":` + minor
	weightFile := "io.bfq.weight"
	tests := []struct{ name, json, want string }{
		{"memory", `{"memory":{"limit":67108864,"reservation":33554432}}`, "memory.max=67108864 memory.low=33554432 memory.high=max"},
		{"swap", `{"memory":{"limit":67108864,"swap":100663296}}`, "memory.max=67108864 memory.swap.max=33554432"},
		{"no swap", `{"memory":{"limit":67108864,"swap":67108864}}`, "memory.max=67108864 memory.swap.max=0"},
		{"cpu", `{"cpu":{"shares":512,"quota":50000,"burst":1000}}`, "cpu.weight=59 cpu.max=50000_100000 cpu.max.burst=1000"},
		{"cpu weights", `{"cpu":{"shares":2}}`, "cpu.weight=1 cpu.max=max_100000"},
		{"cpu weight max", `{"cpu":{"shares":262144}}`, "cpu.weight=10000"},
		{"idle", `{"cpu":{"shares":512,"idle":1}}`, "cpu.idle=1"},
		{"cpuset", `{"cpu":{"cpus":"0","mems":"0"}}`, "cpuset.cpus=0 cpuset.cpus.effective=0 cpuset.mems=0"},
		{"pids", `{"pids":{"limit":100}}`, "pids.max=100"},
		{"pids 0", `{"pids":{"limit":0}}`, "pids.max=1"},
		{"hugetlb", `{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}`, "hugetlb.2MB.max=4194304 hugetlb.2MB.rsvd.max=4194304"},
		{"io weight", `{"blockIO":{"weight":500}}`, weightFile + "=500|default_500"},
		{"io max", `{"blockIO":{"throttleReadBpsDevice":[{` + dev + `,"rate":1048576}],"throttleWriteIOPSDevice":[{` + dev + `,"rate":50}]}}`, "io.max=" + disk + "_rbps=1048576_wbps=max_riops=max_wiops=50"},
		{
			"unified", `{"memory":{"limit":67108864},"unified":{"memory.high":"50331648","memory.oom.group":"1","cpuset.cpus":"1","io.max":"` + disk + ` rbps=2097152\n` + disk + ` wbps=4194304"}}`,
			"memory.high=50331648 memory.oom.group=1 memory.max=67108864 cpuset.cpus=1 io.max=" + disk + "_rbps=2097152_wbps=4194304_riops=max_wiops=max",
		},
		{"unified overrules", `{"pids":{"limit":100},"unified":{"pids.max":"7"}}`, "pids.max=7"},
		{"defaults", `{"cpu":{"shares":1024,"quota":-1},"memory":{"limit":-1},"pids":{"limit":-1}}`, "cpu.weight=100 cpu.max=max_100000 memory.max=max pids.max=max"},
		{"nothing, but counted", `{}`, "memory.max=max pids.max=max cpu.weight=100 cpuset.cpus="},
	}
	path := parentPath(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := limited(t, path+"/c", tt.json)
			for want := range strings.FieldsSeq(tt.want) {
				file, values, _ := strings.Cut(want, "=")
				got := strings.ReplaceAll(read(t, g, file), " ", "_")
				if !slices.Contains(strings.Split(values, "|"), got) {
					t.Errorf("%s is %q, want %q", file, got, values)
				}
			}
		})
	}
}

// Updates go up, down and back to the defaults, in an order the kernel takes.
func TestVMUpdate(t *testing.T) {
	g := limited(t, parentPath(t), `{"cpu":{"quota":50000,"burst":40000,"shares":512},"memory":{"limit":67108864,"swap":67108864},"pids":{"limit":50}}`)
	steps := []struct{ json, file, want string }{
		{`{"cpu":{"quota":100000,"burst":80000}}`, "cpu.max.burst", "80000"},
		{`{"cpu":{"quota":20000,"burst":10000}}`, "cpu.max.burst", "10000"},
		{`{"cpu":{"quota":20000,"burst":0}}`, "cpu.max", "20000 100000"},
		{`{"cpu":{"quota":-1,"shares":1024}}`, "cpu.max", "max 100000"},
		{`{"cpu":{"shares":0,"quota":0,"period":0},"memory":{"limit":0,"swap":0}}`, "cpu.weight", "100"},
		{`{"memory":{"limit":134217728,"swap":134217728}}`, "memory.max", "134217728"},
		{`{"memory":{"limit":-1}}`, "memory.swap.max", "max"},
		{`{"pids":{"limit":-1}}`, "pids.max", "max"},
		{`{"cpu":{"cpus":"1"}}`, "cpuset.cpus", "1"},
		{`{"unified":{"cpuset.cpus":""}}`, "cpuset.cpus", ""},
	}
	for _, s := range steps {
		if err := update(t, g, s.json); err != nil {
			t.Errorf("%s: %v", s.json, err)
		}
		if got := read(t, g, s.file); got != s.want {
			t.Errorf("%s: %s is %q, want %q", s.json, s.file, got, s.want)
		}
	}
}

func TestVMRefused(t *testing.T) {
	g := limited(t, parentPath(t), `{"cpu":{"quota":50000}}`)
	tests := []struct{ json, want, hint string }{
		{`{"cpu":{"quota":50000,"period":100}}`, `write cpu.max "50000 100": invalid argument`, "between 1000 and 1000000 microseconds"},
		{`{"cpu":{"burst":60000}}`, `write cpu.max.burst "60000": invalid argument`, "must not exceed the quota"},
		{`{"cpu":{"cpus":"999"}}`, `write cpuset.cpus "999": `, "only CPUs and memory nodes that exist"},
		{`{"blockIO":{"throttleReadBpsDevice":[{"major":4095,"minor":7,"rate":1}]}}`, `write io.max "4095:7 rbps=1": no such device`, "no such block device"},
		{`{"unified":{"memory.nosuch":"1"}}`, `write memory.nosuch "1": no such file or directory`, "this kernel does not have the file"},
		{`{"unified":{"nosuch.max":"1"}}`, `cgroup controller "nosuch" is not available for linux.resources.unified["nosuch.max"]: this kernel does not offer it`, "remove"},
	}
	for _, tt := range tests {
		err := update(t, g, tt.json)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s:\n got %v\nwant %s", tt.json, err, tt.want)
			continue
		}
		if h := err.(interface{ Hint() string }).Hint(); !strings.Contains(h, tt.hint) {
			t.Errorf("%s: hint %q, want %q in it", tt.json, h, tt.hint)
		}
	}
}

func TestVMOOMKill(t *testing.T) {
	g := limited(t, parentPath(t), `{"memory":{"limit":67108864,"swap":67108864}}`)
	if n, err := g.OOMKills(); n != 0 || err != nil {
		t.Fatalf("OOMKills() = %d, %v at first", n, err)
	}
	h := start(t, g, "helper-hog")
	if s := h.killedBy(); s != syscall.SIGKILL {
		t.Errorf("ended by signal %d, want SIGKILL", s)
	}
	if n, err := g.OOMKills(); n < 1 || err != nil {
		t.Errorf("OOMKills() = %d, %v", n, err)
	}
}

// With memory.oom.group the whole container goes at once.
func TestVMOOMGroup(t *testing.T) {
	g := limited(t, parentPath(t), `{"memory":{"limit":67108864,"swap":67108864},"unified":{"memory.oom.group":"1"}}`)
	innocent := block(t, g)
	h := start(t, g, "helper-hog")
	if s := h.killedBy(); s != syscall.SIGKILL {
		t.Errorf("the hog ended by signal %d", s)
	}
	if s := innocent.killedBy(); s != syscall.SIGKILL {
		t.Errorf("its neighbour ended by signal %d", s)
	}
	if n, err := g.OOMKills(); n < 2 || err != nil {
		t.Errorf("OOMKills() = %d, %v, want at least 2", n, err)
	}
}

func TestVMCheckBeforeUpdate(t *testing.T) {
	g := limited(t, parentPath(t), `{"memory":{"limit":134217728}}`)
	block(t, g)
	err := update(t, g, `{"memory":{"limit":4096,"checkBeforeUpdate":true}}`)
	ue, ok := errors.AsType[*UsageError](err)
	if !ok || ue.Usage <= 4096 || ue.Field != "linux.resources.memory.limit" {
		t.Errorf("got %v", err)
	}
	if got := read(t, g, "memory.max"); got != "134217728" {
		t.Errorf("memory.max became %s", got)
	}
	if err := update(t, g, `{"memory":{"limit":67108864,"checkBeforeUpdate":true}}`); err != nil {
		t.Error(err)
	}
}

func TestVMPids(t *testing.T) {
	path := parentPath(t)
	const forks = `n=0; while [ $n -lt 20 ]; do sleep 10000 >/dev/null 2>&1 & n=$((n+1)); done; echo all`
	if out := ask(t, limited(t, path+"/many", `{"pids":{"limit":40}}`), "/bin/sh", "-c", forks); out != "all" {
		t.Errorf("with room for 40 the shell said %q", out)
	}
	few := limited(t, path+"/few", `{"pids":{"limit":5}}`)
	if out := ask(t, few, "/bin/sh", "-c", forks); strings.Contains(out, "all") {
		t.Errorf("20 forks under a limit of 5: the shell said %q", out)
	}
	if n, err := few.Key("pids.events", "max"); n == 0 || err != nil {
		t.Errorf("pids.events max = %d, %v", n, err)
	}
	// A limit of zero lets the container start and fork nothing.
	zero := limited(t, path+"/zero", `{"pids":{"limit":0}}`)
	if out := ask(t, zero, "/bin/sh", "-c", "echo alive; sleep 0 & echo forked"); out != "alive" {
		t.Errorf("under a limit of 0 the shell said %q", out)
	}
}

func TestVMThrottle(t *testing.T) {
	g := limited(t, parentPath(t), `{"cpu":{"quota":5000,"period":50000}}`)
	began := time.Now()
	ask(t, g, "helper-spin")
	elapsed := uint64(time.Since(began).Microseconds())
	throttled, err := g.Key("cpu.stat", "nr_throttled")
	if throttled == 0 || err != nil {
		t.Errorf("nr_throttled = %d, %v", throttled, err)
	}
	// To start takes long too, and an emulated processor may stand still and be charged for it.
	usage, _ := g.Key("cpu.stat", "usage_usec")
	if usage > elapsed/2 {
		t.Errorf("used %d us of CPU in %d us, allowed are a tenth", usage, elapsed)
	}
}

func TestVMCpuset(t *testing.T) {
	path := parentPath(t)
	for _, cpu := range []string{"0", "1"} {
		g := limited(t, path+"/"+cpu, `{"cpu":{"cpus":"`+cpu+`"}}`)
		out := ask(t, g, "/bin/sh", "-c", "grep Cpus_allowed_list /proc/self/status")
		if f := strings.Fields(out); len(f) != 2 || f[1] != cpu {
			t.Errorf("on CPU %s: %q", cpu, out)
		}
	}
}

// Controllers are enabled in every parent, asked for or common.
func TestVMNested(t *testing.T) {
	path := parentPath(t)
	g := create(t, path+"/a/b/c", "memory", "pids", "hugetlb")
	for _, p := range []string{path, path + "/a", path + "/a/b"} {
		got := strings.Fields(read(t, Open(g.Mount, p), "cgroup.subtree_control"))
		for _, c := range []string{"memory", "pids", "hugetlb", "cpu", "cpuset", "io"} {
			if !slices.Contains(got, c) {
				t.Errorf("%s is not enabled below %s: %v", c, p, got)
			}
		}
		if slices.Contains(got, "rdma") {
			t.Errorf("rdma is enabled below %s, though nobody asked", p)
		}
	}
	if got := read(t, g, "cgroup.subtree_control"); got != "" {
		t.Errorf("the container's own subtree_control is %q", got)
	}
	if err := Open(g.Mount, path).Remove(time.Second); err != nil {
		t.Error(err)
	}
}

// An update may need a controller that nobody asked for at first.
func TestVMEnableLater(t *testing.T) {
	path := parentPath(t)
	g := create(t, path+"/c")
	block(t, g)
	if strings.Contains(read(t, g, "cgroup.controllers"), "hugetlb") {
		t.Fatal("hugetlb is there already")
	}
	if err := update(t, g, `{"hugepageLimits":[{"pageSize":"2MB","limit":2097152}]}`); err != nil {
		t.Fatal(err)
	}
	if got := read(t, g, "hugetlb.2MB.max"); got != "2097152" {
		t.Errorf("hugetlb.2MB.max is %s", got)
	}
}

// No internal processes: the error says which group and how many.
func TestVMBusyParent(t *testing.T) {
	path := parentPath(t)
	parent := create(t, path)
	h := block(t, parent)
	// pids is a threaded controller: the kernel would enable it and thereby spoil
	// the parent.
	for _, controller := range []string{"memory", "pids"} {
		_, err := Create(parent.Mount, path+"/c", []string{controller})
		be, ok := errors.AsType[*BusyParentError](err)
		if !ok || be.Group != path || be.Procs != 1 || be.Controllers != "+"+controller || !errors.Is(err, unix.EBUSY) {
			t.Errorf("%s: got %v", controller, err)
		}
		if Open(parent.Mount, path+"/c").Exists() {
			t.Error("a refused Create left its group behind")
		}
	}
	// What nobody asked for is not insisted on.
	if g, err := Create(parent.Mount, path+"/d", nil); err != nil {
		t.Error(err)
	} else if err := g.Remove(time.Second); err != nil {
		t.Error(err)
	}
	if got := read(t, parent, "cgroup.type") + read(t, parent, "cgroup.subtree_control"); got != "domain" {
		t.Errorf("the parent became %q", got)
	}
	h.stdin.Close()
	if err := parent.WaitEmpty(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	create(t, path+"/c", "memory")
}

// Where the root of the mount is a namespace's, a controller that is missing
// there was not delegated.
func TestVMNamespaceRoot(t *testing.T) {
	g := mkdir(t, create(t, parentPath(t)), "ns") // nothing is enabled for it
	h := startIn(t, g, syscall.CLONE_NEWNS|syscall.CLONE_NEWCGROUP, "helper-namespace", t.TempDir())
	out, err := io.ReadAll(h.out)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Wait(); err != nil {
		t.Error(err)
	}
	want := `cgroup controller "memory" is not available for linux.resources.memory.limit: parent cgroup "/" does not delegate it` + "\nwithout: <nil>\n"
	if string(out) != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}
}
