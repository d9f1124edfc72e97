package node

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"time"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
)

// A process namespace lives as long as its first process. Where the containers of
// a pod share one (shareProcessNamespace) none of them can be that: it would take
// the others along. So there is one more, which reaps what nobody else does: some
// system calls, then ppoll(2) for ever. It belongs to the group "pause" below the
// pod's, which is how it is found again, and ended.
//
// Containers see it as process 1. It gives nothing away to one that traces it
// (CAP_SYS_PTRACE is all that this takes): an empty root, no capabilities, and a
// filter that lets it do nothing but wait.
const (
	pauseGroup = "pause"
	pauseName  = "minirun:pause"
	pauseUser  = 65535
)

// pidNamespace is the name of the pinned process namespace.
const pidNamespace = "pid"

// sharesProcesses tells whether the containers of a pod see each other's processes
// in a namespace of the pod's.
func sharesProcesses(s *corev1.PodSpec) bool {
	return optional(s.ShareProcessNamespace) && !s.HostPID
}

// pauseProgram is the first process of a pod's process namespace. It has the
// namespaces to join as descriptors 0, 1, ..., by their flags, and after them the
// one to report to.
func pauseProgram(flags []uint64) (*initprog.Image, error) {
	sync := len(flags)
	b := initprog.NewBuilder(sync)
	b.Phase("first process")
	b.SetName(pauseName)
	b.Prctl(unix.PR_SET_DUMPABLE, 0)
	b.Setsid()
	b.IgnoreChildren()
	b.BlockSignals()
	for i, flag := range flags {
		b.Setns(initprog.FD(i), flag)
		b.Close(initprog.FD(i))
	}
	b.Object("/")
	b.SetPropagation("/", unix.MS_REC|unix.MS_SLAVE)
	fs := b.Fsopen("tmpfs").Result()
	b.FsconfigString(fs, "size", "4k")
	b.FsconfigString(fs, "mode", "0555")
	b.FsconfigCreate(fs)
	root := b.Fsmount(fs, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC).Result()
	b.MoveMountPath(root, "/")
	b.Fchdir(root)
	b.PivotRoot()
	b.UmountDetach(".")
	b.Chdir("/")
	b.Close(fs)
	b.Close(root)
	b.Object("privileges")
	b.Setgroups(nil)
	b.Setresgid(pauseUser)
	b.Setresuid(pauseUser)
	b.Capset(0, 0, 0)
	b.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	b.Prctl(unix.PR_SET_DUMPABLE, 0)
	b.SeccompFilter(onlyWaits(), 0)
	b.Object("ready")
	b.WriteWords(initprog.Sync(), b.Words(0, 1), 2)
	b.CloseRange(0)
	b.Set(initprog.Sync(), initprog.FD(-1)).IgnoreAny()
	loop := b.Here()
	b.Poll(b.Words(initprog.PollFD(-1)), 1).IgnoreAny()
	b.Jump(loop)
	return b.Link()
}

// onlyWaits is a filter, see seccomp(2): what else than waiting a process tries to
// do kills it. Writing is for failures; afterwards there is nothing to write to.
func onlyWaits() []byte {
	arch := uint32(unix.AUDIT_ARCH_X86_64)
	if goruntime.GOARCH == "arm64" {
		arch = unix.AUDIT_ARCH_AARCH64
	}
	allowed := []uint32{unix.SYS_PPOLL, unix.SYS_WRITE, unix.SYS_CLOSE_RANGE, unix.SYS_EXIT_GROUP}
	const (
		load    = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		isEqual = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret     = unix.BPF_RET | unix.BPF_K
		number  = 0 // of struct seccomp_data
		abi     = 4
	)
	var code []byte
	add := func(op uint16, yes, no uint8, k uint32) {
		code = binary.NativeEndian.AppendUint16(code, op)
		code = append(code, yes, no)
		code = binary.NativeEndian.AppendUint32(code, k)
	}
	n := uint8(len(allowed))
	add(load, 0, 0, abi)
	add(isEqual, 0, n+1, arch)
	add(load, 0, 0, number)
	for i, nr := range allowed {
		add(isEqual, n-uint8(i), 0, nr)
	}
	add(ret, 0, 0, unix.SECCOMP_RET_KILL_PROCESS)
	add(ret, 0, 0, unix.SECCOMP_RET_ALLOW)
	return code
}

