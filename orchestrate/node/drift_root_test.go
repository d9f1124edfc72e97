package node

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/internal/testenv"
)

// What somebody takes away from a pod is noticed and repaired, and people are told.
func TestRootPodDrift(t *testing.T) {
	b := newBench(t)
	b.stop(syscall.SIGTERM)
	b.c.Check = 100 * time.Millisecond
	b.run("", 0)
	b.runPod("d", `
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "base:1", command: [sleep, "1000"]}]
`)
	p := b.until("d", "it is ready", ready)
	at := filepath.Join(b.c.Dir, "node/pods", string(p.UID), "ns/net")
	if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	b.eventually("it is pinned again", func() bool { return isNamespace(at) })
	b.eventually("people know", func() bool {
		return strings.Contains(b.reasons("d"), "Drift: namespace net was not pinned any more; it is that of process")
	})
	if now := b.pod("d"); state(now, "c").RestartCount != 0 || now.Status.PodIP != p.Status.PodIP {
		t.Errorf("%+v", now.Status)
	}
	// Without its interface it cannot go on.
	if code, out := b.exec("d", "c", "true"); code != 0 {
		t.Fatal(out)
	}
	b.inPod(at, "ip", "link", "del", "eth0")
	b.until("d", "it was made anew", func(p *corev1.Pod) bool { return ready(p) && state(p, "c").RestartCount == 1 })
	p = b.until("d", "it is ready", ready)

	// Out of the bridge, nobody reaches it.
	key, err := os.Readlink(filepath.Join(b.c.Dir, "node/pods", string(p.UID), networkLink))
	if err != nil {
		t.Fatal(err)
	}
	networks := container.Networks(b.c.Images)
	rec, err := networks.Store.Container(key)
	if err != nil {
		t.Fatal(err)
	}
	link := rec.Endpoints[0].Link
	ping := func() bool {
		ok := false
		b.inNet(func() error {
			ok = exec.Command(testenv.Busybox(t), "ping", "-c", "1", "-W", "1", p.Status.PodIP).Run() == nil
			return nil
		})
		return ok
	}
	b.eventually("the pod answers", ping)
	b.host("ip", "link", "set", link, "nomaster")
	b.eventually("people know", func() bool {
		return strings.Contains(b.reasons("d"), "Drift: network: interface "+link+" was not in bridge")
	})
	b.eventually("the pod answers", ping)
	bridge := strings.Fields(b.host("sh", "-c", "ip -o link show type bridge | cut -d: -f2"))[0]
	b.host("ip", "link", "del", bridge)
	b.eventually("the pod answers", ping)

	// A stopped process goes on.
	b.signal(p, syscall.SIGSTOP)
	b.eventually("people know", func() bool { return strings.Contains(b.reasons("d"), "of container c was stopped; it goes on") })

	// A container that somebody deletes is started again.
	id := strings.TrimPrefix(state(p, "c").ContainerID, "minirun://")
	b.host(testenv.Binary(t), "--root", filepath.Join(b.c.Dir, "node/containers"), "--store", b.c.Images, "delete", "--force", id)
	p = b.until("d", "it was started again", func(p *corev1.Pod) bool { return ready(p) && state(p, "c").RestartCount == 2 })
	if e := state(p, "c").LastTerminationState.Terminated; e == nil || e.ExitCode != 137 {
		t.Errorf("its end: %+v", state(p, "c").LastTerminationState)
	}

	// One that somebody moves to another cgroup, and whose own is gone, too; so is one
	// that is deleted like that.
	moved := func(p *corev1.Pod) {
		t.Helper()
		mount, err := cgroups.Mount()
		if err != nil {
			t.Fatal(err)
		}
		group := mount + b.c.Cgroup + "/pod" + string(p.UID)
		var dirs []string
		_ = filepath.WalkDir(group, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) {
			raw, err := os.ReadFile(dir + "/cgroup.procs")
			if err != nil {
				t.Fatal(err)
			}
			for _, pid := range strings.Fields(string(raw)) {
				if err := os.WriteFile(mount+b.c.Cgroup+"/cgroup.procs", []byte(pid), 0); err != nil {
					t.Fatal(err)
				}
			}
			b.eventually("the group is removed", func() bool { err := unix.Rmdir(dir); return err == nil || err == unix.ENOENT })
		}
	}
	b.stop(syscall.SIGTERM) // it would make the group anew meanwhile
	moved(p)
	b.run("", 0)
	p = b.until("d", "it was started again, in its group", func(p *corev1.Pod) bool {
		return ready(p) && state(p, "c").RestartCount == 3 && strings.Contains(b.psOf(p), "sleep")
	})
	b.eventually("people know", func() bool {
		text := b.reasons("d")
		return strings.Contains(text, "Drift: the pod's cgroup") && strings.Contains(text, "Drift: container c was in cgroup")
	})
	b.stop(syscall.SIGTERM)
	moved(p)
	b.c.Check = time.Hour
	b.run("", 0)
	b.delete("d", 0)
	b.gone("d")
	mount, err := cgroups.Mount()
	if err != nil {
		t.Fatal(err)
	}
	b.eventually("its processes have ended", func() bool {
		raw, err := os.ReadFile(mount + b.c.Cgroup + "/cgroup.procs")
		return err == nil && len(raw) == 0
	})
}
