package node

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/container"
	inetip "github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/internal/testenv"
	"github.com/minirun/minirun/network"
	"github.com/minirun/minirun/orchestrate/api"
	"github.com/minirun/minirun/orchestrate/controller"
	"github.com/minirun/minirun/orchestrate/podlife"
	"github.com/minirun/minirun/orchestrate/rest"
	"github.com/minirun/minirun/orchestrate/store"
)

// helperEnv is the configuration of a helper process: a node with the API on a
// socket. It can be killed.
const helperEnv = "MINIRUN_TEST_NODE"

type helperConfig struct {
	Dir, Images, Network, Cgroup string
	Check, Measure, PullBackoff  time.Duration
	Quick                        bool // restarts do not wait
	// Puller is the minirund that pulls images; nobody does if it is empty.
	Puller string
	// Controllers: those of claims, Deployments and Jobs run beside it.
	Controllers bool
	PodPIDs     int64
	// Store is the file of the objects, if it is not in Dir, Root the node's directory.
	Store, Root string
	// Fail is the step at which the process kills itself, the Nth time.
	Fail string
	N    int32
}

func TestMain(m *testing.M) {
	if addr := os.Getenv(grpcEnv); addr != "" {
		fmt.Fprintln(os.Stderr, serveHealth(addr))
		os.Exit(1)
	}
	if text := os.Getenv(helperEnv); text != "" {
		if err := helper(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func helper(text string) error {
	var c helperConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	os.Unsetenv(helperEnv)
	registry := api.NewRegistry()
	s, err := store.Open(cmp.Or(c.Store, filepath.Join(c.Dir, "store")), registry.Stored(), store.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	_, _ = s.Create("namespaces", &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	h := container.Networks(c.Images)
	if _, err := h.Store.Network(c.Network); err != nil {
		if _, err := h.Create(&network.Spec{Name: c.Network, Subnets: []inetip.Prefix{inetip.MustParsePrefix("10.77.0.0/16")}}); err != nil {
			return err
		}
	}
	var times atomic.Int32
	o := Options{
		PodPIDs: c.PodPIDs,
		Store:   s, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})), Root: cmp.Or(c.Root, filepath.Join(c.Dir, "node")), Images: c.Images, Network: c.Network,
		CgroupParent: c.Cgroup, NodeName: "host", CheckEvery: c.Check, MeasureEvery: c.Measure, Services: &recordingServices{path: filepath.Join(c.Dir, "services")},
		Pull: func(context.Context, Pull) error { return fmt.Errorf("no registry here") },
		Fail: func(step string) {
			if step == c.Fail && times.Add(1) == c.N {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		},
	}
	o.PullBackoff = c.PullBackoff
	if c.Quick {
		o.Backoff = podlife.Backoff{Initial: time.Millisecond, Cap: time.Millisecond, Reset: time.Hour}
	}
	if c.Puller != "" {
		o.Pull = pullBy(c.Puller, c.Images)
	}
	n, err := New(o)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	l, err := net.Listen("unix", filepath.Join(c.Dir, "s"))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/", rest.New(s, registry))
	mux.HandleFunc("/exec/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		o := &corev1.PodExecOptions{Container: r.PathValue("container"), Command: r.URL.Query()["c"], TTY: r.URL.Query().Has("tty")}
		streams := rest.Streams{Stdin: r.Body, Stdout: w, Stderr: w}
		if o.TTY {
			streams.Stderr = nil
		}
		code, err := n.Exec(r.Context(), "default", r.PathValue("pod"), o, streams)
		fmt.Fprintf(w, "\x00%d %v", code, err)
	})
	mux.HandleFunc("/attach/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		code, err := n.Attach(r.Context(), "default", r.PathValue("pod"), &corev1.PodAttachOptions{Container: r.PathValue("container")}, rest.Streams{Stdin: r.Body})
		fmt.Fprintf(w, "\x00%d %v", code, err)
	})
	mux.HandleFunc("/log/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		o := &rest.LogOptions{PodLogOptions: corev1.PodLogOptions{Container: r.PathValue("container"), Follow: q.Has("follow"), Previous: q.Has("previous"), Timestamps: q.Has("timestamps")}}
		if t := q.Get("run"); t != "" {
			run := int32(atoi(t))
			o.Run = &run
		}
		if t := q.Get("tail"); t != "" {
			lines := int64(atoi(t))
			o.TailLines = &lines
		}
		if t := q.Get("limit"); t != "" {
			bytes := int64(atoi(t))
			o.LimitBytes = &bytes
		}
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		if err := n.Logs(r.Context(), "default", r.PathValue("pod"), o, w); err != nil {
			fmt.Fprintf(w, "\x00%v", err)
		}
	})
	mux.HandleFunc("/metrics/{pod}", func(w http.ResponseWriter, r *http.Request) {
		m, err := n.PodMetrics("default", r.PathValue("pod"))
		all, err2 := n.NodeMetrics()
		fmt.Fprintf(w, "%+v %v %+v %v", m, err, all, err2)
	})
	if c.Controllers {
		controllers, err := controller.New(controller.Options{Store: s, Log: o.Log, Volumes: filepath.Join(c.Dir, "volumes")})
		if err != nil {
			return err
		}
		ended := make(chan struct{})
		go func() { defer close(ended); _ = controllers.Run(ctx) }()
		defer func() { <-ended }()
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go server.Serve(l)
	defer server.Close()
	return n.Run(ctx)
}

// recordingServices writes down what it is told.
type recordingServices struct{ path string }

func (s *recordingServices) note(what string, pod *corev1.Pod) {
	f, err := os.OpenFile(s.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		fmt.Fprintf(f, "%s %s\n", what, pod.Name)
		f.Close()
	}
}

func (s *recordingServices) Ready(pod *corev1.Pod, ips []netip.Addr) error {
	s.note(fmt.Sprintf("ready(%d)", len(ips)), pod)
	return nil
}
func (s *recordingServices) Remove(pod *corev1.Pod) error { s.note("remove", pod); return nil }
func (s *recordingServices) Connections(pod *corev1.Pod) (int, error) {
	s.note("connections", pod)
	raw, err := os.ReadFile(s.path + ".open")
	if err != nil {
		return 0, nil //nolint:nilerr // none
	}
	return strconv.Atoi(strings.TrimSpace(string(raw)))
}
func (s *recordingServices) Forget(pod *corev1.Pod) error { s.note("forget", pod); return nil }

// bench is a host with a node, for one test.
type bench struct {
	t      *testing.T
	c      helperConfig
	cmd    *exec.Cmd
	log    *os.File
	client *http.Client
	work   chan func() error // to the goroutine in the network namespace
	done   chan error
}

func newBench(t *testing.T) *bench {
	t.Helper()
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	testenv.Supervisor(t)
	dir := testenv.StateRoot(t)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, c: helperConfig{
		Dir: dir, Images: filepath.Join(dir, "images"), Network: "pods", Cgroup: fmt.Sprintf("/minirun-test-%d/%s", os.Getpid(), testenv.UniqueID(t)),
	}}
	socket := filepath.Join(dir, "s")
	b.client = &http.Client{Timeout: testenv.Timeout(time.Minute), Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	rootfs := testenv.Rootfs(t)
	out, err := exec.Command(testenv.Binary(t), "--store", b.c.Images, "image", "import", "--quiet", "--change", `CMD ["sh"]`, rootfs, "base:1").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b.log, err = os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	// What is started from this thread is in a network of its own.
	b.work, b.done = make(chan func() error), make(chan error)
	go func() {
		goruntime.LockOSThread() // never unlocked
		for f := range b.work {
			b.done <- f()
		}
	}()
	b.inNet(func() error { return unix.Unshare(unix.CLONE_NEWNET) })
	b.host("ip", "link", "set", "lo", "up")
	t.Cleanup(func() {
		close(b.work)
		if t.Failed() {
			raw, _ := os.ReadFile(b.log.Name())
			t.Logf("log:\n%s", raw)
		}
		b.log.Close()
		_ = os.Remove("/sys/fs/cgroup" + b.c.Cgroup)
		_ = os.Remove("/sys/fs/cgroup/unified" + b.c.Cgroup)
	})
	t.Cleanup(b.clean)
	b.run("", 0)
	return b
}

// run starts the node, which kills itself at a step.
func (b *bench) run(fail string, times int32) {
	b.t.Helper()
	b.begin(fail, times)
	b.eventually("the API answers", func() bool { _, code := b.do(http.MethodGet, "/api/v1/pods", nil); return code == 200 })
}

// begin is run for a step that may come before the API answers.
func (b *bench) begin(fail string, times int32) {
	b.t.Helper()
	b.c.Fail, b.c.N = fail, times
	raw, err := json.Marshal(b.c)
	if err != nil {
		b.t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(b.c.Dir, "s"))
	b.cmd = exec.Command("/proc/self/exe")
	b.cmd.Env = append(os.Environ(), helperEnv+"="+string(raw))
	b.cmd.Stdout, b.cmd.Stderr = b.log, b.log
	b.inNet(b.cmd.Start)
}

// inNet does something in the network namespace of the host.
func (b *bench) inNet(f func() error) {
	b.t.Helper()
	b.work <- f
	if err := <-b.done; err != nil {
		b.t.Fatal(err)
	}
}

// host runs a command in the network namespace of the host.
func (b *bench) host(command ...string) (out string) {
	b.t.Helper()
	b.inNet(func() error {
		raw, err := exec.Command(command[0], command[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%q: %w: %s", command, err, raw)
		}
		out = string(raw)
		return nil
	})
	return out
}

// stop ends the node, by SIGKILL or politely.
func (b *bench) stop(sig syscall.Signal) {
	b.t.Helper()
	if b.cmd == nil {
		return
	}
	_ = b.cmd.Process.Signal(sig)
	b.wait()
}

func (b *bench) wait() {
	b.t.Helper()
	done := make(chan error, 1)
	go func() { done <- b.cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(testenv.Timeout(30 * time.Second)):
		_ = b.cmd.Process.Signal(syscall.SIGQUIT)
		<-done
		b.t.Error("the node does not end")
	}
	b.cmd = nil
}

// clean deletes all pods and wants nothing to be left of them.
func (b *bench) clean() {
	b.t.Helper()
	if b.t.Failed() { // it may have ended
		b.stop(syscall.SIGTERM)
	}
	if b.cmd == nil {
		b.run("", 0)
	}
	for _, p := range b.pods() {
		b.do(http.MethodDelete, "/api/v1/namespaces/"+p.Namespace+"/pods/"+p.Name+"?gracePeriodSeconds=0", nil)
	}
	b.nothingLeft()
	b.stop(syscall.SIGTERM)
}

// nothingLeft wants nothing to be left of any pod.
func (b *bench) nothingLeft() {
	b.t.Helper()
	var left []string
	b.eventually("nothing is left of pods", func() bool {
		left = nil
		for _, dir := range []string{"node/pods", "node/containers", "images/overlay/snapshots", "images/networks/containers", "images/networks/networks/pods/leases"} {
			entries, _ := os.ReadDir(filepath.Join(b.c.Dir, dir))
			for _, e := range entries {
				left = append(left, dir+"/"+e.Name())
			}
		}
		raw, _ := os.ReadFile("/proc/self/mountinfo")
		for line := range strings.Lines(string(raw)) {
			if strings.Contains(line, b.c.Dir+"/node") {
				left = append(left, line)
			}
		}
		for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
			entries, _ := os.ReadDir(mount + b.c.Cgroup)
			for _, e := range entries {
				if e.IsDir() {
					left = append(left, mount+b.c.Cgroup+"/"+e.Name())
				}
			}
		}
		return len(left) == 0
	}, &left)
}

// do sends a request.
func (b *bench) do(method, path string, body []byte) ([]byte, int) {
	req, err := http.NewRequest(method, "http://node"+path, bytes.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	} else {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return nil, 0
	}
	defer resp.Body.Close()
	raw, _ := io.ReadAll(resp.Body)
	return raw, resp.StatusCode
}

// apply makes the objects of a YAML document in the namespace default.
func (b *bench) apply(resource, text string) {
	b.t.Helper()
	var doc map[string]any
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		b.t.Fatalf("%v\n%s", err, text)
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		b.t.Fatal(err)
	}
	if out, code := b.do(http.MethodPost, "/api/v1/namespaces/default/"+resource, raw); code != http.StatusCreated {
		b.t.Fatalf("create: %d: %s\n%s", code, out, text)
	}
}

