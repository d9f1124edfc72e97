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

// KillGroup sends a signal to all processes of the caller's process group, itself
// among them.
func (b *Builder) KillGroup(sig syscall.Signal) Ref {
	return b.add(unix.SYS_KILL, "process group", Const(0), Const(uint64(sig)))
}

// ClockRealtime stores the time of day in the struct timespec at address a.
func (b *Builder) ClockRealtime(a Value) Ref {
	return b.add(unix.SYS_CLOCK_GETTIME, "", Const(unix.CLOCK_REALTIME), a)
}
