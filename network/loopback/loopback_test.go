package loopback

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	goruntime "runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// Programs jump forward only, and to somewhere.
func TestPrograms(t *testing.T) {
	for i, h := range hooks() {
		code := h.program(1<<40+5, 7, 8)
		if len(code) == 0 || code[len(code)-1] != unix.BPF_JMP|unix.BPF_EXIT {
			t.Fatalf("hook %d: does not end with exit", i)
		}
		wide := false
		for at, insn := range code {
			op, off := byte(insn), int(int16(insn>>16))
			class := op & 7
			if !wide && (class == unix.BPF_JMP || class == unix.BPF_JMP32) && op != unix.BPF_JMP|unix.BPF_CALL && op != unix.BPF_JMP|unix.BPF_EXIT {
				if off <= 0 && !(off == 0 && op == unix.BPF_JMP|unix.BPF_JA) || at+1+off >= len(code) {
					t.Errorf("hook %d: instruction %d jumps by %d of %d", i, at, off, len(code))
				}
			}
			wide = !wide && op == unix.BPF_LD|unix.BPF_DW|unix.BPF_IMM
		}
	}
}

func TestKey(t *testing.T) {
	e := entries("127.0.0.1:4660 10.0.0.1:80")[1]
	if got := fmt.Sprintf("%x", e.key()); got != "{00000000000000000000ffff7f000001 12340000 11}" {
		t.Errorf("key %s", got)
	}
	if got := fmt.Sprintf("%x", e.value(2)); got != "{00000000000000000000ffff0a000001 00500000 2}" {
		t.Errorf("value %s", got)
	}
}

// lab is a cgroup with the test in it, and a network namespace with servers.
type lab struct {
	t      *testing.T
	cgroup string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	back := ""
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			back = root + path
		}
	}
	l := &lab{t, fmt.Sprintf("%s/minirun-test-loopback-%d", root, os.Getpid())}
	if err := os.Mkdir(l.cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	move := func(to string) {
		if err := os.WriteFile(to+"/cgroup.procs", []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		move(back)
		if err := os.Remove(l.cgroup); err != nil {
			t.Error(err)
		}
	})
	move(l.cgroup)
	l.namespace()
	return l
}

// namespace gives the test's goroutine, and what it starts, a network namespace
// with two more addresses.
func (l *lab) namespace() {
	l.t.Helper()
	goruntime.LockOSThread() // for good: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		l.t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		l.t.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		l.t.Fatal(err)
	}
}

// serve answers at an address with a word, TCP and UDP.
func (l *lab) serve(at, word string) {
	l.t.Helper()
	tcp, err := net.Listen("tcp", at)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { tcp.Close() })
	udp, err := net.ListenPacket("udp", at)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { udp.Close() })
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, word)
			c.Close()
		}
	}()
	go func() {
		b := make([]byte, 10)
		for {
			_, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo([]byte(word), from)
		}
	}()
}

func sockaddr(a netip.AddrPort, six bool) unix.Sockaddr {
	if six {
		return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// ask asks one server, in one of the ways that there are, and returns what it says
// and who the socket believes that it was.
func ask(way string, to netip.AddrPort, six bool, within time.Duration) (word string, peer netip.AddrPort, err error) {
	domain, typ := unix.AF_INET, unix.SOCK_STREAM
	if six {
		domain = unix.AF_INET6
	}
	if way != "tcp" {
		typ = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", peer, err
	}
	defer unix.Close(fd)
	tv := unix.NsecToTimeval(int64(testenv.Timeout(20 * time.Second)))
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	if way == "sendto" {
		err = unix.Sendto(fd, []byte("?"), 0, sockaddr(to, six))
	} else if err = unix.Connect(fd, sockaddr(to, six)); err == nil && way == "udp" {
		_, err = unix.Write(fd, []byte("?"))
	}
	if err != nil {
		return "", peer, err
	}
	b := make([]byte, 20)
	if way == "sendto" {
		// Nobody tells an unconnected socket that its packet was refused.
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n := 0
		for err = unix.EINTR; err == unix.EINTR; {
			n, err = unix.Poll(poll, int(within.Milliseconds()))
		}
		if n == 0 {
			return "", peer, unix.ECONNREFUSED
		}
	}
	n, from, err := unix.Recvfrom(fd, b, 0)
	for err == unix.EINTR { // it has a timeout, so it is not begun again by itself
		n, from, err = unix.Recvfrom(fd, b, 0)
	}
	if err != nil {
		return "", peer, err
	}
	if way == "tcp" {
		if from, err = unix.Getpeername(fd); err != nil {
			return "", peer, err
		}
	} else if way == "udp" {
		name, err := unix.Getpeername(fd)
		if err != nil {
			return "", peer, err
		}
		if addrPort(name) != addrPort(from) {
			return "", peer, fmt.Errorf("getpeername %s, recvfrom %s", addrPort(name), addrPort(from))
		}
	}
	return string(b[:n]), addrPort(from), nil
}

func (l *lab) want(way, to, word string) {
	l.t.Helper()
	a := netip.MustParseAddrPort(to)
	within := testenv.Timeout(20 * time.Second)
	if word == "" {
		within = 300 * time.Millisecond
	}
	got, peer, err := ask(way, a, a.Addr().Is6(), within)
	want := a
	if a.Addr().Unmap() == netip.IPv4Unspecified() {
		want = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), a.Port())
		if a.Addr().Is4In6() {
			want = netip.AddrPortFrom(netip.MustParseAddr("::ffff:127.0.0.1"), a.Port())
		}
	} else if a.Addr() == netip.IPv6Unspecified() {
		want = netip.AddrPortFrom(netip.IPv6Loopback(), a.Port())
	}
	switch {
	case word == "" && err == nil:
		l.t.Errorf("%s to %s: %q answers, want nobody", way, to, got)
	case word != "" && (err != nil || got != word || peer != want):
		l.t.Errorf("%s to %s: %q from %s, %v; want %q from %s", way, to, got, peer, err, word, want)
	}
}

