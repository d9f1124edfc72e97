package runtime

import (
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// capNames are the names of the capabilities in the order of their numbers,
// without CAP_; see capabilities(7) and linux/capability.h.
const capNames = " CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE" +
	" NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE" +
	" SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE" +
	" AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF" +
	" CHECKPOINT_RESTORE "

const knownCaps = 41

// capBit is the number of a capability, with or without CAP_; -1 if unknown.
func capBit(name string) int {
	i := strings.Index(capNames, " "+strings.TrimPrefix(name, "CAP_")+" ")
	if i < 0 {
		return -1
	}
	return strings.Count(capNames[:i], " ")
}

// capName is the name of capability n.
func capName(n int) string {
	rest := capNames[1:]
	for ; n > 0; n-- {
		rest = rest[strings.IndexByte(rest, ' ')+1:]
	}
	return "CAP_" + rest[:strings.IndexByte(rest, ' ')]
}

// AllCapabilities are the names of all capabilities.
func AllCapabilities() []string {
	names := make([]string, knownCaps)
	for i := range names {
		names[i] = capName(i)
	}
	return names
}

// KnownCapability reports whether name, with or without CAP_, is a capability.
func KnownCapability(name string) bool { return capBit(name) >= 0 }

// capMask is the set of the named capabilities; unknown ones are collected.
func capMask(names []string, unknown *[]string) (mask uint64) {
	for _, n := range names {
		if i := capBit(n); i >= 0 {
			mask |= 1 << i
		} else if unknown != nil {
			*unknown = append(*unknown, n)
		}
	}
	return mask
}

// ownCaps is the permitted set of this process and the number of the last
// capability the kernel knows.
func ownCaps() (permitted uint64, last int) {
	var hdr unix.CapUserHeader
	var data [2]unix.CapUserData
	hdr.Version = unix.LINUX_CAPABILITY_VERSION_3
	if unix.Capget(&hdr, (*unix.CapUserData)(unsafe.Pointer(&data[0]))) == nil {
		permitted = uint64(data[0].Permitted) | uint64(data[1].Permitted)<<32
	}
	for last = knownCaps - 1; last < 63; last++ {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(last+1), 0, 0, 0); err != nil {
			break
		}
	}
	return permitted, last
}
