package safepath

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// jail makes root with a canary beside it, and opens root.
func jail(t *testing.T) (root string, fd int) {
	t.Helper()
	top := t.TempDir()
	root = filepath.Join(top, "root")
	canary := filepath.Join(top, "canary")
	for _, d := range []string{root, canary} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(canary+"/file", []byte("alive"), 0o644); err != nil {
		t.Fatal(err)
	}
	fd, err := linux.OpenAt(unix.AT_FDCWD, root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		linux.Close(fd)
		names, err := os.ReadDir(canary)
		b, rerr := os.ReadFile(canary + "/file")
		if err != nil || rerr != nil || len(names) != 1 || string(b) != "alive" {
			t.Errorf("canary touched: %v %v %q %v", names, err, b, rerr)
		}
	})
	return root, fd
}

func TestMkdirAllInRoot(t *testing.T) {
	tests := []struct {
		name  string
		setup string // "dir/", "link>target", "file"
		path  string
		want  string // directory below root that must exist, "" with err
		err   error
	}{
		{"plain", "", "a/b/c", "a/b/c", nil},
		{"absolute", "", "/a//./b/", "a/b", nil},
		{"root", "", "/", "", nil},
		{"empty is the root", "", "", "", nil},
		{"existing", "a/b/", "a/b", "a/b", nil},
		{"dot dot at the root", "", "../../a", "a", nil},
		{"dot dot in an existing part", "a/b/", "a/b/../c", "a/c", nil},
		{"dot dot below a missing one", "", "x/../../canary", "", unix.ENOENT},
		{"absolute link", "etc/ link>/etc", "link/x", "etc/x", nil},
		{"link out", "link>../../canary canary/", "link/x", "canary/x", nil},
		{"dangling link", "link>/run/lock", "link/x", "run/lock/x", nil},
		{"dangling relative link", "a/ a/link>../b/c", "a/link/x", "b/c/x", nil},
		{"dangling link with dot dot", "link>../../../canary/y", "link/x", "canary/y/x", nil},
		{"last is a dangling link", "link>run", "link", "run", nil},
		{"self loop", "link>link", "link/x", "", unix.ELOOP},
		{"file in the way", "f", "f/x", "", unix.ENOTDIR},
		{"last is a file", "f", "f", "", unix.ENOTDIR},
		{"component too long", "", strings.Repeat("x", 256), "", unix.ENAMETOOLONG},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root, dir := jail(t)
			for s := range strings.FieldsSeq(tt.setup) {
				var err error
				if name, target, ok := strings.Cut(s, ">"); ok {
					err = os.Symlink(target, root+"/"+name)
				} else if strings.HasSuffix(s, "/") {
					err = os.MkdirAll(root+"/"+s, 0o755)
				} else {
					err = os.WriteFile(root+"/"+s, nil, 0o644)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			fd, err := MkdirAllInRoot(dir, tt.path, 0o755)
			if tt.err != nil {
				if !errors.Is(err, tt.err) {
					t.Fatalf("got %d, %v, want %v", fd, err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer linux.Close(fd)
			var got, want unix.Stat_t
			if err := unix.Fstat(fd, &got); err != nil {
				t.Fatal(err)
			}
			if err := unix.Lstat(filepath.Join(root, tt.want), &want); err != nil || got.Ino != want.Ino {
				t.Errorf("got another directory than %q: %v", tt.want, err)
			}
		})
	}
}

func TestMkdirAllFunc(t *testing.T) {
	_, dir := jail(t)
	linux.Close(must(MkdirAllInRoot(dir, "a", 0o755)))
	var made []string
	fd, err := MkdirAllFunc(dir, "a/b/c", 0o700, func(_ int, name string, _ int) error {
		made = append(made, name)
		return nil
	})
	linux.Close(fd)
	if err != nil || strings.Join(made, " ") != "b c" {
		t.Errorf("made %q, %v, want b c", made, err)
	}
	stop := errors.New("stop")
	if _, err := MkdirAllFunc(dir, "a/d/e", 0o700, func(int, string, int) error { return stop }); err != stop {
		t.Errorf("got %v, want %v", err, stop)
	}
}

func must(fd int, err error) int {
	if err != nil {
		panic(err)
	}
	return fd
}

func TestSingleComponents(t *testing.T) {
	root, dir := jail(t)
	if err := os.Symlink("../canary", root+"/link"); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", ".", "..", "a/b", "/", "../canary", "link/file", "a\x00b"} {
		_, e1 := CreateAt(dir, bad, unix.O_WRONLY, 0o644)
		_, e2 := OpenDirAt(dir, bad, unix.O_PATH)
		errs := []error{
			e1, e2, MkdirAt(dir, bad, 0o755), SymlinkAt("x", dir, bad), MknodAt(dir, bad, unix.S_IFIFO, 0),
			LinkAt(dir, bad, dir, "new"), LinkAt(dir, "link", dir, bad), UnlinkAt(dir, bad), RmdirAt(dir, bad), RemoveAllAt(dir, bad),
		}
		for i, err := range errs {
			if !errors.Is(err, unix.EINVAL) {
				t.Errorf("%q, call %d: got %v, want EINVAL", bad, i, err)
			}
		}
	}
	if _, err := CreateAt(dir, "link", unix.O_WRONLY, 0o644); !errors.Is(err, unix.EEXIST) {
		t.Errorf("create over a link: %v, want EEXIST", err)
	}
	if fd, err := OpenDirAt(dir, "link", unix.O_RDONLY); err == nil {
		t.Errorf("opened a link as directory: %d", fd)
	}
	if err := LinkAt(dir, "link", dir, "hard"); err != nil {
		t.Error(err)
	} else if s, _ := os.Readlink(root + "/hard"); s != "../canary" {
		t.Errorf("hard link to a link: got %q", s)
	}
	if err := MknodAt(dir, "fifo", unix.S_IFIFO|0o600, 0); err != nil {
		t.Error(err)
	}
	if err := UnlinkAt(dir, "link"); err != nil {
		t.Error(err)
	}
}

func TestParentInRoot(t *testing.T) {
	root, dir := jail(t)
	if err := os.MkdirAll(root+"/a/b", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/a", root+"/l"); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"x": "|x", "/x/": "|x", "a/b/x": "a/b|x", "l/b/x": "a/b|x", "../../x": "|x", "l": "|l"} {
		sub, name, _ := strings.Cut(want, "|")
		fd, got, err := ParentInRoot(dir, path)
		if err != nil || got != name {
			t.Errorf("%q: got %q, %v, want %q", path, got, err, name)
			continue
		}
		var a, b unix.Stat_t
		if unix.Fstat(fd, &a) != nil || unix.Stat(root+"/"+sub, &b) != nil || a.Ino != b.Ino {
			t.Errorf("%q: wrong directory", path)
		}
		linux.Close(fd)
	}
	for _, path := range []string{"", "/", ".", "a/..", "a/.", "../.."} {
		if fd, name, err := ParentInRoot(dir, path); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%q: got %d, %q, %v, want EINVAL", path, fd, name, err)
		}
	}
}

// attack exchanges two names of dir until the test ends, as fast as it can but
// for a pause that keeps the machine usable.
func attack(t *testing.T, a, b string) (swaps *atomic.Int64) {
	swaps = new(atomic.Int64)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE) == nil {
				swaps.Add(1)
			}
			if swaps.Load()%16 == 0 {
				time.Sleep(20 * time.Microsecond)
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
	return swaps
}

func TestMkdirAllInRoot_RacingSymlink(t *testing.T) {
	root, dir := jail(t)
	if err := os.MkdirAll(root+"/a/b", 0o755); err != nil {
		t.Fatal(err)
	}
	// b flips between a directory and a link to the canary outside.
	if err := os.Symlink("../../canary", root+"/a/evil"); err != nil {
		t.Fatal(err)
	}
	swaps := attack(t, root+"/a/b", root+"/a/evil")
	made := 0
	for i := range 3000 {
		fd, err := MkdirAllInRoot(dir, "a/b/n"+string(rune('a'+i%26))+"/x", 0o755)
		if err == nil {
			made++
			linux.Close(fd)
		}
	}
	if made == 0 || swaps.Load() == 0 {
		t.Errorf("no race: %d directories made, %d swaps", made, swaps.Load())
	}
}

func TestMkdirAllInRoot_RacingRename(t *testing.T) {
	root, dir := jail(t)
	// The walk goes through c/.. while c's parent moves: openat2 answers EAGAIN
	// rather than lead out.
	if err := os.MkdirAll(root+"/a/b/c", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(root+"/d", 0o755); err != nil {
		t.Fatal(err)
	}
	attack(t, root+"/a/b", root+"/d")
	made := 0
	for range 3000 {
		fd, err := MkdirAllInRoot(dir, "a/b/c/../../../../../../canary/x", 0o755)
		if err == nil {
			made++
			linux.Close(fd)
		}
	}
	if made == 0 {
		t.Error("never succeeded")
	}
}

func TestRemoveAllAt(t *testing.T) {
	root, dir := jail(t)
	for _, d := range []string{"x/empty", "x/a/b/c"} {
		if err := os.MkdirAll(root+"/"+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for l, target := range map[string]string{"x/out": "../../canary", "x/a/abs": filepath.Join(root, "../canary"), "x/a/file": "../../../canary/file", "x/loop": "loop"} {
		if err := os.Symlink(target, root+"/"+l); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2000 { // several getdents
		if err := os.WriteFile(root+"/x/a/b/some-longer-file-name-"+string(rune('A'+i%26))+strings.Repeat("z", i/26), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(root+"/keep", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is gone already
		if err := RemoveAllAt(dir, "x"); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := os.ReadDir(root); err != nil || len(names) != 1 || names[0].Name() != "keep" {
		t.Errorf("left: %v, %v, want keep", names, err)
	}
	if err := os.Symlink("../canary", root+"/l"); err != nil {
		t.Fatal(err)
	}
	if err := RemoveAllAt(dir, "l"); err != nil { // the link itself
		t.Error(err)
	}
}

// A container can nest directories without bound: no path names the deepest, and
// one descriptor per level would run out.
func TestRemoveAllAt_Deep(t *testing.T) {
	root, dir := jail(t)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	few := limit
	few.Cur = 64
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	}()
	fd := must(unix.Dup(dir))
	const levels = 2500
	for range levels {
		if err := unix.Mkdirat(fd, "deep", 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := CreateAt(fd, "file", unix.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		linux.Close(f)
		next := must(OpenDirAt(fd, "deep", unix.O_PATH))
		linux.Close(fd)
		fd = next
	}
	linux.Close(fd)
	if err := RemoveAllAt(dir, "deep"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(root + "/deep"); !os.IsNotExist(err) {
		t.Errorf("still there: %v", err)
	}
}

// The name is a directory when it is looked at and a link to the canary when it
// is opened, or the other way round.
func TestRemoveAllAt_RacingSymlink(t *testing.T) {
	root, dir := jail(t)
	if err := os.Mkdir(root+"/x", 0o755); err != nil {
		t.Fatal(err)
	}
	x := must(OpenDirAt(dir, "x", unix.O_RDONLY))
	defer linux.Close(x)
	if err := os.Symlink("../../canary", root+"/x/evil"); err != nil {
		t.Fatal(err)
	}
	swapped := int64(0)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for range 50 {
				if unix.Renameat2(x, "d", x, "evil", unix.RENAME_EXCHANGE) == nil {
					swapped++
				}
			}
		}
	}()
	for range 1500 {
		// d may be the link at this moment; it is removed then, and so is evil.
		_ = os.Mkdir(root+"/x/d", 0o755)
		_ = os.Symlink("../../canary", root+"/x/evil")
		for _, name := range []string{"d", "evil"} {
			if fd, err := OpenDirAt(x, name, unix.O_PATH); err == nil {
				if f, err := CreateAt(fd, "f", unix.O_WRONLY, 0o644); err == nil {
					linux.Close(f)
				}
				linux.Close(fd)
			}
		}
		if err := RemoveAllAt(x, "d"); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	<-done
	if swapped == 0 {
		t.Error("no swap happened")
	}
	if err := RemoveAllAt(dir, "x"); err != nil {
		t.Error(err)
	}
}

// What the race above seldom hits: the name is a link, or a mount, at the moment
// it is opened.
func TestOpenBelow(t *testing.T) {
	root, dir := jail(t)
	for name, target := range map[string]string{"rel": "../canary", "abs": filepath.Dir(root) + "/canary", "in": "sub", "magic": "/proc/self/cwd"} {
		if err := os.Symlink(target, root+"/"+name); err != nil {
			t.Fatal(err)
		}
		if fd, err := openBelow(dir, name); err != unix.ELOOP && err != unix.ENOTDIR {
			t.Errorf("link to %q: got %d, %v, want ELOOP or ENOTDIR", target, fd, err)
		}
	}
}

func TestRootOpenBelow_Mount(t *testing.T) {
	root, dir := jail(t)
	if err := os.Mkdir(root+"/mnt", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(filepath.Dir(root)+"/canary", root+"/mnt", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	fd, err := openBelow(dir, "mnt")
	linux.Close(fd)
	if uerr := unix.Unmount(root+"/mnt", unix.MNT_DETACH); uerr != nil {
		t.Fatal(uerr)
	}
	if err != unix.EXDEV {
		t.Errorf("got %d, %v, want EXDEV", fd, err)
	}
}

// Somebody who creates files as fast as they are deleted must not keep us forever.
func TestRemoveAllAt_Refilled(t *testing.T) {
	root, dir := jail(t)
	if err := os.Mkdir(root+"/x", 0o755); err != nil {
		t.Fatal(err)
	}
	stop, done, started := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				_ = os.WriteFile(root+"/x/f"+string(rune('a'+i%26)), nil, 0o644)
			}
			if i == 26 {
				close(started)
			}
		}
	}()
	<-started
	start := time.Now()
	err := RemoveAllAt(dir, "x") // either outcome is right, hanging is not
	close(stop)
	<-done
	if err != nil && !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("got %v, want nil or ENOTEMPTY", err)
	}
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("took %v", d)
	}
	if err := RemoveAllAt(dir, "x"); err != nil {
		t.Error(err)
	}
}

// A mount inside must not be emptied.
func TestRootRemoveAllAt_Mount(t *testing.T) {
	root, dir := jail(t)
	if err := os.MkdirAll(root+"/x/mnt", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(filepath.Join(root, "../canary"), root+"/x/mnt", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	err := RemoveAllAt(dir, "x")
	if uerr := unix.Unmount(root+"/x/mnt", unix.MNT_DETACH); uerr != nil {
		t.Fatal(uerr)
	}
	if !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EBUSY) {
		t.Errorf("got %v, want EXDEV or EBUSY", err)
	}
	if err := RemoveAllAt(dir, "x"); err != nil {
		t.Error(err)
	}
}
