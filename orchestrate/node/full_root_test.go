package node

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sys/unix"
)

// smallDisk stops the node, and makes a file system of that size that it can be started
// with again.
func (b *bench) smallDisk(size string) string {
	b.t.Helper()
	b.stop(syscall.SIGTERM)
	disk := filepath.Join(b.c.Dir, "disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "mode=755,size="+size); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		b.stop(syscall.SIGTERM)
		if err := unix.Unmount(disk, 0); err != nil {
			b.t.Error(err)
		}
	})
	b.t.Cleanup(b.clean) // before the disk goes
	return disk
}

// fill leaves no room on a disk, and gives the file that takes it.
func fill(t *testing.T, disk string) (filler string) {
	t.Helper()
	filler = filepath.Join(disk, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()
	return filler
}

// A disk without room for the store refuses writes and says why. What runs goes on, what
// ends is started again, and when there is room all of it is written.
func TestRootPodFullDisk(t *testing.T) {
	b := newBench(t)
	disk := b.smallDisk("12m")
	b.c.Store = filepath.Join(disk, "store")
	b.run("", 0)
	b.runPod("p", `
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, emptyDir: {}}]
  containers: [{name: c, image: "base:1", command: [sh, -c, "echo run >> /v/runs; exec sleep 1000"], volumeMounts: [{name: v, mountPath: /v}]}]
`)
	p := b.until("p", "it runs", ready)
	for _, name := range []string{"q", "r"} {
		b.runPod(name, `
  containers: [{name: c, image: "base:1", command: [sh, -c, "trap exit TERM; sleep 1000 & wait"]}]
`)
		b.until(name, "it runs", ready)
	}
	filler := fill(t, disk)
	big, err := json.Marshal(&corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: "big"}, Data: map[string]string{"k": strings.Repeat("x", 500<<10)}})
	if err != nil {
		t.Fatal(err)
	}
	raw, code := b.do(http.MethodPost, "/api/v1/namespaces/default/configmaps", big)
	var status metav1.Status
	if err := json.Unmarshal(raw, &status); err != nil || code != http.StatusInsufficientStorage || status.Code != http.StatusInsufficientStorage || !strings.Contains(status.Message, "no space left on device") {
		t.Errorf("on a full disk: %d %s", code, raw)
	}
	if _, code := b.do(http.MethodGet, "/api/v1/namespaces/default/configmaps/big", nil); code != http.StatusNotFound {
		t.Errorf("what was refused: %d", code)
	}
	b.signal(p, syscall.SIGKILL)
	runs := filepath.Join(b.c.Dir, "node/pods", string(p.UID), volumesDir, "v/runs")
	b.eventually("it was started again", func() bool { raw, _ := os.ReadFile(runs); return string(raw) == "run\nrun\n" })
	b.delete("q", 30) // which are several writes
	b.gone("q")
	b.delete("r", 0)
	b.gone("r")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	b.until("p", "the status follows", func(p *corev1.Pod) bool { return ready(p) && state(p, "c").RestartCount == 1 })
	if raw, code := b.do(http.MethodPost, "/api/v1/namespaces/default/configmaps", big); code != http.StatusCreated {
		t.Errorf("with room again: %d %.200s", code, raw)
	}
}
