package node

import (
	"context"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/runtime"
)

// runIn runs a command in a container and gives what it wrote, bounded. When ctx ends
// it is killed.
func (w *worker) runIn(ctx context.Context, c *runtime.Container, command []string) (code int, output string, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, "", err
	}
	defer null.Close()
	r, out, err := os.Pipe()
	if err != nil {
		return 0, "", err
	}
	defer r.Close()
	p, err := c.Exec(runtime.ExecOptions{
		Stdio: [3]int{int(null.Fd()), int(out.Fd()), int(out.Fd())}, Move: true,
		Process: func(p *specs.Process) (*specs.Process, error) {
			return execProcess(p, command, false), nil
		},
	})
	out.Close()
	if err != nil {
		return 0, "", err
	}
	var buf bounded
	o := &pipeCopy{from: r, to: &buf, done: make(chan struct{})}
	go o.run()
	status, err := awaitProcess(ctx, p)
	o.finish(ctx)
	if ctx.Err() != nil {
		return 0, "", ctx.Err()
	}
	if err != nil {
		return 0, "", err
	}
	return runtime.ExitCode(status), string(buf.b), nil
}

// bounded keeps the beginning of what is written.
type bounded struct{ b []byte }

func (w *bounded) Write(p []byte) (int, error) {
	w.b = append(w.b, p[:min(len(p), maxProbeOutput-len(w.b))]...)
	return len(p), nil
}

// lastOutput is how long a terminal is waited for that others have open still.
const lastOutput = 100 * time.Millisecond

// awaitProcess waits for the end of a process, which is killed when ctx ends, with
// those of its group: it began one.
func awaitProcess(ctx context.Context, p *runtime.Process) (syscall.WaitStatus, error) {
	fd, err := unix.FcntlInt(uintptr(p.PidFD), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		kill(p)
		return p.Wait()
	}
	defer unix.Close(fd)
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { killGroup(fd, p.Pid); close(killed) })
	status, err := p.Wait()
	if !stop() {
		<-killed // it uses the descriptor
	}
	return status, err
}

// killGroup kills a process that leads a group, and the group. A descriptor names both,
// even when the first has ended; without that (before Linux 6.9) its number does, as
// long as nobody has waited for it.
func killGroup(fd, pid int) {
	const group = 1 << 2 // PIDFD_SIGNAL_PROCESS_GROUP
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, group); err == nil || err == unix.ESRCH {
		return
	}
	if !pidfdEnded(fd) && pid > 0 {
		_ = unix.Kill(-pid, unix.SIGKILL)
	}
	_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
}

// execProcess is the container's own process with another command. The kernel is to
// kill it for lack of memory no later than the container's own.
func execProcess(p *specs.Process, command []string, terminal bool) *specs.Process {
	if p == nil {
		p = &specs.Process{Cwd: "/"}
	}
	n := *p
	n.Args, n.Terminal, n.ConsoleSize = command, terminal, nil
	if adj := n.OOMScoreAdj; adj != nil && *adj < oomFloor() { // a minirund before this one could
		n.OOMScoreAdj = nil
	}
	return &n
}

// kill kills a process that was added to a container.
func kill(p *runtime.Process) { _ = unix.PidfdSendSignal(p.PidFD, unix.SIGKILL, nil, 0) }
