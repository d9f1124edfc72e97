package node

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// A pod that has filled the disk that its node writes to is evicted nevertheless, and
// its volumes are emptied.
func TestRootPodFillsDisk(t *testing.T) {
	b := newBench(t)
	disk := b.smallDisk("8m")
	b.c.Root, b.c.Measure = disk, 500*time.Millisecond
	b.run("", 0)
	b.runPod("p", `
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, emptyDir: {sizeLimit: 6Mi}}]
  containers: [{name: c, image: "base:1", command: [sh, -c, "cat /dev/zero > /v/x; exec sleep 1000"], volumeMounts: [{name: v, mountPath: /v}]}]
`)
	p := b.until("p", "it is evicted", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if p.Status.Reason != "Evicted" || !strings.Contains(p.Status.Message, `exceeds the limit "6Mi"`) {
		t.Errorf("%+v", p.Status)
	}
	b.eventually("there is room again, although the pod is there still", func() bool {
		var st unix.Statfs_t
		return unix.Statfs(disk, &st) == nil && st.Bavail*uint64(st.Bsize) > 6<<20
	})
	// It stays so, also for the next one, and goes.
	b.stop(syscall.SIGKILL)
	b.run("", 0)
	if p := b.pod("p"); p.Status.Phase != corev1.PodFailed || p.Status.Reason != "Evicted" {
		t.Errorf("%+v", p.Status)
	}
	b.delete("p", 0)
	b.gone("p")
}

// What is mounted in a directory is not counted.
func TestRootDiskUsage_Mount(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	dir := t.TempDir()
	at := filepath.Join(dir, "mounted")
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", at, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(at+"/file", make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := diskUsage(t.Context(), dir, math.MaxInt64); err != nil || n > 1<<20 {
		t.Errorf("%d bytes, %v", n, err)
	}
	if n, err := diskUsage(t.Context(), at, math.MaxInt64); err != nil || n < 2<<20 {
		t.Errorf("the mount itself: %d bytes, %v", n, err)
	}
}
