package node

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"golang.org/x/sys/unix"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/monitor"
	"github.com/minirun/minirun/orchestrate/rest"
	"github.com/minirun/minirun/runtime"
)

var _ rest.Node = (*Node)(nil)

// running finds a container that runs.
func (n *Node) running(namespace, pod, container string) (*target, error) {
	t, err := n.find(namespace, pod, container, false)
	if err != nil {
		return nil, err
	}
	select {
	case <-t.over:
		return nil, apierrors.NewBadRequest("container \"" + t.spec.Name + "\" in pod \"" + pod + "\" is not running")
	default:
	}
	return t, nil
}

// Exec runs a program in a container.
func (n *Node) Exec(ctx context.Context, namespace, pod string, o *corev1.PodExecOptions, s rest.Streams) (exitCode int, err error) {
	if len(o.Command) == 0 {
		return 0, apierrors.NewBadRequest("you must specify at least one command for the container")
	}
	t, err := n.running(namespace, pod, o.Container)
	if err != nil {
		return 0, err
	}
	if o.TTY {
		return execTerminal(ctx, t.c, o.Command, s)
	}
	return execPipes(ctx, t.c, o.Command, s)
}

// execPipes runs a command whose streams are pipes.
func execPipes(ctx context.Context, c *runtime.Container, command []string, s rest.Streams) (int, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	stdio := [3]int{int(null.Fd()), int(null.Fd()), int(null.Fd())}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
	}()
	var input *os.File
	if s.Stdin != nil {
		r, w, err := os.Pipe()
		if err != nil {
			return 0, err
		}
		theirs = append(theirs, r)
		input = w
		defer w.Close()
		stdio[0] = int(r.Fd())
	}
	var outputs []*pipeCopy
	for i, w := range []io.Writer{s.Stdout, s.Stderr} {
		if w == nil {
			continue
		}
		r, out, err := os.Pipe()
		if err != nil {
			return 0, err
		}
		theirs = append(theirs, out)
		defer r.Close()
		stdio[1+i] = int(out.Fd())
		outputs = append(outputs, &pipeCopy{from: r, to: w, done: make(chan struct{})})
	}
	p, err := c.Exec(runtime.ExecOptions{Stdio: stdio, Move: true, Process: func(p *specs.Process) (*specs.Process, error) { return execProcess(p, command, false), nil }})
	for _, f := range theirs {
		f.Close()
	}
	theirs = nil
	if err != nil {
		return 0, execError(c, err)
	}
	if input != nil {
		go func() { // ends with the client's stream
			_, _ = io.Copy(input, s.Stdin)
			input.Close()
		}()
	}
	for _, o := range outputs {
		go o.run()
	}
	status, err := awaitProcess(ctx, p)
	for _, o := range outputs {
		o.finish(ctx)
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	return runtime.ExitCode(status), err
}

// execError is the error of a program that could not be started, without the name
// that the container has here: users know it by another one.
func execError(c *runtime.Container, err error) error {
	var status *runtime.StatusError
	if errors.As(err, &status) {
		return apierrors.NewBadRequest(err.Error())
	}
	if text, ok := strings.CutPrefix(err.Error(), "container \""+c.ID+"\": "); ok {
		return errors.New(text)
	}
	return err
}

// pipeCopy copies what comes out of a pipe.
type pipeCopy struct {
	from *os.File
	to   io.Writer
	done chan struct{}
}

func (p *pipeCopy) run() {
	defer close(p.done)
	_, _ = io.Copy(p.to, p.from)
}

// finish waits until what the process has written was copied. The pipe may stay open
// for longer: others that it has started may hold it.
func (p *pipeCopy) finish(ctx context.Context) {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		if left(p.from) == 0 {
			_ = p.from.SetReadDeadline(time.Unix(1, 0))
			select {
			case <-p.done:
			case <-ctx.Done():
			}
			return
		}
		select {
		case <-p.done:
			return
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// left is how many bytes are in a pipe.
func left(f *os.File) (n int) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return n
}

// firstSize is how long a command waits for the size of its client's terminal.
const firstSize = 100 * time.Millisecond

// execTerminal runs a command with a terminal of its own.
func execTerminal(ctx context.Context, c *runtime.Container, command []string, s rest.Streams) (int, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socketpair", err)
	}
	defer linux.Close(pair[0])
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		linux.Close(pair[1])
		return 0, err
	}
	defer null.Close()
	fd := int(null.Fd())
	var size *specs.Box
	select { // clients send it first, and the program may ask for it at once
	case z, ok := <-s.Resize:
		if ok {
			size = &specs.Box{Height: uint(z.Height), Width: uint(z.Width)}
		}
	case <-time.After(firstSize):
	case <-ctx.Done():
	}
	p, err := c.Exec(runtime.ExecOptions{
		Stdio: [3]int{fd, fd, fd}, Move: true, Console: func() int { return pair[1] },
		Process: func(p *specs.Process) (*specs.Process, error) {
			n := execProcess(p, command, true)
			n.ConsoleSize = size
			n.Env = append(n.Env[:len(n.Env):len(n.Env)], "TERM=xterm")
			return n, nil
		},
	})
	linux.Close(pair[1])
	if err != nil {
		return 0, execError(c, err)
	}
	master, err := receiveTerminal(pair[0])
	if err != nil {
		kill(p)
		_, _ = p.Wait()
		return 0, err
	}
	defer master.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if s.Stdout != nil {
			_, _ = io.Copy(s.Stdout, master)
		} else {
			_, _ = io.Copy(io.Discard, master)
		}
	}()
	if s.Stdin != nil {
		go func() { _, _ = io.Copy(master, s.Stdin) }()
	}
	stop := make(chan struct{})
	defer close(stop)
	go resize(master, s.Resize, stop)
	status, err := awaitProcess(ctx, p)
	select { // the end of the last process that has the terminal
	case <-done:
	case <-time.After(lastOutput):
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	return runtime.ExitCode(status), err
}

