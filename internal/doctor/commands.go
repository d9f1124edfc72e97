package doctor

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const groupCommands = "Commands"

// commands looks for what single commands need beside the kernel's features.
func (h *host) commands() {
	if path := h.lookPath("ps"); path != "" {
		h.add(groupCommands, "ps", OK, false, path, "", "")
	} else {
		h.add(groupCommands, "ps", Missing, false, "not installed", "minirun ps has no table; --format json works", "install the package procps")
	}
	if path := h.lookPath("criu"); path != "" {
		h.add(groupCommands, "criu", OK, false, path, "", "")
	} else {
		h.add(groupCommands, "criu", Missing, false, "not installed", "minirun checkpoint and restore", "install the package criu")
	}
	if h.uid != 0 {
		h.user()
	}
}

// user looks for what an ordinary user has and root needs not.
func (h *host) user() {
	const runtimeDir = "XDG_RUNTIME_DIR"
	dir := h.getenv(runtimeDir)
	if !filepath.IsAbs(dir) {
		h.add(groupCommands, runtimeDir, Missing, false, "not set", "every command needs --root", "log in through PAM, or set it to a directory of yours such as /run/user/UID")
	} else {
		h.add(groupCommands, runtimeDir, OK, false, dir, "", "")
	}
	const systemd, lost = "systemd of the user", "--systemd-cgroup is an error for this user"
	switch bus := h.getenv("DBUS_SESSION_BUS_ADDRESS"); {
	case dir != "" && h.exists(dir+"/systemd/private"):
		h.add(groupCommands, systemd, OK, false, dir+"/systemd/private", "", "")
	case bus != "":
		h.add(groupCommands, systemd, Unknown, false, "there is a bus at "+bus, lost, "")
	default:
		h.add(groupCommands, systemd, Missing, false, "neither its socket in "+runtimeDir+" nor DBUS_SESSION_BUS_ADDRESS", lost, "loginctl enable-linger, and log in through PAM")
	}
	const name, limits = "cgroup of the user", "limits are refused without --systemd-cgroup; pause, ps, update and kill --all have no group to work on"
	switch group, err := h.ownGroup(); {
	case err != nil:
		h.add(groupCommands, name, Unknown, false, err.Error(), limits, "")
	case group != "":
		h.add(groupCommands, name, OK, false, "groups can be made in "+group, "", "")
	default:
		h.add(groupCommands, name, Missing, false, "no group can be made beside or below ours", limits, "systemd-run --user --scope -p Delegate=yes")
	}
}

// ownGroup is where the user may make control groups and start processes in
// them: beside the group that we are in, or below it; "" is nowhere.
func (h *host) ownGroup() (string, error) {
	mountinfo, err := h.read("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	list, err := h.read("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	mount := parseCgroupMounts(mountinfo).v2
	for line := range strings.Lines(list) {
		own, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok || mount == "" {
			continue
		}
		for _, dir := range [...]string{filepath.Dir(own), own} {
			if dir = filepath.Join(mount, dir); h.writable(dir) && h.writable(dir+"/cgroup.procs") {
				return dir, nil
			}
		}
	}
	return "", nil
}

func (h *host) writable(path string) bool {
	return unix.Faccessat(unix.AT_FDCWD, h.root+path, unix.W_OK, unix.AT_EACCESS) == nil
}

// getenv is a variable of the environment, or of the test's.
func (h *host) getenv(name string) string {
	if h.root != "" {
		return h.env[name]
	}
	return os.Getenv(name)
}
