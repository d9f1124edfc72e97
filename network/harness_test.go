package network

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/internal/rtnetlink"
	"github.com/minirun/minirun/internal/testenv"
	"github.com/minirun/minirun/network/loopback"
	"github.com/minirun/minirun/network/store"
	"golang.org/x/sys/unix"
)

// A space is a network namespace that exists as long as the test.
type space struct {
	t  *testing.T
	fd int
}

func newSpace(t *testing.T) *space {
	t.Helper()
	own, err := linux.OpenAt(unix.AT_FDCWD, "/proc/self/ns/net", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer linux.Close(own)
	s := &space{t: t, fd: -1}
	err = rtnetlink.In(own, func() error { // and back
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		s.fd, err = linux.OpenAt(unix.AT_FDCWD, "/proc/thread-self/ns/net", unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		c, err := rtnetlink.Dial()
		if err != nil {
			return err
		}
		defer c.Close()
		return c.Up(1)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { linux.Close(s.fd) })
	return s
}

func (s *space) do(f func() error) {
	s.t.Helper()
	if err := s.try(f); err != nil {
		s.t.Fatal(err)
	}
}

func (s *space) try(f func() error) error { return rtnetlink.In(s.fd, f) }

// run runs a command in the namespace.
func (s *space) run(args ...string) string {
	s.t.Helper()
	var out []byte
	s.do(func() (err error) {
		cmd := exec.Command(args[0], args[1:]...)
		if out, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("%q: %w\n%s", args, err, out)
		}
		return err
	})
	return string(out)
}

func patience() time.Time { return time.Now().Add(testenv.Timeout(20 * time.Second)) }

// serve answers every connection, or every datagram, with the address of the
// client as the server sees it, until the test ends.
func (s *space) serve(protocol string, port int) {
	s.t.Helper()
	s.do(func() error {
		address := ":" + strconv.Itoa(port)
		if protocol == "udp" {
			c, err := net.ListenPacket("udp", address)
			if err != nil {
				return err
			}
			s.t.Cleanup(func() { c.Close() })
			go func() {
				buf := make([]byte, 64)
				for {
					_, from, err := c.ReadFrom(buf)
					if err != nil {
						return
					}
					_, _ = c.WriteTo([]byte(host(from)), from)
				}
			}()
			return nil
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		s.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, host(c.RemoteAddr()))
				c.Close()
			}
		}()
		return nil
	})
}

func host(a net.Addr) string {
	text, _, _ := net.SplitHostPort(a.String())
	ip, _ := netip.ParseAddr(text)
	return ip.Unmap().String()
}

// call connects and returns what the server says: the client's address.
func (s *space) call(protocol, address string, within time.Duration) (answer string, err error) {
	err = s.try(func() error {
		c, err := net.DialTimeout(protocol, address, within)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(within))
		buf := make([]byte, 64)
		if protocol == "udp" {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
		}
		n, err := c.Read(buf)
		answer = string(buf[:n])
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return err
	})
	return answer, err
}

func (s *space) wantCall(what, protocol, address, want string) {
	s.t.Helper()
	deadline := patience()
	got, err := s.call(protocol, address, time.Until(deadline))
	// A port of a bridge forwards when a worker of the kernel has noticed that it has a
	// carrier. Who asks for a neighbour before, three times in three seconds, gives up.
	for errors.Is(err, unix.EHOSTUNREACH) && time.Now().Before(deadline) {
		got, err = s.call(protocol, address, time.Until(deadline))
	}
	if err != nil || got != want {
		s.t.Errorf("%s: %s to %s: server sees %q, %v; want %q", what, protocol, address, got, err, want)
	}
}

// wantNoCall expects that nobody answers. A refusal is an answer of the kernel.
func (s *space) wantNoCall(what, protocol, address string) {
	s.t.Helper()
	if got, err := s.call(protocol, address, 300*time.Millisecond); err == nil {
		s.t.Errorf("%s: %s to %s: got through, as %q", what, protocol, address, got)
	}
}

// A lab is a host and another machine on its LAN.
type lab struct {
	t      *testing.T
	host   *space
	remote *space
	h      *Host
	warned []string
}

const (
	lan4, lan6       = "192.0.2.1", "2001:db8::1"
	remote4, remote6 = "192.0.2.2", "2001:db8::2"
)

