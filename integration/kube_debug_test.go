package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// TestRootKubeDebug: a shell beside a container that has none is talked to, with pipes
// and at a terminal, and its end is known; by minirun kube, and by kubectl where it
// knows the subresource (1.23; Debian 12 has 1.20).
func TestRootKubeDebug(t *testing.T) {
	d := daemonSetup(t)
	d.upPods("debug", "--listen", "127.0.0.1:0")
	d.must("kube", "apply", "-f", d.file("app.yaml", `
apiVersion: v1
kind: Pod
metadata: {name: app}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: base, imagePullPolicy: Never, command: [sleep, "4242"]}]
`))
	d.must("kube", "wait", "pod", "app", "--for=condition=Ready", "--timeout", testenv.Timeout(50*time.Second).String())
	debug := func(command ...string) *exec.Cmd {
		return exec.Command(testenv.Binary(t), d.command(append([]string{"kube", "debug"}, command...)...)...)
	}
	clients := map[string]func(...string) *exec.Cmd{"minirun": debug}
	if kubectl := newKubectl(t); kubectl != "" {
		clients["kubectl"] = func(command ...string) *exec.Cmd {
			cmd := exec.Command(kubectl, append([]string{"--kubeconfig", filepath.Join(d.dir, "data", "kubeconfig"), "--cache-dir", filepath.Join(d.dir, "cache"), "debug"}, command...)...)
			cmd.Env = append(os.Environ(), "HOME="+d.dir)
			return cmd
		}
	}
	for client, debug := range clients {
		// Without a terminal. It ends with its input.
		cmd := debug("app", "-i", "--image", "base", "--image-pull-policy", "Never", "--target", "c", "-c", client+"-pipe", "--", "sh", "-c", "read line; echo got $line; ps -o args; exit 3")
		cmd.Stdin = strings.NewReader("hello\n")
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		err := cmd.Run()
		var exit *exec.ExitError
		if client == "minirun" && (!errors.As(err, &exit) || exit.ExitCode() != 3) || client == "kubectl" && err != nil && !errors.As(err, &exit) {
			t.Errorf("%s: %v, %s", client, err, errs.String())
		}
		if !strings.Contains(out.String(), "got hello\n") || !strings.Contains(out.String(), "sleep 4242") {
			t.Errorf("%s: %q, %s", client, out.String(), errs.String())
		}
		// At a terminal.
		cmd = debug("app", "-it", "--image", "base", "--image-pull-policy", "Never", "-c", client+"-tty", "--", "sh")
		x := terminalOf(t, cmd)
		x.send("echo $(tty)is$((40+2))here; exit 4\n")
		x.expect("/dev/pts/0is42here")
		if code := x.exit(); client == "minirun" && code != 4 {
			t.Errorf("%s: exit status %d", client, code)
		}
		d.must("kube", "wait", "pod", "app", "--for", `jsonpath={.status.ephemeralContainerStatuses[?(@.name=="`+client+`-pipe")].state.terminated.exitCode}=3`, "--timeout", testenv.Timeout(50*time.Second).String())
		if got := d.must("kube", "logs", "app", "-c", client+"-pipe", "--tail", "-1"); !strings.HasPrefix(got, "got hello\n") {
			t.Errorf("%s: logs: %q", client, got)
		}
	}
	got := d.must("kube", "get", "pod", "app", "-o", "custom-columns=P:.status.phase,R:.status.containerStatuses[*].ready,N:.status.containerStatuses[*].restartCount", "--no-headers")
	if strings.Join(strings.Fields(got), " ") != "Running true 0" {
		t.Errorf("the pod: %q", got)
	}
	if out := d.do("kube", "debug", "app", "--image", "base", "--target", "none"); out.Code == 0 || !strings.Contains(out.Stderr, `targetContainerName: Not found: "none"`) {
		t.Errorf("no such target: %+v", out)
	}
	d.must("kube", "delete", "pod", "app")
}

// newKubectl is a kubectl that patches ephemeralcontainers; empty if there is none.
func newKubectl(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("kubectl")
	if err != nil {
		t.Fatalf("%v: tools/deps.sh installs it", err)
	}
	out, err := exec.Command(path, "version", "--client", "-o", "json").Output()
	var v struct{ ClientVersion struct{ Minor string } }
	if err == nil {
		err = json.Unmarshal(out, &v)
	}
	if err != nil {
		t.Fatalf("kubectl version: %v: %s", err, out)
	}
	minor, err := strconv.Atoi(strings.TrimSuffix(v.ClientVersion.Minor, "+"))
	if err != nil {
		t.Fatalf("kubectl version: %v: %s", err, out)
	}
	if minor < 23 {
		t.Logf("kubectl 1.%d knows no subresource ephemeralcontainers", minor)
		return ""
	}
	return path
}

// terminalOf starts a command at a terminal.
func terminalOf(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	x := &terminal{t: t, cmd: cmd}
	x.master, x.slave = ptyPair(t, 33, 77)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = x.slave, x.slave, x.slave
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return x
}
