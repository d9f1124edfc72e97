package node

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"
)

// What somebody takes away from a pod is noticed and repaired, and people are told.
func TestRootPodDrift(t *testing.T) {
	b := newBench(t)
	b.stop(syscall.SIGTERM)
	b.c.Check = 100 * time.Millisecond
	b.run("", 0)
	b.runPod("d", `
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "base:1", command: [sleep, "1000"]}]
`)
	p := b.until("d", "it is ready", ready)
	at := filepath.Join(b.c.Dir, "node/pods", string(p.UID), "ns/net")
	if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	b.eventually("it is pinned again", func() bool { return isNamespace(at) })
	b.eventually("people know", func() bool {
		return strings.Contains(b.reasons("d"), "Drift: namespace net was not pinned any more; it is that of process")
	})
	if now := b.pod("d"); state(now, "c").RestartCount != 0 || now.Status.PodIP != p.Status.PodIP {
		t.Errorf("%+v", now.Status)
	}
	// Without its interface it cannot go on.
	if code, out := b.exec("d", "c", "true"); code != 0 {
		t.Fatal(out)
	}
	b.inPod(at, "ip", "link", "del", "eth0")
	b.until("d", "it was made anew", func(p *corev1.Pod) bool { return ready(p) && state(p, "c").RestartCount == 1 })
}
