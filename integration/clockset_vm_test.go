package integration

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// setClock sets the clock of the guest.
func setClock(t *testing.T, to time.Time) {
	t.Helper()
	ts := unix.NsecToTimespec(to.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		t.Fatalf("set the clock to %s: %v", to, err)
	}
	t.Logf("the clock says %s", to.UTC().Format(time.RFC3339))
}

// clockObjects are there while the clock is set. Their fields of seconds are less than
// the jumps ahead, and those of clockWaits are waited for after a jump into the past.
// Directory v is on the host.
func clockObjects(v string) string {
	return serviceYAML("web") +
		workloadYAML("Deployment", "web", "", podSpec(hostDir(v), `
          command: [sh, -c, "mkdir /www; echo here > /www/index.html; echo began; exec httpd -f -p 8080 -h /www"],
          volumeMounts: [{name: v, mountPath: /v}],
          readinessProbe: {periodSeconds: 1, failureThreshold: 1, exec: {command: [sh, -c, "echo >> /v/probes"]}, timeoutSeconds: 60},
          livenessProbe: {periodSeconds: 1, failureThreshold: 1, tcpSocket: {port: 8080}, timeoutSeconds: 60}`)) +
		workloadYAML("Deployment", "stuck", "progressDeadlineSeconds: 3000", strings.Replace(podSpec("", `command: ["true"]`), "image: base", "image: missing", 1)) +
		podYAML("bounded", podSpec("activeDeadlineSeconds: 3000", `command: [sleep, "10000"]`)) + `
---
apiVersion: v1
kind: Pod
metadata: {name: polite, finalizers: [example.com/hold]}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 3000
  volumes: [{name: v, hostPath: {path: ` + v + `}}]
  containers:
  - name: c
    image: base
    imagePullPolicy: Never
    command: [sh, -c, "trap 'touch /v/term; while ! [ -e /v/go ]; do sleep 0.1; done; exit 7' TERM; touch /v/trap; while :; do sleep 0.1; done"]
    volumeMounts: [{name: v, mountPath: /v}]
` +
		jobYAML("kept", "ttlSecondsAfterFinished: 3000", podSpec("restartPolicy: Never", `command: ["true"]`)) +
		cronJobYAML("hourly", `schedule: "0 * * * *", successfulJobsHistoryLimit: 10`) +
		cronJobYAML("strict", `schedule: "0 0 * * *", startingDeadlineSeconds: 100`)
}

// cronJobYAML has Jobs that are done at once.
func cronJobYAML(name, fields string) string {
	return fmt.Sprintf(`
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: %s}
spec: {%s, jobTemplate: {spec: {template: {spec: %s}}}}
`, name, fields, podSpec("restartPolicy: Never", `command: ["true"]`))
}

func clockWaits() string {
	return jobYAML("limited", "activeDeadlineSeconds: 6", podSpec("restartPolicy: Never", `command: [sleep, "10000"]`)) +
		jobYAML("again", "backoffLimit: 6", podSpec("restartPolicy: Never", `command: ["false"]`)) +
		jobYAML("short", "ttlSecondsAfterFinished: 6", podSpec("restartPolicy: Never", `command: ["true"]`)) +
		podYAML("ends", podSpec("", `command: ["false"]`)) +
		workloadYAML("Deployment", "slow", "minReadySeconds: 6", podSpec("", `command: [sleep, "10000"]`))
}

