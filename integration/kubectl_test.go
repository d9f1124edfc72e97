package integration

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// forwarded starts a command that forwards a port, and gives the address that it
// says, and what ends it.
func (d *daemonHost) forwarded(cmd *exec.Cmd) (address string, end func()) {
	d.t.Helper()
	var errs bytes.Buffer
	cmd.Stderr = &errs
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	end = func() {
		if cmd != nil {
			cmd.Process.Signal(unix.SIGINT)
			cmd.Wait()
			cmd = nil
		}
	}
	d.t.Cleanup(end)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if m := regexp.MustCompile(`^Forwarding from (127\.0\.0\.1:\d+) -> `).FindStringSubmatch(lines.Text()); m != nil {
			go io.Copy(io.Discard, out) // it says more with each connection
			return m[1], end
		}
	}
	end()
	d.t.Fatalf("it forwards nothing: %s", errs.String())
	return "", nil
}

// echoes are the fields of a container that has a port called echo.
func echoes(command string) string {
	return "command: " + command + ", ports: [{name: echo, containerPort: 8080}], readinessProbe: {tcpSocket: {port: echo}, timeoutSeconds: 30}"
}

// dial makes a connection whose reads and writes do not last forever.
func dial(address string) (*net.TCPConn, error) {
	limit := testenv.Timeout(20 * time.Second)
	c, err := net.DialTimeout("tcp", address, limit)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), c.SetDeadline(time.Now().Add(limit))
}

// exchange sends a text, says that this is all, and gives what comes back.
func exchange(address, text string) (string, error) {
	c, err := dial(address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	go func() {
		io.WriteString(c, text)
		c.CloseWrite()
	}()
	b, err := io.ReadAll(c)
	return string(b), err
}

// TestRootKubectl: kubectl as it comes with Debian, over TLS. It speaks SPDY before
// 1.31, and can be told to later.
func TestRootKubectl(t *testing.T) {
	d := daemonSetup(t)
	kubectl, err := exec.LookPath("kubectl")
	if err != nil {
		t.Fatalf("%v: tools/deps.sh installs it", err)
	}
	d.upPods("kubectl", "--listen", "127.0.0.1:0")
	command := func(args ...string) *exec.Cmd {
		cmd := exec.Command(kubectl, append([]string{"--kubeconfig", filepath.Join(d.dir, "data", "kubeconfig"), "--cache-dir", filepath.Join(d.dir, "cache")}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+d.dir)
		return cmd
	}
	must := func(args ...string) string {
		t.Helper()
		var errs bytes.Buffer
		cmd := command(args...)
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("kubectl %q: %v\n%s%s", args, err, out, errs.String())
		}
		return string(out)
	}
	must("apply", "-f", d.file("web.yaml", serviceYAML("web")+
		workloadYAML("Deployment", "web", "", podSpec("", echoes(`[sh, -c, "echo ready; exec nc -ll -p 8080 -e cat"]`)))+
		podYAML("wrong", podSpec("", "command: [/no/such/program]"))))
	must("rollout", "status", "deployment/web", "--timeout", testenv.Timeout(50*time.Second).String())
	pod := strings.TrimSpace(must("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}"))
	if got := must("logs", pod); got != "ready\n" {
		t.Errorf("logs: %q", got)
	}
	if got := must("auth", "can-i", "delete", "deployments"); got != "yes\n" {
		t.Errorf("can-i: %q", got)
	}
	if got := must("auth", "can-i", "--list"); !strings.Contains(got, "*.*") {
		t.Errorf("can-i --list: %q", got)
	}
	cmd := command("--as", "nobody", "delete", "pod", pod)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "there are no users to act as") {
		t.Errorf("as somebody else: %v, %s", err, out)
	}
	text := strings.Repeat("0123456789abcdef", 1<<16)
	for _, sockets := range []string{"true", "false"} {
		t.Setenv("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", sockets)
		t.Setenv("KUBECTL_PORT_FORWARD_WEBSOCKETS", sockets)
		cmd := command("exec", "-i", pod, "--", "sh", "-c", "cat; echo wrong >&2; exit 7")
		cmd.Stdin = strings.NewReader(text)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		err := cmd.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 7 || out.String() != text || !strings.HasPrefix(errs.String(), "wrong\n") {
			t.Errorf("exec: %v, %d bytes of %d, %q", err, out.Len(), len(text), errs.String())
		}
		for _, target := range []string{"pod/" + pod, "service/web"} {
			port := ":8080"
			if target == "service/web" {
				port = ":80"
			}
			address, end := d.forwarded(command("port-forward", "--address", "127.0.0.1", target, port))
			// That kubectl closes a connection when either side has ended.
			if got := answerAll(t, address, text[:1000]); got != text[:1000] {
				t.Errorf("port-forward to %s: %d bytes", target, len(got))
			}
			end()
		}
	}
	// The same failure again is the same event.
	var counts []string
	eventually(t, "two runs have failed", func() bool {
		counts = strings.Fields(must("get", "events", "--field-selector", "involvedObject.name=wrong,reason=Failed", "-o", "jsonpath={range .items[*]}{.count} {end}"))
		return len(counts) > 1 || len(counts) == 1 && counts[0] != "1"
	})
	if len(counts) != 1 {
		t.Errorf("events of failures: %s", counts)
	}
	must("delete", "deployment/web", "service/web", "pod/wrong")
}

