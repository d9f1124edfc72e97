package seccomp

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Calls that every container may use. Names that an architecture lacks do no harm.
const defaultNames = `accept accept4 access adjtimex alarm arch_prctl arm_fadvise64_64 arm_sync_file_range bind breakpoint
brk cachestat cacheflush capget capset chdir chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres
clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect
copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate
fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock
fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue
futex_time64 futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64
getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid
getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt
gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch
io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill
landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount
listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier
memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 modify_ldt mprotect
mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap
mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open
openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64
prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace
pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg
remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall riscv_flush_icache riscv_hwprobe rmdir
rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
rt_sigtimedwait_time64 rt_tgsigqueueinfo s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr sched_get_priority_max
sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select
semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list
set_thread_area set_tid_address set_tls setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32
setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit
setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4
sigprocmask sigreturn socketpair splice stat stat64 statfs statfs64 statmount statx swapcontext symlink symlinkat sync
sync_file_range sync_file_range2 syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat
utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev`

// capNames returns the calls that come with a capability.
func capNames(capability string) string {
	switch capability {
	case "CAP_DAC_READ_SEARCH":
		return "open_by_handle_at"
	case "CAP_SYS_ADMIN":
		return "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr " +
			"lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl " +
			"quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare"
	case "CAP_SYS_BOOT":
		return "reboot"
	case "CAP_SYS_CHROOT":
		return "chroot"
	case "CAP_SYS_MODULE":
		return "delete_module init_module finit_module"
	case "CAP_SYS_PACCT":
		return "acct"
	case "CAP_SYS_PTRACE":
		return "kcmp pidfd_getfd process_madvise"
	case "CAP_SYS_RAWIO":
		return "iopl ioperm"
	case "CAP_SYS_TIME":
		return "settimeofday stime clock_settime clock_settime64"
	case "CAP_SYS_TTY_CONFIG":
		return "vhangup"
	case "CAP_SYS_NICE":
		return "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"
	case "CAP_SYSLOG":
		return "syslog"
	case "CAP_BPF":
		return "bpf"
	case "CAP_PERFMON":
		return "perf_event_open"
	}
	return ""
}

// Flags of clone(2) that make a namespace. CLONE_NEWTIME is not among them: clone(2) cannot take it.
const cloneNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID |
	unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// Address families for socket(2), one bit each: AF_UNSPEC, for which the kernel has its own error, and all that kernels
// still have except AF_ALG (38), the way to kernel
// cryptography that CVE-2026-31431 and others came through, and AF_VSOCK (40), which leaves the network namespace.
const socketFamilies uint64 = (1<<46 - 1) &^ (1<<unix.AF_DECnet | 1<<unix.AF_ECONET | 1<<unix.AF_ATMSVC |
	1<<unix.AF_IRDA | 1<<unix.AF_WANPIPE | 1<<unix.AF_ISDN | 1<<unix.AF_CAIF | 1<<unix.AF_ALG | 1<<unix.AF_VSOCK)

// Default returns the profile for containers that bring none: what Docker's default profile allows to a container with
// the capabilities caps (as in process.capabilities.bounding), EPERM for the rest, ENOSYS for clone3 so that libc falls
// back to clone, whose flags a filter can see.
//
// goarch is the architecture of the container's programs. It differs from Docker in one point: on amd64 the 32-bit
// socketcall(2) cannot make sockets, since a filter cannot see which family it is asked for, and AF_ALG would be one
// int 0x80 away. The other sub-calls are allowed as their direct calls are. Programs that are 32-bit by nature, images
// for 386, get socketcall whole: the C libraries of most distributions know nothing else there.
func Default(goarch string, caps []string) *specs.LinuxSeccomp {
	eperm, enosys := uint(unix.EPERM), uint(unix.ENOSYS)
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: &eperm, Architectures: siblings(goarch)}
	p.Syscalls = make([]specs.LinuxSyscall, 0, 64)
	allow := func(names string) {
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: strings.Fields(names), Action: specs.ActAllow})
	}
	args := make([]specs.LinuxSeccompArg, 0, 64)
	allowIf := func(names []string, a specs.LinuxSeccompArg) {
		args = append(args, a)
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: names, Action: specs.ActAllow, Args: args[len(args)-1 : len(args) : len(args)]})
	}
	allow(defaultNames)
	if goarch != "amd64" {
		allow("socketcall")
	}
	socket, personality := []string{"socket"}, []string{"personality"}
	for family := range uint64(46) {
		if socketFamilies&(1<<family) != 0 {
			allowIf(socket, specs.LinuxSeccompArg{Value: family, Op: specs.OpEqualTo})
		}
	}
	// PER_LINUX, PER_LINUX32, both with UNAME26, and "tell me".
	for _, v := range [...]uint64{0, 8, 0x20000, 0x20008, 0xffffffff} {
		allowIf(personality, specs.LinuxSeccompArg{Value: v, Op: specs.OpEqualTo})
	}
	admin := false
	for _, capability := range caps {
		if names := capNames(capability); names != "" {
			allow(names)
		}
		admin = admin || capability == "CAP_SYS_ADMIN"
	}
	if !admin {
		flags := specs.LinuxSeccompArg{Value: cloneNamespaces, Op: specs.OpMaskedEqual}
		if goarch == "s390x" {
			flags.Index = 1 // clone(stack, flags): CONFIG_CLONE_BACKWARDS2
		}
		allowIf([]string{"clone"}, flags)
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: &enosys})
	}
	return p
}

// siblings returns the ABIs that programs of an architecture may use besides their own.
func siblings(goarch string) []specs.Arch {
	switch goarch {
	case "amd64":
		return []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	case "arm64":
		return []specs.Arch{specs.ArchAARCH64, specs.ArchARM}
	case "mips64":
		return []specs.Arch{specs.ArchMIPS64, specs.ArchMIPS}
	case "mips64le":
		return []specs.Arch{specs.ArchMIPSEL64, specs.ArchMIPSEL}
	}
	if a := nativeArch(goarch); a != nil {
		return []specs.Arch{specs.Arch(a.scmp)}
	}
	return nil
}
