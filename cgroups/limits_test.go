package cgroups

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func resources(t *testing.T, text string) *specs.LinuxResources {
	t.Helper()
	r := new(specs.LinuxResources)
	if err := json.Unmarshal([]byte(text), r); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFromOCI(t *testing.T) {
	tests := []struct {
		name, json  string
		controllers string
		want        string
	}{
		{"empty", `{}`, "", ""},
		{"docker update with zeros", `{"memory":{"limit":0,"reservation":0,"swap":0,"kernel":0},"cpu":{"shares":0,"quota":0,"period":0},"blockIO":{"weight":0}}`, "", ""},
		{"defaults need no controller", `{"cpu":{"shares":1024,"quota":-1,"period":100000,"burst":0,"idle":0},"pids":{"limit":-1},"memory":{"limit":-1}}`, "", `
pids.max = max  (linux.resources.pids.limit, the default)
memory.swap.max = max  (linux.resources.memory.limit, the default)
memory.max = max  (linux.resources.memory.limit, the default)
cpu.idle = 0  (linux.resources.cpu.idle, the default)
cpu.weight = 100  (linux.resources.cpu.shares, the default)
cpu.max.burst = 0  (linux.resources.cpu.burst, the default)
cpu.max = max 100000  (linux.resources.cpu.quota, the default)`},
		{"quota with the default period", `{"cpu":{"quota":50000}}`, "cpu", `
cpu.max = 50000 100000  (linux.resources.cpu.quota)`},
		{"quota and period and burst", `{"cpu":{"quota":50000,"period":20000,"burst":1000}}`, "cpu", `
cpu.max.burst = 1000  (linux.resources.cpu.burst)
cpu.max = 50000 20000  (linux.resources.cpu.quota)`},
		{"period alone limits nothing", `{"cpu":{"period":20000}}`, "", `
cpu.max = max 20000  (linux.resources.cpu.period, the default)`},
		{"shares", `{"cpu":{"shares":512}}`, "cpu", `
cpu.weight = 59  (linux.resources.cpu.shares)`},
		{"idle has no weight", `{"cpu":{"shares":512,"idle":1}}`, "cpu", `
cpu.idle = 1  (linux.resources.cpu.idle)`},
		{"cpuset", `{"cpu":{"cpus":"0-1","mems":"0"}}`, "cpuset", `
cpuset.cpus = 0-1  (linux.resources.cpu.cpus)
cpuset.mems = 0  (linux.resources.cpu.mems)`},
		{"realtime period alone", `{"cpu":{"realtimePeriod":1000000,"realtimeRuntime":0}}`, "", ""},
		{"memory", `{"memory":{"limit":1048576,"reservation":524288,"swappiness":60,"kernel":4096,"disableOOMKiller":true}}`, "memory", `
memory.max = 1048576  (linux.resources.memory.limit)
memory.low = 524288  (linux.resources.memory.reservation)`},
		{"swap is the difference", `{"memory":{"limit":1048576,"swap":3145728}}`, "memory", `
memory.swap.max = 2097152  (linux.resources.memory.swap)
memory.max = 1048576  (linux.resources.memory.limit)`},
		{"no swap", `{"memory":{"limit":1048576,"swap":1048576}}`, "memory", `
memory.swap.max = 0  (linux.resources.memory.swap, the default)
memory.max = 1048576  (linux.resources.memory.limit)`},
		{"unlimited swap", `{"memory":{"limit":1048576,"swap":-1}}`, "memory", `
memory.swap.max = max  (linux.resources.memory.swap, the default)
memory.max = 1048576  (linux.resources.memory.limit)`},
		{"swap without a memory limit", `{"memory":{"limit":-1,"swap":4096}}`, "memory", `
memory.swap.max = 4096  (linux.resources.memory.swap)
memory.max = max  (linux.resources.memory.limit, the default)`},
		{"pids", `{"pids":{"limit":2048}}`, "pids", `
pids.max = 2048  (linux.resources.pids.limit)`},
		{"pids 0 is a limit", `{"pids":{"limit":0}}`, "pids", `
pids.max = 1  (linux.resources.pids.limit)`},
		{"pids absent", `{"pids":{}}`, "", ""},
		{"io", `{"blockIO":{"weight":500,"leafWeight":300,"weightDevice":[{"major":8,"minor":0,"weight":10}],
			"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1048576}],"throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":0}]}}`, "io", `
io.bfq.weight = 500, without that file io.weight = 4950  (linux.resources.blockIO.weight)
io.bfq.weight = 8:0 10, without that file io.weight = 8:0 1  (linux.resources.blockIO.weightDevice[0])
io.max = 8:0 rbps=1048576  (linux.resources.blockIO.throttleReadBpsDevice[0])
io.max = 8:16 wiops=max  (linux.resources.blockIO.throttleWriteIOPSDevice[0], the default)`},
		{"io, the other two", `{"blockIO":{"throttleWriteBpsDevice":[{"major":8,"minor":0,"rate":7}],"throttleReadIOPSDevice":[{"major":259,"minor":3,"rate":9}]}}`, "io", `
io.max = 8:0 wbps=7  (linux.resources.blockIO.throttleWriteBpsDevice[0])
io.max = 259:3 riops=9  (linux.resources.blockIO.throttleReadIOPSDevice[0])`},
		{"hugepages", `{"hugepageLimits":[{"pageSize":"2MB","limit":0}]}`, "hugetlb", `
hugetlb.2MB.max = 0  (linux.resources.hugepageLimits[0].limit)
hugetlb.2MB.rsvd.max = 0  (linux.resources.hugepageLimits[0].limit)`},
		{"rdma", `{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10000},"mlx4_0":{"hcaObjects":1},"none":{}}}`, "rdma", `
rdma.max = mlx4_0 hca_object=1  (linux.resources.rdma["mlx4_0"])
rdma.max = mlx5_1 hca_handle=3 hca_object=10000  (linux.resources.rdma["mlx5_1"])`},
		{"network is v1 only", `{"network":{"classID":1048577}}`, "", ""},
		{"unified comes last", `{"unified":{"memory.high":"4096","cpuset.cpus":"","io.max":"8:0 rbps=1\n8:16 wbps=2\n","cpu.max":"max"},"pids":{"limit":5}}`, "cpuset io memory pids", `
pids.max = 5  (linux.resources.pids.limit)
cpu.max = max  (linux.resources.unified["cpu.max"], the default)
cpuset.cpus =   (linux.resources.unified["cpuset.cpus"])
io.max = 8:0 rbps=1  (linux.resources.unified["io.max"])
io.max = 8:16 wbps=2  (linux.resources.unified["io.max"])
memory.high = 4096  (linux.resources.unified["memory.high"])`},
		{"unified core files need no controller", `{"unified":{"cgroup.max.depth":"3"}}`, "", `
cgroup.max.depth = 3  (linux.resources.unified["cgroup.max.depth"])`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := FromOCIUpdate(resources(t, tt.json))
			if err != nil {
				t.Fatal(err)
			}
			if got, want := strings.TrimSpace(l.String()), strings.TrimSpace(tt.want); got != want {
				t.Errorf("limits of %s:\n%s\nwant\n%s", tt.json, got, want)
			}
			if got := strings.Join(l.Controllers, " "); got != tt.controllers {
				t.Errorf("controllers %q, want %q", got, tt.controllers)
			}
			for _, c := range l.Controllers {
				if !strings.HasPrefix(l.Field(c), "linux.resources.") {
					t.Errorf("no field for controller %q", c)
				}
			}
		})
	}
}

