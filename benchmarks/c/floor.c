// floor CGROUP ROOTFS COMMAND ARG...: the default container, set up by hand.
//
// It makes the system calls that no runtime can do without for the benchmark's bundle, in
// C, with every argument known at compile time: no config.json, no state, no validation,
// no error texts worth the name. What a runtime needs beyond this is its own overhead.
//
// CGROUP is the directory of a control group to create, to clone into and to remove.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

// glibc 2.36 knows these numbers and structures, older ones not all of them.
#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#define CLONE_INTO_CGROUP_ 0x200000000ULL
#define RESOLVE_NO_MAGICLINKS_ 0x02
#define RESOLVE_IN_ROOT_ 0x10
#define CLOSE_RANGE_CLOEXEC_ 4

struct open_how_ { uint64_t flags, mode, resolve; };
struct mount_attr_ { uint64_t set, clear, propagation, userns_fd; };
struct clone_args_ { uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup; };

static void die(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	_exit(99);
}

static long must(const char *what, long result)
{
	if (result < 0)
		die(what);
	return result;
}

static int rootfs = -1; // the new root, as a mount descriptor

// lookup opens path for use as a mount target; it cannot leave the rootfs.
static int lookup(const char *path, int flags)
{
	struct open_how_ how = { .flags = O_PATH | O_CLOEXEC | flags, .resolve = RESOLVE_IN_ROOT_ | RESOLVE_NO_MAGICLINKS_ };
	return syscall(SYS_openat2, rootfs, path, &how, sizeof how);
}

// attach consumes both descriptors.
static void attach(int mount, int target)
{
	must("move_mount", syscall(SYS_move_mount, mount, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH));
	close(mount);
	close(target);
}

// filesystem makes a detached mount. Options are key, value pairs ended by NULL; the value NULL is a flag.
static int filesystem(const char *type, unsigned attributes, const char *const *options)
{
	int context = must(type, syscall(SYS_fsopen, type, FSOPEN_CLOEXEC));
	for (; options && options[0]; options += 2)
		must(options[0], syscall(SYS_fsconfig, context, options[1] ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, options[0], options[1], 0));
	must(type, syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
	int mount = must(type, syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes));
	close(context);
	return mount;
}

static void mount_at(const char *type, const char *path, unsigned attributes, const char *const *options)
{
	int mount = filesystem(type, attributes, options);
	int target = lookup(path, O_DIRECTORY);
	if (target < 0 && errno == ENOENT) { // below /dev, whose tmpfs is empty: one level, parent exists
		char parent[64];
		snprintf(parent, sizeof parent, "%s", path);
		char *slash = strrchr(parent, '/');
		*slash = 0;
		int directory = must(parent, lookup(parent, O_DIRECTORY));
		must("mkdirat", mkdirat(directory, slash + 1, 0755));
		close(directory);
		target = lookup(path, O_DIRECTORY);
	}
	must(path, target);
	attach(mount, target);
}

#define OPTIONS(...) (const char *const[]){ __VA_ARGS__, NULL }
#define COUNT(array) (sizeof(array) / sizeof *(array))

static void mounts(const char *path)
{
	must("propagation", mount("", "/", NULL, MS_REC | MS_SLAVE, NULL));
	rootfs = must(path, syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE));
	struct mount_attr_ private = { .propagation = MS_PRIVATE };
	must("mount_setattr", syscall(SYS_mount_setattr, rootfs, "", AT_EMPTY_PATH, &private, sizeof private));
	must("move_mount", syscall(SYS_move_mount, rootfs, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH));

	const unsigned nosuid = MOUNT_ATTR_NOSUID, nodev = MOUNT_ATTR_NODEV, noexec = MOUNT_ATTR_NOEXEC, ro = MOUNT_ATTR_RDONLY;
	mount_at("proc", "proc", 0, NULL);
	mount_at("tmpfs", "dev", nosuid | MOUNT_ATTR_STRICTATIME, OPTIONS("source", "tmpfs", "mode", "755", "size", "65536k"));
	mount_at("devpts", "dev/pts", nosuid | noexec, OPTIONS("source", "devpts", "newinstance", NULL, "ptmxmode", "0666", "mode", "0620", "gid", "5"));
	mount_at("tmpfs", "dev/shm", nosuid | noexec | nodev, OPTIONS("source", "shm", "mode", "1777", "size", "65536k"));
	mount_at("mqueue", "dev/mqueue", nosuid | noexec | nodev, NULL);
	mount_at("sysfs", "sys", nosuid | noexec | nodev | ro, NULL);
	mount_at("cgroup2", "sys/fs/cgroup", nosuid | noexec | nodev | ro, NULL);
}

static void devices(void)
{
	static const struct { const char *name; int major, minor; } nodes[] = {
		{ "null", 1, 3 }, { "zero", 1, 5 }, { "full", 1, 7 }, { "random", 1, 8 }, { "urandom", 1, 9 }, { "tty", 5, 0 },
	};
	static const char *const links[][2] = {
		{ "/proc/self/fd", "fd" }, { "/proc/self/fd/0", "stdin" }, { "/proc/self/fd/1", "stdout" },
		{ "/proc/self/fd/2", "stderr" }, { "pts/ptmx", "ptmx" },
	};
	int dev = must("dev", lookup("dev", O_DIRECTORY));
	for (unsigned i = 0; i < COUNT(nodes); i++)
		must(nodes[i].name, mknodat(dev, nodes[i].name, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)));
	for (unsigned i = 0; i < COUNT(links); i++)
		must(links[i][1], symlinkat(links[i][0], dev, links[i][1]));
	close(dev);
}

