package integration

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// treeOf describes every file below a directory, one line each: everything that
// an image can keep of it. Other file systems mounted there are left out.
func treeOf(t *testing.T, root string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	var top syscall.Stat_t
	if err := syscall.Stat(root, &top); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(root+"/", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err
		}
		if d.IsDir() && st.Dev != top.Dev {
			return fs.SkipDir
		}
		line := fmt.Sprintf("%o %d:%d %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch {
		case d.Type().IsRegular():
			line += fmt.Sprintf(" size %d links %d %x", st.Size, st.Nlink, hashOf(t, path, &st))
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		case d.Type()&fs.ModeDevice != 0:
			line += fmt.Sprintf(" %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		buf := make([]byte, 4096)
		n, _ := unix.Llistxattr(path, buf)
		keys := strings.Split(strings.Trim(string(buf[:n]), "\x00"), "\x00")
		slices.Sort(keys)
		for _, key := range keys {
			if key != "" && !strings.HasPrefix(key, "trusted.") {
				n, err := unix.Lgetxattr(path, key, buf)
				line += fmt.Sprintf(" %s=%q %v", key, buf[:max(n, 0)], err)
			}
		}
		tree["/"+strings.TrimPrefix(strings.TrimPrefix(path, root), "/")] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// hashOf is the hash of a file's content; of the end of a huge one.
func hashOf(t *testing.T, path string, st *syscall.Stat_t) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := min(st.Size, 64<<20)
	b := make([]byte, n)
	if _, err := f.ReadAt(b, st.Size-n); err != nil && n > 0 {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return sum[:8]
}

func sameTree(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for _, path := range slices.Sorted(maps.Keys(want)) {
		if got[path] != want[path] {
			t.Errorf("%s: %s\n got %q\nwant %q", what, path, got[path], want[path])
		}
	}
	for path, line := range got {
		if _, ok := want[path]; !ok {
			t.Errorf("%s: %s is too much: %s", what, path, line)
		}
	}
}

// pid is the container's init, as the host counts it.
func (h *imageHost) pid(id string) int {
	h.t.Helper()
	var s struct{ Pid int }
	if err := json.Unmarshal([]byte(h.must("state", id)), &s); err != nil || s.Pid <= 0 {
		h.t.Fatalf("state of %s: %v, pid %d", id, err, s.Pid)
	}
	return s.Pid
}

// rootOf is where the host sees the container's root.
func (h *imageHost) rootOf(id string) string {
	h.t.Helper()
	return "/proc/" + strconv.Itoa(h.pid(id)) + "/root"
}

// manifest is the manifest of an image in the store.
func (h *imageHost) manifest(name string) (m struct {
	Config struct{ Digest string }
	Layers []struct{ MediaType, Digest string }
},
) {
	h.t.Helper()
	var rows []struct{ Name, Digest string }
	if err := json.Unmarshal([]byte(h.must("image", "list", "--format", "json", name)), &rows); err != nil || len(rows) != 1 {
		h.t.Fatalf("image list %s: %v, %v", name, err, rows)
	}
	h.blob(rows[0].Digest, &m)
	return m
}

// blob reads a blob of JSON.
func (h *imageHost) blob(digest string, v any) {
	h.t.Helper()
	raw := readFile(h.t, filepath.Join(h.store, "blobs", strings.Replace(digest, ":", "/", 1)))
	if err := json.Unmarshal([]byte(raw), v); err != nil {
		h.t.Fatal(err)
	}
}

// background runs a script in a detached container and waits until it has ended.
// The container goes on.
func (h *imageHost) background(script string, flags ...string) string {
	h.t.Helper()
	id := h.id()
	args := append([]string{"run", "--detach"}, flags...)
	if !slices.Contains(flags, "--image") {
		args = append(args, "--image", "base")
	}
	h.must(append(args, id, "sh", "-c", "set -e\n"+script+"\necho ready; while :; do sleep 1000; done")...)
	eventually(h.t, "the script comes to its end", func() bool {
		log := h.must("logs", id)
		if h.status(id) != "running" && !strings.HasSuffix(log, "ready\n") {
			h.t.Fatalf("the script has failed:\n%s", log)
		}
		return strings.HasSuffix(log, "ready\n")
	})
	return id
}

const commitLower = `
mkdir -p /l/dir/sub /l/tofile /l/todir.d /l/renamed/deep /l/gone/x /l/opaque
echo a > /l/dir/a; echo b > /l/dir/b; echo c > /l/dir/sub/c; echo f > /l/todir; echo s > /l/tosym
echo deep > /l/renamed/deep/f; echo x > /l/gone/x/y; echo old > /l/opaque/old; echo old > /l/opaque/both
echo meta > /l/meta; echo link > /l/h1; ln /l/h1 /l/h2; ln -s a /l/dir/sym
echo again > /l/again; rm -rf /l/tofile; mkdir /l/tofile; echo in > /l/tofile/in`

const commitChanges = `
rm /l/dir/a; rm -r /l/gone; rm /l/dir/sym
rm -r /l/tofile; echo file > /l/tofile
rm /l/todir; mkdir /l/todir; echo new > /l/todir/new
rm /l/tosym; ln -s dir/b /l/tosym
mv /l/renamed /l/moved; mv /l/moved/deep/f /l/moved/g
rm -r /l/opaque; mkdir -m 750 /l/opaque; echo new > /l/opaque/both
chmod 600 /l/meta; chown 7:8 /l/meta; chmod 1777 /l/dir; touch -d '2001-02-03 04:05:06' /l/dir/b
echo more >> /l/h1; ln /l/dir/b /l/dir/b2; ln /l/dir/b /l/b3
rm /l/again; echo again > /l/again
echo x > /new; chmod 6755 /new; mkfifo /fifo; mknod /null c 1 3
truncate -s 3G /sparse; echo end >> /sparse; echo mid > /tmp/x; dd if=/tmp/x of=/sparse bs=1M seek=700 conv=notrunc 2>/dev/null
echo odd > "/odd
name"; echo ü > /ü; mkdir -p /deep/er/and/deeper; touch /empty
: > /l/dir/$(printf '%0200d' 0)`

// What a container has done to its root is in the image that commit makes of
// it: the container's root and that of one from the image are the same.
func TestRootCommit(t *testing.T) {
	h := imageSetup(t).base()
	lower := h.background(commitLower)
	if got := h.must("commit", "--quiet", lower, "lower"); !strings.HasPrefix(got, "sha256:") {
		t.Errorf("commit --quiet: %q", got)
	}
	id := h.background(commitChanges, "--image", "lower", "-e", "NOT=KEPT")
	root := h.rootOf(id)
	acl := "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x06\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"
	caps := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	for _, x := range [][3]string{
		{"/new", "user.test", "a\x00b=c\n"},
		{"/l/dir", "user.dir", "d"},
		{"/l/todir/new", "system.posix_acl_access", acl},
		{"/empty", "security.capability", caps},
		{"/new", "trusted.host", "not for images"},
		{"/sparse", "user.s", "sparse"},
		{"/l/meta", "user.overlay.opaque", "y"},
		{"/l/dir/sub", "user.overlay.opaque", "y"},
	} {
		if err := unix.Setxattr(root+x[0], x[1], []byte(x[2]), 0); err != nil {
			t.Fatalf("%s: %s: %v", x[0], x[1], err)
		}
	}
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: root + "/socket", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	socket.SetUnlinkOnClose(false)
	socket.Close()

	want := treeOf(t, root)
	if want["/socket"] == "" {
		t.Error("there is no socket")
	}
	delete(want, "/socket")
	if r := h.do("commit", id, "new:1"); r.Code != 0 || !strings.HasPrefix(r.Stdout, "committed new:1 ") || r.Stderr != "minirun: warning: left out the socket \"socket\"\n" {
		t.Errorf("commit: %+v", r)
	}
	if s := h.status(id); s != "running" {
		t.Errorf("after commit the container is %s", s)
	}
	for path, line := range want { // what commit leaves out
		want[path] = strings.ReplaceAll(line, ` user.overlay.opaque="y" <nil>`, "")
	}
	from := h.background("", "--image", "new:1")
	tree := treeOf(t, h.rootOf(from))
	// Writing to h1 has broken the link. Overlayfs still counts the hidden name in
	// the lower layer, an index of layers does not.
	for _, m := range []map[string]string{tree, want} {
		m["/l/h2"] = strings.ReplaceAll(m["/l/h2"], "links 2", "links 1")
	}
	sameTree(t, "a container of the new image", tree, want)
	if len(want) < 50 || want["/new"] == "" || want["/l/dir/a"] != "" {
		t.Errorf("the trees say nothing: %q", want)
	}
	if !strings.Contains(tree["/new"], "user.test") || !strings.Contains(tree["/empty"], "security.capability") || !strings.Contains(tree["/l/todir/new"], "posix_acl") ||
		!strings.Contains(tree["/l/dir/b"], "links 3") || !strings.Contains(tree["/sparse"], "size 3221225476") {
		t.Errorf("attributes or links are lost: %q", tree)
	}
	var st syscall.Stat_t
	// Of layers with an index the holes are in a file of the layer; stat(2) in the
	// container counts them.
	paths, _ := filepath.Glob(filepath.Join(h.store, "overlay/layers/*.index/sparse"))
	if len(paths) == 0 {
		paths = []string{h.rootOf(from) + "/sparse"}
	}
	for _, path := range paths {
		if err := syscall.Stat(path, &st); err != nil || st.Size < 3<<30 || st.Blocks*512 > 1<<20 {
			t.Errorf("%s: %d bytes take %d (%v)", path, st.Size, st.Blocks*512, err)
		}
	}

	// The archive depends on the files alone, and has them once: the images of the
	// lower container share their layers.
	if err := os.Remove(root + "/socket"); err != nil {
		t.Fatal(err)
	}
	for _, x := range []string{"/", "/l/dir"} { // a name that came and went
		var st syscall.Stat_t
		if err := errors.Join(syscall.Stat(h.rootOf(from)+x, &st), unix.UtimesNanoAt(unix.AT_FDCWD, root+x, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.Timespec(st.Mtim)}, 0)); err != nil {
			t.Fatal(err)
		}
	}
	h.must("commit", "--pause=false", id, "new:2")
	h.must("kill", id, "KILL")
	h.waitStatus(id, "stopped")
	h.must("commit", id, "new:3")
	a, b, c, low := h.manifest("new:1"), h.manifest("new:2"), h.manifest("new:3"), h.manifest("lower")
	if len(a.Layers) != 3 || len(low.Layers) != 2 || a.Layers[1] != low.Layers[1] {
		t.Fatalf("layers %+v, below %+v", a.Layers, low.Layers)
	}
	if a.Layers[2] != b.Layers[2] || b.Layers[2] != c.Layers[2] || a.Layers[2].MediaType != "application/vnd.oci.image.layer.v1.tar" {
		t.Errorf("three commits of the same files: %+v, %+v, %+v", a.Layers, b.Layers, c.Layers)
	}
	// GNU tar reads it too, sparse file and all.
	list := tarList(t, filepath.Join(h.store, "blobs", strings.Replace(a.Layers[2].Digest, ":", "/", 1)))
	for _, want := range []string{"./l/.wh.gone", "./l/dir/.wh.a", "./l/opaque/.wh..wh..opq", "./sparse"} {
		if !slices.Contains(list, strings.TrimPrefix(want, "./")) {
			t.Errorf("the archive has no %s: %q", want, list)
		}
	}
}

func tarList(t *testing.T, path string) []string {
	t.Helper()
	r := testenv.RunCmd(t, exec.Command("tar", "--list", "--quoting-style=literal", "--file", path))
	if r.Code != 0 || r.Stderr != "" {
		t.Fatalf("tar --list: %+v", r)
	}
	return strings.Split(r.Stdout, "\n")
}

// Configuration, history and names of a committed image.
func TestRootCommitConfig(t *testing.T) {
	h := imageSetup(t)
	h.load(&imageBlobs{name: "base", layers: [][]byte{imageRootfs(t)}, config: map[string]any{
		"Env": []string{"PATH=/bin", "A=b"}, "Cmd": []string{"sh", "-c", "echo cmd $A $C"}, "WorkingDir": "/tmp",
		"Labels": map[string]string{"l": "1"}, "Healthcheck": map[string]any{"Test": []string{"NONE"}},
	}})
	id := h.id()
	h.must("run", "--image", "base", "-e", "A=other", id, "sh", "-c", "echo x > /x")
	if r := h.do("commit", "-q", id, "one"); r.Code != 0 {
		t.Fatal(r)
	}
	if got := h.do("run", "--rm", "--image", "one", h.id()); got.Stdout != "cmd b\n" || got.Code != 0 {
		t.Errorf("the new image runs %+v", got)
	}
	h.must("commit", "-q", "--change", "ENV C=d", "--change", "LABEL m=2", "--author", "somebody", "--message", "what for", id, "two")
	if got := h.do("run", "--rm", "--image", "two", h.id()); got.Stdout != "cmd b d\n" {
		t.Errorf("the changed image runs %+v", got)
	}
	var c struct {
		Author  string
		Config  struct{ Labels map[string]string }
		Rootfs  struct{ Diff_ids []string }
		History []struct{ Created, Created_by, Comment, Author string }
	}
	h.blob(h.manifest("two").Config.Digest, &c)
	if last := c.History[len(c.History)-1]; len(c.History) != len(c.Rootfs.Diff_ids) || last.Created_by != "sh -c echo x > /x" || last.Comment != "what for" ||
		last.Author != "somebody" || last.Created == "" || c.Author != "somebody" || c.Config.Labels["l"] != "1" || c.Config.Labels["m"] != "2" {
		t.Errorf("configuration %+v", c)
	}
	// Without a name it has its ID.
	got := strings.TrimSpace(h.must("commit", "-q", id))
	if r := h.do("run", "--rm", "--image", got, h.id(), "cat", "/x"); r.Stdout != "x\n" {
		t.Errorf("run of an ID: %+v", r)
	}
	h.must("image", "verify", got)
	// Of an image that was made from one that was made.
	next := h.id()
	h.must("run", "--image", "two", next, "sh", "-c", "rm /x; echo y > /y")
	h.must("image", "commit", "-q", next, "three")
	if r := h.do("run", "--rm", "--image", "three", h.id(), "sh", "-c", "cat /y; ls /x"); r.Stdout != "y\n" {
		t.Errorf("run of the third: %+v", r)
	}

	// Mistakes leave nothing.
	for _, tt := range []struct {
		want string
		args []string
	}{
		{"does not exist", []string{"commit", "nosuch", "n"}},
		{"a tag is", []string{"commit", id, "Bad:Name:x"}},
		{"change", []string{"commit", "--change", "RUN x", id, "n"}},
		{"wrong number", []string{"commit"}},
	} {
		before := h.entries("blobs/sha256")
		if r := h.do(tt.args...); r.Code == 0 || !strings.Contains(r.Stderr, tt.want) {
			t.Errorf("%q: %+v, want %q", tt.args, r, tt.want)
		}
		if now := h.entries("blobs/sha256"); !slices.Equal(before, now) || len(h.entries("ingest")) > 0 {
			t.Errorf("%q left %q", tt.args, now)
		}
	}
	// The image is gone, the container is there: what it stands on has no archive
	// any more.
	for _, name := range []string{"base", "one", "two", "three", got} {
		h.must("image", "rm", "--force", name)
	}
	if r := h.do("commit", id, "n"); r.Code == 0 || !strings.Contains(r.Stderr, "was removed") || !strings.Contains(r.Stderr, "hint: load or pull") {
		t.Errorf("commit without the image: %+v", r)
	}
	// A file that no layer can have.
	h.base()
	wh := h.id()
	h.must("run", "--image", "base", wh, "sh", "-c", "echo > /tmp/.wh.x")
	if r := h.do("commit", wh, "n"); r.Code == 0 || !strings.Contains(r.Stderr, `"tmp/.wh.x"`) {
		t.Errorf("a file .wh.x: %+v", r)
	}
	// A container from a bundle has no layer.
	b := newBox(t, forever)
	b.create()
	defer b.must("delete", "--force")
	if r := testenv.Run(t, "--store", h.store, "commit", b.id, "n"); r.Code == 0 || !strings.Contains(r.Stderr, "made from a bundle") {
		t.Errorf("commit of a bundle's: %+v", r)
	}
}

// A container is paused while it is read, and whatever happens to commit, goes
// on afterwards; one that was paused stays so.
func TestRootCommitPause(t *testing.T) {
	h := imageSetup(t).base()
	id := h.background("mkdir /d; seq 2000 > /d/f; for i in $(seq 30); do cp /d/f /d/$i; done")
	h.must("pause", id)
	h.must("commit", "-q", id, "paused")
	if s := h.status(id); s != "paused" {
		t.Errorf("a container that was paused is %s", s)
	}
	h.must("resume", id)

	paused, points := 0, 0
	for n := 1; ; n += 9 {
		_, reached := tracedRun(t, minirunItself, n, nil, h.command("commit", "--quiet", id, "new")...)
		what := "commit killed at call " + strconv.Itoa(n)
		points++
		if h.status(id) == "paused" {
			paused++
		}
		eventually(t, what+": the container goes on", func() bool { return h.status(id) == "running" })
		if r := h.do("image", "list"); r.Code != 0 || r.Stderr != "" {
			t.Errorf("%s: list: %+v", what, r)
		}
		if n%5 == 1 {
			if strings.Contains(h.must("images"), "new") {
				if r := h.do("run", "--rm", "--image", "new", h.id(), "cat", "/d/30"); r.Code != 0 || !strings.HasSuffix(r.Stdout, "\n2000\n") {
					t.Errorf("%s: the image is not whole: %d, %s", what, r.Code, r.Stderr)
				}
				h.must("image", "rm", "new")
			}
			h.must("image", "gc")
			h.clean(what)
		}
		if t.Failed() {
			t.Fatal(what)
		}
		if !reached {
			break
		}
	}
	t.Logf("%d crash points, %d left a paused container", points, paused)
	if points < 10 {
		t.Errorf("only %d crash points", points)
	}
}

// diff of a container shows what it has done, and diff of images the same of
// what commit made.
func TestRootDiff(t *testing.T) {
	h := imageSetup(t).base()
	lower := h.background(commitLower)
	h.must("commit", "-q", lower, "lower")
	id := h.background("rm -r /l/gone /l/todir /l/tofile /l/opaque; mkdir /l/todir; echo new > /l/todir/n; echo f > /l/tofile; mkdir /l/opaque; echo b > /l/opaque/both;"+
		"chmod 600 /l/meta; mkdir /n; touch /n/a '/n/b\tc'; rm /l/again; echo again > /l/again; echo x > /l/tmp; rm /l/tmp", "--image", "lower")
	want := []string{
		"C /l", "C /l/again", "D /l/gone", "C /l/meta", "C /l/opaque", "C /l/opaque/both", "D /l/opaque/old", "C /l/todir", "A /l/todir/n", "C /l/tofile",
		"A /n", "A /n/a", "A /n/b?c",
	}
	text := func(s string) (list []string) {
		for line := range strings.Lines(s) {
			list = append(list, strings.TrimSuffix(line, "\n"))
		}
		slices.SortFunc(list, func(a, b string) int { return strings.Compare(a[2:], b[2:]) })
		return list
	}
	if got := text(h.must("diff", id)); !slices.Equal(got, want) {
		t.Errorf("diff\n got %q\nwant %q", got, want)
	}
	var rows []struct{ Kind, Path string }
	if err := json.Unmarshal([]byte(h.must("diff", "--format", "json", id)), &rows); err != nil || len(rows) != len(want) || rows[len(rows)-1].Path != "/n/b\tc" {
		t.Errorf("diff --format json: %v, %v", rows, err)
	}
	h.must("commit", "-q", id, "new")
	// The same, but for what has its old content.
	want = slices.DeleteFunc(want, func(s string) bool { return s == "C /l/again" })
	if got := text(h.must("image", "diff", "lower", "new")); !slices.Equal(got, want) {
		t.Errorf("image diff\n got %q\nwant %q", got, want)
	}
	swap := map[byte]byte{'A': 'D', 'D': 'A', 'C': 'C'}
	back := text(h.must("image", "diff", "new", "lower"))
	for i := range back {
		back[i] = string(swap[back[i][0]]) + back[i][1:]
	}
	for _, line := range []string{"D /l/gone", "C /l/todir", "A /n"} {
		if !slices.Contains(back, line) {
			t.Errorf("image diff backwards has no %q: %q", line, back)
		}
	}
	if got := h.must("image", "diff", "new", "new"); got != "" {
		t.Errorf("an image differs from itself: %q", got)
	}
	if got := h.must("image", "diff", "--format", "json", "new", "new"); strings.TrimSpace(got) != "[]" {
		t.Errorf("no difference as JSON: %q", got)
	}
	fresh := h.background("", "--image", "new")
	if got := h.must("diff", fresh); got != "" {
		t.Errorf("diff of a new container: %q", got)
	}
	for _, args := range [][]string{{"diff", "nosuch"}, {"diff", "--format", "yaml", id}, {"image", "diff", "new"}, {"image", "diff", "new", "nosuch"}} {
		if r := h.do(args...); r.Code != 1 || r.Stderr == "" {
			t.Errorf("%q: %+v", args, r)
		}
	}
}
