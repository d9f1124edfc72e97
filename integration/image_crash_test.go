package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// converge deletes what a killed minirun has left and fails the test unless
// nothing of it remains. A snapshot that was not in its place yet, or not in it
// any more, belongs to no container: that is for gc.
func (h *imageHost) converge(what, id string) {
	h.t.Helper()
	stop := reapContainers(h.t)
	r := h.do("delete", "--force", id)
	stop()
	if r.Code != 0 || r.Stderr != "" {
		h.t.Fatalf("%s: delete --force: %+v", what, r)
	}
	if len(h.entries("overlay/staging")) > 0 {
		h.must("image", "gc")
	}
	h.clean(what)
}

// minirun is killed at every system call, from the first that changes anything
// to its end. Whatever it had made, delete --force removes all of it, and the ID
// can be used again.
func TestRootImageCrash(t *testing.T) {
	h := imageSetup(t).base()
	id := h.id()
	first := []uint64{unix.SYS_MKDIRAT, sysMkdir}
	for _, tt := range []struct {
		name string
		step int
		from []uint64
		args []string
	}{
		{"create", 1, first, []string{"create", "--image", "base", id, "sleep", "1000"}},
		{"run --rm", 2, first, []string{"run", "--rm", "--image", "base", id, "true"}},
		{"run --detach", 5, first, []string{"run", "--detach", "--image", "base", id, "sleep", "1000"}},
		{"delete", 1, []uint64{unix.SYS_FLOCK}, []string{"delete", "--force", id}},
	} {
		points := 0
		for n := 1; ; n += tt.step {
			if tt.name == "delete" {
				h.must("create", "--image", "base", id, "sleep", "1000")
			}
			code, reached := tracedRun(t, minirunItself, n, tt.from, h.command(tt.args...)...)
			what := tt.name + ": killed at call " + strconv.Itoa(n)
			if !reached && code != 0 {
				t.Fatalf("%s: exit status %d under trace", what, code)
			}
			if r := h.do("list", "-f", "json"); r.Code != 0 {
				t.Errorf("%s: list: %+v", what, r)
			}
			h.converge(what, id)
			if points++; points%16 == 0 {
				if got := h.do("run", "--rm", "--image", "base", id, "echo", "again"); got.Code != 0 || got.Stdout != "again\n" {
					t.Fatalf("%s: run again: %+v", what, got)
				}
			}
			if t.Failed() {
				t.Fatal(what)
			}
			if !reached {
				break
			}
		}
		t.Logf("%s: %d crash points", tt.name, points)
		if points < 10 {
			t.Errorf("%s: only %d crash points", tt.name, points)
		}
	}
	if got := h.do("run", "--rm", "--image", "base", id, "echo", "again"); got.Code != 0 || got.Stdout != "again\n" {
		t.Errorf("run at the end: %+v", got)
	}
}

