package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// Volumes have what their sources have, and follow them.
func TestRootPodVolumes(t *testing.T) {
	b := newBench(t)
	b.apply("configmaps", "{apiVersion: v1, kind: ConfigMap, metadata: {name: conf}, data: {key: value, other: more}}")
	b.apply("secrets", "{apiVersion: v1, kind: Secret, metadata: {name: sec}, stringData: {password: hush}}")
	host := filepath.Join(b.c.Dir, "host")
	if err := os.Mkdir(host, 0o700); err != nil {
		t.Fatal(err)
	}
	// Container "a" prepares links that lead out of the volume; container "b" has
	// them as subPaths.
	if err := os.WriteFile(filepath.Join(b.c.Dir, "hostsecret"), []byte("of the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.runPod("v", `
  securityContext: {fsGroup: 4711, runAsUser: 1000, runAsGroup: 2000, supplementalGroups: [33]}
  hostAliases: [{ip: 192.0.2.7, hostnames: [far, far.example]}]
  hostname: h
  subdomain: sub
  volumes:
  - {name: e, emptyDir: {}}
  - {name: m, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: conf, configMap: {name: conf, items: [{key: key, path: dir/file, mode: 0400}]}}
  - {name: sec, secret: {secretName: sec, defaultMode: 0440}}
  - {name: no, configMap: {name: missing, optional: true}}
  - {name: down, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: cpu, resourceFieldRef: {containerName: c, resource: requests.cpu, divisor: 1m}}]}}
  - {name: host, hostPath: {path: `+host+`/made, type: DirectoryOrCreate}}
  containers:
  - name: c
    image: "base:1"
    command: [sleep, "1000"]
    resources: {requests: {cpu: 250m}}
    envFrom: [{prefix: P_, configMapRef: {name: conf}}]
    env: [{name: SECRET, valueFrom: {secretKeyRef: {name: sec, key: password}}}, {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
    securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    volumeMounts:
    - {name: e, mountPath: /e}
    - {name: m, mountPath: /m}
    - {name: conf, mountPath: /conf}
    - {name: sec, mountPath: /sec}
    - {name: no, mountPath: /no}
    - {name: down, mountPath: /down}
    - {name: host, mountPath: /host}
    - {name: e, mountPath: /part, subPath: some/part}
    - {name: conf, mountPath: /single, subPath: dir/file}
`)
	p := b.until("v", "it is ready", ready)
	for _, tt := range []struct{ script, want string }{
		{"id -u; id -g; id -G", "1000\n2000\n2000 33 4711\n"},
		{"echo $SECRET $P_key $P_other $IP", "hush value more " + p.Status.PodIP + "\n"},
		{"cat /conf/dir/file; cat /sec/password; echo; cat /single", "value" + "hush\n" + "value"},
		{"stat -c '%a %g' /sec/..data/password /conf/..data/dir/file", "440 4711\n440 4711\n"},
		{"cat /down/cpu; ls /no", "250"},
		{"hostname; grep -c 'far.example' /etc/hosts; grep -c h.sub.default.svc.cluster.local /etc/hosts", "h\n1\n1\n"},
		{"echo x > /e/f && stat -c %g /e/f; echo y > /part/f && cat /e/some/part/f", "4711\ny\n"},
		{"exec 2>&1; touch /x; touch /conf/x; touch /sec/x; echo end", "touch: /x: Read-only file system\ntouch: /conf/x: Read-only file system\ntouch: /sec/x: Read-only file system\nend\n"},
		{"dd if=/dev/zero of=/m/big bs=64k count=64 2>/dev/null; stat -c %s /m/big", "1048576\n"},
		{"grep -E 'NoNewPrivs|CapEff|CapBnd' /proc/self/status | cut -f2", "0000000000000000\n0000000000000000\n1\n"},
		{"ls /host; stat -f -c %T /sec", "tmpfs\n"},
	} {
		if code, out := b.exec("v", "c", "sh", "-c", tt.script); out != tt.want {
			t.Errorf("%s: %d %q, want %q", tt.script, code, out, tt.want)
		}
	}
	if raw, code := b.do("PATCH", "/api/v1/namespaces/default/configmaps/conf", []byte(`{"data":{"key":"changed"}}`)); code != 200 {
		t.Fatalf("%d %s", code, raw)
	}
	b.eventually("the file has followed", func() bool { _, out := b.exec("v", "c", "cat", "/conf/dir/file"); return out == "changed" })
	b.delete("v", 0)
	b.gone("v")
	b.nothingLeft()
	if _, err := os.Stat(host + "/made"); err != nil {
		t.Errorf("the host's directory went with the pod: %v", err)
	}
}

// A container cannot have a subPath lead out of its volume, neither before it is
// mounted nor at that moment (CVE-2017-1002101, CVE-2021-25741).
func TestRootPodSubPathAttack(t *testing.T) {
	b := newBench(t)
	secret := filepath.Join(b.c.Dir, "hostsecret")
	if err := os.MkdirAll(secret, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(secret+"/file", []byte("of the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, prepare := range map[string]string{
		"absolute": "ln -s " + secret + " /v/sub",
		"dots":     "ln -s ../../../../../../../.." + secret + " /v/sub",
		"parent":   "mkdir /v/a && ln -s ../../.. /v/a/up && ln -s a/up /v/sub",
		"magic":    "ln -s /proc/1/root /v/sub",
	} {
		b.runPod(name, `
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, emptyDir: {}}]
  initContainers: [{name: evil, image: "base:1", command: [sh, -c, "`+prepare+`"], volumeMounts: [{name: v, mountPath: /v}]}]
  containers:
  - {name: c, image: "base:1", command: [sh, -c, "find /s -xdev; cat /s/file; exec sleep 1000"], volumeMounts: [{name: v, mountPath: /s, subPath: sub}]}