func (w *worker) pauseGroup() *cgroups.Group {
	return cgroups.Open(w.n.cgroupMount, w.cgroupPath()+"/"+pauseGroup)
}

// startPause makes the process namespace of a pod and pins it.
func (w *worker) startPause(pod *corev1.Pod) error {
	list := namespacesOf(&pod.Spec)
	flags := make([]uint64, len(list))
	files := make([]int, 0, len(list)+1)
	defer func() {
		for _, fd := range files {
			linux.Close(fd)
		}
	}()
	for i, p := range list {
		fd, err := linux.OpenAt(unix.AT_FDCWD, filepath.Join(w.dir, nsDir, p.name), unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		flags[i] = uint64(p.flag)
		files = append(files, fd)
	}
	image, err := pauseProgram(flags)
	if err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	files = append(files, pair[1])
	defer linux.Close(pair[0])
	g, err := cgroups.Create(w.n.cgroupMount, w.cgroupPath()+"/"+pauseGroup, nil)
	if err != nil {
		return err
	}
	group, err := g.FD()
	if err != nil {
		return err
	}
	defer linux.Close(group)
	pid, pidfd, err := image.Start(initprog.Options{
		Args: []string{pauseName}, Files: files, CgroupFD: group, Fallback: w.dir,
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP,
	})
	if err != nil {
		return fmt.Errorf("first process of the pod's process namespace: %w", err)
	}
	setOOMScore(pid, sandboxOOMScore)
	w.n.point("pause-started")
	linux.Close(files[len(files)-1])
	files = files[:len(files)-1]
	err = awaitProgress(image, pair[0], "first process of the pod's process namespace")
	if err == nil {
		err = pinAgain(pid, pidNamespace, filepath.Join(w.dir, nsDir, pidNamespace))
	}
	if err != nil {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		linux.Close(pidfd)
		reap(pid)
		return err
	}
	w.watchPause(pidfd, func() { reap(pid) })
	return nil
}

// watchPause has the pod checked when its first process ends. It takes the pidfd.
func (w *worker) watchPause(pidfd int, after func()) {
	if err := unix.SetNonblock(pidfd, true); err != nil { // which has the poller of Go wait for it
		w.n.log.Error("watch a process", "pod", w.String(), "error", err)
	}
	f := os.NewFile(uintptr(pidfd), "pidfd")
	stop := context.AfterFunc(w.ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	w.spawn(func() {
		defer f.Close()
		defer stop()
		raw, err := f.SyscallConn()
		if err == nil {
			err = raw.Read(func(fd uintptr) bool { return pidfdEnded(int(fd)) })
		}
		if err != nil {
			return // it is not ours any more
		}
		after()
		w.suspect.Store(true)
		w.poke()
	})
}

// openPause is a pidfd of the pod's first process; -1 if there is none.
func (w *worker) openPause() int {
	g := w.pauseGroup()
	procs, err := g.Procs()
	if err != nil || len(procs) != 1 {
		return -1
	}
	fd, err := unix.PidfdOpen(procs[0], 0)
	if err != nil {
		return -1
	}
	// Looked at after opening: if it is there still, the descriptor is the right one.
	if again, err := g.Procs(); err != nil || len(again) != 1 || again[0] != procs[0] {
		linux.Close(fd)
		return -1
	}
	return fd
}

// pauseUp tells whether the pod's first process runs and its namespace is pinned.
func (w *worker) pauseUp() bool {
	fd := w.openPause()
	if fd < 0 {
		return false
	}
	linux.Close(fd)
	return isNamespace(filepath.Join(w.dir, nsDir, pidNamespace))
}

// lostPause tells whether the process namespace of the pod has ended: nothing can
// start in it. It has the pod checked then.
func (w *worker) lostPause(pod *corev1.Pod) bool {
	if !sharesProcesses(&pod.Spec) || w.pauseUp() {
		return false
	}
	w.suspect.Store(true)
	w.poke()
	return true
}

// endPause ends the pod's first process, and with it all of its namespace.
func (w *worker) endPause() error {
	g := w.pauseGroup()
	if g.Exists() {
		if err := g.Kill(); err != nil {
			return err
		}
		if err := g.Remove(endTimeout); err != nil {
			return err
		}
	}
	return unmount(filepath.Join(w.dir, nsDir, pidNamespace))
}
