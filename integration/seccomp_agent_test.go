package integration

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// notification and response are struct seccomp_notif and struct
// seccomp_notif_resp (seccomp_unotify(2)).
type notification struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

type response struct {
	id    uint64
	val   int64
	errno int32
	flags uint32
}

// agent is a seccomp agent as the runtime specification describes it.
type agent struct {
	t      *testing.T
	path   string
	l      *net.UnixListener
	states chan specs.ContainerProcessState
	// answer decides about one system call.
	answer func(n *notification, r *response)
	done   chan struct{}
}

func newAgent(t *testing.T, answer func(*notification, *response)) *agent {
	t.Helper()
	a := &agent{t: t, path: filepath.Join(t.TempDir(), "agent.sock"), states: make(chan specs.ContainerProcessState, 16), answer: answer, done: make(chan struct{})}
	var err error
	if a.l, err = net.ListenUnix("unix", &net.UnixAddr{Name: a.path, Net: "unix"}); err != nil {
		t.Fatal(err)
	}
	go a.accept()
	t.Cleanup(func() { a.l.Close(); <-a.done })
	return a
}

func (a *agent) accept() {
	defer close(a.done)
	var serving []chan struct{}
	for {
		conn, err := a.l.AcceptUnix()
		if err != nil {
			break
		}
		state, fd := a.receive(conn)
		conn.Close()
		if fd < 0 {
			continue
		}
		a.states <- state
		done := make(chan struct{})
		serving = append(serving, done)
		go a.serve(fd, done)
	}
	for _, d := range serving {
		<-d
	}
}

// receive reads one message and then expects the end of the connection.
func (a *agent) receive(conn *net.UnixConn) (state specs.ContainerProcessState, fd int) {
	buf, oob := make([]byte, 1<<16), make([]byte, 256)
	n, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		a.t.Errorf("agent: %v", err)
		return state, -1
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		a.t.Errorf("agent: %d control messages, %v; data %q", len(msgs), err, buf[:n])
		return state, -1
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		a.t.Errorf("agent: descriptors %v, %v", fds, err)
		return state, -1
	}
	unix.CloseOnExec(fds[0])
	if err := json.Unmarshal(buf[:n], &state); err != nil {
		a.t.Errorf("agent: %v in %q", err, buf[:n])
	}
	if n, err := conn.Read(buf); n != 0 || err == nil {
		a.t.Errorf("agent: %d more bytes, %v; want the end of the connection", n, err)
	}
	return state, fds[0]
}

// serve answers until nobody is left who has the filter.
func (a *agent) serve(fd int, done chan struct{}) {
	defer close(done)
	defer unix.Close(fd)
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err == unix.EINTR {
			continue
		}
		if fds[0].Revents&unix.POLLIN == 0 {
			return
		}
		var n notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n))); errno != 0 {
			continue // the caller was killed meanwhile
		}
		r := response{id: n.id}
		a.answer(&n, &r)
		unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&r)))
	}
}

func (a *agent) state() specs.ContainerProcessState {
	a.t.Helper()
	select {
	case s := <-a.states:
		return s
	case <-time.After(testenv.Timeout(10 * time.Second)):
		a.t.Fatal("the agent was told of no process")
	}
	panic("not reached")
}

// asks makes a profile whose rule for the named calls is to ask the agent.
func asks(path, metadata string, names ...string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow, ListenerPath: path, ListenerMetadata: metadata,
			Syscalls: []specs.LinuxSyscall{{Names: names, Action: specs.ActNotify}},
		}
	}
}

// refuseMkdir is an agent's opinion: no directory, with an errno that nothing
// else gives.
func refuseMkdir(n *notification, r *response) {
	if n.nr == unix.SYS_MKDIRAT || n.nr == sysMkdir { //nolint:staticcheck // the same number where there is one call
		r.errno = -int32(unix.EXDEV)
		return
	}
	r.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
}

