package integration

import (
	"bufio"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// A names server is `minirun network dns` in the network namespace of a test.
type namesServer struct {
	h     *imageHost
	cmd   *exec.Cmd
	lines chan string
	ended bool
}

// names starts one and waits until it answers all the networks.
func (h *imageHost) names(networks ...string) *namesServer {
	h.t.Helper()
	s := &namesServer{h: h, lines: make(chan string, 100)}
	args := h.command("network", "dns")
	s.cmd = testenv.Command(h.t, args...)
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	s.cmd.Stderr = h.t.Output()
	if err := s.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() {
		defer close(s.lines)
		for in := bufio.NewScanner(out); in.Scan(); {
			s.lines <- in.Text()
		}
		_, _ = io.Copy(io.Discard, out)
	}()
	h.t.Cleanup(func() { s.end(unix.SIGKILL) })
	slices.Sort(networks) // in which order it begins
	for _, n := range networks {
		s.wait("answering " + n + " at")
	}
	return s
}

// wait waits for a line that the server prints.
func (s *namesServer) wait(prefix string) {
	s.h.t.Helper()
	limit := time.After(testenv.Timeout(30 * time.Second))
	for {
		select {
		case line, ok := <-s.lines:
			if !ok {
				s.h.t.Fatalf("the server ended before it said %q", prefix)
			}
			if strings.HasPrefix(line, prefix) {
				return
			}
		case <-limit:
			s.h.t.Fatalf("the server does not say %q", prefix)
		}
	}
}

// end ends the server and waits for its end.
func (s *namesServer) end(sig unix.Signal) {
	if s.ended {
		return
	}
	s.ended = true
	_ = s.cmd.Process.Signal(sig)
	for range s.lines { // its end of the pipe is closed
	}
	if err := s.cmd.Wait(); err != nil && sig != unix.SIGKILL {
		s.h.t.Errorf("the server ended with %v", err)
	}
}

// lookup asks at an address for A records; the answer is "NOERROR 10.0.0.1".
func lookup(kind, at, name string) (string, error) {
	c := dns.Client{Net: kind, Timeout: testenv.Timeout(5 * time.Second)}
	m, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), at+":53")
	if err != nil {
		return "", err
	}
	return answerText(m), nil
}

