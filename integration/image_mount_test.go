package integration

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// mounted are the paths that `image mount` lists.
func (h *imageHost) mounted() (paths []string) {
	h.t.Helper()
	var rows []struct{ Path string }
	if err := json.Unmarshal([]byte(h.must("image", "mount", "--format", "json")), &rows); err != nil {
		h.t.Fatal(err)
	}
	for _, r := range rows {
		paths = append(paths, r.Path)
	}
	return paths
}

// unmountAll takes away what a test that has failed has left mounted.
func (h *imageHost) unmountAll() {
	h.t.Cleanup(func() {
		for line := range strings.Lines(readFile(h.t, "/proc/self/mountinfo")) {
			if f := strings.Fields(line); strings.HasPrefix(f[4], filepath.Dir(h.store)+"/") {
				h.t.Errorf("a mount was left at %s", f[4])
				_ = unix.Unmount(f[4], unix.MNT_DETACH)
			}
		}
	})
}

// The files of a mounted image are those that a container sees, and nobody can
// change them or take them away.
func TestRootImageMount(t *testing.T) {
	h := imageSetup(t).base()
	h.unmountAll()
	id := h.background("rm -r /home; echo x > /x; chmod 4755 /x; mknod /null c 1 3")
	h.must("commit", "-q", id, "two")
	tree := treeOf(t, h.rootOf(id))
	dir := filepath.Join(filepath.Dir(h.store), "mnt")
	link := filepath.Join(filepath.Dir(h.store), "link")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Symlink(dir, link)); err != nil {
		t.Fatal(err)
	}
	if got := h.mounted(); len(got) != 0 {
		t.Errorf("mounted at the beginning: %q", got)
	}
	if got := h.must("image", "mount", "two", link); got != dir+"\n" {
		t.Errorf("mount says %q", got)
	}
	inside := strings.TrimSpace(h.must("image", "mount", "base"))
	if got := h.mounted(); len(got) != 2 {
		t.Errorf("mounted: %q", got)
	}
	below := func() map[string]string {
		tree := treeOf(t, dir)
		for _, place := range []string{"/dev", "/proc", "/sys"} { // where the container has mounts
			delete(tree, place)
		}
		return tree
	}
	sameTree(t, "mounted", below(), tree)
	if _, err := os.Stat(inside + "/bin/busybox"); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(dir+"/y", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write: %v", err)
	}
	if f, err := os.Open(dir + "/null"); err == nil {
		f.Close()
		t.Error("a device of the image can be opened")
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Flags&unix.ST_NOSUID == 0 || fs.Flags&unix.ST_RDONLY == 0 {
		t.Errorf("flags %#x, %v", fs.Flags, err)
	}
	// The image can go, and its layers stay.
	h.must("delete", "--force", id)
	if r := h.do("image", "rm", "two"); r.Code == 0 || !strings.Contains(r.Stderr, "in use by image mount\nhint: it is mounted: minirun image unmount two\n") {
		t.Errorf("rm: %+v", r)
	}
	// An image with the same layers is another one; a second name is not.
	h.must("image", "import", "-q", "--change", "LABEL a=b", testenv.Rootfs(t), "labelled")
	h.must("image", "rm", "labelled")
	h.must("image", "import", "-q", "--change", "LABEL a=b", testenv.Rootfs(t), "labelled")
	if r := h.do("image", "rm", "base"); r.Code == 0 || !strings.Contains(r.Stderr, "in use by image mount\n") {
		t.Errorf("rm beside an image with the same layers: %+v", r)
	}
	h.must("image", "tag", "base", "again")
	h.must("image", "rm", "again", "labelled")
	h.must("image", "rm", "--force", "two")
	h.must("image", "gc")
	sameTree(t, "after gc", below(), tree)
	if got := h.must("image", "mount"); !strings.Contains(got, dir) || !strings.HasPrefix(got, "NAME") {
		t.Errorf("list: %q", got)
	}
	// Somebody is in it.
	f, err := os.Open(dir + "/x")
	if err != nil {
		t.Fatal(err)
	}
	if r := h.do("image", "unmount", dir); r.Code != 1 || !strings.Contains(r.Stderr, "busy") || !strings.Contains(r.Stderr, "hint: ") {
		t.Errorf("unmount of a busy one: %+v", r)
	}
	f.Close()
	if got := h.must("image", "unmount", dir, "base"); got != dir+"\n"+inside+"\n" {
		t.Errorf("unmount: %q", got)
	}
	for _, tt := range []struct {
		want string
		args []string
	}{
		{"no mounted image", []string{"unmount", dir}},
		{"no mounted image", []string{"unmount", "base"}},
		{"want images", []string{"unmount"}},
		{"want images", []string{"unmount", "--all", "base"}},
		{"does not exist", []string{"mount", "nosuch"}},
		{"no such file", []string{"mount", "base", dir + "/nosuch"}},
		{"not a directory", []string{"mount", "base", "/etc/passwd"}},
		{"unknown format", []string{"mount", "--format", "x"}},
	} {
		if r := h.do(append([]string{"image"}, tt.args...)...); r.Code != 1 || !strings.Contains(r.Stderr, tt.want) {
			t.Errorf("%q: %+v, want %q", tt.args, r, tt.want)
		}
	}
	// A container's name does not make a mounted image of it.
	id = "image-mount." + h.id()
	h.must("create", "--image", "base", id)
	if got := h.mounted(); len(got) != 0 {
		t.Errorf("mounted: %q", got)
	}
	h.clean("with the container " + id)
	if r := h.do("image", "rm", "base"); r.Code == 0 || !strings.Contains(r.Stderr, "in use by "+id+"\n") {
		t.Errorf("rm of the image of %s: %+v", id, r)
	}
	h.must("delete", "--force", id)
	// One that an administrator has unmounted is noticed.
	h.must("image", "mount", "base", dir)
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	if got := h.mounted(); len(got) != 0 {
		t.Errorf("still listed: %q", got)
	}
	h.must("image", "mount", "base", dir)
	h.must("image", "mount", "base")
	h.must("image", "unmount", "--all")
	h.clean("all unmounted")
}

