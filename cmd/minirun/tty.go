package main

import (
	"errors"
	"os"

	"github.com/minirun/minirun/internal/linux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// terminalRelay connects our own terminal with one inside a container.
type terminalRelay struct {
	socket  [2]int // the master arrives at the first, the init has the second
	master  int
	saved   *unix.Termios // state of our terminal before raw mode; nil if it is none
	drained chan struct{} // closed when the container's output has ended
}

func newTerminalRelay() (*terminalRelay, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	return &terminalRelay{socket: pair, master: -1, drained: make(chan struct{})}, nil
}

// size gives the container's terminal the size of ours, from the beginning.
func (t *terminalRelay) size(p *specs.Process) {
	if ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil && p.ConsoleSize == nil {
		p.ConsoleSize = &specs.Box{Height: uint(ws.Row), Width: uint(ws.Col)}
	}
}

// start takes the master and begins to copy both ways.
func (t *terminalRelay) start() error {
	var err error
	if t.master, err = receiveFD(t.socket[0]); err != nil {
		return err
	}
	if saved, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		t.saved = saved
		raw := *saved
		makeRaw(&raw)
		if err := unix.IoctlSetTermios(0, unix.TCSETS, &raw); err != nil {
			return os.NewSyscallError("ioctl TCSETS", err)
		}
	}
	go func() { // ends with the process: nothing ends a read of our terminal
		copyFD(t.master, 0)
	}()
	go func() {
		copyFD(1, t.master)
		close(t.drained)
	}()
	return nil
}

func (t *terminalRelay) resize() {
	if ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
		_ = unix.IoctlSetWinsize(t.master, unix.TIOCSWINSZ, ws)
	}
}

// finish waits for the last output and gives our terminal back.
func (t *terminalRelay) finish() {
	if t.master >= 0 {
		<-t.drained
	}
	t.restore()
}

func (t *terminalRelay) restore() {
	if t.saved != nil {
		_ = unix.IoctlSetTermios(0, unix.TCSETS, t.saved)
		t.saved = nil
	}
}

func (t *terminalRelay) close() {
	t.restore()
	for _, fd := range []int{t.socket[0], t.socket[1], t.master} {
		linux.Close(fd)
	}
}

// makeRaw is cfmakeraw(3): output is not processed here, since the container's
// terminal does its own.
func makeRaw(t *unix.Termios) {
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
}

// copyFD copies until the end of from or an error; EIO is how a terminal ends.
func copyFD(to, from int) {
	buf := make([]byte, 32<<10)
	for {
		n, err := linux.Read(from, buf)
		if n <= 0 || err != nil {
			return
		}
		if linux.WriteAll(to, buf[:n]) != nil {
			return
		}
	}
}

func receiveFD(socket int) (int, error) {
	buf, oob := make([]byte, 64), make([]byte, unix.CmsgSpace(4))
	for {
		_, n, _, _, err := unix.Recvmsg(socket, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, os.NewSyscallError("recvmsg", err)
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:n])
		if err == nil && len(msgs) == 1 {
			if fds, err := unix.ParseUnixRights(&msgs[0]); err == nil && len(fds) == 1 {
				return fds[0], nil
			}
		}
		return -1, errors.New("the container's terminal did not arrive")
	}
}
