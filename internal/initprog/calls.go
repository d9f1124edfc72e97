package initprog

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"
)

// One method per system call, named after its man page. They fix the number
// and the shape of the arguments, so that nothing outside this package handles
// raw numbers. Flags that are always right here (close-on-exec, empty paths)
// are added here.

const (
	atFDCWD   = ^uint64(99) // AT_FDCWD
	emptyPath = unix.AT_EMPTY_PATH
	sizeOfHow = 24 // struct open_how
	sizeOfMA  = 32 // struct mount_attr
)

// CWD is AT_FDCWD: names are relative to the working directory.
func CWD() Value { return Const(atFDCWD) }

// How is the address of a struct open_how for OpenInRoot.
func (b *Builder) How(flags uint64, mode uint64) Value {
	return b.Words(flags|unix.O_CLOEXEC, mode, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

// HowNoLinks is How for files of a file system we mounted ourselves: no
// symbolic link and no other mount may lie on the way.
func (b *Builder) HowNoLinks(flags uint64) Value {
	return b.Words(flags|unix.O_CLOEXEC, 0, unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV|unix.RESOLVE_BENEATH)
}

// Openat2 opens path below dir as the struct open_how at how says.
func (b *Builder) Openat2(dir Value, path string, how Value) Ref {
	return b.add(unix.SYS_OPENAT2, path, dir, b.String(path), how, Const(sizeOfHow))
}

// Openat opens path with plain openat(2). For paths of the host only.
func (b *Builder) Openat(dir Value, path string, flags uint64) Ref {
	return b.add(unix.SYS_OPENAT, path, dir, b.String(path), Const(flags|unix.O_CLOEXEC), Const(0))
}

// Mkdirat makes the directory name, a single component, in dir.
func (b *Builder) Mkdirat(dir Value, name string, mode uint32) Ref {
	return b.add(unix.SYS_MKDIRAT, name, dir, b.String(name), Const(uint64(mode)))
}

// Mknodat makes the node name, a single component, in dir.
func (b *Builder) Mknodat(dir Value, name string, mode uint32, dev uint64) Ref {
	return b.add(unix.SYS_MKNODAT, name, dir, b.String(name), Const(uint64(mode)), Const(dev))
}

// Symlinkat makes the symbolic link name, a single component, in dir.
func (b *Builder) Symlinkat(target string, dir Value, name string) Ref {
	return b.add(unix.SYS_SYMLINKAT, name, b.String(target), dir, b.String(name))
}

// Unlinkat removes name, a single component that is no directory, from dir.
func (b *Builder) Unlinkat(dir Value, name string) Ref {
	return b.add(unix.SYS_UNLINKAT, name, dir, b.String(name), Const(0))
}

// Fchownat changes the owner of name in dir, not following a symbolic link; of
// dir itself without a name.
func (b *Builder) Fchownat(dir Value, name string, uid, gid uint32) Ref {
	flags := uint64(unix.AT_SYMLINK_NOFOLLOW)
	if name == "" {
		flags |= emptyPath
	}
	return b.add(unix.SYS_FCHOWNAT, name, dir, b.String(name), Const(uint64(uid)), Const(uint64(gid)), Const(flags))
}

// Fchown changes the owner of an open file; ^0 leaves an id alone.
func (b *Builder) Fchown(fd Value, uid, gid uint32) Ref {
	return b.add(unix.SYS_FCHOWN, "", fd, Const(uint64(uid)), Const(uint64(gid)))
}

// Fchmod changes the mode of an open file.
func (b *Builder) Fchmod(fd Value, mode uint32) Ref {
	return b.add(unix.SYS_FCHMOD, "", fd, Const(uint64(mode)))
}

// Close closes fd.
func (b *Builder) Close(fd Value) Ref { return b.add(unix.SYS_CLOSE, "", fd) }

// CloseRangeCloexec marks all descriptors from first on close-on-exec.
func (b *Builder) CloseRangeCloexec(first int) Ref {
	return b.add(unix.SYS_CLOSE_RANGE, "", Const(uint64(first)), Const(uint64(^uint32(0))), Const(unix.CLOSE_RANGE_CLOEXEC))
}

// CloseRange closes all descriptors from first on.
func (b *Builder) CloseRange(first int) Ref {
	return b.add(unix.SYS_CLOSE_RANGE, "", Const(uint64(first)), Const(uint64(^uint32(0))), Const(0))
}

// Dup3 makes the number to refer to what fd refers to, without close-on-exec.
func (b *Builder) Dup3(fd Value, to int) Ref {
	return b.add(unix.SYS_DUP3, "", fd, Const(uint64(to)), Const(0))
}

// Write writes data to fd.
func (b *Builder) Write(fd Value, data string) Ref {
	return b.add(unix.SYS_WRITE, data, fd, b.String(data), Const(uint64(len(data))))
}

// WriteWords writes n words at address a to fd.
func (b *Builder) WriteWords(fd, a Value, n int) Ref {
	return b.add(unix.SYS_WRITE, "", fd, a, Const(uint64(8*n)))
}

// ReadWords reads n words from fd to address a.
func (b *Builder) ReadWords(fd, a Value, n int) Ref {
	return b.add(unix.SYS_READ, "", fd, a, Const(uint64(8*n)))
}

// Accept takes a connection from the listening socket fd.
func (b *Builder) Accept(fd Value) Ref {
	return b.add(unix.SYS_ACCEPT4, "", fd, Const(0), Const(0), Const(unix.SOCK_CLOEXEC))
}

// Sendmsg sends the struct msghdr at address msg.
func (b *Builder) Sendmsg(fd, msg Value) Ref {
	return b.add(unix.SYS_SENDMSG, "", fd, msg, Const(unix.MSG_NOSIGNAL))
}

// Socket makes a socket.
func (b *Builder) Socket(domain, typ int) Ref {
	return b.add(unix.SYS_SOCKET, "", Const(uint64(domain)), Const(uint64(typ|unix.SOCK_CLOEXEC)), Const(0))
}

// Ioctl is ioctl(2) with a constant or an address as argument.
func (b *Builder) Ioctl(fd Value, request uint64, arg Value) Ref {
	return b.add(unix.SYS_IOCTL, "", fd, Const(request), arg)
}

// Fsopen opens a context to configure a new instance of the file system fstype.
func (b *Builder) Fsopen(fstype string) Ref {
	return b.add(unix.SYS_FSOPEN, fstype, b.String(fstype), Const(unix.FSOPEN_CLOEXEC))
}

// FsconfigString sets a parameter.
func (b *Builder) FsconfigString(fs Value, key, value string) Ref {
	return b.add(unix.SYS_FSCONFIG, "", fs, Const(unix.FSCONFIG_SET_STRING), b.String(key), b.String(value), Const(0))
}

// FsconfigFlag sets a parameter that has no value.
func (b *Builder) FsconfigFlag(fs Value, key string) Ref {
	return b.add(unix.SYS_FSCONFIG, "", fs, Const(unix.FSCONFIG_SET_FLAG), b.String(key), Const(0), Const(0))
}

// FsconfigCreate makes the superblock.
func (b *Builder) FsconfigCreate(fs Value) Ref {
	return b.add(unix.SYS_FSCONFIG, "create", fs, Const(unix.FSCONFIG_CMD_CREATE), Const(0), Const(0), Const(0))
}

// Fsmount makes a detached mount with the attributes MOUNT_ATTR_*.
func (b *Builder) Fsmount(fs Value, attr uint64) Ref {
	return b.add(unix.SYS_FSMOUNT, "", fs, Const(unix.FSMOUNT_CLOEXEC), Const(attr))
}

// OpenTree clones the mount at path into a detached one; recursive with all below.
func (b *Builder) OpenTree(dir Value, path string, recursive bool) Ref {
	return b.openTree(dir, path, recursive, 0)
}

// OpenTreeNoFollow is OpenTree for a path that may be a symbolic link, which
// then is what gets mounted.
func (b *Builder) OpenTreeNoFollow(dir Value, path string, recursive bool) Ref {
	return b.openTree(dir, path, recursive, unix.AT_SYMLINK_NOFOLLOW)
}

func (b *Builder) openTree(dir Value, path string, recursive bool, flags uint64) Ref {
	flags |= unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	if path == "" {
		flags |= emptyPath
	}
	return b.add(unix.SYS_OPEN_TREE, path, dir, b.String(path), Const(flags))
}

// MoveMount attaches the detached mount m onto the open directory or file at.
func (b *Builder) MoveMount(m, at Value) Ref {
	return b.add(unix.SYS_MOVE_MOUNT, "", m, Const(b.empty), at, Const(b.empty),
		Const(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

// MoveMountPath attaches the detached mount m to a path of the host.
func (b *Builder) MoveMountPath(m Value, path string) Ref {
	return b.add(unix.SYS_MOVE_MOUNT, path, m, Const(b.empty), CWD(), b.String(path), Const(unix.MOVE_MOUNT_F_EMPTY_PATH))
}

// MountAttr is the address of a struct mount_attr.
func (b *Builder) MountAttr(set, clear, propagation uint64) Value {
	return b.Words(set, clear, propagation, 0)
}

// Sendfile copies up to n bytes from where the file in stands to the file out.
func (b *Builder) Sendfile(out, in Value, n uint32) Ref {
	return b.add(unix.SYS_SENDFILE, "", out, in, Const(0), Const(uint64(n)))
}

// OpenCreate makes the file path in dir, whose tree nobody else changes, and
// opens it for writing.
func (b *Builder) OpenCreate(dir Value, path string, mode uint32) Ref {
	return b.add(unix.SYS_OPENAT, path, dir, b.String(path), Const(unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC), Const(uint64(mode)))
}

// MountAttrIDMap is the address of a struct mount_attr that maps the ids of a
// mount as the user namespace at the descriptor userns does.
func (b *Builder) MountAttrIDMap(userns Value) Value {
	return b.Words(unix.MOUNT_ATTR_IDMAP, 0, 0, userns.bits)
}

// MountSetattr changes the attributes of the mount m as attr says; recursive
// with all below.
func (b *Builder) MountSetattr(m Value, recursive bool, attr Value) Ref {
	flags := uint64(emptyPath)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return b.add(unix.SYS_MOUNT_SETATTR, "", m, Const(b.empty), Const(flags), attr, Const(sizeOfMA))
}

// SetPropagation changes how mount events travel to and from path (MS_SLAVE, MS_REC, ...).
func (b *Builder) SetPropagation(path string, flags uint64) Ref {
	return b.add(unix.SYS_MOUNT, path, Const(b.empty), b.String(path), Const(0), Const(flags), Const(0))
}

// PivotRoot makes the working directory the root and stacks the old root on it.
func (b *Builder) PivotRoot() Ref {
	dot := b.String(".")
	return b.add(unix.SYS_PIVOT_ROOT, "", dot, dot)
}

// UmountDetach detaches the mount at path with all below.
func (b *Builder) UmountDetach(path string) Ref {
	return b.add(unix.SYS_UMOUNT2, path, b.String(path), Const(unix.MNT_DETACH))
}

// Chroot changes the root directory.
func (b *Builder) Chroot(path string) Ref { return b.add(unix.SYS_CHROOT, path, b.String(path)) }

// Chdir changes the working directory.
func (b *Builder) Chdir(path string) Ref { return b.add(unix.SYS_CHDIR, path, b.String(path)) }

// Fchdir changes the working directory to an open one.
func (b *Builder) Fchdir(fd Value) Ref { return b.add(unix.SYS_FCHDIR, "", fd) }

// Unshare moves the process into new namespaces.
func (b *Builder) Unshare(flags uint64) Ref { return b.add(unix.SYS_UNSHARE, "", Const(flags)) }

// Setns joins the namespaces fd refers to, a namespace or a pidfd.
func (b *Builder) Setns(fd Value, flags uint64) Ref {
	return b.add(unix.SYS_SETNS, "", fd, Const(flags))
}

// CloneSibling starts a second process that goes on with the program where
// the result is 0. Its parent is the parent of this process; that one gets the
// pid as result.
func (b *Builder) CloneSibling(flags uint64) Ref {
	args := b.Words(flags|unix.CLONE_PARENT, 0, 0, 0, 0, 0, 0, 0)
	return b.add(unix.SYS_CLONE3, "", args, Const(64))
}

// Fork is CloneSibling by the older clone(2), which a system call filter can look
// into: many allow it and not clone3(2).
func (b *Builder) Fork() Ref {
	return b.add(unix.SYS_CLONE, "", Const(unix.CLONE_PARENT), Const(0), Const(0), Const(0), Const(0))
}

// Prctl is prctl(2).
func (b *Builder) Prctl(option uint64, args ...uint64) Ref {
	v := [5]Value{Const(option)}
	for i, a := range args {
		v[i+1] = Const(a)
	}
	return b.add(unix.SYS_PRCTL, "", v[:]...)
}

// SetName sets the name of the process that ps shows.
func (b *Builder) SetName(name string) Ref {
	return b.add(unix.SYS_PRCTL, "", Const(unix.PR_SET_NAME), b.String(name))
}

// Setsid starts a session.
func (b *Builder) Setsid() Ref { return b.add(unix.SYS_SETSID, "") }

// Umask sets the file mode creation mask.
func (b *Builder) Umask(mask uint32) Ref { return b.add(unix.SYS_UMASK, "", Const(uint64(mask))) }

// Sethostname sets the name of the uts namespace.
func (b *Builder) Sethostname(name string) Ref {
	return b.add(unix.SYS_SETHOSTNAME, "", b.String(name), Const(uint64(len(name))))
}

// Setdomainname sets the NIS domain name of the uts namespace.
func (b *Builder) Setdomainname(name string) Ref {
	return b.add(unix.SYS_SETDOMAINNAME, "", b.String(name), Const(uint64(len(name))))
}

// Setrlimit sets a resource limit of this process.
func (b *Builder) Setrlimit(resource uint64, soft, hard uint64) Ref {
	return b.add(unix.SYS_PRLIMIT64, "", Const(0), Const(resource), b.Words(soft, hard), Const(0))
}

// Setgroups sets the supplementary groups.
func (b *Builder) Setgroups(gids []uint32) Ref {
	raw := make([]byte, 0, 4*len(gids)+1)
	for _, g := range gids {
		raw = append(raw, byte(g), byte(g>>8), byte(g>>16), byte(g>>24))
	}
	return b.add(unix.SYS_SETGROUPS, "", Const(uint64(len(gids))), b.Bytes(append(raw, 0)))
}

// Setresgid sets the real, effective and saved group id.
func (b *Builder) Setresgid(gid uint32) Ref {
	g := Const(uint64(gid))
	return b.add(unix.SYS_SETRESGID, "", g, g, g)
}

// Setresuid sets the real, effective and saved user id.
func (b *Builder) Setresuid(uid uint32) Ref {
	u := Const(uint64(uid))
	return b.add(unix.SYS_SETRESUID, "", u, u, u)
}

// Capset sets the three capability sets of the process; see capset(2).
func (b *Builder) Capset(effective, permitted, inheritable uint64) Ref {
	const low = 1<<32 - 1
	hdr := b.Words(unix.LINUX_CAPABILITY_VERSION_3)
	sets := b.Words(effective&low|permitted<<32, inheritable&low|effective>>32<<32, permitted>>32|inheritable>>32<<32)
	return b.add(unix.SYS_CAPSET, "", hdr, sets)
}

// SeccompFilter loads a filter of 8 bytes per instruction; see seccomp(2).
func (b *Builder) SeccompFilter(insns []byte, flags uint64) Ref {
	if len(insns)/8 > unix.BPF_MAXINSNS { // the field has 16 bits: more would be cut off silently
		b.err = errors.New("seccomp filter of " + strconv.Itoa(len(insns)/8) + " instructions: the kernel takes 4096")
	}
	prog := b.Bytes(insns)
	fprog := b.Words(uint64(len(insns)/8), prog.bits)
	return b.add(unix.SYS_SECCOMP, "", Const(unix.SECCOMP_SET_MODE_FILTER), Const(flags), fprog)
}

// Faccessat checks access to path with the effective ids of the process.
func (b *Builder) Faccessat(path string, mode uint32) Ref {
	return b.add(unix.SYS_FACCESSAT2, path, CWD(), b.String(path), Const(uint64(mode)), Const(unix.AT_EACCESS))
}

// Execve replaces the program; argv and envp come from Strings.
func (b *Builder) Execve(path string, argv, envp Value) Ref {
	return b.add(unix.SYS_EXECVE, path, b.String(path), argv, envp)
}

// ExitGroup ends the process.
func (b *Builder) ExitGroup(status int) Ref {
	return b.add(unix.SYS_EXIT_GROUP, "", Const(uint64(status)))
}
