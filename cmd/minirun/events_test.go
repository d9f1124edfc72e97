package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minirun/minirun/cgroups"
)

// The files of a group and what events makes of them. Names, order and units are
// those of runc 1.3, which engines read.
func TestStatsJSON(t *testing.T) {
	const psi = `{"some":{"avg10":1.5,"avg60":0.07,"avg300":0,"total":1234},"full":{"avg10":0,"avg60":0,"avg300":0,"total":9}}`
	const zero = `"cpu_exclusive":0,` // cpuset, of cgroup v1
	const rest = `"mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,"memory_spread_page":0,"memory_spread_slab":0,"memory_pressure":0,"sched_load_balance":0,"sched_relax_domain_level":0}`
	const nothing = `{"limit":0,"failcnt":0}`
	pressure := "some avg10=1.50 avg60=0.07 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n"
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"no controllers", map[string]string{"cpu.stat": "usage_usec 3\nuser_usec 2\nsystem_usec 1\nnice_usec 0\n", "cgroup.procs": "1\n2\n"}, `{"cpu":{"usage":{"total":3000,"kernel":1000,"user":2000},"throttling":{}},` +
			`"cpuset":{` + zero + rest + `,"memory":{"usage":` + nothing + `,"swap":` + nothing + `,"kernel":` + nothing + `,"kernelTCP":` + nothing + `},` +
			`"pids":{"current":2},"blkio":{},"hugetlb":{},"intel_rdt":{},"network_interfaces":null}`},
		{"all", map[string]string{
			"cpu.stat":     "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 7\nnr_throttled 3\nthrottled_usec 5\nnr_bursts 0\nburst_usec 0\n",
			"cpu.pressure": pressure, "memory.pressure": pressure, "io.pressure": pressure,
			"cpuset.cpus.effective": "0-2,7\n", "cpuset.mems.effective": "0\n",
			"memory.current": "100\n", "memory.max": "4096\n", "memory.peak": "200\n", "memory.swap.current": "50\n", "memory.swap.max": "1000\n",
			"memory.stat": "file 11\nanon 22\n", "pids.current": "4\n", "pids.max": "9\n",
			"io.stat":      "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16 rbytes=0 wbytes=0 rios=0 wios=0 dbytes=0 dios=0\n",
			"rdma.current": "m0 hca_handle=1 hca_object=2\n", "rdma.max": "m0 hca_handle=3 hca_object=max\n",
			"misc.current": "sev 1\n", "misc.max": "sev 5\n",
		}, `{"cpu":{"usage":{"total":30000,"kernel":10000,"user":20000},"throttling":{"periods":7,"throttledPeriods":3,"throttledTime":5000},"psi":` + psi + `},` +
			`"cpuset":{"cpus":[0,1,2,7],` + zero + `"mems":[0],` + rest + `,"memory":{"cache":11,"usage":{"limit":4096,"usage":100,"max":200,"failcnt":0},` +
			`"swap":{"limit":5096,"usage":150,"failcnt":0},"kernel":` + nothing + `,"kernelTCP":` + nothing + `,"raw":{"anon":22,"file":11},"psi":` + psi + `},` +
			`"pids":{"current":4,"limit":9},"blkio":{"ioServiceBytesRecursive":[{"major":8,"op":"Read","value":1},{"major":8,"op":"Write","value":2},` +
			`{"major":8,"minor":16,"op":"Read"},{"major":8,"minor":16,"op":"Write"}],` +
			`"ioServicedRecursive":[{"major":8,"op":"Read","value":3},{"major":8,"op":"Write","value":4},{"major":8,"minor":16,"op":"Read"},{"major":8,"minor":16,"op":"Write"}],"psi":` + psi + `},` +
			`"hugetlb":{},"intel_rdt":{},"network_interfaces":null,` +
			`"rdma":{"m0":{"hca_handle":{"usage":1,"limit":3},"hca_object":{"usage":2,"limit":18446744073709551615}}},"misc":{"sev":{"usage":1,"limit":5}}}`},
		{"no limits", map[string]string{
			"memory.current": "100\n", "memory.max": "max\n", "memory.swap.current": "0\n", "memory.swap.max": "1000\n", "pids.current": "4\n", "pids.max": "max\n",
		}, `"memory":{"usage":{"limit":18446744073709551615,"usage":100,"failcnt":0},"swap":{"limit":18446744073709551615,"usage":100,"failcnt":0},`},
		{"garbage", map[string]string{"cpu.stat": "usage_usec\n\nx y z\n", "memory.current": "x\n", "io.stat": "\n8:0\n:\nx y\n", "cpu.pressure": "\nsome\nfull avg10=x\n", "cpuset.cpus.effective": "9-\n-,x,3-1,65535-70000\n"}, `"pids":{},`},
	} {
		g := cgroups.Open(t.TempDir(), "/g")
		if err := os.Mkdir(g.Dir(), 0o755); err != nil {
			t.Fatal(err)
		}
		files := map[string]string{"cgroup.controllers": "", "cgroup.procs": ""}
		for name, text := range tt.files {
			files[name] = text
		}
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(g.Dir(), name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		s, err := g.Stats()
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		got := string(appendStats(nil, s))
		if !json.Valid([]byte(got)) {
			t.Errorf("%s: not JSON: %s", tt.name, got)
		}
		if got != tt.want && (strings.HasPrefix(tt.want, "{") || !strings.Contains(got, tt.want)) {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
	}
}