`)
		p := b.until(name, "it is refused", func(p *corev1.Pod) bool {
			s := state(p, "c")
			if s.State.Running != nil {
				t.Fatalf("%s: it runs: %s", name, b.logs(name, "c", ""))
			}
			return s.State.Waiting != nil && s.State.Waiting.Reason == "CreateContainerConfigError"
		})
		if m := state(p, "c").State.Waiting.Message; !strings.Contains(m, "failed to prepare subPath") {
			t.Errorf("%s: %s", name, m)
		}
		b.delete(name, 0)
		b.gone(name)
	}
}

// The place is looked up once, into a descriptor: who changes it meanwhile changes
// nothing.
func TestOpenSubPathRace(t *testing.T) {
	dir := t.TempDir()
	volume, outside := filepath.Join(dir, "volume"), filepath.Join(dir, "outside")
	for _, d := range []string{volume + "/real", outside} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var out unix.Stat_t
	if err := unix.Stat(outside, &out); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, volume+"/link"); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { // swaps a directory and a link that leads out
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, volume+"/real", unix.AT_FDCWD, volume+"/link", unix.RENAME_EXCHANGE)
			}
		}
	}()
	opened, refused := 0, 0
	for range 2000 {
		fd, err := openSubPath(volume, "real/below")
		if err != nil {
			refused++
			continue
		}
		opened++
		for range 2 { // it and its parent
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil {
				t.Fatal(err)
			}
			if st.Ino == out.Ino && st.Dev == out.Dev {
				t.Fatal("it led out of the volume")
			}
			up, err := linux.OpenAt(fd, "..", unix.O_PATH, 0)
			linux.Close(fd)
			if err != nil {
				t.Fatal(err)
			}
			fd = up
		}
		linux.Close(fd)
	}
	close(stop)
	<-done
	if entries, _ := os.ReadDir(outside); len(entries) > 0 {
		t.Errorf("something was made outside: %v", entries)
	}
	t.Logf("%d opened, %d refused", opened, refused)
}
