package integration

import (
	"strconv"
	"strings"
	"testing"
)

// sbAllCaps are the capabilities in the order of their numbers; see capabilities(7).
const sbAllCaps = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE " +
	"NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE " +
	"SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL " +
	"SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"

// sbCapNames are the names in a mask of proc_pid_status(5).
func sbCapNames(t testing.TB, hex string) []string {
	t.Helper()
	mask, err := strconv.ParseUint(hex, 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for i, n := range strings.Fields(sbAllCaps) {
		if mask&(1<<i) != 0 {
			names = append(names, "CAP_"+n)
		}
	}
	return names
}

// sbCapMask is the opposite, as proc_pid_status(5) prints it.
func sbCapMask(names ...string) string {
	mask := uint64(0)
	for i, n := range strings.Fields(sbAllCaps) {
		for _, want := range names {
			if want == "CAP_"+n {
				mask |= 1 << i
			}
		}
	}
	s := strconv.FormatUint(mask, 16)
	return strings.Repeat("0", 16-len(s)) + s
}
