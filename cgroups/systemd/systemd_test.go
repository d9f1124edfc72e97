package systemd

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/minirun/minirun/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestParsePath(t *testing.T) {
	for _, tt := range []struct {
		path string
		user bool
		want string // the group below the manager's, or an error
	}{
		{"", false, "/system.slice/minirun-id.scope"},
		{"", true, "/user.slice/minirun-id.scope"},
		{"system.slice:docker:1234", false, "/system.slice/docker-1234.scope"},
		{":libpod:1234", true, "/user.slice/libpod-1234.scope"},
		{"user.slice::x", false, "/user.slice/x.scope"},
		{"-.slice:a:b", false, "/a-b.scope"},
		{"kubepods-besteffort-pod1_2.slice:cri-containerd:a", false, "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice/cri-containerd-a.scope"},
		{"/minirun/x", false, `expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "/minirun/x" instead`},
		{"a:b", false, "slice:prefix:name"},
		{"a:b:c:d", false, "slice:prefix:name"},
		{"system:b:c", false, "the slice must be a name"},
		{"../x.slice:b:c", false, "the slice must be a name"},
		{"a--b.slice:b:c", false, "the slice must be a name"},
		{"-a.slice:b:c", false, "the slice must be a name"},
		{"a-.slice:b:c", false, "the slice must be a name"},
		{".slice:b:c", false, "the slice must be a name"},
		{"system.slice:b:c.slice", false, "is a scope"},
		{"system.slice:b:", false, "prefix and name"},
		{"system.slice:b:c/d", false, "prefix and name"},
		{"system.slice:b:c d", false, "prefix and name"},
		{"system.slice:b:" + strings.Repeat("c", 300), false, "prefix and name"},
	} {
		u, err := ParsePath(tt.path, "id", tt.user)
		got := u.Dir()
		if err != nil {
			got = err.Error()
		}
		if got != tt.want && (err == nil || !strings.Contains(got, tt.want)) || strings.HasPrefix(tt.want, "/") != (err == nil) {
			t.Errorf("%q: got %s, want %s", tt.path, got, tt.want)
		}
	}
}

func show(list []Property) string {
	var s []string
	for _, p := range list {
		s = append(s, fmt.Sprintf("%s=%s:%v", p.Name, p.Type, p.Value))
	}
	return strings.Join(s, " ")
}

func TestProperties(t *testing.T) {
	i := func(n int64) *int64 { return &n }
	u := func(n uint64) *uint64 { return &n }
	for _, tt := range []struct {
		r    specs.LinuxResources
		idle bool
		want string
	}{
		{specs.LinuxResources{}, true, ""},
		{specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: i(1 << 20), Reservation: i(4096), Swap: i(3 << 20)}}, true, "MemorySwapMax=t:2097152 MemoryMax=t:1048576 MemoryLow=t:4096"},
		{specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: i(-1)}}, true, "MemorySwapMax=t:18446744073709551615 MemoryMax=t:18446744073709551615"},
		{specs.LinuxResources{Pids: &specs.LinuxPids{Limit: i(7)}}, true, "TasksMax=t:7"},
		{specs.LinuxResources{Pids: &specs.LinuxPids{Limit: i(-1)}}, true, "TasksMax=t:18446744073709551615"},
		{specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: i(50000), Period: u(200000)}}, true, "CPUQuotaPeriodUSec=t:200000 CPUQuotaPerSecUSec=t:250000"},
		{specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: i(33333), Period: u(100000)}}, true, "CPUQuotaPeriodUSec=t:100000 CPUQuotaPerSecUSec=t:340000"}, // whole percents
		{specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: i(-1)}}, true, "CPUQuotaPeriodUSec=t:100000 CPUQuotaPerSecUSec=t:18446744073709551615"},
		{specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: i(1)}}, true, "CPUWeight=t:0"},
		{specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: i(1)}}, false, ""},
		{specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0-2,9", Mems: "0"}}, true, "AllowedCPUs=ay:[7 2] AllowedMemoryNodes=ay:[1]"},
		{specs.LinuxResources{Unified: map[string]string{"memory.high": "max", "memory.min": "4096", "cpu.weight": "300", "pids.max": "3", "io.weight": "default 50"}}, true, "CPUWeight=t:300 IOWeight=t:50 MemoryHigh=t:18446744073709551615 MemoryMin=t:4096 TasksMax=t:3"},
	} {
		l, err := cgroups.FromOCI(&tt.r)
		if err != nil {
			t.Fatal(err)
		}
		if got := show(Properties(l, func() bool { return tt.idle })); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}

// Annotations reach systemd as properties of a unit, some of which run programs
// on the host (CVE-2024-3154).
func TestFromAnnotations(t *testing.T) {
	for _, tt := range []struct{ key, value, want string }{
		{"TimeoutStopUSec", "uint64 5000000", "TimeoutStopUSec=t:5000000"},
		{"TimeoutStopSec", "2.5", "TimeoutStopUSec=t:2500000"},
		{"CollectMode", "'inactive-or-failed'", "CollectMode=s:inactive-or-failed"},
		{"DefaultDependencies", "true", "DefaultDependencies=b:true"},
		{"Description", `"a b"`, "Description=s:a b"},
		{"After", "['a.service', \"b.mount\"]", "After=as:[a.service b.mount]"},
		{"Before", "@as []", "Before=as:[]"},
		{"TimeoutStopUSec", "soon", ""},
		{"TimeoutStopSec", "-1", ""},
		{"TimeoutStopSec", "NaN", ""},
		{"CollectMode", "inactive", ""},
		{"CollectMode", "'never'", ""},
		{"Description", `'a' 'b'`, ""},
		{"After", "['a.service'", ""},
		{"After", "['../x']", ""},
		{"ExecStopPost", "[('/bin/sh', ['sh'], false)]", ""},
		{"ExecStop", "@a(sasb) []", ""},
		{"SuccessAction", "'poweroff-force'", ""},
		{"FailureAction", "'reboot'", ""},
		{"OnSuccess", "['evil.service']", ""},
		{"Wants", "['evil.service']", ""},
		{"Requires", "['evil.service']", ""},
		{"Slice", "'other.slice'", ""},
		{"PIDs", "@au [1]", ""},
		{"Delegate", "false", ""},
		{"User", "'root'", ""},
		{"", "true", ""},
	} {
		got, err := FromAnnotations(map[string]string{AnnotationPrefix + tt.key: tt.value, "org.systemd.other": "x"})
		if show(got) != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s = %s: got %s, %v, want %s", tt.key, tt.value, show(got), err, tt.want)
		}
		var refused *AnnotationError
		if err != nil && (!errors.As(err, &refused) || !strings.HasPrefix(err.Error(), `annotations["org.systemd.property.`+tt.key+`"]: `)) {
			t.Errorf("%s: the error has no path: %v", tt.key, err)
		}
	}
}
