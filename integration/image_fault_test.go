package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// diskUse is what du(1) says of the store, in bytes.
func (h *imageHost) diskUse() (n int64) {
	h.t.Helper()
	seen := map[[2]uint64]bool{}
	err := filepath.Walk(h.store, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if id := [2]uint64{st.Dev, st.Ino}; !seen[id] {
			seen[id] = true
			n += st.Blocks * 512
		}
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		h.t.Fatal(err)
	}
	return n
}

// sound fails the test unless the store is: nothing is damaged, `image du` tells
// the truth, gc removes what is left of interrupted work, and nothing is left then.
func (h *imageHost) sound(what string) {
	h.t.Helper()
	if r := h.do("image", "fsck", "--quiet"); r.Code != 0 || r.Stdout != "" || r.Stderr != "" {
		h.t.Errorf("%s: fsck: %+v", what, r)
	}
	if got, want := strings.TrimSpace(h.must("image", "du", "--quiet")), strconv.FormatInt(h.diskUse(), 10); got != want {
		h.t.Errorf("%s: image du says %s, du %s", what, got, want)
	}
	h.must("image", "gc", "--quiet")
	if r := h.do("image", "fsck"); r.Code != 0 || r.Stdout != "the store is in order\n" {
		h.t.Errorf("%s: fsck after gc: %+v", what, r)
	}
	h.clean(what)
}

// faultImages makes two archives: an image of two layers, and another one that
// shares the lower layer.
func faultImages(t *testing.T) (one, two string) {
	t.Helper()
	dir := t.TempDir()
	base := imageLayer(t, imageEntry{name: "base", data: strings.Repeat("base", 20000), mode: 0o644})
	// Large enough to be kept apart from its layer's archive, see docs/images.md.
	large := imageEntry{name: "large", data: strings.Repeat("large", 60000), mode: 0o644}
	for i, name := range []string{"one", "two"} {
		b := &imageBlobs{name: name, layers: [][]byte{base, imageLayer(t, imageEntry{name: name, data: strings.Repeat(name, 9000), mode: 0o644}, large)}}
		path := filepath.Join(dir, name+".tar")
		writeFile(t, path, string(imageLayer(t, b.oci(t)...)))
		if i == 0 {
			one = path
		} else {
			two = path
		}
	}
	return one, two
}

// forget takes a name away behind the store's back: blobs, layer and record of the
// image are garbage then.
func (h *imageHost) forget(name string) {
	h.t.Helper()
	index := filepath.Join(h.store, "index.json")
	var x map[string]any
	if err := json.Unmarshal([]byte(readFile(h.t, index)), &x); err != nil {
		h.t.Fatal(err)
	}
	list := x["manifests"].([]any)
	x["manifests"] = slices.DeleteFunc(list, func(m any) bool { return strings.Contains(fmt.Sprint(m), name) })
	writeFile(h.t, index, string(imageJSON(h.t, x)))
}

// storeCommands are the commands that change a store, or write what is in it,
// each with what has to be there before.
func (h *imageHost) storeCommands(one, two string) []struct {
	name   string
	step   int
	args   []string
	before func()
} {
	load := func(path string) func() { return func() { h.must("image", "load", "--quiet", path) } }
	out := filepath.Join(filepath.Dir(one), "saved.tar")
	return []struct {
		name   string
		step   int
		args   []string
		before func()
	}{
		{"load", 41, []string{"image", "load", "--quiet", two}, func() {}},
		{"tag", 7, []string{"image", "tag", "one", "new"}, func() {}},
		{"save", 29, []string{"image", "save", "--quiet", "--output", out, "one"}, func() {}},
		{"rm", 29, []string{"image", "rm", "two"}, load(two)},
		{"gc", 29, []string{"image", "gc"}, func() {
			load(two)()
			h.forget("two")
		}},
	}
}