func TestRootSeccompAgent(t *testing.T) {
	setup(t)
	for _, nnp := range []bool{true, false} {
		a := newAgent(t, refuseMkdir)
		b := newBox(t, script("mkdir /tmp/x; echo $?; exec sleep 1000"), writable, asks(a.path, "my data \" é", "mkdir", "mkdirat", "execve", "read"), func(s *specs.Spec) {
			s.Process.NoNewPrivileges = nnp
			s.Annotations = map[string]string{"a.b": "c"}
		})
		out := filepath.Join(t.TempDir(), "out")
		b.upWith(out)
		pid := b.pid()
		want := specs.ContainerProcessState{
			Version: b.state().OCIVersion, Fds: []string{specs.SeccompFdName}, Pid: pid, Metadata: "my data \" é",
			State: specs.State{Version: b.state().OCIVersion, ID: b.id, Status: specs.StateCreated, Pid: pid, Bundle: b.bundle, Annotations: map[string]string{"a.b": "c"}},
		}
		sameJSON(t, "start", a.state(), want)
		eventually(t, "mkdir is refused", func() bool { return strings.HasSuffix(readFile(t, out), "\n1\n") })
		if text := readFile(t, out); !strings.Contains(text, "Invalid cross-device link") {
			t.Errorf("mkdir says %q; want the agent's errno", text)
		}

		r := b.exec("mkdir", "/tmp/y")
		if r.Code != 1 || !strings.Contains(r.Stderr, "Invalid cross-device link") {
			t.Errorf("exec: %+v", r)
		}
		s := a.state()
		if s.Pid == pid || s.Pid == 0 || s.State.Pid != pid || s.State.Status != specs.StateRunning || s.State.ID != b.id {
			t.Errorf("exec: state %+v", s)
		}
		b.must("delete", "--force")

		b2 := newBox(t, script("mkdir /tmp/x"), writable, asks(a.path, "", "mkdir", "mkdirat"))
		if r := b2.run(); r.Code != 1 || !strings.Contains(r.Stderr, "Invalid cross-device link") {
			t.Errorf("run: %+v", r)
		}
		if s := a.state(); s.State.Status != specs.StateCreating || s.Metadata != "" || s.Pid == 0 || s.Pid != s.State.Pid {
			t.Errorf("run: state %+v", s)
		}
	}
}

// A user namespace and a joined pid namespace start in two stages.
func TestRootSeccompAgentUserNamespace(t *testing.T) {
	setup(t)
	a := newAgent(t, refuseMkdir)
	b := newBox(t, script("mkdir /tmp/x"), writable, withUser, asks(a.path, "", "mkdir", "mkdirat"))
	if r := b.run(); r.Code != 1 || !strings.Contains(r.Stderr, "Invalid cross-device link") {
		t.Errorf("run: %+v", r)
	}
	a.state()
}

func sameJSON(t *testing.T, what string, got, want any) {
	t.Helper()
	g, _ := json.Marshal(got)
	w, _ := json.Marshal(want)
	if string(g) != string(w) {
		t.Errorf("%s: got\n%s\nwant\n%s", what, g, w)
	}
}

// upWith creates and starts the container with output to a file.
func (b *ociBox) upWith(out string, flags ...string) {
	b.t.Helper()
	f, err := os.Create(out)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	cmd := testenv.Command(b.t, append(append([]string{"create"}, b.at(flags)...), b.id)...)
	cmd.Stdout, cmd.Stderr = f, f
	if r := testenv.RunCmd(b.t, cmd); r.Code != 0 {
		b.t.Fatalf("create: %+v %s", r, readFile(b.t, out))
	}
	b.must("start")
}

func TestRootSeccompAgentAbsent(t *testing.T) {
	setup(t)
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	file := filepath.Join(dir, "file")
	writeFile(t, file, "")

	a := newAgent(t, refuseMkdir)
	running := newBox(t, forever, asks(a.path, "", "mkdir")).up()
	a.l.SetUnlinkOnClose(false)
	a.l.Close()

	for _, tt := range []struct{ path, text string }{
		{filepath.Join(dir, "none.sock"), "no such file or directory"},
		{file, "socket operation on non-socket"},
		{dead, "connection refused"},
	} {
		b := newBox(t, script("true"), asks(tt.path, "", "mkdir"))
		r := b.run()
		for _, want := range []string{tt.path, "linux.seccomp.listenerPath", tt.text, "hint: "} {
			if r.Code != 1 || !strings.Contains(r.Stderr, want) {
				t.Errorf("run with agent %s: %+v; want %q", tt.path, r, want)
			}
		}
		b.gone()
	}

	// The agent was there at create and is not at start.
	b := newBox(t, script("true"), asks(dead, "", "mkdir"))
	b.create()
	if r := b.do("start"); r.Code != 1 || !strings.Contains(r.Stderr, "connection refused") || !strings.Contains(r.Stderr, "hint: ") {
		t.Errorf("start: %+v", r)
	}
	b.stopped()
	b.must("delete")
	b.gone()

	// exec fails, and the container does not mind.
	if r := running.exec("true"); r.Code != 255 || !strings.Contains(r.Stderr, "connection refused") {
		t.Errorf("exec: %+v", r)
	}
	running.wantStatus("running")
}

