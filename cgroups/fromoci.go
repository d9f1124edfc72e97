package cgroups

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const root = "linux.resources."

// FromOCI translates linux.resources of a new container; r may be nil. The
// result always has a device filter: the rules of r and then [DefaultDevices],
// as in runc. The error is a *FieldError.
//
// Zero and absent values mean "leave alone", as clients expect who send all
// fields of an update with zeros in the ones they do not mean. Values that
// equal the kernel's default become Optional settings.
func FromOCI(r *specs.LinuxResources) (*Limits, error) {
	l, err := FromOCIUpdate(r)
	if err != nil {
		return nil, err
	}
	var rules []specs.LinuxDeviceCgroup
	if r != nil {
		rules = r.Devices
	}
	l.Devices, err = DeviceFilter(append(rules[:len(rules):len(rules)], DefaultDevices()...))
	return l, err
}

// FromOCIUpdate is FromOCI for a container that exists: the device filter stays
// as it is, since updates do not carry the rules of the container.
//
// Two settings come from two fields each. memory.swap and cpu.period mean
// little without memory.limit and cpu.quota: a caller that updates one of a
// pair has to fill in the other from what the container had.
func FromOCIUpdate(r *specs.LinuxResources) (*Limits, error) {
	t := new(translation)
	if r == nil {
		return &t.Limits, nil
	}
	t.pids(r.Pids)
	t.memory(r.Memory)
	t.blockIO(r.BlockIO)
	t.cpu(r.CPU)
	t.hugepages(r.HugepageLimits)
	t.rdma(r.Rdma)
	// r.Network (net_cls, net_prio) exists on v1 only; runc ignores it too.
	t.unified(r.Unified) // last: it may overrule the others
	if t.err != nil {
		return nil, t.err
	}
	t.need()
	return &t.Limits, nil
}

// translation is the state of FromOCI: limits so far, or the first error.
type translation struct {
	Limits
	err error
}

func (t *translation) add(s Setting) { t.Settings = append(t.Settings, s) }

func (t *translation) fail(field, value, reason, way string) {
	if t.err == nil {
		t.err = &FieldError{root + field, value, reason, way}
	}
}

func itoa(n int64) string  { return strconv.FormatInt(n, 10) }
func utoa(n uint64) string { return strconv.FormatUint(n, 10) }

// limit formats a limit where every negative number means none.
func limit(n int64) string {
	if n < 0 {
		return "max"
	}
	return itoa(n)
}

// pids: absent is unset, negative is no limit. Zero is a limit since version
// 1.3 of the specification and is written as 1, as runc does: init exists in
// both cases and can fork in neither, but with 0 even clone3(2) into the group
// fails.
func (t *translation) pids(p *specs.LinuxPids) {
	if p == nil || p.Limit == nil {
		return
	}
	n := *p.Limit
	if n == 0 {
		n = 1
	}
	t.add(Setting{File: "pids.max", Value: limit(n), Field: root + "pids.limit", Optional: n < 0})
}

func (t *translation) memory(m *specs.LinuxMemory) {
	if m == nil {
		return
	}
	// kernel, kernelTCP, swappiness, useHierarchy and disableOOMKiller have no
	// v2 counterpart; runc ignores them as well.
	num := func(name string, p *int64) int64 {
		if p == nil {
			return 0
		}
		if *p < -1 {
			t.fail("memory."+name, itoa(*p), "is negative", "use -1 for no limit")
		}
		return *p
	}
	max, swap, low := num("limit", m.Limit), num("swap", m.Swap), num("reservation", m.Reservation)
	t.swap(max, swap)
	if max != 0 {
		s := Setting{File: "memory.max", Value: limit(max), Field: root + "memory.limit", Optional: max < 0}
		if max > 0 && m.CheckBeforeUpdate != nil && *m.CheckBeforeUpdate {
			s.AtLeast = "memory.current"
		}
		t.add(s)
	}
	if low != 0 {
		t.add(Setting{File: "memory.low", Value: limit(low), Field: root + "memory.reservation", Optional: low < 0})
	}
}

// swap: OCI counts memory plus swap, v2 swap alone. memory.swap.max is missing
// on kernels without swap accounting, where no swap and unlimited swap are both
// as good as done.
func (t *translation) swap(max, swap int64) {
	const field = "memory.swap"
	s := Setting{File: "memory.swap.max", Field: root + field}
	switch {
	case swap == 0 && max == -1:
		// v1 lifted both limits when told to lift the first.
		s.Value, s.Field = "max", root+"memory.limit"
	case swap == 0:
		return
	case swap == -1:
		s.Value = "max"
	case max == -1:
		s.Value = itoa(swap)
	case max == 0:
		t.fail(field, itoa(swap), "memory plus swap cannot be limited without memory.limit", "set linux.resources.memory.limit too")
		return
	case swap < max:
		t.fail(field, itoa(swap), "is below memory.limit "+itoa(max), "memory.swap is memory plus swap: make it at least memory.limit")
		return
	default:
		s.Value = itoa(swap - max)
	}
	s.Optional = s.Value == "max" || s.Value == "0"
	t.add(s)
}

