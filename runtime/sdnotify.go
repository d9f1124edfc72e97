package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/minirun/minirun/internal/linux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A service manager that wants to know when a service is ready gives it a socket
// in NOTIFY_SOCKET, see sd_notify(3). The container must not have that socket:
// whoever has it can tell the manager anything. It gets another one, in a
// directory of its record that is mounted read-only, and of all that it says
// there, READY=1 alone is passed on, in our words, with the pid of its process.

const (
	notifyDir     = "notify"      // in the container's record
	notifyFile    = "notify.sock" // therein
	notifyInside  = "/run/notify" // where the directory is in the container
	notifyTimeout = 30 * time.Second
)

// A Notifier passes on that a container is ready.
type Notifier struct {
	host string
	fd   int // the container's socket; -1 without one
}

// NewNotifier is for the socket that NOTIFY_SOCKET names: an absolute path, or @
// and the name of an abstract one.
func NewNotifier(host string) (*Notifier, error) {
	if len(host) < 2 || host[0] != '/' && host[0] != '@' {
		return nil, fmt.Errorf("NOTIFY_SOCKET=%q: only an absolute path or @ and a name can be passed on", host)
	}
	return &Notifier{host: host, fd: -1}, nil
}

// planNotify gives the process the directory dir with the socket.
func (p *Plan) planNotify(dir string) {
	p.Spec.Mounts = append(p.Spec.Mounts, specs.Mount{
		Destination: notifyInside, Type: "bind", Source: dir, Options: []string{"bind", "ro", "nosuid", "nodev", "noexec"},
	})
	p.Spec.Process.Env = append(p.Spec.Process.Env, "NOTIFY_SOCKET="+notifyInside+"/"+notifyFile)
}

// listen makes the container's socket, for which create has made the directory.
func (n *Notifier) listen(dir int) error {
	name := notifyDir + "/" + notifyFile
	if err := unix.Unlinkat(dir, name, 0); err != nil && err != unix.ENOENT {
		return &os.PathError{Op: "unlink", Path: name, Err: err}
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	err = unix.Bind(fd, socketAddr(dir, name))
	if err == nil {
		err = openToAll(dir, name)
	}
	if err != nil {
		linux.Close(fd)
		return &os.PathError{Op: "bind", Path: name, Err: err}
	}
	n.fd = fd
	return nil
}

// openToAll lets every user of the container send to a socket. By a descriptor: a
// container with enough privileges to write there could replace the name.
func openToAll(dir int, name string) error {
	fd, err := linux.OpenAt(dir, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return unix.ENOTSOCK
	}
	return unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), 0o777)
}

// FD becomes readable when the container has something to say; -1 if it has no
// socket, or has said that it is ready.
func (n *Notifier) FD() int {
	if n == nil {
		return -1
	}
	return n.fd
}

// Close closes the container's socket.
func (n *Notifier) Close() {
	if n != nil {
		linux.Close(n.fd)
		n.fd = -1
	}
}

// Pass takes what the container has said, and once that is READY=1 tells the
// manager, with the pid of the container's process.
func (n *Notifier) Pass(c *Container) error {
	if !n.ready() {
		return nil
	}
	n.Close()
	conn, err := n.dial()
	if err != nil {
		return err
	}
	defer linux.Close(conn)
	return n.tell(conn, c.Pid)
}

// Await waits until the container is ready or its process has ended. The manager
// has taken the message when Await returns: it looks whom it comes from, and
// that is about to end.
func (n *Notifier) Await(c *Container) error {
	if n == nil || n.fd < 0 {
		return nil
	}
	defer n.Close()
	pidfd, err := c.openInit()
	if err != nil {
		return err
	}
	defer linux.Close(pidfd)
	timeout := -1
	if pidfd < 0 { // it has ended; what it has said is there
		timeout = 0
	}
	for {
		fds := []unix.PollFd{{Fd: int32(n.fd), Events: unix.POLLIN}, {Fd: int32(pidfd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, timeout); err == unix.EINTR {
			continue
		} else if err != nil {
			return os.NewSyscallError("poll", err)
		}
		if fds[0].Revents != 0 && n.ready() {
			break
		}
		if fds[0].Revents == 0 && (pidfd < 0 || fds[1].Revents != 0) {
			return nil
		}
	}
	conn, err := n.dial()
	if err != nil {
		return err
	}
	defer linux.Close(conn)
	if err := n.tell(conn, c.Pid); err != nil {
		return err
	}
	return n.barrier(conn)
}

// ready takes one message. Descriptors that come with it are dropped by the
// kernel, since there is no room for them.
func (n *Notifier) ready() bool {
	var buf [4096]byte
	size, err := linux.Read(n.fd, buf[:])
	if err != nil {
		return false
	}
	for line := range strings.SplitSeq(string(buf[:size]), "\n") {
		if line == "READY=1" {
			return true
		}
	}
	return false
}

func (n *Notifier) tell(conn, pid int) error {
	for _, msg := range [...]string{"READY=1\n", "MAINPID=" + strconv.Itoa(pid) + "\n"} {
		if _, err := unix.SendmsgN(conn, []byte(msg), nil, nil, unix.MSG_NOSIGNAL); err != nil {
			return n.failed(os.NewSyscallError("sendmsg", err))
		}
	}
	return nil
}

func (n *Notifier) failed(err error) error {
	return fmt.Errorf("NOTIFY_SOCKET=%q: %w", n.host, err)
}

func (n *Notifier) dial() (int, error) {
	addr := &unix.SockaddrUnix{Name: n.host}
	if n.host[0] == '/' {
		dir, err := linux.OpenAt(unix.AT_FDCWD, filepath.Dir(n.host), unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return -1, n.failed(err)
		}
		defer linux.Close(dir)
		addr = socketAddr(dir, filepath.Base(n.host))
	}
	conn, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	tv := unix.NsecToTimeval(notifyTimeout.Nanoseconds())
	if err = unix.SetsockoptTimeval(conn, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err == nil {
		err = unix.Connect(conn, addr)
	}
	if err != nil {
		linux.Close(conn)
		return -1, n.failed(os.NewSyscallError("connect", err))
	}
	return conn, nil
}

// barrier sends a descriptor that the manager closes when it has come to this
// message; see sd_notify_barrier(3). One that does not know it drops it.
func (n *Notifier) barrier(conn int) error {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	defer linux.Close(pipe[0])
	_, err := unix.SendmsgN(conn, []byte("BARRIER=1\n"), unix.UnixRights(pipe[1]), nil, unix.MSG_NOSIGNAL)
	linux.Close(pipe[1])
	if err != nil {
		return n.failed(os.NewSyscallError("sendmsg", err))
	}
	if !readable(pipe[0], notifyTimeout) {
		return n.failed(errors.New("the manager has not taken the message within " + notifyTimeout.String()))
	}
	return nil
}

// makeNotify makes the directory of the container's socket and, for a container
// that is about to run, the socket.
func (t *creation) makeNotify() error {
	n := t.o.Notifier
	if n == nil {
		return nil
	}
	if err := unix.Mkdirat(t.dir, notifyDir, 0o755); err != nil {
		return &os.PathError{Op: "mkdir", Path: notifyDir, Err: err}
	}
	if t.o.gate == gateStart {
		return nil
	}
	return n.listen(t.dir)
}

// listenNotify makes the socket of a created container that starts, if create has
// given it a place for one.
func (c *Container) listenNotify(dir int) error {
	if c.Notifier == nil || unix.Faccessat(dir, notifyDir, unix.F_OK, 0) != nil {
		return nil
	}
	return c.Notifier.listen(dir)
}
