package integration

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// kinds has one object of each kind that people write.
const kinds = `
apiVersion: v1
kind: Namespace
metadata: {name: team}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: conf, namespace: team}
data: {greeting: hello}
---
apiVersion: v1
kind: Secret
metadata: {name: sec, namespace: team}
stringData: {password: not-to-be-seen}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: team}
spec:
  replicas: 2
  strategy: {type: Recreate}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: base
        imagePullPolicy: Never
        command: [sh, -c, "mkdir /www; echo $GREETING $VERSION > /www/index.html; exec busybox httpd -f -p 8080 -h /www"]
        env: [{name: VERSION, value: v1}, {name: GREETING, valueFrom: {configMapKeyRef: {name: conf, key: greeting}}}]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {port: http}, timeoutSeconds: 30}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: team}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 8085, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: team}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: team}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      volumes: [{name: s, secret: {secretName: sec}}]
      containers:
      - name: c
        image: base
        imagePullPolicy: Never
        command: [sh, -c, "hostname >> /data/log; exec sleep 10000"]
        volumeMounts: [{name: data, mountPath: /data}, {name: s, mountPath: /s}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: team}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: base, imagePullPolicy: Never, command: [sleep, "10000"]}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: work, namespace: team}
spec:
  completions: 3
  parallelism: 2
  completionMode: Indexed
  template:
    spec: {restartPolicy: Never, containers: [{name: c, image: base, imagePullPolicy: Never, command: [sh, -c, "echo part $JOB_COMPLETION_INDEX"]}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: later, namespace: team}
spec:
  schedule: "0 5 * * 1"
  timeZone: Europe/Berlin
  suspend: true
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: base, command: [date]}]}}}}
---
apiVersion: v1
kind: Pod
metadata: {name: crash, namespace: team}
spec: {containers: [{name: c, image: base, imagePullPolicy: Never, command: [sh, -c, "echo run; exit 3"]}]}
`

