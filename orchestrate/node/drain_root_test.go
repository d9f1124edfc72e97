package node

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// The end of a pod has an order: no new connections come, then the hook runs, then open
// connections are waited for, then comes the signal, and what is left of connections
// goes last. How long connections are waited for is bounded, and a choice.
func TestRootPodDrain(t *testing.T) {
	b := newBench(t)
	services := filepath.Join(b.c.Dir, "services") // what is told to services, and done by containers
	open := func(n string) { write(t, services+".open", n) }
	order := func(pod string) (list []string) {
		t.Helper()
		raw, err := os.ReadFile(services)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(raw)) {
			what, name, _ := strings.Cut(strings.TrimSpace(line), " ")
			if name == pod && (len(list) == 0 || list[len(list)-1] != what) {
				list = append(list, what)
			}
		}
		return list
	}
	pod := func(name, annotations string, grace string) {
		t.Helper()
		spec := podText(name, `
  terminationGracePeriodSeconds: `+grace+`
  volumes: [{name: v, hostPath: {path: `+services+`, type: FileOrCreate}}]
  containers:
  - name: c
    image: "base:1"
    command: [sh, -c, "trap 'echo signal `+name+` >> /services; exit 5' TERM; touch /up; while :; do sleep 1000 & wait $!; done"]
    readinessProbe: {exec: {command: [test, -e, /up]}, periodSeconds: 1}
    lifecycle: {preStop: {exec: {command: [sh, -c, "echo hook `+name+` >> /services"]}}}
    volumeMounts: [{name: v, mountPath: /services}]
`)
		b.apply("pods", strings.Replace(spec, "{name: "+name+"}", "{name: "+name+", finalizers: [test.example/look], annotations: {"+annotations+"}}", 1))
		b.until(name, "it is ready", ready)
		b.delete(name, atoi(grace))
	}
	ended := func(name string, want ...string) {
		t.Helper()
		p := b.until(name, "it has ended", func(p *corev1.Pod) bool { return state(p, "c").State.Terminated != nil })
		if e := state(p, "c").State.Terminated; e.ExitCode != 5 {
			t.Errorf("%s: %+v", name, e)
		}
		if out, code := b.do("PATCH", "/api/v1/namespaces/default/pods/"+name, []byte(`{"metadata":{"finalizers":null}}`)); code != 200 {
			t.Fatalf("%d: %s", code, out)
		}
		b.gone(name)
		got := order(name)
		if i := slices.Index(got, "forget"); i >= 0 {
			got = got[:i+1] // it is looked at once more when its finalizer has gone
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	open("1")
	pod("hasty", `minirun.dev/drain-seconds: "0"`, "1000")
	pod("bounded", `minirun.dev/drain-seconds: "1"`, "1000")
	ended("hasty", "ready(1)", "remove", "hook", "signal", "forget")
	ended("bounded", "ready(1)", "remove", "hook", "connections", "signal", "forget")
	pod("patient", `minirun.dev/drain-seconds: "900"`, "1000")
	b.eventually("connections are looked at", func() bool {
		raw, err := os.ReadFile(services)
		return err == nil && strings.Count(string(raw), "connections patient\n") >= 5
	})
	if got := order("patient"); slices.Contains(got, "signal") {
		t.Errorf("with an open connection: %q", got)
	}
	open("0")
	ended("patient", "ready(1)", "remove", "hook", "connections", "signal", "forget")
}

// How long connections are waited for, unless somebody says so, and never beyond the
// end of the pod's time.
func TestDrainOf(t *testing.T) {
	for _, tt := range []struct {
		annotation  string
		grace, want time.Duration
	}{
		{"", 30 * time.Second, 5 * time.Second},
		{"", 4 * time.Second, 2 * time.Second},
		{"", 0, 0},
		{"0", 30 * time.Second, 0},
		{"20", 30 * time.Second, 20 * time.Second},
		{"40", 30 * time.Second, 30 * time.Second},
	} {
		pod := &corev1.Pod{}
		if tt.annotation != "" {
			pod.Annotations = map[string]string{drainSeconds: tt.annotation}
		}
		if got := drainOf(pod, tt.grace); got != tt.want {
			t.Errorf("%q within %s: %s, want %s", tt.annotation, tt.grace, got, tt.want)
		}
	}
}
