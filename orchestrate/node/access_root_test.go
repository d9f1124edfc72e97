package node

import (
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// Logs, programs with and without a terminal, input of the first process, use.
func TestRootPodAccess(t *testing.T) {
	b := newBench(t)
	b.runPod("a", `
  containers:
  - name: c
    image: "base:1"
    stdin: true
    command: [sh, -c, "echo one; echo two; echo three; read line; echo got $line; exec sleep 1000"]
`)
	b.until("a", "it is ready", ready)
	b.eventually("it has written", func() bool { return strings.HasSuffix(b.logs("a", "c", ""), "three\n") })
	for flags, want := range map[string]string{"": "one\ntwo\nthree\n", "tail=2": "two\nthree\n", "tail=0": "", "limit=5": "one\nt"} {
		if got := b.logs("a", "c", flags); got != want {
			t.Errorf("logs %s: %q, want %q", flags, got, want)
		}
	}
	if got := b.logs("a", "c", "timestamps"); len(strings.Split(got, "\n")) != 4 || !strings.Contains(got, "Z two\n") {
		t.Errorf("with times: %q", got)
	}
	if got := b.logs("a", "c", "previous"); !strings.Contains(got, `previous terminated container "c" in pod "a" not found`) {
		t.Errorf("previous: %q", got)
	}
	if raw, _ := b.do(http.MethodPost, "/attach/a/c", []byte("hello\n")); string(raw) != "\x000 <nil>" {
		t.Errorf("attach: %q", raw)
	}
	b.eventually("it has read", func() bool { return strings.Contains(b.logs("a", "c", ""), "got hello\n") })
	if code, out := b.execWith("a", "c", "", "some input", "cat"); code != 0 || out != "some input" {
		t.Errorf("cat: %d %q", code, out)
	}
	if code, out := b.execWith("a", "c", "tty&", "", "sh", "-c", "test -t 0 && test -t 1 && echo terminal; exit 3"); code != 3 || out != "terminal\r\n" {
		t.Errorf("with a terminal: %d %q", code, out)
	}
	if raw, _ := b.do(http.MethodGet, "/metrics/a", nil); !strings.Contains(string(raw), "Name:c") || !strings.HasSuffix(string(raw), "<nil>") {
		t.Errorf("metrics: %s", raw)
	}
	b.runPod("once", `
  restartPolicy: Never
  containers:
  - {name: c, image: "base:1", stdin: true, stdinOnce: true, command: [sh, -c, "sleep 1000 & cat; echo end"]}
`)
	b.until("once", "it is ready", ready)
	if raw, _ := b.do(http.MethodPost, "/attach/once/c", []byte("all of it\n")); string(raw) != "\x000 <nil>" {
		t.Errorf("attach: %q", raw)
	}
	p := b.until("once", "its input ended with the client", phase(corev1.PodSucceeded))
	if got := b.output(p, "c"); got != "all of it\nend\n" {
		t.Errorf("output %q", got)
	}
	b.delete("a", 1)
	b.gone("a")
	b.delete("once", 0)
	b.nothingLeft()
}