// TestRootKubeKinds is a day of a user of minirun kube: one object of each kind, with
// real containers.
func TestRootKubeKinds(t *testing.T) {
	d := daemonSetup(t)
	d.ip("route", "add", "default", "dev", "lo") // which has the host's address
	d.upPods("kinds")
	limit := testenv.Timeout(50 * time.Second).String()
	kube := func(args ...string) string {
		t.Helper()
		end := slices.Index(args, "--")
		if end < 0 {
			end = len(args)
		}
		return d.must(append([]string{"kube"}, slices.Insert(slices.Clone(args), end, "-n", "team")...)...)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(d.do("kube", "describe", "pod", "-n", "team").Stdout)
		}
		d.do("kube", "delete", "namespace", "team", "--timeout", limit)
	})
	path := d.file("kinds.yaml", kinds)
	if out := d.must("kube", "apply", "-f", path); strings.Count(out, " created\n") != 11 {
		t.Errorf("apply:\n%s", out)
	}
	for _, w := range []string{"deploy/web", "sts/db", "ds/agent"} {
		kube("rollout", "status", w, "--timeout", limit)
	}
	kube("wait", "job/work", "--for", "condition=Complete", "--timeout", limit)
	if out := d.must("kube", "apply", "-f", path); strings.Count(out, " unchanged\n") != 11 {
		t.Errorf("applied again:\n%s", out)
	}
	kube("diff", "-f", path)

	// The service, at the host's address.
	d.must("kube", "wait", "node", "--all", "--for", "condition=Ready", "--timeout", limit)
	for _, port := range []string{"8085", kube("get", "svc", "web", "-o", "jsonpath={.spec.ports[0].nodePort}")} {
		d.says(lanAddress+":"+port, "hello v1\n")
	}
	// Recreate: the first of the new ones comes when all old ones are gone.
	newer := d.file("newer.yaml", strings.Replace(kinds, "value: v1", "value: v2", 1))
	if code := d.do("kube", "diff", "-f", newer).Code; code != 1 {
		t.Errorf("diff: status %d", code)
	}
	d.must("kube", "apply", "-f", newer)
	kube("rollout", "status", "deploy/web", "--timeout", limit)
	d.says(lanAddress+":8085", "hello v2\n")
	kube("rollout", "undo", "deploy/web")
	kube("rollout", "status", "deploy/web", "--timeout", limit)
	d.says(lanAddress+":8085", "hello v1\n")
	if out := kube("rollout", "history", "deploy/web"); !strings.Contains(out, "\n2 ") || !strings.Contains(out, "\n3 ") || strings.Contains(out, "\n1 ") {
		t.Errorf("history:\n%s", out)
	}

	// Names and volumes of the set's pods stay.
	if out := kube("exec", "db-0", "--", "nslookup", "db-1.db.team.svc.cluster.local"); !strings.Contains(out, kube("get", "pod", "db-1", "-o", "jsonpath={.status.podIP}")) {
		t.Errorf("nslookup:\n%s", out)
	}
	kube("scale", "sts/db", "--replicas", "1")
	kube("wait", "pod/db-1", "--for", "delete", "--timeout", limit)
	kube("scale", "sts/db", "--replicas", "2")
	kube("rollout", "status", "sts/db", "--timeout", limit)
	kube("wait", "pod/db-1", "--for", "condition=Ready", "--timeout", limit)
	if out := kube("exec", "db-1", "--", "cat", "/data/log"); out != "db-1\ndb-1\n" {
		t.Errorf("log of db-1: %q", out)
	}

	// A secret is in memory in the pod, and sealed on the disk.
	const secret = "not-to-be-seen"
	if out := kube("exec", "db-0", "--", "sh", "-c", "cat /s/password; grep ' /s ' /proc/mounts"); !strings.HasPrefix(out, secret+"tmpfs ") {
		t.Errorf("secret: %q", out)
	}
	d.nowhere(secret, base64.StdEncoding.EncodeToString([]byte(secret)))

	lines := strings.Split(strings.TrimSpace(kube("logs", "-l", "job-name=work")), "\n")
	if slices.Sort(lines); !slices.Equal(lines, []string{"part 0", "part 1", "part 2"}) {
		t.Errorf("logs of the job: %q", lines)
	}
	eventually(t, "the run before this one has a log", func() bool {
		return d.do("kube", "logs", "-n", "team", "crash", "--previous", "--since", "1h", "--tail", "1").Stdout == "run\n"
	})
	refused := func(want string, args ...string) {
		t.Helper()
		if r := d.do(append([]string{"kube"}, args...)...); r.Code != 1 || !strings.Contains(r.Stderr, want) || strings.Contains(r.Stderr, `"kind"`) {
			t.Errorf("kube %q: %+v, want %q", args, r, want)
		}
	}
	refused(`previous terminated container "c" in pod "db-0" not found`, "logs", "db-0", "--previous", "-n", "team")
	eventually(t, "everything that runs is measured", func() bool {
		out := kube("top", "pods")
		return strings.Contains(out, "db-0 ") && strings.Contains(out, "db-1 ") && strings.Contains(out, "agent-")
	})

	// A terminal, with its size, which comes when the program runs already, and the
	// program's status.
	x := onTerminal(t, 33, 77, d.command("kube", "exec", "-n", "team", "-it", "db-0", "--", "sh", "-c", "until stty size 2>/dev/null | grep '33 77'; do sleep 0.01; done; read x; echo got-$x; exit 5")...)
	x.expect("33 77")
	x.send("it\n")
	x.expect("got-it")
	if code := x.exit(); code != 5 {
		t.Errorf("exec -it: status %d", code)
	}
	refused("minirun: unable to start container process: exec: \"/no/such\": stat /no/such: no such file or directory\n", "exec", "-n", "team", "db-0", "--", "/no/such")

	// Who watches sees a pod come and go.
	watch := testenv.Command(t, d.command("kube", "get", "pods", "-n", "team", "-w")...)
	watch.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	seen := d.lines(watch)
	late := time.After(testenv.Timeout(50 * time.Second))
	until := func(name, state string) {
		t.Helper()
		for {
			select {
			case line, ok := <-seen:
				if !ok {
					t.Fatalf("the watch has ended before %s was %s", name, state)
				}
				fields := strings.Fields(line)
				if len(fields) == 0 || fields[0] != name {
					continue
				}
				if len(fields) < 5 {
					t.Errorf("a column is empty: %q", line)
				}
				if slices.Contains(fields, state) {
					return
				}
			case <-late:
				t.Fatalf("the watch does not say that %s is %s", name, state)
			}
		}
	}
	until("db-0", "Running") // it has what there was, and misses nothing from now on
	kube("run", "one", "--image", "base", "--image-pull-policy", "Never", "--restart", "Never", "--", "true")
	until("one", "Pending")
	until("one", "Completed")
	watch.Process.Signal(unix.SIGINT)
	for range seen {
	}
	if err := watch.Wait(); err != nil {
		t.Errorf("watch: %v", err)
	}

	// What must not change does not.
	immutable := strings.Replace(kinds, "completions: 3", "completions: 4", 1)
	refused("spec.completions: Invalid value: 4: field is immutable", "apply", "-f", d.file("immutable.yaml", immutable))

	// Nothing is left of a namespace.
	d.must("kube", "delete", "namespace", "team", "--timeout", limit)
	if out := d.do("kube", "get", "all,cm,secret,pvc,endpointslices", "-n", "team"); out.Stdout != "" {
		t.Errorf("left:\n%s", out.Stdout)
	}
	eventually(t, "the volumes are gone", func() bool { return strings.TrimSpace(d.do("kube", "get", "pv").Stdout) == "" })
}

// says waits until a server says that, and nothing else any more.
func (d *daemonHost) says(address, want string) {
	d.t.Helper()
	deadline := time.Now().Add(testenv.Timeout(20 * time.Second))
	for ; ; time.Sleep(5 * time.Millisecond) {
		out, err := exec.Command("busybox", "wget", "-q", "-O", "-", "http://"+address+"/").CombinedOutput()
		switch {
		case err == nil && string(out) == want:
			return
		case time.Now().After(deadline):
			d.t.Fatalf("%s says %q, want %q: %v", address, out, want, err)
		}
	}
}

// nowhere fails the test if a file of minirund has one of these texts.
func (d *daemonHost) nowhere(texts ...string) {
	d.t.Helper()
	files := 0
	err := filepath.WalkDir(filepath.Join(d.dir, "data"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err != nil {
			return err
		}
		if st.Type == unix.TMPFS_MAGIC || st.Type == unix.NSFS_MAGIC {
			return nil
		}
		b, err := os.ReadFile(path)
		files++
		for _, text := range texts {
			if bytes.Contains(b, []byte(text)) {
				d.t.Errorf("%s has the secret", path)
			}
		}
		return err
	})
	if err != nil || files == 0 {
		d.t.Errorf("%d files: %v", files, err)
	}
}

// lines starts a command and gives its lines until it ends.
func (d *daemonHost) lines(cmd *exec.Cmd) <-chan string {
	d.t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	ch := make(chan string, 100)
	go func() {
		defer close(ch)
		for s := bufio.NewScanner(out); s.Scan(); {
			ch <- s.Text()
		}
	}()
	return ch
}
