package initprog

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// JoinSessionKeyring gives the process a session keyring of its own; see
// keyctl(2), KEYCTL_JOIN_SESSION_KEYRING.
func (b *Builder) JoinSessionKeyring(name string) Ref {
	return b.add(unix.SYS_KEYCTL, "join session keyring", Const(unix.KEYCTL_JOIN_SESSION_KEYRING), b.String(name))
}

// SetKeyPermissions says who may do what with a key; see keyctl(2), KEYCTL_SETPERM.
func (b *Builder) SetKeyPermissions(key Value, permissions uint32) Ref {
	return b.add(unix.SYS_KEYCTL, "set key permissions", Const(unix.KEYCTL_SETPERM), key, Const(uint64(permissions)))
}

// ExecveSlot is Execve with the path taken from a slot.
func (b *Builder) ExecveSlot(path, argv, envp Value) Ref {
	return b.add(unix.SYS_EXECVE, "", path, argv, envp)
}

// InterfaceUp sets the flag IFF_UP of a network interface through the socket fd;
// see netdevice(7).
func (b *Builder) InterfaceUp(fd Value, name string) Ref {
	var req [40]byte // struct ifreq
	copy(req[:unix.IFNAMSIZ-1], name)
	req[unix.IFNAMSIZ] = unix.IFF_UP
	return b.Ioctl(fd, unix.SIOCSIFFLAGS, b.Bytes(req[:])).Detail("SIOCSIFFLAGS")
}

// Utimensat sets the times of name in dir, not following a symbolic link; of dir
// itself without a name. times is a struct timespec[2], see [Builder.Words].
func (b *Builder) Utimensat(dir Value, name string, times Value) Ref {
	flags := uint64(unix.AT_SYMLINK_NOFOLLOW)
	if name == "" {
		flags |= emptyPath
	}
	return b.add(unix.SYS_UTIMENSAT, name, dir, b.String(name), times, Const(flags))
}

// Fsetxattr sets an extended attribute of an open file.
func (b *Builder) Fsetxattr(fd Value, name string, value []byte) Ref {
	return b.add(unix.SYS_FSETXATTR, name, fd, b.String(name), b.Bytes(value), Const(uint64(len(value))), Const(0))
}

// KillGroup sends a signal to all processes of the caller's process group, itself
// among them.
func (b *Builder) KillGroup(sig syscall.Signal) Ref {
	return b.add(unix.SYS_KILL, "process group", Const(0), Const(uint64(sig)))
}

// PidfdSendSignal sends a signal to a process.
func (b *Builder) PidfdSendSignal(pidfd Value, sig syscall.Signal) Ref {
	return b.add(unix.SYS_PIDFD_SEND_SIGNAL, "", pidfd, Const(uint64(sig)), Const(0), Const(0))
}

// ClockRealtime stores the time of day in the struct timespec at address a.
func (b *Builder) ClockRealtime(a Value) Ref {
	return b.add(unix.SYS_CLOCK_GETTIME, "", Const(unix.CLOCK_REALTIME), a)
}
