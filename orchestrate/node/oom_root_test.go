package node

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
)

// What is added to a container is killed for lack of memory no later than what it was
// made with: it has the container's oom_score_adj, and minirund has its own again.
func TestRootPodOOMScore(t *testing.T) {
	b := newBench(t)
	adj := func(pid string) string {
		raw, err := os.ReadFile("/proc/" + pid + "/oom_score_adj")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(raw))
	}
	own := adj(b.helperPID())
	b.runPod("p", `
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - {name: effort, image: "base:1", command: [sleep, "1000"], volumeMounts: [{name: v, mountPath: /v}], readinessProbe: {exec: {command: [sh, -c, "cat /proc/self/oom_score_adj > /v/tmp; mv /v/tmp /v/probe"]}, periodSeconds: 1000}}
  - {name: burst, image: "base:1", command: [sleep, "1000"], resources: {requests: {memory: 1Mi}}}
`)
	p := b.until("p", "it is ready", ready)
	want := map[string]string{}
	for _, c := range []string{"effort", "burst"} {
		raw, err := os.ReadFile(filepath.Join(b.c.Dir, "node/containers", strings.TrimPrefix(state(p, c).ContainerID, "minirun://"), "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		_, text, ok := strings.Cut(string(raw), `"oomScoreAdj":`)
		if want[c] = strings.TrimSpace(text[:strings.IndexAny(text+",", ",}")]); !ok || want[c] != "999" {
			t.Errorf("%s: oom_score_adj %s in a pod that asks for some memory", c, want[c])
		}
	}
	probe, err := os.ReadFile(filepath.Join(b.c.Dir, "node/pods", string(p.UID), volumesDir, "v/probe"))
	if err != nil || strings.TrimSpace(string(probe)) != want["effort"] {
		t.Errorf("a probe has %q, %v, want %s", probe, err, want["effort"])
	}
	b.runPod("best", `
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "base:1", command: [sleep, "1000"]}]
`)
	b.until("best", "it is ready", ready)
	// Several at the same time do not take what one has lent for minirund's own.
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			pod, c, w := "p", "burst", "999"
			if i%2 == 0 {
				pod, c, w = "best", "c", "1000"
			}
			if code, out := b.exec(pod, c, "cat", "/proc/self/oom_score_adj"); code != 0 || strings.TrimSpace(out) != w {
				t.Errorf("in %s: %d %q, want %s", c, code, out, w)
			}
		})
	}
	all.Wait()
	if got := adj(b.helperPID()); got != own {
		t.Errorf("minirund had oom_score_adj %s and has %s", own, got)
	}
}

// Who pulls images is killed for lack of memory before minirund and most others.
func TestPullOOMScore(t *testing.T) {
	exe := filepath.Join(t.TempDir(), "minirund")
	script := "#!/bin/sh\nuntil [ \"$(cat /proc/self/oom_score_adj)\" = " + strconv.Itoa(pullOOMScore) + " ]; do sleep 0.01; done\necho it is >&2; exit 1\n"
	if err := os.WriteFile(exe, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Timeout(20*time.Second))
	defer cancel()
	if err := pullBy(exe, "/nowhere")(ctx, Pull{Image: "x"}); err == nil || err.Error() != "it is" {
		t.Errorf("it ended with %v", err)
	}
}
