package apply

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	_ "unsafe" // for linkname

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/overlay"
)

// dataParameter is what overlayfs calls data-only lower directories. Under another name
// it does not take them, as before Linux 6.16.
//
//go:linkname dataParameter github.com/minirun/minirun/overlay.dataParameter
var dataParameter string

// largeBody is that of a file that is kept apart from its layer's archive.
var largeBody = strings.Repeat("large", 60000)

func largeArchive(t *testing.T, names ...string) (b []byte, diffID string) {
	t.Helper()
	var ents []ent
	for _, name := range names {
		ents = append(ents, file(name, largeBody))
	}
	b = archive(t, ents...)
	return b, digest(b)
}

func largeLayer(t *testing.T, s *overlay.Store, parent overlay.ChainID, kind Kind, names ...string) overlay.ChainID {
	t.Helper()
	b, diffID := largeArchive(t, names...)
	c, _, err := Layer(t.Context(), s, parent, diffID, bytes.NewReader(b), Options{Kind: kind})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func store(t *testing.T) *overlay.Store {
	t.Helper()
	s := openStore(t)
	needRedirects(t, s)
	return s
}

func shows(t *testing.T, fd int, err error, names ...string) {
	t.Helper()
	if err != nil {
		t.Error(err)
		return
	}
	defer unix.Close(fd)
	for _, name := range names {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/%s", fd, name)); err != nil || string(b) != largeBody {
			t.Errorf("%s has %d bytes, %v, want %d", name, len(b), err, len(largeBody))
		}
	}
}

// The kernel takes no data-only directories any more, as one before 6.16: an image with
// redirects is an error that says what to do, and directories do in its place.
func TestRootRedirect_NotAnyMore(t *testing.T) {
	s := store(t)
	a := largeLayer(t, s, "", Index, "a")
	b := largeLayer(t, s, a, Index, "b")
	defer func(name string) { dataParameter = name }(dataParameter)
	dataParameter = "no-such-parameter"
	if err := CanRedirect(s); err == nil {
		t.Fatal("the kernel takes a parameter that does not exist")
	}
	sn, err := s.Prepare("k", b)
	if err != nil {
		t.Fatal(err)
	}
	var no *overlay.IndexError
	if fd, err := sn.Mount(); !errors.As(err, &no) || !strings.Contains(no.Hint(), "--unpacker extract") {
		unix.Close(fd)
		t.Errorf("mount: %v", err)
	}
	if fd, err := s.MountView(b); !errors.As(err, &no) {
		unix.Close(fd)
		t.Errorf("view: %v", err)
	}
	largeLayer(t, s, largeLayer(t, s, "", Extract, "a"), Extract, "b")
	fd, err := sn.Mount()
	shows(t, fd, err, "a", "b")
	fd, err = s.MountView(b)
	shows(t, fd, err, "a", "b")
	// What is extracted on top looks at what is below.
	c := largeLayer(t, s, b, Extract, "c")
	fd, err = s.MountView(c)
	shows(t, fd, err, "a", "b", "c")
}

