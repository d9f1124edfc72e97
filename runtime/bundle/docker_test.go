package bundle

import (
	"encoding/json"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// syscallNames are the system calls that a default profile allows.
const syscallNames = `
_llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime clock_adjtime64
clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat
dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat
exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl
fcntl64 fdatasync fgetxattr file_getattr file_setattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
ftime ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd
getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid
getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid
getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents
io_pgetevents_time64 io_setup io_submit io_uring_enter io_uring_register io_uring_setup ioctl ioprio_get ioprio_set ipc kill landlock_add_rule
landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listns listxattr listxattrat llistxattr lremovexattr lseek
lsetxattr lsm_get_self_attr lsm_list_modules lsm_set_self_attr lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore
mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64
mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep
newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64
preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readdir readlink readlinkat readv recvfrom
recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rseq_slice_yield
rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop
semtimedop semtimedop_time64 sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid
setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32
setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat sgetmask shmat shmctl shmdt shmget shutdown sigaction sigaltstack
signal signalfd signalfd4 sigpending sigprocmask sigreturn sigsuspend socketcall socketpair splice ssetmask stat stat64 statfs statfs64 statx symlink
symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask
uname unlink unlinkat utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev`

// dockerSpec returns a configuration of the size and shape that dockerd
// writes: 14 KB of JSON, nearly half of it the seccomp profile.
func dockerSpec() *specs.Spec {
	s := Default()
	caps := strings.Fields("CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID CAP_SETUID CAP_SETFCAP CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE")
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	id := strings.Repeat("0123456789abcdef", 4)
	s.Process.Env = append(s.Process.Env, "HOSTNAME="+id[:12])
	s.Process.OOMScoreAdj = new(int)
	s.Process.ApparmorProfile = "docker-default"
	for _, name := range []string{"resolv.conf", "hostname", "hosts"} {
		s.Mounts = append(s.Mounts, mount("/etc/"+name, "bind", "/var/lib/docker/containers/"+id+"/"+name, "rbind,rprivate"))
	}
	for i := range 20 {
		n := strconv.Itoa(i)
		s.Process.Env = append(s.Process.Env, "SERVICE_"+n+"_ENDPOINT=https://service-"+n+".example.internal:8443/api/v1")
		s.Mounts = append(s.Mounts, mount("/srv/data/volume-"+n, "bind", "/var/lib/docker/volumes/"+id+n+"/_data", "rbind,rprivate,nosuid,nodev"))
	}
	timeout := 5
	s.Hooks = &specs.Hooks{Prestart: []specs.Hook{{ // deprecated, and what dockerd writes
		Path: "/proc/1234/exe", Args: []string{"libnetwork-setkey", "-exec-root=/var/run/docker", id, id[:12]}, Timeout: &timeout,
	}}}
	s.Linux.CgroupsPath = "/docker/" + id
	s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
	for _, d := range []int64{3, 5, 7, 8, 9} {
		major := int64(1)
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &d, Access: "rwm"})
	}
	shares, limit := uint64(1024), int64(512<<20)
	s.Linux.Resources.CPU = &specs.LinuxCPU{Shares: &shares}
	s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
	s.Linux.Seccomp = dockerSeccomp()
	return s
}

func dockerSeccomp() *specs.LinuxSeccomp {
	eperm, enosys := uint(1), uint(38)
	p := &specs.LinuxSeccomp{
		DefaultAction:    specs.ActErrno,
		DefaultErrnoRet:  &eperm,
		Architectures:    []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
		ListenerMetadata: "",
	}
	allow := func(names []string, args ...specs.LinuxSeccompArg) {
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: names, Action: specs.ActAllow, Args: args})
	}
	allow(strings.Fields(syscallNames))
	allow([]string{"process_vm_readv", "process_vm_writev", "ptrace"})
	allow([]string{"socket"}, specs.LinuxSeccompArg{Value: 40, Op: specs.OpNotEqual})
	for _, persona := range []uint64{0, 8, 0x20000, 0x20008, 0xffffffff} {
		allow([]string{"personality"}, specs.LinuxSeccompArg{Value: persona, Op: specs.OpEqualTo})
	}
	allow([]string{"arch_prctl"})
	allow([]string{"modify_ldt"})
	allow([]string{"chroot"})
	allow([]string{"clone"}, specs.LinuxSeccompArg{Value: 0x7e020000, Op: specs.OpMaskedEqual})
	p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: &enosys})
	return p
}

func dockerJSON(t testing.TB) []byte {
	raw, err := json.Marshal(dockerSpec())
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestParse_Docker(t *testing.T) {
	raw := dockerJSON(t)
	if len(raw) < 13000 || len(raw) > 16000 {
		t.Errorf("the sample has %d bytes, not about 14 KB", len(raw))
	}
	same(t, raw)
	s, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := Validate(s); err != nil {
		t.Error(err)
	}
	indented, err := AppendJSON(nil, s)
	if err != nil {
		t.Fatal(err)
	}
	same(t, indented)
}

func BenchmarkParse(b *testing.B) {
	raw := dockerJSON(b)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse_encodingJSON(b *testing.B) {
	raw := dockerJSON(b)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := byReflection(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkValidate(b *testing.B) {
	s := dockerSpec()
	b.ReportAllocs()
	for b.Loop() {
		if err := Validate(s); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkParse_Cold starts a fresh process per iteration and reports how
// long its first decode takes, which is what a command line tool pays.
func BenchmarkParse_Cold(b *testing.B) {
	for _, decoder := range []string{"bundle", "encodingJSON"} {
		b.Run(decoder, func(b *testing.B) {
			name := b.TempDir() + "/" + ConfigFile
			if err := os.WriteFile(name, dockerJSON(b), 0o600); err != nil {
				b.Fatal(err)
			}
			var total float64
			for b.Loop() {
				cmd := exec.Command("/proc/self/exe", "-test.run=^$")
				cmd.Env = append(os.Environ(), coldEnv+"="+decoder+":"+name)
				out, err := cmd.Output()
				if err != nil {
					b.Fatal(err)
				}
				us, err := strconv.ParseFloat(string(out), 64)
				if err != nil {
					b.Fatal(err)
				}
				total += us
			}
			b.ReportMetric(total/float64(b.N), "us/first-decode")
			b.ReportMetric(0, "ns/op")
		})
	}
}

const coldEnv = "BUNDLE_TEST_COLD"

// TestMain is also the fresh process of BenchmarkParse_Cold.
func TestMain(m *testing.M) {
	decoder, name, cold := strings.Cut(os.Getenv(coldEnv), ":")
	if !cold {
		os.Exit(m.Run())
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		panic(err)
	}
	start := time.Now()
	if decoder == "bundle" {
		_, err = Parse(raw)
	} else {
		_, err = byReflection(raw)
	}
	took := time.Since(start)
	if err != nil {
		panic(err)
	}
	os.Stdout.WriteString(strconv.FormatFloat(float64(took)/1e3, 'f', 1, 64))
	os.Exit(0)
}
