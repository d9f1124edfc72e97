package node

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/minirun/minirun/internal/kfeature"
	"golang.org/x/sys/unix"
)

// Root of a pod with a user namespace is nobody on the host, root in its own
// namespaces, and owns its files.
func TestRootPodUsers(t *testing.T) {
	b := newBench(t)
	b.apply("configmaps", "{apiVersion: v1, kind: ConfigMap, metadata: {name: conf}, data: {key: value}}")
	spec := `
  hostUsers: false
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, emptyDir: {}}, {name: m, emptyDir: {medium: Memory}}, {name: conf, configMap: {name: conf, defaultMode: 0400}}]
  containers:
  - {name: c, image: "base:1", command: [sleep, "1000"], securityContext: {capabilities: {add: [NET_ADMIN, SYS_ADMIN]}}, volumeMounts: [{name: v, mountPath: /v}, {name: m, mountPath: /m}, {name: conf, mountPath: /conf}, {name: v, mountPath: /sub, subPath: s}]}
  - {name: d, image: "base:1", command: [sleep, "1000"], securityContext: {runAsUser: 1000}, volumeMounts: [{name: v, mountPath: /v}]}
`
	if err := kfeature.OverlayAppendFD.Supported(); err != nil {
		t.Skipf("this kernel has no idmapped layers by descriptor (Linux 6.13): %v", err)
	}
	b.runPod("one", spec)
	b.runPod("two", spec)
	one := b.until("one", "it is ready", ready)
	two := b.until("two", "it is ready", ready)
	for _, tt := range []struct{ container, script, want string }{
		{"c", "id -u; stat -c '%u:%g' / /etc/hosts /v /m /sub /conf/..data/key; cat /conf/key; cut -c1-10 /proc/self/setgroups", "0\n0:0\n0:0\n0:0\n0:0\n0:0\n0:0\nvalueallow\n"},
		{"c", "echo x > /v/root; echo x > /m/f; stat -c '%u' /v/root /m/f; hostname; busybox hostname other && hostname", "0\n0\none\nother\n"},
		{"c", "busybox ip link set lo down && busybox ip link set lo up && busybox mount -t tmpfs none /tmp && echo mounted", "mounted\n"},
		{"c", "exec 2>/dev/null; echo 1 > /proc/sys/kernel/panic || echo no; busybox mknod /v/disk b 8 0 || echo no; ls /proc/1/root >/dev/null && echo own", "no\nno\nown\n"},
		{"d", "id -u; touch /v/user && stat -c %u /v/user", "1000\n1000\n"},
	} {
		if code, out := b.exec("one", tt.container, "sh", "-c", tt.script); out != tt.want {
			t.Errorf("%s: %s: %d %q, want %q", tt.container, tt.script, code, out, tt.want)
		}
	}
	// On the host they are others, and two pods have nobody in common.
	ids := map[uint32]string{}
	namespaces := map[uint64]string{}
	for name, p := range map[string]*corev1.Pod{"one": one, "two": two} {
		var user unix.Stat_t
		if err := unix.Stat(filepath.Join(b.c.Dir, "node/pods", string(p.UID), nsDir, userNamespace), &user); err != nil {
			t.Fatal(err)
		}
		if other := namespaces[user.Ino]; other != "" {
			t.Errorf("%s and %s are in one user namespace", name, other)
		}
		namespaces[user.Ino] = name
		for _, pid := range b.pidsOf(p) {
			var st, in unix.Stat_t
			if err := unix.Stat("/proc/"+pid, &st); err != nil {
				t.Fatal(err)
			}
			if err := unix.Stat("/proc/"+pid+"/ns/user", &in); err != nil {
				t.Fatal(err)
			}
			if in.Ino != user.Ino {
				t.Errorf("%s: process %s is in another user namespace", name, pid)
			}
			if st.Uid < 1<<20 {
				t.Errorf("%s: process %s is user %d", name, pid, st.Uid)
			}
			if other := ids[st.Uid]; other != "" && other != name {
				t.Errorf("%s and %s have user %d", name, other, st.Uid)
			}
			ids[st.Uid] = name
		}
	}
	// The volume is on the host as if there were no user namespace.
	for name, uid := range map[string]uint32{"root": 0, "user": 1000} {
		var st syscall.Stat_t
		if err := syscall.Lstat(filepath.Join(b.c.Dir, "node/pods", string(one.UID), volumesDir, "v", name), &st); err != nil || st.Uid != uid {
			t.Errorf("%s belongs to %d, %v", name, st.Uid, err)
		}
	}
	b.stop(syscall.SIGKILL)
	b.run("", 0)
	if p := b.until("one", "it is taken over", ready); state(p, "c").ContainerID != state(one, "c").ContainerID {
		t.Errorf("%+v", p.Status)
	}
	b.runPod("both", `
  hostUsers: false
  hostNetwork: true
  containers: [{name: c, image: "base:1", command: [sleep, "1000"]}]
`)
	b.until("both", "it is refused", func(p *corev1.Pod) bool {
		s := state(p, "c").State.Waiting
		return s != nil && s.Reason == "CreateContainerConfigError" && strings.Contains(s.Message, "hostUsers: false does not go with hostNetwork")
	})
	for _, name := range []string{"one", "two", "both"} {
		b.delete(name, 0)
	}
	b.gone("one")
	b.gone("two")
	b.nothingLeft()
	// Who comes next may have their ids.
	b.runPod("three", spec)
	b.until("three", "it is ready", ready)
	if entries, err := os.ReadDir(b.c.Images + "/userns"); err != nil || len(entries) != 2 {
		t.Errorf("ranges of ids: %v, %v", entries, err)
	}
}

// pidsOf are the processes of a pod's containers.
func (b *bench) pidsOf(p *corev1.Pod) (list []string) {
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		_ = filepath.WalkDir(mount+b.c.Cgroup+"/pod"+string(p.UID), func(path string, _ os.DirEntry, _ error) error {
			if filepath.Base(path) == "cgroup.procs" {
				raw, _ := os.ReadFile(path)
				list = append(list, strings.Fields(string(raw))...)
			}
			return nil
		})
	}
	if len(list) == 0 {
		b.t.Fatal("no processes")
	}
	return list
}