// A layer that is damaged goes, and the images of what stands on it with it: it may be
// kept in other files when it is made again.
func TestRootRedirect_MadeAgain(t *testing.T) {
	for _, first := range []bool{true, false} {
		s := store(t)
		a, diffID := largeArchive(t, "a")
		plain := func() overlay.ChainID { // the archive is somebody's blob, and whole
			t.Helper()
			path := filepath.Join(s.Root(), "blob")
			if err := os.WriteFile(path, a, 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			c, _, err := Layer(t.Context(), s, "", diffID, f, Options{Kind: Index, Plain: f})
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		large := func() overlay.ChainID { return largeLayer(t, s, "", Index, "a") }
		make, again := plain, large
		if first {
			make, again = large, plain
		}
		c := make()
		if s.HasLarge(c) != first {
			t.Fatalf("large files: %v, want %v", !first, first)
		}
		b := largeLayer(t, s, c, Index, "b")
		stale, err := os.ReadFile(filepath.Join(s.Root(), overlay.Indexed.Dir(b), "image"))
		if err != nil {
			t.Fatal(err)
		}
		d, err := s.DropDamaged(overlay.Indexed, c)
		if err != nil || d == nil {
			t.Fatal(d, err)
		}
		if err := d.Delete(); err != nil {
			t.Fatal(err)
		}
		if s.HasImage(b) {
			t.Error("an image of what is gone is left")
		}
		again()
		if err := MakeImage(t.Context(), s, b, Options{}); err != nil {
			t.Fatal(err)
		}
		fd, err := s.MountView(b)
		shows(t, fd, err, "a", "b")
		// Were the image left, nobody would read zeros.
		image := filepath.Join(s.Root(), overlay.Indexed.Dir(b), "image")
		if err := errors.Join(os.Remove(image), os.WriteFile(image, stale, 0o400)); err != nil {
			t.Fatal(err)
		}
		if fd, err = s.MountView(b); err == nil {
			if got, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/a", fd)); err == nil && string(got) != largeBody {
				t.Errorf("a stale image shows %d other bytes", len(got))
			}
			unix.Close(fd)
		}
	}
}

// So it is if the layer goes while the image is being made, or between two layers of an
// image: what is known of it in memory is looked at again.
func TestRootRedirect_MadeAgainMeanwhile(t *testing.T) {
	s := store(t)
	a := largeLayer(t, s, "", Index, "a")
	base := &Base{}
	opts := Options{Kind: Index, Base: base, Inner: true}
	body, diffID := largeArchive(t, "b")
	b, _, err := Layer(t.Context(), s, a, diffID, bytes.NewReader(body), opts)
	if err != nil {
		t.Fatal(err)
	}
	drop := func() error {
		d, err := s.DropDamaged(overlay.Indexed, a)
		if err == nil {
			err = d.Delete()
		}
		return err
	}
	var used *overlay.InUseError
	if err := s.MakeImage(t.Context(), b, func(int) error { return drop() }); !errors.As(err, &used) {
		t.Errorf("a layer is dropped while an image is made of it: %v", err)
	}
	if err := drop(); err != nil {
		t.Fatal(err)
	}
	if err := MakeImage(t.Context(), s, b, opts); err == nil || s.HasImage(b) {
		t.Errorf("an image of a chain that lacks a layer: %v", err)
	}
	path := filepath.Join(s.Root(), "blob")
	whole, diffID := largeArchive(t, "a")
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, _, err := Layer(t.Context(), s, "", diffID, f, Options{Kind: Index, Plain: f, Inner: true}); err != nil || s.HasLarge(a) {
		t.Fatal(err, s.HasLarge(a))
	}
	if err := MakeImage(t.Context(), s, b, opts); err != nil {
		t.Fatal(err)
	}
	fd, err := s.MountView(b)
	shows(t, fd, err, "a", "b")
	if d := verifyAll(t, s, []overlay.ChainID{a, b}); d != nil {
		t.Error(d)
	}
}

// While somebody makes a layer on top, one is not dropped: what that one knows of it
// would not be true of another.
func TestRootRedirect_DropWhileUsed(t *testing.T) {
	s := store(t)
	a := largeLayer(t, s, "", Index, "a")
	_, diffID := largeArchive(t, "b")
	st, err := s.Stage(t.Context(), overlay.Indexed, Chain(a, diffID), a)
	if err != nil {
		t.Fatal(err)
	}
	var used *overlay.InUseError
	if _, err := s.DropDamaged(overlay.Indexed, a); !errors.As(err, &used) {
		t.Errorf("got %v, want an *InUseError", err)
	}
	if err := st.Abort(); err != nil {
		t.Fatal(err)
	}
	if d, err := s.DropDamaged(overlay.Indexed, a); err != nil || d == nil {
		t.Error(d, err)
	} else if err := d.Delete(); err != nil {
		t.Error(err)
	}
}
