package main

import (
	"slices"
	"strconv"
	"time"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/internal/jsonread"
)

// eventsOptions are the flags of events.
type eventsOptions struct {
	interval time.Duration
	stats    bool
}

func eventsFlags(*app) *flagSet { return new(eventsOptions).flags() }

func (o *eventsOptions) flags() *flagSet {
	f := newFlags("events")
	o.interval = 5 * time.Second
	f.add("interval", 0, "DURATION", "time between two statistics, such as 500ms (default 5s)", func(v string) (err error) {
		o.interval, err = time.ParseDuration(v)
		return err
	})
	f.Bool(&o.stats, "stats", 0, "print the statistics of now and end")
	return f
}

// events prints statistics and out-of-memory kills of a container, one JSON
// object a line, until it stops.
func (a *app) events(args []string) error {
	var o eventsOptions
	f := o.flags()
	args, err := f.parse(args)
	if err != nil {
		return err
	}
	if o.interval <= 0 {
		return f.fail("duration interval must be greater than 0")
	}
	c, err := a.container(f, args)
	if err != nil {
		return err
	}
	print := func(s *cgroups.Stats) error {
		b := appendEvent(nil, "stats", c.ID)
		return stdout(string(appendStats(append(b, `,"data":`...), s)) + "}\n")
	}
	if o.stats {
		s, err := c.Stats()
		if err != nil {
			return err
		}
		return print(s)
	}
	return c.Watch(o.interval, print, func() error { return stdout(string(appendEvent(nil, "oom", c.ID)) + "}\n") })
}

func appendEvent(b []byte, kind, id string) []byte {
	b = jsonread.AppendString(append(b, `{"type":`...), kind)
	return jsonread.AppendString(append(b, `,"id":`...), id)
}

// object writes the members of a JSON object. Names and order are those of
// runc's types, and so is what is left out when it is zero.
type object struct{ b []byte }

func (o *object) key(name string) { o.b = jsonread.AppendKey(o.b, name) }

func (o *object) num(name string, n uint64) {
	o.key(name)
	o.b = jsonread.AppendUint(o.b, n)
}

// some is num unless n is zero.
func (o *object) some(name string, n uint64) {
	if n != 0 {
		o.num(name, n)
	}
}

func (o *object) list(name string, l []uint16) {
	if len(l) == 0 {
		return
	}
	o.key(name)
	o.b = append(o.b, '[')
	for _, n := range l {
		o.b = jsonread.AppendUint(jsonread.AppendComma(o.b), uint64(n))
	}
	o.b = append(o.b, ']')
}

func (o *object) open(name string) {
	o.key(name)
	o.b = append(o.b, '{')
}

func (o *object) end() { o.b = append(o.b, '}') }

// appendStats writes what runc's events has under "data".
func appendStats(b []byte, s *cgroups.Stats) []byte {
	o := &object{append(b, '{')}
	o.cpu(s)
	o.memory(s)
	o.open("pids")
	o.some("current", s.Pids.Current)
	o.some("limit", s.Pids.Limit)
	o.end()
	o.open("blkio")
	o.io("ioServiceBytesRecursive", s.IO, func(d *cgroups.IOStats) (r, w uint64) { return d.ReadBytes, d.WriteBytes })
	o.io("ioServicedRecursive", s.IO, func(d *cgroups.IOStats) (r, w uint64) { return d.ReadIOs, d.WriteIOs })
	o.pressure(s.IOPressure)
	o.end()
	o.open("hugetlb")
	for _, h := range s.Hugetlb {
		o.open(h.Size)
		o.some("usage", h.Usage)
		o.num("failcnt", h.Failures)
		o.end()
	}
	o.end()
	o.open("intel_rdt")
	o.end()
	o.key("network_interfaces")
	o.b = append(o.b, "null"...)
	// These two are not in runc's.
	o.devices("rdma", s.RDMA)
	o.devices("misc", s.Misc)
	o.end()
	return o.b
}

