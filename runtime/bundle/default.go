package bundle

import (
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Default returns the configuration that `minirun spec` writes: that of `runc
// spec`, but for the host name. It is a shell on a terminal, on a read-only
// root filesystem in the directory rootfs, with three capabilities and all
// namespaces but user and time. runc leaves the cgroup namespace out on hosts
// with cgroup v1; it works there too and is always in.
func Default() *specs.Spec {
	return &specs.Spec{
		Version:  specs.Version,
		Hostname: "minirun",
		Root:     &specs.Root{Path: "rootfs", Readonly: true},
		Process: &specs.Process{
			Terminal: true,
			Args:     []string{"sh"},
			Env: []string{
				"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
				"TERM=xterm",
			},
			Cwd:             "/",
			NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{
				Bounding:  defaultCapabilities(),
				Effective: defaultCapabilities(),
				Permitted: defaultCapabilities(),
			},
			Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
		},
		Mounts: []specs.Mount{
			mount("/proc", "proc", "proc", ""),
			mount("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
			mount("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
			mount("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
			mount("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
			mount("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
			mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"),
		},
		Linux: &specs.Linux{
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
			},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.NetworkNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.CgroupNamespace},
			},
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
				"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

// DefaultRootless returns [Default] for a caller without privileges, as `runc
// spec --rootless` does: a user namespace in which root is the caller, the
// host's network, /sys bound from the host, and nothing that needs a second
// user id or a cgroup.
func DefaultRootless() *specs.Spec {
	s := Default()
	s.Linux.Resources = nil
	s.Linux.Namespaces = []specs.LinuxNamespace{
		{Type: specs.PIDNamespace},
		{Type: specs.IPCNamespace},
		{Type: specs.UTSNamespace},
		{Type: specs.MountNamespace},
		{Type: specs.CgroupNamespace},
		{Type: specs.UserNamespace},
	}
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(os.Geteuid()), Size: 1}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(os.Getegid()), Size: 1}}
	for i := range s.Mounts {
		switch m := &s.Mounts[i]; m.Destination {
		case "/dev/pts": // gid 5 does not exist in the namespace
			*m = mount("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620")
		case "/sys": // a new sysfs needs the network namespace's owner
			*m = mount("/sys", "none", "/sys", "rbind,nosuid,noexec,nodev,ro")
		}
	}
	return s
}

func defaultCapabilities() []string {
	return []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
}

func mount(destination, fstype, source, options string) specs.Mount {
	m := specs.Mount{Destination: destination, Type: fstype, Source: source}
	if options != "" {
		m.Options = strings.Split(options, ",")
	}
	return m
}
