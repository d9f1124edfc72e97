package node

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/podlife"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// world is a view written as text: "init:i=0 sidecar:s=run main:m=none", where a
// container has not run (none), runs (run, up when it has started), or has ended
// with a status.
func world(text string, change func(*view)) *view {
	v := &view{Pod: &corev1.Pod{}, Now: noon, Backoff: podlife.Default, Sandbox: 1, Up: true, Made: true}
	v.Pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	for f := range strings.FieldsSeq(text) {
		k, rest, _ := strings.Cut(f, ":")
		name, what, _ := strings.Cut(rest, "=")
		b := &box{Spec: &corev1.Container{Name: name}, Kind: map[string]kind{"init": initContainer, "sidecar": sidecar, "main": mainContainer, "eph": ephemeral}[k], Image: imageHere}
		switch what {
		case "none":
		case "run", "up":
			b.Last = &attempt{Running: true, Sandbox: 1, Started: noon}
			b.Started, b.Ready = what == "up", what == "up"
		default:
			b.Last = &attempt{Sandbox: 1, Started: noon, Finished: noon, Code: int32(atoi(what))}
		}
		if b.Last != nil {
			b.Next = 1
		}
		v.Boxes = append(v.Boxes, b)
	}
	if change != nil {
		change(v)
	}
	return v
}