func TestFromOCI_CheckBeforeUpdate(t *testing.T) {
	l, err := FromOCIUpdate(resources(t, `{"memory":{"limit":4096,"checkBeforeUpdate":true}}`))
	if err != nil || len(l.Settings) != 1 || l.Settings[0].AtLeast != "memory.current" {
		t.Errorf("got %+v, %v", l, err)
	}
}

func TestFromOCI_Refused(t *testing.T) {
	tests := []struct{ json, want, hint string }{
		{`{"cpu":{"realtimeRuntime":950000}}`, "linux.resources.cpu.realtimeRuntime 950000: cgroup v2 has no realtime limits", "remove it"},
		{`{"cpu":{"idle":2}}`, "linux.resources.cpu.idle 2: is neither 0 nor 1", "use 0 or 1"},
		{`{"cpu":{"quota":50000,"burst":50001}}`, "linux.resources.cpu.burst 50001: is above cpu.quota 50000", "at most"},
		{`{"cpu":{"cpus":"0\n1"}}`, `linux.resources.cpu.cpus "0\n1": contains white space`, "0-3,7"},
		{`{"memory":{"limit":-2}}`, "linux.resources.memory.limit -2: is negative", "-1"},
		{`{"memory":{"swap":4096}}`, "linux.resources.memory.swap 4096: memory plus swap cannot be limited without memory.limit", "memory.limit"},
		{`{"memory":{"limit":8192,"swap":4096}}`, "linux.resources.memory.swap 4096: is below memory.limit 8192", "at least"},
		{`{"blockIO":{"weight":9}}`, "linux.resources.blockIO.weight 9: is not between 10 and 1000", "10 to 1000"},
		{`{"blockIO":{"weight":1001}}`, "linux.resources.blockIO.weight 1001: is not between 10 and 1000", ""},
		{`{"blockIO":{"throttleReadBpsDevice":[{"major":-1,"minor":0,"rate":1}]}}`, "linux.resources.blockIO.throttleReadBpsDevice[0] -1:0: is no device number", ""},
		{`{"hugepageLimits":[{"pageSize":"../2MB","limit":0}]}`, `linux.resources.hugepageLimits[0].pageSize "../2MB": is not a page size`, "2MB"},
		{`{"rdma":{"a b":{"hcaHandles":3}}}`, `linux.resources.rdma["a b"]: is no device name`, ""},
		{`{"unified":{"../x.y":"1"}}`, `linux.resources.unified["../x.y"] "1": the key is no file of a cgroup`, "CONTROLLER.FILE"},
		{`{"unified":{"memory/high.x":"1"}}`, `linux.resources.unified["memory/high.x"] "1": the key is no file of a cgroup`, ""},
		{`{"unified":{"memory":"1"}}`, `linux.resources.unified["memory"] "1": the key is no file of a cgroup`, ""},
		{`{"unified":{"":"1"}}`, `linux.resources.unified[""] "1": the key is no file of a cgroup`, ""},
		{`{"unified":{"cgroup.procs":"1"}}`, `linux.resources.unified["cgroup.procs"] "1": the file acts on processes and limits nothing`, "remove it"},
		{`{"unified":{"cgroup.freeze":"1"}}`, `linux.resources.unified["cgroup.freeze"] "1": the file acts on processes and limits nothing`, ""},
		{`{"unified":{"memory.high":"1\u0000"}}`, `linux.resources.unified["memory.high"] "1\x00": contains a NUL byte`, ""},
	}
	for _, tt := range tests {
		_, err := FromOCI(resources(t, tt.json))
		fe, ok := errors.AsType[*FieldError](err)
		if !ok || err.Error() != tt.want {
			t.Errorf("%s:\n got %v\nwant %s", tt.json, err, tt.want)
		} else if !strings.Contains(fe.Hint(), tt.hint) || fe.Hint() == "" {
			t.Errorf("%s: hint %q, want %q in it", tt.json, fe.Hint(), tt.hint)
		}
	}
}

