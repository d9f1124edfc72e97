package integration

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ptyPair opens a pseudo terminal of the host.
func ptyPair(t *testing.T, rows, cols uint16) (master, slave *os.File) {
	t.Helper()
	m, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(m, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(m, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := unix.Open("/dev/pts/"+strconv.Itoa(n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(m, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
		t.Fatal(err)
	}
	_ = unix.SetNonblock(m, true)
	master, slave = os.NewFile(uintptr(m), "master"), os.NewFile(uintptr(s), "slave")
	t.Cleanup(func() { master.Close(); slave.Close() })
	return master, slave
}

// terminal is a command on a terminal, and what it has written so far.
type terminal struct {
	t      *testing.T
	cmd    *exec.Cmd
	master *os.File
	slave  *os.File
	text   string
	last   string // what came before the text that was expected last
}

func onTerminal(t *testing.T, rows, cols uint16, args ...string) *terminal {
	t.Helper()
	x := &terminal{t: t, cmd: testenv.Command(t, args...)}
	x.master, x.slave = ptyPair(t, rows, cols)
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = x.slave, x.slave, x.slave
	x.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return x
}

// expect reads until text appears.
func (x *terminal) expect(text string) {
	x.t.Helper()
	_ = x.master.SetReadDeadline(time.Now().Add(testenv.Timeout(10 * time.Second)))
	buf := make([]byte, 4096)
	for {
		if i := strings.Index(x.text, text); i >= 0 {
			x.last, x.text = x.text[:i], x.text[i+len(text):]
			return
		}
		n, err := x.master.Read(buf)
		x.text += string(buf[:n])
		if err != nil {
			x.cmd.Process.Kill()
			x.t.Fatalf("no %q on the terminal: %v; it has %q", text, err, x.text)
		}
	}
}

func (x *terminal) send(text string) {
	x.t.Helper()
	if _, err := io.WriteString(x.master, text); err != nil {
		x.t.Fatal(err)
	}
}

func (x *terminal) exit() int {
	x.t.Helper()
	done := make(chan struct{})
	go func() { x.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(testenv.Timeout(10 * time.Second)):
		x.cmd.Process.Kill()
		<-done
		x.t.Error("the command does not end")
	}
	return x.cmd.ProcessState.ExitCode()
}

func (x *terminal) termios() unix.Termios {
	x.t.Helper()
	v, err := unix.IoctlGetTermios(int(x.slave.Fd()), unix.TCGETS)
	if err != nil {
		x.t.Fatal(err)
	}
	return *v
}

func tty(s *specs.Spec) { s.Process.Terminal = true }

const session = `trap 'echo size $(stty size)' WINCH
echo tty $(tty) size $(stty size) sane $(stty | head -1)
while :; do read line; case $line in quit) exit 6;; size) echo is $(stty size);; *) echo "<$line>";; esac; done`

// A terminal in the foreground: raw while the container runs, as before after
// it, with its size, and with what is typed going to the container.
func TestRootTerminal(t *testing.T) {
	setup(t)
	up := newBox(t, forever).up()
	b := newBox(t, tty, script(session))
	for _, tt := range []struct {
		name string
		args []string
		tty  string
	}{
		{"run", []string{"run", "--bundle", b.bundle, b.id}, "/dev/pts/0"},
		{"exec", []string{"exec", "--tty", up.id, "sh", "-c", session}, "/dev/pts/0"},
	} {
		x := onTerminal(t, 33, 77, tt.args...)
		before := x.termios()
		x.expect("tty " + tt.tty + " size 33 77 sane")
		if raw := x.termios(); raw.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 {
			t.Errorf("%s: our terminal is not raw: lflag %#x", tt.name, raw.Lflag)
		}
		x.send("hello\r")
		x.expect("<hello>\r\n")
		if strings.Contains(x.text, "\r\r\n") {
			t.Errorf("line ends translated twice: %q", x.text)
		}
		if err := unix.IoctlSetWinsize(int(x.slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 44, Col: 111}); err != nil {
			t.Fatal(err)
		}
		// The kernel sends SIGWINCH to the foreground group, which is minirun;
		// when it has passed it on is not for us to know.
		eventually(t, "the new size arrives", func() bool {
			x.send("size\r")
			x.expect("is ")
			x.expect("\r\n")
			return strings.HasPrefix(x.last, "44 111")
		})
		x.send("quit\r")
		if code := x.exit(); code != 6 {
			t.Errorf("%s: exit status %d, want 6", tt.name, code)
		}
		if after := x.termios(); after != before {
			t.Errorf("terminal after: %+v, before: %+v", after, before)
		}
	}
	b.gone()
}

// Ctrl-C goes through the container's terminal to its foreground processes, and
// not to minirun.
func TestRootTerminalInterrupt(t *testing.T) {
	setup(t)
	b := newBox(t, tty, script("trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.05; done"))
	x := onTerminal(t, 24, 80, "run", "--bundle", b.bundle, b.id)
	x.expect("ready")
	x.send("\x03")
	x.expect("interrupted")
	if code := x.exit(); code != 9 {
		t.Errorf("exit status %d, want 9", code)
	}
	b.gone()
}

// The terminal is restored when the container is killed, too.
func TestRootTerminalRestoredAfterKill(t *testing.T) {
	setup(t)
	b := newBox(t, tty, script("echo ready; sleep 1000"))
	x := onTerminal(t, 24, 80, "run", "--bundle", b.bundle, b.id)
	before := x.termios()
	x.expect("ready")
	if r := testenv.Run(t, "kill", b.id, "KILL"); r.Code != 0 {
		t.Error(r)
	}
	if code := x.exit(); code != 137 {
		t.Errorf("exit status %d, want 137", code)
	}
	if x.termios() != before {
		t.Error("the terminal was not restored")
	}
	b.gone()
}

// All output arrives, to the last byte, also of a container that ends at once.
func TestRootTerminalLastOutput(t *testing.T) {
	setup(t)
	b := newBox(t, tty, script("seq 1 20000"))
	for range 3 {
		x := onTerminal(t, 24, 80, "run", "--bundle", b.bundle, b.id)
		x.expect("\r\n19999\r\n20000\r\n")
		if code := x.exit(); code != 0 {
			t.Errorf("exit status %d", code)
		}
	}
	// Without a terminal of ours the container has one all the same.
	cmd := testenv.Command(t, "run", "--bundle", b.bundle, b.id)
	cmd.Stdin = strings.NewReader("")
	if r := testenv.RunCmd(t, cmd); r.Code != 0 || !strings.HasSuffix(r.Stdout, "\r\n20000\r\n") {
		t.Errorf("run with a terminal and pipes: exit status %d, %.100q %q", r.Code, r.Stdout, r.Stderr)
	}
}

// consoleSocket accepts one terminal as engines do.
func consoleSocket(t *testing.T) (path string, receive func() (*os.File, string)) {
	t.Helper()
	path = filepath.Join(testenv.StateRoot(t), "console.sock")
	os.Remove(path)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return path, func() (*os.File, string) {
		t.Helper()
		_ = l.SetDeadline(time.Now().Add(testenv.Timeout(10 * time.Second)))
		c, err := l.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*8))
		n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
		if err != nil {
			t.Fatal(err)
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(msgs) != 1 {
			t.Fatalf("%d control messages, %v", len(msgs), err)
		}
		fds, err := unix.ParseUnixRights(&msgs[0])
		if err != nil || len(fds) != 1 {
			t.Fatalf("descriptors %v, %v", fds, err)
		}
		unix.CloseOnExec(fds[0])
		_ = unix.SetNonblock(fds[0], true)
		f := os.NewFile(uintptr(fds[0]), "console")
		t.Cleanup(func() { f.Close() })
		return f, string(buf[:n])
	}
}

func readUntil(t *testing.T, f *os.File, text string) string {
	t.Helper()
	_ = f.SetReadDeadline(time.Now().Add(testenv.Timeout(10 * time.Second)))
	var got strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(got.String(), text) {
		n, err := f.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			t.Fatalf("no %q: %v; got %q", text, err, got.String())
		}
	}
	return got.String()
}

// --console-socket gets the master in one message with a name.
func TestRootConsoleSocket(t *testing.T) {
	setup(t)
	b := newBox(t, tty, script("echo $(tty) $(stty size) $(stat -c %u:%a /dev/pts/0) $(stat -c %t:%T /dev/console); read x; echo got $x; ls -l /proc/self/fd/0"), func(s *specs.Spec) {
		s.Process.ConsoleSize = &specs.Box{Height: 20, Width: 70}
		s.Process.User.UID = 1000
	})
	path, receive := consoleSocket(t)
	b.create("--console-socket", path)
	master, name := receive()
	if name == "" || len(name) > 64 {
		t.Errorf("the message has %q, want a name", name)
	}
	b.must("start")
	got := readUntil(t, master, "\r\n")
	if want := "/dev/pts/0 20 70 1000:620 88:0\r\n"; got != want {
		t.Errorf("terminal of the container: %q, want %q", got, want)
	}
	fmt.Fprint(master, "line\n")
	readUntil(t, master, "got line\r\n")
	b.stopped()

	up := newBox(t, forever).up()
	path, receive = consoleSocket(t)
	up.execOut("--tty", "--detach", "--console-socket", path, "--", "sh", "-c", "echo $(tty); read x; echo got $x")
	master, _ = receive()
	readUntil(t, master, "/dev/pts/0\r\n")
	fmt.Fprint(master, "line\n")
	readUntil(t, master, "got line\r\n")
}

// The standard streams of create are not kept open by a container that has a
// terminal: its own is all that it has.
func TestRootConsoleReleasesStreams(t *testing.T) {
	setup(t)
	b := newBox(t, tty, script("sleep 1000"))
	path, receive := consoleSocket(t)
	r, w := pipe(t)
	cmd := testenv.Command(t, "create", "--bundle", b.bundle, "--console-socket", path, b.id)
	cmd.Stdout, cmd.Stderr = w, w
	if r := testenv.RunCmd(t, cmd); r.Code != 0 {
		t.Fatal(r)
	}
	w.Close()
	receive()
	_ = r.SetReadDeadline(time.Now().Add(testenv.Timeout(5 * time.Second)))
	if n, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the pipe is still open: %d, %v", n, err)
	}
}
