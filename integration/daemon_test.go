package integration

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// daemonHost is a host with a minirund in a network namespace of its own.
type daemonHost struct {
	*imageHost
	dir, socket string
}

func daemonSetup(t *testing.T) *daemonHost {
	h := netSetup(t)
	// Not TempDir: the path of a socket is short.
	dir, err := os.MkdirTemp("", "minirund")
	if err != nil {
		t.Fatal(err)
	}
	d := &daemonHost{h, dir, filepath.Join(dir, "run", "s")}
	t.Cleanup(func() {
		if _, err := os.Stat(d.socket); err == nil {
			d.must("down", "--socket", d.socket)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *daemonHost) up(args ...string) []string {
	return append([]string{"up", "--socket", d.socket, "--data", filepath.Join(d.dir, "data")}, args...)
}

// pid is the process of minirund.
func (d *daemonHost) pid() int {
	d.t.Helper()
	var s struct{ Pid int }
	if err := json.Unmarshal([]byte(d.must("status", "--socket", d.socket, "--format", "json")), &s); err != nil || s.Pid == 0 {
		d.t.Fatalf("status: %+v, %v", s, err)
	}
	return s.Pid
}

func TestRootUpDown(t *testing.T) {
	d := daemonSetup(t)
	for _, command := range []string{"status", "down"} {
		d.refused("minirund is not running", command, "--socket", d.socket)
	}
	out := d.must(d.up()...)
	pid := d.pid()
	if !strings.Contains(out, strconv.Itoa(pid)) {
		t.Errorf("up said %q, and status process %d", out, pid)
	}
	d.refused("minirund is running already", d.up()...)
	if out := d.must("status", "--socket", d.socket); !strings.Contains(out, "controllers: runs") {
		t.Errorf("status:\n%s", out)
	}
	d.must("down", "--socket", d.socket)
	d.ended(pid)
	d.refused("minirund is not running", "down", "--socket", d.socket)

	// A killed one is in nobody's way.
	d.must(d.up()...)
	pid = d.pid()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil { // it is our child: nobody else has the number
		t.Fatal(err)
	}
	d.ended(pid)
	d.refused("minirund is not running", "status", "--socket", d.socket)
	d.must(d.up()...)
	pid = d.pid()
	d.must("down", "--socket", d.socket)
	d.ended(pid)
}

// ended waits for a minirund that has been told to end. The test is the parent of
// what goes to the background.
func (d *daemonHost) ended(pid int) {
	d.t.Helper()
	for {
		switch _, err := unix.Wait4(pid, nil, 0, nil); err {
		case nil:
			return
		case unix.EINTR:
		default:
			d.t.Fatalf("wait for process %d: %v", pid, err)
		}
	}
}

// In the foreground it tells its service manager that it works. Down waits no
// longer than it is told to.
func TestRootUpForeground(t *testing.T) {
	d := daemonSetup(t)
	d.refused("does not answer after 0s", d.up("--timeout", "0s")...)
	notify := filepath.Join(d.dir, "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := exec.Command(testenv.Binary(t), d.command(d.up("--foreground")...)...)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64)
	n, err := l.Read(b)
	if err != nil || string(b[:n]) != "READY=1" {
		t.Fatalf("notified %q, %v", b[:n], err)
	}
	if pid := d.pid(); pid != cmd.Process.Pid {
		t.Errorf("status says process %d, started %d", pid, cmd.Process.Pid)
	}
	if err := cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	d.refused("has not ended after 10ms", "down", "--socket", d.socket, "--timeout", "10ms")
	if err := cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("minirund: %v", err)
	}
}