// What was mounted in another mount namespace keeps the image, and can be let go when
// nobody is in there any more.
func TestRootImageMountElsewhere(t *testing.T) {
	h := imageSetup(t)
	h.base()
	dir := t.TempDir()
	mount := testenv.Command(t, h.command("image", "mount", "base", dir)...).Args
	other := exec.Command("unshare", append([]string{"--mount", "sh", "-c", `"$@" && read x`, "sh"}, mount...)...)
	end, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	wait := sync.OnceValue(func() error { end.Close(); return other.Wait() })
	t.Cleanup(func() { _ = wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != dir+"\n" {
		t.Fatalf("image mount: %q, %v", line, err)
	}
	refused := func(want string, args ...string) {
		t.Helper()
		if r := h.do(args...); r.Code != 1 || !strings.Contains(r.Stderr, want) {
			t.Errorf("minirun %q: %+v, want an error with %q", args, r, want)
		}
	}
	pid := strconv.Itoa(other.Process.Pid)
	refused("another mount namespace, that of process "+pid+"\n", "image", "unmount", "base")
	refused("hint: nsenter --mount=/proc/"+pid+"/ns/mnt minirun image unmount "+dir+"\n", "image", "unmount", dir)
	refused("in use by image mount", "image", "rm", "base")
	_ = wait() // read tells of the end of its input
	refused("in use by image mount", "image", "rm", "base")
	if got := h.must("image", "unmount", "base"); got != dir+"\n" {
		t.Errorf("unmount: %q", got)
	}
	h.clean("unmounted")
	h.must("image", "rm", "base")
}

// mount and unmount are killed at their system calls: what is mounted is listed
// and can be unmounted, and nothing else is left.
func TestRootImageMountCrash(t *testing.T) {
	h := imageSetup(t).base()
	h.unmountAll()
	dir := filepath.Join(filepath.Dir(h.store), "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	isMounted := func() bool {
		_, err := os.Stat(dir + "/bin/busybox")
		return err == nil
	}
	for _, tt := range []struct {
		verb string
		from []uint64
		args []string
	}{
		{"mount", []uint64{unix.SYS_MKDIRAT, sysMkdir}, []string{"mount", "base", dir}}, {"unmount", []uint64{unix.SYS_UMOUNT2}, []string{"unmount", dir}},
	} {
		points, was := 0, map[bool]int{}
		for n := 1; ; n += 3 {
			if tt.verb == "unmount" {
				h.must("image", "mount", "base", dir)
			}
			code, reached := tracedRun(t, minirunItself, n, tt.from, h.command(append([]string{"image"}, tt.args...)...)...)
			what := tt.verb + " killed at call " + strconv.Itoa(n)
			if !reached && code != 0 {
				t.Fatalf("%s: exit status %d", what, code)
			}
			points++
			was[isMounted()]++
			if list := h.mounted(); (len(list) == 1) != isMounted() {
				t.Errorf("%s: listed %q, mounted %v", what, list, isMounted())
			}
			h.must("image", "unmount", "--all")
			if isMounted() {
				t.Errorf("%s: it is still mounted", what)
			}
			if len(h.entries("overlay/staging"))+len(h.entries("ingest")) > 0 {
				h.must("image", "gc")
			}
			h.clean(what)
			if t.Failed() {
				t.Fatal(what)
			}
			if !reached {
				break
			}
		}
		t.Logf("%s: %d crash points, %v", tt.verb, points, was)
		if points < 4 || was[false] == 0 {
			t.Errorf("%s: only %d crash points, %v", tt.verb, points, was)
		}
	}
}
