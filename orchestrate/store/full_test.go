package store

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/testenv"
)

// fullVariable makes the test the process that has a small disk of its own.
const fullVariable = "MINIRUN_TEST_STORE_FULL"

// A write that finds the disk full fails, and nothing has changed: not what is in
// memory, not what watches see, not what a start reads. When there is room again,
// it works.
func TestRootFullDisk(t *testing.T) {
	testenv.RequireRoot(t)
	if dir := os.Getenv(fullVariable); dir != "" {
		onSmallDisk(t, dir)
		return
	}
	testenv.CheckLeaks(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestRootFullDisk$", "-test.count=1")
	cmd.Env = append(os.Environ(), fullVariable+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // what is mounted there ends with it
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func onSmallDisk(t *testing.T, dir string) {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m,mode=700"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "store.db")
	s := open(t, path, Options{})
	must[Object](t)(s.Create("configmaps", configMap("first", "as it was")))
	// Something else takes the rest of the disk.
	filler := filepath.Join(dir, "filler")
	fill(t, filler)

	w := must[*Watch](t)(s.Watch("", Selector{}, s.Revision()))
	big := strings.Repeat("x", 200<<10)
	failed := 0
	for range 3 {
		at := s.Revision()
		for what, err := range map[string]error{
			"create": second(s.Create("configmaps", configMap("big", big))),
			"update": second(s.Update("configmaps", configMap("first", big), Main)),
		} {
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("%s on a full disk: %v", what, err)
			}
			failed++
		}
		if s.Revision() != at {
			t.Errorf("revision %d, was %d", s.Revision(), at)
		}
		if _, err := s.Get("configmaps", "default", "big"); err == nil {
			t.Error("what was not written is there")
		}
		if got := must[Object](t)(s.Get("configmaps", "default", "first")).(*corev1.ConfigMap); got.Data["k0"] != "as it was" {
			t.Error("what was not written is seen")
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if e, err := w.Next(ctx); err == nil {
		t.Errorf("a watch sees %+v", e)
	}
	// With room again it goes on, and a start reads what was said to be there.
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	must[Object](t)(s.Create("configmaps", configMap("big", big)))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	fill(t, filler) // a start needs no room
	s = open(t, path, Options{})
	l := must[List](t)(s.List("configmaps", Selector{}, 0, ""))
	if len(l.Items) != 2 || l.Revision != 2 || failed != 6 {
		t.Errorf("%d objects at revision %d", len(l.Items), l.Revision)
	}
	if got := must[Object](t)(s.Get("configmaps", "default", "big")).(*corev1.ConfigMap); got.Data["k0"] != big {
		t.Error("it is not what was written")
	}
}

func second[T any](_ T, err error) error { return err }

// fill writes until there is no room.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for {
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			return
		}
	}
}