// answerAll sends a text and reads as much as it is.
func answerAll(t *testing.T, address, text string) string {
	t.Helper()
	c, err := dial(address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(text))
	n, err := io.ReadFull(c, b)
	if err != nil {
		t.Errorf("after %d bytes: %v", n, err)
	}
	return string(b[:n])
}

// TestRootKubePortForward: what listens on the pod's loopback alone, on the host's
// for a pod of the host's network, and what does not listen.
func TestRootKubePortForward(t *testing.T) {
	d := daemonSetup(t)
	d.upPods("forward")
	d.must("kube", "apply", "-f", d.file("pods.yaml", serviceYAML("inner")+
		podYAML("inner", podSpec("", echoes(`[sh, -c, "echo inner > /index.html; busybox httpd -p 127.0.0.1:84 -h /; busybox httpd -p [::1]:86 -h /; exec nc -ll -p 8080 -e cat"]`)))+
		podYAML("outer", podSpec("hostNetwork: true", `command: [sh, -c, "echo outer > /index.html; exec busybox httpd -f -p 127.0.0.1:87 -h /"]`))))
	d.must("kube", "wait", "pod", "inner", "outer", "--for=condition=Ready", "--timeout", testenv.Timeout(50*time.Second).String())
	text := strings.Repeat("0123456789abcdef", 1<<17)
	start := func(args ...string) (string, func()) {
		t.Helper()
		return d.forwarded(exec.Command(testenv.Binary(t), d.command(append([]string{"kube", "port-forward"}, args...)...)...))
	}
	for _, args := range [][]string{{"inner", ":8080"}, {"service/inner", ":80"}} {
		address, end := start(args...)
		for range 2 {
			if got, err := exchange(address, text); err != nil || got != text {
				t.Errorf("%q: %d bytes of %d, %v", args, len(got), len(text), err)
			}
		}
		end()
	}
	for _, tt := range []struct{ pod, port, want string }{{"inner", ":84", "\ninner\n"}, {"inner", ":86", "\ninner\n"}, {"outer", ":87", "\nouter\n"}} {
		address, end := start(tt.pod, tt.port)
		eventually(t, tt.pod+tt.port+" answers", func() bool {
			got, err := exchange(address, "GET / HTTP/1.0\r\n\r\n")
			return err == nil && strings.HasSuffix(got, tt.want)
		})
		end()
	}
	address, end := start("inner", ":9")
	if got, err := exchange(address, "hello"); got != "" || err != nil && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("nobody has answered %q, %v", got, err)
	}
	end()
}
