package node

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// grpcEnv makes the test binary a server of grpc.health.v1 that listens there.
const grpcEnv = "MINIRUN_TEST_GRPC"

// serveHealth answers Check: SERVING for no service, unless the file /tmp/down is
// there, and what a service is called.
func serveHealth(addr string) error {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	protocols.SetHTTP1(true)
	s := &http.Server{Addr: addr, Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		service := ""
		if len(body) > 7 {
			service = string(body[7:])
		}
		if service == "hangs" || r.URL.Path == "/hangs" {
			<-r.Context().Done()
			return
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
		status, message := "0", ""
		if r.URL.Path != "/grpc.health.v1.Health/Check" || service == "unknown" {
			status, message = "5", "unknown service"
		} else {
			answer := []byte{0, 0, 0, 0, 2, 8, 1}
			if _, err := os.Stat("/tmp/down"); err == nil || service == "down" {
				answer[6] = 2
			}
			_, _ = w.Write(answer)
		}
		w.Header().Set("Grpc-Status", status)
		w.Header().Set("Grpc-Message", message)
	})}
	return s.ListenAndServe()
}

// Probes of all kinds against what really answers, refuses, hangs or is not there. What
// hangs leaves no processes.
func TestRootPodProbeKinds(t *testing.T) {
	b := newBench(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, probe, fails string }{
		{"grpc", "grpc: {port: 50051}", ""},
		{"grpc-down", "grpc: {port: 50051, service: down}", "service unhealthy"},
		{"grpc-unknown", "grpc: {port: 50051, service: unknown}", "status 5"},
		{"grpc-hangs", "grpc: {port: 50051, service: hangs}", "deadline exceeded"},
		{"grpc-nobody", "grpc: {port: 1}", "connection refused"},
		{"http", "httpGet: {port: web, path: /ok}", ""},
		{"http-missing", "httpGet: {port: 80, path: /missing}", "HTTP probe failed with statuscode: 404"},
		{"http-hangs", "httpGet: {port: 50051, path: /hangs}", "deadline exceeded"},
		{"http-port", "httpGet: {port: nameless}", "couldn't find port"},
		{"tcp", "tcpSocket: {port: 80}", ""},
		{"tcp-nobody", "tcpSocket: {port: 1}", "connection refused"},
		{"exec", "exec: {command: [sh, -c, \"exit 0\"]}", ""},
		{"exec-fails", "exec: {command: [sh, -c, \"echo bad thing; exit 3\"]}", "bad thing"},
		{"exec-missing", "exec: {command: [no-such-program]}", "no-such-program"},
		{"exec-hangs", "exec: {command: [sh, -c, \"sleep 9999 & sleep 8888\"]}", "timed out"},
		{"exec-leaves", "exec: {command: [sh, -c, \"sleep 3 & exit 0\"]}", ""}, // its output stays open
	}
	spec := `
  terminationGracePeriodSeconds: 0
  volumes: [{name: exe, hostPath: {path: ` + exe + `, type: File}}]
  containers:
  - {name: grpc-server, image: "base:1", command: [/server], env: [{name: ` + grpcEnv + `, value: ":50051"}], volumeMounts: [{name: exe, mountPath: /server, readOnly: true}]}
  - {name: http-server, image: "base:1", command: [sh, -c, "mkdir /www; touch /www/ok; exec httpd -f -p 80 -h /www"]}
`
	for _, tt := range tests {
		spec += "  - {name: " + tt.name + `, image: "base:1", command: [sleep, "1000"], ports: [{name: web, containerPort: 80}], readinessProbe: {` + tt.probe + ", periodSeconds: 1, timeoutSeconds: 1}}\n"
	}
	b.runPod("all", spec)
	p := b.until("all", "those are ready that can be", func(p *corev1.Pod) bool {
		for _, tt := range tests {
			if tt.fails == "" && !state(p, tt.name).Ready {
				return false
			}
		}
		return true
	})
	for _, tt := range tests {
		if tt.fails == "" {
			continue
		}
		b.eventually(tt.name+" fails as it should", func() bool {
			for _, e := range b.events("all") {
				if e.InvolvedObject.FieldPath == "spec.containers{"+tt.name+"}" && e.Reason == "Unhealthy" && strings.Contains(e.Message, tt.fails) {
					return true
				}
			}
			return false
		})
		if state(b.pod("all"), tt.name).Ready {
			t.Errorf("%s is ready", tt.name)
		}
	}
	// Each of these was given up several times: only the last ones may be there.
	for _, seconds := range []string{"9999", "8888"} {
		b.eventually("probes have been given up", func() bool {
			n := int32(0)
			for _, e := range b.events("all") {
				if strings.HasPrefix(e.InvolvedObject.FieldPath, "spec.containers{exec-") && strings.Contains(e.Message, "timed out") {
					n = max(n, e.Count)
				}
			}
			return n >= 3
		})
		// The last one that was killed can be there for a moment still, beside the next.
		b.eventually("no processes sleep "+seconds+" are left of probes", func() bool { return strings.Count(b.psOf(p), "sleep "+seconds) <= 1 })
	}
	if code, out := b.exec("all", "grpc-server", "touch", "/tmp/down"); code != 0 {
		t.Fatal(out)
	}
	b.until("all", "it is not ready when its server says so", func(p *corev1.Pod) bool { return !state(p, "grpc").Ready })
}

