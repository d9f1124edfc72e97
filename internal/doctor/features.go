package doctor

import (
	"errors"
	"strconv"

	"github.com/minirun/minirun/internal/kfeature"
)

const groupFeatures = "Kernel features"

func (h *host) features() {
	for _, f := range kfeature.All() {
		required, lost, hint := use(f)
		if f == kfeature.UserNamespaces && h.uid != 0 {
			required = true // everything is made inside of one
		}
		state, detail := OK, ""
		var missing *kfeature.Error
		var unknown *kfeature.ProbeError
		switch err := h.probe(f); {
		case err == nil:
			detail = h.seen(f)
		case errors.As(err, &missing):
			state, detail = Missing, missing.Reason
			if detail == "" {
				detail = "needs Linux " + f.MinKernel
			}
		case errors.As(err, &unknown):
			state, detail, hint = Unknown, unknown.Err.Error(), ""
			if errors.Is(err, kfeature.ErrNeedsRoot) {
				hint = "run minirun doctor as root"
			}
		default:
			state, detail, hint = Unknown, err.Error(), ""
		}
		h.add(groupFeatures, f.Name, state, required, detail, lost, hint)
	}
}

// seen is more than "it is there", where there is more to say.
func (h *host) seen(f *kfeature.Feature) string {
	switch f {
	case kfeature.Landlock:
		if v, err := kfeature.LandlockABI(); err == nil && h.root == "" {
			return "ABI " + strconv.Itoa(v)
		}
	case kfeature.MemfdExec:
		if v := kfeature.MemfdNoexec(); v != 0 && h.root == "" {
			return "vm.memfd_noexec is " + strconv.Itoa(v)
		}
	}
	return ""
}

// use says what minirun needs a feature for: whether nothing runs without it,
// what does not work without it, and what an administrator can do.
func use(f *kfeature.Feature) (required bool, lost, hint string) {
	const newer = "a newer kernel has it"
	switch f {
	case kfeature.OpenAt2:
		return true, "paths in a container's root cannot be resolved safely", newer
	case kfeature.FAccessAt2:
		return false, "access checks take the flags into account in user space", newer
	case kfeature.MountAPI:
		return true, "a container's mounts cannot be made", newer
	case kfeature.OpenTreeClone:
		return true, "bind mounts cannot be made", newer
	case kfeature.MountSetattr:
		return true, "mount options of bind mounts cannot be set; recursive options (rro, rnosuid) are refused", newer
	case kfeature.IDMappedMounts:
		return false, "mounts with uidMappings and gidMappings are refused; a user namespace needs its own copy of an image", newer
	case kfeature.MoveMountBeneath:
		return false, "nothing now", newer
	case kfeature.StatMount:
		return false, "mounts are looked up in /proc/self/mountinfo, which is slower on hosts with many", newer
	case kfeature.OpenTreeNamespace:
		return false, "a container's mount namespace starts as a copy of the host's, which is slower on hosts with many mounts", newer
	case kfeature.Overlay:
		return false, "containers from images get a full copy of their files", "modprobe overlay"
	case kfeature.OverlayAppend:
		return false, "an overlay's layers are named in one string, at most one page long", newer
	case kfeature.OverlayAppendFD:
		return false, "an overlay's layers are named by path", newer
	case kfeature.OverlayData:
		return false, "large files of images are in memory twice when they are read", newer
	case kfeature.EROFSFile:
		return false, "image layers are extracted file by file instead of being mounted", "Linux 6.12 with CONFIG_EROFS_FS_BACKED_BY_FILE has it"
	case kfeature.MemfdExec:
		return true, "the program that starts containers cannot be executed", "sysctl vm.memfd_noexec=1"
	case kfeature.Clone3, kfeature.CloneIntoCgroup:
		return true, "containers cannot be started in their control group", newer
	case kfeature.PidfdOpen:
		return true, "processes cannot be signalled and waited for without races", newer
	case kfeature.PidfdGetfd:
		return false, "the supervisor cannot get descriptors back from monitors after its restart", newer
	case kfeature.PidfdInfo, kfeature.PidfdExitInfo:
		return false, "minirun wait does not know the exit status; start reports success for an init that is killed before it executes the process, if its parent reaps it at once", newer
	case kfeature.CloseRangeCloexec:
		return false, "descriptors are closed one by one before a container starts", newer
	case kfeature.MemPolicy:
		return false, "linux.memoryPolicy is refused", ""
	case kfeature.Autogroup:
		return false, "nothing: sessions are scheduled like any process", ""
	case kfeature.CgroupKill:
		return false, "the processes of a container are killed one by one", newer
	case kfeature.DeviceBPF:
		return false, "linux.resources.devices is refused", "a kernel with CONFIG_CGROUP_BPF has it; outside of the initial user namespace it is not allowed"
	case kfeature.PSI:
		return false, "no pressure figures in statistics and events", ""
	case kfeature.Seccomp:
		return false, "linux.seccomp is refused", "a kernel with CONFIG_SECCOMP_FILTER has it"
	case kfeature.SeccompLog:
		return false, "SCMP_ACT_LOG in linux.seccomp is refused", newer
	case kfeature.SeccompKillProcess:
		return false, "SCMP_ACT_KILL_PROCESS in linux.seccomp is refused", newer
	case kfeature.SeccompNotify:
		return false, "SCMP_ACT_NOTIFY in linux.seccomp is refused", newer
	case kfeature.SeccompWaitKillable:
		return false, "the flag SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV in linux.seccomp is refused", newer
	case kfeature.Landlock:
		return false, "nothing now", "add landlock to lsm= on the kernel's command line"
	case kfeature.MountNamespaces, kfeature.PIDNamespaces, kfeature.NetworkNamespaces, kfeature.IPCNamespaces, kfeature.UTSNamespaces, kfeature.CgroupNamespaces:
		return true, "containers cannot be isolated", "a kernel with CONFIG_NAMESPACES and its options has it"
	case kfeature.TimeNamespaces:
		return false, "linux.timeOffsets and a time namespace are refused", "a kernel with CONFIG_TIME_NS has it"
	case kfeature.UserNamespaces:
		return false, "containers with a user namespace are refused", "sysctl user.max_user_namespaces=10000"
	case kfeature.UnprivilegedUserNamespaces:
		return false, "containers need root", "see the sysctl in the detail"
	}
	return false, "", ""
}