// The commands are killed at system calls spread over all of their work. What
// was in the store is whole, the next command works, and gc removes the rest.
func TestRootImageStoreCrash(t *testing.T) {
	h := imageSetup(t)
	one, two := faultImages(t)
	h.must("image", "load", "--quiet", one)
	for _, tt := range h.storeCommands(one, two) {
		points := 0
		for n := 1; ; n += tt.step {
			tt.before()
			what := tt.name + " killed at call " + strconv.Itoa(n)
			code, reached := tracedRun(t, minirunItself, n, []uint64{unix.SYS_FLOCK, unix.SYS_MKDIRAT, sysMkdir}, h.command(tt.args...)...)
			if !reached && code != 0 {
				t.Errorf("%s: exit status %d under trace", what, code)
			}
			points++
			h.sound(what)
			if got := h.must("image", "verify", "one"); got != "one is complete\n" {
				t.Errorf("%s: verify: %q", what, got)
			}
			left, err := filepath.Glob(filepath.Join(filepath.Dir(one), ".*"))
			if err != nil || len(left) > 1 { // between linkat(2) and rename(2)
				t.Errorf("%s: beside the archive: %q, %v", what, left, err)
			}
			for _, name := range left {
				_ = os.Remove(name)
			}
			if t.Failed() {
				t.Fatal(what)
			}
			if !reached {
				break
			}
			_ = h.do("image", "rm", "two")
			_ = h.do("image", "rm", "new")
		}
		t.Logf("%s: %d points", tt.name, points)
		if points < 4 {
			t.Errorf("%s: only %d points", tt.name, points)
		}
		_ = h.do("image", "rm", "two")
		_ = h.do("image", "rm", "new")
	}
}

// everyCall is set by make faults-images: each of a command's calls fails once, and
// not some of them, with EIO and with ENOSPC. Its value is "all", or names of commands.
var everyCall = os.Getenv("MINIRUN_TEST_FAULTS")

// faultRounds are the errors that the calls of a command fail with, and the step from
// one call to the next; none for a command that nobody asked for.
func faultRounds(name string, step int) ([]unix.Errno, int) {
	if everyCall == "" {
		return []unix.Errno{unix.EIO}, step
	}
	if everyCall != "all" && !slices.Contains(strings.Split(everyCall, ","), name) {
		return nil, 1
	}
	return []unix.Errno{unix.EIO, unix.ENOSPC}, 1
}

// storeCall picks calls that reach the disk: those that make, change, sync and read
// files of the store.
func (h *imageHost) storeCall(pid int, nr uint64, args [7]uint64) bool {
	switch nr {
	case unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_WRITEV, unix.SYS_PWRITEV, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_FTRUNCATE, unix.SYS_SYNCFS, unix.SYS_FALLOCATE,
		unix.SYS_READ, unix.SYS_PREAD64, unix.SYS_GETDENTS64, unix.SYS_FCHMOD, unix.SYS_FCHOWN, unix.SYS_FSETXATTR, unix.SYS_SENDFILE:
		path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, args[0]))
		return err == nil && strings.HasPrefix(path, h.store+"/")
	case unix.SYS_COPY_FILE_RANGE:
		path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, args[2]))
		return err == nil && strings.HasPrefix(path, h.store+"/")
	case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_LINKAT, unix.SYS_MKDIRAT, unix.SYS_UNLINKAT, unix.SYS_SYMLINKAT:
		return true
	case unix.SYS_OPENAT:
		return args[2]&unix.O_CREAT != 0
	}
	return nr == sysMkdir
}

// A disk that fails: each of these calls in turn says EIO. The command may fail,
// with an error that says so; the store is as sound as after a kill.
func TestRootImageStoreEIO(t *testing.T) {
	h := imageSetup(t)
	one, two := faultImages(t)
	h.must("image", "load", "--quiet", one)
	commands := append(h.storeCommands(one, two), struct {
		name   string
		step   int
		args   []string
		before func()
	}{"import", 96, []string{"image", "import", "--quiet", filepath.Dir(one), "two"}, func() {}})
	for _, tt := range commands {
		h.fails(faultCommand{
			name: tt.name, step: 5 + tt.step/8, args: tt.args, before: tt.before,
			undo: func() {
				_ = h.do("image", "rm", "two")
				_ = h.do("image", "rm", "new")
			},
		}, 3)
	}
}

