package apply

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/overlay"
)

// cutDisk is a file system on a disk whose power can be cut.
type cutDisk struct {
	t          *testing.T
	image, dir string
}

func newCutDisk(t *testing.T) *cutDisk {
	t.Helper()
	d := &cutDisk{t, filepath.Join(t.TempDir(), "disk.ext4"), filepath.Join(t.TempDir(), "disk")}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Truncate(d.image, 128<<20), os.Mkdir(d.dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	// tools/deps.sh installs e2fsprogs.
	if out, err := exec.Command("/sbin/mkfs.ext4", "-q", "-F", d.image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	d.mount()
	t.Cleanup(func() { _ = unix.Unmount(d.dir, unix.MNT_DETACH) }) // whatever a failed test has open
	return d
}

func (d *cutDisk) mount() {
	d.t.Helper()
	if out, err := exec.Command("mount", "-o", "loop", d.image, d.dir).CombinedOutput(); err != nil {
		d.t.Fatalf("mount: %v\n%s", err, out)
	}
}

func (d *cutDisk) unmount() {
	d.t.Helper()
	if out, err := exec.Command("umount", d.dir).CombinedOutput(); err != nil {
		d.t.Fatalf("umount: %v\n%s", err, out)
	}
}

func (d *cutDisk) sync() {
	d.t.Helper()
	f, err := os.Open(d.dir)
	if err == nil {
		err = unix.Syncfs(int(f.Fd()))
		f.Close()
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// cut has the file system forget what is not on the disk: EXT4_IOC_SHUTDOWN with
// EXT4_GOING_FLAGS_NOLOGFLUSH. Everything fails until it is mounted again.
func (d *cutDisk) cut() {
	f, err := os.Open(d.dir)
	if err != nil {
		d.t.Error(err)
		return
	}
	defer f.Close()
	flags := uint32(2)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0x8004587d, uintptr(unsafe.Pointer(&flags))); e != 0 {
		d.t.Errorf("EXT4_IOC_SHUTDOWN: %v", e)
	}
}

// The power is cut after a layer was made, and at any time meanwhile: afterwards the
// layer is there as it was made, or not at all, and not at all only if nobody was told
// that it is.
func TestRootPowerCut(t *testing.T) { eachKind(t, testPowerCut) }

func testPowerCut(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 8))
	var ents []ent
	for i := range 60 {
		body := make([]byte, r.IntN(1<<uint(r.IntN(18))))
		for j := range body {
			body[j] = byte('a' + r.IntN(26))
		}
		ents = append(ents, file(fmt.Sprintf("d%d/f%d", i%7, i), string(body)))
	}
	b := archive(t, ents...)
	whole := openStore(t)
	if kindUnderTest != Extract {
		needIndex(t, whole)
	}
	if kindUnderTest == apart {
		needRedirects(t, whole)
	}
	began := time.Now()
	below := archive(t, file("below", "x"))
	want := view(t, whole, mustLayer(t, whole, mustLayer(t, whole, "", below), b))
	took := time.Since(began)

	d := newCutDisk(t)
	parent := Chain("", digest(below))
	c := Chain(parent, digest(b))
	made := 0
	for round := range 12 {
		s, err := overlay.OpenStore(d.dir + "/store")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.RemoveLayer(c); err != nil {
			t.Fatal(err)
		}
		if mustLayer(t, s, "", below); round == 0 {
			d.sync() // the store as such is there
		}
		done := make(chan error, 1)
		go func() {
			_, _, err := Layer(t.Context(), s, parent, digest(b), bytes.NewReader(b), testOptions())
			done <- err
		}()
		if round%3 == 0 {
			err = <-done
			d.cut()
		} else {
			time.Sleep(time.Duration(r.Int64N(int64(took) * 3 / 2)))
			d.cut()
			err = <-done
		}
		s.Close()
		d.unmount()
		d.mount()
		if s, err2 := overlay.OpenStore(d.dir + "/store"); err2 != nil {
			t.Errorf("round %d: %v", round, err2)
		} else {
			if err == nil {
				made++
			}
			if has := s.Ready(c); err == nil && !has {
				t.Errorf("round %d: the layer was made and is lost", round)
			} else if has {
				if kindUnderTest != Extract {
					if d := verifyAll(t, s, []overlay.ChainID{parent, c}); d != nil {
						t.Errorf("round %d (%v): %v", round, err, d)
					}
				}
				if got := view(t, s, c); !slices.Equal(got, want) {
					t.Errorf("round %d (%v): the layer shows\n%.2000s", round, err, strings.Join(got, "\n"))
				}
			}
			if err := s.Cleanup(); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
			s.Close()
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d of 12 layers were made", made)
	if made < 4 {
		t.Errorf("only %d layers were made", made)
	}
}

func mustLayer(t *testing.T, s *overlay.Store, parent overlay.ChainID, b []byte) overlay.ChainID {
	t.Helper()
	c, _, err := apply(s, parent, b)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
