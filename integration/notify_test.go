package integration

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// atNotify sends each argument as a message to NOTIFY_SOCKET, with a descriptor,
// and says what became of it.
func atNotify(args []string) int {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")})
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for _, a := range args {
		fmt.Println("sent", unix.Sendmsg(fd, []byte(strings.ReplaceAll(a, `\n`, "\n")), unix.UnixRights(1), nil, 0))
	}
	return 0
}

// manager is a service manager: what it is told, and by whom.
type manager struct {
	t    *testing.T
	path string
	conn *net.UnixConn
	got  chan string
}

func newManager(t *testing.T, path string) *manager {
	t.Helper()
	m := &manager{t: t, path: path, got: make(chan string, 100)}
	var err error
	if m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		buf, oob := make([]byte, 4096), make([]byte, 256)
		for {
			n, o, _, _, err := m.conn.ReadMsgUnix(buf, oob)
			if err != nil {
				return
			}
			text := string(buf[:n])
			msgs, _ := unix.ParseSocketControlMessage(oob[:o])
			for i := range msgs {
				fds, _ := unix.ParseUnixRights(&msgs[i])
				for _, fd := range fds {
					unix.Close(fd) // which is how a manager answers a barrier
					text += "+fd"
				}
			}
			m.got <- text
		}
	}()
	t.Cleanup(func() { m.conn.Close(); <-done })
	return m
}

// next is the next message; "" if there is none for now.
func (m *manager) next() string {
	select {
	case s := <-m.got:
		return s
	case <-time.After(testenv.Timeout(10 * time.Second)):
		m.t.Error("the manager is told nothing")
		return ""
	}
}

func (m *manager) want(what string, pid int, barrier bool) {
	m.t.Helper()
	want := []string{"READY=1\n", "MAINPID=" + strconv.Itoa(pid) + "\n"}
	if barrier {
		want = append(want, "BARRIER=1\n+fd")
	}
	var got []string
	for range want {
		got = append(got, m.next())
	}
	if !slices.Equal(got, want) {
		m.t.Errorf("%s: the manager is told %q, want %q", what, got, want)
	}
}

// empty fails if there is another message. Nobody sends any more.
func (m *manager) empty(what string) {
	m.t.Helper()
	select {
	case s := <-m.got:
		m.t.Errorf("%s: the manager is also told %q", what, s)
	default:
	}
}

func (b *ociBox) managed(m *manager, args ...string) *exec.Cmd {
	cmd := testenv.Command(b.t, append(args, b.id)...)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.path)
	return cmd
}

// notifying is a process that says what words are, when the file go is there.
func notifying(words string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Root.Readonly = false
		script(`trap 'exit 0' TERM; until [ -e /go ]; do sleep 0.02; done; /bin/attack-notify ` + words + ` > /said; while :; do sleep 1000 & wait $!; done`)(s)
	}
}