// Hooks run, and are bounded; who does not end is killed.
func TestRootPodHooks(t *testing.T) {
	b := newBench(t)
	dir := b.c.Dir + "/host"
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	pod := func(name, finalizer, spec string) {
		t.Helper()
		text := strings.Replace(podText(name, spec), "{name: "+name+"}", "{name: "+name+", finalizers: ["+finalizer+"]}", 1)
		b.apply("pods", text)
	}
	volume := "volumes: [{name: v, hostPath: {path: " + dir + "}}]"
	const mount = "volumeMounts: [{name: v, mountPath: /v}]"
	pod("hooked", "test.example/look", `
  terminationGracePeriodSeconds: 60
  `+volume+`
  containers:
  - name: polite
    image: "base:1"
    `+mount+`
    command: [sh, -c, "trap 'echo signal >> /v/polite; exit 7' TERM; while ! [ -e /v/started ]; do sleep 0.01; done; echo main >> /v/polite; touch /v/up; while :; do sleep 1000 & wait $!; done"]
    readinessProbe: {exec: {command: [test, -e, /v/up]}, periodSeconds: 1}
    lifecycle:
      postStart: {exec: {command: [sh, -c, "echo start >> /v/polite; touch /v/started"]}}
      preStop: {exec: {command: [sh, -c, "echo stop >> /v/polite"]}}
  - name: web
    image: "base:1"
    `+mount+`
    command: [sh, -c, "mkdir -p /www/cgi-bin; printf '#!/bin/sh\necho; echo http >> /v/web\n' > /www/cgi-bin/stop; chmod 755 /www/cgi-bin/stop; httpd -p 80 -h /www; trap 'exit 5' TERM; while :; do sleep 1000 & wait $!; done"]
    readinessProbe: {tcpSocket: {port: 80}, periodSeconds: 1}
    lifecycle: {preStop: {httpGet: {port: 80, path: /cgi-bin/stop}}}
`)
	pod("deaf", "test.example/look", `
  terminationGracePeriodSeconds: 3
  `+volume+`
  containers:
  - name: c
    image: "base:1"
    `+mount+`
    command: [sh, -c, "trap 'echo signal >> /v/deaf' TERM; touch /v/deaf-up; while :; do sleep 1000 & wait $!; done"]
    readinessProbe: {exec: {command: [test, -e, /v/deaf-up]}, periodSeconds: 1}
    lifecycle: {preStop: {exec: {command: [sh, -c, "sleep 5555 & sleep 6666"]}}}
`)
	b.runPod("badstart", `
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "base:1", command: [sleep, "1000"], lifecycle: {postStart: {exec: {command: [sh, -c, "echo no; exit 9"]}}}}]
`)
	// Its own patience counts, not the pod's.
	b.runPod("startup", `
  terminationGracePeriodSeconds: 3600
  containers: [{name: c, image: "base:1", command: [sleep, "1000"], startupProbe: {exec: {command: ["false"]}, periodSeconds: 1, failureThreshold: 1, terminationGracePeriodSeconds: 1}}]
`)
	for _, name := range []string{"hooked", "deaf"} {
		b.until(name, "it is ready", ready)
	}
	b.until("startup", "it was ended and started again", func(p *corev1.Pod) bool { return state(p, "c").RestartCount >= 1 })
	b.until("badstart", "it was ended and started again", func(p *corev1.Pod) bool { return state(p, "c").RestartCount >= 1 })
	b.eventually("people know", func() bool {
		return strings.Contains(b.reasons("badstart"), "FailedPostStartHook: PostStartHook failed: command 'sh -c echo no; exit 9' exited with 9: no")
	})
	b.delete("hooked", 60)
	b.delete("deaf", 3)
	ended := func(name, container string, code int32) {
		t.Helper()
		p := b.until(name, container+" has ended", func(p *corev1.Pod) bool { return state(p, container).State.Terminated != nil })
		if e := state(p, container).State.Terminated; e.ExitCode != code {
			t.Errorf("%s/%s: %+v, want status %d", name, container, e, code)
		}
	}
	ended("hooked", "polite", 7)
	ended("hooked", "web", 5)
	ended("deaf", "c", 137)
	for file, want := range map[string]string{"polite": "start\nmain\nstop\nsignal\n", "web": "http\n"} {
		b.hostFile(dir+"/"+file, want)
	}
	b.eventually("people know", func() bool { return strings.Contains(b.reasons("deaf"), "FailedPreStopHook: ") })
	// The finalizer holds the object, and nothing else.
	for _, name := range []string{"hooked", "deaf"} {
		p := b.pod(name)
		if p == nil {
			t.Fatalf("%s went before its finalizer", name)
		}
		b.eventually("its processes have ended", func() bool { return b.psOf(p) == "" })
		if out, code := b.do(http.MethodPatch, "/api/v1/namespaces/default/pods/"+name, []byte(`{"metadata":{"finalizers":null}}`)); code != http.StatusOK {
			t.Fatalf("%d: %s", code, out)
		}
		b.gone(name)
	}
}

