package runtime

import (
	"errors"
	"os"
	"syscall"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/namespaces"
	"golang.org/x/sys/unix"
)

// enter joins the container's namespaces, all at once, and goes on in a second
// process, since a pid namespace is for children only.
//
// The runtime could join the pid namespace itself and save that process. But
// then the container would see a process that still is the runtime's: between
// clone(2) and execve(2) it has the runtime's descriptors, root and program, and
// a container with CAP_SYS_PTRACE reaches all of them through procfs, whatever
// the dumpable flag says (CVE-2016-9962). The second process has nothing of the
// host any more when it appears.
type enter struct {
	target initprog.Value
	flags  uint64
	unused int // first descriptor number that is neither the user's nor ours
}

func (s *enter) Phase() string { return "namespaces" }
func (s *enter) String() string {
	t := "join the namespaces of the container:"
	for _, n := range namespaces.Names(s.flags) {
		t += " " + n
	}
	return t
}

func (s *enter) Why() string {
	return "before the container can see the process, so that it finds nothing of the host in it (CVE-2016-9962)"
}

func (s *enter) Emit(b *initprog.Builder) {
	b.Object("descriptors of the caller")
	b.CloseRange(s.unused)
	b.Object("container init")
	if s.flags != 0 {
		b.Setns(s.target, s.flags)
	}
	if s.flags&unix.CLONE_NEWUSER != 0 {
		b.Setresgid(0)
		b.Setresuid(0)
		b.Prctl(unix.PR_SET_DUMPABLE, 0)
	}
	b.Umask(0)
	if s.flags&unix.CLONE_NEWPID == 0 {
		return
	}
	b.Object("")
	child := b.NewLabel()
	record := b.Words(0, 0)
	b.CloneSibling(0).To(initprog.SlotAt(record, 8)).OnZero(child)
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
	if err == nil {
		p.Pid = int(r.Value)
		p.PidFD, err = unix.PidfdOpen(p.Pid, 0)
		err = os.NewSyscallError("pidfd_open", err)
	}
	if err != nil {
		_ = unix.PidfdSendSignal(first.PidFD, syscall.SIGKILL, nil, 0)
	}
	_, waitErr := first.Wait()
	return errors.Join(err, os.NewSyscallError("wait4", waitErr))
}
