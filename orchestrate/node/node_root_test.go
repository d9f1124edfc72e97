package node

import (
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// A pod runs, says so, is reached by an address of its own, and goes.
func TestRootPodLife(t *testing.T) {
	b := newBench(t)
	b.runPod("web", `
  containers:
  - {name: c, image: "base:1", command: [sh, -c, "echo $(GREETING) $0 >&2; hostname; exec sleep 1000", arg], env: [{name: GREETING, value: hello}], workingDir: /tmp}
`)
	p := b.until("web", "it is ready", ready)
	s := p.Status
	if s.Phase != corev1.PodRunning || s.PodIP == "" || s.HostIP == "" || s.StartTime == nil || s.QOSClass != corev1.PodQOSBestEffort || p.Spec.NodeName != "host" {
		t.Errorf("status %+v", s)
	}
	c := s.ContainerStatuses[0]
	if c.State.Running == nil || !c.Ready || c.Started == nil || !*c.Started || c.RestartCount != 0 || !strings.HasPrefix(c.ContainerID, "minirun://") || c.ImageID == "" {
		t.Errorf("container %+v", c)
	}
	b.eventually("it has written", func() bool { return b.output(p, "c") == "hello arg\nweb\n" || b.output(p, "c") == "web\nhello arg\n" })
	b.eventually("people know", func() bool {
		text := b.reasons("web")
		for _, want := range []string{
			"Scheduled: Successfully assigned default/web to host", `Pulled: Container image "base:1" already present on machine`,
			"Created: Created container: c", "Started: Started container c",
		} {
			if !strings.Contains(text, want) {
				return false
			}
		}
		return true
	})
	b.delete("web", 5)
	b.gone("web")
	b.nothingLeft()
	got := b.services()
	if !strings.HasPrefix(got, "ready(1) web\nremove web\n") || !strings.HasSuffix(got, "forget web\n") {
		t.Errorf("services were told %q", got)
	}
}

// Containers do not depend on the node, which takes them over, and knows how those
// ended that did so meanwhile.
func TestRootPodAdopted(t *testing.T) {
	b := newBench(t)
	b.runPod("stays", `
  containers:
  - {name: c, image: "base:1", command: [sleep, "1000"]}
`)
	b.runPod("ends", `
  restartPolicy: Never
  containers:
  - {name: c, image: "base:1", command: [sh, -c, "trap 'exit 42' TERM; echo up; while :; do sleep 1000 & wait; done"]}
`)
	was := b.until("stays", "it runs", ready)
	ends := b.until("ends", "it runs", running)
	b.eventually("it waits", func() bool { return b.output(ends, "c") == "up\n" })
	b.stop(syscall.SIGKILL)
	b.signal(ends, syscall.SIGTERM)
	b.run("", 0)
	p := b.until("ends", "it has ended", phase(corev1.PodFailed))
	if e := p.Status.ContainerStatuses[0].State.Terminated; e == nil || e.ExitCode != 42 || e.Reason != "Error" {
		t.Errorf("state %+v", p.Status.ContainerStatuses[0].State)
	}
	now := b.until("stays", "it runs", ready)
	if a, c := was.Status.ContainerStatuses[0], now.Status.ContainerStatuses[0]; a.ContainerID != c.ContainerID || c.RestartCount != 0 || now.Status.PodIP != was.Status.PodIP {
		t.Errorf("it was %+v, and is %+v", was.Status, now.Status)
	}
	b.delete("stays", 0)
	b.delete("ends", 0)
	b.gone("ends")
	b.nothingLeft()
}

// What ends is started again, at once the first time, and the count goes up.
func TestRootPodRestart(t *testing.T) {
	b := newBench(t)
	b.runPod("again", `
  containers:
  - {name: c, image: "base:1", command: [sh, -c, "echo last words > /dev/termination-log; exit 3"]}
`)
	p := b.until("again", "it was started again and waits", func(p *corev1.Pod) bool {
		if len(p.Status.ContainerStatuses) == 0 {
			return false
		}
		c := p.Status.ContainerStatuses[0]
		return c.RestartCount >= 1 && c.State.Waiting != nil && c.State.Waiting.Reason == "CrashLoopBackOff"
	})
	e := p.Status.ContainerStatuses[0].LastTerminationState.Terminated
	if e == nil || e.ExitCode != 3 || e.Message != "last words\n" || e.Reason != "Error" {
		t.Errorf("last state %+v", e)
	}
	if ready(p) || p.Status.Phase != corev1.PodRunning {
		t.Errorf("status %+v", p.Status)
	}
	b.runPod("once", `
  restartPolicy: OnFailure
  containers:
  - {name: c, image: "base:1", command: ["true"]}
`)
	p = b.until("once", "it has succeeded", phase(corev1.PodSucceeded))
	if e := p.Status.ContainerStatuses[0].State.Terminated; e == nil || e.Reason != "Completed" {
		t.Errorf("%+v", p.Status)
	}
	b.runPod("typo", `
  containers:
  - {name: c, image: "base:1", command: [no-such-program]}
`)
	b.until("typo", "it says why", func(p *corev1.Pod) bool {
		if len(p.Status.ContainerStatuses) == 0 {
			return false
		}
		e := p.Status.ContainerStatuses[0].LastTerminationState.Terminated
		return e != nil && e.ExitCode == 128 && strings.Contains(e.Message, "no-such-program")
	})
}