// count is how many programs of ours are attached, of all namespaces.
func (l *lab) count() (n int) {
	l.t.Helper()
	dir, err := linux.OpenAt(unix.AT_FDCWD, l.cgroup, unix.O_RDONLY, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	defer linux.Close(dir)
	for _, h := range hooks() {
		k, err := countAttached(dir, h.attach)
		if err != nil {
			l.t.Fatal(err)
		}
		n += k
	}
	return n
}

func entries(list ...string) (out []Entry) {
	for _, text := range list {
		f := strings.Fields(text)
		from, to := netip.MustParseAddrPort(f[0]), netip.MustParseAddrPort(f[1])
		for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			out = append(out, Entry{proto, from.Addr().As16(), from.Port(), to.Addr().As16(), to.Port()})
		}
	}
	return out
}

func (l *lab) do(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// Whoever asks for a port of loopback is led, in every way that there is to ask,
// and does not notice. Nobody else is.
func TestRootLoopback(t *testing.T) {
	l := newLab(t)
	if err := Check(); err != nil {
		t.Fatal(err)
	}
	l.serve("127.0.0.2:8000", "four")
	l.serve("127.0.0.3:8001", "one")
	l.serve("[::1]:9000", "six")
	l.serve("127.0.0.1:7000", "own")
	list := entries("0.0.0.0:80 127.0.0.2:8000", "[::]:80 [::1]:9000", "127.0.0.1:81 127.0.0.3:8001")
	l.do(Add(l.cgroup, Published, list))
	l.do(Add(l.cgroup, Published, list)) // twice
	if n := l.count(); n != 8 {
		t.Errorf("%d programs are attached, want 8", n)
	}
	for _, way := range []string{"tcp", "udp", "sendto"} {
		for _, x := range []struct{ to, word string }{
			{"127.0.0.1:80", "four"},
			{"127.9.9.9:80", "four"},
			{"0.0.0.0:80", "four"},
			{"[::ffff:127.0.0.1]:80", "four"},
			{"[::ffff:127.9.9.9]:80", "four"},
			{"[::1]:80", "six"},
			{"[::]:80", "six"},
			{"127.0.0.1:81", "one"},
			{"[::ffff:127.0.0.1]:81", "one"},
			{"0.0.0.0:81", "one"},
			{"127.0.0.4:81", ""}, // another address
			{"[::1]:81", ""},     // another family
			{"127.0.0.1:82", ""}, // another port
			{"127.0.0.1:7000", "own"},
			{"127.0.0.2:8000", "four"}, // directly: as it is
			{"[::1]:9000", "six"},
		} {
			l.want(way, x.to, x.word)
		}
	}
	// Another network namespace has a loopback of its own.
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.namespace()
		for _, way := range []string{"tcp", "udp", "sendto"} {
			l.want(way, "127.0.0.1:80", "")
			l.want(way, "[::1]:80", "")
		}
		l.serve("127.0.0.1:80", "inner")
		l.want("tcp", "127.0.0.1:80", "inner")
		if err := Add(l.cgroup, Published, entries("127.0.0.1:90 127.0.0.1:80")); err != nil {
			t.Error(err)
		}
		l.want("udp", "127.0.0.1:90", "inner")
		if n := l.count(); n != 16 {
			t.Errorf("%d programs are attached for two namespaces, want 16", n)
		}
		if err := Replace(l.cgroup, Published, nil); err != nil {
			t.Error(err)
		}
	}()
	<-done
	if n := l.count(); n != 8 {
		t.Errorf("%d programs are attached, want 8", n)
	}
	// Owners do not touch each other's.
	l.do(Replace(l.cgroup, NodePorts, entries("0.0.0.0:83 127.0.0.2:8000", "0.0.0.0:84 127.0.0.2:8000")))
	l.do(Replace(l.cgroup, NodePorts, entries("0.0.0.0:83 127.0.0.3:8001")))
	l.want("tcp", "127.0.0.1:83", "one")
	l.want("tcp", "127.0.0.1:84", "")
	l.want("tcp", "127.0.0.1:80", "four")
	l.do(Remove(l.cgroup, Published, entries("0.0.0.0:83 127.0.0.3:8001"))) // not its own
	l.do(Remove(l.cgroup, Published, entries("0.0.0.0:80 127.0.0.9:8000"))) // leads elsewhere by now
	l.want("tcp", "127.0.0.1:83", "one")
	l.want("tcp", "127.0.0.1:80", "four")
	l.do(Replace(l.cgroup, NodePorts, nil))
	l.want("tcp", "127.0.0.1:83", "")
	l.do(Remove(l.cgroup, Published, list[:5]))
	if n := l.count(); n != 8 {
		t.Errorf("%d programs are attached while one port leads somewhere, want 8", n)
	}
	l.do(Remove(l.cgroup, Published, list))
	l.do(Remove(l.cgroup, Published, list)) // twice
	if n := l.count(); n != 0 {
		t.Errorf("%d programs are attached when nothing leads anywhere", n)
	}
	l.want("tcp", "127.0.0.1:80", "")
}

