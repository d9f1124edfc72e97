package integration

import (
	"io"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// whom a trace counts system calls of.
type whom int

const (
	minirunItself whom = iota // all of its threads
	containerInit             // and everything it clones, until execve of the user's program
)

// tracedRun runs minirun under ptrace(2) and, at the entry to the nth system
// call that counts, kills whoever makes it with SIGKILL. Counting starts at the
// first call that is one of from; without any, at the first of all. Calls of the
// Go runtime that change nothing outside do not count.
//
// It returns minirun's exit status, -1 if it was killed, and whether the nth
// call was reached.
func tracedRun(t *testing.T, target whom, n int, from []uint64, args ...string) (code int, reached bool) {
	t.Helper()
	return tracedCommand(t, target, n, from, testenv.Command(t, args...).Args)
}

// tracedCommand is tracedRun for a command that becomes minirun by execve.
func tracedCommand(t *testing.T, target whom, n int, from []uint64, argv []string) (code int, reached bool) {
	t.Helper()
	type result struct {
		code    int
		reached bool
		err     error
	}
	done := make(chan result)
	var stderr string
	// A test that is in a network namespace of its own is there with its thread alone.
	net, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer net.Close()
	onThread(func() {
		var r result
		if r.err = unix.Setns(int(net.Fd()), unix.CLONE_NEWNET); r.err != nil {
			done <- r
			return
		}
		r.code, r.reached, r.err = tracer{target: target, n: n, from: from, stderr: &stderr}.run(argv)
		done <- r
	})
	r := <-done
	if r.err != nil {
		t.Fatalf("trace %q: %v", argv, r.err)
	}
	if r.code > 0 && !r.reached {
		t.Logf("%q under trace: %s", argv, stderr)
	}
	return r.code, r.reached
}

// onThread does something on a thread of its own. A tracer is a thread: when it ends,
// with its goroutine, what it still traces is let go. The first thread of the process
// never ends.
func onThread(do func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != os.Getpid() {
			do()
			return
		}
		defer runtime.UnlockOSThread()
		done := make(chan struct{})
		onThread(func() { defer close(done); do() }) // another one: this one is taken
		<-done
	}()
}

// failedRun runs minirun and has the nth call that only picks fail with errno. It
// returns the exit status, what minirun wrote to standard error, and whether the
// nth call was reached.
func failedRun(t *testing.T, errno unix.Errno, n int, only func(pid int, nr uint64, args [7]uint64) bool, args ...string) (code int, stderr string, reached bool) {
	t.Helper()
	done := make(chan error)
	onThread(func() {
		var err error
		code, reached, err = tracer{target: minirunItself, n: n, stderr: &stderr, fail: errno, only: only}.run(testenv.Command(t, args...).Args)
		done <- err
	})
	if err := <-done; err != nil {
		t.Fatalf("trace %q: %v", args, err)
	}
	return code, stderr, reached
}

type tracer struct {
	target whom
	n      int
	from   []uint64
	stderr *string
	// look, if not nil, is called with each process of containerInit that is at the
	// entry of a system call.
	look func(pid int, nr uint64)
	// fail is what the nth call that only picks fails with, in place of the kill.
	fail unix.Errno
	// left, if > 0, is what the caller of minirun has left open, as number 40.
	left int
	only func(pid int, nr uint64, args [7]uint64) bool
	seen *int // if not nil, becomes the number of calls that counted
}

// noise are calls that Go makes for itself.
var noise = []uint64{
	unix.SYS_FUTEX, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_MMAP,
	unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_NANOSLEEP, unix.SYS_SCHED_YIELD, unix.SYS_GETTID, unix.SYS_GETPID,
	unix.SYS_TGKILL, unix.SYS_EPOLL_PWAIT, unix.SYS_CLOCK_GETTIME, unix.SYS_GETRANDOM, unix.SYS_CLOSE, unix.SYS_FCNTL,
	unix.SYS_SCHED_GETAFFINITY, unix.SYS_PRCTL, unix.SYS_CLONE, unix.SYS_EXIT, unix.SYS_BRK,
}

