package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"time"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/jsonread"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A filter with SCMP_ACT_NOTIFY has a listener: a descriptor that tells of the
// system calls which wait for an answer. It comes to life in the init, and the
// seccomp agent at linux.seccomp.listenerPath must have it before the init goes
// on. Under the filter the init can do little, so it says in which descriptor
// the listener is, and waits; the runtime fetches it with pidfd_getfd(2) and
// sends it on. Debugging a profile works in the same way, with a process of ours
// in place of the agent.

// Agent is who answers the notifications of a container's filter.
type Agent struct {
	Path, Metadata string // of the profile: a unix socket, and what it is told
	Report         string // debugging: what denied calls are reported to, see PlanOptions.DenialReport
}

func (a *Agent) empty() bool { return *a == Agent{} }

const (
	// agentTimeout is how long the agent may take to accept a connection and the
	// listener; both need no more of it than to exist.
	agentTimeout = 10 * time.Second
	// answerTimeout is how long it may take to answer for the calls that the init
	// makes between the filter and the user's program. The init holds the listener
	// too, so the end of an agent would leave it waiting.
	answerTimeout = 15 * time.Second
)

// AgentError reports that the seccomp agent did not take the listener.
type AgentError struct {
	Path string
	Err  error
}

func (e *AgentError) Error() string {
	return fmt.Sprintf("seccomp agent at %q (linux.seccomp.listenerPath): %v", e.Path, e.Err)
}
func (e *AgentError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *AgentError) Hint() string {
	switch {
	case errors.Is(e.Err, unix.ENOENT), errors.Is(e.Err, unix.ECONNREFUSED):
		return "the profile has SCMP_ACT_NOTIFY rules: start the agent that answers them before the container"
	case errors.Is(e.Err, unix.ETIMEDOUT):
		return "the agent does not answer; see whether it hangs"
	}
	return "it must be a unix stream socket that somebody listens on"
}

// planAgent finds out who will answer for the filter.
func (p *Plan) planAgent(f *seccomp.Filter, profile *specs.LinuxSeccomp) (err error) {
	p.process.filter = f
	if p.report != "" {
		if p.process.filter, err = f.Observed(goruntime.GOARCH); err != nil {
			return fmt.Errorf("debug linux.seccomp: %w", err)
		}
		p.process.agent = Agent{Report: p.report}
		return nil
	}
	if f.Flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
		return nil
	}
	path := profile.ListenerPath
	if !filepath.IsAbs(path) { // start need not run in the same directory
		path = filepath.Join(p.Bundle, path)
	}
	p.process.agent = Agent{Path: path, Metadata: profile.ListenerMetadata}
	return nil
}

