package integration

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// rebootObjects are what minirund runs when the power is cut. Each of them notes in
// directory v of the disk that it has begun.
func rebootObjects(v string) string {
	const (
		mounted = `, volumeMounts: [{name: v, mountPath: /v}]`
		ready   = `, readinessProbe: {tcpSocket: {port: 8080}, timeoutSeconds: 60}`
	)
	waits := containerYAML("i", `command: [sh, -c, "until nslookup -type=a db.default.svc.cluster.local && wget -q -O /w/who http://$DB_SERVICE_HOST/who; do sleep 0.2; done; echo web $(cat /w/who) >> /v/order; sync"],
          volumeMounts: [{name: v, mountPath: /v}, {name: w, mountPath: /w}]`)
	return serviceYAML("db") + serviceYAML("web") +
		workloadYAML("StatefulSet", "db", "serviceName: db, volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}]",
			podSpec(hostDir(v), `
          command: [sh, -c, "[ -e /data/who ] || echo first > /data/who; echo db >> /v/order; sync; exec httpd -f -p 8080 -h /data"],
          volumeMounts: [{name: v, mountPath: /v}, {name: data, mountPath: /data}]`+ready)) +
		workloadYAML("Deployment", "web", "replicas: 2", podSpec("volumes: [{name: v, hostPath: {path: "+v+"}}, {name: w, emptyDir: {}}], initContainers: ["+waits+"]",
			`command: [sh, -c, "exec httpd -f -p 8080 -h /w"], volumeMounts: [{name: w, mountPath: /w}]`+ready)) +
		jobYAML("half", "completions: 2", podSpec("restartPolicy: OnFailure, "+hostDir(v),
			`command: [sh, -c, "echo x >> /v/half; sync; [ $(wc -l < /v/half) != 2 ] || exec sleep 10000"]`+mounted)) +
		jobYAML("done", "", podSpec("restartPolicy: OnFailure, "+hostDir(v), `command: [sh, -c, "echo x >> /v/done; sync"]`+mounted)) +
		podYAML("ended", podSpec("restartPolicy: Never, "+hostDir(v), `command: [sh, -c, "echo x >> /v/ended; sync; exit 3"]`+mounted)) +
		podYAML("runs", podSpec("restartPolicy: Never, "+hostDir(v), `command: [sh, -c, "echo x >> /v/runs; sync; exec sleep 10000"]`+mounted))
}

// rebootFacts are what the next life of the guest has to find.
type rebootFacts struct {
	Pods  map[string]*apiObject // by uid
	Claim string                // the volume of the claim
	Lost  string                // a container of minirun run that has written something
}

// rebootHost is a minirund in the guest. What is below /run goes with the power.
func rebootHost(t *testing.T, disk string) (*daemonHost, supervisorAPI, []string) {
	t.Helper()
	testenv.Supervisor(t)
	h := &imageHost{t: t, root: "/run/reboot/state", store: disk + "/reboot/store"}
	d := &daemonHost{h, disk + "/reboot", "/run/reboot/s"}
	for _, dir := range []string{h.root, d.dir + "/v"} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	h.ip("address", "add", lanAddress+"/32", "dev", "lo")
	t.Setenv("MINIRUND_SOCKET", d.socket)
	return d, supervisorAPI{t, d.socket}, d.up("--cgroup-parent", rebootGroup)
}

const rebootGroup = "/minirun-test-reboot"

func (d *daemonHost) began(name string) []string {
	b, _ := os.ReadFile(filepath.Join(d.dir, "v", name))
	return strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' })
}

