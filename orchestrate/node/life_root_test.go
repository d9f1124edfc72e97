package node

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func state(p *corev1.Pod, name string) corev1.ContainerStatus {
	for _, s := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		if s.Name == name {
			return s
		}
	}
	return corev1.ContainerStatus{}
}

// Init containers run one after the other, sidecars go along, and end last. All share
// the pod's network, hostname and volumes.
func TestRootPodOrder(t *testing.T) {
	b := newBench(t)
	b.runPod("order", `
  terminationGracePeriodSeconds: 20
  volumes: [{name: v, emptyDir: {}}]
  initContainers:
  - {name: first, image: "base:1", command: [sh, -c, "echo first >> /v/order"], volumeMounts: [{name: v, mountPath: /v}]}
  - name: side
    image: "base:1"
    restartPolicy: Always
    command: [sh, -c, "trap 'echo side ends >> /v/order; cat /v/order; exit' TERM; echo side >> /v/order; touch /v/up; nc -l -p 9 & while :; do sleep 1000 & wait $!; done"]
    startupProbe: {exec: {command: [test, -e, /v/up]}, periodSeconds: 1, failureThreshold: 100}
    volumeMounts: [{name: v, mountPath: /v}]
  - {name: second, image: "base:1", command: [sh, -c, "echo second >> /v/order"], volumeMounts: [{name: v, mountPath: /v}]}
  containers:
  - name: c
    image: "base:1"
    command: [sh, -c, "trap 'echo main ends >> /v/order; exit 0' TERM; echo main >> /v/order; hostname; while :; do sleep 1000 & wait $!; done"]
    volumeMounts: [{name: v, mountPath: /v}]
    readinessProbe: {tcpSocket: {port: 9}, periodSeconds: 1}
`)
	p := b.until("order", "it is ready", ready)
	for name, restarts := range map[string]int32{"first": 0, "second": 0, "side": 0, "c": 0} {
		if s := state(p, name); s.RestartCount != restarts || !s.Ready {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if s := state(p, "first"); s.State.Terminated == nil || s.State.Terminated.Reason != "Completed" {
		t.Errorf("first: %+v", s)
	}
	b.eventually("it waits for signals", func() bool { return b.logs("order", "c", "") == "order\n" })
	// A log can be read as long as there is the container: follow the sidecar's.
	lines := b.follow(p, "side")
	b.delete("order", 20)
	b.gone("order")
	if got, want := lines(), "first\nside\nsecond\nmain\nmain ends\nside ends\n"; got != want {
		t.Errorf("order %q, want %q", got, want)
	}
	b.nothingLeft()
}

// Probes decide about traffic and restarts; one that hangs is given up.
func TestRootPodProbes(t *testing.T) {
	b := newBench(t)
	b.runPod("probed", `
  containers:
  - name: c
    image: "base:1"
    command: [sh, -c, "mkdir -p /www; echo ok > /www/ok; exec httpd -f -p 80 -h /www"]
    ports: [{name: http, containerPort: 80}]
    readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1}
    lifecycle: {postStart: {exec: {command: [sh, -c, "while ! [ -e /www/ok ]; do sleep 0.1; done; touch /www/ready"]}}}
  - name: hangs
    image: "base:1"
    command: [sleep, "1000"]
    livenessProbe: {exec: {command: [sleep, "999"]}, periodSeconds: 1, timeoutSeconds: 1, failureThreshold: 2, terminationGracePeriodSeconds: 1}
`)
	p := b.until("probed", "what hangs was started again", func(p *corev1.Pod) bool { return state(p, "hangs").RestartCount >= 1 && state(p, "c").Ready })
	if s := state(p, "hangs").LastTerminationState.Terminated; s != nil && s.ExitCode != 137 {
		t.Errorf("%+v", s)
	}
	b.eventually("people know", func() bool {
		text := b.reasons("probed")
		return strings.Contains(text, "Unhealthy: Liveness probe failed: command timed out") && strings.Contains(text, "Killing: Container hangs failed liveness probe, will be restarted")
	})
	if code, out := b.exec("probed", "c", "rm", "/www/ready"); code != 0 {
		t.Fatalf("exec: %d %s", code, out)
	}
	b.until("probed", "it is not ready", func(p *corev1.Pod) bool { return !state(p, "c").Ready && !ready(p) })
	if got := b.services(); !strings.Contains(got, "remove probed") {
		t.Errorf("services were told %q", got)
	}
	if code, out := b.exec("probed", "c", "sh", "-c", "echo out; echo err >&2; exit 7"); code != 7 || out != "out\nerr\n" && out != "err\nout\n" {
		t.Errorf("exec: %d %q", code, out)
	}
}
