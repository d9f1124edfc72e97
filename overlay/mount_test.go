package overlay

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

func openTemp(t testing.TB) *Store {
	t.Helper()
	s, err := OpenStore(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Chain is what package apply makes of a layer: those who only mount hash nothing.
func Chain(parent ChainID, diffID string) ChainID {
	if parent == "" {
		return ChainID(diffID)
	}
	return ChainID(digestOf(string(parent) + " " + diffID))
}

func digestOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// addLayer makes a layer with the files (name: content) by hand.
func addLayer(t testing.TB, s *Store, parent ChainID, seed string, files map[string]string) ChainID {
	t.Helper()
	c := Chain(parent, digestOf(seed))
	st, err := s.Stage(t.Context(), Extracted, c, parent)
	if err != nil || st == nil {
		t.Fatalf("stage: %v, %v", st, err)
	}
	dir := filepath.Join(s.root, "staging", "layer-"+c.hex(), "fs")
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := st.commit(); err != nil {
		t.Fatal(err)
	}
	st.close()
	return c
}

func readAt(t testing.TB, dir int, name string) string {
	t.Helper()
	b, err := linux.ReadFileAt(dir, name, 1<<20)
	if err != nil {
		return "error: " + err.Error()
	}
	return string(b)
}

func mounts(t testing.TB) string {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRootMountLayers(t *testing.T) {
	s := openTemp(t)
	before := mounts(t)
	files := func() int { n, _ := os.ReadDir("/proc/self/fd"); return len(n) }
	open := files()
	var c ChainID
	chains := map[int]ChainID{}
	for i := 1; i <= MaxLayers+1; i++ {
		c = addLayer(t, s, c, fmt.Sprint("layer", i), map[string]string{fmt.Sprint("f", i): fmt.Sprint(i), "last": fmt.Sprint(i)})
		chains[i] = c
	}
	for _, n := range []int{1, 2, 10, 64, 128, 300, 500} {
		for w := byFD; w <= lastWay; w++ {
			sn, err := s.Prepare(fmt.Sprintf("n%d-%d", n, w), chains[n])
			if err != nil {
				t.Fatal(err)
			}
			lowers, err := s.lowerPaths(sn.parent)
			if err != nil {
				t.Fatal(err)
			}
			st := stack{s: s, lowers: lowers, upper: sn.path() + "/upper", work: sn.path() + "/work"}
			var fd int
			if w == byOption {
				fd, err = st.mountOption()
			} else {
				fd, err = st.mountNew(w)
			}
			if err != nil {
				t.Fatalf("%d layers, way %d: %v", n, w, err)
			}
			if got, want := readAt(t, fd, "last")+" "+readAt(t, fd, "f1")+" "+readAt(t, fd, fmt.Sprint("f", n)), fmt.Sprintf("%d 1 %d", n, n); got != want {
				t.Errorf("%d layers, way %d: got %q, want %q", n, w, got, want)
			}
			if err := writeFile(fd, "new", []byte("x")); err != nil {
				t.Errorf("%d layers, way %d: %v", n, w, err)
			}
			if b, _ := os.ReadFile(sn.UpperDir() + "/new"); string(b) != "x" {
				t.Errorf("%d layers, way %d: the write is not in upper", n, w)
			}
			linux.Close(fd)
		}
	}
	sn, err := s.Prepare("deep", chains[MaxLayers+1])
	if err != nil {
		t.Fatal(err)
	}
	var deep *DepthError
	if fd, err := sn.Mount(); !errors.As(err, &deep) || !strings.Contains(deep.Hint(), "image unpack --unpacker index") {
		t.Errorf("501 layers: got %d, %v, want *DepthError", fd, err)
	}
	if after := mounts(t); after != before {
		t.Errorf("mounts changed:\n%s", after)
	}
	if n := files(); n > open {
		t.Errorf("%d descriptors open, %d before", n, open)
	}
}

func TestRootSnapshotsAreApart(t *testing.T) {
	s := openTemp(t)
	base := addLayer(t, s, "", "base", map[string]string{"f": "base"})
	var fds []int
	for _, key := range []string{"a", "b"} {
		sn, err := s.Prepare(key, base)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := sn.Mount()
		if err != nil {
			t.Fatal(err)
		}
		defer linux.Close(fd)
		fds = append(fds, fd)
	}
	if err := linux.WriteFileAt(fds[0], "f", "ONLY"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unlinkat(fds[1], "f", 0); err != nil {
		t.Fatal(err)
	}
	if got := readAt(t, fds[0], "f"); got != "ONLY" {
		t.Errorf("a sees %q", got)
	}
	if got := readAt(t, fds[1], "f"); !strings.Contains(got, "no such file") {
		t.Errorf("b sees %q", got)
	}
	view, err := s.MountView(base)
	if err != nil {
		t.Fatal(err)
	}
	defer linux.Close(view)
	if got := readAt(t, view, "f"); got != "base" {
		t.Errorf("the layer has %q", got)
	}
	if err := writeFile(view, "x", nil); !errors.Is(err, unix.EROFS) {
		t.Errorf("write into a view: %v, want EROFS", err)
	}
}
