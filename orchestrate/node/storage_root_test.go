package node

import (
	"bytes"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// Data outlives pods and the node, and goes when its claim goes, unless it is to be
// kept.
func TestRootPodClaims(t *testing.T) {
	b := newBench(t)
	b.stop(syscall.SIGTERM)
	b.c.Controllers = true
	b.run("", 0)
	pod := func(name, claim, script string) {
		t.Helper()
		b.runPod(name, `
  terminationGracePeriodSeconds: 0
  securityContext: {fsGroup: 4711}
  volumes: [{name: v, persistentVolumeClaim: {claimName: `+claim+`}}]
  containers: [{name: c, image: "base:1", command: [sh, -c, "`+script+`; exec sleep 1000"], volumeMounts: [{name: v, mountPath: /v}], securityContext: {runAsUser: 1000}}]
`)
	}
	const claims = "/api/v1/namespaces/default/persistentvolumeclaims/"
	volumeOf := func(claim string) (v corev1.PersistentVolume) {
		t.Helper()
		b.eventually("claim "+claim+" has a volume", func() bool {
			var c corev1.PersistentVolumeClaim
			return b.get(claims+claim, &c) && c.Status.Phase == corev1.ClaimBound && b.get("/api/v1/persistentvolumes/"+c.Spec.VolumeName, &v)
		})
		return v
	}
	remove := func(path string) {
		t.Helper()
		if out, code := b.do(http.MethodDelete, path, nil); code >= 300 {
			t.Fatalf("delete %s: %d: %s", path, code, out)
		}
	}

	pod("first", "data", "id -G > /v/groups; echo kept > /v/file")
	waits := func(name, why string) {
		t.Helper()
		b.until(name, why, func(p *corev1.Pod) bool {
			return p.Status.Phase == corev1.PodPending && p.Spec.NodeName == "" && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable && c.Message == "0/1 nodes are available: "+why+"."
			})
		})
		b.eventually("there is an event", func() bool {
			return strings.Contains(b.reasons(name), "FailedScheduling: 0/1 nodes are available: "+why+".")
		})
	}
	waits("first", `persistentvolumeclaim "data" not found`)
	for _, name := range []string{"data", "keep"} {
		b.apply("persistentvolumeclaims", "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: "+name+"}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}")
	}
	b.until("first", "it runs", ready)
	b.eventually("it has written", func() bool { _, out := b.exec("first", "c", "cat", "/v/file"); return out == "kept\n" })
	if _, out := b.exec("first", "c", "stat", "-c", "%g", "/v/file"); out != "4711\n" {
		t.Errorf("group of the file: %q", out)
	}
	v := volumeOf("data")
	if v.Spec.StorageClassName != "local" || v.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete || v.Status.Phase != corev1.VolumeBound {
		t.Errorf("volume %+v", v)
	}
	at := filepath.Join(b.c.Dir, "volumes", v.Name)

	// The node is killed, the pod is replaced: the data stays.
	b.stop(syscall.SIGKILL)
	b.hostFile(at+"/file", "kept\n")
	b.run("", 0)
	b.delete("first", 0)
	b.gone("first")
	pod("second", "data", "true")
	b.until("second", "it runs", ready)
	if _, out := b.exec("second", "c", "cat", "/v/file"); out != "kept\n" {
		t.Errorf("the second pod has %q", out)
	}

	// A claim that a pod needs stays until the pod has gone. Then all of it goes.
	remove(claims + "data")
	var c corev1.PersistentVolumeClaim
	if !b.get(claims+"data", &c) || c.DeletionTimestamp == nil {
		t.Errorf("a claim that is in use: %+v", c)
	}
	if _, out := b.exec("second", "c", "cat", "/v/file"); out != "kept\n" {
		t.Errorf("its pod has %q", out)
	}
	pod("late", "data", "true")
	waits("late", `persistentvolumeclaim "data" is being deleted`)
	b.delete("second", 0)
	b.eventually("claim, volume and directory are gone", func() bool {
		_, err := os.Stat(at)
		return !b.get(claims+"data", &c) && !b.get("/api/v1/persistentvolumes/"+v.Name, &v) && os.IsNotExist(err)
	})

	waits("late", `persistentvolumeclaim "data" not found`)
	b.delete("late", 0)
	b.gone("late")

	pod("third", "keep", "echo precious > /v/file")
	b.until("third", "it runs", ready)
	b.eventually("it has written", func() bool { _, out := b.exec("third", "c", "cat", "/v/file"); return out == "precious\n" })
	v = volumeOf("keep")
	if out, code := b.do(http.MethodPatch, "/api/v1/persistentvolumes/"+v.Name, []byte(`{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}`)); code != http.StatusOK {
		t.Fatalf("%d: %s", code, out)
	}
	b.delete("third", 0)
	b.gone("third")
	remove(claims + "keep")
	b.eventually("the volume is released", func() bool {
		return !b.get(claims+"keep", &c) && b.get("/api/v1/persistentvolumes/"+v.Name, &v) && v.Status.Phase == corev1.VolumeReleased
	})
	b.hostFile(filepath.Join(b.c.Dir, "volumes", v.Name, "file"), "precious\n")
}

