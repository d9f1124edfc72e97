package container

import (
	"errors"
	"fmt"
	goruntime "runtime"
	"slices"
	"strings"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/seccomp"
	"github.com/minirun/minirun/runtime"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaultCaps are the capabilities that containers have under docker.
const defaultCaps = "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID CAP_SETUID " +
	"CAP_SETFCAP CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE"

func capabilities(o *Options) ([]string, error) {
	set := map[string]bool{}
	add := func(names []string, on bool) error {
		for _, n := range names {
			n = strings.ToUpper(n)
			if n == "ALL" {
				for _, c := range runtime.AllCapabilities() {
					set[c] = on
				}
				continue
			}
			if !strings.HasPrefix(n, "CAP_") {
				n = "CAP_" + n
			}
			if !runtime.KnownCapability(n) {
				return fmt.Errorf("unknown capability %q; see capabilities(7)", n)
			}
			set[n] = on
		}
		return nil
	}
	base := strings.Fields(defaultCaps)
	if o.Privileged {
		base = runtime.AllCapabilities()
	}
	// ALL first, so that --cap-drop ALL --cap-add X leaves X, as docker has it.
	order := func(names []string) (all, rest []string) {
		for _, n := range names {
			if strings.EqualFold(n, "ALL") {
				all = append(all, n)
			} else {
				rest = append(rest, n)
			}
		}
		return all, rest
	}
	dropAll, drop := order(o.CapDrop)
	addAll, plus := order(o.CapAdd)
	if err := errors.Join(add(base, true), add(addAll, true), add(dropAll, false), add(plus, true), add(drop, false)); err != nil {
		return nil, err
	}
	names := []string{}
	for _, n := range runtime.AllCapabilities() {
		if set[n] {
			names = append(names, n)
		}
	}
	return names, nil
}

func resources(o *Options) *specs.LinuxResources {
	r := &specs.LinuxResources{}
	if o.Memory > 0 {
		r.Memory = &specs.LinuxMemory{Limit: &o.Memory}
	}
	if o.CPUs > 0 {
		period := uint64(100000)
		quota := int64(o.CPUs*float64(period) + 0.5)
		r.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	if o.Pids > 0 {
		r.Pids = &specs.LinuxPids{Limit: &o.Pids}
	}
	if o.Privileged {
		r.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	} else {
		r.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	}
	return r
}

// maskedPaths and readonlyPaths are docker's: what procfs and sysfs tell about
// the host or let a container change of it.
const (
	maskedPaths = "/proc/asound /proc/acpi /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list " +
		"/proc/timer_stats /proc/sched_debug /proc/scsi /sys/firmware /sys/devices/virtual/powercap"
	readonlyPaths = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger"
)

func confinement(s *specs.Spec, caps []string, o *Options) (err error) {
	if !o.Privileged {
		s.Linux.MaskedPaths = strings.Fields(maskedPaths)
		s.Linux.ReadonlyPaths = strings.Fields(readonlyPaths)
	}
	switch o.Seccomp {
	case "":
		if !o.Privileged {
			s.Linux.Seccomp = seccomp.Default(goruntime.GOARCH, caps)
			if o.Size > 0 {
				keepProject(s.Linux.Seccomp)
			}
		}
	case "unconfined":
	default: // asked for, so it holds for a privileged container too
		s.Linux.Seccomp, err = readProfile(o.Seccomp, goruntime.GOARCH, caps)
	}
	return err
}

// keepProject has the default profile deny what takes files out of the project that
// they are counted for: root of a container, who is root of the host's user namespace,
// may do that to the files it owns, and so would any user. file_setattr(2) is not in
// the profile.
func keepProject(p *specs.LinuxSeccomp) {
	for i := range p.Syscalls {
		p.Syscalls[i].Names = slices.DeleteFunc(p.Syscalls[i].Names, func(n string) bool { return n == "ioctl" })
	}
	denied := uint(unix.EACCES) // not the default action: a rule that equals it is none
	for _, request := range []uint32{linux.FSSetXAttr, linux.FSSetFlags, linux.FSSetFlags32} {
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{
			Names: []string{"ioctl"}, Action: specs.ActErrno, ErrnoRet: &denied,
			// The kernel looks at 32 bits.
			Args: []specs.LinuxSeccompArg{{Index: 1, Op: specs.OpMaskedEqual, Value: 1<<32 - 1, ValueTwo: uint64(request)}},
		})
	}
	// Without a condition it would beat the others.
	p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{
		Names: []string{"ioctl"}, Action: specs.ActAllow,
		Args: []specs.LinuxSeccompArg{{Index: 1, Op: specs.OpMaskedEqual, Value: 0, ValueTwo: 0}},
	})
}
