package initprog

import (
	"strings"

	"golang.org/x/sys/unix"
)

// Calls for programs that stay: they wait for others, pass on what those write,
// and keep files of their own.

// A clone_args of Clone has these many words, up to the field cgroup (Linux 5.7).
const cloneArgs = 11

// Clone starts a second process, a child of this one, that goes on with the
// program where the result is 0. With a cgroup, the descriptor of its directory,
// the child starts there.
func (b *Builder) Clone(namespaces uint64, cgroup int) Ref {
	args := [cloneArgs]uint64{0: namespaces, 4: uint64(unix.SIGCHLD)}
	if cgroup >= 0 {
		args[0] |= unix.CLONE_INTO_CGROUP
		args[10] = uint64(cgroup)
	}
	return b.add(unix.SYS_CLONE3, "", b.Words(args[:]...), Const(8*cloneArgs))
}

// CloseRangeTo closes the descriptors from first to last.
func (b *Builder) CloseRangeTo(first, last int) Ref {
	return b.add(unix.SYS_CLOSE_RANGE, "", Const(uint64(first)), Const(uint64(last)), Const(0))
}

// Dup3Cloexec is Dup3 to a descriptor that does not survive execve(2).
func (b *Builder) Dup3Cloexec(fd Value, to int) Ref {
	return b.add(unix.SYS_DUP3, "", fd, Const(uint64(to)), Const(unix.O_CLOEXEC))
}

// BlockSignals blocks all signals that can be blocked; UnblockSignals none.
func (b *Builder) BlockSignals() Ref { return b.signalMask(^uint64(0)) }

// UnblockSignals lets all signals through.
func (b *Builder) UnblockSignals() Ref { return b.signalMask(0) }

func (b *Builder) signalMask(mask uint64) Ref {
	return b.add(unix.SYS_RT_SIGPROCMASK, "", Const(unix.SIG_SETMASK), b.Words(mask), Const(0), Const(8))
}

// IgnoreChildren has the kernel reap children, also those that are inherited from
// others; see sigaction(2), SIG_IGN for SIGCHLD.
func (b *Builder) IgnoreChildren() Ref {
	const sigIgn = 1
	return b.add(unix.SYS_RT_SIGACTION, "ignore", Const(uint64(unix.SIGCHLD)), b.Words(sigIgn, 0, 0, 0), Const(0), Const(8))
}

// PidfdOpen opens the process.
func (b *Builder) PidfdOpen(pid Value) Ref {
	return b.add(unix.SYS_PIDFD_OPEN, "", pid, Const(0))
}

// PollFD is the word of a struct pollfd that waits for fd to be readable; with
// -1 for nothing.
func PollFD(fd int) uint64 { return uint64(uint32(fd)) | unix.POLLIN<<32 }

// Poll waits until one of the n struct pollfd at address a is ready.
func (b *Builder) Poll(a Value, n int) Ref {
	return b.add(unix.SYS_PPOLL, "", a, Const(uint64(n)), Const(0), Const(0), Const(8))
}

// HungUp is 1 if the other end of the socket fd is closed, and 0 if not.
func (b *Builder) HungUp(fd Value) Ref {
	poll := b.Words(0)
	b.Set(SlotAt(poll, 0), fd) // waits for no event: a hang-up is always told
	return b.add(unix.SYS_PPOLL, "", poll, Const(1), b.Words(0, 0), Const(0), Const(8)).Retry(unix.EINTR)
}

// Read reads up to n bytes from fd to address a.
func (b *Builder) Read(fd, a Value, n int) Ref {
	return b.add(unix.SYS_READ, "", fd, a, Const(uint64(n)))
}

// Writev writes the n struct iovec at address a to fd.
func (b *Builder) Writev(fd, a Value, n int) Ref {
	return b.add(unix.SYS_WRITEV, "", fd, a, Const(uint64(n)))
}

// WriteAt writes n bytes at address a to fd.
func (b *Builder) WriteAt(fd, a Value, n int) Ref {
	return b.add(unix.SYS_WRITE, "", fd, a, Const(uint64(n)))
}

// Recvmsg receives into the struct msghdr at address msg; descriptors that come
// with it do not survive execve(2).
func (b *Builder) Recvmsg(fd, msg Value) Ref {
	return b.add(unix.SYS_RECVMSG, "", fd, msg, Const(unix.MSG_CMSG_CLOEXEC))
}

// Wait4 waits for a child to end and stores its wait status and, unless usage is
// 0, its struct rusage at the addresses. A pid of -1 is any child. With WNOHANG the
// result is 0 while there is none that has ended.
func (b *Builder) Wait4(pid, status Value, options uint64, usage Value) Ref {
	return b.add(unix.SYS_WAIT4, "", pid, status, Const(options), usage)
}

// Create opens name, a single component of dir, for writing, empty or as it is
// with O_APPEND.
func (b *Builder) Create(dir Value, name string, flags uint64, mode uint32) Ref {
	return b.add(unix.SYS_OPENAT, name, dir, b.String(name), Const(flags|unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC), Const(uint64(mode)))
}

// Fsync writes a file or a directory to the disk.
func (b *Builder) Fsync(fd Value) Ref { return b.add(unix.SYS_FSYNC, "", fd) }

// Rename gives a file of dir another name there.
func (b *Builder) Rename(dir Value, from, to string) Ref {
	return b.add(unix.SYS_RENAMEAT2, from, dir, b.String(from), dir, b.String(to), Const(0))
}

// waiting is what these calls have at the address n: a signal mask, or what is
// waited for.
func (l *lister) waiting(kind byte, n uint64, o *Op) (string, bool) {
	if kind == 'z' {
		return l.words(n, 1, func(w []string, v []uint64) string {
			switch v[0] {
			case 0:
				return "[]"
			case ^uint64(0):
				return "~[]"
			}
			return w[0]
		})
	}
	count := o.Args[1]
	if count.load || count.bits > listed {
		return "", false
	}
	return l.words(n, int(count.bits), func(_ []string, v []uint64) string {
		fds := make([]string, len(v))
		for i, w := range v {
			fds[i] = "{fd=" + number(uint64(int64(int32(w))))
			if events := w >> 32; events == unix.POLLIN {
				fds[i] += ", POLLIN}"
			} else {
				fds[i] += ", events=" + number(events) + "}"
			}
		}
		return "[" + strings.Join(fds, ", ") + "]"
	})
}