func TestDecide(t *testing.T) {
	deleted := func(v *view) { now := metav1.NewTime(noon); v.Pod.DeletionTimestamp = &now }
	initialized := func(v *view) { v.Initialized = true }
	asked := func(v *view, image string) {
		v.Initialized = true
		for _, b := range v.Boxes {
			b.Spec.Image, b.Last.Asked = "new", image
		}
	}
	policy := func(p corev1.RestartPolicy) func(*view) {
		return func(v *view) { v.Initialized = true; v.Pod.Spec.RestartPolicy = p }
	}
	for _, tt := range []struct {
		name, world string
		change      func(*view)
		want        string
	}{
		{"nothing is there", "main:m=none", func(v *view) { v.Up = false }, "sandbox"},
		{"it could not be made", "main:m=none", func(v *view) { v.Up, v.Retry = false, noon.Add(time.Second) }, "+1s"},
		{"no image", "main:m=none", func(v *view) { v.Boxes[0].Image = imageUnknown }, "initialized, pull m"},
		{"the image is on its way", "main:m=none", func(v *view) { v.Initialized = true; v.Boxes[0].Image = imagePulling }, ""},
		{"the first init", "init:i=none init:j=none main:m=none", nil, "start i"},
		{"it runs", "init:i=run init:j=none main:m=none", nil, ""},
		{"the second init", "init:i=0 init:j=none main:m=none", nil, "start j"},
		{"init again, at once", "init:i=1 main:m=none", nil, "start i"},
		{"init again, later", "init:i=1 main:m=none", func(v *view) { v.Boxes[0].Restarts.Wait = time.Second; v.Boxes[0].Restarts.Last = noon }, "+1s"},
		{"init never again", "init:i=1 main:m=none", func(v *view) { v.Pod.Spec.RestartPolicy = corev1.RestartPolicyNever }, "release"},
		{"a sidecar comes first", "sidecar:s=none init:i=none main:m=none", nil, "start s"},
		{"and has to be up", "sidecar:s=run init:i=none main:m=none", nil, ""},
		{"then the next", "sidecar:s=up init:i=none main:m=none", nil, "start i"},
		{"all inits are done", "sidecar:s=up init:i=0 main:m=none main:n=none", nil, "initialized, start m, start n"},
		{"a sidecar ended", "sidecar:s=0 init:i=0 main:m=up", initialized, "start s"},
		{"inits of another sandbox do not count", "init:i=0 main:m=137", func(v *view) { v.Sandbox = 2 }, "start i"},
		{"all is well", "main:m=up", initialized, ""},
		{"again, always", "main:m=0", initialized, "start m"},
		{"not after success", "main:m=0 main:n=up", policy(corev1.RestartPolicyOnFailure), ""},
		{"after failure", "main:m=1 main:n=up", policy(corev1.RestartPolicyOnFailure), "start m"},
		{"never", "main:m=1 main:n=up", policy(corev1.RestartPolicyNever), ""},
		{"over: the sidecars end, the last first", "sidecar:s=up sidecar:t=up main:m=0", policy(corev1.RestartPolicyNever), "stop t"},
		{"then the first", "sidecar:s=up sidecar:t=0 main:m=0", policy(corev1.RestartPolicyNever), "stop s"},
		{"then it goes", "sidecar:s=0 sidecar:t=0 main:m=0", policy(corev1.RestartPolicyNever), "release"},
		{"and is gone", "main:m=0", func(v *view) { v.Pod.Spec.RestartPolicy = corev1.RestartPolicyNever; v.Made, v.Up = false, false }, ""},
		{"doomed", "main:m=up", func(v *view) { v.Initialized = true; v.Boxes[0].Doomed = "why" }, "stop m"},
		{"doomed and on its way", "main:m=up", func(v *view) { v.Initialized = true; v.Boxes[0].Doomed, v.Boxes[0].Stopping = "why", true }, ""},
		{"another image", "sidecar:s=up init:i=0 main:m=up", func(v *view) { asked(v, "old") }, "stop s, stop m"},
		{"the same image", "sidecar:s=up init:i=0 main:m=up", func(v *view) { asked(v, "new") }, ""},
		{"another image, and it is not started again", "main:m=up", func(v *view) { asked(v, "old"); v.Pod.Spec.RestartPolicy = corev1.RestartPolicyNever }, ""},
		{"another image, and it had ended", "main:m=1", func(v *view) { asked(v, "old"); v.Boxes[0].Restarts = podlife.Restarts{Wait: time.Hour, Last: noon} }, "start m"},
		{"an ephemeral one", "main:m=up eph:e=none", initialized, "start e"},
		{"while init containers do not end", "init:i=run main:m=none eph:e=none", nil, "start e"},
		{"it runs", "main:m=up eph:e=run", initialized, ""},
		{"it has ended, for good", "main:m=up eph:e=1", initialized, ""},
		{"beside one that is started again", "main:m=1 eph:e=1", initialized, "start m"},
		{"of another sandbox", "main:m=up eph:e=run", func(v *view) { v.Initialized, v.Boxes[1].Last.Sandbox = true, 7 }, "stop e"},
		{"of another sandbox, and ended", "main:m=up eph:e=1", func(v *view) { v.Initialized, v.Boxes[1].Last.Sandbox = true, 7 }, ""},
		{"it does not hold the pod", "sidecar:s=up main:m=0 eph:e=run", policy(corev1.RestartPolicyNever), "stop e"},
		{"nor begin when that has ended", "main:m=0 eph:e=none", policy(corev1.RestartPolicyNever), "release"},
		{"deleted with it", "sidecar:s=up main:m=up eph:e=run", deleted, "stop m, stop e"},
		{"deleted", "sidecar:s=up main:m=up main:n=up", deleted, "stop m, stop n"},
		{"deleted, the sidecars", "sidecar:s=up main:m=0 main:n=1", deleted, "stop s"},
		{"deleted and over", "sidecar:s=0 main:m=0", deleted, "remove"},
		{"deleted before it began", "main:m=none", func(v *view) { deleted(v); v.Up = false }, "remove"},
		{"its time is over", "main:m=up", func(v *view) {
			one := int64(1)
			v.Initialized, v.Pod.Spec.ActiveDeadlineSeconds, v.Begun = true, &one, noon.Add(-time.Minute)
		}, "stop m"},
		{"its time will be over", "main:m=up", func(v *view) {
			ten := int64(10)
			v.Initialized, v.Pod.Spec.ActiveDeadlineSeconds, v.Begun = true, &ten, noon
		}, "+10s"},
	} {
		d := decide(world(tt.world, tt.change))
		var got []string
		for _, a := range d.Actions {
			got = append(got, a.String())
		}
		if len(d.Actions) == 0 && !d.Again.IsZero() {
			got = append(got, "+"+d.Again.Sub(noon).String())
		}
		if text := strings.Join(got, ", "); text != tt.want {
			t.Errorf("%s: %q: %q, want %q", tt.name, tt.world, text, tt.want)
		}
	}
}