func resize(master *os.File, sizes <-chan rest.WindowSize, stop <-chan struct{}) {
	raw, err := master.SyscallConn()
	if err != nil {
		return
	}
	for {
		select {
		case <-stop:
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			_ = raw.Control(func(fd uintptr) {
				_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
			})
		}
	}
}

// receiveTerminal takes the master of a terminal from a socket.
func receiveTerminal(socket int) (*os.File, error) {
	buf, oob := make([]byte, 64), make([]byte, unix.CmsgSpace(4))
	for {
		_, n, _, _, err := unix.Recvmsg(socket, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("recvmsg", err)
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:n])
		if err == nil && len(msgs) == 1 {
			if fds, err := unix.ParseUnixRights(&msgs[0]); err == nil && len(fds) == 1 {
				if err := unix.SetNonblock(fds[0], true); err != nil {
					linux.Close(fds[0])
					return nil, os.NewSyscallError("fcntl F_SETFL", err)
				}
				return os.NewFile(uintptr(fds[0]), "terminal"), nil
			}
		}
		return nil, errors.New("the terminal did not arrive")
	}
}

// Attach connects to the program that a container was started with.
func (n *Node) Attach(ctx context.Context, namespace, pod string, o *corev1.PodAttachOptions, s rest.Streams) (exitCode int, err error) {
	t, err := n.running(namespace, pod, o.Container)
	if err != nil {
		return 0, err
	}
	c := t.c
	p := &logPrinter{w: s.Stdout, errw: s.Stderr, limit: -1, only: -1}
	if s.Stderr == nil && !t.spec.TTY {
		p.only = int(monitor.Stdout)
	}
	r := monitor.NewReader(c.Dir())
	defer r.Close()
	for { // what was written before is not for us
		f, err := r.Next()
		if err != nil {
			return 0, err
		}
		if f == nil {
			break
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if s.Stdin != nil || t.spec.TTY && s.Resize != nil {
		in, err := openInput(c, t.spec)
		if err != nil {
			return 0, err
		}
		defer in.Close()
		once := t.spec.StdinOnce && !t.spec.TTY && s.Stdin != nil
		if once { // whatever ends the client
			defer endInput(in)
		}
		if s.Stdin != nil {
			go func() {
				_, _ = io.Copy(in, s.Stdin)
				if once {
					endInput(in)
				}
				if s.Stdout == nil && s.Stderr == nil {
					cancel()
				}
			}()
		}
		if t.spec.TTY {
			stop := make(chan struct{})
			defer close(stop)
			go resize(in, s.Resize, stop)
		}
	}
	if err := p.followFrom(ctx, r, c.Dir(), true, t.over); err != nil {
		return 0, err
	}
	select {
	case <-t.over:
	default:
		return 0, nil
	}
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	if l := t.w.boxes[t.spec.Name]; l != nil && l.last != nil && l.last.ID == t.id {
		return int(l.last.Code), nil
	}
	return 0, nil
}

// endInput has the container read the end of its input, now and from now on.
func endInput(in *os.File) {
	if raw, err := in.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
	}
}

// openInput opens what a container reads from: it is the monitor's.
func openInput(c *runtime.Container, spec *corev1.Container) (*os.File, error) {
	if !spec.Stdin && !spec.TTY {
		return nil, apierrors.NewBadRequest("container \"" + spec.Name + "\" has no standard input: its spec says neither stdin nor tty")
	}
	pidfd := c.OpenMonitor()
	if pidfd < 0 {
		return nil, errors.New("the container's monitor is gone, and its input with it")
	}
	defer linux.Close(pidfd)
	which := monitor.FDInput
	if spec.TTY {
		which = monitor.FDOut // the terminal's master
	}
	fd, err := unix.PidfdGetfd(pidfd, which, 0)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_getfd", err)
	}
	if spec.TTY { // does not block already
		return os.NewFile(uintptr(fd), "terminal"), nil
	}
	if spec.StdinOnce { // a socket: nobody else minds that it does not block
		if err := unix.SetNonblock(fd, true); err != nil {
			linux.Close(fd)
			return nil, os.NewSyscallError("fcntl F_SETFL", err)
		}
		return os.NewFile(uintptr(fd), "input"), nil
	}
	defer linux.Close(fd)
	// One of our own, which may be non-blocking.
	own, err := linux.OpenAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), unix.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(own), "input"), nil
}
