package overlay

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

func TestValidDigest(t *testing.T) {
	good := digestOf("x")
	bad := []string{
		"", "sha256:", good[:70], good + "0", strings.ToUpper(good), "sha512" + good[6:], "sha256:" + strings.Repeat("g", 64),
		"sha256:../../../../../../../../../../../../../../../../../../../../etc/pass", " " + good[1:], good[:69] + "/.",
	}
	if !ValidDigest(good) {
		t.Errorf("%q refused", good)
	}
	for _, s := range bad {
		if ValidDigest(s) {
			t.Errorf("%q accepted", s)
		}
	}
}

func TestBadNames(t *testing.T) {
	s := openTemp(t)
	for _, key := range []string{"", ".", "..", ".x", "a/b", "../x", "a b", "ü", "a\n", "a\x00", strings.Repeat("x", 256), "@" + strings.Repeat("x", 255), "@", "@.x", "@@x", "a@b"} {
		_, e1 := s.Prepare(key, "")
		_, e2 := s.Snapshot(key)
		for i, err := range []error{e1, e2, s.RemoveSnapshot(key)} {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("key %q, call %d: %v, want ErrInvalid", key, i, err)
			}
		}
	}
	for _, c := range []ChainID{"x", "sha256:..", ChainID("sha256:" + strings.Repeat("../", 21) + "x")} {
		_, e1 := s.Prepare("k", c)
		_, e2 := s.Stage(t.Context(), Extracted, c, "")
		_, e3 := s.Parents(c)
		_, e4 := s.MountView(c)
		_, e5 := s.OpenLayer(c)
		for i, err := range []error{e1, e2, e3, e4, e5, s.RemoveLayer(c)} {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("chain ID %q, call %d: %v, want ErrInvalid", c, i, err)
			}
		}
		if s.HasLayer(c) {
			t.Errorf("has layer %q", c)
		}
	}
}

func TestPrepare(t *testing.T) {
	s := openTemp(t)
	missing := ChainID(digestOf("missing"))
	if _, err := s.Prepare("a", missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing layer: %v, want ErrNotExist", err)
	}
	base := addLayer(t, s, "", "base", nil)
	top := addLayer(t, s, base, "top", nil)
	fs0 := filepath.Join(s.root, top.path(), "fs")
	if err := os.Chmod(fs0, os.ModeSticky|0o711); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(fs0, "user.x", []byte("y"), 0); err != nil {
		t.Fatal(err)
	}
	sn, err := s.Prepare("a", top)
	if err != nil {
		t.Fatal(err)
	}
	if sn.Parent() != top || sn.Key() != "a" || sn.RootfsDir() != s.root+"/snapshots/a/rootfs" {
		t.Errorf("got %+v", sn)
	}
	buf := make([]byte, 10)
	if n, err := unix.Getxattr(sn.UpperDir(), "user.x", buf); err != nil || string(buf[:n]) != "y" {
		t.Errorf("upper's attribute: %q, %v", buf[:max(n, 0)], err)
	}
	if st, err := os.Stat(sn.UpperDir()); err != nil || st.Mode() != os.ModeDir|os.ModeSticky|0o711 {
		t.Errorf("upper's mode: %v, %v", st.Mode(), err)
	}
	if st, err := os.Stat(filepath.Dir(sn.UpperDir())); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("snapshot's mode: %v, %v", st.Mode(), err)
	}
	if _, err := s.Prepare("a", base); !errors.Is(err, fs.ErrExist) {
		t.Errorf("again: %v, want ErrExist", err)
	}
	again, err := s.Snapshot("a")
	if err != nil || again.parent != top || !slices.Equal(s.wholeChain([]ChainID{again.parent}), []ChainID{top, base}) {
		t.Errorf("reopened: %+v, %v", again, err)
	}
	if _, err := s.Snapshot("b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unknown key: %v, want ErrNotExist", err)
	}
	if l, err := s.Snapshots(); err != nil || !slices.Equal(l, []SnapshotInfo{{Key: "a", Parent: top}}) {
		t.Errorf("snapshots: %v, %v", l, err)
	}
	ll, err := s.Layers()
	want := []LayerInfo{{base, ""}, {top, base}}
	slices.SortFunc(want, func(a, b LayerInfo) int { return strings.Compare(string(a.ID), string(b.ID)) })
	if err != nil || !slices.Equal(ll, want) {
		t.Errorf("layers: %v, %v, want %v", ll, err, want)
	}
	for range 2 {
		if err := s.RemoveSnapshot("a"); err != nil {
			t.Error(err)
		}
	}
	staging(t, s)
}

// staging fails the test if something is left there.
func staging(t *testing.T, s *Store) {
	t.Helper()
	if names, err := os.ReadDir(s.root + "/staging"); err != nil || len(names) > 0 {
		t.Errorf("left in staging: %v, %v", names, err)
	}
}

