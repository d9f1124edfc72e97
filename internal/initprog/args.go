package initprog

import (
	"encoding/binary"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// signature tells what the arguments of a system call are, one letter each:
//
//	d descriptor or AT_FDCWD   s string   n number   o octal   x hexadecimal
//	i user or group id         N namespaces
//	H struct open_how          M struct mount_attr   V argv   E envp
//	y struct pollfd, several   z signal mask
//
// A letter in brackets is a set of flags; see flagSet. Other calls have a
// function of their own in call.
func signature(nr uint32) string {
	switch nr {
	case unix.SYS_OPENAT2:
		return "dsHn"
	case unix.SYS_OPENAT:
		return "ds[o]o"
	case unix.SYS_MKDIRAT:
		return "dso"
	case unix.SYS_MKNODAT:
		return "ds[n]D"
	case unix.SYS_SYMLINKAT:
		return "sds"
	case unix.SYS_UNLINKAT:
		return "ds[a]"
	case unix.SYS_FCHOWNAT:
		return "dsii[a]"
	case unix.SYS_FCHOWN:
		return "dii"
	case unix.SYS_FCHMOD:
		return "do"
	case unix.SYS_CLOSE, unix.SYS_FCHDIR:
		return "d"
	case unix.SYS_CLOSE_RANGE:
		return "dn[c]"
	case unix.SYS_DUP3:
		return "dd[O]"
	case unix.SYS_READ:
		return "dRn"
	case unix.SYS_WRITE:
		return "dWn"
	case unix.SYS_ACCEPT4:
		return "dpp[k]"
	case unix.SYS_SENDMSG:
		return "dG[g]"
	case unix.SYS_SOCKET:
		return "[f][k]n"
	case unix.SYS_IOCTL:
		return "d[I]J"
	case unix.SYS_FSOPEN:
		return "s[F]"
	case unix.SYS_FSMOUNT:
		return "d[m][A]"
	case unix.SYS_SENDFILE:
		return "ddpn"
	case unix.SYS_OPEN_TREE:
		return "ds[t]"
	case unix.SYS_MOVE_MOUNT:
		return "dsds[v]"
	case unix.SYS_MOUNT_SETATTR:
		return "ds[a]Mn"
	case unix.SYS_MOUNT:
		return "sss[M]p"
	case unix.SYS_PIVOT_ROOT:
		return "ss"
	case unix.SYS_UMOUNT2:
		return "s[u]"
	case unix.SYS_CHROOT, unix.SYS_CHDIR:
		return "s"
	case unix.SYS_UNSHARE, unix.SYS_CLONE:
		return "[N]"
	case unix.SYS_SETNS:
		return "d[N]"
	case unix.SYS_CLONE3:
		return "Cn"
	case unix.SYS_CLOCK_GETTIME:
		return "np"
	case unix.SYS_SCHED_SETATTR:
		return "nTn"
	case unix.SYS_SCHED_SETAFFINITY:
		return "nnm"
	case unix.SYS_IOPRIO_SET:
		return "nnx"
	case unix.SYS_SET_MEMPOLICY:
		return "xmn"
	case unix.SYS_PERSONALITY:
		return "x"
	case unix.SYS_UMASK:
		return "o"
	case unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME:
		return "sn"
	case unix.SYS_PRLIMIT64:
		return "n[r]Lp"
	case unix.SYS_SETGROUPS:
		return "nS"
	case unix.SYS_SETRESGID, unix.SYS_SETRESUID:
		return "iii"
	case unix.SYS_CAPSET:
		return "PQ"
	case unix.SYS_SECCOMP:
		return "[S][s]B"
	case unix.SYS_KEYCTL:
		return "[K]s"
	case unix.SYS_FACCESSAT2:
		return "ds[x][e]"
	case unix.SYS_EXECVE:
		return "sVE"
	case unix.SYS_EXIT_GROUP:
		return "n"
	case unix.SYS_KILL:
		return "nn"
	case unix.SYS_UTIMENSAT:
		return "dsp[a]"
	case unix.SYS_FSETXATTR:
		return "dspnn"
	case unix.SYS_SETSID:
		return ""
	case unix.SYS_RT_SIGACTION:
		return "nppn"
	case unix.SYS_RT_SIGPROCMASK:
		return "nzpn"
	case unix.SYS_PIDFD_OPEN:
		return "nn"
	case unix.SYS_PIDFD_SEND_SIGNAL:
		return "dnpn"
	case unix.SYS_PPOLL:
		return "ynp"
	case unix.SYS_WRITEV, unix.SYS_RECVMSG:
		return "dpn"
	case unix.SYS_WAIT4:
		return "npnp"
	case unix.SYS_FSYNC:
		return "d"
	case unix.SYS_RENAMEAT2:
		return "dsdsn"
	}
	return "xxxxxx"
}

// call is a system call with its arguments.
func (l *lister) call(o *Op) string {
	if l.Machine != native() { // the numbers mean something else
		return l.arguments("system call "+strconv.FormatUint(uint64(o.Number), 10), "xxxxxx", o)
	}
	name := SyscallName(o.Number)
	switch o.Number {
	case unix.SYS_PRCTL:
		return l.arguments(name, prctlSignature(o.Args), o)
	case unix.SYS_KEYCTL:
		if o.Args[0].bits == unix.KEYCTL_SETPERM {
			return l.arguments(name, "[K]nx", o)
		}
	case unix.SYS_FSCONFIG:
		sig := "d[C]sss"
		if c := o.Args[1]; !c.load && c.bits >= unix.FSCONFIG_CMD_CREATE {
			sig = "d[C]"
		} else if c.bits == unix.FSCONFIG_SET_FLAG {
			sig = "d[C]s"
		} else if c.bits == unix.FSCONFIG_SET_STRING {
			sig = "d[C]ss"
		}
		return l.arguments(name, sig, o)
	}
	return l.arguments(name, signature(o.Number), o)
}

func prctlSignature(args [6]Value) string {
	if args[0].load {
		return "xxxxx"
	}
	switch args[0].bits {
	case unix.PR_SET_NAME:
		return "[p]s"
	case unix.PR_CAPBSET_DROP:
		return "[p][b]"
	case unix.PR_CAP_AMBIENT:
		return "[p][q][b]"
	case unix.PR_SET_DUMPABLE, unix.PR_SET_NO_NEW_PRIVS, unix.PR_SET_KEEPCAPS, unix.PR_SET_CHILD_SUBREAPER:
		return "[p]n"
	}
	return "[p]xxxx"
}

func (l *lister) arguments(name, sig string, o *Op) string {
	s := name + "("
	for i := 0; sig != ""; i++ {
		if i > 0 {
			s += ", "
		}
		if sig[0] == '[' {
			if v := o.Args[i]; v.load {
				s += l.slots[v.bits]
			} else {
				s += flags(sig[1], v.bits)
			}
			sig = sig[3:]
			continue
		}
		s += l.argument(sig[0], i, o)
		sig = sig[1:]
	}
	return s + ")"
}

// argument is argument i, of the kind that signature says.
func (l *lister) argument(kind byte, i int, o *Op) string {
	v := o.Args[i]
	if v.load { // in strings too: a slot may hold an address
		return l.slots[v.bits]
	}
	n := v.bits
	s, ok := "", false
	switch kind {
	case 'd':
		if n == atFDCWD || uint32(n) == uint32(0xffffff9c) {
			return "AT_FDCWD"
		}
	case 'i':
		return strconv.FormatInt(int64(int32(n)), 10)
	case 'o':
		return octal(n)
	case 'D':
		return "makedev(" + strconv.Itoa(int(unix.Major(n))) + ", " + strconv.Itoa(int(unix.Minor(n))) + ")"
	case 's', 'p':
		if n == 0 {
			return "NULL"
		}
		if kind == 's' {
			s, ok = l.quote(n)
		}
	default:
		s, ok = l.structure(kind, n, o)
	}
	if ok {
		return s
	}
	return number(n)
}

func octal(n uint64) string {
	if n == 0 {
		return "0"
	}
	return "0" + strconv.FormatUint(n, 8)
}

// structure is what lies at the address n.
func (l *lister) structure(kind byte, n uint64, o *Op) (string, bool) {
	switch kind {
	case 'H': // struct open_how
		return l.words(n, 3, func(w []string, v []uint64) string {
			s := "{flags=" + flags('o', v[0])
			if v[1] != 0 {
				s += ", mode=" + octal(v[1])
			}
			return s + ", resolve=" + flags('R', v[2]) + "}"
		})
	case 'M': // struct mount_attr
		return l.words(n, 4, func(w []string, v []uint64) string { return mountAttr(v) })
	case 'C': // struct clone_args
		words := 8
		if size := o.Args[1]; !size.load && size.bits == 8*cloneArgs {
			words = cloneArgs
		}
		return l.words(n, words, func(w []string, v []uint64) string {
			s := "{flags=" + flags('N', v[0]) + ", exit_signal=" + w[4]
			if v[0]&unix.CLONE_INTO_CGROUP != 0 && words == cloneArgs {
				s += ", cgroup=" + w[10]
			}
			return s + "}"
		})
	case 'T', 'm':
		return l.task(kind, n, o)
	case 'y', 'z':
		return l.waiting(kind, n, o)
	case 'L': // struct rlimit
		return l.words(n, 2, func(w []string, v []uint64) string {
			return "{soft=" + limit(v[0]) + ", hard=" + limit(v[1]) + "}"
		})
	case 'P': // struct __user_cap_header_struct
		return l.words(n, 1, func(w []string, v []uint64) string {
			if v[0] == unix.LINUX_CAPABILITY_VERSION_3 {
				return "{_LINUX_CAPABILITY_VERSION_3, 0}"
			}
			return "{" + w[0] + "}"
		})
	case 'Q': // struct __user_cap_data_struct, two of them
		return l.words(n, 3, func(w []string, v []uint64) string {
			low := func(x uint64) uint64 { return x & (1<<32 - 1) }
			return "{effective=" + capabilities(low(v[0])|v[1]>>32<<32) +
				", permitted=" + capabilities(v[0]>>32|low(v[2])<<32) +
				", inheritable=" + capabilities(low(v[1])|v[2]>>32<<32) + "}"
		})
	case 'B': // struct sock_fprog
		return l.words(n, 2, func(w []string, v []uint64) string {
			return "{" + strconv.Itoa(int(uint16(v[0]))) + " instructions}"
		})
	case 'S':
		return l.groups(n, o.Args[0])
	case 'V', 'E':
		return l.strings(n, kind == 'V')
	case 'R', 'W':
		return l.buffer(n, o.Args[2], kind == 'W')
	case 'G': // struct msghdr
		return l.message(n)
	case 'J':
		return l.ioctl(n, o.Args[1])
	case 'x':
		return "0x" + strconv.FormatUint(n, 16), true
	}
	return "", false
}

// words hands n words at addr to f: as text, in which slots have their names,
// and as numbers.
func (l *lister) words(addr uint64, n int, f func(w []string, v []uint64) string) (string, bool) {
	w, v := make([]string, n), make([]uint64, n)
	for i := range v {
		var ok bool
		a := addr + uint64(8*i)
		if v[i], ok = l.word(a); !ok {
			return "", false
		}
		if w[i] = l.slots[a]; w[i] == "" {
			w[i] = number(v[i])
		}
	}
	return f(w, v), true
}

func mountAttr(v []uint64) string {
	s := ""
	add := func(name string, kind byte, n uint64) {
		if n != 0 {
			s += ", " + name + "=" + flags(kind, n)
		}
	}
	add("set", 'A', v[0])
	add("clear", 'A', v[1])
	add("propagation", 'M', v[2])
	if v[3] != 0 {
		s += ", userns_fd=" + number(v[3])
	}
	return "{" + strings.TrimPrefix(s, ", ") + "}"
}

func limit(n uint64) string {
	if n == ^uint64(0) {
		return "RLIM_INFINITY"
	}
	return strconv.FormatUint(n, 10)
}

// listed is how many elements of an array are printed.
const listed = 32

func (l *lister) groups(addr uint64, count Value) (string, bool) {
	if count.load || count.bits > 65536 {
		return "", false
	}
	raw := l.at(addr, 4*count.bits)
	if raw == nil {
		return "", false
	}
	s := "["
	for i := 0; i < len(raw); i += 4 {
		if i == 4*listed {
			s += ", ..."
			break
		}
		if i > 0 {
			s += ", "
		}
		s += strconv.FormatUint(uint64(binary.LittleEndian.Uint32(raw[i:])), 10)
	}
	return s + "]", true
}

// strings is a NULL-terminated array of strings; of an environment, which may
// hold secrets, only its length.
func (l *lister) strings(addr uint64, show bool) (string, bool) {
	s, n := "", 0
	for ; ; n++ {
		w, ok := l.word(addr + uint64(8*n))
		if !ok {
			return "", false
		}
		if w == 0 {
			break
		}
		if show && n < listed {
			q, ok := l.quote(w)
			if !ok {
				q = number(w)
			}
			if n > 0 {
				s += ", "
			}
			s += q
		}
		if n == 1<<20 { // more than execve(2) takes
			return "", false
		}
	}
	switch {
	case !show:
		return "/* " + strconv.Itoa(n) + " variables */", true
	case n > listed:
		s += ", ... /* " + strconv.Itoa(n) + " strings */"
	}
	return "[" + s + "]", true
}

// buffer is what write(2) sends, or the slots that read(2) fills.
func (l *lister) buffer(addr uint64, size Value, out bool) (string, bool) {
	if size.load {
		return "", false
	}
	raw := l.at(addr, size.bits)
	if raw == nil {
		return "", false
	}
	text := true
	for i := range raw[:min(len(raw), 64)] {
		text = text && (raw[i] >= ' ' && raw[i] != 0x7f || raw[i] == '\n' || raw[i] == '\t')
	}
	if out && (text || len(raw)%8 != 0) {
		const limit = 128
		if len(raw) > limit {
			return strconv.Quote(string(raw[:limit])) + "...", true
		}
		return strconv.Quote(string(raw)), true
	}
	if len(raw)%8 != 0 || len(raw) > 8*listed {
		return "", false
	}
	return l.words(addr, len(raw)/8, func(w []string, v []uint64) string { return "{" + strings.Join(w, ", ") + "}" })
}

// message is a struct msghdr with what it sends and the descriptors it passes.
func (l *lister) message(addr uint64) (string, bool) {
	return l.words(addr, 7, func(w []string, v []uint64) string {
		s := ""
		for i := uint64(0); i < v[3] && i < 4; i++ {
			base, _ := l.word(v[2] + 16*i)
			size, _ := l.word(v[2] + 16*i + 8)
			if t, ok := l.buffer(base, Const(size), true); ok {
				s += "iov=" + t + ", "
			}
		}
		if level, ok := l.word(v[4] + 8); ok && v[5] >= 24 && level == unix.SOL_SOCKET|unix.SCM_RIGHTS<<32 {
			fd, _ := l.words(v[4]+16, 1, func(w []string, v []uint64) string { return w[0] })
			return "{" + s + "SCM_RIGHTS=[" + fd + "]}"
		}
		return "{" + strings.TrimSuffix(s, ", ") + "}"
	})
}

// ioctl is the argument of ioctl(2).
func (l *lister) ioctl(n uint64, request Value) (string, bool) {
	switch {
	case request.load:
	case request.bits == unix.TIOCGPTPEER:
		return flags('o', n), true
	case request.bits == unix.TIOCSPTLCK:
		return l.words(n, 1, func(w []string, v []uint64) string { return "[" + number(v[0]&(1<<32-1)) + "]" })
	case request.bits == unix.TIOCSWINSZ:
		return l.words(n, 1, func(w []string, v []uint64) string {
			return "{rows=" + number(v[0]&0xffff) + ", columns=" + number(v[0]>>16&0xffff) + "}"
		})
	case request.bits == unix.SIOCSIFFLAGS:
		name, _, ok := l.text(n, unix.IFNAMSIZ)
		raw := l.at(n, 24)
		if ok && raw != nil {
			return "{" + strconv.Quote(name) + ", " + flags('U', uint64(binary.LittleEndian.Uint16(raw[16:]))) + "}", true
		}
	}
	return "", false
}