// Whatever becomes of its containers, a pod that is not wanted any more comes to its
// end in as many steps as it has containers, and one that ends stays ended.
func TestDecideEnds(t *testing.T) {
	states := []string{"none", "run", "up", "0", "1", "137"}
	for i := range 6 * 6 * 6 {
		text := fmt.Sprintf("sidecar:s=%s init:i=%s main:m=%s", states[i%6], states[i/6%6], states[i/36])
		v := world(text, func(v *view) { now := metav1.NewTime(noon); v.Pod.DeletionTimestamp = &now })
		for step := 0; ; step++ {
			d := decide(v)
			if len(d.Actions) == 1 && d.Actions[0].Verb == remove {
				break
			}
			if step > 3 || len(d.Actions) == 0 {
				t.Fatalf("%s: does not end: %v", text, d.Actions)
			}
			for _, a := range d.Actions {
				if a.Verb != stop {
					t.Fatalf("%s: %v", text, a)
				}
				a.Box.Last.Running = false
			}
		}
	}
}

func TestPodStatus(t *testing.T) {
	v := world("init:i=0 main:m=up", func(v *view) {
		v.Initialized, v.Routed = true, true
		v.IPs, v.HostIPs = []netip.Addr{netip.MustParseAddr("10.0.0.7")}, []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	})
	s := podStatus(v)
	text := func(s corev1.PodStatus) (out string) {
		out = string(s.Phase)
		for _, c := range s.Conditions {
			out += fmt.Sprintf(" %s=%s", c.Type, c.Status)
			if c.Reason != "" {
				out += "/" + c.Reason
			}
		}
		return out
	}
	if got, want := text(s), "Running PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True PodScheduled=True"; got != want || s.PodIP != "10.0.0.7" || s.HostIP != "192.0.2.1" {
		t.Errorf("%q, want %q: %+v", got, want, s)
	}
	// The same again is the same: nothing is written.
	v.Pod.Status, v.Now = s, noon.Add(time.Hour)
	if again := podStatus(v); !reflect.DeepEqual(again, s) {
		t.Errorf("%+v\n%+v", s, again)
	}
	v.Routed = false
	if got := text(podStatus(v)); !strings.Contains(got, " Ready=False/PodNotRouted ContainersReady=True") {
		t.Errorf("%q", got)
	}
	v.Boxes[1].Ready = false
	v.Pod.Status = podStatus(v)
	if got := text(v.Pod.Status); !strings.Contains(got, " Ready=False/ContainersNotReady ContainersReady=False/ContainersNotReady") || !v.Pod.Status.Conditions[2].LastTransitionTime.Time.Equal(v.Now) {
		t.Errorf("%q %+v", got, v.Pod.Status.Conditions)
	}
	// Ephemeral containers change nothing but their own status.
	for _, what := range []string{"none", "run", "3"} {
		e := podStatus(world("init:i=0 main:m=up eph:e="+what, func(v *view) { v.Initialized, v.Routed = true, true }))
		if got, want := text(e), "Running PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True PodScheduled=True"; got != want || len(e.ContainerStatuses) != 1 || len(e.EphemeralContainerStatuses) != 1 {
			t.Errorf("%s: %q, %+v", what, got, e)
		}
		c := e.EphemeralContainerStatuses[0]
		if c.Ready || c.Started != nil || c.RestartCount != 0 || (c.State.Waiting != nil) != (what == "none") || (c.State.Running != nil) != (what == "run") || (c.State.Terminated != nil && c.State.Terminated.ExitCode == 3) != (what == "3") {
			t.Errorf("%s: %+v", what, c)
		}
		if what == "none" && c.State.Waiting.Reason != "ContainerCreating" {
			t.Errorf("%+v", c)
		}
	}
	v = world("init:i=1 main:m=none", func(v *view) { v.Boxes[0].Restarts.Wait = 2 * time.Second; v.Boxes[0].Restarts.Last = noon })
	s = podStatus(v)
	if w := s.InitContainerStatuses[0].State.Waiting; s.Phase != corev1.PodPending || w == nil || w.Reason != "CrashLoopBackOff" || s.ContainerStatuses[0].State.Waiting.Reason != "PodInitializing" {
		t.Errorf("%+v", s)
	}
	v = world("main:m=3", func(v *view) { v.Initialized = true; v.Pod.Spec.RestartPolicy = corev1.RestartPolicyNever })
	if s = podStatus(v); s.Phase != corev1.PodFailed || s.ContainerStatuses[0].State.Terminated.ExitCode != 3 {
		t.Errorf("%+v", s)
	}
}