// hostFile wants a file of the host to have that content.
func (b *bench) hostFile(path, want string) {
	b.t.Helper()
	if raw, err := os.ReadFile(path); err != nil || string(raw) != want {
		b.t.Errorf("%s: %q, %v", path, raw, err)
	}
}

// Paths of the host are what their type says; secrets are nowhere in plain; files from
// objects change all at once.
func TestRootPodFiles(t *testing.T) {
	b := newBench(t)
	host := filepath.Join(b.c.Dir, "host")
	if err := os.Mkdir(host, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, host+"/file", "text")
	l, err := net.Listen("unix", host+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	const spec = `
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "base:1", command: [sleep, "1000"], volumeMounts: [{name: v, mountPath: /v}]}]
  volumes: [{name: v, hostPath: {path: `
	good := map[string]string{"Directory": host, "DirectoryOrCreate": host + "/made/deep", "File": host + "/file", "FileOrCreate": host + "/madefile", "Socket": host + "/socket", "CharDevice": "/dev/null"}
	bad := map[string][2]string{
		"Directory": {host + "/file", "is not a directory"}, "File": {host, "is not a file"}, "Socket": {host + "/file", "is not a socket file"},
		"CharDevice": {host + "/missing", "is not a character device"}, "BlockDevice": {"/dev/null", "is not a block device"},
	}
	for kind, path := range good {
		b.runPod("good-"+strings.ToLower(kind), spec+path+", type: "+kind+"}}]\n")
	}
	for kind, w := range bad {
		b.runPod("bad-"+strings.ToLower(kind), spec+w[0]+", type: "+kind+"}}]\n")
	}
	for kind := range good {
		b.until("good-"+strings.ToLower(kind), "it runs", ready)
	}
	for kind, w := range bad {
		name := "bad-" + strings.ToLower(kind)
		b.eventually(name+" is told why it waits", func() bool {
			return b.pod(name).Status.Phase == corev1.PodPending && strings.Contains(b.reasons(name), `FailedMount: MountVolume.SetUp failed for volume "v" : hostPath type check failed: `+w[0]+" "+w[1])
		})
	}

	// What a container sees of two files of one object is of one moment.
	const plain = "correct horse battery staple"
	b.apply("configmaps", "{apiVersion: v1, kind: ConfigMap, metadata: {name: conf}, data: {a: r0, b: r0}}")
	b.apply("secrets", "{apiVersion: v1, kind: Secret, metadata: {name: sec}, stringData: {password: "+plain+"}}")
	b.runPod("reads", `
  terminationGracePeriodSeconds: 0
  volumes: [{name: conf, configMap: {name: conf}}, {name: sec, secret: {secretName: sec}}]
  containers:
  - name: c
    image: "base:1"
    command: [sh, -c, "n=0; while :; do cd /conf/..data/. 2>/dev/null && a=$(cat a 2>/dev/null) && sleep 0.01 && b=$(cat b 2>/dev/null) && if [ $a = $b ]; then [ $a = \"$last\" ] || echo $a; last=$a; else echo torn; fi; done"]
    volumeMounts: [{name: conf, mountPath: /conf}, {name: sec, mountPath: /sec}]
`)
	b.until("reads", "it runs", ready)
	b.eventually("it reads", func() bool { return b.logs("reads", "c", "") == "r0\n" })
	for _, rev := range []string{"r1", "r2", "r3", "r4"} {
		if out, code := b.do(http.MethodPatch, "/api/v1/namespaces/default/configmaps/conf", []byte(`{"data":{"a":"`+rev+`","b":"`+rev+`"}}`)); code != http.StatusOK {
			t.Fatalf("%d: %s", code, out)
		}
		b.eventually("it has seen "+rev, func() bool { return strings.HasSuffix(b.logs("reads", "c", ""), rev+"\n") })
	}
	if got := b.logs("reads", "c", ""); got != "r0\nr1\nr2\nr3\nr4\n" {
		t.Errorf("it has read %q", got)
	}
	if _, out := b.exec("reads", "c", "sh", "-c", "cat /sec/password; grep -c ' /sec tmpfs ' /proc/mounts"); out != plain+"1\n" {
		t.Errorf("the secret: %q", out)
	}
	// Neither the store nor what is kept of pods has it on the disk.
	files := 0
	err = filepath.WalkDir(b.c.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // it has gone
		}
		if d.IsDir() {
			if d.Name() == "images" || isMounted(path, tmpfsMagic) {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		raw, err := os.ReadFile(path)
		files++
		if err == nil && bytes.Contains(raw, []byte(plain)) {
			t.Errorf("%s has the secret in plain", path)
		}
		return nil
	})
	if err != nil || files < 5 {
		t.Errorf("%d files, %v", files, err)
	}
}
