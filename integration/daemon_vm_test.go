package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// When there is too little memory, the kernel ends the pod that takes it, and not
// minirund or a pod with guarantees, although all of them are within the same limit.
func TestVMUpMemory(t *testing.T) {
	d := daemonSetup(t)
	t.Setenv("MINIRUND_SOCKET", d.socket)
	const mount = "/sys/fs/cgroup"
	group := fmt.Sprintf("/minirun-test-%d-memory", os.Getpid())
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(mount+file, []byte(text), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, g := range []string{"", "/daemon"} {
		if err := os.Mkdir(mount+group+g, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { // what is in it ends first
			eventually(t, "the cgroup is gone", func() bool {
				err := os.Remove(mount + group + g)
				return err == nil || os.IsNotExist(err)
			})
		})
	}
	t.Cleanup(func() {
		d.removePods(group + "/pods")
		d.do("down", "--socket", d.socket)
		d.do("network", "rm", "pods") // nobody takes its bridge with him here
	})
	write(group+"/cgroup.subtree_control", "+memory")
	write(group+"/memory.max", strconv.Itoa(256<<20))
	said := strings.Fields(d.must(d.up("--cgroup-parent", group+"/pods")...))
	pid := said[len(said)-1]
	write(group+"/daemon/cgroup.procs", pid)
	adj := func(what string) string {
		t.Helper()
		raw, err := os.ReadFile("/proc/" + what + "/oom_score_adj")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(raw))
	}
	if got := adj(pid); got != "-999" {
		t.Errorf("minirund has oom_score_adj %s", got)
	}
	d.must("kube", "create", "-f", d.file("pods.yaml", `
apiVersion: v1
kind: Pod
metadata: {name: calm}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: base, imagePullPolicy: Never, command: [sleep, "1000"], resources: {limits: {memory: 16Mi, cpu: 100m}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: eats}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, emptyDir: {}}]
  containers: [{name: c, image: base, imagePullPolicy: Never, command: [sh, -c, "[ -e /v/x ] && exec sleep 1000; touch /v/x; exec tail /dev/zero"], volumeMounts: [{name: v, mountPath: /v}]}]
`))
	// Few commands: each takes seconds where processors are emulated.
	d.must("kube", "wait", "pod", "eats", "--for=jsonpath={.status.containerStatuses[0].restartCount}=1", "--timeout=300s")
	const path = "{range .items[*]}{.metadata.name} {.status.phase} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].lastState.terminated.reason} {.status.containerStatuses[0].lastState.terminated.exitCode};{end}"
	if got, want := d.must("kube", "get", "pods", "-o", "jsonpath="+path), "calm Running 0  ;eats Running 1 OOMKilled 137;"; got != want {
		t.Errorf("pods %q, want %q", got, want)
	}
	if got := strings.TrimSpace(d.must("kube", "exec", "calm", "--", "cat", "/proc/self/oom_score_adj")); got != "-997" {
		t.Errorf("what is executed in it has oom_score_adj %s", got)
	}
	raw, err := os.ReadFile(filepath.Join(mount+group, "daemon", "memory.events"))
	if err != nil || strings.Contains(string(raw), "oom_kill 1") {
		t.Errorf("memory.events of minirund: %v\n%s", err, raw)
	}
}