// fails has the calls of a command fail, one in each of its runs. At least so many runs
// it takes.
func (h *imageHost) fails(tt faultCommand, least int) {
	t := h.t.(*testing.T)
	t.Helper()
	errnos, step := faultRounds(tt.name, tt.step)
	for _, errno := range errnos {
		points, failed := 0, 0
		for n := 1; ; n += step {
			if tt.before != nil {
				tt.before()
			}
			what := fmt.Sprintf("%s: %s at call %d", tt.name, unix.ErrnoName(errno), n)
			code, stderr, reached := failedRun(t, errno, n, h.storeCall, h.command(tt.args...)...)
			if code != 0 {
				failed++
				if !reached || strings.Contains(stderr, "panic") || !strings.Contains(stderr, errno.Error()) {
					t.Errorf("%s: status %d, %s", what, code, stderr)
				}
			}
			points++
			if tt.after != nil {
				tt.after()
			}
			h.sound(what)
			if tt.more != nil {
				tt.more(what)
			}
			if t.Failed() {
				t.Fatal(what)
			}
			tt.undo()
			if !reached {
				break
			}
		}
		t.Logf("%s: %s at %d points, %d failed", tt.name, unix.ErrnoName(errno), points, failed)
		if points < least || failed == 0 {
			t.Errorf("%s: %d points, of which %d failed", tt.name, points, failed)
		}
	}
}

// The disk is full, page by page: one clear error, nothing left, and rm and gc
// work nevertheless.
func TestRootImageStoreFull(t *testing.T) {
	h := imageSetup(t)
	one, two := faultImages(t)
	disk := filepath.Join(t.TempDir(), "disk")
	imageDisk(t, disk, "size=64m")
	h.store = filepath.Join(disk, "store")
	h.must("image", "load", "--quiet", one)
	used := func() uint64 {
		var st unix.Statfs_t
		if err := unix.Statfs(disk, &st); err != nil {
			t.Fatal(err)
		}
		return (st.Blocks - st.Bfree) * uint64(st.Bsize)
	}
	for _, tt := range []struct {
		name string
		step int // in pages
		args []string
	}{
		{"load", 4, []string{"image", "load", "--quiet", two}},
		{"import", 31, []string{"image", "import", "--quiet", filepath.Dir(one), "two"}},
		{"tag", 1, []string{"image", "tag", "one", "new"}},
		{"save", 1, []string{"image", "save", "--quiet", "--output", filepath.Join(t.TempDir(), "out"), "one"}},
	} {
		before, failed := used(), 0
		for free := 0; ; free += tt.step {
			imageResize(t, disk, fmt.Sprintf("size=%d", before+uint64(free)*uint64(os.Getpagesize())))
			r := h.do(tt.args...)
			what := fmt.Sprintf("%s with %d pages", tt.name, free)
			if r.Code != 0 {
				failed++
				if strings.Count(r.Stderr, "no space left on device") == 0 || strings.Contains(r.Stderr, "panic") {
					t.Errorf("%s: %+v", what, r)
				}
			}
			h.sound(what) // gc works on the full disk
			if r.Code != 0 && tt.name == "load" && used() > before {
				// An image that came in and could not be unpacked is there.
				if list := h.must("image", "list"); !strings.Contains(list, "two:") {
					t.Errorf("%s: %d bytes more than before", what, used()-before)
				}
			}
			if r := h.do("image", "rm", "two"); r.Code != 0 && !strings.Contains(r.Stderr, "does not exist") {
				t.Errorf("%s: rm: %+v", what, r)
			}
			_ = h.do("image", "rm", "new")
			if t.Failed() {
				t.Fatal(what)
			}
			if r.Code == 0 {
				break
			}
		}
		if failed == 0 {
			t.Errorf("%s: it never failed", tt.name)
		}
		imageResize(t, disk, "size=64m")
		t.Logf("%s: %d sizes were too small", tt.name, failed)
	}
	// The only image goes from a disk without one free page.
	imageResize(t, disk, fmt.Sprintf("size=%d", used()))
	h.must("image", "rm", "one")
	imageResize(t, disk, "size=64m")
	h.sound("after rm on a full disk")
	if b := h.entries("blobs/sha256"); len(b) > 0 {
		t.Errorf("blobs %v", b)
	}
}
