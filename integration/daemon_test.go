package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// upPods starts minirund with a control group of the test's own, which is gone at
// its end, as are the pods. It gives the command line, for those who start it again.
func (d *daemonHost) upPods(name string, args ...string) (up []string) {
	d.t.Helper()
	d.t.Setenv("MINIRUND_SOCKET", d.socket)
	group := fmt.Sprintf("/minirun-test-%d-%s", os.Getpid(), name)
	up = d.up(append([]string{"--cgroup-parent", group}, args...)...)
	d.must(up...)
	d.t.Cleanup(func() {
		if d.do("kube", "get", "pods").Code != 0 {
			d.do(up...)
		}
		if d.t.Failed() {
			d.t.Log(d.do("kube", "describe", "pod").Stdout)
		}
		d.do("kube", "delete", "deploy,rs,sts,ds,job,cronjob", "--all", "--cascade", "orphan")
		d.removePods(group)
	})
	return up
}

// removePods removes all pods, and the cgroup that theirs are below.
func (d *daemonHost) removePods(group string) {
	d.t.Helper()
	d.do("kube", "delete", "pod", "--all", "--grace-period", "0", "--force")
	eventually(d.t, "the pods' cgroups are gone", func() bool { // a forced deletion waits for nobody
		gone := true
		for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
			if err := os.Remove(mount + group); err != nil && !errors.Is(err, os.ErrNotExist) {
				gone = false
			}
		}
		return gone
	})
}

// status is what minirun status says.
func (d *daemonHost) status() string { d.t.Helper(); return d.must("status", "--socket", d.socket) }

// Ranges of addresses that somebody else has are refused, with the way out, and
// before anything is made.
func TestRootUpRanges(t *testing.T) {
	d := daemonSetup(t)
	t.Setenv("MINIRUND_SOCKET", d.socket)
	d.ip("link", "add", "lan0", "type", "bridge")
	d.ip("address", "add", "10.96.7.1/24", "dev", "lan0")
	d.ip("link", "set", "lan0", "up")
	d.must("network", "create", "--subnet", "10.55.0.0/24", "other")
	for _, tt := range []struct{ want, flag, value string }{
		{"range of services 10.96.0.0/16 overlaps the host's route to 10.96.7.0/24", "--service-range", "10.96.0.0/16"},
		{"range of services 10.55.0.0/16 overlaps 10.55.0.0/24 of network other", "--service-range", "10.55.0.0/16"},
		{"choose another one with --service-range", "--service-range", "10.55.0.0/16"},
		{"range of pods 10.96.0.0/16 overlaps the host's route to 10.96.7.0/24", "--pod-range", "10.96.0.0/16"},
		{"choose another one with --pod-range", "--pod-range", "10.55.0.0/16"},
		{"two ranges of services of the same family", "--service-range", "10.1.0.0/16,10.2.0.0/16"},
		{"it begins at 10.1.0.0/16", "--service-range", "10.1.2.0/16"},
		{"want an address and a length", "--pod-range", "10.1.2.0"},
		{"want two ports", "--node-port-range", "30000"},
		{"the first port is behind the last one", "--node-port-range", "31000-30000"},
		{"want a letter", "--service-table", "a b"},
	} {
		d.refused(tt.want, d.up(tt.flag, tt.value)...)
	}
	d.refused("overlaps the range of pods 10.3.4.0/24", d.up("--service-range", "10.3.0.0/16", "--pod-range", "10.3.4.0/24")...)

	// The usual range is taken: another one is, and it stays the same.
	d.must(d.up("--network", "p1", "--pod-range", "10.56.0.0/24", "--node-port-range", "31000-31001")...)
	service := func(name string) (ip, port string) {
		t.Helper()
		d.must("kube", "create", "-f", d.file(name, "apiVersion: v1\nkind: Service\nmetadata: {name: "+name+"}\nspec: {type: NodePort, ports: [{port: 80}]}\n"))
		ip = d.must("kube", "get", "service", name, "-o", "jsonpath={.spec.clusterIP}")
		return ip, d.must("kube", "get", "service", name, "-o", "jsonpath={.spec.ports[0].nodePort}")
	}
	first, port := service("one")
	if !strings.HasPrefix(first, "10.112.") || port != "31000" && port != "31001" {
		t.Errorf("a service has %s and port %s", first, port)
	}
	if got := d.must("network", "inspect", "p1"); !strings.Contains(got, "10.56.0.0/24") {
		t.Errorf("network of pods: %s", got)
	}

	// Another one beside it needs things of its own.
	beside := func(more ...string) []string {
		return append([]string{"up", "--socket", d.socket + "2", "--data", d.dir + "/data2"}, more...)
	}
	d.refused(`another minirund has its pods on network "p1"`, beside("--network", "p1")...)
	d.refused(`another minirund has its services in the nftables table "minirun_kube"`, beside()...)
	d.refused("--service-table", beside()...)
	d.must(beside("--service-table", "second", "--service-range", "10.57.0.0/24")...)
	d.must("down", "--socket", d.socket+"2")

	// A route that came later is no reason not to start.
	d.ip("route", "add", "10.112.9.0/24", "dev", "lan0")
	d.must("down", "--socket", d.socket)
	d.refused("has the subnets", d.up("--network", "p1", "--pod-range", "10.58.0.0/24")...)
	d.must(d.up("--network", "p1")...)
	if second, _ := service("two"); !strings.HasPrefix(second, "10.112.") {
		t.Errorf("a service has %s", second)
	}
	if got := d.status(); !strings.Contains(got, "warning: range of services 10.112.0.0/16 overlaps the host's route to 10.112.9.0/24") {
		t.Errorf("status:\n%s", got)
	}
}

