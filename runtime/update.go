package runtime

import (
	"strings"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/runtime/bundle"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Update changes the limits of a created, running or paused container: those
// that r names, all of them or none. Zero means "leave alone", as engines send
// it. Device rules and what belongs to cgroup v1 are ignored.
//
// What is in force afterwards is recorded in the container's copy of
// config.json, where the next update finds the other half of settings that go
// together: swap and memory, quota and period, shares and idle.
func (c *Container) Update(r *specs.LinuxResources) error {
	if err := bundle.ValidateResources(r); err != nil {
		return err
	}
	dir, err := c.lockLoaded()
	if err != nil {
		return err
	}
	defer linux.Close(dir)
	status, err := c.Status()
	if err != nil {
		return err
	}
	if status == Stopped || status == Creating {
		return &StatusError{ID: c.ID, Op: "update", Have: status}
	}
	raw, err := linux.ReadFileAt(dir, configFile, bundle.MaxConfigSize)
	if err != nil {
		return err
	}
	spec, err := bundle.Parse(raw)
	if err != nil {
		return err
	}
	if spec.Linux == nil {
		spec.Linux = &specs.Linux{}
	}
	if spec.Linux.Resources == nil {
		spec.Linux.Resources = &specs.LinuxResources{}
	}
	whole := spec.Linux.Resources
	limits, err := cgroups.FromOCIUpdate(changeResources(whole, r))
	if err != nil {
		return err
	}
	if len(limits.Settings) == 0 {
		return nil
	}
	overruled(whole, limits)
	if raw, err = bundle.AppendJSON(nil, spec); err != nil {
		return err
	}
	if err := writeTemp(dir, configFile, raw); err != nil {
		return err
	}
	if err := c.group().Update(limits); err != nil {
		_ = unix.Unlinkat(dir, tempName(configFile), 0)
		return c.gone("update", err)
	}
	if c.Unit != "" {
		if err := c.updateUnit(limits); err != nil {
			return err
		}
	}
	return renameTemp(dir, configFile)
}

// overruled removes from unified what a field of its own has just set: unified
// comes last when a configuration is read, and would win.
func overruled(whole *specs.LinuxResources, l *cgroups.Limits) {
	for i := range l.Settings {
		if s := &l.Settings[i]; !strings.HasPrefix(s.Field, "linux.resources.unified") {
			delete(whole.Unified, s.File)
		}
	}
}

// changeResources merges r into whole and returns the change to make: r, without
// zeros, and with the other half of what goes together.
func changeResources(whole, r *specs.LinuxResources) *specs.LinuxResources {
	change := &specs.LinuxResources{
		HugepageLimits: r.HugepageLimits, Rdma: r.Rdma, Unified: r.Unified,
	}
	if r.Memory != nil {
		change.Memory = changeMemory(target(&whole.Memory), r.Memory)
	}
	if r.CPU != nil {
		change.CPU = changeCPU(target(&whole.CPU), r.CPU)
	}
	if r.Pids != nil && set(r.Pids.Limit) {
		target(&whole.Pids).Limit = r.Pids.Limit
		change.Pids = r.Pids
	}
	if r.BlockIO != nil {
		change.BlockIO = r.BlockIO
		changeBlockIO(target(&whole.BlockIO), r.BlockIO)
	}
	for _, h := range r.HugepageLimits {
		whole.HugepageLimits = put(whole.HugepageLimits, h, func(a, b *specs.LinuxHugepageLimit) bool { return a.Pagesize == b.Pagesize })
	}
	if len(r.Rdma) > 0 && whole.Rdma == nil {
		whole.Rdma = map[string]specs.LinuxRdma{}
	}
	for name, d := range r.Rdma {
		have := whole.Rdma[name]
		take(&have.HcaHandles, d.HcaHandles)
		take(&have.HcaObjects, d.HcaObjects)
		whole.Rdma[name] = have
	}
	if len(r.Unified) > 0 && whole.Unified == nil {
		whole.Unified = map[string]string{}
	}
	for file, value := range r.Unified {
		whole.Unified[file] = value
	}
	return change
}

// target is what a pointer points to, made if there is nothing yet.
func target[T any](p **T) *T {
	if *p == nil {
		*p = new(T)
	}
	return *p
}

// set reports whether a number was given; zero means "leave alone".
func set[T int64 | uint64 | uint16](p *T) bool { return p != nil && *p != 0 }

// take replaces *p by what was given.
func take[T any](p **T, v *T) {
	if v != nil {
		*p = v
	}
}

// put replaces the element of list that is of the same thing as e, or adds e.
func put[T any](list []T, e T, same func(a, b *T) bool) []T {
	for i := range list {
		if same(&list[i], &e) {
			list[i] = e
			return list
		}
	}
	return append(list, e)
}

// changeMemory: swap is memory and swap together, so what the kernel is told
// depends on both.
func changeMemory(whole, r *specs.LinuxMemory) *specs.LinuxMemory {
	change := new(specs.LinuxMemory)
	take(&whole.CheckBeforeUpdate, r.CheckBeforeUpdate)
	if set(r.Reservation) {
		whole.Reservation, change.Reservation = r.Reservation, r.Reservation
	}
	if !set(r.Limit) && !set(r.Swap) {
		return change
	}
	if set(r.Limit) {
		whole.Limit = r.Limit
		change.CheckBeforeUpdate = r.CheckBeforeUpdate
	}
	switch {
	case set(r.Swap):
		whole.Swap = r.Swap
	case *whole.Limit == -1:
		whole.Swap = whole.Limit // as on cgroup v1: no limit of the one is none of the other
	}
	change.Limit = whole.Limit
	if set(whole.Swap) && (set(r.Swap) || *whole.Swap > 0 || *whole.Limit == -1) {
		change.Swap = whole.Swap
	}
	return change
}

func changeCPU(whole, r *specs.LinuxCPU) *specs.LinuxCPU {
	change := &specs.LinuxCPU{Burst: r.Burst, Idle: r.Idle, Cpus: r.Cpus, Mems: r.Mems, RealtimeRuntime: r.RealtimeRuntime}
	take(&whole.Burst, r.Burst)
	if r.Cpus != "" {
		whole.Cpus = r.Cpus
	}
	if r.Mems != "" {
		whole.Mems = r.Mems
	}
	if set(r.Quota) {
		whole.Quota = r.Quota
	}
	if set(r.Period) {
		whole.Period = r.Period
	}
	if set(r.Quota) || set(r.Period) {
		change.Quota, change.Period = whole.Quota, whole.Period
	}
	if set(r.Shares) {
		whole.Shares, change.Shares = r.Shares, r.Shares
	}
	// An idle group has no weight, and gets the default one when it is no longer
	// idle: shares wait in the record until then.
	switch idle := whole.Idle != nil && *whole.Idle == 1; {
	case r.Idle == nil && idle && set(r.Shares):
		change.Idle = whole.Idle
	case r.Idle != nil && *r.Idle == 0 && idle:
		change.Shares = whole.Shares
	}
	take(&whole.Idle, r.Idle)
	return change
}

func changeBlockIO(whole, r *specs.LinuxBlockIO) {
	if set(r.Weight) {
		whole.Weight = r.Weight
	}
	for _, d := range r.WeightDevice {
		whole.WeightDevice = put(whole.WeightDevice, d, func(a, b *specs.LinuxWeightDevice) bool { return a.Major == b.Major && a.Minor == b.Minor })
	}
	same := func(a, b *specs.LinuxThrottleDevice) bool { return a.Major == b.Major && a.Minor == b.Minor }
	for _, l := range [...]struct {
		whole *[]specs.LinuxThrottleDevice
		r     []specs.LinuxThrottleDevice
	}{
		{&whole.ThrottleReadBpsDevice, r.ThrottleReadBpsDevice},
		{&whole.ThrottleWriteBpsDevice, r.ThrottleWriteBpsDevice},
		{&whole.ThrottleReadIOPSDevice, r.ThrottleReadIOPSDevice},
		{&whole.ThrottleWriteIOPSDevice, r.ThrottleWriteIOPSDevice},
	} {
		for _, d := range l.r {
			*l.whole = put(*l.whole, d, same)
		}
	}
}
