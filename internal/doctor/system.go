package doctor

import (
	"fmt"
	"strconv"
	"strings"
)

const groupSystem = "System"

func (h *host) system() {
	state := OK
	if !atLeast(h.release, 5, 14) {
		state = Missing
	}
	h.add(groupSystem, "kernel", state, true, "Linux "+h.release, "minirun is made for Linux 5.14 and newer", "install a newer kernel")
	state = OK
	if h.arch != "amd64" && h.arch != "arm64" {
		state = Missing
	}
	h.add(groupSystem, "architecture", state, true, h.arch, "the program that starts containers exists for amd64 and arm64", "")
	if h.uid == 0 {
		h.add(groupSystem, "user", OK, false, "root", "", "")
	} else {
		h.add(groupSystem, "user", Missing, false, "uid "+strconv.Itoa(h.uid), "without root containers need a user namespace, and no network but the host's or none", "run as root, or see the user namespace checks")
	}
	if h.exists("/run/systemd/system") {
		h.add(groupSystem, "systemd", OK, false, "is the init system", "", "")
	} else {
		h.add(groupSystem, "systemd", Missing, false, "is not the init system", "--systemd-cgroup is an error; cgroups are made directly", "")
	}
	h.openFiles()
	h.capabilities()
	if lsm, err := h.read("/sys/kernel/security/lsm"); err == nil {
		h.add(groupSystem, "security modules", OK, false, strings.ReplaceAll(strings.TrimSpace(lsm), ",", " "), "", "")
	} else {
		h.add(groupSystem, "security modules", Unknown, false, "/sys/kernel/security/lsm cannot be read", "AppArmor and SELinux labels cannot be checked beforehand", "mount -t securityfs securityfs /sys/kernel/security")
	}
}

// openFiles looks at the hard limit: the soft one is raised by the Go runtime.
func (h *host) openFiles() {
	limits, err := h.read("/proc/self/limits")
	for line := range strings.Lines(limits) {
		values, ok := strings.CutPrefix(line, "Max open files")
		fields := strings.Fields(values)
		if !ok || len(fields) < 2 {
			continue
		}
		n, err := strconv.ParseUint(fields[1], 10, 64)
		state := OK
		if err == nil && n < 1024 {
			state = Missing
		}
		h.add(groupSystem, "open files limit", state, false, "hard limit "+fields[1], "many containers or layers at once run out of descriptors", "ulimit -Hn 65536 before minirun is started, or LimitNOFILE= in its unit")
		return
	}
	detail := "no such line in /proc/self/limits"
	if err != nil {
		detail = err.Error()
	}
	h.add(groupSystem, "open files limit", Unknown, false, detail, "", "")
}

// The capabilities by number, capabilities(7), and what minirun does with them.
var capabilityNames = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE",
	"NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT",
	"SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE",
	"AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ",
	"PERFMON", "BPF", "CHECKPOINT_RESTORE",
}

// capabilityUse says what minirun itself cannot do without a capability, and
// whether that is to run containers at all.
func capabilityUse(name string) (lost string, required bool) {
	switch name {
	case "SYS_ADMIN":
		return "mounts, namespaces and control groups cannot be made", true
	case "SETUID", "SETGID":
		return "containers cannot change to their user and group", true
	case "CHOWN", "DAC_OVERRIDE", "FOWNER":
		return "image layers of other users cannot be unpacked or changed", true
	case "SETPCAP":
		return "containers' capability bounding sets cannot be reduced", true
	case "SYS_RESOURCE":
		return "raising hard resource limits (process.rlimits) and lowering oom_score_adj fail", false
	case "NET_ADMIN":
		return "container networks cannot be set up", false
	case "MKNOD":
		return "device nodes cannot be created", false
	case "SETFCAP":
		return "file capabilities in image layers cannot be kept", false
	case "SYS_PTRACE":
		return "descriptors of running containers cannot be fetched after a restart of the supervisor", false
	case "SYS_NICE":
		return "process.scheduler and process.ioPriority with raised priority are refused", false
	case "KILL":
		return "containers of other users cannot be signalled", false
	}
	return "", false // not used by minirun; containers may be given it
}

// capabilities: what is missing from the bounding set cannot be given to a
// container either, whatever its configuration asks for.
func (h *host) capabilities() {
	status, _ := h.read("/proc/self/status")
	text := ""
	for line := range strings.Lines(status) {
		if v, ok := strings.CutPrefix(line, "CapBnd:"); ok {
			text = strings.TrimSpace(v)
		}
	}
	set, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		h.add(groupSystem, "capabilities", Unknown, false, "no CapBnd in /proc/self/status", "", "")
		return
	}
	last := len(capabilityNames) - 1
	if t, err := h.read("/proc/sys/kernel/cap_last_cap"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(t)); err == nil && n >= 0 && n < 64 {
			last = n
		}
	}
	const hint = "start minirun outside of the container or unit that took it away"
	have := 0
	var missing []Check
	var others []string
	for i := 0; i <= last; i++ {
		if set>>i&1 == 1 {
			have++
			continue
		}
		name := strconv.Itoa(i)
		if i < len(capabilityNames) {
			name = capabilityNames[i]
		}
		lost, required := capabilityUse(name)
		if lost == "" {
			others = append(others, "CAP_"+name)
			continue
		}
		missing = append(missing, Check{
			Name: "CAP_" + name, State: Missing, Required: required, Detail: "not in the bounding set",
			Lost: lost + "; containers cannot have it", Hint: hint, group: groupSystem,
		})
	}
	h.add(groupSystem, "capabilities", OK, false, fmt.Sprintf("%d of %d in the bounding set", have, last+1), "", "")
	h.checks = append(h.checks, missing...)
	if len(others) > 0 {
		h.add(groupSystem, "other capabilities", Missing, false, "not in the bounding set: "+strings.Join(others, " "), "containers cannot have them", hint)
	}
}