func TestRemoveLayer(t *testing.T) {
	s := openTemp(t)
	a := addLayer(t, s, "", "a", map[string]string{"f": "x"})
	b := addLayer(t, s, a, "b", nil)
	if _, err := s.Prepare("k", b); err != nil {
		t.Fatal(err)
	}
	st, err := s.Stage(t.Context(), Extracted, Chain(b, digestOf("c")), b)
	if err != nil {
		t.Fatal(err)
	}
	var use *InUseError
	if err := s.RemoveLayer(a); !errors.As(err, &use) || !strings.Contains(use.By, string(b)) {
		t.Errorf("below a layer: %v", err)
	}
	if err := s.RemoveLayer(b); !errors.As(err, &use) || !strings.Contains(use.By, `"k"`) {
		t.Errorf("below a snapshot: %v", err)
	}
	if err := s.RemoveSnapshot("k"); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveLayer(b); !errors.As(err, &use) || !strings.Contains(use.By, "unpacked") {
		t.Errorf("below a layer being made: %v", err)
	}
	if err := st.Abort(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []ChainID{b, a, a} {
		if err := s.RemoveLayer(c); err != nil {
			t.Error(err)
		}
		if s.HasLayer(c) {
			t.Errorf("%s is still there", c)
		}
	}
	staging(t, s)
}

// Whoever dies leaves an unlocked directory; closing the descriptors is the same.
func TestCleanup(t *testing.T) {
	s := openTemp(t)
	a := addLayer(t, s, "", "a", nil)
	dead, err := s.Stage(t.Context(), Extracted, Chain(a, digestOf("dead")), a)
	if err != nil {
		t.Fatal(err)
	}
	dead.close()
	if err := os.Chmod(s.root+"/staging", 0o755); err != nil { // and the next open narrows it
		t.Fatal(err)
	}
	alive, err := s.Stage(t.Context(), Extracted, Chain(a, digestOf("alive")), a)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"trash-0123/x/y", "snapshot-77/upper", "odd"} {
		if err := os.MkdirAll(s.root+"/staging/"+name, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.root+"/staging/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../layers", s.root+"/staging/link"); err != nil {
		t.Fatal(err)
	}
	other, err := OpenStore(s.root)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if st, err := os.Stat(s.root + "/staging"); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("staging is %v, %v, want 0700", st.Mode(), err)
	}
	if err := other.Cleanup(); err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(s.root + "/staging")
	if err != nil || len(names) != 1 || names[0].Name() != "layer-"+alive.id.hex() {
		t.Errorf("left: %v, %v, want the living one's", names, err)
	}
	if !s.HasLayer(a) {
		t.Error("the layer is gone")
	}
	if err := alive.Commit(); err != nil {
		t.Error(err)
	}
	staging(t, s)
}

func TestOpenStore_NotOurs(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(root+"/layers", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(root); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("file in the way: %v", err)
	}
	if err := os.Remove(root + "/layers"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", root+"/layers"); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(root); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("link in the way: %v", err)
	}
}

