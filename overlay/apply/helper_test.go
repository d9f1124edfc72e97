package apply

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/kfeature"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/erofs"
)

var epoch = time.Unix(1_000_000_000, 0)

// ent is an entry of a test archive; see file, dir and so on.
type ent struct {
	tar.Header
	body string
}

func file(name, body string) ent {
	return ent{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: epoch}, body}
}

func dir(name string) ent {
	return ent{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755, ModTime: epoch}, ""}
}

func symlink(name, target string) ent {
	return ent{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: epoch}, ""}
}

func hardlink(name, target string) ent {
	return ent{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, ModTime: epoch}, ""}
}

func whiteoutOf(name string) ent {
	d, b := cut(name)
	return file(filepath.Join(d, ".wh."+b), "")
}

func (e ent) mode(m int64) ent     { e.Mode = m; return e }
func (e ent) own(uid, gid int) ent { e.Uid, e.Gid = uid, gid; return e }
func (e ent) typ(t byte) ent       { e.Typeflag = t; return e }
func (e ent) dev(major, minor int64) ent {
	e.Devmajor, e.Devminor = major, minor
	return e
}

func (e ent) pax(kv ...string) ent {
	m := map[string]string{}
	for k, v := range e.PAXRecords {
		m[k] = v
	}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	e.PAXRecords = m
	return e
}

