package main

import (
	"bytes"
	"context"
	"flag"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/internal/testenv"
	"github.com/minirun/minirun/orchestrate/api"
	"github.com/minirun/minirun/orchestrate/controller"
	"github.com/minirun/minirun/orchestrate/rest"
	"github.com/minirun/minirun/orchestrate/rest/resttest"
	"github.com/minirun/minirun/orchestrate/store"
)

// kubeHost is a server with controllers, on a node that only pretends.
type kubeHost struct {
	t      testing.TB
	socket string
	server *rest.Server
	s      *store.Store
	ctx    context.Context
}

func newKubeHost(t testing.TB, controllers bool) *kubeHost {
	t.Helper()
	r := api.NewRegistry()
	s, err := store.Open(filepath.Join(t.TempDir(), "store.db"), r.Stored(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h := &kubeHost{t: t, s: s, socket: filepath.Join(t.TempDir(), "s")}
	l, err := net.Listen("unix", h.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := rest.New(s, r)
	server.Node = &resttest.Node{}
	h.server = server
	srv := httptest.NewUnstartedServer(server)
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	ctx, cancel := context.WithCancel(context.Background())
	h.ctx = ctx
	var wg sync.WaitGroup
	if controllers {
		w, err := s.Watch("pods", store.Selector{}, s.Revision())
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { h.node(w) })
		c, err := controller.New(controller.Options{Store: s})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { c.Run(ctx) })
	}
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		s.Close()
		srv.CloseClientConnections()
		srv.Close()
	})
	if !controllers {
		h.create("namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	}
	h.create("nodes", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here"}, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Ready", Message: "it is"}},
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}},
		NodeInfo:   corev1.NodeSystemInfo{KubeletVersion: "v1", OSImage: "Debian", KernelVersion: "6.1", ContainerRuntimeVersion: "minirun://1"},
	}})
	return h
}

func (h *kubeHost) create(kind string, obj store.Object) {
	h.t.Helper()
	if _, err := h.s.Create(kind, obj); err != nil {
		h.t.Fatal(err)
	}
}

// node makes every pod ready at once, and lets it end as soon as it shall.
func (h *kubeHost) node(w *store.Watch) {
	for {
		e, err := w.Next(h.ctx)
		if err != nil {
			return
		}
		p := e.Object.DeepCopyObject().(*corev1.Pod)
		switch {
		case e.Type == store.Deleted:
		case p.DeletionTimestamp != nil:
			h.s.Delete("pods", p.Namespace, p.Name, store.DeleteOptions{UID: p.UID})
		case len(p.Spec.EphemeralContainers) > len(p.Status.EphemeralContainerStatuses):
			p.ResourceVersion = ""
			for _, c := range p.Spec.EphemeralContainers[len(p.Status.EphemeralContainerStatuses):] {
				p.Status.EphemeralContainerStatuses = append(p.Status.EphemeralContainerStatuses, corev1.ContainerStatus{
					Name: c.Name, Image: c.Image, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: then}},
				})
			}
			h.s.Update("pods", p, store.Status)
		case p.Spec.NodeName == "":
			p.ResourceVersion, p.Spec.NodeName = "", "here"
			if _, err := h.s.Update("pods", p, store.Main); err != nil {
				continue
			}
			h.ready(p)
		}
	}
}

var then = metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))

func (h *kubeHost) ready(p *corev1.Pod) {
	p.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: "10.0.0.7", PodIPs: []corev1.PodIP{{IP: "10.0.0.7"}}, StartTime: &then, QOSClass: corev1.PodQOSBestEffort,
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}},
	}
	yes := true
	for _, c := range p.Spec.Containers {
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Ready: true, Started: &yes, Image: c.Image, ContainerID: "minirun://" + c.Name, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: then}},
		})
	}
	h.s.Update("pods", p, store.Status)
}

// kube runs a command and gives all that it prints.
func (h *kubeHost) kube(ctx context.Context, stdin string, args ...string) (int, string) {
	h.t.Helper()
	var out syncBuffer
	args = append([]string{"minirund", "kube"}, args...)
	code := run(ctx, args, strings.NewReader(stdin), &out, &out)
	return code, out.String()
}

// syncBuffer is written by several.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

var update = flag.Bool("update", false, "write the golden files anew")

