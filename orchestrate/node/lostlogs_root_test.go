package node

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// A disk that is full for logs harms no container, people are told, and how a container
// ends is known nevertheless.
func TestRootPodLogsFullDisk(t *testing.T) {
	b := newBench(t)
	disk, host := b.smallDisk("4m"), filepath.Join(b.c.Dir, "host")
	if err := os.Mkdir(host, 0o755); err != nil {
		t.Fatal(err)
	}
	b.c.Root, b.c.Check = disk, 50*time.Millisecond
	b.run("", 0)
	wait := func(file string) string { return "while ! [ -e /v/" + file + " ]; do sleep 0.02; done; " }
	b.runPod("p", `
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, hostPath: {path: `+host+`}}]
  containers:
  - {name: c, image: "base:1", command: [sh, -c, "echo begins; `+wait("go")+`head -c 30000 /dev/zero; touch /v/wrote; `+wait("end")+`exit 7"], volumeMounts: [{name: v, mountPath: /v}]}
  - {name: quiet, image: "base:1", command: [sh, -c, "echo said; `+wait("end")+`"], volumeMounts: [{name: v, mountPath: /v}]}
`)
	b.until("p", "it runs", ready)
	for c, want := range map[string]string{"c": "begins\n", "quiet": "said\n"} {
		b.eventually("it is in the log", func() bool { return b.logs("p", c, "") == want })
	}
	if text := b.reasons("p"); strings.Contains(text, "LogIncomplete") {
		t.Errorf("events %s", text)
	}
	filler := fill(t, disk)
	write(t, host+"/go", "")
	b.eventually("it goes on", func() bool { _, err := os.Stat(host + "/wrote"); return err == nil })
	b.eventually("people know", func() bool {
		return strings.Contains(b.reasons("p"), "LogIncomplete: output is missing in the log: it could not be written below "+disk)
	})
	for _, e := range b.events("p") {
		if e.Reason == "LogIncomplete" && e.InvolvedObject.FieldPath != "spec.containers{c}" {
			t.Errorf("event %+v", e)
		}
	}
	if p := b.pod("p"); !ready(p) {
		t.Errorf("%+v", p.Status)
	}
	write(t, host+"/end", "")
	p := b.until("p", "it has failed", phase(corev1.PodFailed))
	if e := state(p, "c").State.Terminated; e == nil || e.ExitCode != 7 || e.Reason != "Error" {
		t.Errorf("%+v", state(p, "c").State)
	}
	if e := state(p, "quiet").State.Terminated; e == nil || e.ExitCode != 0 {
		t.Errorf("%+v", state(p, "quiet").State)
	}

	// The record of the end says so, not only who has seen it.
	b.stop(syscall.SIGKILL)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	b.run("", 0)
	if e := state(b.pod("p"), "c").State.Terminated; e == nil || e.ExitCode != 7 {
		t.Errorf("%+v", state(b.pod("p"), "c").State)
	}
}
