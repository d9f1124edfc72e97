package integration

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// reapedIsKnown reports whether this kernel tells the status of a process that
// was reaped: Linux 6.15.
func reapedIsKnown(t *testing.T) bool {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	major, minor := 0, 0
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major > 6 || major == 6 && minor >= 15
}

// waiting starts "minirun wait" and returns when it waits; result gives what it said.
func (b *ociBox) waiting(flags ...string) (result func() testenv.Result) {
	b.t.Helper()
	cmd := testenv.Command(b.t, append(append([]string{"wait"}, flags...), b.id)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	eventually(b.t, "wait has opened the process", func() bool {
		dir := "/proc/" + strconv.Itoa(cmd.Process.Pid) + "/fdinfo/"
		fds, _ := os.ReadDir(dir)
		for _, fd := range fds {
			if info, _ := os.ReadFile(dir + fd.Name()); strings.Contains(string(info), "\nPid:\t"+strconv.Itoa(b.pid())+"\n") {
				return true
			}
		}
		return false
	})
	return func() testenv.Result {
		watchdog := time.AfterFunc(testenv.Timeout(20*time.Second), func() { _ = cmd.Process.Kill() })
		defer watchdog.Stop()
		_ = cmd.Wait()
		return testenv.Result{Stdout: out.String(), Stderr: errs.String(), Code: cmd.ProcessState.ExitCode()}
	}
}

// wait tells how a container ended, before and after, as long as that can be known.
func TestRootWait(t *testing.T) {
	setup(t)
	const unknown = "its exit status was told to its parent and is not known any more"
	for _, tt := range []struct {
		script, text, json string
		kill               bool
	}{
		{"read x; exit 7", "7\n", `"exitStatus":7`, false},
		{"read x; exit 0", "0\n", `"exitStatus":0`, false},
		{"read x; exit 1", "137\n", `"exitStatus":137,"signal":9`, true},
	} {
		for _, reaped := range []bool{false, true} {
			what := fmt.Sprintf("%s, reaped %v", tt.text, reaped)
			b := newBox(t, script(tt.script))
			in, w := pipe(t)
			cmd := testenv.Command(t, "create", "--bundle", b.bundle, b.id)
			cmd.Stdin = in
			if r := testenv.RunCmd(t, cmd); r.Code != 0 {
				t.Fatalf("%+v", r)
			}
			text := b.waiting()
			pid := b.pid()
			b.must("start")
			object := b.waiting("--format", "json")
			if tt.kill {
				signalPid(t, pid, unix.SIGKILL)
			}
			if reaped { // before wait has a chance to look
				w.Close()
				if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
					t.Fatal(err)
				}
			} else {
				w.Close()
			}
			for i, result := range []func() testenv.Result{text, object} {
				want := []string{tt.text, `{"id":"` + b.id + `",` + tt.json + "}\n"}[i]
				r := result()
				if reaped && !reapedIsKnown(t) && (strings.Contains(r.Stderr, unknown) || strings.Contains(r.Stdout, "null")) {
					continue
				}
				if r.Code != 0 || r.Stdout != want || r.Stderr != "" {
					t.Errorf("%s: %+v, want %q", what, r, want)
				}
			}
			// It has ended: a zombie still tells.
			b.stopped()
			r, j := b.do("wait"), b.do("wait", "-f", "json")
			switch {
			case !reaped && (r.Code != 0 || r.Stdout != tt.text || !strings.Contains(j.Stdout, tt.json)):
				t.Errorf("%s: afterwards: %+v %+v", what, r, j)
			case reaped && (r.Code != 1 || !strings.Contains(r.Stderr, unknown) || j.Code != 0 || j.Stdout != `{"id":"`+b.id+`","exitStatus":null}`+"\n"):
				t.Errorf("%s: afterwards: %+v %+v", what, r, j)
			}
			b.must("delete")
		}
	}
	b := newBox(t)
	if r := b.do("wait"); r.Code != 1 || !strings.Contains(r.Stderr, "does not exist") {
		t.Errorf("no container: %+v", r)
	}
	if r := b.do("wait", "--format", "xml"); r.Code != 1 || !strings.Contains(r.Stderr, "--format") {
		t.Errorf("a wrong format: %+v", r)
	}
}