// rebootBefore starts it all and tells what the next guest must find.
func rebootBefore(t *testing.T, disk string) string {
	t.Helper()
	d, a, up := rebootHost(t, disk)
	d.base()
	d.must(up...)
	d.must("kube", "apply", "-f", d.file("objects.yaml", rebootObjects(d.dir+"/v")))
	a.until(apiDeployments, "web", "it is available", func(o *apiObject) bool { return o.Status.AvailableReplicas == 2 })
	a.until(apiPods, "ended", "it has ended", func(o *apiObject) bool { return o.Status.Phase == "Failed" })
	a.until(apiPods, "runs", "it runs", func(o *apiObject) bool { return o.is("Ready") && len(d.began("runs")) == 1 })
	a.until(apiJobs, "done", "it is complete", func(o *apiObject) bool { return o.is("Complete") })
	a.until(apiJobs, "half", "it is half done", func(o *apiObject) bool {
		return o.Status.Succeeded == 1 && o.Status.Active == 1 && len(d.began("half")) == 2
	})
	f := rebootFacts{Pods: map[string]*apiObject{}, Claim: a.get("/api/v1/namespaces/default/persistentvolumeclaims", "data-db-0").Spec.VolumeName}
	f.Lost = d.background("echo precious > /data")
	for _, p := range a.list(apiPods) {
		f.Pods[p.Metadata.UID] = p
	}
	unix.Sync()
	text, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// rebootAfter looks at what becomes of it after the power was cut: what is wanted runs
// again, what had ended is as it was, and nothing of before is in the way.
func rebootAfter(t *testing.T, disk, text string) {
	t.Helper()
	var f rebootFacts
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		t.Fatal(err)
	}
	d, a, up := rebootHost(t, disk)
	order := len(d.began("order"))
	d.must(up...)
	a.until(apiDeployments, "web", "it is available", func(o *apiObject) bool {
		return o.Status.AvailableReplicas == 2 && len(d.began("order")) == order+3
	})
	for _, p := range append(a.labelled("web"), a.labelled("db")...) {
		a.until(apiPods, p.Metadata.Name, "it runs again", func(o *apiObject) bool { return o.is("Ready") && o.container().RestartCount > 0 })
	}
	a.until(apiJobs, "half", "it is complete", func(o *apiObject) bool { return o.is("Complete") })
	a.until(apiPods, "runs", "it has failed", func(o *apiObject) bool { return o.Status.Phase == "Failed" })
	if o := a.get(apiJobs, "half"); o.Status.Succeeded != 2 || o.Status.Failed != 0 {
		t.Errorf("the Job that was half done: %+v", o.Status)
	}
	if o := a.get(apiJobs, "done"); !o.is("Complete") || o.Status.Succeeded != 1 {
		t.Errorf("the Job that was done: %+v", o.Status)
	}
	// First the database, whose Service the others wait for; with the data of before.
	if got := d.began("order")[order:]; !slices.Equal(got, []string{"db", "web first", "web first"}) {
		t.Errorf("began in this order: %q", got)
	}
	for name, n := range map[string]int{"ended": 1, "runs": 1, "done": 1, "half": 3} {
		if got := len(d.began(name)); got != n {
			t.Errorf("%s has begun %d times, want %d", name, got, n)
		}
	}
	now := a.list(apiPods)
	if len(now) != len(f.Pods) {
		t.Errorf("there were %d pods, there are %d", len(f.Pods), len(now))
	}
	live := 0
	for _, p := range now {
		was := f.Pods[p.Metadata.UID]
		if was == nil {
			t.Errorf("pod %s is another one", p.Metadata.Name)
			continue
		}
		before, c := was.container(), p.container()
		e, last := c.State.Terminated, c.LastState.Terminated
		const unknown = "ContainerStatusUnknown"
		switch {
		case before.State.Terminated != nil: // it stays known, whatever the disk has lost
			if e == nil || *e != *before.State.Terminated || c.ContainerID != before.ContainerID || c.RestartCount != 0 || p.Status.Phase != was.Status.Phase {
				t.Errorf("pod %s had ended:\n%+v, %+v\n%+v, %+v", p.Metadata.Name, before, before.State.Terminated, c, e)
			}
		case p.Metadata.Name == "runs":
			if e == nil || e.ExitCode != 137 || e.Reason != unknown || c.RestartCount != 0 {
				t.Errorf("pod %s: %+v, %+v", p.Metadata.Name, c, e)
			}
		default:
			if c.RestartCount != 1 || p.Status.Phase == "Running" && (last == nil || last.ExitCode != 137 || last.Reason != unknown) {
				t.Errorf("pod %s: %+v, %+v", p.Metadata.Name, c, last)
			}
			if p.Status.Phase == "Running" {
				live++
				if at := p.condition("Ready").LastTransitionTime; at == was.condition("Ready").LastTransitionTime {
					t.Errorf("pod %s was ready all the time, with an address of before: %+v", p.Metadata.Name, p.Status.Conditions)
				}
			}
		}
	}
	if live != 3 {
		t.Errorf("%d pods run, want db-0 and two of web", live)
	}
	if got := a.get("/api/v1/namespaces/default/persistentvolumeclaims", "data-db-0").Spec.VolumeName; got != f.Claim {
		t.Errorf("the claim has the volume %s, had %s", got, f.Claim)
	}
	service := a.get(apiServices, "web").Spec.ClusterIP
	if got := d.tool("busybox", "wget", "-q", "-O", "-", "http://"+service+"/who"); got != "first\n" {
		t.Errorf("the service says %q", got)
	}
	eventually(t, "addresses are leased to what runs, and to nobody else", func() bool {
		return len(d.entries("networks/networks/pods/leases")) == live && len(d.entries("networks/containers")) == live
	})
	if got := d.status(); strings.Contains(got, "warning") {
		t.Errorf("status:\n%s", got)
	}
	gc := d.must("image", "gc")
	if !strings.Contains(gc, "container "+f.Lost+" is lost") || !strings.Contains(gc, "image gc --lost removes it") {
		t.Errorf("gc: %q", gc)
	}
	if lost := d.entries("overlay/lost"); len(lost) != 1 {
		t.Errorf("lost: %q", lost)
	} else if got := readFile(t, filepath.Join(d.store, "overlay/lost", lost[0], "upper/data")); got != "precious\n" {
		t.Errorf("what the lost container had written: %q", got)
	}
	d.must("image", "gc", "--lost", "--quiet")

	// Nothing of both lives is left.
	d.do("kube", "delete", "jobs,deployments,statefulsets,services", "--all", "--wait=false")
	d.removePods(rebootGroup)
	d.do("kube", "delete", "pvc", "--all", "--wait=false")
	eventually(t, "volumes and pods are erased", func() bool {
		volumes, _ := os.ReadDir(d.dir + "/data/volumes")
		pods, _ := os.ReadDir(d.dir + "/data/node/pods")
		return len(volumes) == 0 && len(pods) == 0
	})
	d.must("down", "--socket", d.socket)
	d.must("network", "rm", "pods")
	d.noNetwork("after the reboot")
	for _, dir := range []string{"overlay/staging", "overlay/snapshots", "overlay/lost", "ingest"} {
		if left := d.entries(dir); len(left) > 0 {
			t.Errorf("%s has %q", dir, left)
		}
	}
	if left, _ := os.ReadDir(d.dir + "/data/node/containers"); len(left) > 0 {
		t.Errorf("containers are left: %v", left)
	}
	for line := range strings.Lines(readFile(t, "/proc/self/mountinfo")) {
		if strings.Contains(line, " "+d.dir+"/") {
			t.Errorf("a mount is left: %s", line)
		}
	}
	if out, err := exec.Command("nft", "list", "table", "inet", "minirun_kube").CombinedOutput(); err == nil && strings.Contains(string(out), "elements") {
		t.Errorf("rules are left:\n%s", out)
	}
	if _, err := os.Stat("/sys/fs/cgroup" + rebootGroup); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pods' group is left: %v", err)
	}
	if r := d.do("image", "fsck"); r.Code != 0 || r.Stdout != "the store is in order\n" {
		t.Errorf("fsck: %+v", r)
	}
}
