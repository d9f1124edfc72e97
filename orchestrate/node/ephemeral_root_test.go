package node

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
)

// debug adds an ephemeral container to a pod.
func (b *bench) debug(pod, text string) {
	b.t.Helper()
	var doc map[string]any
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		b.t.Fatal(err)
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		b.t.Fatal(err)
	}
	var e corev1.EphemeralContainer
	if err := json.Unmarshal(raw, &e); err != nil {
		b.t.Fatal(err)
	}
	path := "/api/v1/namespaces/default/pods/" + pod
	b.eventually("it is added", func() bool { // the status may change meanwhile
		p := b.pod(pod)
		p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, e)
		if raw, err = json.Marshal(p); err != nil {
			b.t.Fatal(err)
		}
		out, code := b.do(http.MethodPut, path+"/ephemeralcontainers", raw)
		if code != http.StatusOK && code != http.StatusConflict {
			b.t.Fatalf("%d: %s", code, out)
		}
		return code == http.StatusOK
	})
}

// guest is the status of an ephemeral container.
func guest(p *corev1.Pod, name string) *corev1.ContainerStatus {
	for i := range p.Status.EphemeralContainerStatuses {
		if s := &p.Status.EphemeralContainerStatuses[i]; s.Name == name {
			return s
		}
	}
	return &corev1.ContainerStatus{}
}

func runs(name string) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool { return guest(p, name).State.Running != nil }
}

func hasEnded(name string) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool { return guest(p, name).State.Terminated != nil }
}

// An ephemeral container is in the namespaces of its pod, and, with a target, sees that
// one's processes. It runs once, whatever ends it, and changes nothing about the pod.
func TestRootPodEphemeral(t *testing.T) {
	b := newBench(t)
	b.runPod("app", `
  terminationGracePeriodSeconds: 0
  initContainers: [{name: i, image: "base:1", command: ["true"]}]
  containers:
  - {name: c, image: "base:1", command: [sleep, "4242"]}
`)
	was := b.until("app", "it is ready", ready)
	b.debug("app", `{name: free, image: "base:1", command: [sh, -c, "echo free; exec sleep 1111"]}`)
	b.debug("app", `{name: close, image: "base:1", command: [sh, -c, "echo close; exec sleep 2222"], targetContainerName: c}`)
	b.debug("app", `{name: short, image: "base:1", command: [sh, -c, "echo short; exit 7"], targetContainerName: c}`)
	b.debug("app", `{name: lost, image: "base:1", command: [sleep, "3333"], targetContainerName: i}`)
	b.debug("app", `{name: wrong, image: "base:1", command: [/no/such/program]}`)
	p := b.until("app", "they run", func(p *corev1.Pod) bool {
		return runs("free")(p) && runs("close")(p) && hasEnded("short")(p) && hasEnded("wrong")(p) && guest(p, "lost").State.Waiting != nil && guest(p, "lost").State.Waiting.Message != ""
	})
	if s := guest(p, "short"); s.State.Terminated.ExitCode != 7 || s.Ready || s.Started != nil {
		t.Errorf("short: %+v", s)
	}
	if s := guest(p, "wrong"); s.State.Terminated.ExitCode != 128 || s.State.Terminated.Reason != "StartError" {
		t.Errorf("wrong: %+v", s)
	}
	if s := guest(p, "lost"); s.State.Waiting.Reason != "CreateContainerConfigError" || !strings.Contains(s.State.Waiting.Message, `unable to find target container "i"`) {
		t.Errorf("lost: %+v", s)
	}
	if !ready(p) || state(p, "c").ContainerID != state(was, "c").ContainerID || len(p.Status.ContainerStatuses) != 1 {
		t.Errorf("the pod has changed: %+v", p.Status)
	}
	namespaces := func(container string) map[string]string {
		_, out := b.exec("app", container, "sh", "-c", "cd /proc/self/ns && for n in net ipc uts pid mnt; do echo $n $(readlink $n); done")
		of := map[string]string{}
		for line := range strings.Lines(out) {
			name, id, _ := strings.Cut(strings.TrimSpace(line), " ")
			of[name] = id
		}
		return of
	}
	c, free, near := namespaces("c"), namespaces("free"), namespaces("close")
	for _, name := range []string{"net", "ipc", "uts"} {
		if c[name] == "" || free[name] != c[name] || near[name] != c[name] {
			t.Errorf("%s: %q, %q, %q", name, c[name], free[name], near[name])
		}
	}
	if free["pid"] == c["pid"] || near["pid"] != c["pid"] || near["mnt"] == c["mnt"] {
		t.Errorf("c %v, free %v, close %v", c, free, near)
	}
	if _, out := b.exec("app", "close", "ps", "-o", "pid,args"); !strings.Contains(out, "1 sleep 4242") || !strings.Contains(out, "sleep 2222") {
		t.Errorf("close sees %q", out)
	}
	if _, out := b.exec("app", "free", "ps", "-o", "pid,args"); strings.Contains(out, "sleep 4242") || !strings.Contains(out, "1 sleep 1111") {
		t.Errorf("free sees %q", out)
	}
	for name, want := range map[string]string{"free": "free\n", "close": "close\n", "short": "short\n"} {
		if got := b.logs("app", name, ""); got != want {
			t.Errorf("log of %s: %q", name, got)
		}
	}

	// All is taken over, and nothing is run again.
	before := p
	b.stop(syscall.SIGKILL)
	b.run("", 0)
	p = b.until("app", "it is taken over", func(p *corev1.Pod) bool { return ready(p) && runs("free")(p) && runs("close")(p) })
	for _, name := range []string{"free", "close", "short"} {
		if now, then := guest(p, name), guest(before, name); now.ContainerID != then.ContainerID || now.RestartCount != 0 {
			t.Errorf("%s: %+v", name, now)
		}
	}
	if s := guest(p, "short").State.Terminated; s == nil || s.ExitCode != 7 {
		t.Errorf("short: %+v", guest(p, "short"))
	}
	if got := b.logs("app", "short", ""); got != "short\n" {
		t.Errorf("log of short: %q", got)
	}

	// The end of the target is the end of who is in its namespace, and of nobody else.
	b.signal(p, syscall.SIGKILL)
	p = b.until("app", "c was started again", func(p *corev1.Pod) bool {
		return ready(p) && state(p, "c").RestartCount == 1 && hasEnded("close")(p)
	})
	if s := guest(p, "close").State.Terminated; s.ExitCode != 137 || s.Reason != "Error" {
		t.Errorf("close: %+v", s)
	}
	if !runs("free")(p) {
		t.Errorf("free: %+v", guest(p, "free"))
	}
	if text := b.psOf(p); strings.Count(text, "sleep 2222") != 0 || strings.Count(text, "sleep 1111") != 1 || strings.Count(text, "sleep 4242") != 1 {
		t.Errorf("processes: %q", text)
	}
	if events := b.reasons("app"); !strings.Contains(events, "Started: Started container close") {
		t.Errorf("events: %s", events)
	}
	b.delete("app", 0)
	b.gone("app")
	b.nothingLeft()

	// It does not hold a pod that has come to its end.
	b.runPod("job", `
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - {name: c, image: "base:1", command: [sh, -c, "until test -e /v/go; do sleep 0.05; done"], volumeMounts: [{name: v, mountPath: /v}]}
`)
	b.until("job", "it is ready", ready)
	b.debug("job", `{name: e, image: "base:1", command: [sh, -c, "touch /v/go; exec sleep 1111"], volumeMounts: [{name: v, mountPath: /v}]}`)
	p = b.until("job", "it has ended", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded && hasEnded("e")(p) })
	if s := guest(p, "e").State.Terminated; s.ExitCode != 137 {
		t.Errorf("%+v", s)
	}
	b.delete("job", 0)
	b.gone("job")
}

