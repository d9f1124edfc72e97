package doctor

import "strings"

const groupModules = "Kernel modules"

func (h *host) modules() {
	filesystems, _ := h.read("/proc/filesystems")
	dep, depErr := h.read("/lib/modules/" + h.release + "/modules.dep")
	builtin, _ := h.read("/lib/modules/" + h.release + "/modules.builtin")
	disabled, _ := h.read("/proc/sys/kernel/modules_disabled")
	frozen := strings.TrimSpace(disabled) == "1"
	for _, m := range [...]struct{ name, config, lost string }{
		{"overlay", "CONFIG_OVERLAY_FS", "containers from images get a full copy of their files"},
		{"erofs", "CONFIG_EROFS_FS", "image layers are extracted file by file instead of being mounted"},
		{"bridge", "CONFIG_BRIDGE", "container networks cannot be created"},
		{"veth", "CONFIG_VETH", "containers cannot be attached to a network"},
		{"nf_tables", "CONFIG_NF_TABLES", "published ports, services and address translation do not work"},
		{"br_netfilter", "CONFIG_BRIDGE_NETFILTER", "a container cannot reach a service that is served on its own bridge"},
	} {
		add := func(state State, detail, hint string) {
			h.add(groupModules, "module "+m.name, state, false, detail, m.lost, hint)
		}
		file := "/" + m.name + ".ko"
		switch {
		case strings.Contains(builtin, file), h.config[m.config] == "y":
			add(OK, "built in", "")
		case h.exists("/sys/module/" + m.name), strings.Contains(filesystems, "\t"+m.name+"\n"):
			add(OK, "loaded", "")
		case hasModule(dep, file) && frozen:
			add(Missing, "available, but module loading is switched off (kernel.modules_disabled is 1)", "reboot, and load it before that is set: echo "+m.name+" > /etc/modules-load.d/minirun.conf")
		case hasModule(dep, file) && m.name == "br_netfilter":
			// The only one that the kernel does not load when it is first used.
			add(Missing, "available, not loaded", "modprobe br_netfilter")
		case hasModule(dep, file):
			add(OK, "available, loaded on first use (modprobe "+m.name+")", "")
		case depErr != nil && h.config == nil:
			add(Unknown, "the list of modules and the kernel's configuration cannot be read", "modprobe "+m.name)
		default:
			add(Missing, "not in this kernel", "install the kernel package that has it (linux-modules-extra, kernel-modules), then modprobe "+m.name)
		}
	}
}

// hasModule: modules.dep has a line for file, maybe compressed.
func hasModule(dep, file string) bool {
	for line := range strings.Lines(dep) {
		path, _, ok := strings.Cut(line, ":")
		if i := strings.LastIndex(path, file); ok && i >= 0 {
			return true
		}
	}
	return false
}