func (h *imageHost) wantName(at, name, want string) {
	h.t.Helper()
	got := ""
	deadline := time.Now().Add(testenv.Timeout(20 * time.Second))
	for {
		var err error
		if got, err = lookup("udp", at, name); err != nil {
			got = err.Error()
		}
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("%s at %s: %q, want %q", name, at, got, want)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Names are answered while the server runs: to containers that were there before it
// and to those that come, by UDP and TCP, by the network's own server alone.
func TestRootNetworkNames(t *testing.T) {
	h := netSetup(t)
	h.must("network", "create", "--subnet", "10.77.0.0/24", "web")
	h.must("network", "create", "--subnet", "10.78.0.0/24", "--internal", "other")
	before := h.background("", "--network", "web", "--ip", "10.77.0.9", "--network-alias", "www")
	s := h.names("web", "other")
	resolv := func(id string) string {
		t.Helper()
		return h.must("exec", id, "grep", "^nameserver", "/etc/resolv.conf")
	}
	if got := resolv(before); got != "nameserver 10.77.0.1 \n" {
		t.Errorf("resolv.conf of who was there before: %q", got)
	}
	for _, kind := range []string{"udp", "tcp"} {
		if got, err := lookup(kind, "10.77.0.1", "www."); err != nil || got != "NOERROR 10.77.0.9" {
			t.Errorf("over %s: %q, %v", kind, got, err)
		}
	}
	h.background("", "--network", "web", "--hostname", "after", "--ip", "10.77.0.10")
	h.wantName("10.77.0.1", "after.", "NOERROR 10.77.0.10")
	// One that publishes port 53 starts though the server listens on it, and does not
	// get the questions of others.
	publisher := h.background("", "--network", "web", "-p", "53:53/udp", "-p", "53:53/tcp")
	if got := h.must("exec", before, "nslookup", "after."); !strings.Contains(got, "10.77.0.10") || !strings.Contains(got, "10.77.0.1:53") {
		t.Errorf("nslookup in a container: %q", got)
	}
	h.must("delete", "--force", publisher)
	h.wantName("10.77.0.1", "9.0.77.10.in-addr.arpa.", "NOERROR")
	// Another network has its own names, and nothing outside.
	elsewhere := h.background("", "--network", "other", "--ip", "10.78.0.9")
	h.wantName("10.78.0.1", elsewhere+".", "NOERROR 10.78.0.9")
	h.wantName("10.78.0.1", "after.", "NXDOMAIN")
	if r := h.do("exec", elsewhere, "timeout", "2", "nslookup", "after.", "10.77.0.1"); strings.Contains(r.Stdout, "10.77.0.10") {
		t.Errorf("another network's server answers: %+v", r)
	}
	if r := h.do("exec", elsewhere, "nslookup", "after."); r.Code == 0 || !strings.Contains(r.Stdout+r.Stderr, "NXDOMAIN") {
		t.Errorf("a name of another network: %+v", r)
	}
	// The bridge goes, and another one comes.
	h.must("delete", "--force", elsewhere)
	for line := range strings.Lines(h.ip("-o", "link", "show", "type", "bridge")) {
		name := strings.TrimSuffix(strings.Fields(line)[1], ":")
		if strings.Contains(h.ip("-o", "address", "show", "dev", name), "10.78.0.1/24") {
			h.ip("link", "del", name)
		}
	}
	elsewhere = h.background("", "--network", "other", "--ip", "10.78.0.10")
	if r := h.do("exec", elsewhere, "nslookup", elsewhere+"."); !strings.Contains(r.Stdout, "10.78.0.10") {
		t.Errorf("at a bridge that was made anew: %+v", r)
	}
	// It ends: the host's servers are asked again.
	s.end(unix.SIGTERM)
	if got := h.must("exec", before, "cat", "/etc/resolv.conf"); !strings.HasPrefix(got, "#nameserver 10.77.0.1\n") {
		t.Errorf("after its end: %q", got)
	}
	if got := h.must("exec", before, "grep", "after", "/etc/hosts"); !strings.Contains(got, "10.77.0.10") {
		t.Errorf("after its end: /etc/hosts has %q", got)
	}
	// It is killed: who starts after that is not sent to it, and others no more after a reload.
	s = h.names("web", "other")
	s.end(unix.SIGKILL)
	late := h.background("", "--network", "web")
	if got := h.must("exec", late, "cat", "/etc/resolv.conf"); !strings.HasPrefix(got, "#nameserver 10.77.0.1\n") {
		t.Errorf("after it was killed: %q", got)
	}
	if got := resolv(before); got != "nameserver 10.77.0.1 \n" {
		t.Errorf("of who was there when it was killed: %q", got)
	}
	h.must("network", "reload")
	if got := h.must("exec", before, "cat", "/etc/resolv.conf"); !strings.HasPrefix(got, "#nameserver 10.77.0.1\n") {
		t.Errorf("after it was killed, and a reload: %q", got)
	}
	// The next one finds it all.
	s = h.names("web", "other")
	h.wantName("10.77.0.1", late+".", "NOERROR "+h.addressOf(late))
	s.end(unix.SIGTERM)
}

// addressOf is the first address of a container.
func (h *imageHost) addressOf(id string) string {
	h.t.Helper()
	for _, f := range strings.Fields(h.must("exec", id, "ip", "-o", "-4", "addr", "show", "eth0")) {
		if a, _, ok := strings.Cut(f, "/"); ok {
			return a
		}
	}
	h.t.Fatalf("container %s has no address", id)
	return ""
}