// check finds out early, before anything is made, that the agent is not there.
// Nothing is sent: a connection is for exactly one container process.
func (a *Agent) check() error {
	if a.Path == "" {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(a.Path, &st); err != nil {
		return &AgentError{a.Path, err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return &AgentError{a.Path, unix.ENOTSOCK}
	}
	return nil
}

// emitFilter loads the filter and, if it has a listener, waits until the
// runtime has taken that.
func emitFilter(b *initprog.Builder, p *process) {
	if p.agent.empty() {
		b.SeccompFilter(p.filter.Insns, p.filter.Flags)
		return
	}
	record := b.Words(0, 0)
	b.SeccompFilter(p.filter.Insns, p.filter.Flags).To(initprog.SlotAt(record, 8))
	b.Object("listener of the system call filter")
	b.WriteWords(initprog.Sync(), record, 2)
	over, taken := b.NewLabel(), b.NewLabel()
	b.ReadWords(initprog.Sync(), b.Words(0), 1).OnZero(over).OnNonzero(taken).Retry(unix.EINTR)
	b.Place(over)
	b.ExitGroup(1)
	b.Place(taken)
}

// handOver is a listener on its way to the agent.
type handOver struct {
	agent  *Agent
	c      *Container
	status Status
	init   int // pid of the container's init
	pid    int // of the process with the filter
	pidfd  int
	// supervise starts the process that reports denied calls.
	supervise func(listener int) error
}

// give takes the listener, which is descriptor remote of the process, and
// hands it to the agent.
func (h *handOver) give(remote uint64) error {
	fd, err := unix.PidfdGetfd(h.pidfd, int(remote), 0)
	if err != nil {
		return os.NewSyscallError("pidfd_getfd of the seccomp listener", err)
	}
	defer linux.Close(fd)
	if h.agent.Report != "" {
		if h.supervise == nil {
			return errors.New("nobody to report denied system calls")
		}
		return h.supervise(fd)
	}
	if err := h.send(fd); err != nil {
		return &AgentError{h.agent.Path, err}
	}
	return nil
}

// send is the protocol of the OCI runtime specification: one connection, one
// message with the container process state and the descriptor.
func (h *handOver) send(listener int) error {
	sock, err := dialWithin(h.agent.Path, agentTimeout)
	if err != nil {
		return err
	}
	defer linux.Close(sock)
	msg := h.state()
	n, err := unix.SendmsgN(sock, msg, unix.UnixRights(listener), nil, unix.MSG_NOSIGNAL)
	if err == unix.EAGAIN || err == nil && n < len(msg) {
		err = unix.ETIMEDOUT
	}
	return os.NewSyscallError("sendmsg", err)
}

// state is the container process state (config-linux.md, "Seccomp").
func (h *handOver) state() []byte {
	b := make([]byte, 0, 1024)
	str := func(key, v string) { b = jsonread.AppendString(append(b, key...), v) }
	str(`{"ociVersion":`, h.c.OCIVersion)
	b = append(b, `,"fds":["seccompFd"],"pid":`...)
	b = jsonread.AppendInt(b, int64(h.pid))
	if h.agent.Metadata != "" {
		str(`,"metadata":`, h.agent.Metadata)
	}
	b = h.c.appendState(append(b, `,"state":`...), h.status, h.init)
	return append(b, '}')
}

// errFilterSilent is what is left when the init says nothing more once it has
// loaded a filter with a listener.
var errFilterSilent = errors.New("container init ended after it had loaded the system call filter, which must allow write, read and execve, and without noNewPrivileges capset")

// answered waits until the process has something to say, or has ended, and so
// until the agent has answered for its last calls.
func (h *handOver) answered(sync int) error {
	if readable(sync, answerTimeout) {
		return nil
	}
	_ = unix.PidfdSendSignal(h.pidfd, unix.SIGKILL, nil, 0)
	name := h.agent.Path
	if name == "" {
		return errors.New("nobody answers for the system calls of the process")
	}
	return &AgentError{name, unix.ETIMEDOUT}
}

// readable waits until fd can be read from, or its other end is closed.
func readable(fd int, limit time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for deadline := time.Now().Add(limit); ; {
		left := time.Until(deadline)
		if n, err := unix.Poll(fds, max(int(left.Milliseconds()), 0)); n > 0 || err != unix.EINTR && left <= 0 {
			return n > 0
		}
	}
}

// notify hands over the listener of a container that is being run.
func (t *creation) notify() error {
	agent := &t.plan.process.agent
	if agent.empty() {
		return nil
	}
	r, err := t.record()
	if err != nil {
		if errors.Is(err, errInitDied) {
			err = errFilterSilent
		}
		return err
	}
	h := &handOver{agent: agent, c: t.c, status: Creating, init: t.c.Pid, pid: t.c.Pid, pidfd: t.pidfd, supervise: t.o.Supervise}
	if err := h.give(r.Value); err != nil {
		return err
	}
	if err := t.answer(); err != nil {
		return errFilterSilent
	}
	return h.answered(t.sync[0])
}

// notify hands over the listener of a created container that starts. The init
// waits at the other end of conn.
func (c *Container) notify(conn, pidfd int) error {
	var buf [initprog.RecordSize]byte
	n, err := linux.Read(conn, buf[:])
	r := initprog.ParseRecord(buf[:])
	switch {
	case err != nil || n != len(buf):
		return errFilterSilent
	case !r.Progress():
		return c.pendingFailure(r)
	}
	h := &handOver{agent: &c.Agent, c: c, status: Created, init: c.Pid, pid: c.Pid, pidfd: pidfd, supervise: c.Supervise}
	if err := h.give(r.Value); err != nil {
		return err
	}
	if _, err := unix.SendmsgN(conn, make([]byte, 8), nil, nil, unix.MSG_NOSIGNAL); err != nil {
		return errFilterSilent
	}
	return h.answered(conn)
}

// notify hands over the listener of a process added to a container.
func (e *execution) notify(agent *Agent, image *initprog.Image, p *Process) error {
	if agent.empty() {
		return nil
	}
	var buf [initprog.RecordSize]byte
	n, err := e.o.Timing.read(e.sync[0], buf[:])
	r := initprog.ParseRecord(buf[:])
	switch {
	case err != nil || n != len(buf):
		return errFilterSilent
	case !r.Progress():
		return stepFailure(image.Failure(r))
	}
	h := &handOver{agent: agent, c: e.c, status: Running, init: e.c.Pid, pid: p.Pid, pidfd: p.PidFD, supervise: e.o.Supervise}
	if err := h.give(r.Value); err != nil {
		return err
	}
	if _, err := linux.Write(e.sync[0], make([]byte, 8)); err != nil {
		return errFilterSilent
	}
	return h.answered(e.sync[0])
}
