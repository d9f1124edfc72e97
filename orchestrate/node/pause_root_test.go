package node

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// pausePID is the first process of a pod's process namespace, 0 if there is none.
func (b *bench) pausePID(p *corev1.Pod) int {
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if raw, err := os.ReadFile(filepath.Join(mount+b.c.Cgroup, "pod"+string(p.UID), pauseGroup, "cgroup.procs")); err == nil {
			return atoi(string(raw))
		}
	}
	return 0
}

// Containers that share processes see each other, lose no orphans, and end alone.
// The first process of the pod is of no use to them, whatever they may do.
func TestRootPodSharedProcesses(t *testing.T) {
	b := newBench(t)
	b.runPod("shared", `
  shareProcessNamespace: true
  terminationGracePeriodSeconds: 0
  containers:
  - {name: a, image: "base:1", command: [sh, -c, "sleep 4242 & exec sleep 1111"]}
  - {name: b, image: "base:1", command: [sleep, "2222"], securityContext: {capabilities: {add: [SYS_PTRACE, SYS_ADMIN, KILL]}}}
  - {name: like, image: "base:1", command: [sleep, "3333"], securityContext: {runAsUser: `+strconv.Itoa(pauseUser)+`}}
`)
	was := b.until("shared", "it is ready", ready)
	b.eventually("they see each other", func() bool {
		_, out := b.exec("shared", "b", "ps", "-o", "pid,args")
		return strings.Contains(out, "1 "+pauseName) && strings.Contains(out, "sleep 1111") && strings.Contains(out, "sleep 4242") && strings.Contains(out, "sleep 3333")
	})

	// Its parent has ended before it does.
	if code, out := b.exec("shared", "b", "sh", "-c", "(sleep 0.01; exit 3) >/dev/null 2>&1 &"); code != 0 {
		t.Fatalf("exec: %d %q", code, out)
	}
	b.eventually("orphans are reaped", func() bool {
		_, out := b.exec("shared", "b", "sh", "-c", "cat /proc/[0-9]*/status | grep -c -e '^State:.Z' -e '^Name:.sleep 0'; ps -o args")
		return strings.HasPrefix(out, "0\n") && !strings.Contains(out, "sleep 0.01")
	})

	pause := b.pausePID(was)
	for _, from := range []string{"b", "like"} {
		if _, out := b.exec("shared", from, "sh", "-c", "ls -a /proc/1/root/ /proc/1/cwd/ /proc/1/fd/ 2>/dev/null | sort -u"); strings.Trim(out, ".:/abcdefghijklmnopqrstuvwxyz1\n") != "" || strings.Contains(out, "etc") {
			t.Errorf("%s sees files of process 1: %q", from, out)
		}
		for _, sig := range []string{"KILL", "TERM", "INT", "CHLD", "STOP"} {
			b.exec("shared", from, "kill", "-"+sig, "1")
		}
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pause) + "/status")
	if err != nil {
		t.Fatalf("process 1 was ended: %v", err)
	}
	for _, want := range []string{"State:\tS", "Uid:\t65535\t65535\t65535\t65535", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("process 1: no %q in %s", want, status)
		}
	}
	if fds, _ := os.ReadDir("/proc/" + strconv.Itoa(pause) + "/fd"); len(fds) != 0 {
		t.Errorf("process 1 has %d descriptors", len(fds))
	}
	if entries, err := os.ReadDir("/proc/" + strconv.Itoa(pause) + "/root"); err != nil || len(entries) != 0 {
		t.Errorf("the root of process 1 has %v, %v", entries, err)
	}

	// One of them ends, also what it has started, and nobody else.
	_, out := b.exec("shared", "b", "ps", "-o", "pid,args")
	for line := range strings.Lines(out) {
		if pid, args, _ := strings.Cut(strings.TrimSpace(line), " "); strings.TrimSpace(args) == "sleep 1111" {
			if code, out := b.exec("shared", "b", "kill", "-9", pid); code != 0 {
				t.Fatalf("kill: %d %q", code, out)
			}
		}
	}
	p := b.until("shared", "a was started again", func(p *corev1.Pod) bool { return state(p, "a").RestartCount == 1 && ready(p) })
	if s := state(p, "a").LastTerminationState.Terminated; s == nil || s.ExitCode != 137 {
		t.Errorf("a: %+v", state(p, "a"))
	}
	for _, name := range []string{"b", "like"} {
		if now := state(p, name); now.ContainerID != state(was, name).ContainerID || now.State.Running == nil {
			t.Errorf("%s: %+v", name, now)
		}
	}
	b.eventually("what a had started has ended", func() bool {
		return strings.Count(b.psOf(p), "sleep 4242") == 1 && strings.Count(b.psOf(p), "sleep 1111") == 1
	})
	if now := b.pausePID(p); now != pause {
		t.Errorf("process 1 was %d, is %d", pause, now)
	}

	// It is all taken over, and watched.
	b.stop(syscall.SIGKILL)
	b.run("", 0)
	b.until("shared", "it is taken over", ready)
	if err := syscall.Kill(pause, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p = b.until("shared", "all were started again", func(p *corev1.Pod) bool {
		return state(p, "a").RestartCount >= 2 && state(p, "b").RestartCount >= 1 && state(p, "like").RestartCount >= 1 && ready(p)
	})
	if now := b.pausePID(p); now == pause || now == 0 {
		t.Errorf("process 1 was %d, is %d", pause, now)
	}
	b.eventually("people know", func() bool {
		return strings.Contains(b.reasons("shared"), "Drift: the first process of the pod's process namespace has ended")
	})
	b.delete("shared", 0)
	b.gone("shared")
	b.nothingLeft()
}

// The node is killed when process 1 of a pod is there and nobody knows it yet.
func TestRootPodSharedProcesses_Crash(t *testing.T) {
	b := newBench(t)
	b.stop(syscall.SIGTERM)
	b.run("pause-started", 1)
	b.runPod("shared", `
  shareProcessNamespace: true
  containers:
  - {name: c, image: "base:1", command: [sleep, "1000"]}
`)
	b.wait()
	b.run("", 0)
	p := b.until("shared", "it is ready", ready)
	if s := state(p, "c"); s.RestartCount != 0 {
		t.Errorf("%+v", s)
	}
	if n := strings.Count(b.psOf(p), pauseName); n != 1 {
		t.Errorf("%d processes are the pod's first one: %s", n, b.psOf(p))
	}
	b.delete("shared", 0)
	b.gone("shared")
	b.nothingLeft()
}