func TestRootOpenStore_OtherOwner(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(root+"/snapshots", 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(root+"/snapshots", 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(root); !errors.Is(err, unix.EPERM) {
		t.Errorf("got %v, want EPERM", err)
	}
}

func TestDamagedParents(t *testing.T) {
	s := openTemp(t)
	a := addLayer(t, s, "", "a", nil)
	sn, err := s.Prepare("k", a)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"x", "\n", string(a), string(a) + " ", "sha256:" + strings.Repeat("/", 64) + "\n", strings.Repeat(string(a)+"\n", 2)[:100]} {
		path := s.root + "/" + sn.path() + "/parents"
		if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Snapshot("k"); err == nil || !strings.Contains(err.Error(), "parents") {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
		if err := s.RemoveLayer(a); err == nil { // who knows what stands on it
			t.Errorf("%q: layer removed", text)
		}
	}
	for _, target := range []string{"x", "/etc/passwd", string(a)} {
		path := s.root + "/" + sn.path() + "/parents"
		if err := errors.Join(os.Remove(path), os.Symlink(target, path)); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Snapshot("k"); err == nil || !strings.Contains(err.Error(), "parents") {
			t.Errorf("%q: got %v, %v", target, got, err)
		}
		if err := s.RemoveLayer(a); err == nil {
			t.Errorf("%q: layer removed", target)
		}
	}
	// As earlier versions wrote it.
	path := s.root + "/" + sn.path() + "/parents"
	if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte(string(a)+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Snapshot("k"); err != nil || got.Parent() != a {
		t.Errorf("got %v, %v", got, err)
	}
	if err := s.RemoveSnapshot("k"); err != nil {
		t.Error(err)
	}
}

// Snapshots come and go while somebody tries to remove their layer: never is
// there a snapshot without its layer.
func TestPrepareAgainstRemoveLayer(t *testing.T) {
	s := openTemp(t)
	var wg sync.WaitGroup
	for range 30 {
		a := addLayer(t, s, "", "a", map[string]string{"f": "x"})
		var perr, rerr error
		wg.Go(func() { _, perr = s.Prepare("k", a) })
		wg.Go(func() { rerr = s.RemoveLayer(a) })
		wg.Wait()
		var use *InUseError
		switch {
		case perr == nil && errors.As(rerr, &use) && s.HasLayer(a):
		case errors.Is(perr, fs.ErrNotExist) && rerr == nil && !s.HasLayer(a):
		default:
			t.Fatalf("prepare: %v, remove: %v, layer %v", perr, rerr, s.HasLayer(a))
		}
		if err := errors.Join(s.RemoveSnapshot("k"), s.RemoveLayer(a)); err != nil {
			t.Fatal(err)
		}
	}
	staging(t, s)
}

func TestRootEmptySnapshot(t *testing.T) {
	s := openTemp(t)
	sn, err := s.Prepare("k", "")
	if err != nil {
		t.Fatal(err)
	}
	fd, err := sn.Mount()
	if err != nil {
		t.Fatal(err)
	}
	defer linux.Close(fd)
	if err := writeFile(fd, "f", []byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(sn.UpperDir() + "/f"); err != nil {
		t.Error(err)
	}
}

func TestRootMountVolatile(t *testing.T) {
	s := openTemp(t)
	a := addLayer(t, s, "", "a", map[string]string{"f": "x"})
	sn, err := s.Prepare("k", a)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := sn.MountVolatile()
	if err != nil {
		t.Fatal(err)
	}
	if got := readAt(t, fd, "f"); got != "x" {
		t.Errorf("got %q", got)
	}
	linux.Close(fd)
	// The kernel marks the work directory and refuses it from then on.
	fd, err = sn.Mount()
	linux.Close(fd)
	var ve *VolatileError
	if !errors.As(err, &ve) || ve.Key != "k" {
		t.Errorf("second mount: %v, want *VolatileError", err)
	}
	if err := s.RemoveSnapshot("k"); err != nil {
		t.Error(err)
	}
}

// A redirect that got into a layer somehow must not show another directory.
func TestRootRedirectIsNotFollowed(t *testing.T) {
	s := openTemp(t)
	a := addLayer(t, s, "", "a", nil)
	if err := os.MkdirAll(s.root+"/"+a.path()+"/fs/other/secret", 0o755); err != nil {
		t.Fatal(err)
	}
	b := addLayer(t, s, a, "b", nil)
	d := s.root + "/" + b.path() + "/fs/d"
	if err := os.Mkdir(d, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(d, "trusted.overlay.redirect", []byte("/other"), 0); err != nil {
		t.Fatal(err)
	}
	fd, err := s.MountView(b)
	if err != nil {
		t.Fatal(err)
	}
	defer linux.Close(fd)
	if sub, err := linux.OpenAt(fd, "d/secret", unix.O_PATH, 0); err == nil {
		linux.Close(sub)
		t.Error("the redirect was followed")
	}
	if sub, err := linux.OpenAt(fd, "other/secret", unix.O_PATH, 0); err != nil {
		t.Error(err)
	} else {
		linux.Close(sub)
	}
}

func TestRootKernelMessage(t *testing.T) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer linux.Close(fs)
	err = fsError(fs, "fsconfig", "nonsense", unix.FsconfigSetString(fs, "nonsense", "1"))
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "(kernel: e overlay: Unknown parameter 'nonsense')") {
		t.Errorf("got %v", err)
	}
}

// The mount is attached like a container's root would be, in a namespace of a
// thread that is thrown away.
func TestRootAttach(t *testing.T) {
	s := openTemp(t)
	a := addLayer(t, s, "", "a", map[string]string{"f": "x"})
	sn, err := s.Prepare("k", a)
	if err != nil {
		t.Fatal(err)
	}
	before := mounts(t)
	fd, err := sn.Mount()
	if err != nil {
		t.Fatal(err)
	}
	err = onThrowawayThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := unix.MoveMount(fd, "", unix.AT_FDCWD, sn.RootfsDir(), unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return err
		}
		fd, err := linux.OpenAt(unix.AT_FDCWD, sn.RootfsDir()+"/f", unix.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer linux.Close(fd)
		return linux.WriteAll(fd, []byte("y"))
	})
	linux.Close(fd)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(sn.UpperDir() + "/f"); err != nil || string(b) != "y" {
		t.Errorf("upper has %q, %v", b, err)
	}
	if names, err := os.ReadDir(sn.RootfsDir()); err != nil || len(names) > 0 {
		t.Errorf("rootfs outside of the namespace: %v, %v, want empty", names, err)
	}
	if after := mounts(t); after != before {
		t.Errorf("mounts changed:\n%s", after)
	}
}

func BenchmarkPrepareMountRemove(b *testing.B) {
	s := openTemp(b)
	var c ChainID
	for i := range 7 {
		c = addLayer(b, s, c, string(rune('a'+i)), nil)
	}
	for b.Loop() {
		sn, err := s.Prepare("k", c)
		if err != nil {
			b.Fatal(err)
		}
		fd, err := sn.MountVolatile()
		if err != nil {
			b.Fatal(err)
		}
		linux.Close(fd)
		if err := s.RemoveSnapshot("k"); err != nil {
			b.Fatal(err)
		}
	}
}
