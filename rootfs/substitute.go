package rootfs

import (
	"syscall"

	"github.com/minirun/minirun/internal/initprog"
	"golang.org/x/sys/unix"
)

// substitute is the directory of the host that stands in for a file system that
// a user namespace may mount only if the namespace it shows, of network, cgroups
// or messages, belongs to it too. runc does it for cgroups, crun for all three.
func substitute(fstype string, o *Options) string {
	switch fstype {
	case "sysfs":
		return "/sys"
	case "cgroup2":
		return o.HostCgroup
	case "mqueue":
		if _, err := o.Stat("/dev/mqueue"); err == nil {
			return "/dev/mqueue"
		}
	}
	return ""
}

// newFS makes the mount's file system, or binds what stands in for it.
func (s *mount) newFS(b *initprog.Builder, set uint64) initprog.Value {
	params := s.t.withLabel(s.fstype, append(s.options.superFlags, s.options.data...))
	if s.instead == "" {
		return newFS(b, s.fstype, s.source, params, set)
	}
	m := b.Slot(0)
	bind, done := b.NewLabel(), b.NewLabel()
	made := emitFS(b, s.fstype, s.source, params, set, func(r initprog.Ref) { r.On(syscall.EPERM, bind) })
	b.Set(m, made).OnSuccess(done)
	b.Place(bind)
	// With all below it, which the kernel does not let one look behind. Only
	// mqueue may be written to: whoever shares its namespace has the same queues.
	// The others are the host's, and a group delegated to the user would be open
	// to the container (CVE-2023-25809).
	b.OpenTree(initprog.CWD(), s.instead, true).To(m)
	all := set &^ unix.MOUNT_ATTR__ATIME
	if s.fstype != "mqueue" {
		all |= unix.MOUNT_ATTR_RDONLY
	}
	b.MountSetattr(m, true, b.MountAttr(all, 0, s.t.host))
	b.Place(done)
	return m
}
