package bundle

import (
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Warnings returns what is odd about a configuration but does not keep it from
// running, the first 20, one sentence each: unknown capabilities, which the
// specification wants ignored, and values that are read in a way one might not
// expect.
func Warnings(s *specs.Spec) []string {
	var w []string
	if s.Process != nil && s.Process.Capabilities != nil {
		w = capabilityWarnings(w, s.Process.Capabilities)
	}
	for i := range s.Mounts {
		if len(w) >= maxFindings {
			return w
		}
		if d := s.Mounts[i].Destination; d != "" && !strings.HasPrefix(d, "/") {
			w = append(w, "mounts["+strconv.Itoa(i)+"].destination: relative destination "+strconv.Quote(d)+" is deprecated: taken as relative to /")
		}
	}
	if s.Linux != nil && s.Linux.Resources != nil && s.Linux.Resources.CPU != nil {
		if n := s.Linux.Resources.CPU.Shares; n != nil && *n != 0 && (*n < 2 || *n > 262144) {
			w = append(w, "linux.resources.cpu.shares: "+strconv.FormatUint(*n, 10)+" is taken as the closest of 2 to 262144")
		}
	}
	return w
}

func capabilityWarnings(w []string, c *specs.LinuxCapabilities) []string {
	for _, set := range [...]struct {
		name  string
		names []string
	}{
		{"bounding", c.Bounding},
		{"effective", c.Effective},
		{"inheritable", c.Inheritable},
		{"permitted", c.Permitted},
		{"ambient", c.Ambient},
	} {
		for i, name := range set.names {
			if len(w) >= maxFindings {
				return w
			}
			if !knownCapability(name) && !slices.Contains(set.names[:i], name) {
				w = append(w, "process.capabilities."+set.name+": unknown capability "+strconv.Quote(name)+" ignored")
			}
		}
	}
	return w
}

// knownCapability reports whether name is one of the 41 capabilities of
// capabilities(7); the last, CAP_CHECKPOINT_RESTORE, came with Linux 5.9.
func knownCapability(name string) bool {
	switch name {
	case "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
		"CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
		"CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
		"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
		"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
		"CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
		"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
		"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE":
		return true
	}
	return false
}