func TestExpand(t *testing.T) {
	values := map[string]string{"A": "1", "B": "$(A)"}
	for in, want := range map[string]string{
		"": "", "x": "x", "$(A)": "1", "$(B)": "$(A)", "$$(A)": "$(A)", "$(C)": "$(C)", "$(A": "$(A", "$": "$", "a$b": "a$b", "$$": "$", "$(A)$(A)": "11", "$($(A))": "$($(A))",
	} {
		if got := expand(in, func(n string) (string, bool) { v, ok := values[n]; return v, ok }); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestQOS(t *testing.T) {
	q := func(request, limit string) corev1.Container {
		c := corev1.Container{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}}
		for _, n := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			if request != "" {
				c.Resources.Requests[n] = resource.MustParse(request)
			}
			if limit != "" {
				c.Resources.Limits[n] = resource.MustParse(limit)
			}
		}
		return c
	}
	for _, tt := range []struct {
		list  []corev1.Container
		class corev1.PodQOSClass
		score int
	}{
		{[]corev1.Container{q("", "")}, corev1.PodQOSBestEffort, 1000},
		{[]corev1.Container{q("1Gi", "1Gi")}, corev1.PodQOSGuaranteed, -997},
		{[]corev1.Container{q("1Gi", "2Gi")}, corev1.PodQOSBurstable, 750},
		{[]corev1.Container{q("4Gi", "8Gi")}, corev1.PodQOSBurstable, 3},
		{[]corev1.Container{q("1", "")}, corev1.PodQOSBurstable, 999},
		{[]corev1.Container{q("", ""), q("1Gi", "1Gi")}, corev1.PodQOSBurstable, 999},
	} {
		s := &corev1.PodSpec{Containers: tt.list}
		if c, o := qosClass(s), oomScore(s, &s.Containers[0], 4<<30); c != tt.class || o != tt.score {
			t.Errorf("%+v: %s, %d, want %s, %d", tt.list[0].Resources, c, o, tt.class, tt.score)
		}
	}
}

