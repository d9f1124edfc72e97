package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/minirun/minirun/internal/kfeature"
)

// A node that takes over a pod that is ready leads connections to it all the time.
func TestRootPodReadyAfterRestart(t *testing.T) {
	b := newBench(t)
	const pods = 4
	for i := range pods {
		b.runPod(fmt.Sprintf("pod%d", i), `
  containers:
  - {name: c, image: "base:1", command: [sleep, "1000"]}
  - {name: probed, image: "base:1", command: [sleep, "1000"], readinessProbe: {exec: {command: ["true"]}, periodSeconds: 1, timeoutSeconds: 100}}
`)
	}
	for i := range pods {
		b.until(fmt.Sprintf("pod%d", i), "it is ready", ready)
	}
	for again := 2; again < 5; again++ {
		b.stop(syscall.SIGKILL)
		b.run("", 0)
		b.eventually("all are led to again", func() bool { return strings.Count(b.services(), "ready(") == again*pods })
		for _, p := range b.pods() {
			if !ready(&p) {
				t.Errorf("%s is not ready: %+v", p.Name, p.Status.Conditions)
			}
		}
	}
	if got := b.services(); strings.Contains(got, "remove") {
		t.Errorf("services were told %q", got)
	}
}

// What the kernel has told a node about the end of a container whose monitor was
// killed is not forgotten by the next one.
func TestRootPodEndRemembered(t *testing.T) {
	b := newBench(t)
	b.runPod("p", `
  restartPolicy: Never
  containers:
  - {name: c, image: "base:1", command: [sleep, "1000"]}
  - {name: other, image: "base:1", command: [sh, -c, "trap 'exit 5' TERM; echo up; while :; do sleep 1000 & wait; done"]}
`)
	p := b.until("p", "it runs", ready)
	monitor := b.monitorOf(p)
	if err := syscall.Kill(monitor, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.eventually("its monitor has ended", func() bool { return b.monitorOf(p) != monitor })
	b.signal(p, syscall.SIGKILL)
	was := *state(b.until("p", "it has ended", func(p *corev1.Pod) bool { return state(p, "c").State.Terminated != nil }), "c").State.Terminated
	if kfeature.PidfdExitInfo.Supported() == nil && (was.ExitCode != 137 || was.Signal != 9 || was.Reason != "Error") {
		t.Errorf("it ended with %+v, although the kernel knows", was)
	}
	for range 2 {
		b.stop(syscall.SIGKILL)
		b.run("", 0)
	}
	// The status is written anew when the other one has ended.
	b.eventually("the other one can be told", func() bool { return b.output(p, "other") == "up\n" })
	b.exec("p", "other", "kill", "1") // which may end with the container
	p = b.until("p", "both have ended", phase(corev1.PodFailed))
	if is := *state(p, "c").State.Terminated; is != was {
		t.Errorf("it ended with %+v, and before that with %+v", is, was)
	}
	if e := state(p, "other").State.Terminated; e == nil || e.ExitCode != 5 {
		t.Errorf("the other one: %+v", e)
	}
	b.delete("p", 0)
	b.gone("p")
	b.nothingLeft()
}

// A node that is killed when it has learned of such an end, and has told nobody yet,
// leaves the next one a record of it.
func TestRootPodEndKept(t *testing.T) {
	if err := kfeature.PidfdExitInfo.Supported(); err != nil {
		t.Skip("the kernel does not tell holders of a pidfd how a process has ended: ", err)
	}
	b := newBench(t)
	b.stop(syscall.SIGTERM)
	b.run("end-recorded", 1)
	b.runPod("p", `
  restartPolicy: Never
  containers: [{name: c, image: "base:1", command: [sh, -c, "trap 'exit 69' TERM; echo up; while :; do sleep 1000 & wait; done"]}]
`)
	p := b.until("p", "it runs", ready)
	b.eventually("it can be told", func() bool { return b.output(p, "c") == "up\n" })
	monitor := b.monitorOf(p)
	if err := syscall.Kill(monitor, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.eventually("its monitor has ended", func() bool { return b.monitorOf(p) != monitor })
	b.signal(p, syscall.SIGTERM)
	b.wait()
	b.run("", 0)
	p = b.until("p", "it has failed", phase(corev1.PodFailed))
	if e := state(p, "c").State.Terminated; e == nil || e.ExitCode != 69 || e.Reason != "Error" {
		t.Errorf("it ended with %+v", e)
	}
	b.delete("p", 0)
	b.gone("p")
	b.nothingLeft()
}

// What a node that was killed had half deleted of the file systems of containers is
// deleted by the next one.
func TestRootPodRemains(t *testing.T) {
	b := newBench(t)
	b.stop(syscall.SIGKILL)
	trash := filepath.Join(b.c.Images, "overlay/staging/trash-0123456789abcdef/upper")
	if err := os.MkdirAll(trash, 0o700); err != nil {
		t.Fatal(err)
	}
	b.run("", 0)
	b.eventually("it is gone", func() bool {
		left, err := os.ReadDir(filepath.Dir(filepath.Dir(trash)))
		return err == nil && len(left) == 0
	})
}

// monitorOf is the parent of the first process of a pod's first container.
func (b *bench) monitorOf(p *corev1.Pod) int {
	b.t.Helper()
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		raw, err := os.ReadFile(filepath.Join(mount, b.c.Cgroup, "pod"+string(p.UID), p.Spec.Containers[0].Name+"_0", "cgroup.procs"))
		if err != nil {
			continue
		}
		pid, _, _ := strings.Cut(string(raw), "\n")
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			b.t.Fatal(err)
		}
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		parent, err := strconv.Atoi(f[1])
		if err != nil {
			b.t.Fatal(err)
		}
		return parent
	}
	b.t.Fatal("the container has no process")
	return 0
}
