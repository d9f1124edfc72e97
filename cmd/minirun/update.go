package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/runtime/bundle"
)

// updateOptions are the flags of update: a file, or single values.
type updateOptions struct {
	file   string
	r      specs.LinuxResources
	memory specs.LinuxMemory
	cpu    specs.LinuxCPU
	kernel bool // a limit of kernel memory was given

	l3, bandwidth string // schemata of Intel RDT
}

func updateFlags(*app) *flagSet { return new(updateOptions).flags() }

func (o *updateOptions) flags() *flagSet {
	f := newFlags("update")
	f.String(&o.file, "resources", 'r', "FILE", "read linux.resources from FILE, or standard input if that is -; other flags are ignored")
	o.bytes(f, &o.memory.Limit, "memory", "memory limit, -1 for none")
	o.bytes(f, &o.memory.Reservation, "memory-reservation", "memory that is reclaimed last")
	o.bytes(f, &o.memory.Swap, "memory-swap", "limit of memory and swap together, -1 for none")
	unsigned(f, &o.cpu.Shares, "cpu-share", "N", "weight in relation to other containers, 2 to 262144")
	unsigned(f, &o.cpu.Period, "cpu-period", "USEC", "period of the CPU limit")
	signed(f, &o.cpu.Quota, "cpu-quota", "USEC", "CPU time in each period, -1 for no limit")
	unsigned(f, &o.cpu.Burst, "cpu-burst", "USEC", "CPU time beyond the quota that can be saved up")
	signed(f, &o.cpu.Idle, "cpu-idle", "0|1", "1: run only when nothing else wants to")
	unsigned(f, &o.cpu.RealtimePeriod, "cpu-rt-period", "USEC", "accepted for compatibility: cgroup v2 has no realtime limits")
	f.hide()
	signed(f, &o.cpu.RealtimeRuntime, "cpu-rt-runtime", "USEC", "refused unless 0: cgroup v2 has no realtime limits")
	f.hide()
	f.String(&o.cpu.Cpus, "cpuset-cpus", 0, "LIST", "CPUs to use, such as 0-2,7")
	f.String(&o.cpu.Mems, "cpuset-mems", 0, "LIST", "memory nodes to use")
	f.add("pids-limit", 0, "N", "number of processes, -1 for no limit", func(v string) error {
		n, err := strconv.ParseInt(v, 0, 64)
		o.r.Pids = &specs.LinuxPids{Limit: &n}
		return numberError(err)
	})
	f.add("blkio-weight", 0, "N", "weight of block I/O, 10 to 1000", func(v string) error {
		n, err := strconv.ParseUint(v, 0, 16)
		w := uint16(n)
		o.r.BlockIO = &specs.LinuxBlockIO{Weight: &w}
		return numberError(err)
	})
	for _, name := range [...]string{"kernel-memory", "kernel-memory-tcp"} {
		f.add(name, 0, "BYTES[kmg]", "ignored: not in cgroup v2", func(v string) error {
			o.kernel = o.kernel || v != ""
			return nil
		})
		f.hide()
	}
	f.String(&o.l3, "l3-cache-schema", 0, "SCHEMA", "part of the level 3 cache, of a container with linux.intelRdt, such as L3:0=f")
	f.String(&o.bandwidth, "mem-bw-schema", 0, "SCHEMA", "memory bandwidth, of a container with linux.intelRdt, such as MB:0=50")
	return f
}

func numberError(err error) error {
	if err == nil {
		return nil
	}
	return errors.New("want a number")
}

func unsigned(f *flagSet, p **uint64, name, value, help string) {
	f.add(name, 0, value, help, func(v string) error {
		if v == "" {
			return nil // as runc
		}
		n, err := strconv.ParseUint(v, 10, 64)
		*p = &n
		return numberError(err)
	})
}

func signed(f *flagSet, p **int64, name, value, help string) {
	f.add(name, 0, value, help, func(v string) error {
		if v == "" {
			return nil
		}
		n, err := strconv.ParseInt(v, 10, 64)
		*p = &n
		return numberError(err)
	})
}

// bytes adds a flag for a size, -1 or, as a script may have it, nothing.
func (o *updateOptions) bytes(f *flagSet, p **int64, name, help string) {
	f.add(name, 0, "BYTES[kmg]", help, func(v string) error {
		n, err := int64(-1), error(nil)
		switch v {
		case "", "0":
			return nil
		case "-1":
		default:
			n, err = parseSize(v)
		}
		*p = &n
		return err
	})
}

// parseSize reads a size as runc does: 64m, 64MB, 1.5GiB. Units are powers of
// 1024.
func parseSize(s string) (int64, error) {
	text := strings.ToLower(s)
	text = strings.TrimSuffix(text, "b")
	text = strings.TrimSuffix(text, "i")
	shift := 0
	if n := len(text); n > 0 {
		if i := strings.IndexByte("kmgtp", text[n-1]); i >= 0 {
			shift, text = 10*(i+1), strings.TrimSuffix(text[:n-1], " ")
		}
	}
	bad := errors.New("invalid size: want a number of bytes, perhaps with k, m, g or t")
	if text == "" || strings.Trim(text, "0123456789.") != "" {
		return 0, bad
	}
	n, err := strconv.ParseFloat(text, 64)
	if n *= float64(int64(1) << shift); err != nil || n < 1 || n >= 1<<62 {
		return 0, bad
	}
	return int64(n), nil
}

// update changes the limits of a container.
func (a *app) update(args []string) error {
	var o updateOptions
	f := o.flags()
	args, err := f.parse(args)
	if err != nil {
		return err
	}
	c, err := a.container(f, args)
	if err != nil {
		return err
	}
	if o.l3 != "" || o.bandwidth != "" {
		if err := c.UpdateRdt(o.l3, o.bandwidth); err != nil {
			return err
		}
	}
	r, err := o.resources()
	if err != nil {
		return err
	}
	if o.kernel && o.file == "" {
		a.log.warn("limits of kernel memory are ignored: cgroup v2 counts it as memory")
	}
	return c.Update(r)
}

// resources are what the flags ask for.
func (o *updateOptions) resources() (*specs.LinuxResources, error) {
	if o.file == "" {
		o.r.Memory, o.r.CPU = &o.memory, &o.cpu
		return &o.r, nil
	}
	var raw []byte
	var err error
	if o.file == "-" {
		raw, err = linux.ReadAll(0, bundle.MaxConfigSize)
	} else {
		raw, err = linux.ReadFile(o.file, bundle.MaxConfigSize)
	}
	if err != nil {
		return nil, fmt.Errorf("resources: %w", err)
	}
	return bundle.ParseResources(raw)
}