func (x tracer) run(argv []string) (code int, reached bool, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, false, err
	}
	defer null.Close()
	fd := null.Fd()
	text, err := unix.MemfdCreate("stderr", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, false, err
	}
	output := os.NewFile(uintptr(text), "stderr")
	defer output.Close()
	files := []uintptr{fd, fd, uintptr(text)}
	if x.left > 0 {
		for len(files) < 40 {
			files = append(files, ^uintptr(0)) // closed
		}
		files = append(files, uintptr(x.left))
	}
	pid, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Env: os.Environ(), Files: files, Sys: &syscall.SysProcAttr{Ptrace: true},
	})
	if err != nil {
		return 0, false, err
	}
	threads := map[int]bool{pid: true} // of minirun
	inits := map[int]bool{}
	entered := map[int]bool{}
	counting := len(x.from) == 0
	count := 0
	defer func() {
		if x.seen != nil {
			*x.seen = count
		}
	}()
	started := false
	failing := map[int]bool{} // threads in a call that is going to fail
	watchdog := time.AfterFunc(testenv.Timeout(20*time.Second), func() { _ = unix.Kill(pid, unix.SIGKILL) })
	defer watchdog.Stop()
	for {
		var ws unix.WaitStatus
		who, err := unix.Wait4(-1, &ws, unix.WALL, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, reached, err
		}
		if ws.Exited() || ws.Signaled() {
			if who == pid {
				said, _ := io.ReadAll(io.NewSectionReader(output, 0, 1<<20))
				*x.stderr = string(said)
				return ws.ExitStatus(), reached, nil
			}
			continue
		}
		if !ws.Stopped() {
			continue
		}
		if !started {
			started = true
			const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE
			more := 0
			if x.target == containerInit {
				more = unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACEFORK
			}
			if err := unix.PtraceSetOptions(pid, options|more); err != nil {
				return 0, false, err
			}
			x.resume(who, threads[who], 0)
			continue
		}
		sig := ws.StopSignal()
		switch {
		case sig == unix.SIGTRAP|0x80: // a system call
			entered[who] = !entered[who]
			nr, entry, args := syscallWith(who)
			if x.look != nil && entry && !threads[who] {
				x.look(who, nr)
			}
			if x.fail != 0 {
				switch {
				case failing[who]:
					delete(failing, who)
					setResult(who, x.fail)
				case entry && !reached && threads[who] && x.only(who, nr, args):
					if count++; count == x.n {
						reached = true
						failing[who] = true
						skipCall(who)
					}
				}
				sig = 0
				break
			}
			if entry && !reached && threads[who] == (x.target == minirunItself) {
				counting = counting || slices.Contains(x.from, nr)
				if counting && (x.target == containerInit || !slices.Contains(noise, nr)) {
					if count++; count == x.n {
						reached = true
						victim := who
						if threads[who] {
							victim = pid
						}
						_ = unix.Kill(victim, unix.SIGKILL)
						continue
					}
				}
			}
			sig = 0
		case sig == unix.SIGTRAP && ws.TrapCause() > 0: // a new thread or process
			if child, err := unix.PtraceGetEventMsg(who); err == nil {
				if ws.TrapCause() == unix.PTRACE_EVENT_CLONE && threads[who] {
					threads[int(child)] = true
				} else if ws.TrapCause() != unix.PTRACE_EVENT_EXEC {
					inits[int(child)] = true
				}
			}
			sig = 0
		case sig == unix.SIGSTOP, sig == unix.SIGTRAP: // the first stop of a new one, execve
			sig = 0
		}
		x.resume(who, threads[who], int(sig))
	}
}

// resume lets a process go on to its next stop. A new thread may stop before
// its parent tells of it: then it is treated as one that counts, and its first
// system call shows what it is.
func (x tracer) resume(pid int, ofMinirun bool, sig int) {
	if ofMinirun && x.target == containerInit {
		_ = unix.PtraceCont(pid, sig)
		return
	}
	_ = unix.PtraceSyscall(pid, sig)
}

// syscallAt is the number of the system call at whose entry or end pid stands.
func syscallAt(pid int) (nr uint64, entry bool) {
	nr, entry, _ = syscallWith(pid)
	return nr, entry
}

// syscallWith is syscallAt with the arguments.
func syscallWith(pid int) (nr uint64, entry bool, args [7]uint64) {
	var info struct {
		op   uint8 // 1: entry
		_    [3]byte
		arch uint32
		ip   uint64
		sp   uint64
		nr   uint64
		args [7]uint64
	}
	const getSyscallInfo = 0x420e // PTRACE_GET_SYSCALL_INFO, Linux 5.3
	_, _, e := unix.Syscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(pid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	return info.nr, e == 0 && info.op == 1, info.args
}
