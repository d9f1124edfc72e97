package cgroups

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// NoLimit is a limit of "max".
const NoLimit = math.MaxUint64

// Stats are what a group has used. What a controller that the group lacks would
// count is zero, and nil where the type allows it.
type Stats struct {
	CPU     CPUStats
	Memory  *MemoryStats
	Pids    PidsStats
	IO      []IOStats
	Hugetlb []HugetlbStats
	RDMA    []DeviceCount
	Misc    []DeviceCount

	CPUPressure, MemoryPressure, IOPressure *Pressure
}

// CPUStats is cpu.stat, times in nanoseconds, and what cpuset.*.effective allows.
type CPUStats struct {
	Total, User, System                       uint64
	Periods, ThrottledPeriods, ThrottledNanos uint64
	CPUs, Mems                                []uint16
}

// MemoryStats are the counters of memory and swap, in bytes. Swap is swap alone.
type MemoryStats struct {
	Usage, Limit, Peak             uint64
	Swap                           bool // swap is accounted
	SwapUsage, SwapLimit, SwapPeak uint64
	File                           uint64
	Stat                           map[string]uint64 // memory.stat
}

// PidsStats is zero in Limit for "max".
type PidsStats struct{ Current, Limit uint64 }

// IOStats is one line of io.stat.
type IOStats struct {
	Major, Minor                             uint64
	ReadBytes, WriteBytes, ReadIOs, WriteIOs uint64
}

// HugetlbStats is of one size of huge pages.
type HugetlbStats struct {
	Size            string // 2MB
	Usage, Failures uint64
}

// DeviceCount is what a group has of a device (RDMA) or resource (misc): names of
// counters with usage and limit.
type DeviceCount struct {
	Name   string
	Counts []Count
}

// Count is a usage and its limit.
type Count struct {
	Name         string
	Usage, Limit uint64
}

// Pressure is one file of pressure stall information.
type Pressure struct{ Some, Full PressureLine }

// PressureLine is the share of time in per cent, over 10 s, 1 min and 5 min, and
// the total in microseconds.
type PressureLine struct {
	Avg10, Avg60, Avg300 float64
	Total                uint64
}

// Stats reads the counters of the group. A group that is gone is an error that
// matches fs.ErrNotExist or ENODEV.
func (g *Group) Stats() (*Stats, error) {
	dir, err := g.FD()
	if err != nil {
		return nil, err
	}
	defer linux.Close(dir)
	r := &statsReader{dir: dir}
	s := new(Stats)
	r.cpu(&s.CPU)
	r.memory(s)
	r.pids(g, &s.Pids)
	r.io(s)
	r.hugetlb(s)
	s.RDMA = r.devices("rdma.current", "rdma.max")
	s.Misc = r.misc()
	s.CPUPressure, s.MemoryPressure, s.IOPressure = r.pressure("cpu.pressure"), r.pressure("memory.pressure"), r.pressure("io.pressure")
	if r.err != nil {
		return nil, r.err
	}
	return s, nil
}

// statsReader reads files until one fails.
type statsReader struct {
	dir int
	err error
}

// text returns the content of a file; ok is false if the group does not have it.
// Pressure files exist where pressure is not counted, and say EOPNOTSUPP.
func (r *statsReader) text(file string) (text string, ok bool) {
	if r.err != nil {
		return "", false
	}
	b, err := linux.ReadFileAt(r.dir, file, 0)
	switch {
	case err == nil:
		return strings.TrimSuffix(string(b), "\n"), true
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.EOPNOTSUPP):
	default:
		r.err = err
	}
	return "", false
}

// number returns the single number of a file; "max" is NoLimit.
func (r *statsReader) number(file string) (n uint64, ok bool) {
	text, ok := r.text(file)
	return parseCount(text), ok
}

