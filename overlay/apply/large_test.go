package apply

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/overlay"
)

func dirOfLarge(s *overlay.Store, c overlay.ChainID) string {
	return filepath.Join(s.Root(), overlay.Indexed.Dir(c), overlay.LargeDir)
}

func namesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// What is large is a file of its own from 256 KiB on, whose bytes are not in the
// archive too; all else stays in the archive.
func TestRootLarge(t *testing.T) {
	s := openStore(t)
	needRedirects(t, s)
	large, small := strings.Repeat("large.", 1<<18/6+1)[:1<<18], strings.Repeat("s", 1<<18-1)
	b := archive(t, file("large", large), file("small", small), hardlink("same", "large"), file("twice", large+"1"), file("twice", large+"2"))
	b = append(b[:len(b)-1024], append(sparse("holes", 1<<20), make([]byte, 1024)...)...)
	o := Options{Kind: Index}
	c, _, err := Layer(t.Context(), s, "", digest(b), bytes.NewReader(b), o)
	if err != nil {
		t.Fatal(err)
	}
	// "twice" is there twice: the index knows only the second, the archive both.
	names := namesIn(t, dirOfLarge(s, c))
	if len(names) != 3 {
		t.Errorf("large files %q, want 3", names)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(s.Root(), overlay.Indexed.Dir(c), overlay.RestFile), &st); err != nil || st.Size < int64(len(b)) || st.Blocks*512 > int64(len(small))+32<<10 {
		t.Errorf("the archive has %d bytes, want %d, and takes %d, %v", st.Size, len(b), st.Blocks*512, err)
	}
	fd, err := s.MountView(c)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for name, want := range map[string]string{"large": large, "same": large, "small": small, "twice": large + "2"} {
		path := fmt.Sprintf("/proc/self/fd/%d/%s", fd, name)
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, %v, want %d", name, len(got), err, len(want))
		}
		if n, err := unix.Llistxattr(path, make([]byte, 1000)); err != nil || n != 0 {
			t.Errorf("%s has %d bytes of attribute names, %v", name, n, err)
		}
	}
	if d := verifyAll(t, s, []overlay.ChainID{c}); d != nil {
		t.Error(d)
	}

	// One that is gone is an error for who reads it, and no file of zeros.
	for _, name := range names {
		if err := os.Remove(filepath.Join(dirOfLarge(s, c), name)); err != nil {
			t.Fatal(err)
		}
	}
	again, err := s.MountView(c)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(again)
	if b, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/large", again)); err == nil {
		t.Errorf("without its content it reads as %d bytes", len(b))
	}
}