func (o *object) cpu(s *cgroups.Stats) {
	c := &s.CPU
	o.open("cpu")
	o.open("usage")
	o.some("total", c.Total)
	o.num("kernel", c.System)
	o.num("user", c.User)
	o.end()
	o.open("throttling")
	o.some("periods", c.Periods)
	o.some("throttledPeriods", c.ThrottledPeriods)
	o.some("throttledTime", c.ThrottledNanos)
	o.end()
	o.pressure(s.CPUPressure)
	o.end()
	o.open("cpuset")
	o.list("cpus", c.CPUs)
	o.num("cpu_exclusive", 0) // this and the next are of cgroup v1
	o.list("mems", c.Mems)
	for _, name := range [...]string{
		"mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page", "memory_spread_slab", "memory_pressure",
		"sched_load_balance", "sched_relax_domain_level",
	} {
		o.num(name, 0)
	}
	o.end()
}

// memory: swap is memory and swap together, as it was on cgroup v1.
func (o *object) memory(s *cgroups.Stats) {
	m := s.Memory
	if m == nil {
		m = new(cgroups.MemoryStats)
	}
	o.open("memory")
	o.some("cache", m.File)
	o.amount("usage", m.Usage, m.Limit, m.Peak)
	limit := m.SwapLimit
	if m.Swap && limit != cgroups.NoLimit {
		if limit += m.Limit; limit < m.Limit || m.Limit == cgroups.NoLimit {
			limit = cgroups.NoLimit
		}
	}
	o.amount("swap", m.Usage+m.SwapUsage, limit, 0)
	o.amount("kernel", 0, 0, 0)
	o.amount("kernelTCP", 0, 0, 0)
	if len(m.Stat) > 0 {
		o.open("raw")
		keys := make([]string, 0, len(m.Stat))
		for k := range m.Stat {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			o.num(k, m.Stat[k])
		}
		o.end()
	}
	o.pressure(s.MemoryPressure)
	o.end()
}

func (o *object) amount(name string, usage, limit, peak uint64) {
	o.open(name)
	o.num("limit", limit)
	o.some("usage", usage)
	o.some("max", peak)
	o.num("failcnt", 0)
	o.end()
}

func (o *object) io(name string, devices []cgroups.IOStats, values func(*cgroups.IOStats) (r, w uint64)) {
	if len(devices) == 0 {
		return
	}
	o.key(name)
	o.b = append(o.b, '[')
	for i := range devices {
		d := &devices[i]
		read, write := values(d)
		for j, n := range [...]uint64{read, write} {
			o.b = append(jsonread.AppendComma(o.b), '{')
			o.some("major", d.Major)
			o.some("minor", d.Minor)
			o.key("op")
			o.b = jsonread.AppendString(o.b, [...]string{"Read", "Write"}[j])
			o.some("value", n)
			o.end()
		}
	}
	o.b = append(o.b, ']')
}

func (o *object) pressure(p *cgroups.Pressure) {
	if p == nil {
		return
	}
	o.open("psi")
	for i, l := range [...]*cgroups.PressureLine{&p.Some, &p.Full} {
		o.open([...]string{"some", "full"}[i])
		for j, f := range [...]float64{l.Avg10, l.Avg60, l.Avg300} {
			o.key([...]string{"avg10", "avg60", "avg300"}[j])
			o.b = strconv.AppendFloat(o.b, f, 'f', -1, 64)
		}
		o.num("total", l.Total)
		o.end()
	}
	o.end()
}

// devices: {"mlx5_0":{"hca_handle":{"usage":1,"limit":2}}}, without the middle
// level for counters that have no name.
func (o *object) devices(name string, devices []cgroups.DeviceCount) {
	if len(devices) == 0 {
		return
	}
	o.open(name)
	for _, d := range devices {
		o.open(d.Name)
		for _, c := range d.Counts {
			if c.Name != "" {
				o.open(c.Name)
			}
			o.num("usage", c.Usage)
			o.num("limit", c.Limit)
			if c.Name != "" {
				o.end()
			}
		}
		o.end()
	}
	o.end()
}
