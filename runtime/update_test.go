package runtime

import (
	"strings"
	"testing"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/runtime/bundle"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A container's limits, an update, what is written for it, and what is recorded.
func TestChangeResources(t *testing.T) {
	const m = "memory.max = "
	for _, tt := range []struct{ name, have, update, written, recorded string }{
		{"nothing", `{"pids":{"limit":5}}`, `{}`, ``, `"pids":{"limit":5}`},
		// What docker sends when one thing changes.
		{
			"zeros", `{"memory":{"limit":100},"cpu":{"shares":512}}`,
			`{"memory":{"limit":0,"reservation":0,"swap":0,"kernel":0},"cpu":{"shares":0,"quota":0,"period":0},"blockIO":{"weight":0},"pids":{"limit":0}}`,
			``, `"memory":{"limit":100}`,
		},
		{"memory", `{"memory":{"limit":100}}`, `{"memory":{"limit":200}}`, m + "200", `"memory":{"limit":200}`},
		{"memory keeps the sum", `{"memory":{"limit":100,"swap":300}}`, `{"memory":{"limit":200}}`, "memory.swap.max = 100; " + m + "200", `"limit":200,"swap":300`},
		{"memory above the sum", `{"memory":{"limit":100,"swap":300}}`, `{"memory":{"limit":400}}`, "error: linux.resources.memory.swap 300: is below memory.limit 400", ``},
		{"memory with unlimited swap", `{"memory":{"limit":100,"swap":-1}}`, `{"memory":{"limit":200}}`, m + "200", `"limit":200,"swap":-1`},
		{"memory off", `{"memory":{"limit":100,"swap":300}}`, `{"memory":{"limit":-1}}`, "memory.swap.max = max; " + m + "max", `"limit":-1,"swap":-1`},
		{"swap", `{"memory":{"limit":100}}`, `{"memory":{"swap":150}}`, "memory.swap.max = 50; " + m + "100", `"limit":100,"swap":150`},
		{"swap alone", `{}`, `{"memory":{"swap":150}}`, "error: linux.resources.memory.swap 150: memory plus swap cannot be limited without memory.limit", ``},
		{"swap off", `{"memory":{"limit":100,"swap":100}}`, `{"memory":{"swap":-1}}`, "memory.swap.max = max; " + m + "100", `"limit":100,"swap":-1`},
		{"reservation", `{"memory":{"limit":100}}`, `{"memory":{"reservation":50}}`, "memory.low = 50", `"limit":100,"reservation":50`},
		{"quota", `{"cpu":{"period":50000}}`, `{"cpu":{"quota":20000}}`, "cpu.max = 20000 50000", `"quota":20000,"period":50000`},
		{"period", `{"cpu":{"quota":20000}}`, `{"cpu":{"period":50000}}`, "cpu.max = 20000 50000", `"quota":20000,"period":50000`},
		{"period alone", `{}`, `{"cpu":{"period":50000}}`, "cpu.max = max 50000", `"period":50000`},
		{"burst", `{"cpu":{"quota":20000}}`, `{"cpu":{"burst":10000}}`, "cpu.max.burst = 10000", `"quota":20000,"burst":10000`},
		{"shares", `{"cpu":{"quota":20000}}`, `{"cpu":{"shares":1024}}`, "cpu.weight = 100", `"shares":1024,"quota":20000`},
		{"idle", `{"cpu":{"shares":512}}`, `{"cpu":{"idle":1}}`, "cpu.idle = 1", `"shares":512,"idle":1`},
		{"shares while idle", `{"cpu":{"idle":1}}`, `{"cpu":{"shares":1024}}`, "cpu.idle = 1", `"shares":1024,"idle":1`},
		{"not idle again", `{"cpu":{"shares":1024,"idle":1}}`, `{"cpu":{"idle":0}}`, "cpu.idle = 0; cpu.weight = 100", `"shares":1024,"idle":0`},
		{"realtime", `{}`, `{"cpu":{"realtimeRuntime":5}}`, "error: linux.resources.cpu.realtimeRuntime 5: cgroup v2 has no realtime limits", ``},
		{"cpuset", `{"cpu":{"cpus":"0","mems":"0"}}`, `{"cpu":{"cpus":"1"}}`, "cpuset.cpus = 1", `"cpus":"1","mems":"0"`},
		{"pids", `{}`, `{"pids":{"limit":-1}}`, "pids.max = max", `"pids":{"limit":-1}`},
		{"weight", `{"blockIO":{"weight":20}}`, `{"blockIO":{"weight":1000}}`, "io.bfq.weight = 1000", `"blockIO":{"weight":1000}`},
		{
			"throttle", `{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1},{"major":8,"minor":16,"rate":2}]}}`,
			`{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":16,"rate":0},{"major":8,"minor":32,"rate":4}]}}`,
			"io.max = 8:16 rbps=max; io.max = 8:32 rbps=4",
			`[{"major":8,"minor":0,"rate":1},{"major":8,"minor":16,"rate":0},{"major":8,"minor":32,"rate":4}]`,
		},
		{"huge pages", `{"hugepageLimits":[{"pageSize":"2MB","limit":2}]}`, `{"hugepageLimits":[{"pageSize":"2MB","limit":4}]}`, "hugetlb.2MB.max = 4; hugetlb.2MB.rsvd.max = 4", `"hugepageLimits":[{"pageSize":"2MB","limit":4}]`},
		{"rdma", `{"rdma":{"m":{"hcaHandles":1}}}`, `{"rdma":{"m":{"hcaObjects":2}}}`, "rdma.max = m hca_object=2", `"m":{"hcaHandles":1,"hcaObjects":2}`},
		{"unified", `{"unified":{"memory.high":"5"}}`, `{"unified":{"memory.low":"1"}}`, "memory.low = 1", `"memory.high":"5","memory.low":"1"`},
		// Or the next reader would find the old value, which comes last.
		{"a field over unified", `{"unified":{"memory.high":"5","memory.max":"9"}}`, `{"memory":{"limit":7}}`, m + "7", `"unified":{"memory.high":"5"}`},
		{"devices stay", `{"devices":[{"allow":true}]}`, `{"devices":[{"allow":false}],"network":{"classID":7}}`, ``, `"devices":[{"allow":true}]`},
	} {
		whole, update := resources(t, tt.have), resources(t, tt.update)
		l, err := cgroups.FromOCIUpdate(changeResources(whole, update))
		written := ""
		if err != nil {
			written = "error: " + err.Error()
		} else {
			overruled(whole, l)
			var s []string
			for i := range l.Settings {
				s = append(s, l.Settings[i].File+" = "+l.Settings[i].Value)
			}
			written = strings.Join(s, "; ")
		}
		if written != tt.written {
			t.Errorf("%s: written\n%s, want\n%s", tt.name, written, tt.written)
		}
		raw, err := bundle.AppendJSON(nil, &specs.Spec{Linux: &specs.Linux{Resources: whole}})
		if got := strings.Join(strings.Fields(string(raw)), ""); err != nil || !strings.Contains(got, tt.recorded) {
			t.Errorf("%s: recorded\n%s, want in it\n%s", tt.name, got, tt.recorded)
		}
	}
}

func resources(t *testing.T, json string) *specs.LinuxResources {
	t.Helper()
	r, err := bundle.ParseResources([]byte(json))
	if err != nil {
		t.Fatal(err)
	}
	return r
}
