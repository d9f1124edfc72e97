package node

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/podlife"
)

// A pod that asks for more than there is waits, says why, and starts when another one
// goes or has come to its end.
func TestRootPodRoom(t *testing.T) {
	b := newBench(t)
	cpu := func(name string, milli int, command string) {
		t.Helper()
		b.runPod(name, fmt.Sprintf(`
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, hostPath: {path: %s}}]
  containers: [{name: c, image: "base:1", command: [sh, -c, "%s"], resources: {requests: {cpu: %dm}}, volumeMounts: [{name: v, mountPath: /v}]}]
`, b.c.Dir, command, milli))
	}
	all := 1000 * goruntime.NumCPU()
	waits := func(name string) {
		t.Helper()
		b.until(name, "there is no room", func(p *corev1.Pod) bool {
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
					return p.Status.Phase == corev1.PodPending && c.Message == "0/1 nodes are available: 1 Insufficient cpu."
				}
			}
			return false
		})
	}
	cpu("most", all-100, "sleep 1000")
	b.until("most", "it runs", ready)
	cpu("half", all/2, "while ! [ -e /v/go ]; do sleep 0.05; done")
	waits("half")
	cpu("fits", 100, "sleep 1000")
	b.until("fits", "it runs", ready)
	b.delete("most", 0)
	b.until("half", "it runs", ready)
	cpu("more", all-200, "sleep 1000")
	waits("more")
	write(t, b.c.Dir+"/go", "")
	b.until("half", "it has come to its end", phase(corev1.PodSucceeded))
	b.until("more", "it runs", ready)
	cpu("never", all+1, "true")
	waits("never")
}

