package kfeature

// Paths and mounts.
var (
	// OpenAt2 is openat2(2): names resolved inside a root that nobody can lead out of.
	OpenAt2 = &Feature{Name: "openat2", MinKernel: "5.6", probe: probeOpenAt2}
	// FAccessAt2 is faccessat2(2): access checks with flags.
	FAccessAt2 = &Feature{Name: "faccessat2", MinKernel: "5.8", probe: probeFAccessAt2}
	// MountAPI is fsopen(2), fsconfig(2), fsmount(2) and move_mount(2).
	MountAPI = &Feature{Name: "mount API", MinKernel: "5.2", probe: probeMountAPI}
	// OpenTreeClone is open_tree(2) with OPEN_TREE_CLONE: detached bind mounts.
	OpenTreeClone = &Feature{Name: "open_tree clone", MinKernel: "5.2", probe: probeOpenTree}
	// MountSetattr is mount_setattr(2): mount attributes, also recursive.
	MountSetattr = &Feature{Name: "mount_setattr", MinKernel: "5.12", probe: probeMountSetattr}
	// IDMappedMounts is MOUNT_ATTR_IDMAP. Whether a given file system takes part is another question.
	IDMappedMounts = &Feature{Name: "idmapped mounts", MinKernel: "5.12", probe: probeIDMappedMounts}
	// MoveMountBeneath is MOVE_MOUNT_BENEATH: a mount placed under the topmost one.
	MoveMountBeneath = &Feature{Name: "move_mount beneath", MinKernel: "6.5", probe: probeMoveMountBeneath}
	// StatMount is statmount(2) and listmount(2).
	StatMount = &Feature{Name: "statmount and listmount", MinKernel: "6.8", probe: probeStatMount}
	// OpenTreeNamespace is OPEN_TREE_NAMESPACE: a mount namespace that holds one tree.
	OpenTreeNamespace = &Feature{Name: "open_tree namespace", MinKernel: "7.0", probe: probeOpenTreeNamespace}
)

// File systems.
var (
	// Overlay is overlayfs, registered or as a module that the kernel can load.
	Overlay = &Feature{Name: "overlayfs", MinKernel: "3.18", probe: probeOverlay}
	// OverlayAppend is overlayfs's parameter lowerdir+ with a path: one layer at a time.
	OverlayAppend = &Feature{Name: "overlayfs lowerdir+", MinKernel: "6.8", probe: probeOverlayAppend}
	// OverlayAppendFD is overlayfs's parameter lowerdir+ with a descriptor.
	OverlayAppendFD = &Feature{Name: "overlayfs lowerdir+ by descriptor", MinKernel: "6.13", probe: probeOverlayAppendFD}
	// OverlayData is data-only lower directories of overlayfs without metacopy.
	OverlayData = &Feature{Name: "overlayfs data-only layers", MinKernel: "6.16", probe: probeOverlayData}
	// EROFSFile is EROFS mounted from a regular file, with blocks of 512 bytes.
	// The file must be on a file system that allows it: see EROFSFileIn.
	EROFSFile = &Feature{Name: "file-backed erofs", MinKernel: "6.12", probe: probeEROFSFile}
)

// Processes.
var (
	// MemfdExec is the execution of a program from a sealed memfd.
	MemfdExec = &Feature{Name: "executable memfd", MinKernel: "3.17", probe: probeMemfdExec}
	// Clone3 is clone3(2).
	Clone3 = &Feature{Name: "clone3", MinKernel: "5.3", probe: probeClone3}
	// CloneIntoCgroup is CLONE_INTO_CGROUP: a child that starts in its cgroup.
	CloneIntoCgroup = &Feature{Name: "CLONE_INTO_CGROUP", MinKernel: "5.7", probe: probeCloneIntoCgroup}
	// PidfdOpen is pidfd_open(2).
	PidfdOpen = &Feature{Name: "pidfd_open", MinKernel: "5.3", probe: probePidfdOpen}
	// PidfdGetfd is pidfd_getfd(2).
	PidfdGetfd = &Feature{Name: "pidfd_getfd", MinKernel: "5.6", probe: probePidfdGetfd}
	// PidfdInfo is the ioctl PIDFD_GET_INFO.
	PidfdInfo = &Feature{Name: "PIDFD_GET_INFO", MinKernel: "6.13", probe: probePidfdInfo}
	// PidfdExitInfo is PIDFD_INFO_EXIT: any holder of a pidfd learns the exit status.
	PidfdExitInfo = &Feature{Name: "PIDFD_GET_INFO exit status", MinKernel: "6.15", probe: probePidfdExitInfo}
	// CloseRangeCloexec is close_range(2) with CLOSE_RANGE_CLOEXEC.
	CloseRangeCloexec = &Feature{Name: "close_range CLOEXEC", MinKernel: "5.11", probe: probeCloseRange}
	// MemPolicy is set_mempolicy(2) and its family: NUMA memory policies.
	MemPolicy = &Feature{Name: "memory policies", MinKernel: "2.6.7", probe: probeMemPolicy}
	// Autogroup is the scheduler's grouping by session. Information only.
	Autogroup = &Feature{Name: "scheduler autogroups", MinKernel: "2.6.38", probe: probeAutogroup}
)