// A socket that talks to several of them knows them apart.
func TestRootLoopback_OneSocket(t *testing.T) {
	l := newLab(t)
	var list []string
	for i := range slots {
		l.serve(fmt.Sprintf("127.0.0.2:%d", 8000+i), fmt.Sprint("word", i))
		list = append(list, fmt.Sprintf("127.0.0.1:%d 127.0.0.2:%d", 80+i, 8000+i))
	}
	l.do(Add(l.cgroup, Published, entries(list...)))
	defer Replace(l.cgroup, Published, nil)
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	l.do(err)
	defer c.Close()
	for range 2 {
		for i := range slots {
			_, err := c.WriteTo([]byte("?"), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80 + i})
			l.do(err)
		}
		seen := map[string]bool{}
		b := make([]byte, 20)
		_ = c.SetReadDeadline(time.Now().Add(testenv.Timeout(20 * time.Second)))
		for range slots {
			n, from, err := c.ReadFrom(b)
			l.do(err)
			seen[string(b[:n])+" "+from.String()] = true
		}
		for i := range slots {
			if want := fmt.Sprintf("word%d 127.0.0.1:%d", i, 80+i); !seen[want] {
				t.Errorf("heard %v, want %q among them", seen, want)
			}
		}
	}
}

// Ports of TCP alone do with half of the programs; the others come with the first
// port of UDP, and use the same memory.
func TestRootLoopback_TCPAlone(t *testing.T) {
	l := newLab(t)
	l.serve("127.0.0.2:8000", "four")
	both := entries("127.0.0.1:80 127.0.0.2:8000")
	tcp, udp := both[:1], both[1:]
	l.do(Add(l.cgroup, Published, tcp))
	if n := l.count(); n != common {
		t.Errorf("%d programs are attached, want %d", n, common)
	}
	l.want("tcp", "127.0.0.1:80", "four")
	l.do(Add(l.cgroup, NodePorts, udp))
	if n := l.count(); n != 8 {
		t.Errorf("%d programs are attached, want 8", n)
	}
	l.want("tcp", "127.0.0.1:80", "four")
	l.want("udp", "127.0.0.1:80", "four")
	l.do(Replace(l.cgroup, NodePorts, nil))
	l.want("tcp", "127.0.0.1:80", "four")
	l.do(Remove(l.cgroup, Published, tcp))
	if n := l.count(); n != 0 {
		t.Errorf("%d programs are left", n)
	}
}

// Somebody is killed after each of the programs, while he attaches them and while
// he takes them away.
func TestRootLoopback_Killed(t *testing.T) {
	l := newLab(t)
	l.serve("127.0.0.2:8000", "four")
	list := entries("0.0.0.0:80 127.0.0.2:8000")
	for n := range 8 {
		l.do(Add(l.cgroup, Published, list))
		g, err := open(l.cgroup)
		l.do(err)
		all := hooks()
		for i := len(all) - 1; i >= n; i-- {
			prog, err := attached(g.dir, all[i].attach, g.name)
			l.do(err)
			l.do(detach(g.dir, prog, all[i].attach))
			linux.Close(prog)
		}
		g.close()
		if n%2 == 0 {
			l.do(Add(l.cgroup, Published, list))
			l.want("tcp", "127.0.0.1:80", "four")
			if n := l.count(); n != 8 {
				t.Errorf("%d programs are attached, want 8", n)
			}
		}
		l.do(Remove(l.cgroup, Published, list))
		if n := l.count(); n != 0 {
			t.Errorf("%d programs are left", n)
		}
	}
}

// countAttached is how many programs are attached to a group itself.
func countAttached(dir int, attach uint32) (int, error) {
	var ids [64]uint32
	query := progQuery{target: uint32(dir), typ: attach, ids: unsafe.Pointer(&ids), count: uint32(len(ids))}
	_, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&query), unsafe.Sizeof(query))
	return int(query.count), err
}
