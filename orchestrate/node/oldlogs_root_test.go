package node

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// Logs of runs that are long over can be read, and the newest of them are kept.
func TestRootPodOldLogs(t *testing.T) {
	b := newBench(t)
	b.stop(syscall.SIGTERM)
	b.c.Quick = true
	b.run("", 0)
	const runs = keptRuns + 4
	b.runPod("again", `
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - {name: c, image: "base:1", volumeMounts: [{name: v, mountPath: /v}], command: [sh, -c, "n=$(cat /v/n 2>/dev/null || echo 0); echo $((n+1)) > /v/n; echo run $n; test $n -ge `+fmt.Sprint(runs-1)+` || exit 1; exec sleep 1000"]}
`)
	b.until("again", "it has run often", func(p *corev1.Pod) bool { return state(p, "c").RestartCount == runs-1 && ready(p) })
	for n := range runs {
		want := fmt.Sprintf("run %d\n", n)
		if n < runs-2-keptRuns {
			want = fmt.Sprintf("run %d of container c is not kept; there are [2 3 4 5 6 7 8]", n)
		}
		var got string
		b.eventually("the log is there", func() bool { got = b.logs("again", "c", fmt.Sprintf("run=%d", n)); return strings.Contains(got, want) }, &got)
	}
	for flags, want := range map[string]string{"": fmt.Sprintf("run %d\n", runs-1), "previous": fmt.Sprintf("run %d\n", runs-2), "run=-1": fmt.Sprintf("run %d\n", runs-2), "run=-3": fmt.Sprintf("run %d\n", runs-4)} {
		if got := b.logs("again", "c", flags); got != want {
			t.Errorf("%q: %q, want %q", flags, got, want)
		}
	}
	b.stop(syscall.SIGKILL)
	b.run("", 0)
	b.until("again", "it is taken over", ready)
	if got := b.logs("again", "c", "run=3"); got != "run 3\n" {
		t.Errorf("after a restart: %q", got)
	}
	b.delete("again", 0)
	b.gone("again")
	b.nothingLeft()
}