// What ends is started again or not, by policy; Jobs count it.
func TestRootPodPolicies(t *testing.T) {
	b := newBench(t)
	b.stop(15)
	b.c.Controllers = true
	b.run("", 0)
	count := "n=$(cat /v/n 2>/dev/null || echo 0); echo $((n+1)) > /v/n"
	for name, w := range map[string]struct{ policy, script string }{
		"never": {"Never", "exit 3"}, "done": {"Never", "exit 0"}, "onfailure": {"OnFailure", count + "; [ $n -ge 1 ]"}, "always": {"Always", count + "; [ $n -ge 1 ] && exec sleep 1000; exit 0"},
	} {
		b.runPod(name, `
  restartPolicy: `+w.policy+`
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, emptyDir: {}}]
  containers: [{name: c, image: "base:1", command: [sh, -c, "`+w.script+`"], volumeMounts: [{name: v, mountPath: /v}]}]
`)
	}
	b.runPod("initfails", `
  restartPolicy: Never
  initContainers: [{name: i, image: "base:1", command: [sh, -c, "exit 4"]}]
  containers: [{name: c, image: "base:1", command: [sleep, "1000"]}]
`)
	b.runPod("initagain", `
  terminationGracePeriodSeconds: 0
  initContainers: [{name: i, image: "base:1", command: [sh, -c, "exit 4"]}]
  containers: [{name: c, image: "base:1", command: [sleep, "1000"]}]
`)
	b.runPod("sidecar", `
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  initContainers: [{name: s, image: "base:1", restartPolicy: Always, command: [sleep, "1000"]}]
  containers: [{name: c, image: "base:1", command: ["true"]}]
`)
	for name, w := range map[string]struct {
		phase    corev1.PodPhase
		code     int32
		restarts int32
	}{"never": {corev1.PodFailed, 3, 0}, "done": {corev1.PodSucceeded, 0, 0}, "onfailure": {corev1.PodSucceeded, 0, 1}, "sidecar": {corev1.PodSucceeded, 0, 0}} {
		p := b.until(name, "it has come to its end", phase(w.phase))
		if s := state(p, "c"); s.State.Terminated == nil || s.State.Terminated.ExitCode != w.code || s.RestartCount != w.restarts {
			t.Errorf("%s: %+v", name, s)
		}
	}
	b.until("always", "it runs again", func(p *corev1.Pod) bool { return running(p) && state(p, "c").RestartCount == 1 && ready(p) })
	p := b.until("initfails", "it has failed", phase(corev1.PodFailed))
	if s := state(p, "i"); s.State.Terminated == nil || s.State.Terminated.ExitCode != 4 || state(p, "c").State.Running != nil {
		t.Errorf("init container %+v", s)
	}
	b.until("initagain", "its init container waits for its next attempt", func(p *corev1.Pod) bool {
		w := state(p, "i").State.Waiting
		return w != nil && w.Reason == "CrashLoopBackOff" && strings.HasPrefix(w.Message, "back-off ") && p.Status.Phase == corev1.PodPending
	})

	job := func(name, spec, script string) {
		t.Helper()
		raw := fmt.Sprintf(`{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":%q},"spec":{%s,"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"base:1","command":["sh","-c",%q]}]}}}}`, name, spec, script)
		if out, code := b.do(http.MethodPost, "/apis/batch/v1/namespaces/default/jobs", []byte(raw)); code != http.StatusCreated {
			t.Fatalf("%d: %s", code, out)
		}
	}
	job("three", `"completions":3,"parallelism":2,"completionMode":"Indexed"`, "echo $JOB_COMPLETION_INDEX")
	job("gives-up", `"backoffLimit":0`, "exit 1")
	job("policy", `"backoffLimit":6,"podFailurePolicy":{"rules":[{"action":"FailJob","onExitCodes":{"operator":"In","values":[42]}}]}`, "exit 42")
	for name, w := range map[string]struct {
		condition         batchv1.JobConditionType
		reason            string
		succeeded, failed int32
	}{
		"three": {batchv1.JobComplete, "CompletionsReached", 3, 0}, "gives-up": {batchv1.JobFailed, "BackoffLimitExceeded", 0, 1}, "policy": {batchv1.JobFailed, "PodFailurePolicy", 0, 1},
	} {
		var last batchv1.Job
		b.eventually("Job "+name+" has come to its end", func() bool {
			last = batchv1.Job{}
			if !b.get("/apis/batch/v1/namespaces/default/jobs/"+name, &last) {
				return false
			}
			for _, c := range last.Status.Conditions {
				if c.Type == w.condition && c.Status == corev1.ConditionTrue {
					if c.Reason != w.reason {
						t.Errorf("%s: %+v", name, c)
					}
					return true
				}
			}
			return false
		})
		if last.Status.Succeeded != w.succeeded || last.Status.Failed != w.failed {
			t.Errorf("%s: %+v", name, last.Status)
		}
	}
	logs := map[string]bool{}
	for _, p := range b.pods() {
		if p.Labels["batch.kubernetes.io/job-name"] == "three" {
			logs[b.logs(p.Name, "c", "")] = true
		}
		if len(p.Finalizers) > 0 && p.Labels["batch.kubernetes.io/job-name"] != "" {
			t.Errorf("%s is held by %v", p.Name, p.Finalizers)
		}
	}
	if len(logs) != 3 || !logs["0\n"] || !logs["1\n"] || !logs["2\n"] {
		t.Errorf("what the pods of a Job have written: %v", logs)
	}
	for _, name := range []string{"three", "gives-up", "policy"} {
		if out, code := b.do(http.MethodDelete, "/apis/batch/v1/namespaces/default/jobs/"+name, nil); code >= 300 {
			t.Errorf("delete: %d: %s", code, out)
		}
	}
}
