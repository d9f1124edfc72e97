package bundle

import (
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// scope says whether resources are a container's whole set or a change to it.
type scope int

const (
	whole scope = iota
	update
)

// resources checks the limits of a container or a change to them. Zero means
// "leave alone" throughout, as engines send it with an update.
func (c *checker) resources(r *specs.LinuxResources, scope scope) {
	for i := range r.Devices {
		c.deviceRule(&r.Devices[i], i)
	}
	if r.CPU != nil {
		c.cpu(r.CPU)
	}
	if r.Memory != nil {
		c.memory(r.Memory, scope)
	}
	if r.Pids != nil {
		c.least(r.Pids.Limit, -1, "-1 is no limit", "linux.resources.pids.limit")
	}
	if r.BlockIO != nil {
		c.blockIO(r.BlockIO)
	}
	c.hugepages(r.HugepageLimits)
	n := len(c.errs)
	for device := range r.Rdma {
		if device == "" || strings.ContainsAny(device, " \n\x00") {
			c.add("want the name of an RDMA device, got "+strconv.Quote(device), keyPath("linux.resources.rdma", device))
		}
	}
	for file, value := range r.Unified {
		switch {
		case !isFileName(file):
			c.add("unified resource "+strconv.Quote(file)+" must be a file name (no slashes), such as memory.high", keyPath("linux.resources.unified", file))
		case strings.HasPrefix(file, "cgroup."):
			c.add("files that begin with cgroup. are not limits and belong to the runtime: remove it", keyPath("linux.resources.unified", file))
		case strings.IndexByte(value, 0) >= 0:
			c.add("holds a NUL byte: remove it", keyPath("linux.resources.unified", file))
		}
	}
	c.sortFrom(n)
}

// least checks that a limit is not below the lowest value with a meaning.
func (c *checker) least(p *int64, low int64, means, path string) {
	if p != nil && *p < low {
		c.add("want "+strconv.FormatInt(low, 10)+" or more ("+means+"), got "+strconv.FormatInt(*p, 10), path)
	}
}

func (c *checker) deviceRule(d *specs.LinuxDeviceCgroup, i int) {
	switch d.Type {
	case "", "a", "b", "c":
	default:
		c.add("unknown type "+strconv.Quote(d.Type)+": want a (all), b (block) or c (character)", "linux.resources.devices[%d].type", i)
	}
	if strings.Trim(d.Access, "rwm") != "" {
		c.add("want letters out of r (read), w (write) and m (mknod), got "+strconv.Quote(d.Access), "linux.resources.devices[%d].access", i)
	}
	if d.Major != nil && (*d.Major < -1 || *d.Major >= 1<<32) {
		c.add("want a device number, or -1 for any, got "+strconv.FormatInt(*d.Major, 10), "linux.resources.devices[%d].major", i)
	}
	if d.Minor != nil && (*d.Minor < -1 || *d.Minor >= 1<<32) {
		c.add("want a device number, or -1 for any, got "+strconv.FormatInt(*d.Minor, 10), "linux.resources.devices[%d].minor", i)
	}
}

// cpu checks the kernel's limits of CFS bandwidth, kernel/sched/core.c:
// periods of 1 ms to 1 s, quotas of at least 1 ms.
func (c *checker) cpu(cpu *specs.LinuxCPU) {
	if p := cpu.Period; p != nil && *p != 0 && (*p < 1000 || *p > 1000000) {
		c.add("want 1000 to 1000000 microseconds, got "+strconv.FormatUint(*p, 10), "linux.resources.cpu.period")
	}
	if q := cpu.Quota; q != nil && *q != 0 && *q != -1 && *q < 1000 {
		c.add("want 1000 microseconds or more per period, or -1 for no limit, got "+strconv.FormatInt(*q, 10), "linux.resources.cpu.quota")
	}
	if i := cpu.Idle; i != nil && *i != 0 && *i != 1 {
		c.add("want 0 or 1, got "+strconv.FormatInt(*i, 10), "linux.resources.cpu.idle")
	}
	if q, b := cpu.Quota, cpu.Burst; q != nil && b != nil && *q > 0 && *b > uint64(*q) {
		c.add("want at most the quota, "+strconv.FormatInt(*q, 10)+", got "+strconv.FormatUint(*b, 10), "linux.resources.cpu.burst")
	}
	c.text(cpu.Cpus, "linux.resources.cpu.cpus")
	c.text(cpu.Mems, "linux.resources.cpu.mems")
}

// memory checks limits. swap is the sum of memory and swap, hence not below
// the memory limit, and without one it says nothing.
func (c *checker) memory(m *specs.LinuxMemory, scope scope) {
	const means = "bytes, -1 is no limit"
	c.least(m.Limit, -1, means, "linux.resources.memory.limit")
	c.least(m.Reservation, -1, means, "linux.resources.memory.reservation")
	c.least(m.Swap, -1, means, "linux.resources.memory.swap")
	if m.Swap == nil || *m.Swap <= 0 {
		return
	}
	switch {
	case m.Limit != nil && *m.Limit > 0:
		if *m.Swap < *m.Limit {
			c.add("memory+swap limit should be >= memory limit, which is "+strconv.FormatInt(*m.Limit, 10)+", got "+strconv.FormatInt(*m.Swap, 10), "linux.resources.memory.swap")
		}
	case scope == whole:
		c.add("unable to set swap limit without memory limit: set memory.limit too", "linux.resources.memory.swap")
	}
}

func (c *checker) blockIO(b *specs.LinuxBlockIO) {
	c.weight(b.Weight, "linux.resources.blockIO.weight")
	c.weight(b.LeafWeight, "linux.resources.blockIO.leafWeight")
	for i := range b.WeightDevice {
		d := &b.WeightDevice[i]
		c.weight(d.Weight, "linux.resources.blockIO.weightDevice[%d].weight", i)
		c.weight(d.LeafWeight, "linux.resources.blockIO.weightDevice[%d].leafWeight", i)
		c.blockDevice(d.LinuxBlockIODevice, "linux.resources.blockIO.weightDevice[%d]", i)
	}
	for _, list := range [...]struct {
		name    string
		devices []specs.LinuxThrottleDevice
	}{
		{"linux.resources.blockIO.throttleReadBpsDevice[%d]", b.ThrottleReadBpsDevice},
		{"linux.resources.blockIO.throttleWriteBpsDevice[%d]", b.ThrottleWriteBpsDevice},
		{"linux.resources.blockIO.throttleReadIOPSDevice[%d]", b.ThrottleReadIOPSDevice},
		{"linux.resources.blockIO.throttleWriteIOPSDevice[%d]", b.ThrottleWriteIOPSDevice},
	} {
		for i := range list.devices {
			c.blockDevice(list.devices[i].LinuxBlockIODevice, list.name, i)
		}
	}
}

func (c *checker) weight(w *uint16, path string, index ...int) {
	if w != nil && *w != 0 && (*w < 10 || *w > 1000) {
		c.add("want 10 to 1000, or 0 for the default, got "+strconv.Itoa(int(*w)), path, index...)
	}
}

func (c *checker) blockDevice(d specs.LinuxBlockIODevice, path string, i int) {
	if d.Major < 0 || d.Major > 1<<12-1 || d.Minor < 0 || d.Minor > 1<<20-1 {
		c.add("no block device has the numbers "+strconv.FormatInt(d.Major, 10)+":"+strconv.FormatInt(d.Minor, 10), path, i)
	}
}

// hugepages checks the page sizes, which become part of file names.
func (c *checker) hugepages(limits []specs.LinuxHugepageLimit) {
	if len(limits) > 64 { // and not more than there are powers of two
		c.add("more limits than a kernel can have page sizes: remove some", "linux.resources.hugepageLimits")
		return
	}
	for i := range limits {
		size := limits[i].Pagesize
		digits, _ := strings.CutSuffix(size, "B")
		if digits != size && digits != "" && strings.IndexByte("KMG", digits[len(digits)-1]) >= 0 {
			digits = digits[:len(digits)-1]
		} else {
			digits = ""
		}
		if digits == "" || digits[0] == '0' || strings.Trim(digits, "0123456789") != "" {
			c.add("want a page size such as 64KB, 2MB or 1GB, got "+strconv.Quote(size), "linux.resources.hugepageLimits[%d].pageSize", i)
		}
		for j := range i {
			if limits[j].Pagesize == size {
				c.add("the limit for "+strconv.Quote(size)+" is set twice: remove one", "linux.resources.hugepageLimits[%d].pageSize", i)
				break
			}
		}
	}
}