// file writes a file of the test.
func (d *daemonHost) file(name, text string) string {
	d.t.Helper()
	path := filepath.Join(d.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	return path
}

// The host reaches services although it has no default route, and nothing of that is
// left when there are no services.
func TestRootUpNoDefaultRoute(t *testing.T) {
	d := daemonSetup(t)
	rules := func() string {
		return d.ip("rule", "show", "pref", "33000") + d.ip("route", "show", "table", "all", "type", "unicast", "proto", "static")
	}
	before := rules()
	up := d.upPods("up")
	kube := func(args ...string) string {
		t.Helper()
		return d.must(append([]string{"kube"}, args...)...)
	}
	kube("apply", "-f", d.file("web.yaml", `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: base, imagePullPolicy: Never, command: [sh, -c, "mkdir /www; echo here > /www/index.html; exec httpd -f -p 8080 -h /www"], readinessProbe: {tcpSocket: {port: 8080}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`))
	kube("wait", "pod", "web", "--for=condition=Ready", "--timeout=50s")
	ip := strings.TrimSpace(kube("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"))
	if got := d.tool("busybox", "wget", "-q", "-O", "-", "http://"+ip+"/"); got != "here\n" {
		t.Errorf("the service says %q", got)
	}
	if routes := d.ip("route", "show", "default"); routes != "" {
		t.Errorf("there is a default route: %s", routes)
	}
	if got := d.status(); strings.Contains(got, "warning") {
		t.Errorf("status:\n%s", got)
	}
	// With another route ours is not used.
	d.ip("link", "add", "lan0", "type", "bridge")
	d.ip("address", "add", "192.0.2.1/24", "dev", "lan0")
	d.ip("link", "set", "lan0", "up")
	d.ip("route", "add", "default", "via", "192.0.2.2")
	if got := d.ip("route", "get", ip); !strings.Contains(got, "lan0") {
		t.Errorf("route: %s", got)
	}
	if got := d.tool("busybox", "wget", "-q", "-O", "-", "http://"+ip+"/"); got != "here\n" {
		t.Errorf("the service says %q", got)
	}
	// While there are services, it stays without minirund.
	d.must("down", "--socket", d.socket)
	d.ip("route", "del", "default")
	if got := d.tool("busybox", "wget", "-q", "-O", "-", "http://"+ip+"/"); got != "here\n" {
		t.Errorf("the service says %q", got)
	}
	d.must(up...)
	kube("delete", "pod/web", "service/web")
	d.must("down", "--socket", d.socket)
	if after := rules(); after != before {
		t.Errorf("routes and rules were %q, are %q", before, after)
	}
}

// How long a container waits that ends again and again is a choice.
func TestRootUpBackoff(t *testing.T) {
	d := daemonSetup(t)
	t.Setenv("MINIRUND_SOCKET", d.socket)
	d.refused("want default or kubernetes", d.up("--backoff", "never")...)
	group := fmt.Sprintf("/minirun-test-%d-backoff", os.Getpid())
	up := d.up("--cgroup-parent", group)
	t.Cleanup(func() { d.removePods(group) })
	// The first restart does not wait, the second one does.
	for _, tt := range []struct {
		name, waits string
		args        []string
	}{{"kubelike", "10s 20s 40s 1m20s", []string{"--backoff", "kubernetes"}}, {"quick", "1s 2s 4s 8s 16s 32s", nil}} {
		d.must(append(up, tt.args...)...)
		d.must("kube", "create", "-f", d.file(tt.name, `
apiVersion: v1
kind: Pod
metadata: {name: `+tt.name+`}
spec: {containers: [{name: c, image: base, imagePullPolicy: Never, command: ["false"]}]}
`))
		seen := ""
		eventually(t, tt.name+" waits", func() bool {
			if w := d.must("kube", "get", "pod", tt.name, "-o", "jsonpath={.status.containerStatuses[0].state.waiting.message}"); seen == "" {
				seen = w
			}
			return seen != ""
		})
		if wait, _, ok := strings.Cut(strings.TrimPrefix(seen, "back-off "), " restarting failed container=c"); !ok || !slices.Contains(strings.Fields(tt.waits), wait) {
			t.Errorf("%s: %q, want one of %s", tt.name, seen, tt.waits)
		}
		d.must("kube", "delete", "pod", tt.name, "--grace-period", "0", "--force")
		d.must("down", "--socket", d.socket)
	}
	d.must(up...) // for what is to be removed
}

// A log is followed beyond the end of a run, and no further than the last one.
func TestRootKubeLogsFollow(t *testing.T) {
	d := daemonSetup(t)
	d.upPods("logs")
	d.must("kube", "create", "-f", d.file("pod.yaml", `
apiVersion: v1
kind: Pod
metadata: {name: tries}
spec:
  restartPolicy: OnFailure
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - {name: c, image: base, imagePullPolicy: Never, volumeMounts: [{name: v, mountPath: /v}], command: [sh, -c, "n=$(cat /v/n 2>/dev/null || echo 0); echo $((n+1)) > /v/n; echo try $n; test $n = 2"]}
`))
	var r testenv.Result
	eventually(t, "it has begun", func() bool { r = d.do("kube", "logs", "-f", "tries"); return r.Code == 0 })
	if want := "try 0\ntry 1\ntry 2\n"; r.Stdout != want {
		t.Errorf("got %q %q, want %q", r.Stdout, r.Stderr, want)
	}
	if got := d.must("kube", "logs", "tries", "--run", "0"); got != "try 0\n" {
		t.Errorf("the first: %q", got)
	}
	if r := d.do("kube", "logs", "tries", "--run", "5"); r.Code == 0 || !strings.Contains(r.Stderr, "run 5 of container c is not kept; there are [0 1 2]") {
		t.Errorf("one that there is not: %+v", r)
	}
}