func TestFromOCI_Nil(t *testing.T) {
	l, err := FromOCI(nil)
	if err != nil || len(l.Settings) != 0 || len(l.Controllers) != 0 {
		t.Fatalf("got %+v, %v", l, err)
	}
	want := `devices: deny a *:* rwm
devices: allow c *:* m
devices: allow b *:* m
devices: allow c 1:3 rwm
devices: allow c 1:5 rwm
devices: allow c 1:7 rwm
devices: allow c 1:8 rwm
devices: allow c 1:9 rwm
devices: allow c 5:0 rwm
devices: allow c 5:2 rwm
devices: allow c 136:* rwm
devices: allow c 10:200 rwm
`
	if got := l.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if u, err := FromOCIUpdate(nil); err != nil || u.Devices != nil {
		t.Errorf("an update of nothing: %+v, %v", u, err)
	}
}

// FromOCI must not write into the caller's slice of rules.
func TestFromOCI_KeepsRules(t *testing.T) {
	rules := make([]specs.LinuxDeviceCgroup, 1, 64)
	rules[0] = specs.LinuxDeviceCgroup{Access: "rwm"}
	if _, err := FromOCI(&specs.LinuxResources{Devices: rules}); err != nil {
		t.Fatal(err)
	}
	if next := rules[:2][1]; next.Access != "" {
		t.Errorf("the rule behind the caller's slice became %+v", next)
	}
}

func TestWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{1: 1, 2: 1, 10: 4, 100: 17, 256: 35, 512: 59, 1024: 100, 2048: 174, 10240: 639, 262143: 10000, 262144: 10000, math.MaxUint64: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("weight(%d) = %d, want %d", shares, got, want)
		}
	}
	last := uint64(0)
	for s := uint64(1); s < 262200; s++ {
		w := weight(s)
		if w < last || w < 1 || w > 10000 {
			t.Fatalf("weight(%d) = %d after %d", s, w, last)
		}
		last = w
	}
	// The exact formula gives the default without the special case too.
	l := math.Log2(1024)
	if x := math.Pow(10, (l*l+125*l)/612-7.0/34); math.Abs(x-100) > 1e-9 {
		t.Errorf("the curve misses the default: %v", x)
	}
}

// Whatever the configuration says, a setting is one line for one file of the group.
func FuzzFromOCI(f *testing.F) {
	f.Add(`{"cpu":{"shares":2,"quota":-5,"period":1,"cpus":"0-1"},"unified":{"a.b":"1\n\n2","../c":""}}`)
	f.Add(`{"memory":{"limit":9223372036854775807,"swap":-1},"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":10}]}}`)
	f.Add(`{"hugepageLimits":[{"pageSize":"2MB"}],"rdma":{"x":{"hcaHandles":1}},"devices":[{"allow":true,"type":"c","access":"m"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		r := new(specs.LinuxResources)
		if json.Unmarshal([]byte(text), r) != nil {
			return
		}
		l, err := FromOCI(r)
		if err != nil {
			if h, ok := err.(interface{ Hint() string }); !ok || h.Hint() == "" || !strings.HasPrefix(err.Error(), "linux.resources.") {
				t.Fatalf("%q: error %q", text, err)
			}
			return
		}
		for i := range l.Settings {
			for s := &l.Settings[i]; s != nil; s = s.Else {
				if !plainName(s.File) || strings.ContainsAny(s.Value, "\n\x00") || !strings.HasPrefix(s.Field, "linux.resources.") {
					t.Fatalf("%q: %+v", text, s)
				}
			}
		}
	})
}
