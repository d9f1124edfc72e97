package rootfs

import (
	"syscall"

	"github.com/minirun/minirun/internal/initprog"
	"golang.org/x/sys/unix"
)

// console makes a pseudo terminal in the container's own devpts, sends its
// master to a socket and makes the slave /dev/console and the standard streams.
type console struct {
	t             *tree // nil for a process added to a running container
	socket        initprog.Value
	uid           uint32
	height, width uint16
}

// Console returns the step that gives a process added to a running container a
// terminal. It runs inside the container's root. The terminal is not the one that
// controls the session yet: the process that will lead it has to make it so.
func Console(socket initprog.Value, uid uint32, height, width uint16) initprog.Step {
	return &console{socket: socket, uid: uid, height: height, width: width}
}

func (s *console) Phase() string { return "terminal" }
func (s *console) String() string {
	return "make a pseudo terminal and send its master to the console socket"
}
func (s *console) Why() string { return "process.terminal" }

func (s *console) Emit(b *initprog.Builder) {
	b.Object("/dev/pts/ptmx")
	// struct cmsghdr with one descriptor; the master's number is stored in place.
	cmsg := b.Words(20, unix.SOL_SOCKET|unix.SCM_RIGHTS<<32, 0)
	master := initprog.SlotAt(cmsg, 16)
	how := b.How(unix.O_RDWR|unix.O_NOCTTY, 0)
	if s.t != nil {
		b.Openat2(s.t.root, "dev/pts/ptmx", how).To(master).RetrySome(syscall.EAGAIN)
	} else {
		root := b.Openat(initprog.CWD(), "/", unix.O_PATH|unix.O_DIRECTORY).Result()
		b.Openat2(root, "dev/pts/ptmx", how).To(master).RetrySome(syscall.EAGAIN)
	}
	b.Ioctl(master, unix.TIOCSPTLCK, b.Words(0)).Detail("TIOCSPTLCK")
	// The slave by its master, never by a path that could be somebody else's
	// (CVE-2025-52565).
	slave := b.Ioctl(master, unix.TIOCGPTPEER, initprog.Const(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)).Detail("TIOCGPTPEER").Result()
	if s.height|s.width != 0 {
		b.Ioctl(master, unix.TIOCSWINSZ, b.Words(uint64(s.height)|uint64(s.width)<<16)).Detail("TIOCSWINSZ")
	}
	if s.uid != 0 {
		b.Fchown(slave, s.uid, ^uint32(0))
	}
	if s.t != nil {
		b.Object("/dev/console")
		m := b.OpenTree(slave, "", false).Result()
		s.t.attach(b, m, s.t.resolve(b, "dev/console", file))
	}
	b.Object("console socket")
	name := b.String("/dev/ptmx")
	iov := b.Words(name.Bits(), 9)
	msg := b.Words(0, 0, iov.Bits(), 1, cmsg.Bits(), 24, 0)
	b.Sendmsg(s.socket, msg)
	b.Object("terminal")
	if s.t != nil {
		b.Ioctl(slave, unix.TIOCSCTTY, initprog.Const(0)).Detail("TIOCSCTTY")
	}
	for fd := range 3 {
		b.Dup3(slave, fd)
	}
}