func TestAdmit(t *testing.T) {
	h := &host{Name: "n", Labels: map[string]string{"disk": "ssd"}, Capacity: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("3"),
	}}
	pod := func(cpu string, change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}}}}}
		if change != nil {
			change(p)
		}
		return p
	}
	one := pod("1", nil)
	for _, tt := range []struct {
		name   string
		pod    *corev1.Pod
		others []*corev1.Pod
		taints []corev1.Taint
		want   string
	}{
		{"fits", pod("1", nil), []*corev1.Pod{one}, nil, ""},
		{"does not fit", pod("1001m", nil), []*corev1.Pod{one}, nil, "0/1 nodes are available: 1 Insufficient cpu."},
		{"too many", pod("0", nil), []*corev1.Pod{pod("0", nil), pod("0", nil), pod("0", nil)}, nil, "0/1 nodes are available: 1 Too many pods."},
		{"selector", pod("0", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "tape"} }), nil, nil, "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."},
		{"taint", pod("0", nil), nil, []corev1.Taint{{Key: "k", Value: "v", Effect: corev1.TaintEffectNoSchedule}}, "0/1 nodes are available: 1 node(s) had untolerated taint {k: v}."},
		{"tolerated", pod("0", func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists}}
		}), nil, []corev1.Taint{{Key: "k", Value: "v", Effect: corev1.TaintEffectNoSchedule}}, ""},
	} {
		h.Taints = tt.taints
		if got := admit(tt.pod, h, tt.others); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestResolver(t *testing.T) {
	host := parseResolv("search example.com\nnameserver 127.0.0.53\nnameserver 192.0.2.53\noptions edns0\n")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}}
	dns := []netip.Addr{netip.MustParseAddr("10.96.0.10")}
	five := "5"
	for _, tt := range []struct {
		policy corev1.DNSPolicy
		host   bool
		config *corev1.PodDNSConfig
		want   string
	}{
		{corev1.DNSClusterFirst, false, nil, "search ns.svc.c.local svc.c.local c.local example.com\nnameserver 10.96.0.10\noptions ndots:5\n"},
		{corev1.DNSClusterFirst, true, nil, "search example.com\nnameserver 127.0.0.53\nnameserver 192.0.2.53\noptions edns0\n"},
		{corev1.DNSDefault, false, nil, "search example.com\nnameserver 192.0.2.53\noptions edns0\n"},
		{corev1.DNSNone, false, &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.9"}, Searches: []string{"s"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &five}}}, "search s\nnameserver 192.0.2.9\noptions ndots:5\n"},
	} {
		pod.Spec.DNSPolicy, pod.Spec.HostNetwork, pod.Spec.DNSConfig = tt.policy, tt.host, tt.config
		r := podResolver(pod, host, dns, "c.local")
		if got := r.String(); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.policy, got, tt.want)
		}
	}
}

func TestParseID(t *testing.T) {
	for _, n := range []int32{0, 7, 1 << 30} {
		uid, name, got, ok := parseID(containerID("6f1c-ab", "web-1", n))
		if !ok || uid != "6f1c-ab" || name != "web-1" || got != n {
			t.Errorf("%d: %s %s %d %v", n, uid, name, got, ok)
		}
	}
	for _, bad := range []string{"", "a", "a_b", "a_b_", "a_b_x", "_b_1", "a__1", "a_b_-1"} {
		if _, _, _, ok := parseID(bad); ok {
			t.Errorf("%q is an ID", bad)
		}
	}
}

// A projected path cannot lead out of its volume.
func TestProjectionPaths(t *testing.T) {
	src := &sources{configMap: func(string) (*corev1.ConfigMap, error) {
		return &corev1.ConfigMap{Data: map[string]string{"k": "v"}}, nil
	}}
	for _, path := range []string{"/etc/x", "../x", "a/../../x", "..", "..data", "", "."} {
		p := &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ConfigMap: &corev1.ConfigMapProjection{Items: []corev1.KeyToPath{{Key: "k", Path: path}}}}}}
		if files, err := projection(&corev1.Pod{}, p, src); err == nil {
			t.Errorf("%q: %+v", path, files)
		}
	}
}

func TestWriteProjection(t *testing.T) {
	dir := t.TempDir() + "/v"
	for _, files := range [][]projectedFile{
		{{"a", 0o644, []byte("1")}, {"d/b", 0o400, []byte("2")}},
		{{"a", 0o644, []byte("3")}},
		{},
	} {
		if err := writeProjection(dir, files, -1); err != nil {
			t.Fatal(err)
		}
		real, err := filepath.EvalSymlinks(filepath.Join(dir, dataLink))
		if err != nil {
			t.Fatal(err)
		}
		if !same(real, files, -1) {
			t.Errorf("it does not have %+v", files)
		}
		names := topNames(t, dir)
		for _, f := range files {
			if top, _, _ := strings.Cut(f.path, "/"); !slices.Contains(names, top) {
				t.Errorf("%s is missing in %v", top, names)
			}
		}
		if len(names) > len(files)+2 {
			t.Errorf("old names are left: %v", names)
		}
	}
}

func topNames(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
