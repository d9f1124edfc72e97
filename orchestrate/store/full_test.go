package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
func TestRootFullDisk(t *testing.T) { withSmallDisk(t, "8m", onSmallDisk) }

// Objects can be deleted all the same, whatever has filled the disk, and however full.
func TestRootFullDisk_Delete(t *testing.T) { withSmallDisk(t, "24m", deleteOnSmallDisk) }

// withSmallDisk runs the test again, in a process with a disk of that size.
func withSmallDisk(t *testing.T, size string, test func(t *testing.T, dir string)) {
	testenv.RequireRoot(t)
	if dir := os.Getenv(fullVariable); dir != "" {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size+",mode=700"); err != nil {
			t.Fatal(err)
		}
		test(t, dir)
		return
	}
	testenv.CheckLeaks(t)
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
	cmd.Env = append(os.Environ(), fullVariable+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // what is mounted there ends with it
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func onSmallDisk(t *testing.T, dir string) {
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

func deleteOnSmallDisk(t *testing.T, dir string) {
	for seed := range uint64(6) {
		r := rand.New(rand.NewPCG(seed, 0))
		path := filepath.Join(dir, "store.db")
		s := open(t, path, Options{})
		big := func() *corev1.ConfigMap { return configMap("", strings.Repeat("x", r.IntN(100<<10))) }
		const objects = 30
		for i := range objects {
			o := big()
			o.Name = fmt.Sprintf("c%d", i)
			must[Object](t)(s.Create("configmaps", o))
		}
		wantReserve(t, s, reserveSize)
		filler := filepath.Join(dir, "filler")
		fill(t, filler)
		for i := range objects {
			o := big() // which takes what the store itself has free, if it can
			o.Name = fmt.Sprintf("c%d", r.IntN(objects))
			if _, err := s.Update("configmaps", o, Main); err != nil && !errors.Is(err, unix.ENOSPC) && !errors.As(err, new(*NotFoundError)) {
				t.Fatal(err)
			}
			name := fmt.Sprintf("c%d", i)
			mark, end := DeleteOptions{Grace: 30}, func() error { return second(s.Delete("configmaps", "default", name, DeleteOptions{})) }
			if i%2 == 0 {
				mark = DeleteOptions{Finalizers: []string{"example.com/wait"}}
				end = func() error {
					n := must[Object](t)(s.Get("configmaps", "default", name)).DeepCopyObject().(Object)
					n.SetFinalizers(nil)
					return second(s.Update("configmaps", n, Main))
				}
			}
			if _, err := s.Delete("configmaps", "default", name, mark); err != nil {
				t.Fatalf("seed %d, mark %s: %v", seed, name, err)
			}
			fill(t, filler) // somebody else is quick
			if err := end(); err != nil {
				t.Fatalf("seed %d, end %s: %v", seed, name, err)
			}
			if _, err := s.Get("configmaps", "default", name); err == nil {
				t.Errorf("%s is still there", name)
			}
		}
		// With room again there is a reserve again, after a start or the next write.
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		if seed%2 == 0 {
			must[Object](t)(s.Create("configmaps", configMap("more", "")))
		} else {
			if err := errors.Join(os.Remove(s.reservePath()), s.Close()); err != nil {
				t.Fatal(err)
			}
			s = open(t, path, Options{})
		}
		wantReserve(t, s, reserveSize)
		if err := errors.Join(s.Close(), os.Remove(path), os.Remove(s.reservePath())); err != nil {
			t.Fatal(err)
		}
	}
}

// wantReserve looks at what the reserve takes of the disk.
func wantReserve(t *testing.T, s *Store, want int64) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(s.reservePath(), &st); err != nil || st.Blocks*512 != want || st.Mode != unix.S_IFREG|0o600 {
		t.Errorf("reserve: %d bytes, mode %o, %v; want %d", st.Blocks*512, st.Mode, err, want)
	}
}

func second[T any](_ T, err error) error { return err }

// fill writes until there is no room.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
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
