package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/minirun/minirun/internal/testenv"
	"github.com/minirun/minirun/network/service"
	"github.com/minirun/minirun/network/watch"
	"github.com/minirun/minirun/orchestrate/api"
	"github.com/minirun/minirun/orchestrate/store"
)

// kernel is a balancer that only remembers. What it refuses is what the real one does.
type kernel struct {
	all     map[string]service.Service
	broken  error
	conns   map[netip.AddrPort]int
	changes int
}

func (k *kernel) Apply(set []service.Service, remove []string) error {
	if k.broken != nil {
		return k.broken
	}
	for _, s := range set {
		if err := s.Validate(); err != nil {
			return err
		}
		for _, o := range k.all {
			if o.Name != s.Name && clash([]service.Service{o}, s) != nil {
				return clash([]service.Service{o}, s)
			}
		}
	}
	for _, n := range remove {
		delete(k.all, n)
	}
	for _, s := range set {
		k.all[s.Name] = s
	}
	k.changes++
	return nil
}

func (k *kernel) Replace(all []service.Service) error {
	if k.broken != nil {
		return k.broken
	}
	k.all = map[string]service.Service{}
	return k.Apply(all, nil)
}

func (k *kernel) Connections(string) (map[netip.AddrPort]int, error) { return k.conns, k.broken }
func (k *kernel) Watched() watch.Table                               { return watch.Table{} }
func (k *kernel) Close() error                                       { return nil }

// endpoints are those of a service's first port, "address" or "(address)" if draining.
func (k *kernel) endpoints(name string) string {
	svc, ok := k.all[name]
	if !ok {
		return "none"
	}
	var out []string
	for _, e := range svc.Ports[0].Endpoints {
		text := e.Address.String()
		if e.Draining {
			text = "(" + text + ")"
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

type world struct {
	*testing.T
	s *store.Store
	k *kernel
	p *Proxy
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "db"), api.NewRegistry().Stored(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	w := &world{T: t, s: s, k: &kernel{all: map[string]service.Service{}}}
	w.restart()
	return w
}

// restart is another minirund with the same objects and the same kernel.
func (w *world) restart() {
	w.Helper()
	p, err := New(Options{Store: w.s, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { p.Close() })
	p.b = w.k
	w.p = p
}

func (w *world) create(kind string, o store.Object) store.Object {
	w.Helper()
	stored, err := w.s.Create(kind, o)
	if err != nil {
		w.Fatal(err)
	}
	return stored
}

func (w *world) service(name, ip string, change func(*corev1.ServiceSpec)) {
	w.Helper()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip}, Selector: map[string]string{"app": name},
		Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromString("http")}},
	}}
	if change != nil {
		change(&s.Spec)
	}
	w.create(serviceKind, s)
}

// pod makes a pod that runs, with the app's label and an address.
func (w *world) pod(name, app, ip string) *corev1.Pod {
	w.Helper()
	p := w.create(podKind, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": app}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}}},
	}).DeepCopyObject().(*corev1.Pod)
	p.Status.Phase, p.Status.PodIPs = corev1.PodRunning, []corev1.PodIP{{IP: ip}}
	stored, err := w.s.Update(podKind, p, store.Status)
	if err != nil {
		w.Fatal(err)
	}
	return stored.(*corev1.Pod)
}

func (w *world) want(service, endpoints string) {
	w.Helper()
	if got := w.k.endpoints(service); got != endpoints {
		w.Errorf("endpoints of %s: %q, want %q", service, got, endpoints)
	}
}

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func TestPodLife(t *testing.T) {
	w := newWorld(t)
	w.service("web", "10.96.0.1", nil)
	w.service("other", "10.96.0.2", nil)
	one, two := w.pod("one", "web", "10.0.0.1"), w.pod("two", "web", "10.0.0.2")
	w.ok(w.p.Ready(one, podIPs(one)))
	w.want("default/web", "10.0.0.1:8080")
	w.want("default/other", "")
	w.ok(w.p.Ready(two, podIPs(two)))
	w.want("default/web", "10.0.0.1:8080 10.0.0.2:8080")
	w.ok(w.p.Remove(one))
	w.want("default/web", "(10.0.0.1:8080) 10.0.0.2:8080")

	w.k.conns = map[netip.AddrPort]int{netip.MustParseAddrPort("10.0.0.1:8080"): 3, netip.MustParseAddrPort("10.0.0.2:8080"): 4}
	if n, err := w.p.Connections(one); n != 3 || err != nil {
		t.Errorf("connections: %d, %v, want 3", n, err)
	}
	w.ok(w.p.Ready(one, podIPs(one)))
	w.want("default/web", "10.0.0.1:8080 10.0.0.2:8080")
	w.ok(w.p.Remove(one))
	w.ok(w.p.Forget(one))
	w.want("default/web", "10.0.0.2:8080")
	w.ok(w.p.Forget(one)) // twice is once
	if n, err := w.p.Connections(one); n != 0 || err != nil {
		t.Errorf("connections of a forgotten pod: %d, %v", n, err)
	}
}