// The clock is set ahead and back, by an hour, by 400 days and to 1970, while pods run:
// none of them is started again or cut off, no wait becomes decades, CronJobs run what
// is due once.
func TestVMClockSet(t *testing.T) {
	began, real := time.Now(), time.Now().Round(0)
	t.Cleanup(func() { setClock(t, real.Add(time.Since(began))) }) // after all others
	start := time.Date(2030, 3, 10, 10, 30, 0, 0, time.UTC)
	setClock(t, start)

	d := daemonSetup(t)
	t.Setenv("MINIRUND_SOCKET", d.socket)
	a := supervisorAPI{t, d.socket}
	group := fmt.Sprintf("/minirun-test-%d-clock", os.Getpid())
	up := d.up("--cgroup-parent", group, "--pod-range", "10.244.0.0/20")
	d.must(up...)
	t.Cleanup(func() {
		a.do(http.MethodPatch, apiPods+"/polite", "application/merge-patch+json", `{"metadata":{"finalizers":null}}`)
		d.do("kube", "delete", "cronjobs,jobs,deployments,services", "--all", "--wait=false")
		d.removePods(group)
		d.must("down", "--socket", d.socket)
		d.must("network", "rm", "pods")
	})
	v := filepath.Join(d.dir, "v")
	if err := os.Mkdir(v, 0o755); err != nil {
		t.Fatal(err)
	}
	d.must("kube", "apply", "-f", d.file("objects.yaml", clockObjects(v)))
	a.until(apiDeployments, "web", "it is available", func(o *apiObject) bool { return o.Status.AvailableReplicas == 1 })
	a.until(apiJobs, "kept", "it is complete", func(o *apiObject) bool { return o.is("Complete") })
	a.until(apiPods, "bounded", "it runs", func(o *apiObject) bool { return o.is("Ready") })
	eventually(t, "the polite pod listens to signals", func() bool { _, err := os.Stat(v + "/trap"); return err == nil })
	d.must("kube", "delete", "pod", "polite", "--wait=false")
	eventually(t, "the polite pod is told to end", func() bool { _, err := os.Stat(v + "/term"); return err == nil })

	web, bounded := a.labelled("web")[0], a.get(apiPods, "bounded")
	service := a.get(apiServices, "web").Spec.ClusterIP
	probes := func() int { b, _ := os.ReadFile(v + "/probes"); return len(b) }
	jobs := func(cron string) (names []string) {
		for _, j := range a.of(apiJobs, cron) {
			names = append(names, j.Metadata.Name)
		}
		slices.Sort(names)
		return names
	}
	number := 0
	// same looks at everything after the clock was set.
	same := func(when string) {
		t.Helper()
		number++
		mark := fmt.Sprint("jump", number)
		at := probes()
		for _, o := range [][2]string{{apiDeployments, "stuck"}, {apiPods, "bounded"}, {apiPods, "polite"}, {apiJobs, "kept"}, {apiCronJobs, "hourly"}, {apiCronJobs, "strict"}} {
			a.touch(o[0], o[1], mark)
		}
		a.do(http.MethodPost, apiPods, "application/yaml", fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec: {restartPolicy: Never, containers: [{name: c, image: base, imagePullPolicy: Never, command: [sh, -c, "echo said"]}]}
`, mark))
		a.until(apiPods, mark, "a new pod runs, "+when, func(o *apiObject) bool { return o != nil && o.Status.Phase == "Succeeded" })
		if code, text := a.do(http.MethodGet, apiPods+"/"+mark+"/log?sinceSeconds=3000", "", ""); code != http.StatusOK || text != "said\n" {
			t.Errorf("%s: its log: %d %q", when, code, text)
		}
		eventually(t, "probes go on, "+when, func() bool { return probes() >= at+2 })
		for _, before := range []*apiObject{web, bounded} {
			now := a.get(apiPods, before.Metadata.Name)
			if now == nil || now.Metadata.UID != before.Metadata.UID || now.container().ContainerID != before.container().ContainerID || now.condition("Ready") != before.condition("Ready") {
				t.Errorf("%s: %s was\n%+v, is\n%+v", when, before.Metadata.Name, before, now)
			}
		}
		if o := a.get(apiDeployments, "stuck"); o.condition("Progressing").Reason == "ProgressDeadlineExceeded" {
			t.Errorf("%s: %+v", when, o.Status)
		}
		if a.get(apiJobs, "kept") == nil {
			t.Errorf("%s: the Job is gone", when)
		}
		if o := a.get(apiPods, "polite"); o.container().State.Running == nil && number < 3 {
			t.Errorf("%s: the pod that ends has not got its time: %+v", when, o.container())
		}
		if got := d.tool("busybox", "wget", "-q", "-O", "-", "http://"+service+"/"); got != "here\n" {
			t.Errorf("%s: the service says %q", when, got)
		}
		if got := d.tool("busybox", "nslookup", "-type=a", "web.default.svc.cluster.local", "10.244.0.1"); !strings.Contains(got, service) {
			t.Errorf("%s: the name of the service: %s", when, got)
		}
		if got := jobs("strict"); len(got) != 0 {
			t.Errorf("%s: what was missed by more than startingDeadlineSeconds runs: %q", when, got)
		}
	}
	since := time.Now() // by the clock that only goes forward
	jump := func(to time.Time) string {
		t.Helper()
		setClock(t, to.Add(time.Since(since)))
		return to.Format(time.DateTime)
	}
	job := func(at time.Time) string { return fmt.Sprintf("hourly-%d", at.Unix()/60) }
	ran := func(when string, want ...string) {
		t.Helper()
		slices.Sort(want)
		var got []string
		for deadline := time.Now().Add(testenv.Timeout(10 * time.Second)); ; time.Sleep(20 * time.Millisecond) {
			if got = jobs("hourly"); slices.Equal(got, want) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: the Jobs of the hour are %q, want %q", when, got, want)
			}
		}
	}

	when := jump(start.Add(time.Hour))
	same(when)
	hour := start.Truncate(time.Hour)
	first := job(hour.Add(time.Hour))
	ran(when, first)

	days := 400 * 24 * time.Hour
	when = jump(start.Add(time.Hour + days))
	same(when)
	second := job(hour.Add(time.Hour + days)) // one of 9,600
	ran(when, first, second)
	a.until(apiCronJobs, "strict", "what was missed is settled", func(o *apiObject) bool {
		return o.Status.LastScheduleTime == start.Add(days).Truncate(24*time.Hour).Format(time.RFC3339)
	})
	writeFile(t, v+"/go", "")
	a.until(apiPods, "polite", "it ends as it wants to", func(o *apiObject) bool {
		e := o.container().State.Terminated
		if e != nil && e.ExitCode != 7 {
			t.Fatalf("it ended with %+v", *e)
		}
		return e != nil
	})

	when = jump(start.Add(days)) // an hour back
	same(when)
	ran(when, first, second)

	// Into the past, while there are waits.
	d.must("kube", "apply", "-f", d.file("waits.yaml", clockWaits()))
	a.until(apiJobs, "limited", "it has begun", func(o *apiObject) bool { return o.Status.Active == 1 || o.is("Failed") }) // on a slow machine its time is over already
	a.until(apiJobs, "again", "it has failed once", func(o *apiObject) bool { return o.Status.Failed > 0 })
	a.until(apiJobs, "short", "it is complete", func(o *apiObject) bool { return o == nil || o.is("Complete") })
	a.until(apiDeployments, "slow", "it is ready", func(o *apiObject) bool { return o.Status.ReadyReplicas == 1 })
	restarts := a.get(apiPods, "ends").container().RestartCount
	when = jump(time.Date(1970, 1, 2, 10, 30, 0, 0, time.UTC))
	same(when)
	a.until(apiJobs, "limited", "its time is over, "+when, func(o *apiObject) bool { return o.condition("Failed").Reason == "DeadlineExceeded" })
	a.until(apiJobs, "again", "it is tried again, "+when, func(o *apiObject) bool { return o.Status.Failed > 1 || len(a.of(apiPods, "again")) > 1 })
	a.until(apiJobs, "short", "it is gone, "+when, func(o *apiObject) bool { return o == nil })
	a.until(apiDeployments, "slow", "it is available, "+when, func(o *apiObject) bool { return o.Status.AvailableReplicas == 1 })
	a.until(apiPods, "ends", "it is started again, "+when, func(o *apiObject) bool { return o.container().RestartCount > restarts })
	ran(when, first, second)
	a.until(apiCronJobs, "hourly", "the schedule begins anew", func(o *apiObject) bool { return strings.HasPrefix(o.Status.LastScheduleTime, "1970-01-02T10:3") })

	// Ahead again, to where the Jobs that there are say nothing about the schedule.
	when = jump(start.Add(-5 * time.Hour))
	same(when)
	ran(when, first, second, job(hour.Add(-5*time.Hour)))
	a.until(apiJobs, "limited", "it is as it was", func(o *apiObject) bool { return o.condition("Failed").Reason == "DeadlineExceeded" })

	// The next minirund knows of none of that.
	pid := d.pid()
	when = jump(time.Date(1970, 1, 2, 10, 30, 0, 0, time.UTC))
	d.must("down", "--socket", d.socket)
	d.ended(pid)
	d.must(up...)
	same(when + " and with another minirund")
}
