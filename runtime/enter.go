package runtime

import (
	"errors"
	"os"
	"syscall"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/namespaces"
	"golang.org/x/sys/unix"
)

// enter joins the container's namespaces, all at once. Its pid namespace is for
// children: appear comes later.
type enter struct {
	target initprog.Value
	flags  uint64
	unused int     // first descriptor number that is neither the user's nor ours
	spaces []space // in place of target, at the numbers from unused on
}

func (s *enter) Phase() string { return "namespaces" }
func (s *enter) String() string {
	t := "join the namespaces of the container:"
	for _, n := range namespaces.Names(s.flags) {
		t += " " + n
	}
	return t
}

func (s *enter) Why() string { return "" }

func (s *enter) Emit(b *initprog.Builder) {
	b.Object("descriptors of the caller")
	b.CloseRange(s.unused + len(s.spaces))
	b.Object("container init")
	emitJoin(b, s.target, s.flags, s.spaces)
	if len(s.spaces) > 0 {
		b.CloseRange(s.unused)
	}
	if s.flags&unix.CLONE_NEWUSER != 0 {
		b.Setresgid(0)
		b.Setresuid(0)
		b.Prctl(unix.PR_SET_DUMPABLE, 0)
	}
	b.Umask(0)
}

// appear goes on in a second process, which is in the container's pid namespace.
//
// The runtime could join the pid namespace itself and save that process. But
// then the container would see a process that still is the runtime's: between
// clone(2) and execve(2) it has the runtime's descriptors, root and program, and
// a container with CAP_SYS_PTRACE reaches all of them through procfs, whatever
// the dumpable flag says (CVE-2016-9962). And until it has given up what the
// user's process is not to have, such a container could take it over and be root
// of the host. The second process has nothing of either when it appears.
type appear struct{}

func (s *appear) Phase() string  { return "namespaces" }
func (s *appear) String() string { return "go on in a second process, inside the pid namespace" }
func (s *appear) Why() string {
	return "what the container sees of it has nothing of the host, and no privileges, any more (CVE-2016-9962)"
}

func (s *appear) Emit(b *initprog.Builder) {
	b.Object("")
	child := b.NewLabel()
	record := b.Words(0, 0)
	b.Fork().To(initprog.SlotAt(record, 8)).OnZero(child)
	b.WriteWords(initprog.Sync(), record, 2)
	b.ExitGroup(0)
	b.Place(child)
	b.Prctl(unix.PR_SET_DUMPABLE, 0)
}

// second learns the pid of the second process, which becomes the process p, and
// reaps the first one.
func (e *execution) second(image *initprog.Image, p *Process) error {
	var buf [initprog.RecordSize]byte
	n, err := e.o.Timing.read(e.sync[0], buf[:])
	r := initprog.ParseRecord(buf[:])
	switch {
	case err != nil:
		err = os.NewSyscallError("read from the process", err)
	case n != len(buf):
		err = errNotJoined
	case !r.Progress():
		err = stepFailure(image.Failure(r))
	}
	first := *p
	if err == nil && (r.Value == uint64(first.Pid) || !isChild(r.Value)) {
		err = errForeignPid
	}
	if err == nil {
		p.Pid = int(r.Value)
		p.PidFD, err = unix.PidfdOpen(p.Pid, 0)
		err = os.NewSyscallError("pidfd_open", err)
	}
	if err != nil {
		p.PidFD = -1
		_ = unix.PidfdSendSignal(first.PidFD, syscall.SIGKILL, nil, 0)
	}
	_, waitErr := first.Wait()
	return errors.Join(err, os.NewSyscallError("wait4", waitErr))
}

// errForeignPid: the first process does not say that. The second one has the same
// socket, and a container with CAP_SYS_PTRACE may have made it speak first, to
// have us signal, or take for its own, a process of the host.
var errForeignPid = errors.New("the process told the pid of another one")

// isChild reports whether pid, as an init told it, is that of a child of ours.
func isChild(pid uint64) bool {
	if pid == 0 || pid > 1<<31-1 {
		return false
	}
	for {
		err := unix.Waitid(unix.P_PID, int(pid), nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT|unix.WALL, nil)
		if err != unix.EINTR {
			return err == nil
		}
	}
}