// Control groups and accounting.
var (
	// CgroupKill is the file cgroup.kill of cgroup v2.
	CgroupKill = &Feature{Name: "cgroup.kill", MinKernel: "5.14", probe: probeCgroupKill}
	// DeviceBPF is BPF_PROG_TYPE_CGROUP_DEVICE: device rules of cgroup v2.
	DeviceBPF = &Feature{Name: "cgroup device BPF", MinKernel: "4.15", probe: probeDeviceBPF}
	// PSI is pressure stall information, compiled in and switched on.
	PSI = &Feature{Name: "pressure stall information", MinKernel: "4.20", probe: probePSI}
)

// Security.
var (
	// Seccomp is seccomp(2) with filters.
	Seccomp = &Feature{Name: "seccomp filters", MinKernel: "3.17", probe: probeSeccomp}
	// SeccompLog is the action SECCOMP_RET_LOG.
	SeccompLog = &Feature{Name: "seccomp log action", MinKernel: "4.14", probe: probeSeccompLog}
	// SeccompKillProcess is the action SECCOMP_RET_KILL_PROCESS.
	SeccompKillProcess = &Feature{Name: "seccomp kill-process action", MinKernel: "4.14", probe: probeSeccompKillProcess}
	// SeccompNotify is the action SECCOMP_RET_USER_NOTIF.
	SeccompNotify = &Feature{Name: "seccomp user notification", MinKernel: "5.0", probe: probeSeccompNotify}
	// SeccompWaitKillable is SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV.
	SeccompWaitKillable = &Feature{Name: "seccomp WAIT_KILLABLE_RECV", MinKernel: "5.19", probe: probeSeccompWaitKillable}
	// Landlock is the LSM, switched on; LandlockABI has its version.
	Landlock = &Feature{Name: "Landlock", MinKernel: "5.13", probe: probeLandlock}
)

// Namespaces, with their names in /proc/self/ns.
var (
	// MountNamespaces are isolated lists of mounts.
	MountNamespaces = &Feature{Name: "mount namespaces", MinKernel: "3.8", probe: probeMountNamespaces}
	// PIDNamespaces are isolated process ids.
	PIDNamespaces = &Feature{Name: "pid namespaces", MinKernel: "3.8", probe: probePIDNamespaces}
	// NetworkNamespaces are isolated network stacks.
	NetworkNamespaces = &Feature{Name: "network namespaces", MinKernel: "3.0", probe: probeNetworkNamespaces}
	// IPCNamespaces are isolated System V IPC and POSIX message queues.
	IPCNamespaces = &Feature{Name: "ipc namespaces", MinKernel: "3.0", probe: probeIPCNamespaces}
	// UTSNamespaces are isolated host names.
	UTSNamespaces = &Feature{Name: "uts namespaces", MinKernel: "3.0", probe: probeUTSNamespaces}
	// CgroupNamespaces are isolated views of /proc/PID/cgroup.
	CgroupNamespaces = &Feature{Name: "cgroup namespaces", MinKernel: "4.6", probe: probeCgroupNamespaces}
	// TimeNamespaces are offsets of the monotonic and boot clocks.
	TimeNamespaces = &Feature{Name: "time namespaces", MinKernel: "5.6", probe: probeTimeNamespaces}
	// UserNamespaces are user namespaces that this process can create, limits included.
	UserNamespaces = &Feature{Name: "user namespaces", MinKernel: "3.8", probe: probeUserNamespaces}
	// UnprivilegedUserNamespaces are user namespaces with capabilities for users without any.
	UnprivilegedUserNamespaces = &Feature{Name: "unprivileged user namespaces", MinKernel: "3.8", probe: probeUnprivilegedUserNamespaces}
)

// All returns every feature, in the order of the declarations.
func All() []*Feature {
	return []*Feature{
		OpenAt2, FAccessAt2, MountAPI, OpenTreeClone, MountSetattr, IDMappedMounts, MoveMountBeneath, StatMount, OpenTreeNamespace,
		Overlay, OverlayAppend, OverlayAppendFD, OverlayData, EROFSFile,
		MemfdExec, Clone3, CloneIntoCgroup, PidfdOpen, PidfdGetfd, PidfdInfo, PidfdExitInfo, CloseRangeCloexec, MemPolicy, Autogroup,
		CgroupKill, DeviceBPF, PSI,
		Seccomp, SeccompLog, SeccompKillProcess, SeccompNotify, SeccompWaitKillable, Landlock,
		MountNamespaces, PIDNamespaces, NetworkNamespaces, IPCNamespaces, UTSNamespaces, CgroupNamespaces, TimeNamespaces,
		UserNamespaces, UnprivilegedUserNamespaces,
	}
}