// After a restart the ready pods of the store are there from the first change on.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	w.service("web", "10.96.0.1", nil)
	one, two := w.pod("one", "web", "10.0.0.1"), w.pod("two", "web", "10.0.0.2")
	n := one.DeepCopy()
	n.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	_, err := w.s.Update(podKind, n, store.Status)
	w.ok(err)
	w.restart()
	w.ok(w.p.Ready(two, podIPs(two)))
	w.want("default/web", "10.0.0.1:8080 10.0.0.2:8080")
}

// What the kernel did not take is made up for by the next change.
func TestKernelRefuses(t *testing.T) {
	w := newWorld(t)
	w.service("web", "10.96.0.1", nil)
	one, two := w.pod("one", "web", "10.0.0.1"), w.pod("two", "web", "10.0.0.2")
	w.ok(w.p.Ready(one, podIPs(one)))
	w.k.broken = errors.New("no")
	if err := w.p.Remove(one); err == nil || !strings.Contains(err.Error(), "no") {
		t.Fatalf("Remove: %v", err)
	}
	w.want("default/web", "10.0.0.1:8080")
	w.k.broken = nil
	w.ok(w.p.Ready(two, podIPs(two)))
	w.want("default/web", "(10.0.0.1:8080) 10.0.0.2:8080")
}

// A Service that clashes with another has no effect, and keeps nobody from theirs.
func TestClash(t *testing.T) {
	w := newWorld(t)
	w.service("web", "10.96.0.1", nil)
	w.service("zweb", "10.96.0.1", func(s *corev1.ServiceSpec) { s.Selector = map[string]string{"app": "web"} })
	one := w.pod("one", "web", "10.0.0.1")
	w.ok(w.p.Ready(one, podIPs(one)))
	w.want("default/web", "10.0.0.1:8080")
	w.want("default/zweb", "none")
	w.ok(w.p.Remove(one))
	w.want("default/web", "(10.0.0.1:8080)")
}

func TestBuild(t *testing.T) {
	w := newWorld(t)
	w.service("headless", "None", nil)
	w.service("full", "10.96.0.1", func(s *corev1.ServiceSpec) {
		s.ClusterIPs = []string{"10.96.0.1", "fd00::1"}
		s.ExternalIPs = []string{"192.0.2.1"}
		s.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Ports = []corev1.ServicePort{{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53, NodePort: 30053, TargetPort: intstr.FromInt32(5353)}}
	})
	pod := w.pod("one", "full", "10.0.0.1")
	w.ok(w.p.Ready(pod, []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd01::1")}))
	want := service.Service{
		Name: "default/full", Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00::1")},
		Shared: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Affinity: 3 * time.Hour,
		Ports: []service.Port{{Protocol: service.UDP, Port: 53, NodePort: 30053, Endpoints: []service.Endpoint{
			{Address: netip.MustParseAddrPort("10.0.0.1:5353"), Weight: 1}, {Address: netip.MustParseAddrPort("[fd01::1]:5353"), Weight: 1},
		}}},
	}
	if got := w.k.all["default/full"]; fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("have %+v\nwant %+v", got, want)
	}
	w.want("default/headless", "none")
}

// Run follows Services, EndpointSlices of others, labels and ends of pods.
func TestRun(t *testing.T) {
	w := newWorld(t)
	one := w.pod("one", "web", "10.0.0.1")
	w.ok(w.p.Ready(one, podIPs(one)))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.p.Run(ctx) }()
	eventually := func(service, endpoints string) {
		t.Helper()
		for end := time.Now().Add(testenv.Timeout(30 * time.Second)); ; time.Sleep(time.Millisecond) {
			w.p.mu.Lock()
			got := w.k.endpoints(service)
			w.p.mu.Unlock()
			if got == endpoints {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("endpoints of %s: %q, want %q", service, got, endpoints)
			}
		}
	}
	w.service("web", "10.96.0.1", nil)
	eventually("default/web", "10.0.0.1:8080")
	n := one.DeepCopy()
	n.Labels = map[string]string{"app": "none"}
	stored, err := w.s.Update(podKind, n, store.Main)
	w.ok(err)
	eventually("default/web", "")
	n = stored.DeepCopyObject().(*corev1.Pod)
	n.Labels = map[string]string{"app": "web"}
	_, err = w.s.Update(podKind, n, store.Main)
	w.ok(err)
	eventually("default/web", "10.0.0.1:8080")

	w.service("hand", "10.96.0.2", func(s *corev1.ServiceSpec) { s.Selector = nil })
	eventually("default/hand", "")
	port, no := int32(99), false
	w.create(sliceKind, &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "hand-1", Labels: map[string]string{discoveryv1.LabelServiceName: "hand"}},
		Ports:      []discoveryv1.EndpointPort{{Port: &port}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"192.0.2.7"}},
			{Addresses: []string{"192.0.2.8"}, Conditions: discoveryv1.EndpointConditions{Ready: &no}},
		},
	})
	eventually("default/hand", "(192.0.2.8:99) 192.0.2.7:99")

	_, err = w.s.Delete(podKind, "default", "one", store.DeleteOptions{})
	w.ok(err)
	eventually("default/web", "")
	_, err = w.s.Delete(serviceKind, "default", "hand", store.DeleteOptions{})
	w.ok(err)
	eventually("default/hand", "none")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}