// A container sees a large file as any other: it can be written to, which changes
// neither the layer nor the other container, and can be executed and mapped.
func TestRootLarge_CopyOnWrite(t *testing.T) {
	s := openStore(t)
	needRedirects(t, s)
	o := apart.options(Options{})
	exe, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	b := archive(t, file("f", "content").mode(0o640).own(3, 4), file("true", string(exe)).mode(0o755), hardlink("g", "f"))
	c, _, err := Layer(t.Context(), s, "", digest(b), bytes.NewReader(b), o)
	if err != nil {
		t.Fatal(err)
	}
	var root [2]string
	for i := range root {
		sn, err := s.Prepare(fmt.Sprint(i), c)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := sn.Mount()
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		root[i] = fmt.Sprintf("/proc/self/fd/%d/", fd)
	}
	if err := os.WriteFile(root[0]+"f", []byte("another"), 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Truncate(root[0]+"g", 3); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{root[0] + "f": "another", root[0] + "g": "con", root[1] + "f": "content", root[1] + "g": "content"} {
		var st unix.Stat_t
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", path, got, err, want)
		}
		if err := unix.Stat(path, &st); err != nil || st.Uid != 3 || st.Gid != 4 || st.Mode&0o7777 != 0o640 {
			t.Errorf("%s: %v, %d:%d %o", path, err, st.Uid, st.Gid, st.Mode)
		}
	}
	f, err := os.Open(root[1] + "true")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mapped, err := unix.Mmap(int(f.Fd()), 0, len(exe), unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
	if err != nil || !bytes.Equal(mapped, exe) {
		t.Errorf("mapped: %v", err)
	}
	_ = unix.Munmap(mapped)
	if d := verifyAll(t, s, []overlay.ChainID{c}); d != nil {
		t.Errorf("the layer: %v", d)
	}
}

// Somebody who can write trusted attributes to a container's upper directory cannot
// have it show files of the store.
func TestRootLarge_RedirectOfUpper(t *testing.T) {
	s := openStore(t)
	needRedirects(t, s)
	o := apart.options(Options{})
	b := archive(t, file("f", "content"))
	c, _, err := Layer(t.Context(), s, "", digest(b), bytes.NewReader(b), o)
	if err != nil {
		t.Fatal(err)
	}
	other := archive(t, file("f", "of another image"))
	secret, _, err := Layer(t.Context(), s, "", digest(other), bytes.NewReader(other), o)
	if err != nil {
		t.Fatal(err)
	}
	to := overlay.RedirectTo(secret, overlay.LargeDir+"/1")
	sn, err := s.Prepare("k", c)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{sn.UpperDir() + "/beside", sn.UpperDir() + "/f"} {
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := unix.Truncate(path, 16); err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{"trusted.overlay.metacopy": "", "trusted.overlay.redirect": to} {
			if err := unix.Setxattr(path, name, []byte(value), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	fd, err := sn.Mount()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, name := range []string{"beside", "f"} {
		got, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/%s", fd, name))
		if strings.Contains(string(got), "another") {
			t.Errorf("%s shows a file of another layer: %q, %v", name, got, err)
		}
	}
	// Through the mount such attributes are the container's own, and mean nothing.
	path := fmt.Sprintf("/proc/self/fd/%d/new", fd)
	if err := os.WriteFile(path, make([]byte, 16), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"trusted.overlay.metacopy": "", "trusted.overlay.redirect": to} {
		_ = unix.Setxattr(path, name, []byte(value), 0)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, make([]byte, 16)) {
		t.Errorf("%q, %v", got, err)
	}
}

// What is not as it was made is found, whatever it is.
func TestVerify_Large(t *testing.T) {
	s := openStore(t)
	o := apart.options(Options{})
	if os.Geteuid() == 0 {
		needRedirects(t, s)
	}
	b := archive(t, file("a", "first"), file("b", strings.Repeat("second", 1000)), file("empty", ""))
	c, _, err := Layer(t.Context(), s, "", digest(b), bytes.NewReader(b), o)
	if err != nil {
		t.Fatal(err)
	}
	chain := []overlay.ChainID{c}
	dir := dirOfLarge(s, c)
	if names := namesIn(t, dir); !slices.Equal(names, []string{"1", "3"}) {
		t.Fatalf("large files %q", names)
	}
	write := func(name, content string) {
		if err := os.WriteFile(dir+"/"+name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name    string
		change  func()
		restore func()
	}{
		{"another byte", func() { write("1", "fIrst") }, func() { write("1", "first") }},
		{"shorter", func() { write("1", "firs") }, func() { write("1", "first") }},
		{"longer", func() { write("1", "first"+strings.Repeat("\x00", 507)) }, func() { write("1", "first") }},
		{"empty", func() { write("1", "") }, func() { write("1", "first") }},
		{"one too many", func() { write("17", "") }, func() { os.Remove(dir + "/17") }},
		{"after all", func() { write("99999", "x") }, func() { os.Remove(dir + "/99999") }},
		{"a strange name", func() { write("x", "") }, func() { os.Remove(dir + "/x") }},
		{"01", func() { write("01", "first") }, func() { os.Remove(dir + "/01") }},
		{"a link", func() { os.Remove(dir + "/1"); os.Symlink("/etc/passwd", dir+"/1") }, func() { os.Remove(dir + "/1"); write("1", "first") }},
		{"a directory", func() { os.Remove(dir + "/1"); os.Mkdir(dir+"/1", 0o700) }, func() { os.Remove(dir + "/1"); write("1", "first") }},
		{"one too few", func() { os.Remove(dir + "/3") }, func() { write("3", strings.Repeat("second", 1000)) }},
		{"a file in place of all", func() { os.Rename(dir, dir+".gone"); os.WriteFile(dir, nil, 0o600) }, func() { os.Remove(dir); os.Rename(dir+".gone", dir) }},
		{"a link in place of all", func() { os.Rename(dir, dir+".gone"); os.Symlink(dir+".gone", dir) }, func() { os.Remove(dir); os.Rename(dir+".gone", dir) }},
		{"no archive", func() { os.Rename(filepath.Dir(dir)+"/rest", dir+".gone") }, func() { os.Rename(dir+".gone", filepath.Dir(dir)+"/rest") }},
		{"none", func() { os.Rename(dir, dir+".gone") }, func() { os.Rename(dir+".gone", dir) }},
	} {
		tt.change()
		if d := verifyAll(t, s, chain); d == nil || !strings.Contains(d.File, overlay.LargeDir) && d.File != overlay.RestFile || d.Layer != c {
			t.Errorf("%s: %v", tt.name, d)
		}
		tt.restore()
		if d := verifyAll(t, s, chain); d != nil {
			t.Fatalf("undamaged after %q: %v", tt.name, d)
		}
	}
}

// slowly gives an archive in small pieces, so that headers and content meet the ends of
// what is read at a time in every way.
type slowly struct {
	r    io.Reader
	size int
}

func (s slowly) Read(p []byte) (int, error) { return s.r.Read(p[:min(len(p), s.size)]) }

// Files of all sizes, before, at and after the ends of the chunks that are read.
func TestLarge_Chunks(t *testing.T) {
	s := openStore(t)
	o := apart.options(Options{})
	if os.Geteuid() == 0 {
		needRedirects(t, s)
	}
	var ents []ent
	want := map[string]string{}
	for i, size := range []int{chunkSize - 1024, 1, chunkSize - 512, 512, 511, chunkSize, chunkSize - 1536, 513, 3*chunkSize + 1, 0, 2 * chunkSize, 1, 1, 7 * chunkSize} {
		name := fmt.Sprint("f", i)
		want[name] = strings.Repeat(string(rune('a'+i)), size)
		ents = append(ents, file(name, want[name]))
	}
	b := archive(t, ents...)
	for _, size := range []int{1 << 20, 100_000, 511} {
		o := o
		o.Base = apart.options(Options{}).Base
		c, _, err := Layer(t.Context(), s, "", digest(b), slowly{bytes.NewReader(b), size}, o)
		if err != nil {
			t.Fatal(err)
		}
		root, content := readImage(t, s, c)
		for _, e := range root.Entries {
			if got := string(content(e.Inode)); got != want[e.Name] {
				t.Errorf("%s has %d bytes, want %d", e.Name, len(got), len(want[e.Name]))
			}
		}
		if d := verifyAll(t, s, []overlay.ChainID{c}); d != nil {
			t.Error(d)
		}
		if err := s.RemoveLayer(c); err != nil {
			t.Fatal(err)
		}
	}
}

// An archive that ends, or is another, in the middle of a large file leaves nothing.
func TestLarge_Cut(t *testing.T) {
	s := openStore(t)
	if os.Geteuid() == 0 {
		needRedirects(t, s)
	}
	b := archive(t, file("a", strings.Repeat("a", 5*chunkSize)), file("b", strings.Repeat("b", 700)))
	before := openFiles(t)
	for _, n := range []int{512, 513, 1000, chunkSize, chunkSize + 1, 3 * chunkSize, 5*chunkSize + 512, 5*chunkSize + 1100} {
		_, _, err := Layer(t.Context(), s, "", digest(b), bytes.NewReader(b[:n]), apart.options(Options{}))
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%d bytes: %v", n, err)
		}
		wantEmpty(t, s, 0)
	}
	bad := bytes.Clone(b)
	bad[2*chunkSize] ^= 1
	if _, _, err := Layer(t.Context(), s, "", digest(b), bytes.NewReader(bad), apart.options(Options{})); !errors.Is(err, ErrInvalid) {
		t.Errorf("another byte: %v", err)
	}
	wantEmpty(t, s, 0)
	if after := openFiles(t); after > before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
}

// The disk is full in the middle of a large file.
func TestRootLarge_FullDisk(t *testing.T) {
	root := tmpfs(t, "size", "1m")
	s, err := overlay.OpenStore(root)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	o := apart.options(Options{Base: &Base{redirects: true, redirectsTold: true}}) // no EROFS on tmpfs
	o.Inner = true
	b := archive(t, file("a", strings.Repeat("a", 2<<20)))
	before := openFiles(t)
	if _, _, err := Layer(t.Context(), s, "", digest(b), bytes.NewReader(b), o); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v, want ENOSPC", err)
	}
	wantEmpty(t, s, 0)
	if after := openFiles(t); after > before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
	b = archive(t, file("a", strings.Repeat("a", 600<<10)))
	if _, _, err := Layer(t.Context(), s, "", digest(b), bytes.NewReader(b), o); err != nil {
		t.Errorf("less: %v", err)
	}
}

// Where a probe finds that redirects are not followed, here because the store is on
// overlayfs itself, none are made.
func TestRootLarge_NotFollowed(t *testing.T) {
	lower := openStore(t)
	needRedirects(t, lower)
	c := mustApply(t, lower, "", file("f", "x"))
	sn, err := lower.Prepare("k", c)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := sn.Mount()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	s, err := overlay.OpenStore(fmt.Sprintf("/proc/self/fd/%d/store", fd))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := CanRedirect(s); err == nil {
		t.Error("a store on overlayfs follows redirects")
	}
	o := apart.options(Options{Inner: true})
	b := archive(t, file("f", "content"))
	c, res, err := Layer(t.Context(), s, "", digest(b), bytes.NewReader(b), o)
	if err != nil || res.Kind != overlay.Indexed {
		t.Fatal(res.Kind, err)
	}
	if names := namesIn(t, dirOfLarge(s, c)); len(names) > 0 {
		t.Errorf("large files %q", names)
	}
	if got, err := os.ReadFile(archivePath(s, c)); err != nil || !bytes.Equal(got[:len(b)], b) {
		t.Errorf("the archive has %d other bytes, %v", len(got), err)
	}
}

// Two who make the same layer at the same time, and one who is killed in the middle,
// are in TestLayer_Concurrent and TestLayer_Killed; this is one whose caller gives up.
func TestLarge_Cancelled(t *testing.T) {
	s := openStore(t)
	if os.Geteuid() == 0 {
		needRedirects(t, s)
	}
	b := archive(t, file("a", strings.Repeat("a", 64*chunkSize)))
	r, w := io.Pipe()
	go func() {
		_, _ = w.Write(b[:20*chunkSize])
		time.Sleep(50 * time.Millisecond)
		w.CloseWithError(errors.New("given up"))
	}()
	before := openFiles(t)
	if _, _, err := Layer(t.Context(), s, "", digest(b), r, apart.options(Options{})); err == nil || !strings.Contains(err.Error(), "given up") {
		t.Error(err)
	}
	wantEmpty(t, s, 0)
	if after := openFiles(t); after > before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
}

// closes counts how often it is closed, which fails.
type closes struct {
	io.Writer
	n int
}

func (c *closes) Close() error { c.n++; return unix.EIO }

type noKeeper struct{ io.Writer }

func (noKeeper) skip(int64) error { return nil }

// What goes elsewhere is closed once, also if that fails, which is an error of the
// archive: a second time would be somebody else's descriptor.
func TestStream_CloseFails(t *testing.T) {
	for _, size := range []int64{100, chunkSize + 100, 1 << 40} { // the last one does not end
		s := newStream(t.Context(), bytes.NewReader(make([]byte, 4*chunkSize)), 1<<40, noKeeper{io.Discard})
		w := &closes{Writer: io.Discard}
		s.setAside(size, w)
		drained := s.drain(make([]byte, 4096))
		_, _, err := s.digest()
		s.close()
		if w.n != 1 {
			t.Errorf("%d bytes: closed %d times", size, w.n)
		}
		if ends := size < 4*chunkSize; ends && !errors.Is(errors.Join(drained, err), unix.EIO) {
			t.Errorf("%d bytes: %v, %v", size, drained, err)
		}
	}
}