func parseCount(text string) uint64 {
	if text == "max" {
		return NoLimit
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (r *statsReader) cpu(c *CPUStats) {
	text, _ := r.text("cpu.stat")
	for line := range strings.SplitSeq(text, "\n") {
		key, value, _ := strings.Cut(line, " ")
		n := parseCount(value)
		switch key {
		case "usage_usec":
			c.Total = n * 1000
		case "user_usec":
			c.User = n * 1000
		case "system_usec":
			c.System = n * 1000
		case "nr_periods":
			c.Periods = n
		case "nr_throttled":
			c.ThrottledPeriods = n
		case "throttled_usec":
			c.ThrottledNanos = n * 1000
		}
	}
	cpus, _ := r.text("cpuset.cpus.effective")
	mems, _ := r.text("cpuset.mems.effective")
	c.CPUs, c.Mems = parseList(cpus), parseList(mems)
}

// parseList reads a list such as 0-3,7.
func parseList(text string) (out []uint16) {
	for part := range strings.SplitSeq(text, ",") {
		low, high, more := strings.Cut(part, "-")
		if !more {
			high = low
		}
		from, err1 := strconv.ParseUint(low, 10, 16)
		to, err2 := strconv.ParseUint(high, 10, 16)
		if err1 != nil || err2 != nil {
			continue
		}
		for n := from; n <= to; n++ {
			out = append(out, uint16(n))
		}
	}
	return out
}

func (r *statsReader) memory(s *Stats) {
	usage, ok := r.number("memory.current")
	if !ok {
		return
	}
	m := &MemoryStats{Usage: usage, Stat: map[string]uint64{}}
	m.Limit, _ = r.number("memory.max")
	m.Peak, _ = r.number("memory.peak") // Linux 5.19
	if m.SwapUsage, m.Swap = r.number("memory.swap.current"); m.Swap {
		m.SwapLimit, _ = r.number("memory.swap.max")
		m.SwapPeak, _ = r.number("memory.swap.peak") // Linux 6.5
	}
	text, _ := r.text("memory.stat")
	for line := range strings.SplitSeq(text, "\n") {
		if key, value, ok := strings.Cut(line, " "); ok {
			m.Stat[key] = parseCount(value)
		}
	}
	m.File = m.Stat["file"]
	s.Memory = m
}

// pids: without the controller, processes are counted in place of tasks.
func (r *statsReader) pids(g *Group, p *PidsStats) {
	n, ok := r.number("pids.current")
	if !ok {
		pids, err := g.Procs()
		if err != nil && r.err == nil {
			r.err = err
		}
		p.Current = uint64(len(pids))
		return
	}
	p.Current = n
	if p.Limit, _ = r.number("pids.max"); p.Limit == NoLimit {
		p.Limit = 0
	}
}

func (r *statsReader) io(s *Stats) {
	text, _ := r.text("io.stat")
	for line := range strings.SplitSeq(text, "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		major, minor, ok := strings.Cut(f[0], ":")
		if !ok {
			continue
		}
		d := IOStats{Major: parseCount(major), Minor: parseCount(minor)}
		for _, kv := range f[1:] {
			key, value, _ := strings.Cut(kv, "=")
			switch n := parseCount(value); key {
			case "rbytes":
				d.ReadBytes = n
			case "wbytes":
				d.WriteBytes = n
			case "rios":
				d.ReadIOs = n
			case "wios":
				d.WriteIOs = n
			}
		}
		s.IO = append(s.IO, d)
	}
}

// hugetlb: reservations, where the kernel counts them (Linux 5.7), include what
// is in use.
func (r *statsReader) hugetlb(s *Stats) {
	if unix.Faccessat(r.dir, "hugetlb.2MB.max", unix.F_OK, 0) != nil && unix.Faccessat(r.dir, "hugetlb.1GB.max", unix.F_OK, 0) != nil {
		if c, _ := r.text("cgroup.controllers"); !strings.Contains(" "+c+" ", " hugetlb ") {
			return
		}
	}
	sizes, err := os.ReadDir("/sys/kernel/mm/hugepages")
	if err != nil {
		return
	}
	for _, d := range sizes {
		size := hugepageSize(d.Name())
		usage, ok := r.number("hugetlb." + size + ".rsvd.current")
		if !ok {
			usage, ok = r.number("hugetlb." + size + ".current")
		}
		if !ok {
			continue
		}
		events, _ := r.text("hugetlb." + size + ".events")
		s.Hugetlb = append(s.Hugetlb, HugetlbStats{Size: size, Usage: usage, Failures: parseCount(keyed(events, "max"))})
	}
}

// hugepageSize turns hugepages-2048kB into 2MB, as the files of the controller
// have it.
func hugepageSize(name string) string {
	n := parseCount(strings.TrimSuffix(strings.TrimPrefix(name, "hugepages-"), "kB"))
	unit := "KB"
	for _, u := range [...]string{"MB", "GB"} {
		if n >= 1024 {
			n, unit = n/1024, u
		}
	}
	return utoa(n) + unit
}

// devices reads two files of lines "name key=usage key=usage".
func (r *statsReader) devices(current, limit string) (out []DeviceCount) {
	text, _ := r.text(current)
	limits, _ := r.text(limit)
	for line := range strings.SplitSeq(text, "\n") {
		name, rest, ok := strings.Cut(line, " ")
		if !ok {
			continue
		}
		d := DeviceCount{Name: name}
		for kv := range strings.FieldsSeq(rest) {
			key, value, _ := strings.Cut(kv, "=")
			c := Count{Name: key, Usage: parseCount(value)}
			for kv := range strings.FieldsSeq(keyed(limits+"\n", name)) {
				if k, v, _ := strings.Cut(kv, "="); k == key {
					c.Limit = parseCount(v)
				}
			}
			d.Counts = append(d.Counts, c)
		}
		out = append(out, d)
	}
	return out
}

// misc reads the controller for scalar resources: lines "name usage".
func (r *statsReader) misc() (out []DeviceCount) {
	text, _ := r.text("misc.current")
	limits, _ := r.text("misc.max")
	for line := range strings.SplitSeq(text, "\n") {
		if name, value, ok := strings.Cut(line, " "); ok {
			out = append(out, DeviceCount{name, []Count{{"", parseCount(value), parseCount(keyed(limits+"\n", name))}}})
		}
	}
	return out
}

func (r *statsReader) pressure(file string) *Pressure {
	text, ok := r.text(file)
	if !ok {
		return nil
	}
	p := new(Pressure)
	for line := range strings.SplitSeq(text, "\n") {
		// some avg10=0.00 avg60=0.00 avg300=0.00 total=0
		kind, rest, _ := strings.Cut(line, " ")
		l := &p.Some
		switch kind {
		case "some":
		case "full":
			l = &p.Full
		default:
			continue
		}
		for kv := range strings.FieldsSeq(rest) {
			key, value, _ := strings.Cut(kv, "=")
			switch f, _ := strconv.ParseFloat(value, 64); key {
			case "avg10":
				l.Avg10 = f
			case "avg60":
				l.Avg60 = f
			case "avg300":
				l.Avg300 = f
			case "total":
				l.Total = parseCount(value)
			}
		}
	}
	return p
}