// What a clock said that was wrong keeps nothing from being started again: here the end
// of a container is recorded a year from now.
func TestRootPodClock(t *testing.T) {
	b := newBench(t)
	b.runPod("again", `
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, emptyDir: {}}]
  containers: [{name: c, image: "base:1", command: [sh, -c, "[ -e /v/x ] || { touch /v/x; exit 1; }; exec sleep 1000"], volumeMounts: [{name: v, mountPath: /v}]}]
`)
	p := b.until("again", "it was started again", func(p *corev1.Pod) bool { return ready(p) && state(p, "c").RestartCount == 1 })
	b.stop(syscall.SIGKILL)
	b.signal(p, syscall.SIGKILL)
	exit := filepath.Join(b.c.Dir, "node/containers", strings.TrimPrefix(state(p, "c").ContainerID, "minirun://"), "exit")
	b.eventually("its end is recorded", func() bool { _, err := os.Stat(exit); return err == nil })
	raw, err := os.ReadFile(exit)
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	for i := 0; i+8 <= len(raw); i += 8 {
		if at := int64(binary.LittleEndian.Uint64(raw[i:])); at > time.Now().Add(-time.Hour).Unix() && at <= time.Now().Unix() {
			binary.LittleEndian.PutUint64(raw[i:], uint64(at+365*24*3600))
			changed++
		}
	}
	if changed != 1 {
		t.Fatalf("the record has %d times", changed)
	}
	if err := os.WriteFile(exit, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	b.run("", 0)
	p = b.until("again", "it runs", func(p *corev1.Pod) bool { return ready(p) && state(p, "c").RestartCount == 2 })
	if e := state(p, "c").LastTerminationState.Terminated; e == nil || e.FinishedAt.Before(&metav1.Time{Time: time.Now().Add(300 * 24 * time.Hour)}) {
		t.Errorf("the record was not read: %+v", e)
	}
}

// An end in the future counts as one of now; the wait then goes by the clock that only
// goes forward.
func TestDecideClock(t *testing.T) {
	future := time.Now().Add(24 * 365 * time.Hour)
	a := (&attempt{Sandbox: 1, Finished: future}).see()
	v := &view{Sandbox: 1, Backoff: podlife.Default}
	b := &box{Last: a, Restarts: podlife.Restarts{Wait: 8 * time.Second, Last: future}}
	if wait := time.Until(v.restartAt(b, a)); wait > 8*time.Second || wait < 7*time.Second {
		t.Errorf("it waits %s", wait)
	}
	v.Sandbox = 2 // it went with its sandbox
	if wait := time.Until(v.restartAt(b, a)); wait > 0 {
		t.Errorf("it waits %s", wait)
	}
	past := (&attempt{Finished: time.Now().Add(-time.Minute)}).see()
	if since := time.Since(past.over()); since < time.Minute {
		t.Errorf("it ended %s ago", since)
	}
}

// Limits are in the cgroups, and hold: who has too many processes or too much memory
// harms nobody else.
func TestVMPodLimits(t *testing.T) {
	b := newBench(t)
	b.stop(syscall.SIGTERM)
	b.c.PodPIDs = 40
	b.run("", 0)
	b.runPod("bomb", `
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "base:1", command: [sh, -c, "while :; do (while :; do sleep 1000 & done) 2>/dev/null; sleep 1; done"]}]
`)
	b.runPod("eats", `
  restartPolicy: Never
  containers:
  - {name: c, image: "base:1", command: [sh, -c, "sleep 1000 & exec tail /dev/zero"], resources: {limits: {memory: 8Mi, cpu: 500m}}}
`)
	b.runPod("sized", `
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: "base:1", command: [sleep, "1000"], resources: {requests: {cpu: 250m, memory: 16Mi}, limits: {cpu: 500m, memory: 32Mi}}}
  - {name: d, image: "base:1", command: [sleep, "1000"], resources: {requests: {cpu: 100m}, limits: {cpu: 100m, memory: 8Mi}}}
`)
	b.runPod("effort", `
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "base:1", command: [sleep, "1000"]}]
`)
	b.runPod("guaranteed", `
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "base:1", command: [sleep, "1000"], resources: {limits: {cpu: 100m, memory: 8Mi}}}]
`)
	p := b.until("eats", "it has failed", phase(corev1.PodFailed))
	if e := state(p, "c").State.Terminated; e == nil || e.Reason != "OOMKilled" || e.ExitCode != 137 {
		t.Errorf("state %+v", state(p, "c").State)
	}
	p = b.until("sized", "it runs", ready)
	read := func(p *corev1.Pod, file string) string {
		t.Helper()
		raw, err := os.ReadFile("/sys/fs/cgroup" + b.c.Cgroup + "/pod" + string(p.UID) + "/" + file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(raw))
	}
	for file, want := range map[string]string{
		"c_0/cpu.max": "50000 100000", "d_0/cpu.max": "10000 100000", "cpu.max": "60000 100000",
		"c_0/memory.max": "33554432", "d_0/memory.max": "8388608", "memory.max": "41943040", "c_0/memory.oom.group": "1", "pids.max": "40",
	} {
		if got := read(p, file); got != want {
			t.Errorf("%s: %s, want %s", file, got, want)
		}
	}
	weight := func(file string) int { return atoi(read(p, file)) }
	if c, d, pod := weight("c_0/cpu.weight"), weight("d_0/cpu.weight"), weight("cpu.weight"); d >= c || c >= pod {
		t.Errorf("weights: %d for 250m, %d for 100m, %d for both", c, d, pod)
	}
	score := func(p *corev1.Pod) int {
		t.Helper()
		pid, _, _ := strings.Cut(read(p, "c_0/cgroup.procs"), "\n")
		raw, err := os.ReadFile("/proc/" + pid + "/oom_score_adj")
		if err != nil {
			t.Fatal(err)
		}
		return atoi(string(raw))
	}
	if got := score(p); got < 3 || got > 999 {
		t.Errorf("burstable: oom_score_adj %d", got)
	}
	if got := score(b.until("guaranteed", "it runs", ready)); got != -997 {
		t.Errorf("guaranteed: oom_score_adj %d", got)
	}
	if got := score(b.until("effort", "it runs", ready)); got != 1000 {
		t.Errorf("best effort: oom_score_adj %d", got)
	}
	p = b.until("bomb", "it runs", running)
	b.eventually("the bomb has met its limit", func() bool {
		// Kernels before 6.11 count in the group that the process is in.
		files, _ := filepath.Glob("/sys/fs/cgroup" + b.c.Cgroup + "/pod" + string(p.UID) + "/c_*/pids.events")
		for _, file := range append(files, "/sys/fs/cgroup"+b.c.Cgroup+"/pod"+string(p.UID)+"/pids.events") {
			raw, _ := os.ReadFile(file)
			if _, n, ok := strings.Cut(string(raw), "max "); ok && atoi(n) > 0 {
				return true
			}
		}
		return false
	})
	if n := atoi(read(p, "pids.current")); n > 40 {
		t.Errorf("%d processes", n)
	}
	b.delete("bomb", 0)
	b.gone("bomb")
}