// READY=1 of a container reaches the manager, with the pid on the host, from run
// in the foreground, from run --detach, and from start; the last two stay until
// then. Nothing else that a container says does.
func TestRootNotify(t *testing.T) {
	setup(t)
	const words = `'STATUS=evil\nMAINPID=1' 'READY=2' 'XREADY=1' 'STOPPING=1' "$(head -c 9000 /dev/zero | tr '\0' R)" 'STATUS=x\nREADY=1\nMAINPID=1\nFDSTORE=1' 'ERRNO=5' READY=1`
	for _, how := range []string{"run", "run --detach", "start"} {
		for _, userns := range []bool{false, true} {
			what := fmt.Sprintf("%s, user namespace %v", how, userns)
			path := filepath.Join(t.TempDir(), "notify")
			if userns {
				path = "@" + testenv.UniqueID(t)
			}
			m := newManager(t, path)
			b := newBox(t, notifying(words), func(s *specs.Spec) {
				if userns {
					withUser(s)
				} else {
					s.Process.User.UID = 1000
				}
			})
			atInstall(t, b.rootfs(), "notify")
			if err := os.Chmod(b.rootfs(), 0o777); err != nil {
				t.Fatal(err)
			}
			// The host's root owns the files: root of a user namespace cannot make it.
			if err := os.MkdirAll(b.rootfs("run/notify"), 0o755); err != nil {
				t.Fatal(err)
			}
			var cmd *exec.Cmd
			switch how {
			case "start":
				if r := testenv.RunCmd(t, b.managed(m, "create", "--bundle", b.bundle)); r.Code != 0 {
					t.Fatalf("%s: %+v", what, r)
				}
				cmd = b.managed(m, "start")
			case "run":
				cmd = b.managed(m, "run", "--bundle", b.bundle)
			default:
				cmd = b.managed(m, "run", "--bundle", b.bundle, "--detach")
			}
			said, err := os.Create(filepath.Join(b.bundle, "said"))
			if err != nil {
				t.Fatal(err)
			}
			defer said.Close()
			cmd.Stderr = said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if text := readFile(t, said.Name()); text != "" {
					t.Errorf("%s: %s", what, text)
				}
			}()
			eventually(t, what+": it runs", func() bool { return strings.Contains(b.do("state").Stdout, `"running"`) })
			pid := b.pid()
			if cmd.ProcessState != nil || !alive(cmd.Process.Pid) {
				t.Errorf("%s: it did not wait", what)
			}
			m.empty(what)
			writeFile(t, b.rootfs("go"), "")
			m.want(what, pid, how != "run")
			if how == "run" {
				eventually(t, what+": all is sent", func() bool { return strings.Count(readFile(t, b.rootfs("said")), "\n") == 8 })
				signalPid(t, cmd.Process.Pid, unix.SIGTERM)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			m.empty(what)
			if how != "run" {
				b.wantStatus("running")
				stop := reapContainers(t)
				b.must("delete", "--force")
				stop()
			}
			if !b.gone() {
				t.Error(what)
			}
		}
	}
}

// A container that ends, or never becomes ready, does not hold up start; a manager
// that is not there is a warning; without one there is no socket.
func TestRootNotifyFailures(t *testing.T) {
	setup(t)
	m := newManager(t, filepath.Join(t.TempDir(), "notify"))
	b := newBox(t, script("exit 3"))
	if r := testenv.RunCmd(t, b.managed(m, "run", "--bundle", b.bundle)); r.Code != 3 || r.Stderr != "" {
		t.Errorf("run: %+v", r)
	}
	if r := testenv.RunCmd(t, b.managed(m, "run", "--detach", "--bundle", b.bundle)); r.Code != 0 || r.Stderr != "" {
		t.Errorf("run --detach: %+v", r)
	}
	b.must("delete")
	if r := testenv.RunCmd(t, b.managed(m, "create", "--bundle", b.bundle)); r.Code != 0 || r.Stderr != "" {
		t.Errorf("create: %+v", r)
	}
	if r := testenv.RunCmd(t, b.managed(m, "start")); r.Code != 0 || r.Stderr != "" {
		t.Errorf("start: %+v", r)
	}
	m.empty("a container that is not ready")
	b.must("delete")

	env := newBox(t, script("echo $NOTIFY_SOCKET; ls /run"))
	if out := env.output(); strings.TrimSpace(out) != "" {
		t.Errorf("without a manager: %q", out)
	}
	gone := &manager{path: "/no/such/manager"}
	n := newBox(t, func(s *specs.Spec) { s.Process.Args = []string{"/bin/attack-notify", "READY=1"} })
	atInstall(t, n.rootfs(), "notify")
	if r := testenv.RunCmd(t, n.managed(gone, "run", "--bundle", n.bundle)); r.Code != 0 || !strings.Contains(r.Stderr, `NOTIFY_SOCKET="/no/such/manager"`) {
		t.Errorf("no manager: %+v", r)
	}
	gone.path = "vsock:1:2"
	if r := testenv.RunCmd(t, env.managed(gone, "run", "--bundle", env.bundle)); r.Code != 0 || !strings.Contains(r.Stderr, "only an absolute path") {
		t.Errorf("a manager elsewhere: %+v", r)
	}
}