// The node is killed while an ephemeral container starts: it runs once at most, and what
// became of it is known.
func TestRootPodEphemeral_Crash(t *testing.T) {
	b := newBench(t)
	starts := filepath.Join(b.c.Dir, "starts")
	b.runPod("app", `
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, hostPath: {path: `+b.c.Dir+`}}]
  containers: [{name: c, image: "base:1", command: [sleep, "4242"]}]
`)
	was := b.until("app", "it is ready", ready)
	for _, step := range []string{"container-prepared", "container-runs", "container-recorded"} {
		b.stop(syscall.SIGTERM)
		b.run(step, 1)
		b.until("app", "it is ready", ready)
		b.debug("app", `{name: `+step+`, image: "base:1", command: [sh, -c, "echo `+step+` >> /v/starts; exec sleep 1111"], volumeMounts: [{name: v, mountPath: /v}], targetContainerName: c}`)
		b.wait()
		b.run("", 0)
		p := b.until("app", "the pod is as it was", func(p *corev1.Pod) bool { return ready(p) && (runs(step)(p) || hasEnded(step)(p)) })
		if state(p, "c").ContainerID != state(was, "c").ContainerID {
			t.Errorf("%s: %+v", step, p.Status)
		}
		if s := guest(p, step); s.RestartCount != 0 || (s.State.Running == nil) != (step == "container-runs") || s.State.Running == nil && s.State.Terminated.ExitCode != 137 {
			t.Errorf("%s: %+v", step, s)
		}
		count := func() int {
			raw, _ := os.ReadFile(starts)
			return strings.Count("\n"+string(raw), "\n"+step+"\n")
		}
		if step != "container-runs" {
			b.eventually("it has begun", func() bool { return count() > 0 })
		}
		if n := count(); n > 1 {
			t.Errorf("%s: %d runs", step, n)
		}
	}
	p := b.pod("app")
	if n := strings.Count(b.psOf(p), "sleep 1111"); n != 2 {
		t.Errorf("%d run: %s", n, b.psOf(p))
	}
	b.delete("app", 0)
	b.gone("app")
	b.nothingLeft()
}
