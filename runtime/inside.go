package runtime

import (
	"errors"
	"os"
	"strconv"
	"syscall"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/namespaces"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// An init is not dumpable, so the kernel lets nobody join its namespaces by its
// pid but root of the host. For an ordinary user's container that is too much:
// hooks, exec and mounts before start come from the user. Making the init
// dumpable would open it to the container's other processes as well. So it hands
// out what it is in to those who have the other end of a socket that only the
// user can reach: the runtime while it creates the container, and then whoever
// connects to the start socket.

// What is said to the init in 8 bytes.
const (
	goOn      = 0 // as any gate is opened
	handInner = 1 // answer with an innerRecord and what it is in, then listen again
)

// innerRecord is the word of the record that comes with the descriptors.
const innerRecord = 0x696e6e6572

// inside are descriptors of a process's root directory and namespaces.
type inside struct {
	fds   []int // the root, then one for each of flags
	flags []uint64
}

func (i *inside) close() {
	if i != nil {
		for _, fd := range i.fds {
			linux.Close(fd)
		}
	}
}

// spaces are the namespaces as descriptors from number first on in a program
// that gets fds[1:] there.
func (i *inside) spaces(first int) []space {
	if i == nil {
		return nil
	}
	s := make([]space, len(i.flags))
	for n, flag := range i.flags {
		s[n] = space{flag, initprog.FD(first + n)}
	}
	return s
}

// space is a namespace to join.
type space struct {
	flag uint64
	fd   initprog.Value
}

// emitJoin joins the namespaces of a process: target is its pidfd, and spaces,
// if there are any, what it is in.
func emitJoin(b *initprog.Builder, target initprog.Value, flags uint64, spaces []space) {
	for i := range spaces {
		if flags&spaces[i].flag != 0 {
			b.Setns(spaces[i].fd, spaces[i].flag)
			flags &^= spaces[i].flag
		}
	}
	if flags != 0 {
		b.Setns(target, flags)
	}
}

// innerOrder is the order of the descriptors, and of joining: only root of a user
// namespace may join the others. The names are those below /proc/PID/ns.
func innerOrder(flags uint64, do func(flag uint64, name string)) {
	for _, n := range [...]struct {
		flag uint64
		name string
	}{
		{unix.CLONE_NEWUSER, "user"},
		{unix.CLONE_NEWPID, "pid"},
		{unix.CLONE_NEWNET, "net"},
		{unix.CLONE_NEWNS, "mnt"},
		{unix.CLONE_NEWIPC, "ipc"},
		{unix.CLONE_NEWUTS, "uts"},
		{unix.CLONE_NEWCGROUP, "cgroup"},
		{unix.CLONE_NEWTIME, "time"},
	} {
		if flags&n.flag != 0 {
			do(n.flag, n.name)
		}
	}
}

// innerFiles opens, in the init, the namespaces that it is in, while the host's
// procfs can be reached.
type innerFiles struct {
	flags uint64
	files []initprog.Value
}

func (s *innerFiles) Phase() string  { return "namespaces" }
func (s *innerFiles) String() string { return "open the namespaces" }
func (s *innerFiles) Why() string {
	return "until the process runs, a user's hooks, exec and mounts cannot get at them in another way"
}

func (s *innerFiles) Emit(b *initprog.Builder) {
	innerOrder(s.flags, func(_ uint64, name string) {
		path := "/proc/self/ns/" + name
		b.Object(path)
		s.files = append(s.files, b.Openat(initprog.CWD(), path, unix.O_RDONLY).Result())
	})
}

// emitGate waits for what to do next, and goes on when it is told so. When the
// other end of the socket is closed it goes on at over.
func (s *innerFiles) emitGate(b *initprog.Builder, socket initprog.Value, over initprog.Label) {
	root := b.Openat(initprog.CWD(), "/", unix.O_PATH|unix.O_DIRECTORY).Result()
	fds := append([]initprog.Value{root}, s.files...)
	size := 16 + 4*len(fds)
	words := make([]uint64, size/8+1)
	words[0], words[1] = uint64(size), unix.SOL_SOCKET|unix.SCM_RIGHTS<<32
	cmsg := b.Words(words...)
	record := b.Words(0, innerRecord)
	iov := b.Words(record.Bits(), initprog.RecordSize)
	msg := b.Words(0, 0, iov.Bits(), 1, cmsg.Bits(), uint64(size), 0)
	word := b.Words(0)
	asked, ok := b.NewLabel(), b.NewLabel()
	again := b.Here()
	b.ReadWords(socket, word, 1).OnZero(over).On(syscall.ECONNRESET, over).Retry(syscall.EINTR)
	b.Set(b.Slot(0), initprog.SlotAt(word, 0)).OnZero(ok).OnNonzero(asked)
	b.Place(asked)
	// Eight bytes are stored and four of them count: the next covers the rest.
	for i, fd := range fds {
		b.Set(initprog.SlotAt(cmsg, 16+4*i), fd)
	}
	b.Sendmsg(socket, msg).IgnoreAny() // whoever has asked may be gone
	b.Jump(again)
	b.Place(ok)
	b.Close(root).IgnoreAny()
}

// emitHandshake is namespaces.Handshake with questions before the answer.
func (s *innerFiles) emitHandshake(b *initprog.Builder, word uint64) {
	if s == nil {
		namespaces.Handshake(b, word)
		return
	}
	b.WriteWords(initprog.Sync(), b.Words(0, word), 2)
	over, ok := b.NewLabel(), b.NewLabel()
	s.emitGate(b, initprog.Sync(), over)
	b.Jump(ok)
	b.Place(over)
	b.ExitGroup(1)
	b.Place(ok)
}

// emitAccept waits for a connection that says to go on, and returns it.
func (s *innerFiles) emitAccept(b *initprog.Builder, listen initprog.Value) initprog.Value {
	over, ok := b.NewLabel(), b.NewLabel()
	again := b.Here()
	conn := b.Accept(listen).Retry(syscall.EINTR).Result()
	s.emitGate(b, conn, over)
	b.Jump(ok)
	b.Place(over) // an exec that has what it wants, or a start that was killed
	b.Close(conn).IgnoreAny()
	b.Jump(again)
	b.Place(ok)
	return conn
}

// errNotInner is what an init says that waits for nobody any more.
var errNotInner = errors.New("container init does not tell its namespaces")

// askInner asks the init behind the socket for what it is in.
func askInner(socket int, flags uint64) (*inside, error) {
	i := &inside{}
	innerOrder(flags, func(flag uint64, _ string) { i.flags = append(i.flags, flag) })
	if _, err := linux.Write(socket, []byte{handInner, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		return nil, os.NewSyscallError("write to container init", err)
	}
	var buf [initprog.RecordSize]byte
	var oob [128]byte
	var n, oobn int
	for {
		var err error
		n, oobn, _, _, err = unix.Recvmsg(socket, buf[:], oob[:], unix.MSG_CMSG_CLOEXEC)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return nil, os.NewSyscallError("read from container init", err)
		}
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, err
	}
	for m := range messages {
		fds, err := unix.ParseUnixRights(&messages[m])
		if err == nil {
			i.fds = append(i.fds, fds...)
		}
	}
	if r := initprog.ParseRecord(buf[:]); n != len(buf) || !r.Progress() || r.Value != innerRecord || len(i.fds) != 1+len(i.flags) {
		i.close()
		return nil, errNotInner
	}
	return i, nil
}

// openInside asks the container's init, if it waits for start, for what it is in.
// nil means that its pid will do: we are root, or it runs what it is for.
func (c *Container) openInside() (*inside, error) {
	if c.Owner == 0 || os.Geteuid() == 0 {
		return nil, nil
	}
	dir, err := linux.OpenAt(unix.AT_FDCWD, c.Dir(), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer linux.Close(dir)
	socket, err := dialAt(dir, startFile)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer linux.Close(socket)
	i, err := askInner(socket, c.Namespaces)
	if errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) || errors.Is(err, errNotInner) {
		return nil, nil // it was started meanwhile, or killed
	}
	return i, err
}

// rootOf opens the root directory of the container.
func (c *Container) rootOf(i *inside) (int, error) {
	if i != nil {
		return unix.FcntlInt(uintptr(i.fds[0]), unix.F_DUPFD_CLOEXEC, 0)
	}
	return linux.OpenAt(unix.AT_FDCWD, "/proc/"+strconv.Itoa(c.Pid)+"/root", unix.O_PATH|unix.O_DIRECTORY, 0)
}

// hooksInside reports whether there are hooks that run in the container's
// namespaces.
func hooksInside(h *specs.Hooks) bool {
	return h != nil && len(h.CreateContainer)+len(h.StartContainer) > 0
}

// inner asks the init for what it is in, at a gate of create.
func (t *creation) inner() (*inside, error) {
	if t.plan.inner == nil {
		return nil, nil
	}
	return askInner(t.sync[0], t.plan.Set.All())
}