// wait waits for a container that runs in the foreground too, which minirun reaps.
func TestRootWaitForeground(t *testing.T) {
	setup(t)
	b := newBox(t, script("read x; exit 9"))
	in, w := pipe(t)
	cmd := exec.Command(testenv.Binary(t), "--root", testenv.StateRoot(t), "run", "--bundle", b.bundle, b.id)
	cmd.Stdin = in
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it runs", func() bool { r := b.do("state"); return strings.Contains(r.Stdout, `"running"`) })
	result := b.waiting()
	w.Close()
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 9 {
		t.Errorf("run: %v", err)
	}
	if r := result(); reapedIsKnown(t) && (r.Code != 0 || r.Stdout != "9\n") {
		t.Errorf("wait: %+v", r)
	}
}

// pidfdListener takes pidfds from minirun.
type pidfdListener struct {
	t    *testing.T
	path string
	l    *net.UnixListener
}

func newPidfdListener(t *testing.T) *pidfdListener {
	t.Helper()
	p := &pidfdListener{t: t, path: filepath.Join(t.TempDir(), "pidfd.sock")}
	var err error
	if p.l, err = net.ListenUnix("unix", &net.UnixAddr{Name: p.path, Net: "unix"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.l.Close() })
	return p
}

// next is the next message: its word and the pid behind the pidfd.
func (p *pidfdListener) next() (word string, pid int) {
	p.t.Helper()
	_ = p.l.SetDeadline(time.Now().Add(testenv.Timeout(10 * time.Second)))
	conn, err := p.l.AcceptUnix()
	if err != nil {
		p.t.Fatal(err)
	}
	defer conn.Close()
	buf, oob := make([]byte, 64), make([]byte, 64)
	n, m, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		p.t.Fatal(err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:m])
	if err != nil || len(msgs) != 1 {
		p.t.Fatal("no descriptor: ", err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		p.t.Fatal("no descriptor: ", err)
	}
	defer unix.Close(fds[0])
	info := readFile(p.t, "/proc/self/fdinfo/"+strconv.Itoa(fds[0]))
	for _, l := range lines(info) {
		if v, ok := strings.CutPrefix(l, "Pid:"); ok {
			pid, _ = strconv.Atoi(strings.TrimSpace(v))
		}
	}
	return string(buf[:n]), pid
}

// --pidfd-socket hands the pidfd of exactly the process over.
func TestRootPidfdSocket(t *testing.T) {
	setup(t)
	p := newPidfdListener(t)
	b := newBox(t, forever)
	b.create("--pidfd-socket", p.path)
	if word, pid := p.next(); word != "standard" || pid != b.pid() {
		t.Errorf("create: %s of %d, want standard of %d", word, pid, b.pid())
	}
	b.must("start")
	file := filepath.Join(t.TempDir(), "pid")
	if r := b.exec("--detach", "--pidfd-socket", p.path, "--pid-file", file, "--", "sleep", "1000"); r.Code != 0 {
		t.Fatalf("exec: %+v", r)
	}
	if word, pid := p.next(); word != "setns" || strconv.Itoa(pid) != readFile(t, file) {
		t.Errorf("exec: %s of %d, want setns of %s", word, pid, readFile(t, file))
	}
	u := newBox(t, forever, withUser) // its init is not the process that was started
	u.must("run", "--bundle", u.bundle, "--detach", "--pidfd-socket", p.path)
	if word, pid := p.next(); word != "standard" || pid != u.pid() {
		t.Errorf("run: %s of %d, want standard of %d", word, pid, u.pid())
	}
	// Nobody there is an error, and nothing is left.
	p.l.Close()
	for _, path := range []string{p.path, "/no/such/socket", b.bundle} {
		n := newBox(t, forever)
		if r := n.do("create", "--bundle", n.bundle, "--pidfd-socket", path); r.Code != 1 || !strings.Contains(r.Stderr, "pidfd socket "+strconv.Quote(path)) {
			t.Errorf("create: %s: %+v", path, r)
		}
		if !n.gone() {
			t.Error(path)
		}
		if r := b.exec("--pidfd-socket", path, "--", "true"); r.Code != 255 || !strings.Contains(r.Stderr, "pidfd socket") {
			t.Errorf("exec: %s: %+v", path, r)
		}
	}
}
