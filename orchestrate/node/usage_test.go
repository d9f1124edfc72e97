package node

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// Files count once, whatever names they have, and links lead nowhere.
func TestDiskUsage(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside")
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(i * 7)
	}
	for _, path := range []string{outside, dir + "/one"} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	size := func(limit int64) int64 {
		t.Helper()
		n, err := diskUsage(context.Background(), dir, limit)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	one := size(math.MaxInt64)
	if one < 1<<20 || one > 2<<20 {
		t.Errorf("1 MiB takes %d bytes", one)
	}
	if err := os.Mkdir(dir+"/d", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{os.Link(dir+"/one", dir+"/d/same"), os.Symlink(outside, dir+"/d/link"), os.Symlink("..", dir+"/d/up")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := size(math.MaxInt64); n-one > 64<<10 {
		t.Errorf("links take %d bytes", n-one)
	}
	if n := size(1 << 19); n <= 1<<19 {
		t.Errorf("%d is less than a limit that is exceeded", n)
	}
}

// Who hides what he writes in too many directories is found out.
func TestDiskUsage_Deep(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range maxDepth + 2 {
		if err := unix.Mkdirat(fd, "d", 0o700); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, "d", unix.O_PATH, 0)
		unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		fd = next
	}
	unix.Close(fd)
	if _, err := diskUsage(context.Background(), dir, math.MaxInt64); !errors.Is(err, errDeep) || !strings.Contains(err.Error(), "512") {
		t.Errorf("got %v", err)
	}
}

// Nobody keeps what he writes from being counted by removing directories meanwhile, or
// has us remember any number of files that take no room.
func TestDiskUsage_Moving(t *testing.T) {
	dir := t.TempDir()
	u := &usage{ctx: context.Background(), limit: math.MaxInt64}
	removed := filepath.Join(dir, "removed")
	if err := os.Mkdir(removed, 0o700); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(removed, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(removed); err != nil {
		t.Fatal(err)
	}
	if err := u.dir(fd, 1); err != nil {
		t.Errorf("a directory that was removed: %v", err)
	}
	if err := os.WriteFile(dir+"/empty", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(dir+"/empty", dir+"/other"); err != nil {
		t.Fatal(err)
	}
	if fd, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
		t.Fatal(err)
	}
	if err := u.dir(fd, 0); err != nil || len(u.seen) > 0 {
		t.Errorf("%d files are remembered, %v", len(u.seen), err)
	}
}

// No more pods are measured at one time than there are descriptors for.
func TestMeasuring_Bound(t *testing.T) {
	n := &Node{log: slog.New(slog.DiscardHandler), podsDir: t.TempDir(), o: Options{MeasureEvery: time.Millisecond}, measures: make(chan struct{}, 1)}
	w := newWorker(n, "1", "default", "p")
	w.rec = &record{}
	w.ctx, w.cancel = context.WithCancel(t.Context())
	defer w.close()
	dir := filepath.Join(w.dir, volumesDir, "v")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	limit := resource.MustParse("64Ki")
	n.measures <- struct{}{} // another one is
	w.beginMeasuring(&corev1.Pod{Spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}}}}}})
	time.Sleep(30 * time.Millisecond)
	if text := w.evict.Load(); text != nil {
		t.Errorf("measured all the same: %s", *text)
	}
	<-n.measures
	for end := time.Now().Add(testenv.Timeout(20 * time.Second)); w.evict.Load() == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never measured")
		}
	}
	if len(n.measures) != 0 {
		t.Error("the place is not free again")
	}
}
