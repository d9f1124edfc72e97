package node

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// A container knows the services of its namespace, unless its pod does not want
// that.
func TestRootPodServiceVariables(t *testing.T) {
	b := newBench(t)
	b.apply("services", "{apiVersion: v1, kind: Service, metadata: {name: my-db}, spec: {clusterIP: 10.96.0.7, ports: [{name: sql, port: 5432}]}}")
	b.apply("services", "{apiVersion: v1, kind: Service, metadata: {name: headless}, spec: {clusterIP: None, ports: [{port: 1}]}}")
	for name, want := range map[string]string{"links": "10.96.0.7 5432 tcp://10.96.0.7:5432 db at 10.96.0.7\n", "none": "$(MY_DB_SERVICE_HOST)\n"} {
		enable, script := "true", "echo $MY_DB_SERVICE_HOST $MY_DB_SERVICE_PORT_SQL $MY_DB_PORT_5432_TCP $AT"
		if name == "none" {
			enable, script = "false", "env | grep -e MY_DB_ -e HEADLESS | sed 's/.*at //'"
		}
		b.runPod(name, `
  enableServiceLinks: `+enable+`
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: "base:1", command: [sleep, "1000"], env: [{name: AT, value: "db at $(MY_DB_SERVICE_HOST)"}]}
`)
		b.until(name, "it is ready", ready)
		if code, out := b.exec(name, "c", "sh", "-c", script); code != 0 || out != want {
			t.Errorf("%s: %d %q, want %q", name, code, out, want)
		}
		if _, out := b.exec(name, "c", "sh", "-c", "env | grep -c -e HEADLESS -e KUBERNETES"); out != "0\n" {
			t.Errorf("%s: %q", name, out)
		}
	}
}