func newLab(t *testing.T) *lab {
	t.Helper()
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	l := &lab{t: t, host: newSpace(t), remote: newSpace(t)}
	l.h = &Host{Cgroup: ownCgroup(t), Store: store.Store(t.TempDir() + "/networks"), Warn: func(text string) { l.warned = append(l.warned, text) }}
	l.host.do(func() error {
		c, err := rtnetlink.Dial()
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.AddBridge("lan", [6]byte{2, 0, 0, 0, 0, 1}, 0); err != nil {
			return err
		}
		b, err := c.LinkByName("lan")
		if err != nil {
			return err
		}
		if err := c.AddVeth(&rtnetlink.Veth{Name: "port", Master: b.Index, PeerName: "lan", PeerMAC: [6]byte{2, 0, 0, 0, 0, 2}, PeerNS: l.remote.fd}); err != nil {
			return err
		}
		for _, a := range []string{lan4 + "/24", lan6 + "/64"} {
			if err := c.AddPrefix(b.Index, netip.MustParsePrefix(a), unix.IFA_F_NODAD); err != nil {
				return err
			}
		}
		return c.Up(b.Index)
	})
	l.remote.do(func() error {
		c, err := rtnetlink.Dial()
		if err != nil {
			return err
		}
		defer c.Close()
		p, err := c.LinkByName("lan")
		if err != nil {
			return err
		}
		for _, a := range []string{remote4 + "/24", remote6 + "/64"} {
			if err := c.AddPrefix(p.Index, netip.MustParsePrefix(a), unix.IFA_F_NODAD); err != nil {
				return err
			}
		}
		return c.Up(p.Index)
	})
	l.host.do(func() error {
		c, err := rtnetlink.Dial()
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.LinkByName("port") // has the kernel look at the carrier now
		return err
	})
	return l
}

// ownCgroup puts the test into a cgroup of its own: what it does with loopback
// addresses touches no other process.
func ownCgroup(t *testing.T) string {
	t.Helper()
	root, err := loopback.Root()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	back := root
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			back += path
		}
	}
	dir := fmt.Sprintf("%s/minirun-test-%d-lab", root, os.Getpid())
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	move := func(to string) {
		if err := os.WriteFile(to+"/cgroup.procs", []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		move(back)
		// Its last processes may still be on their way out.
		for deadline := patience(); ; time.Sleep(10 * time.Millisecond) {
			if err = os.Remove(dir); !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
				break
			}
		}
		if err != nil {
			t.Error(err)
		}
	})
	move(dir)
	return dir
}

// bridgeFilter says whether br_netfilter has bridges of the host ask the rules of
// IP, if the kernel has it.
func (l *lab) bridgeFilter(value string) {
	l.t.Helper()
	l.host.do(func() error {
		for _, name := range []string{"iptables", "ip6tables"} {
			err := writeSysctl("net/bridge/bridge-nf-call-"+name, value)
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // the module is not there
				return err
			}
		}
		return nil
	})
}

func (l *lab) create(spec Spec) *store.Network {
	l.t.Helper()
	var n *store.Network
	l.host.do(func() (err error) {
		n, err = l.h.Create(&spec)
		return err
	})
	return n
}

// A box is a container without processes: a network namespace that is attached.
type box struct {
	*space
	key    string
	record *store.Container
}

func (l *lab) try(id string, q *Request) (*box, error) {
	b := &box{space: newSpace(l.t), key: id + ".0"}
	if q.Hostname == "" {
		q.Hostname = id
	}
	err := l.host.try(func() error {
		a, err := l.h.Reserve(b.key, id, "/run/none", q)
		if err != nil {
			return err
		}
		b.record = a.Record()
		return a.Connect(b.fd)
	})
	return b, err
}

func (l *lab) attach(id string, q *Request) *box {
	l.t.Helper()
	b, err := l.try(id, q)
	if err != nil {
		l.t.Fatal(err)
	}
	return b
}

func (l *lab) detach(key string) {
	l.t.Helper()
	l.host.do(func() error { return l.h.Detach(key) })
}

// table is our table as nft prints it, without elements that differ every time.
func (l *lab) table() string {
	l.t.Helper()
	return l.host.run("nft", "list", "table", "inet", Table)
}

// links are the interfaces of the host but those that are unplugged for good: they
// go with the namespaces of the test.
func (l *lab) links() string {
	l.t.Helper()
	var names []string
	l.host.do(func() error {
		c, err := rtnetlink.Dial()
		if err != nil {
			return err
		}
		defer c.Close()
		list, err := c.Links()
		for _, l := range list {
			if !strings.HasPrefix(l.Name, linkPrefix) || l.Master != 0 || l.Flags&unix.IFF_UP != 0 {
				names = append(names, l.Name)
			}
		}
		return err
	})
	return strings.Join(names, " ")
}

func ports(t *testing.T, list ...string) (out []store.Port) {
	t.Helper()
	for _, s := range list {
		p, err := ParsePublish(s)
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		out = append(out, p)
	}
	return out
}
