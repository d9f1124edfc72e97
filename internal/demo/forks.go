package demo

import (
	goruntime "runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// forks starts sleeping children until it has N (1000) or the kernel refuses,
// which is how a pids limit shows. It prints how many there are, keeps them for
// -s SECONDS (0), and ends them.
func forks(args []string) int {
	const how = "forks [-s SECONDS] [N]"
	var hold time.Duration
	rest, ok := options(args, "s", "", func(_ byte, v string) (ok bool) {
		hold, ok = seconds(v)
		return ok
	})
	n := 1000
	if ok && len(rest) == 1 {
		n, ok = number(rest[0], 0, 1<<22)
	}
	if !ok || len(rest) > 1 {
		return usage(how)
	}
	// PR_SET_PDEATHSIG is about the thread that forked, so that thread must stay.
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	var pids []int
	var refused unix.Errno
	for len(pids) < n {
		pid, errno := forkSleeper()
		if errno != 0 {
			refused = errno
			break
		}
		pids = append(pids, pid)
	}
	o := &out{fd: 1}
	o.s("forked ").n(int64(len(pids))).s(" children")
	if refused != 0 {
		o.s(", then: ", refused.Error())
	}
	o.s("\n").flush()
	code := 0
	if hold > 0 {
		code = wait(hold)
	}
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	for _, pid := range pids {
		for {
			if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
				break
			}
		}
	}
	return code
}

// forkSleeper is a plain fork(2): a child with one thread, where a program that
// was executed would need one process and several Go threads. The child may
// only use raw system calls: its copy of the Go runtime has no other threads.
//
//go:norace
//go:noinline
func forkSleeper() (pid int, errno unix.Errno) {
	parent, _, _ := syscall.RawSyscall(unix.SYS_GETPID, 0, 0, 0)
	r, _, e := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if e != 0 || r != 0 {
		return int(r), e
	}
	syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
	// A parent that died before the prctl sends no signal.
	for {
		if now, _, _ := syscall.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); now != parent {
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		syscall.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
}

// fieldAfter returns what follows "name" and white space on its line in text,
// as in /proc/self/status.
func fieldAfter(text, name string) string {
	for line := range strings.SplitSeq(text, "\n") {
		if v, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