// runPod makes a pod with one container "c" of the image, from fields of both.
func (b *bench) runPod(name, spec string) { b.t.Helper(); b.apply("pods", podText(name, spec)) }

func podText(name, spec string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec:\n" + strings.ReplaceAll(strings.Trim(spec, "\n"), "\t", "  ") + "\n"
}

func (b *bench) pods() []corev1.Pod {
	b.t.Helper()
	raw, code := b.do(http.MethodGet, "/api/v1/pods", nil)
	var list corev1.PodList
	if err := json.Unmarshal(raw, &list); code != 200 || err != nil {
		b.t.Fatalf("list: %d: %v: %s", code, err, raw)
	}
	return list.Items
}

// pod is nil if there is none.
func (b *bench) pod(name string) *corev1.Pod {
	b.t.Helper()
	raw, code := b.do(http.MethodGet, "/api/v1/namespaces/default/pods/"+name, nil)
	if code != 200 {
		return nil
	}
	p := &corev1.Pod{}
	if err := json.Unmarshal(raw, p); err != nil {
		b.t.Fatalf("%v: %s", err, raw)
	}
	return p
}

// until waits for a state of a pod.
func (b *bench) until(name, what string, ok func(*corev1.Pod) bool) *corev1.Pod {
	b.t.Helper()
	var p *corev1.Pod
	var text string
	b.eventually("pod "+name+": "+what, func() bool {
		p = b.pod(name)
		if p == nil {
			return false
		}
		raw, _ := json.MarshalIndent(p.Status, "", " ")
		text = string(raw)
		return ok(p)
	}, &text)
	return p
}

