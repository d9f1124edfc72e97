package initprog

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// everyCall builds a program with every method of the builder.
func everyCall(b *Builder) {
	done, loop := b.NewLabel(), b.NewLabel()
	root, fd := b.Slot(0), b.Slot(0)

	b.Phase("files")
	b.Object("/proc")
	b.Openat2(CWD(), "proc", b.How(unix.O_PATH|unix.O_DIRECTORY, 0)).To(root).On(syscall.ENOENT, done).RetrySome(syscall.EAGAIN)
	b.Openat2(root, "new\nline", b.How(unix.O_CREAT|unix.O_WRONLY, 0o640)).To(fd).Ignore(syscall.EEXIST, syscall.EISDIR)
	b.Openat2(root, "x", b.HowNoLinks(unix.O_RDONLY)).IgnoreAny()
	b.Openat(CWD(), "/", unix.O_RDWR|unix.O_NOCTTY)
	b.Mkdirat(root, "dir", 0o755).Ignore(syscall.EEXIST).OnNonzero(loop)
	b.Place(loop)
	b.Mknodat(root, "null", unix.S_IFCHR|0o666, unix.Mkdev(1, 3))
	b.Mknodat(root, "file", unix.S_IFREG|0o644, 0)
	b.Symlinkat("/proc/self/fd", root, "fd").OnSuccess(done)
	b.Unlinkat(root, "ptmx")
	b.Fchownat(root, "tty", 1000, 5)
	b.Fchown(fd, 1000, ^uint32(0))
	b.Fchmod(fd, 0o600)
	b.Close(fd)
	b.CloseRangeCloexec(3)
	b.Dup3(fd, 0)
	b.Faccessat("/bin/sh", unix.X_OK).OnAny(done).On(syscall.EIO, loop)
	b.Write(fd, "0 1000 1\n")
	b.Write(fd, strings.Repeat("long ", 100))

	b.OpenCreate(root, "copy", 0o4755)
	b.Sendfile(fd, root, 1<<30).OnNonzero(loop)

	b.Phase("sync")
	record := b.Words(0, 1<<40)
	pid := b.Words(0, 0)
	b.WriteWords(Sync(), record, 2)
	b.ReadWords(Sync(), AddressOf(root), 1).OnZero(done).Retry(syscall.EINTR)
	b.CloneSibling(unix.CLONE_NEWPID | unix.CLONE_NEWTIME).To(SlotAt(pid, 8)).OnZero(done)
	b.Fork().OnZero(done)
	b.WriteWords(Sync(), pid, 2)
	b.Accept(FD(4)).To(Sync()).Retry(syscall.EINTR)
	cmsg := b.Words(20, unix.SOL_SOCKET|unix.SCM_RIGHTS<<32, 0)
	b.Openat(CWD(), "/dev/ptmx", unix.O_RDWR).To(SlotAt(cmsg, 16))
	iov := b.Words(b.String("/dev/ptmx").Bits(), 9)
	b.Sendmsg(FD(5), b.Words(0, 0, iov.Bits(), 1, cmsg.Bits(), 24, 0))
	b.Ioctl(fd, unix.TIOCSPTLCK, b.Words(0)).Detail("TIOCSPTLCK")
	b.Ioctl(fd, unix.TIOCGPTPEER, Const(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC))
	b.Ioctl(fd, unix.TIOCSWINSZ, b.Words(24|80<<16))
	b.Ioctl(fd, unix.TIOCSCTTY, Const(0))
	b.Ioctl(fd, 0x1234, Const(1<<40))
	b.InterfaceUp(b.Socket(unix.AF_INET, unix.SOCK_DGRAM).Result(), "lo")

	b.Phase("monitor")
	status := b.Words(make([]uint64, 20)...)
	b.Clone(unix.CLONE_NEWPID|unix.CLONE_NEWNET, 4).OnZero(done)
	b.Clone(unix.CLONE_NEWPID, -1).OnZero(done)
	b.BlockSignals()
	b.UnblockSignals()
	b.IgnoreChildren()
	b.CloseRange(7)
	b.CloseRangeTo(9, 12)
	b.Dup3Cloexec(b.PidfdOpen(SlotAt(pid, 8)).Result(), 7).Ignore(syscall.EINVAL)
	b.Recvmsg(Sync(), b.Words(0, 0, iov.Bits(), 1, cmsg.Bits(), 24, 0)).OnZero(done)
	b.Poll(b.Words(PollFD(1), PollFD(-1)), 2).IgnoreAny()
	b.HungUp(Sync()).OnNonzero(done)
	b.Read(FD(1), status, 160).OnAny(done).On(syscall.EIO, loop)
	b.Countdown(root, fd).OnAny(done)
	b.Countdown(root, Const(1<<20)).OnAny(done)
	b.Writev(FD(3), iov, 1).IgnoreAny()
	b.Wait4(SlotAt(pid, 8), status, unix.WNOHANG, Const(status.Bits()+16)).OnZero(loop)
	b.Create(FD(0), "exit", unix.O_TRUNC, 0o600).To(fd)
	b.WriteAt(fd, status, 160)
	b.Fsync(fd)
	b.Rename(FD(0), ".exit.tmp", "exit")

	b.Phase("mounts")
	b.Object("tmpfs on /tmp")
	fs := b.Fsopen("tmpfs").Result()
	b.FsconfigString(fs, "size", "64k")
	b.FsconfigFlag(fs, "ro")
	b.FsconfigCreate(fs)
	m := b.Fsmount(fs, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC|unix.MOUNT_ATTR_STRICTATIME).Result()
	b.OpenTree(CWD(), "/src", true)
	b.OpenTree(fd, "", false)
	b.OpenTreeNoFollow(CWD(), "/link", true)
	b.MoveMount(m, root)
	b.MoveMountPath(m, "/tmp")
	b.MountSetattr(m, false, b.MountAttr(unix.MOUNT_ATTR_RDONLY, unix.MOUNT_ATTR__ATIME, 0))
	b.MountSetattr(m, true, b.MountAttr(unix.MOUNT_ATTR_NOATIME, 0, unix.MS_PRIVATE))
	b.MountSetattr(m, true, b.MountAttrIDMap(FD(8))).Detail("idmap /src")
	b.SetPropagation("/", unix.MS_REC|unix.MS_SLAVE)
	b.PivotRoot()
	b.UmountDetach(".")
	b.Chroot(".")
	b.Chdir("/")
	b.Fchdir(root)

	b.Phase("identity")
	b.Unshare(unix.CLONE_NEWUSER | unix.CLONE_NEWNS | 0x80000000000)
	b.Setns(FD(7), unix.CLONE_NEWNET)
	b.SetName(Name)
	b.Prctl(unix.PR_SET_DUMPABLE, 0)
	b.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	b.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_ADMIN)
	b.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_KILL, 0, 0)
	b.Prctl(unix.PR_SET_MM, 1, 2, 3, 4)
	b.Setsid().Ignore(syscall.EPERM)
	b.KillGroup(syscall.SIGKILL)
	b.Utimensat(CWD(), "f", b.Words(1, 2, 3, 4))
	b.Fsetxattr(FD(5), "user.x", []byte("value")).IgnoreAny()
	b.Umask(0o22)
	b.Sethostname("web")
	b.Setdomainname("example")
	b.Setrlimit(unix.RLIMIT_NOFILE, 1024, ^uint64(0))
	b.Setgroups([]uint32{5, 4294967294})
	b.Setresgid(100)
	b.Setresuid(1000)
	b.Capset(1<<unix.CAP_KILL|1<<unix.CAP_BPF, 1<<unix.CAP_KILL|1<<unix.CAP_CHECKPOINT_RESTORE, 0)
	b.Capset(^uint64(0), ^uint64(0), 1<<63)
	b.SetKeyPermissions(b.JoinSessionKeyring("_ses.web").Result(), 0x3f1b0000)
	b.SchedSetattr(&unix.SchedAttr{Policy: unix.SCHED_DEADLINE, Flags: 1, Runtime: 10, Deadline: 20, Period: 30})
	b.SchedSetattr(&unix.SchedAttr{Policy: 3, Nice: -5})
	b.SchedSetaffinity([]byte{0x0f, 0, 1, 0, 0, 0, 0, 0})
	b.IoprioSet(2, 6)
	b.SetMempolicy(unix.MPOL_BIND|unix.MPOL_F_STATIC_NODES, []byte{5, 0, 0, 0, 0, 0, 0, 0})
	b.SetMempolicy(unix.MPOL_LOCAL, nil)
	b.Personality(8)
	b.SeccompFilter(make([]byte, 8*300), unix.SECCOMP_FILTER_FLAG_LOG)

	b.Phase("exec")
	path := b.Slot(0)
	b.Set(path, b.String("/bin/sh")).OnNonzero(loop)
	b.Set(fd, path)
	b.Set(fd, FD(-1))
	b.Set(Sync(), FD(4))
	b.Jump(done)
	b.Fail(syscall.ENOENT, "lookup")
	b.Fail(syscall.ENOENT, "lookup").Ignore(syscall.ENOENT)
	b.Place(done)
	b.add(999, "", Const(1), root, Const(1<<63))
	b.Execve("/bin/sh", b.Strings([]string{"sh", "-c", "exit 0"}), b.Strings([]string{"SECRET=1"}))
	b.ExecveSlot(path, b.Strings(make([]string, 40)), b.Strings(nil))
	b.ExitGroup(1)
}