// archive returns the entries as a tar archive.
func archive(t testing.TB, ents ...ent) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range ents {
		h := e.Header
		h.Size = int64(len(e.body))
		if h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeCont {
			h.Size = 0
		}
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("%s: %v", e.Name, err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte(e.body)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func openStore(t testing.TB) *overlay.Store {
	t.Helper()
	s, err := overlay.OpenStore(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func testOptions() Options { return kindUnderTest.options(Options{}) }

// apart is Index with every file apart from the archive that has content; Index has none.
const apart Kind = 3

// options are those of a test that keeps layers in that way.
func (k Kind) options(o Options) Options {
	o.Kind, o.unprivileged, o.largeFrom = k, os.Geteuid() != 0, -1
	if k == apart {
		o.Kind, o.largeFrom = Index, 1
		if o.unprivileged { // nobody can ask the kernel
			o.Base = &Base{redirects: true, redirectsTold: true}
		}
	}
	return o
}

// kindUnderTest is what testOptions says; see eachKind.
var kindUnderTest = Extract

// eachKind runs a test for all ways of unpacking.
func eachKind(t *testing.T, f func(t *testing.T)) {
	defer func() { kindUnderTest = Extract }()
	for _, kindUnderTest = range allKinds {
		t.Run(kindUnderTest.String(), f)
	}
}

var allKinds = []Kind{Extract, Index, apart}

func (k Kind) String() string { return [...]string{"auto", "extract", "index", "apart"}[k] }

// needRedirects skips where the kernel follows no redirects of layers.
func needRedirects(t testing.TB, s *overlay.Store) {
	t.Helper()
	needIndex(t, s)
	err := CanRedirect(s)
	var no *overlay.IndexError
	var missing *kfeature.Error
	if errors.As(err, &no) && errors.As(kfeature.OverlayData.Supported(), &missing) {
		t.Skip(err) // of a kernel that can, it is a failure
	}
	if err != nil {
		t.Fatal(err)
	}
}

// needIndex skips where the kernel does not mount indexed layers: such a machine
// has nothing to test.
func needIndex(t testing.TB, s *overlay.Store) {
	t.Helper()
	err := CanIndex(s)
	var missing *kfeature.Error
	var no *overlay.IndexError
	if errors.As(err, &missing) || errors.As(err, &no) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// readImage reads the image of a chain, and a function that returns the content
// of its files.
func readImage(t testing.TB, s *overlay.Store, c overlay.ChainID) (*erofs.Inode, func(*erofs.Inode) []byte) {
	t.Helper()
	open := func(c overlay.ChainID, name string) (fdReaderAt, int64) {
		fd, err := s.OpenIndexed(c, name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { linux.Close(fd) })
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		return fdReaderAt{fd}, st.Size
	}
	image, size := open(c, "image")
	img, err := erofs.Check(image, size)
	if err != nil {
		t.Fatal(err)
	}
	below, err := s.Parents(c)
	if err != nil {
		t.Fatal(err)
	}
	chain := append([]overlay.ChainID{c}, below...)
	var devices []fdReaderAt
	for _, d := range img.Devices {
		file, number, _ := strings.Cut(d.Tag, "/")
		n, err := strconv.Atoi(number)
		if err != nil || n >= len(chain) {
			t.Fatalf("device %q", d.Tag)
		}
		r, size := open(chain[len(chain)-1-n], file)
		if size < d.Size { // it may be padded
			t.Errorf("device %q has %d bytes, its file %d", d.Tag, d.Size, size)
		}
		devices = append(devices, r)
	}
	return img.Root, func(in *erofs.Inode) []byte {
		b := make([]byte, in.Size)
		if in.Redirect != "" {
			b, err := os.ReadFile(s.Root() + "/layers" + in.Redirect)
			if err != nil || int64(len(b)) != in.Size {
				t.Fatalf("%s has %d bytes, %v, want %d", in.Redirect, len(b), err, in.Size)
			}
			return b
		}
		if in.Size == 0 || in.Device < 0 && in.Chunks != nil {
			return b
		}
		r := image
		if in.Device >= 0 {
			r = devices[in.Device]
		}
		if _, err := r.ReadAt(b, in.Offset); err != nil {
			t.Fatal(err)
		}
		return b
	}
}

// indexView returns the path of a directory that shows an indexed chain: a mount
// of it, or without root a copy made from the image.
func indexView(t *testing.T, s *overlay.Store, c overlay.ChainID) string {
	t.Helper()
	if os.Geteuid() == 0 && CanIndex(s) == nil {
		fd, err := s.MountView(c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { linux.Close(fd) })
		return fmt.Sprintf("/proc/self/fd/%d/", fd)
	}
	root, content := readImage(t, s, c)
	top := t.TempDir()
	var fill func(in *erofs.Inode, path string)
	fill = func(in *erofs.Inode, path string) {
		for _, e := range in.Entries {
			var err error
			p := path + "/" + e.Name
			switch e.Inode.Mode & unix.S_IFMT {
			case unix.S_IFDIR:
				err = os.Mkdir(p, 0o700)
				fill(e.Inode, p)
				t.Cleanup(func() { _ = unix.Chmod(p, 0o700) }) // so that it can be removed
				_ = unix.Chmod(p, e.Inode.Mode&0o7777)
			case unix.S_IFREG:
				err = os.WriteFile(p, content(e.Inode), 0o600)
			case unix.S_IFLNK:
				err = os.Symlink(e.Inode.Target, p)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(root, top)
	return top
}

func apply(s *overlay.Store, parent overlay.ChainID, b []byte) (overlay.ChainID, Result, error) {
	return Layer(context.Background(), s, parent, digest(b), bytes.NewReader(b), testOptions())
}

func mustApply(t testing.TB, s *overlay.Store, parent overlay.ChainID, ents ...ent) overlay.ChainID {
	t.Helper()
	c, _, err := apply(s, parent, archive(t, ents...))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// layerDir is the directory of a layer's files.
func layerDir(s *overlay.Store, c overlay.ChainID) string {
	return filepath.Join(s.Root(), "layers", string(c)[len("sha256:"):], "fs")
}

// view lists what a mount of the chain shows.
func view(t testing.TB, s *overlay.Store, c overlay.ChainID) []string {
	t.Helper()
	fd, err := s.MountView(c)
	if err != nil {
		t.Fatal(err)
	}
	defer linux.Close(fd)
	return list(t, fmt.Sprintf("/proc/self/fd/%d/", fd))
}

// list describes a tree, one line per name: type, mode, owner, time, content.
func list(t testing.TB, root string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("ghost entry %q: %w", path, err)
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(path, strings.TrimSuffix(root, "/")), "/")
		line := fmt.Sprintf("/%s %o %d:%d %d", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Sec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += " " + string(b)
		case unix.S_IFLNK:
			l, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + l
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(lines)
	return lines
}

// wantEmpty checks that a failed Layer left nothing: no staging, and only the
// layers that were there.
func wantEmpty(t testing.TB, s *overlay.Store, layers int) {
	t.Helper()
	for _, sub := range []string{"staging", "snapshots"} {
		if names, err := os.ReadDir(filepath.Join(s.Root(), sub)); err != nil || len(names) > 0 {
			t.Errorf("left in %s: %v, %v", sub, names, err)
		}
	}
	if names, err := os.ReadDir(filepath.Join(s.Root(), "layers")); err != nil || len(names) != layers {
		t.Errorf("layers: got %v, %v, want %d", names, err, layers)
	}
}

func inodeOf(t testing.TB, path string) uint64 {
	t.Helper()
	st, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Sys().(*syscall.Stat_t).Ino
}
