package node

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The node is killed at every step of a pod's life. Afterwards the pod is what it
// should be, nothing was started twice, and in the end nothing is left.
func TestRootPodCrash(t *testing.T) {
	b := newBench(t)
	starts := filepath.Join(b.c.Dir, "starts")
	pod := func(name string) string {
		return podText(name, `
  terminationGracePeriodSeconds: 1
  volumes: [{name: v, hostPath: {path: `+b.c.Dir+`}}, {name: e, emptyDir: {}}, {name: m, emptyDir: {medium: Memory}}]
  containers:
  - {name: c, image: "base:1", command: [sh, -c, "echo $(NAME) >> /v/starts; exec sleep 1000"], env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}],
     volumeMounts: [{name: v, mountPath: /v}, {name: e, mountPath: /e}, {name: m, mountPath: /m}]}
`)
	}
	check := func(name string, most int32) {
		t.Helper()
		p := b.until(name, "it is ready", ready)
		n := state(p, "c").RestartCount
		ran := int32(0)
		b.eventually("it has written", func() bool {
			raw, _ := os.ReadFile(starts)
			ran = int32(strings.Count("\n"+string(raw), "\n"+name+"\n"))
			return ran > 0 && strings.Contains(b.psOf(p), "sleep")
		})
		// One that was ended before it came to write is counted, too.
		if n > most || ran < 1 || ran > n+1 {
			t.Errorf("%s: %d restarts, %d runs", name, n, ran)
		}
		if text := b.psOf(p); strings.Count(text, "sleep") != 1 {
			t.Errorf("%s: processes %q", name, text)
		}
	}
	b.stop(syscall.SIGTERM)
	for i, step := range []string{
		"sandbox-recorded", "sandbox-cgroup", "sandbox-namespaces", "sandbox-connected", "sandbox-volumes",
		"container-prepared", "container-runs", "container-recorded",
	} {
		name := "start" + string(rune('a'+i))
		b.run(step, 1)
		b.apply("pods", pod(name))
		b.wait()
		b.run("", 0)
		most := int32(0)
		if step == "container-runs" {
			most = 1
		}
		check(name, most)
		b.stop(syscall.SIGKILL)
		b.run("", 0) // once more, at rest
		check(name, most)
		b.delete(name, 0)
		b.gone(name)
		b.nothingLeft()
		b.stop(syscall.SIGTERM)
	}
	// Killed again while that is looked at: it is still one run, and the next is another.
	for i, step := range []string{"adopt-noted", "adopt-discarded"} {
		name := "again" + string(rune('a'+i))
		b.run("container-runs", 1)
		b.apply("pods", pod(name))
		b.wait()
		b.begin(step, 1)
		b.wait()
		b.run("", 0)
		check(name, 1)
		if n := state(b.until(name, "it is ready", ready), "c").RestartCount; n != 1 {
			t.Errorf("%s: %d restarts, want 1", name, n)
		}
		b.delete(name, 0)
		b.gone(name)
		b.nothingLeft()
		b.stop(syscall.SIGTERM)
	}
	for i, step := range []string{"stop-begun", "stop-signal", "stop-kill", "wipe-begun", "wipe-containers", "wipe-sandbox"} {
		name := "stop" + string(rune('a'+i))
		b.run(step, 1)
		b.apply("pods", pod(name))
		check(name, 0)
		b.delete(name, 1)
		b.wait()
		b.run("", 0)
		b.gone(name)
		b.nothingLeft()
		b.stop(syscall.SIGTERM)
	}
}