// An import is killed at system calls spread over all of it. The store is whole
// whatever had come in, and the import works afterwards.
func TestRootImageCrashImport(t *testing.T) {
	h := imageSetup(t)
	rootfs := testenv.Rootfs(t)
	points := 0
	for n := 1; ; n += 37 {
		_, reached := tracedRun(t, minirunItself, n, []uint64{unix.SYS_MKDIRAT, sysMkdir}, h.command("image", "import", "--quiet", rootfs, "base")...)
		what := "import killed at call " + strconv.Itoa(n)
		points++
		r := h.do("image", "list")
		if r.Code != 0 || r.Stderr != "" {
			t.Errorf("%s: list: %+v", what, r)
		}
		if strings.Contains(r.Stdout, "base") {
			// It is in the index: so it is complete.
			if r := h.do("run", "--rm", "--image", "base", h.id(), "echo", "runs"); r.Code != 0 || r.Stdout != "runs\n" {
				t.Errorf("%s: run: %+v", what, r)
			}
			h.must("image", "rm", "base")
		}
		h.must("image", "gc")
		h.clean(what)
		if l, b := h.entries("overlay/layers"), h.entries("blobs/sha256"); len(l)+len(b) > 0 {
			t.Errorf("%s: left after gc: layers %v, blobs %v", what, l, b)
		}
		if t.Failed() {
			t.Fatal(what)
		}
		if !reached {
			break
		}
		if n%5 == 1 {
			if err := os.RemoveAll(h.store); err != nil { // from nothing, where the store is made, too
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d crash points", points)
	if points < 5 {
		t.Errorf("only %d crash points", points)
	}
}

// imageDisk mounts a tmpfs of its own on dir for the time of the test.
func imageDisk(t *testing.T, dir, options string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
}

func imageResize(t *testing.T, dir, options string) {
	t.Helper()
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		t.Fatalf("remount %s with %s: %v", dir, options, err)
	}
}

// The disk is full, at every stage: one clear error, nothing left behind, and it
// works when there is space.
func TestRootImageDiskFull(t *testing.T) {
	h := imageSetup(t)
	disk := filepath.Join(t.TempDir(), "disk")
	imageDisk(t, disk, "size=256k,nr_inodes=100000")
	h.store = filepath.Join(disk, "store")
	dir := t.TempDir()
	archive := filepath.Join(dir, "rootfs.tar")
	raw := imageRootfs(t)
	writeFile(t, archive, string(raw))

	resize := func(options string) {
		t.Helper()
		if before, more, ok := strings.Cut(options, "+"); ok { // so many inodes more than there are
			var st unix.Statfs_t
			n, err := strconv.Atoi(more)
			if err == nil {
				err = unix.Statfs(disk, &st)
			}
			if err != nil {
				t.Fatal(err)
			}
			options = before + strconv.Itoa(int(st.Files-st.Ffree)+n)
		}
		imageResize(t, disk, options)
	}
	full := func(what string, r testenv.Result) {
		t.Helper()
		if r.Code != 1 || strings.Count(r.Stderr, "no space left on device") != 1 || strings.Count(r.Stderr, "minirun") == 0 {
			t.Errorf("%s: %+v, want one error: no space left on device", what, r)
		}
		for _, d := range []string{"overlay/staging", "ingest"} {
			if left := h.entries(d); len(left) > 0 {
				t.Errorf("%s: %s has %q", what, d, left)
			}
		}
	}
	for _, size := range []string{"size=256k", "size=1m", "size=" + strconv.Itoa(len(raw)/2), "size=64m,nr_inodes=+1"} {
		resize(size)
		full("import, "+size, h.do("image", "import", archive, "base"))
		if b := h.entries("blobs/sha256"); len(b) > 0 {
			t.Errorf("%s: blobs %v", size, b)
		}
		imageResize(t, disk, "size=64m,nr_inodes=100000")
		if r := h.do("image", "list"); r.Code != 0 || strings.Contains(r.Stdout, "base") {
			t.Errorf("%s: list: %+v", size, r)
		}
	}

	// It comes in and cannot be unpacked.
	for _, size := range []string{"size=" + strconv.Itoa(len(raw)*3/2), "size=64m,nr_inodes=+20"} {
		resize(size)
		full("unpack, "+size, h.do("image", "import", archive, "base"))
		full("run, "+size, h.do("run", "--image", "base", h.id(), "true"))
		h.clean(size)
		if l := h.entries("overlay/layers"); len(l) > 0 {
			t.Errorf("%s: layers %v", size, l)
		}
		imageResize(t, disk, "size=64m,nr_inodes=100000")
		if r := h.do("run", "--rm", "--image", "base", h.id(), "echo", "runs"); r.Code != 0 || r.Stdout != "runs\n" {
			t.Errorf("%s, then run with space: %+v", size, r)
		}
		h.must("image", "rm", "base")
	}

	// No space for more, and no inodes for one more snapshot; a container that is there can be deleted.
	h.must("image", "import", "--quiet", archive, "base")
	id := h.id()
	h.must("run", "--image", "base", id, "sh", "-c", "echo x > /x")
	var st unix.Statfs_t
	for _, tight := range []string{"blocks", "inodes"} {
		if err := unix.Statfs(disk, &st); err != nil {
			t.Fatal(err)
		}
		if tight == "blocks" {
			imageResize(t, disk, "size="+strconv.FormatUint((st.Blocks-st.Bfree)*uint64(st.Bsize), 10))
		} else {
			imageResize(t, disk, "size=64m,nr_inodes="+strconv.FormatUint(st.Files-st.Ffree, 10))
		}
		if tight == "blocks" {
			// A snapshot needs none here: it is directories and links. What the container writes does.
			h.must("run", "--rm", "--image", "base", h.id(), "true")
			other := h.id()
			h.must("create", "--image", "base", other, "true")
			h.must("delete", "--force", other)
			if r := h.do("run", "--rm", "--image", "base", h.id(), "sh", "-c", "echo x > /y"); r.Code == 0 {
				t.Errorf("run, no blocks: %+v, want an error of the shell", r)
			}
		} else {
			full("run, no "+tight, h.do("run", "--image", "base", h.id(), "true"))
			full("create, no "+tight, h.do("create", "--image", "base", h.id(), "true"))
		}
		h.clean("no " + tight)
		if tight == "inodes" {
			h.must("delete", id)
			h.clean("deleted")
		}
		imageResize(t, disk, "size=64m,nr_inodes=100000")
	}
	if r := h.do("run", "--rm", "--image", "base", h.id(), "echo", "runs"); r.Code != 0 || r.Stdout != "runs\n" {
		t.Errorf("run with space: %+v", r)
	}
}

// The state directory is full.
func TestRootImageStateFull(t *testing.T) {
	h := imageSetup(t).base()
	root := filepath.Join(t.TempDir(), "state")
	imageDisk(t, root, "size=64m,mode=0700")
	h.root = root
	for n := 1; ; n++ {
		imageResize(t, root, "size=64m,nr_inodes="+strconv.Itoa(n))
		id := h.id()
		r := h.do("run", "--rm", "--image", "base", id, "true")
		if r.Code == 0 {
			if n < 3 {
				t.Errorf("it ran with %d inodes", n)
			}
			break
		}
		if n > 20 {
			t.Fatalf("%d inodes are not enough: %+v", n, r)
		}
		if !strings.Contains(r.Stderr, "no space left on device") {
			t.Errorf("%d inodes: %+v", n, r)
		}
		h.clean(strconv.Itoa(n) + " inodes")
	}
}