func TestListing_Golden(t *testing.T) {
	got := link(t, everyCall).Listing()
	const name = "testdata/listing.golden"
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the listing differs from %s (-update rewrites it); got:\n%s", name, got)
	}
	if strings.Contains(got, "SECRET") {
		t.Error("the listing shows the environment")
	}
}

// Every call that the builder makes has a name and a way to print its arguments.
func TestListing_KnowsEveryCall(t *testing.T) {
	for i, o := range link(t, everyCall).ops {
		if o.nr == 999 {
			continue
		}
		if name := SyscallName(o.nr); strings.HasPrefix(name, "system call ") {
			t.Errorf("op %d: %s has no name", i, name)
		}
		if o.nr < pseudoValue && o.nr != unix.SYS_PRCTL && o.nr != unix.SYS_FSCONFIG && signature(o.nr) == "xxxxxx" {
			t.Errorf("op %d: %s has no signature", i, SyscallName(o.nr))
		}
	}
}

func TestProgram_StringHasNoHeadings(t *testing.T) {
	p, err := Disassemble(link(t, everyCall).Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if s := p.String(); strings.Contains(s, "mounts") || strings.Count(s, "\n") != len(p.Ops) {
		t.Errorf("got\n%s", s)
	}
}

// An image of another architecture is decoded; its numbers have no names here.
func TestProgram_ForeignMachine(t *testing.T) {
	elf := link(t, func(b *Builder) { b.ExitGroup(1) }).Bytes()
	p, err := Disassemble(elf)
	if err != nil {
		t.Fatal(err)
	}
	p.Machine ^= AMD64 ^ ARM64
	if s := p.String(); !strings.HasPrefix(s, "     0  system call ") || strings.Contains(s, "exit_group") {
		t.Errorf("got %q", s)
	}
}
