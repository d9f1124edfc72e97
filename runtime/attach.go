package runtime

import (
	"errors"
	"os"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/cgroups/systemd"
	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/namespaces"
	"golang.org/x/sys/unix"
)

// planAttach sees whether systemd has to put the process into the container's
// scope. A process may only be born in a group, or moved to it, by who may write
// to the group above both; between a login session and the units of the user's
// systemd that is root alone. The user's systemd has it done by the system's.
func (e *execution) planAttach() error {
	if !e.c.UnitUser || e.c.Unit == "" {
		return nil
	}
	group := e.c.group()
	if e.o != nil && e.o.Cgroup != "" {
		var err error
		if group, err = group.Sub(e.o.Cgroup); err != nil {
			return err
		}
	}
	own, err := cgroups.PathOf(os.Getpid())
	if err != nil {
		return err
	}
	if e.attach = !group.MayEnter(own); !e.attach {
		return nil
	}
	fd, err := group.FD() // it is there
	if err != nil {
		return err
	}
	linux.Close(fd)
	e.attachTo = group.Path[len(e.c.group().Path):]
	return nil
}

// unitGate is where a process waits until systemd has put it into the container's
// scope: nothing of it is in the container yet.
type unitGate struct{ unit string }

func (s *unitGate) Phase() string  { return "cgroup" }
func (s *unitGate) String() string { return "wait until systemd has put the process into " + s.unit }

func (s *unitGate) Why() string {
	return "this user may not write to the group above it and the caller's"
}

func (s *unitGate) Emit(b *initprog.Builder) {
	b.Object(s.unit)
	namespaces.Handshake(b, namespaces.Ready)
}

// moveGate is where a process waits until it is in the container's cgroup.
type moveGate struct{}

func (*moveGate) Phase() string  { return "cgroup" }
func (*moveGate) String() string { return "wait until the process is in the container's cgroup" }
func (*moveGate) Why() string {
	return "a process that is born there may not come to its start, and the runtime would wait for it"
}

func (*moveGate) Emit(b *initprog.Builder) {
	b.Object("cgroup")
	namespaces.Handshake(b, namespaces.Ready)
}

// moves reports whether the process goes through a moveGate.
func (e *execution) moves() bool {
	return e.o != nil && e.o.Move && !e.attach && (e.c.Cgroup != "" || e.o.Cgroup != "")
}

// move puts the process into the group that it is for. Unlike clone(2) that passes by
// pids.max: for a process that makes no second one there we look ourselves.
func (e *execution) move(pid int) error {
	return e.inGroup(func(group *cgroups.Group) error {
		err := group.Add(pid)
		if err == nil && e.c.Namespaces&unix.CLONE_NEWPID == 0 {
			if path, _, _ := group.PidsLimit(0); path != "" {
				err = unix.EAGAIN
			}
		}
		return err
	})
}

// gates are the steps that wait for the runtime before anything is joined.
func (e *execution) gates() (steps []initprog.Step) {
	if e.attach {
		steps = append(steps, &unitGate{e.c.Unit})
	}
	if e.moves() {
		steps = append(steps, &moveGate{})
	}
	if e.classed() {
		steps = append(steps, &classGate{&e.c.Rdt})
	}
	if e.score != "" {
		steps = append(steps, &scoreGate{e.score})
	}
	return steps
}

// passGates does what gates wait for. A process that it cannot do that for it ends.
func (e *execution) passGates(image *initprog.Image, p *Process) (err error) {
	if e.attach {
		err = e.passGate(image, func() error { return e.c.attachProcess(e.attachTo, p.Pid) })
	}
	if err == nil && e.moves() {
		err = e.passGate(image, func() error { return e.move(p.Pid) })
	}
	if err == nil && e.classed() {
		err = e.passGate(image, func() error { return e.c.joinRdt(p.Pid) })
	}
	if err == nil && e.score != "" {
		err = e.passGate(image, func() error { return e.giveScore(p.Pid) })
	}
	if err != nil {
		_ = unix.PidfdSendSignal(p.PidFD, unix.SIGKILL, nil, 0)
		_, _ = p.Wait()
	}
	return err
}

// passGate does what the process waits for, and lets it go on.
func (e *execution) passGate(image *initprog.Image, do func() error) error {
	var buf [initprog.RecordSize]byte
	n, err := e.o.Timing.read(e.sync[0], buf[:])
	switch r := initprog.ParseRecord(buf[:]); {
	case err != nil:
		return os.NewSyscallError("read from the process", err)
	case n != len(buf):
		return errNotJoined
	case !r.Progress():
		return stepFailure(image.Failure(r))
	}
	if err := do(); err != nil {
		return err
	}
	_, err = linux.Write(e.sync[0], make([]byte, 8))
	return err
}

// attachProcess has systemd put the process into the container's scope, or into
// the group sub below it.
func (c *Container) attachProcess(sub string, pid int) error {
	m, err := systemd.Connect(c.UnitUser)
	if err == nil {
		err = m.Attach(&systemd.Unit{Name: c.Unit, User: c.UnitUser}, sub, pid)
		m.Close()
	}
	if err != nil {
		return &ScopeError{c.Unit, err}
	}
	// systemd's word is not enough: outside, the process would have no limits.
	path, err := cgroups.PathOf(pid)
	if err == nil && path != c.Cgroup+sub {
		err = errors.New("systemd has left the process in " + path)
	}
	if err != nil {
		return &ScopeError{c.Unit, err}
	}
	return nil
}
