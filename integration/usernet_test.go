package integration

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// A user's container in a network namespace of the test's, with an interface and a
// default route as hosts have. The helpers' programs, the device of tap interfaces and
// the host's resolv.conf can be covered in the user's mount namespace.
func usernetBox(t *testing.T, mutate ...string) *userBox {
	t.Helper()
	setup(t)
	runtime.LockOSThread() // for good: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"link set lo up", "link add d0 type veth peer name d1", "link set d0 up", "link set d1 up",
		"address add " + lanAddress + "/24 dev d0", "route add default via 192.0.2.254",
	} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
	return newUsernetBox(t, mutate...)
}

// usernetPeer is a process in the network namespace of another machine, at the other end
// of the test's interface.
func usernetPeer(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	pid := strconv.Itoa(cmd.Process.Pid)
	for _, line := range []string{"ip link set d1 netns " + pid, "nsenter -t " + pid + " -n ip link set d1 up", "nsenter -t " + pid + " -n ip address add 192.0.2.77/24 dev d1"} {
		f := strings.Fields(line)
		if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
	}
	return cmd.Process.Pid
}

// newUsernetBox makes another one in the same namespace.
func newUsernetBox(t *testing.T, covered ...string) *userBox {
	t.Helper()
	// As minirun spec --rootless has it: without a network namespace.
	u := newUserBox(t, nil, share(specs.NetworkNamespace), script("nc -ll -p 80 -e sh -c 'read x; echo hello $x'"), writable)
	tun := filepath.Join(u.bundle, "tun")
	if err := unix.Mknod(tun, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(tun, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(u.bundle+"/rootfs/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, u.bundle+"/rootfs/etc/resolv.conf", "")
	writeFile(t, u.bundle+"/resolv.conf", "nameserver 127.0.0.1\nsearch example.org\n")
	cover := `mount --bind "$1/tun" /dev/net/tun && mount --bind "$1/resolv.conf" /etc/resolv.conf || exit 125
for f in ` + strings.Join(covered, " ") + `; do mount --bind /dev/null $f || exit 125; done
shift; exec "$@"`
	u.via = func(args []string) *exec.Cmd {
		return exec.Command("unshare", append([]string{"-m", "--propagation", "private", "sh", "-c", cover, "sh", u.bundle}, u.argv(args...)...)...)
	}
	return u
}

// helpers are the processes of a network helper, and of its keeper, that are in the
// network namespace of the test.
func usernetProcesses(t *testing.T) (list []int) {
	t.Helper()
	own, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		comm, _ := os.ReadFile(d + "/comm")
		name := strings.TrimSpace(string(comm))
		if ns, _ := os.Readlink(d + "/ns/net"); ns != own || !strings.HasPrefix(name, "passt") && !strings.HasPrefix(name, "pasta") && name != "slirp4netns" && name != "minirun:usernet" {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(d))
		if alive(pid) {
			list = append(list, pid)
		}
	}
	return list
}

// inNet does something in the network namespace of a process.
func inNet(t *testing.T, pid int, do func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			err = do()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// echo sends back what comes.
func echo(c net.PacketConn, change func([]byte) []byte) {
	b := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		_, _ = c.WriteTo(change(b[:n]), from)
	}
}

// nameAnswer answers any question for an address of IPv4 with 192.0.2.77.
func nameAnswer(q []byte) []byte {
	i := 12
	for i < len(q) && q[i] != 0 {
		i += int(q[i]) + 1
	}
	if i+5 > len(q) {
		return nil
	}
	a := append([]byte(nil), q[:i+5]...)
	a[2], a[3] = 0x81, 0x80
	copy(a[6:12], make([]byte, 6))
	if q[i+2] == 1 {
		a[7] = 1
		a = append(a, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 77)
	}
	return a
}

func (u *userBox) pid() int {
	u.t.Helper()
	_, text, _ := strings.Cut(u.must("state", u.id), `"pid":`)
	text = strings.TrimSpace(text)
	end := strings.IndexAny(text, ",\n}")
	pid, err := strconv.Atoi(text[:max(end, 0)])
	if err != nil {
		u.t.Fatal(err)
	}
	return pid
}

// ask sends a line to a server and returns what comes back. Debian 12's pasta keeps
// back what a server says to somebody who has said nothing.
func ask(t *testing.T, address string) (text string) {
	t.Helper()
	eventually(t, address+" answers", func() bool {
		c, err := net.DialTimeout("tcp", address, testenv.Timeout(5*time.Second))
		if err != nil {
			return false
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(testenv.Timeout(5 * time.Second)))
		_, _ = c.Write([]byte("you\n"))
		b, err := io.ReadAll(c)
		text = string(b)
		return err == nil && text != ""
	})
	return text
}

// A user's container has a way out, names and published ports by either program; they
// end with it.
func TestRootUsernet(t *testing.T) {
	for _, kind := range []string{"pasta", "slirp4netns"} {
		t.Run(kind, func(t *testing.T) {
			u := usernetBox(t)
			names, err := net.ListenPacket("udp", "127.0.0.1:53")
			if err != nil {
				t.Fatal(err)
			}
			defer names.Close()
			go echo(names, nameAnswer)
			u.up("--network", kind, "-p", "8080:80", "-p", "127.0.0.1:8081:80", "-p", "9000-9002:53-55/udp", "-p", "80")
			pid := u.pid()
			var inside net.PacketConn
			inNet(t, pid, func() (err error) {
				inside, err = new(net.ListenConfig).ListenPacket(context.Background(), "udp", ":54")
				return err
			})
			defer inside.Close()
			go echo(inside, func(b []byte) []byte { return append([]byte("echo "), b...) })

			ports := u.must("port", u.id)
			for _, want := range []string{"80/tcp -> 0.0.0.0:8080\n", "80/tcp -> 127.0.0.1:8081\n", "54/udp -> 0.0.0.0:9001\n"} {
				if !strings.Contains(ports, want) {
					t.Errorf("port prints no %q:\n%s", want, ports)
				}
			}
			lines := strings.Split(strings.TrimSpace(ports), "\n")
			_, chosen, _ := strings.Cut(lines[len(lines)-1], "0.0.0.0")
			if s := u.must("state", u.id); !strings.Contains(s, kind) || !strings.Contains(s, "port 8080:80/tcp") {
				t.Errorf("state says nothing of the network: %s", s)
			}
			for _, at := range []string{"127.0.0.1:8080", lanAddress + ":8080", "127.0.0.1:8081", "127.0.0.1" + chosen} {
				if got := ask(t, at); got != "hello you\n" {
					t.Errorf("%s answers %q", at, got)
				}
			}
			if c, err := net.DialTimeout("tcp", lanAddress+":8081", testenv.Timeout(5*time.Second)); err == nil {
				c.Close()
				t.Error("a port of the loopback address alone is open at another one")
			}
			var c net.Conn
			inNet(t, usernetPeer(t), func() (err error) {
				c, err = net.Dial("udp", lanAddress+":9001")
				return err
			})
			defer c.Close()
			b := make([]byte, 100)
			n := 0
			eventually(t, "UDP through a published port", func() bool {
				_, _ = c.Write([]byte("hallo"))
				_ = c.SetReadDeadline(time.Now().Add(testenv.Timeout(500 * time.Millisecond)))
				n, err = c.Read(b)
				return err == nil
			})
			if string(b[:n]) != "echo hallo" {
				t.Errorf("UDP: %q", b[:n])
			}
			got := u.must("exec", u.id, "sh", "-c", "cat /etc/resolv.conf; nslookup host.test; ip -4 address show eth0; ip route")
			for _, want := range []string{"search example.org\n", "192.0.2.77", "inet ", "default via "} {
				if !strings.Contains(got, want) {
					t.Errorf("no %q in the container:\n%s", want, got)
				}
			}
			if r := u.do("exec", u.id, "sh", "-c", "echo x > /etc/resolv.conf"); r.Code == 0 {
				t.Error("the container can write the host's file")
			}
			// The host's own loopback is not the container's.
			secret, err := net.Listen("tcp", "127.0.0.1:7777")
			if err != nil {
				t.Fatal(err)
			}
			defer secret.Close()
			gateway := "192.0.2.254"
			if kind == "slirp4netns" {
				gateway = "10.0.2.2"
			}
			if r := u.do("exec", u.id, "nc", "-w", "1", gateway, "7777"); r.Code == 0 {
				t.Errorf("the container reaches the host's loopback: %+v", r)
			}

			// Another one cannot have the port, and leaves nothing.
			other := newUsernetBox(t)
			r := other.do("create", "--network", kind, "-p", "8080:80", "--bundle", other.bundle, other.id)
			if r.Code != 1 || !strings.Contains(r.Stderr, "publish 8080:8080/tcp: address already in use") || !strings.Contains(r.Stderr, "hint:") {
				t.Errorf("a port that is taken: %+v", r)
			}
			if left, _ := os.ReadDir(other.root); len(left) > 0 {
				t.Errorf("a refused container has left %v", left)
			}

			if n := len(usernetProcesses(t)); n != 2 {
				t.Errorf("%d processes, want the helper and its keeper", n)
			}
			// The container ends by itself, and delete is done when they are gone.
			u.must("kill", u.id, "KILL")
			eventually(t, "the helper ends with the container", func() bool { return len(usernetProcesses(t)) == 0 })
			u.must("delete", u.id)
			u.up("--network", kind, "-p", "8080:80")
			u.must("delete", "--force", u.id)
			if left := usernetProcesses(t); len(left) > 0 {
				t.Errorf("processes %v after delete", left)
			}
			// In the foreground; the keeper goes, and its child with it.
			u.up("--network", kind)
			for _, pid := range usernetProcesses(t) {
				if comm := readFile(t, "/proc/"+strconv.Itoa(pid)+"/comm"); comm == "minirun:usernet\n" {
					if err := unix.Kill(pid, unix.SIGKILL); err != nil {
						t.Fatal(err)
					}
				}
			}
			eventually(t, "the helper ends with its keeper", func() bool { return len(usernetProcesses(t)) == 0 })
			u.must("delete", "--force", u.id)
			// A helper that dies takes its keeper along, and not the container.
			u.up("--network", kind)
			for _, pid := range usernetProcesses(t) {
				if comm := readFile(t, "/proc/"+strconv.Itoa(pid)+"/comm"); comm != "minirun:usernet\n" {
					if err := unix.Kill(pid, unix.SIGKILL); err != nil {
						t.Fatal(err)
					}
				}
			}
			eventually(t, "the keeper ends with the helper", func() bool { return len(usernetProcesses(t)) == 0 })
			u.wantStatus("running")
		})
	}
}

// Which program is used, and what is said when there is none or it cannot do it.
func TestRootUsernet_Refused(t *testing.T) {
	u := usernetBox(t)
	u.must("create", "-p", "8080:80", "--bundle", u.bundle, u.id)
	if got := u.must("state", u.id); !strings.Contains(got, `pasta\nport 8080`) {
		t.Errorf("without --network it is not pasta: %s", got)
	}
	u.must("delete", "--force", u.id)
	slirp := newUsernetBox(t, "/usr/bin/pasta")
	slirp.must("create", "-p", "8080:80", "--bundle", slirp.bundle, slirp.id)
	if got := slirp.must("state", slirp.id); !strings.Contains(got, `slirp4netns\nport 8080`) {
		t.Errorf("without pasta it is not slirp4netns: %s", got)
	}
	slirp.must("delete", "--force", slirp.id)
	none := newUsernetBox(t, "/usr/bin/pasta", "/usr/bin/slirp4netns")
	noTun := newUsernetBox(t)
	if err := os.Chmod(noTun.bundle+"/tun", 0o600); err != nil {
		t.Fatal(err)
	}
	broken := newUsernetBox(t)
	bin := broken.dir + "/bin"
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, bin+"/pasta", "#!/bin/sh\necho no such luck >&2\nexit 3\n")
	write(t, bin+"/slirp4netns", "not a program")
	broken.env = append(broken.env, "PATH="+bin+":"+os.Getenv("PATH"))
	foreign := newUsernetBox(t)
	config := regexp.MustCompile(`"namespaces":\s*\[`).ReplaceAllString(readFile(t, foreign.bundle+"/config.json"), `"namespaces": [{"type": "network", "path": "/proc/self/ns/net"},`)
	writeFile(t, foreign.bundle+"/config.json", config)
	for _, tt := range []struct {
		box   *userBox
		flags string
		want  []string
	}{
		{none, "-p 8080:80", []string{"neither pasta nor slirp4netns is installed", "passt (for pasta) or slirp4netns", "none or host"}},
		{none, "--network pasta", []string{"network pasta: the program is not installed", "install the package passt"}},
		{none, "--network slirp4netns", []string{"install the package slirp4netns"}},
		{noTun, "--network pasta", []string{"/dev/net/tun", "hint:"}},
		{broken, "--network pasta", []string{"network pasta: it has ended: no such luck"}},
		{broken, "--network slirp4netns", []string{"execve", "exec format error"}},
		{u, "--network pasta -p 80:80", []string{"publish 80:80/tcp: permission denied", "ip_unprivileged_port_start"}},
		{u, "--network pasta -p 8080:80/sctp", []string{"pasta publishes TCP and UDP only"}},
		{u, "--network slirp4netns -p [::1]:8080:80", []string{"slirp4netns publishes at IPv4 addresses only", "passt"}},
		{u, "--network pasta -p 192.0.2.99:8080:80", []string{"cannot assign requested address"}},
		{u, "--network bridge", []string{"a bundle has the network of its config.json", "pasta or slirp4netns"}},
		{u, "--dns 192.0.2.1", []string{"--dns needs a network"}},
		{u, "--network pasta --network bridge", []string{"stands alone"}},
		{u, "--network pasta --ip 10.0.0.1", []string{"--ip needs --image"}},
		{foreign, "--network pasta", []string{"linux.namespaces[", ".path: the network namespace", "remove the path"}},
	} {
		tt.box.t = t
		r := tt.box.do(append(append([]string{"run"}, strings.Fields(tt.flags)...), "--bundle", tt.box.bundle, tt.box.id)...)
		for _, want := range tt.want {
			if r.Code != 1 && r.Code != 2 || !strings.Contains(r.Stderr, want) {
				t.Errorf("%s: got %+v, want an error with %q", tt.flags, r, want)
			}
		}
		if left, _ := os.ReadDir(tt.box.root); len(left) > 0 {
			t.Errorf("%s: a refused container has left %v", tt.flags, left)
		}
		if left := usernetProcesses(t); len(left) > 0 {
			t.Errorf("%s: processes %v are left", tt.flags, left)
		}
	}
	b := newUserBox(t, nil)
	if r := testenv.Run(t, "run", "--network", "pasta", "--bundle", b.bundle, b.id); r.Code != 1 || !strings.Contains(r.Stderr, "is for containers of ordinary users") {
		t.Errorf("root: %+v", r)
	}
}

// Several want the same port at the same time: one gets it.
func TestRootUsernet_Race(t *testing.T) {
	const n = 4
	boxes := []*userBox{usernetBox(t)}
	root := boxes[0].root
	for len(boxes) < n {
		boxes = append(boxes, newUsernetBox(t))
	}
	// One state root for all: that of the first, as it is for a user.
	results := make(chan testenv.Result, n)
	for _, u := range boxes {
		u.root = root
		cmd := u.via([]string{u.bin(), "--root", root, "create", "--network", "pasta", "-p", "8080:80", "--bundle", u.bundle, u.id})
		cmd.Dir = "/"
		out := filepath.Join(u.bundle, "stderr")
		f, err := os.Create(out)
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = f                      // no pipe: the container has it too
		if err := cmd.Start(); err != nil { // from this thread: it is the one in the namespace
			t.Fatal(err)
		}
		go func() {
			_ = cmd.Wait()
			f.Close()
			text, _ := os.ReadFile(out)
			results <- testenv.Result{Code: cmd.ProcessState.ExitCode(), Stderr: string(text)}
		}()
	}
	won := 0
	for range boxes {
		r := <-results
		switch {
		case r.Code == 0:
			won++
		case !strings.Contains(r.Stderr, "publish 8080:8080/tcp: address already in use"):
			t.Errorf("who came too late got %+v", r)
		}
	}
	if left, _ := os.ReadDir(root); won != 1 || len(left) != 1 {
		t.Errorf("%d have the port; records %v", won, left)
	}
	if left := usernetProcesses(t); len(left) != 2 {
		t.Errorf("processes %v", left)
	}
}

// minirun is killed at system calls of create: no process stays, and delete converges.
func TestRootCrashUsernet(t *testing.T) {
	u := usernetBox(t)
	points := 0
	for n := 1; ; n += 5 {
		what := "killed at call " + strconv.Itoa(n)
		cmd := u.via([]string{u.bin(), "--root", u.root, "create", "--network", "pasta", "-p", "8080:80", "--bundle", u.bundle, u.id})
		code, reached := tracedCommand(t, minirunItself, n, []uint64{unix.SYS_MKDIRAT, sysMkdir}, append([]string{cmd.Path}, cmd.Args[1:]...))
		if !reached && code != 0 {
			t.Fatalf("%s: exit status %d under trace", what, code)
		}
		stop := reapContainers(t)
		if reached {
			eventually(t, what+": no process of the network is left", func() bool {
				return len(usernetProcesses(t)) == 0 || strings.Contains(u.do("state", u.id).Stdout, `"created"`)
			})
		}
		if r := u.do("delete", "--force", u.id); r.Code != 0 || r.Stderr != "" {
			t.Fatalf("%s: delete --force: %+v", what, r)
		}
		stop()
		if left, _ := os.ReadDir(u.root); len(left) > 0 {
			t.Fatalf("%s: left: %v", what, left)
		}
		if left := usernetProcesses(t); len(left) > 0 {
			t.Fatalf("%s: processes %v are left", what, left)
		}
		if !reached {
			break
		}
		points++
	}
	t.Logf("%d crash points", points)
	if points < 4 {
		t.Errorf("only %d crash points", points)
	}
}
