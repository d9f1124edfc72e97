package runtime

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/namespaces"
	"golang.org/x/sys/unix"
)

// SysctlError is a sysctl that is not written: what, and what would help.
type SysctlError struct{ Key, Reason, hint string }

func (e *SysctlError) Error() string { return fmt.Sprintf("linux.sysctl[%q]: %s", e.Key, e.Reason) }

// Hint says what would help.
func (e *SysctlError) Hint() string { return e.hint }

// sysctls sets kernel parameters of the container's namespaces.
type sysctls struct {
	paths, values []string // paths below /proc/sys
}

func (s *sysctls) Phase() string { return "sysctl" }
func (s *sysctls) String() string {
	var b strings.Builder
	b.WriteString("set kernel parameters:")
	for i, path := range s.paths {
		b.WriteString(" " + path + "=" + s.values[i])
	}
	return b.String()
}

func (s *sysctls) Why() string {
	return "linux.sysctl; through a procfs of its own that nobody can have mounted over (CVE-2025-52881)"
}

func (s *sysctls) Emit(b *initprog.Builder) {
	b.Object("procfs")
	fs := b.Fsopen("proc").Result()
	b.FsconfigCreate(fs)
	proc := b.Fsmount(fs, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC).Result()
	b.Close(fs)
	how := b.HowNoLinks(unix.O_WRONLY)
	for i, path := range s.paths {
		b.Object("/proc/" + path)
		fd := b.Openat2(proc, path, how).Result()
		b.Write(fd, s.values[i])
		b.Close(fd)
	}
	b.Close(proc)
}

// planSysctls refuses parameters that are not of the container's own namespaces:
// all others are the host's. It returns nil if there is nothing to do.
func planSysctls(set *namespaces.Set, want map[string]string) (*sysctls, error) {
	if len(want) == 0 {
		return nil, nil
	}
	keys := make([]string, 0, len(want))
	for key := range want {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	s := &sysctls{}
	var errs []error
	for _, key := range keys {
		path, err := sysctlPath(key)
		if err == nil {
			err = ownSysctl(set, key, path)
		}
		if err == nil && slices.Contains(s.paths, "sys/"+path) {
			err = &SysctlError{Key: key, Reason: "is there twice, written in two ways"}
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.paths, s.values = append(s.paths, "sys/"+path), append(s.values, want[key])
	}
	return s, errors.Join(errs...)
}

// sysctlPath is the path below /proc/sys of a name in one of its two notations,
// see sysctl.d(5): the first separator of kernel.domainname or net/ipv4/conf/eth0.1/forwarding
// is what separates, and the other of the two stands for a dot in a part.
func sysctlPath(key string) (string, error) {
	path := key
	if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '.' {
		b := []byte(key)
		for j, c := range b {
			switch c {
			case '.':
				b[j] = '/'
			case '/':
				b[j] = '.'
			}
		}
		path = string(b)
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." {
			return "", &SysctlError{Key: key, Reason: "is not the name of a kernel parameter"}
		}
	}
	return path, nil
}

// ownSysctl checks that a parameter is one of a namespace that is the container's.
func ownSysctl(set *namespaces.Set, key, path string) error {
	var flag uint64
	var kind string
	switch path {
	case "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shmall", "kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced":
		flag, kind = unix.CLONE_NEWIPC, "ipc"
	case "kernel/domainname":
		flag, kind = unix.CLONE_NEWUTS, "uts"
	case "kernel/hostname":
		return &SysctlError{key, "is not set as a kernel parameter", "use hostname of the configuration"}
	default:
		switch {
		case strings.HasPrefix(path, "fs/mqueue/"):
			flag, kind = unix.CLONE_NEWIPC, "ipc"
		case strings.HasPrefix(path, "net/"):
			flag, kind = unix.CLONE_NEWNET, "net"
		case strings.HasPrefix(path, "user/"):
			flag, kind = unix.CLONE_NEWUSER, "user"
		default:
			return &SysctlError{key, "is not of a namespace: it would change the host", "set it on the host, or remove it"}
		}
	}
	if set.New&flag != 0 {
		return nil
	}
	if j := set.Joins(flag); j != nil && !isOwnNamespace(j.Path, "/proc/thread-self/ns/"+kind) {
		return nil
	}
	return &SysctlError{key, "needs a namespace of its own, and the container has the host's", "add a namespace of type " + kind + " to linux.namespaces, or remove it"}
}

// isOwnNamespace reports whether path is the namespace that we are in ourselves.
// One that cannot be looked at is taken for it.
func isOwnNamespace(path, own string) bool {
	var a, b unix.Stat_t
	return unix.Stat(path, &a) != nil || unix.Stat(own, &b) != nil || a.Dev == b.Dev && a.Ino == b.Ino
}