// hide covers the masked paths: directories with one shared empty tmpfs, files with /dev/null.
static void hide(void)
{
	static const char *const masked[] = {
		"proc/acpi", "proc/asound", "proc/kcore", "proc/keys", "proc/latency_stats", "proc/timer_list",
		"proc/timer_stats", "proc/sched_debug", "sys/firmware", "proc/scsi",
	};
	static const char *const readonly[] = { "proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger" };

	int empty = filesystem("tmpfs", MOUNT_ATTR_RDONLY, OPTIONS("source", "tmpfs", "nr_blocks", "1", "nr_inodes", "1"));
	for (unsigned i = 0; i < COUNT(masked); i++) {
		int target = lookup(masked[i], O_DIRECTORY);
		if (target >= 0) {
			attach(must("open_tree", syscall(SYS_open_tree, empty, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)), target);
			continue;
		}
		if (errno != ENOTDIR || (target = lookup(masked[i], 0)) < 0)
			continue; // not on this kernel
		attach(must("/dev/null", syscall(SYS_open_tree, AT_FDCWD, "/dev/null", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)), target);
	}
	close(empty);

	struct mount_attr_ ro = { .set = MOUNT_ATTR_RDONLY };
	for (unsigned i = 0; i < COUNT(readonly); i++) {
		int target = lookup(readonly[i], 0);
		if (target < 0)
			continue;
		int copy = must("open_tree", syscall(SYS_open_tree, target, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE));
		must("mount_setattr", syscall(SYS_mount_setattr, copy, "", AT_EMPTY_PATH | AT_RECURSIVE, &ro, sizeof ro));
		attach(copy, target);
	}
	must("read-only root", syscall(SYS_mount_setattr, rootfs, "", AT_EMPTY_PATH, &ro, sizeof ro));
}

static void enter_root(void)
{
	must("fchdir", fchdir(rootfs));
	must("pivot_root", syscall(SYS_pivot_root, ".", "."));
	must("umount2", umount2(".", MNT_DETACH));
	must("chdir", chdir("/"));
}

static void privileges(void)
{
	struct rlimit files = { 1024, 1024 };
	must("setrlimit", setrlimit(RLIMIT_NOFILE, &files));
	must("no_new_privs", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	const uint32_t keep = 1u << CAP_AUDIT_WRITE | 1u << CAP_KILL | 1u << CAP_NET_BIND_SERVICE;
	for (int i = 0; prctl(PR_CAPBSET_READ, i, 0, 0, 0) >= 0; i++)
		if (i >= 32 || !(keep >> i & 1))
			must("bounding set", prctl(PR_CAPBSET_DROP, i, 0, 0, 0));
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct sets[2] = { { keep, keep, 0 }, { 0, 0, 0 } };
	must("capset", syscall(SYS_capset, &header, sets));
}

static void child(const char *path, char **argv)
{
	prctl(PR_SET_DUMPABLE, 0);
	must("close_range", syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC_));
	must("setsid", setsid());
	umask(0);
	mounts(path);
	devices();
	must("sethostname", sethostname("bench", 5));
	hide();
	enter_root();
	privileges();
	umask(022);
	static char *const env[] = { "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", NULL };
	static const char *const dirs[] = { "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin" };
	for (unsigned i = 0; i < COUNT(dirs); i++) {
		char file[256];
		snprintf(file, sizeof file, "%s/%s", dirs[i], argv[0]);
		execve(file, argv, env);
	}
	die(argv[0]);
}

// device_filter attaches "allow everything": the load and attach are the cost that all
// runtimes share, the rules are what they add.
static void device_filter(int cgroup)
{
	struct bpf_insn allow[] = { { .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 1 }, { .code = BPF_JMP | BPF_EXIT } };
	union bpf_attr load = { .prog_type = BPF_PROG_TYPE_CGROUP_DEVICE, .insn_cnt = COUNT(allow), .insns = (uint64_t)(uintptr_t)allow, .license = (uint64_t)(uintptr_t) "GPL" };
	int program = must("bpf load", syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load));
	union bpf_attr attachment = { .target_fd = cgroup, .attach_bpf_fd = program, .attach_type = BPF_CGROUP_DEVICE };
	must("bpf attach", syscall(SYS_bpf, BPF_PROG_ATTACH, &attachment, sizeof attachment));
	close(program);
}

int main(int argc, char **argv)
{
	if (argc < 4) {
		fprintf(stderr, "usage: floor CGROUP ROOTFS COMMAND ARG...\n");
		return 2;
	}
	must(argv[1], mkdir(argv[1], 0755));
	int cgroup = must(argv[1], open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	device_filter(cgroup);
	struct clone_args_ args = {
		.flags = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_INTO_CGROUP_,
		.exit_signal = SIGCHLD,
		.cgroup = cgroup,
	};
	pid_t pid = must("clone3", syscall(SYS_clone3, &args, sizeof args));
	if (pid == 0)
		child(argv[2], argv + 3);
	int status;
	must("waitpid", waitpid(pid, &status, 0));
	while (rmdir(argv[1]) < 0) {
		if (errno != EBUSY)
			die(argv[1]);
		usleep(100);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
