package node

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"

	corev1 "k8s.io/api/core/v1"
)

// After a reboot nothing of a pod is there but its records: what is wanted starts
// again and is counted, init containers run again, what was done stays done.
func TestRootPodReboot(t *testing.T) {
	b := newBench(t)
	b.runPod("web", `
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, emptyDir: {}}]
  initContainers: [{name: i, image: "base:1", command: [sh, -c, "echo init >> /v/f"], volumeMounts: [{name: v, mountPath: /v}]}]
  containers: [{name: c, image: "base:1", command: [sh, -c, "echo main >> /v/f; exec sleep 1000"], volumeMounts: [{name: v, mountPath: /v}]}]
`)
	b.runPod("done", `
  restartPolicy: OnFailure
  containers: [{name: c, image: "base:1", command: ["true"]}]
`)
	p := b.until("web", "it is ready", ready)
	b.until("done", "it is done", phase(corev1.PodSucceeded))
	b.stop(syscall.SIGKILL)
	// As if the machine had been switched off: processes, mounts and groups are gone.
	b.signal(p, syscall.SIGKILL)
	b.eventually("it has ended", func() bool { return b.psOf(p) == "" })
	dir := filepath.Join(b.c.Dir, "node/pods", string(p.UID))
	for _, name := range []string{"ns/net", "ns/uts", "ns/ipc", "shm"} {
		if err := unix.Unmount(filepath.Join(dir, name), unix.MNT_DETACH); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	boot := strings.TrimSpace(string(raw))
	other := "00000000" + boot[8:]
	records, _ := filepath.Glob(filepath.Join(b.c.Dir, "node/*/*/*.json"))
	for _, file := range records {
		raw, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(raw), boot) {
			err = os.WriteFile(file, []byte(strings.ReplaceAll(string(raw), boot, other)), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var exits []string
	b.eventually("its end is recorded", func() bool { // else it might be after this
		exits, _ = filepath.Glob(filepath.Join(b.c.Dir, "node/containers", string(p.UID)+"_c_*", "exit"))
		return len(exits) == 1
	})
	for _, file := range exits { // there was no time to write it
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	was := b.services()
	b.run("", 0)
	now := b.until("web", "it runs again", func(p *corev1.Pod) bool { return ready(p) && state(p, "c").RestartCount == 1 })
	if s := state(now, "c").LastTerminationState.Terminated; s == nil || s.Reason != "ContainerStatusUnknown" || s.ExitCode != 137 {
		t.Errorf("last state %+v", s)
	}
	// Until then nobody is led to the address that it had.
	if got := strings.TrimPrefix(b.services(), was); !strings.HasPrefix(strings.ReplaceAll(got, "forget done\n", ""), "remove web\nforget web\nready(1) web\n") {
		t.Errorf("services were told %q", got)
	}
	if _, out := b.exec("web", "c", "cat", "/v/f"); out != "init\nmain\ninit\nmain\n" {
		t.Errorf("what ran: %q", out)
	}
	leases, err := os.ReadDir(filepath.Join(b.c.Dir, "images/networks/networks/pods/leases"))
	if err != nil || len(leases) != 1 || leases[0].Name() != now.Status.PodIP {
		t.Errorf("the pod has the address %s, leases are %v, %v", now.Status.PodIP, leases, err)
	}
	if out := b.host(testenv.Busybox(t), "ping", "-c", "1", "-W", "5", now.Status.PodIP); !strings.Contains(out, "1 packets received") {
		t.Errorf("it does not answer: %s", out)
	}
	if s := b.pod("done"); s.Status.Phase != corev1.PodSucceeded || state(s, "c").RestartCount != 0 {
		t.Errorf("what was done is %+v", s.Status)
	}
}

// The node closes what it opens.
func TestRootPodDescriptors(t *testing.T) {
	b := newBench(t)
	count := func() int {
		entries, err := os.ReadDir("/proc/" + b.helperPID() + "/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	round := func(name string) {
		b.runPod(name, `
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - {name: c, image: "base:1", command: [sleep, "1000"], volumeMounts: [{name: v, mountPath: /v, subPath: s}]}
  - {name: d, image: "base:1", command: ["true"]}
`)
		b.until(name, "it runs", func(p *corev1.Pod) bool { return state(p, "c").Ready && state(p, "d").State.Terminated != nil })
		b.exec(name, "c", "true")
		b.execWith(name, "c", "tty&", "", "true")
		b.delete(name, 0)
		b.gone(name)
		b.nothingLeft()
	}
	round("first")
	was := count()
	round("second")
	round("third")
	b.eventually("no more descriptors are open than before", func() bool { return count() <= was })
}