// An agent that goes away leaves calls that are not implemented, says the kernel.
func TestRootSeccompAgentGoesAway(t *testing.T) {
	setup(t)
	a := newAgent(t, func(*notification, *response) {})
	path := filepath.Join(t.TempDir(), "agent.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			_, fd := a.receive(conn)
			unix.Close(fd)
			conn.Close()
		}
	}()
	b := newBox(t, script("mkdir /tmp/x"), writable, asks(path, "", "mkdir", "mkdirat"))
	if r := b.run(); r.Code != 1 || !strings.Contains(r.Stderr, "Function not implemented") {
		t.Errorf("run: %+v", r)
	}
	b.gone()
}

// An agent that hangs costs time, and nothing else: one does not even accept the
// connection, the other does not answer for execve.
func TestRootSeccompAgentHangs(t *testing.T) {
	setup(t)
	full := filepath.Join(t.TempDir(), "full.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: full}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", full) // takes the only place in the queue
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	mute := filepath.Join(t.TempDir(), "mute.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: mute, Net: "unix"}) // accepted by the kernel, read by nobody
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()

	var boxes [3]*ociBox
	var results [3]testenv.Result
	boxes[0] = newBox(t, script("true"), asks(full, "", "mkdir"))
	boxes[1] = newBox(t, script("true"), asks(mute, "", "execve"))
	boxes[2] = newBox(t, script("true"), asks(mute, "", "execve"))
	boxes[2].create()
	signalled := killWhileWaiting(t, full)
	done := make(chan int)
	for i, b := range boxes {
		go func() {
			args := append(append([]string{"run"}, b.at(nil)...), b.id)
			if i == 2 {
				args = []string{"start", b.id}
			}
			results[i] = testenv.Run(t, args...)
			done <- i
		}()
	}
	for range boxes {
		<-done
	}
	signalled()
	for i, r := range results {
		if r.Code != 1 || !strings.Contains(r.Stderr, syscall.ETIMEDOUT.Error()) || !strings.Contains(r.Stderr, "hint: the agent does not answer") {
			t.Errorf("%d: %+v", i, r)
		}
	}
	boxes[0].gone()
	boxes[1].gone()
	boxes[2].stopped()
	boxes[2].must("delete")
	boxes[2].gone()
}

// The message of an agent's refusal: profiles that cannot work are refused early.
func TestRootSeccompAgentRefused(t *testing.T) {
	setup(t)
	for _, tt := range []struct {
		mutate func(*specs.LinuxSeccomp)
		text   string
	}{
		{func(p *specs.LinuxSeccomp) { p.ListenerPath, p.ListenerMetadata = "", "" }, "linux.seccomp.listenerPath"},
		{func(p *specs.LinuxSeccomp) { p.ListenerPath, p.Syscalls = "", nil }, "linux.seccomp.listenerMetadata"},
		{func(p *specs.LinuxSeccomp) { p.Syscalls[0].Names = []string{"write"} }, "linux.seccomp.syscalls[0].names[0]"},
		{func(p *specs.LinuxSeccomp) { p.DefaultAction = specs.ActNotify }, "linux.seccomp.defaultAction"},
		{func(p *specs.LinuxSeccomp) { p.Flags = []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_NEW_LISTENER"} }, "linux.seccomp.flags[0]"},
	} {
		b := newBox(t, script("true"), asks("/nowhere", "x", "mkdir"), func(s *specs.Spec) { tt.mutate(s.Linux.Seccomp) })
		if r := b.run(); r.Code != 1 || !strings.Contains(r.Stderr, tt.text) {
			t.Errorf("%+v, want %q", r, tt.text)
		}
		b.gone()
	}
}

// killWhileWaiting kills a run that waits for an agent. The init has loaded its
// filter and must not go on; delete finds it.
func killWhileWaiting(t *testing.T, full string) (check func()) {
	t.Helper()
	b := newBox(t, script("echo ran >/tmp/ran"), writable, asks(full, "", "mkdir"))
	cmd := testenv.Command(t, append(append([]string{"run"}, b.at(nil)...), b.id)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the filter is loaded", func() bool {
		r := b.do("state")
		if r.Code != 0 {
			return false
		}
		var s ociState
		if json.Unmarshal([]byte(r.Stdout), &s) != nil || s.Pid == nil || *s.Pid == 0 {
			return false
		}
		raw, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(*s.Pid), "status"))
		return statusOf(string(raw))["Seccomp"] == "2"
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	return func() {
		t.Helper()
		b.must("delete", "--force")
		b.gone()
		if _, err := os.Stat(b.rootfs("tmp", "ran")); err == nil {
			t.Error("the process ran though nobody had its listener")
		}
	}
}