func (t *translation) cpu(c *specs.LinuxCPU) {
	if c == nil {
		return
	}
	if c.RealtimeRuntime != nil && *c.RealtimeRuntime > 0 {
		t.fail("cpu.realtimeRuntime", itoa(*c.RealtimeRuntime), "cgroup v2 has no realtime limits", "remove it and linux.resources.cpu.realtimePeriod")
	}
	idle := false
	if c.Idle != nil {
		idle = *c.Idle == 1
		if *c.Idle != 0 && !idle {
			t.fail("cpu.idle", itoa(*c.Idle), "is neither 0 nor 1", "use 0 or 1")
		}
		t.add(Setting{File: "cpu.idle", Value: itoa(*c.Idle), Field: root + "cpu.idle", Optional: !idle}) // Linux 5.15
	}
	// The weight of an idle group is fixed: writing it is EINVAL.
	if c.Shares != nil && *c.Shares != 0 && !idle {
		w := weight(*c.Shares)
		t.add(Setting{File: "cpu.weight", Value: utoa(w), Field: root + "cpu.shares", Optional: w == 100})
	}
	var quota int64
	var period uint64
	if c.Quota != nil {
		quota = *c.Quota
	}
	if c.Period != nil {
		period = *c.Period
	}
	// Burst stands before the quota, because the quota cannot go below it;
	// Apply writes it again when it was the other way round.
	if c.Burst != nil {
		if quota > 0 && *c.Burst > uint64(quota) {
			t.fail("cpu.burst", utoa(*c.Burst), "is above cpu.quota "+itoa(quota), "make it at most linux.resources.cpu.quota")
		}
		t.add(Setting{File: "cpu.max.burst", Value: utoa(*c.Burst), Field: root + "cpu.burst", Optional: *c.Burst == 0})
	}
	if quota != 0 || period != 0 {
		s := Setting{File: "cpu.max", Value: "max", Field: root + "cpu.quota", Optional: quota <= 0}
		if quota > 0 {
			s.Value = itoa(quota)
		} else if quota == 0 {
			s.Field = root + "cpu.period"
		}
		if period == 0 {
			period = 100000 // the kernel's default, in microseconds
		}
		s.Value += " " + utoa(period)
		t.add(s)
	}
	t.cpuset("cpus", c.Cpus)
	t.cpuset("mems", c.Mems)
}

func (t *translation) cpuset(name, list string) {
	if list == "" {
		return
	}
	if strings.ContainsAny(list, " \t\r\n\x00") {
		t.fail("cpu."+name, strconv.Quote(list), "contains white space", "write a list such as 0-3,7")
		return
	}
	t.add(Setting{File: "cpuset." + name, Value: list, Field: root + "cpu." + name})
}

// weight converts cpu.shares (2..262144, default 1024) to cpu.weight (1..10000,
// default 100). The curve is quadratic in the logarithms and meets both ends and
// the default; runc 1.3.2 and crun 1.23 use it. Their older straight line gave a
// container with the default shares less than half of a default weight.
func weight(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares == 1024:
		return 100 // whatever the rounding of the platform
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

func (t *translation) hugepages(limits []specs.LinuxHugepageLimit) {
	for i, h := range limits {
		field := "hugepageLimits[" + strconv.Itoa(i) + "]"
		if !plainName(h.Pagesize) || strings.Contains(h.Pagesize, ".") {
			t.fail(field+".pageSize", strconv.Quote(h.Pagesize), "is not a page size", `write it as "2MB" or "1GB"`)
			return
		}
		file, value := "hugetlb."+h.Pagesize, utoa(h.Limit)
		// Both the pages in use and the reservations (Linux 5.7): without the
		// second a process may reserve what it then dies of using.
		t.add(Setting{File: file + ".max", Value: value, Field: root + field + ".limit"})
		t.add(Setting{File: file + ".rsvd.max", Value: value, Field: root + field + ".limit"})
	}
}

func (t *translation) rdma(devices map[string]specs.LinuxRdma) {
	for _, name := range sortedKeys(devices) {
		d, value := devices[name], name
		field := "rdma[" + strconv.Quote(name) + "]"
		if name == "" || strings.ContainsAny(name, " =\t\n\x00") {
			t.fail(field, "", "is no device name", "use a name from /sys/class/infiniband")
			return
		}
		if d.HcaHandles != nil {
			value += " hca_handle=" + utoa(uint64(*d.HcaHandles))
		}
		if d.HcaObjects != nil {
			value += " hca_object=" + utoa(uint64(*d.HcaObjects))
		}
		if value != name {
			t.add(Setting{File: "rdma.max", Value: value, Field: root + field})
		}
	}
}

// unified: the keys are files of the group, the values are written line by line.
func (t *translation) unified(files map[string]string) {
	for _, file := range sortedKeys(files) {
		field := "unified[" + strconv.Quote(file) + "]"
		value := files[file]
		controller, _, ok := strings.Cut(file, ".")
		switch {
		case !plainName(file) || !ok || controller == "":
			t.fail(field, strconv.Quote(value), "the key is no file of a cgroup", "use CONTROLLER.FILE, as in memory.high")
			return
		case file == "cgroup.procs" || file == "cgroup.threads" || file == "cgroup.kill" || file == "cgroup.freeze" || file == "cgroup.type":
			t.fail(field, strconv.Quote(value), "the file acts on processes and limits nothing", "remove it")
			return
		case strings.Contains(value, "\x00"):
			t.fail(field, strconv.Quote(value), "contains a NUL byte", "remove it")
			return
		}
		n := len(t.Settings)
		for line := range strings.SplitSeq(value, "\n") {
			if line != "" {
				t.add(Setting{File: file, Value: line, Field: root + field, Optional: line == "max"})
			}
		}
		if len(t.Settings) == n { // an empty value clears, cpuset.cpus for one
			t.add(Setting{File: file, Field: root + field})
		}
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// plainName reports whether s is made of letters, digits, "_" and "." and does
// not begin with a dot, so that it can be nothing but a file of the group.
func plainName(s string) bool {
	if s == "" || s[0] == '.' || len(s) > 255 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '.') {
			return false
		}
	}
	return true
}