func running(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning }

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func phase(want corev1.PodPhase) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool { return p.Status.Phase == want }
}

func (b *bench) delete(name string, grace int) {
	b.t.Helper()
	if out, code := b.do(http.MethodDelete, fmt.Sprintf("/api/v1/namespaces/default/pods/%s?gracePeriodSeconds=%d", name, grace), nil); code >= 300 {
		b.t.Fatalf("delete: %d: %s", code, out)
	}
}

func (b *bench) gone(name string) {
	b.t.Helper()
	b.eventually("pod "+name+" is gone", func() bool { return b.pod(name) == nil })
}

// eventually waits until something is so. Objects are looked at through the API,
// which disturbs nothing.
func (b *bench) eventually(what string, ok func() bool, more ...any) {
	b.t.Helper()
	deadline := time.Now().Add(testenv.Timeout(60 * time.Second))
	for !ok() {
		if time.Now().After(deadline) {
			for _, m := range more {
				switch m := m.(type) {
				case *string:
					b.t.Log(*m)
				case *[]string:
					b.t.Log(strings.Join(*m, "\n"))
				}
			}
			b.t.Fatalf("never: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// output is the log of a container, as the files have it.
func (b *bench) output(p *corev1.Pod, name string) string {
	b.t.Helper()
	id := ""
	for _, s := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		if s.Name == name {
			id = strings.TrimPrefix(s.ContainerID, "minirun://")
		}
	}
	out, err := exec.Command(testenv.Binary(b.t), "--root", filepath.Join(b.c.Dir, "node/containers"), "--store", b.c.Images, "logs", id).CombinedOutput()
	if err != nil {
		b.t.Fatalf("logs of %q: %v: %s", id, err, out)
	}
	return string(out)
}

// events are those of a pod.
func (b *bench) events(pod string) (of []corev1.Event) {
	b.t.Helper()
	var list corev1.EventList
	if !b.get("/api/v1/namespaces/default/events", &list) {
		b.t.Fatal("no events")
	}
	for _, e := range list.Items {
		if e.InvolvedObject.Name == pod {
			of = append(of, e)
		}
	}
	return of
}

// reasons are those of all events.
func (b *bench) reasons(pod string) string {
	b.t.Helper()
	var out []string
	for _, e := range b.events(pod) {
		out = append(out, e.Reason+": "+e.Message)
	}
	return strings.Join(out, "\n")
}

// get reads an object; false if there is none.
func (b *bench) get(path string, into any) bool {
	b.t.Helper()
	raw, code := b.do(http.MethodGet, path, nil)
	if code != http.StatusOK {
		return false
	}
	if err := json.Unmarshal(raw, into); err != nil {
		b.t.Fatalf("%v: %s", err, raw)
	}
	return true
}

func (b *bench) services() string {
	raw, _ := os.ReadFile(filepath.Join(b.c.Dir, "services"))
	return string(raw)
}

// signal signals the first process of the only container of a pod.
func (b *bench) signal(p *corev1.Pod, sig syscall.Signal) {
	b.t.Helper()
	id := strings.TrimPrefix(p.Status.ContainerStatuses[0].ContainerID, "minirun://")
	out, err := exec.Command(testenv.Binary(b.t), "--root", filepath.Join(b.c.Dir, "node/containers"), "--store", b.c.Images, "kill", id, strconv.Itoa(int(sig))).CombinedOutput()
	if err != nil {
		b.t.Fatalf("kill %s: %v: %s", id, err, out)
	}
}

// exec runs a command in a container.
func (b *bench) exec(pod, container string, command ...string) (int, string) {
	b.t.Helper()
	return b.execWith(pod, container, "", "", command...)
}

func (b *bench) execWith(pod, container, flags, input string, command ...string) (int, string) {
	b.t.Helper()
	raw, _ := b.do(http.MethodPost, "/exec/"+pod+"/"+container+"?"+flags+url.Values{"c": command}.Encode(), []byte(input))
	out, result, ok := strings.Cut(string(raw), "\x00")
	code, text, _ := strings.Cut(result, " ")
	if !ok || text != "<nil>" {
		b.t.Fatalf("exec %q: %q", command, raw)
	}
	return atoi(code), out
}

// logs is what the node says that a container has written.
func (b *bench) logs(pod, container, flags string) string {
	b.t.Helper()
	raw, _ := b.do(http.MethodGet, "/log/"+pod+"/"+container+"?"+flags, nil)
	return string(raw)
}

// follow follows the log of a container; the function waits for its end.
func (b *bench) follow(p *corev1.Pod, container string) func() string {
	b.t.Helper()
	resp, err := b.client.Get("http://node/log/" + p.Name + "/" + container + "?follow")
	if err != nil {
		b.t.Fatal(err)
	}
	done := make(chan string, 1)
	go func() {
		raw, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		done <- string(raw)
	}()
	return func() string { return <-done }
}

// psOf are the commands of all processes of a pod.
func (b *bench) psOf(p *corev1.Pod) string {
	b.t.Helper()
	var out []string
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		_ = filepath.WalkDir(mount+b.c.Cgroup+"/pod"+string(p.UID), func(path string, _ os.DirEntry, _ error) error {
			if filepath.Base(path) != "cgroup.procs" {
				return nil
			}
			raw, _ := os.ReadFile(path)
			for _, pid := range strings.Fields(string(raw)) {
				cmd, _ := os.ReadFile("/proc/" + pid + "/cmdline")
				out = append(out, strings.ReplaceAll(string(cmd), "\x00", " "))
			}
			return nil
		})
	}
	return strings.Join(out, "\n")
}

func (b *bench) helperPID() string { return strconv.Itoa(b.cmd.Process.Pid) }

// inPod runs a command of the host in the network of a pod.
func (b *bench) inPod(netns string, command ...string) {
	b.t.Helper()
	if out, err := exec.Command("nsenter", append([]string{"--net=" + netns}, command...)...).CombinedOutput(); err != nil {
		b.t.Fatalf("%q: %v: %s", command, err, out)
	}
}