// What is another one each time.
var masks = []struct {
	find *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`\b(web|db)-[bcdfghjklmnpqrstvwxz24-9]{4,10}-[bcdfghjklmnpqrstvwxz24-9]{5}\b`), "$1-HASH-POD"},
	{regexp.MustCompile(`\b(web|db)-[bcdfghjklmnpqrstvwxz24-9]{6,10}\b`), "$1-HASH"},
	{regexp.MustCompile(`pod-template-hash([=:] ?)\w+`), "pod-template-hash${1}HASH"},
	{regexp.MustCompile(`\bdebugger-[a-z2-7]{5}\b`), "debugger-NAME"},
	{regexp.MustCompile(`\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b`), "UID"},
	{regexp.MustCompile(`\b(\d+h)?(\d+m)?\d+s \(x\d+ over [0-9hms]+\)`), "AGE"},
	{regexp.MustCompile(`([ \t])(\d+m)?\d+s\b`), "${1}AGE"},
	{regexp.MustCompile(`20\d\d-\d\d-\d\dT[0-9:.]+(Z|\+\d\d:\d\d)`), "TIME"},
	{regexp.MustCompile(`\w{3}, \d\d \w{3} 20\d\d [0-9:]{8} (UTC|\+0000)`), "DATE"},
	{regexp.MustCompile(`(resourceVersion"?): "\d+"`), `$1: "N"`},
	{regexp.MustCompile(`(?m)^Waiting for .*\n`), ""}, // how often one looks in between is chance
	{regexp.MustCompile(` {3,}`), "   "},
	{regexp.MustCompile(` +\n`), "\n"},
}

func masked(s string) string {
	for _, m := range masks {
		s = m.find.ReplaceAllString(s, m.with)
	}
	return s
}

// words splits a command line; quotes hold words together.
func words(line string) (out []string) {
	var b strings.Builder
	quote, open := rune(0), false
	for _, r := range line + " " {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			b.WriteRune(r)
		case r == '\'' || r == '"':
			quote, open = r, true
		case r == ' ':
			if b.Len() > 0 || open {
				out = append(out, b.String())
			}
			b.Reset()
			open = false
		default:
			b.WriteRune(r)
		}
	}
	return out
}

// TestKube runs testdata/kube/*.txt: a line that begins with "$ " is the rest of
// `minirun kube`, with "< FILE" as its input; what follows is all it prints, and
// its exit status where that is not 0. -update writes them anew.
func TestKube(t *testing.T) {
	scripts, err := filepath.Glob("testdata/kube/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txt"), func(t *testing.T) {
			h := newKubeHost(t, true)
			t.Setenv("MINIRUND_SOCKET", h.socket)
			text, err := os.ReadFile(script)
			if err != nil {
				t.Fatal(err)
			}
			h.settle()
			var got strings.Builder
			for line := range strings.Lines(string(text)) {
				line = strings.TrimSuffix(line, "\n")
				if strings.HasPrefix(line, "#") {
					got.WriteString(line + "\n")
				}
				command, ok := strings.CutPrefix(line, "$ ")
				if !ok {
					continue
				}
				got.WriteString(line + "\n")
				command, input, _ := strings.Cut(command, " < ")
				if input != "" {
					b, err := os.ReadFile(input)
					if err != nil {
						t.Fatal(err)
					}
					input = string(b)
				}
				ctx, cancel := context.WithTimeout(t.Context(), testenv.Timeout(60*time.Second))
				code, out := h.kube(ctx, input, words(command)...)
				cancel()
				got.WriteString(masked(out))
				if out != "" && !strings.HasSuffix(out, "\n") {
					got.WriteString("\n")
				}
				if code != 0 {
					got.WriteString("exit status " + string(rune('0'+code)) + "\n")
				}
			}
			if *update {
				if err := os.WriteFile(script, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got.String() != string(text) {
				a := strings.Split(string(text), "\n")
				for i, l := range strings.Split(got.String(), "\n") {
					if i >= len(a) || a[i] != l {
						t.Fatalf("line %d: got\n%s\nall:\n%s", i+1, l, got.String())
					}
				}
				t.Fatalf("got less:\n%s", got.String())
			}
		})
	}
}

// settle waits until the controllers have made what is always there.
func (h *kubeHost) settle() {
	for end := time.Now().Add(testenv.Timeout(20 * time.Second)); ; time.Sleep(5 * time.Millisecond) {
		if _, err := h.s.Get("namespaces", "", "default"); err == nil {
			return
		}
		if time.Now().After(end) {
			h.t.Fatal("there is no namespace default")
		}
	}
}