// What is not ready at the first probe is tried again before the period is over, and
// a try that fails is no failed probe.
func TestRootPodSoonReady(t *testing.T) {
	b := newBench(t)
	dir := filepath.Join(b.c.Dir, "host")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b.runPod("soon", `
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, hostPath: {path: `+dir+`}}]
  containers:
  - name: c
    image: "base:1"
    command: [sleep, "1000"]
    startupProbe: {exec: {command: [sh, -c, "echo try >> /v/tries; test -e /v/up"]}, periodSeconds: 1000, failureThreshold: 2}
    readinessProbe: {exec: {command: [test, -e, /v/ready]}, periodSeconds: 1000}
    volumeMounts: [{name: v, mountPath: /v}]
`)
	b.eventually("it was tried several times", func() bool {
		raw, _ := os.ReadFile(dir + "/tries")
		return strings.Count(string(raw), "try") >= 5
	})
	raw, _ := b.do("GET", "/api/v1/namespaces/default/events", nil)
	var list corev1.EventList
	if err := json.Unmarshal(raw, &list); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	for _, e := range list.Items {
		if e.Reason == "Unhealthy" && e.Count > 1 {
			t.Errorf("%d probes are said to have failed", e.Count)
		}
	}
	if err := os.WriteFile(dir+"/up", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := b.until("soon", "it has started", func(p *corev1.Pod) bool { s := state(p, "c").Started; return s != nil && *s })
	if state(p, "c").Ready {
		t.Errorf("it is ready: %+v", p.Status)
	}
	b.eventually("it is known not to be ready", func() bool { return strings.Contains(b.reasons("soon"), "Unhealthy: Readiness probe failed") })
	if err := os.WriteFile(dir+"/ready", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if p := b.until("soon", "it is ready", ready); state(p, "c").RestartCount != 0 {
		t.Errorf("it was started again: %+v", p.Status)
	}
}

// A pod that writes more to a volume than it may is evicted, and stays so.
func TestRootPodSizeLimit(t *testing.T) {
	b := newBench(t)
	b.stop(syscall.SIGTERM)
	b.c.Measure = 20 * time.Millisecond
	b.run("", 0)
	for name, kib := range map[string]string{"small": "300", "large": "3000"} {
		b.runPod(name, `
  terminationGracePeriodSeconds: 1000
  volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}]
  containers:
  - {name: c, image: "base:1", command: [sh, -c, "dd if=/dev/urandom of=/v/file bs=1k count=`+kib+` && touch /v/done; trap '' TERM; while ! [ -e /v/go ]; do sleep 0.1; done; dd if=/dev/urandom of=/v/more bs=1k count=3000; while :; do sleep 1000 & wait; done"], volumeMounts: [{name: v, mountPath: /v}]}
`)
	}
	p := b.until("large", "it has failed", phase(corev1.PodFailed))
	if want := `Usage of EmptyDir volume "v" exceeds the limit "1Mi". `; p.Status.Reason != "Evicted" || p.Status.Message != want || state(p, "c").State.Terminated == nil {
		t.Errorf("%+v", p.Status)
	}
	told := false
	for _, c := range p.Status.Conditions {
		told = told || c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue
	}
	if !told {
		t.Errorf("conditions %+v", p.Status.Conditions)
	}
	b.eventually("people know", func() bool { return strings.Contains(b.reasons("large"), "Evicted: Usage of EmptyDir volume") })
	small := b.until("small", "it runs", ready)
	volume := filepath.Join(b.c.Dir, "node/pods", string(small.UID), volumesDir, "v")
	b.eventually("it has written", func() bool {
		_, err := os.Stat(volume + "/done")
		return err == nil
	})
	b.stop(syscall.SIGKILL)
	b.run("", 0)
	if p := b.until("small", "it runs", ready); state(p, "c").RestartCount != 0 {
		t.Errorf("%+v", p.Status)
	}
	if p := b.pod("large"); p.Status.Phase != corev1.PodFailed || p.Status.Reason != "Evicted" {
		t.Errorf("%+v", p.Status)
	}
	if err := os.WriteFile(volume+"/go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.until("small", "it has failed, too", phase(corev1.PodFailed))
}

// What a container writes to its root, to its log and to volumes counts, for itself and
// for its pod.
func TestRootPodStorageLimits(t *testing.T) {
	b := newBench(t)
	b.stop(syscall.SIGTERM)
	b.c.Measure = 20 * time.Millisecond
	b.run("", 0)
	const limit = `resources: {limits: {ephemeral-storage: 1Mi}}`
	tests := map[string]struct{ container, message string }{
		"root":   {`command: [sh, -c, "dd if=/dev/urandom of=/file bs=1k count=3000; sleep 1000"], ` + limit, `Container c exceeded its local ephemeral storage limit "1Mi". `},
		"log":    {`command: [sh, -c, "head -c 3000000 /dev/urandom; sleep 1000"], ` + limit, `Container c exceeded its local ephemeral storage limit "1Mi". `},
		"volume": {`command: [sh, -c, "dd if=/dev/urandom of=/v/file bs=1k count=3000; sleep 1000"], volumeMounts: [{name: v, mountPath: /v}], ` + limit, `Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. `},
		"little": {`command: [sh, -c, "dd if=/dev/urandom of=/v/file bs=1k count=300; dd if=/dev/urandom of=/file bs=1k count=300; touch /v/done; sleep 1000"], volumeMounts: [{name: v, mountPath: /v}], ` + limit, ""},
		"free":   {`command: [sh, -c, "dd if=/dev/urandom of=/file bs=1k count=3000; touch /v/done; sleep 1000"], volumeMounts: [{name: v, mountPath: /v}]`, ""},
	}
	for name, tt := range tests {
		other := limit
		if name == "free" {
			other = "resources: {}"
		}
		b.runPod(name, `
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - {name: c, image: "base:1", `+tt.container+`}
  - {name: other, image: "base:1", command: [sleep, "1000"], `+other+`}
`)
	}
	for name, tt := range tests {
		if tt.message == "" {
			continue
		}
		p := b.until(name, "it has failed", phase(corev1.PodFailed))
		if p.Status.Reason != "Evicted" || p.Status.Message != tt.message {
			t.Errorf("%s: %s %q", name, p.Status.Reason, p.Status.Message)
		}
	}
	for _, name := range []string{"little", "free"} {
		p := b.until(name, "it runs", ready)
		b.eventually(name+" has written", func() bool {
			_, err := os.Stat(filepath.Join(b.c.Dir, "node/pods", string(p.UID), volumesDir, "v/done"))
			return err == nil
		})
		if p := b.pod(name); !ready(p) {
			t.Errorf("%s: %+v", name, p.Status)
		}
	}
}