// A container cannot get at anything through the directory of its socket: it is
// read-only, and one with the privileges to write there all the same neither
// changes a file of the host nor puts another socket in place.
func TestRootAttackNotify(t *testing.T) {
	setup(t)
	m := newManager(t, filepath.Join(t.TempDir(), "notify"))
	b := newBox(t, func(s *specs.Spec) {
		s.Process.Args = []string{"sh", "-c", `cd /run/notify; rm -f notify.sock; mkdir x; ls -A; /bin/attack-notify READY=1`}
	})
	atInstall(t, b.rootfs(), "notify")
	r := testenv.RunCmd(t, b.managed(m, "run", "--bundle", b.bundle))
	if r.Code != 0 || strings.Count(r.Stderr, "Read-only file system") != 2 || r.Stdout != "notify.sock\nsent <nil>\n" {
		t.Errorf("%+v", r)
	}
	if m.next() != "READY=1\n" || !strings.HasPrefix(m.next(), "MAINPID=") {
		t.Error("the container's word did not arrive")
	}

	// Before start a process of exec is in the container, and may mount.
	victim := filepath.Join(t.TempDir(), "victim")
	writeFile(t, victim, "victim")
	p := newBox(t, script("exit 0"), func(s *specs.Spec) {
		caps := []string{"CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_FOWNER"}
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	})
	if r := testenv.RunCmd(t, p.managed(m, "create", "--bundle", p.bundle)); r.Code != 0 {
		t.Fatalf("%+v", r)
	}
	p.execOut("sh", "-c", "mount -o remount,rw,bind /run/notify && ln -s "+victim+" /run/notify/notify.sock")
	if r := testenv.RunCmd(t, p.managed(m, "start")); r.Code != 0 {
		t.Errorf("%+v", r)
	}
	if st, err := os.Stat(victim); err != nil || st.Mode().Perm() != 0o644 || readFile(t, victim) != "victim" {
		t.Errorf("the victim: %v %v", st, err)
	}
	p.stopped()
	p.must("delete")
	if _, err := os.Stat(victim); err != nil || !p.gone() {
		t.Error("after delete: ", err)
	}
}

// minirun is killed at system calls of create and start with a socket in the
// container's record.
func TestRootCrashNotify(t *testing.T) {
	setup(t)
	m := newManager(t, filepath.Join(t.TempDir(), "notify"))
	t.Setenv("NOTIFY_SOCKET", m.path)
	b := newBox(t, script("exit 0"))
	for _, verb := range []string{"create", "start"} {
		points := 0
		for n := 1; ; n += 4 {
			what := verb + " killed at call " + strconv.Itoa(n)
			b.until(verb)
			from, args := []uint64{unix.SYS_FLOCK}, []string{verb}
			if verb == "create" {
				from, args = []uint64{unix.SYS_MKDIRAT, sysMkdir}, append(args, "--bundle", b.bundle)
			}
			code, reached := tracedRun(t, minirunItself, n, from, append(args, b.id)...)
			if !reached && code != 0 {
				t.Fatalf("%s: exit status %d under trace", what, code)
			}
			if reached && verb == "start" && n%8 == 1 { // again, over the socket that is there
				if r := b.do("start"); r.Code != 0 && !strings.Contains(r.Stderr, "has stopped") && !strings.Contains(r.Stderr, "already running") {
					t.Errorf("%s: start again: %+v", what, r)
				}
			}
			b.converge(what)
			if !reached {
				break
			}
			points++
		}
		if points < 5 {
			t.Errorf("%s: only %d crash points", verb, points)
		}
	}
	b.usedAgain("in the end")
}
