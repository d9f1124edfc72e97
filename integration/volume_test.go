package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// noVolumes fails the test if a volume, or a part of one, is left.
func (h *imageHost) noVolumes(what string) {
	h.t.Helper()
	if left := h.entries("volumes"); len(left) > 0 {
		h.t.Errorf("%s: volumes %q", what, left)
	}
}

// A volume is filled from the image when it is used for the first time, with
// everything that the image has there, and then keeps what containers do to it.
func TestRootVolumeFill(t *testing.T) {
	h := imageSetup(t).base()
	lower := h.background(`mkdir -p /data/sub /data/empty; chmod 2750 /data; chown 5:6 /data; echo a > /data/a; ln /data/a /data/sub/b; ln -s /etc/passwd /data/out
chmod 4711 /data/a; chown 7:8 /data/sub; mkfifo /data/fifo; mknod /data/null c 1 3; truncate -s 1G /data/sparse; echo end >> /data/sparse; touch -d '2001-02-03 04:05:06' /data/empty /data/sub/b
ln -s /data /link; ln -s ../../../../../../etc /up; echo file > /plain`)
	root := h.rootOf(lower)
	for _, x := range [][3]string{{"/data", "user.dir", "d"}, {"/data/a", "user.test", "v"}} {
		if err := unix.Setxattr(root+x[0], x[1], []byte(x[2]), 0); err != nil {
			t.Fatal(err)
		}
	}
	h.must("commit", "-q", lower, "data")
	want := treeOf(t, root+"/data")
	id := h.background("", "--image", "data", "-v", "named:/data", "-v", "nothing:/nothing", "-v", "up:/up", "-v", "no:/data/sub:nocopy")
	sameTree(t, "a volume", treeOf(t, h.store+"/volumes/named/_data"), want)
	h.must("run", "--rm", "--image", "data", "--mount", "type=volume,src=linked,dst=/link", h.id(), "true")
	sameTree(t, "a volume through a link", treeOf(t, h.store+"/volumes/linked/_data"), want)
	if len(want) < 9 || !strings.Contains(want["/a"], "user.test") || !strings.Contains(want["/a"], "links 2") {
		t.Errorf("the tree says nothing: %q", want)
	}
	var st unix.Stat_t
	if err := unix.Stat(h.store+"/volumes/named/_data/sparse", &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("the sparse file takes %d bytes (%v)", st.Blocks*512, err)
	}
	// A link that leads out of the image ends in it.
	if got := treeOf(t, h.store+"/volumes/up/_data"); got["/passwd"] == "" || strings.Contains(readFile(t, h.store+"/volumes/up/_data/passwd"), readFile(t, "/etc/passwd")) {
		t.Errorf("through a link to ..: %q", got)
	}
	for _, name := range []string{"nothing", "no"} {
		if got := treeOf(t, h.store+"/volumes/"+name+"/_data"); len(got) != 1 || !strings.HasPrefix(got["/"], "40755 0:0 ") {
			t.Errorf("volume %s: %q", name, got)
		}
	}
	// What is in it stays, and is not filled again, empty or not.
	h.must("exec", id, "sh", "-c", "echo new > /data/a; rm -r /data/empty; echo x > /nothing/x")
	if got := h.must("run", "--rm", "--image", "data", "-v", "named:/data", "-v", "nothing:/data/sub:ro", "-v", "no:/x", h.id(), "sh", "-c", "cat /data/a; ls /data/empty 2>&1; ls /data/sub /x; touch /data/sub/y 2>&1; true"); !strings.HasPrefix(got, "new\nls: /data/empty: No such") ||
		!strings.Contains(got, "\nx\n") || !strings.Contains(got, "Read-only file system") {
		t.Errorf("used again: %q", got)
	}
	h.must("volume", "create", "late")
	if got := h.must("run", "--rm", "--image", "data", "-v", "late:/data", h.id(), "cat", "/data/a"); got != "a\n" {
		t.Errorf("a volume that was made before: %q", got)
	}
	if err := os.WriteFile(h.store+"/volumes/mine", nil, 0o600); err != nil { // no volume: in nobody's way
		t.Fatal(err)
	}
	if err := os.Remove(h.store + "/volumes/mine"); err != nil {
		t.Fatal(err)
	}
	h.must("volume", "create", "hand")
	writeFile(t, h.store+"/volumes/hand/_data/own", "own")
	if got := h.must("run", "--rm", "--image", "data", "-v", "hand:/data", h.id(), "ls", "/data"); got != "own\n" {
		t.Errorf("a volume that an administrator has filled: %q", got)
	}
	// An image with a file there.
	if r := h.do("run", "--rm", "--image", "data", "-v", "plain:/plain", h.id(), "true"); r.Code == 0 {
		t.Errorf("a volume over a file: %+v", r)
	}
}

// Volumes that the image asks for, and who removes them.
func TestRootVolumeAnonymous(t *testing.T) {
	h := imageSetup(t)
	h.load(&imageBlobs{name: "base", layers: [][]byte{imageRootfs(t, imageEntry{name: "data/f", data: "image\n", mode: 0o644})}, config: map[string]any{
		"Env": []string{"PATH=/bin"}, "Volumes": map[string]any{"/data": map[string]any{}, "/other/": map[string]any{}},
	}})
	id := h.id()
	h.must("run", "--image", "base", id, "sh", "-c", "cat /data/f; echo changed > /data/f; touch /other/x; touch /up")
	if n := len(h.entries("volumes")); n != 2 {
		t.Errorf("%d volumes, want 2", n)
	}
	if got := h.must("diff", id); strings.Contains(got, "/data/") || !strings.Contains(got, "A /up") {
		t.Errorf("diff: %q", got) // what is in a volume is no part of the container
	}
	if got := h.must("run", "--image", "base", "--rm", "--volumes-from", id, h.id(), "sh", "-c", "cat /data/f; ls /other"); got != "changed\nx\n" {
		t.Errorf("--volumes-from: %q", got)
	}
	if n := len(h.entries("volumes")); n != 2 {
		t.Errorf("after --rm with the volumes of another: %d volumes, want 2", n)
	}
	if r := h.do("run", "--image", "base", "--rm", "--volumes-from", id+":ro", h.id(), "touch", "/data/g"); !strings.Contains(r.Stderr, "Read-only file system") {
		t.Errorf("--volumes-from :ro: %+v", r)
	}
	dir := t.TempDir()
	if got := h.must("run", "--image", "base", "--rm", "--volumes-from", id, "-v", dir+":/data", "--tmpfs", "/other", h.id(), "ls", "/data", "/other"); got != "/data:\n\n/other:\n" {
		t.Errorf("flags win: %q", got)
	}
	if got := h.must("run", "--image", "base", "--rm", "-v", "/more", "-v", "kept:/data", h.id(), "cat", "/data/f"); got != "image\n" {
		t.Errorf("--rm: %q", got)
	}
	if left := h.entries("volumes"); len(left) != 3 || !slices.Contains(left, "kept") {
		t.Errorf("after --rm: %q", left)
	}
	if got := h.must("volume", "prune"); got != "" {
		t.Errorf("prune of what is in use: %q", got)
	}
	h.must("delete", id)
	if got := strings.Split(h.must("volume", "prune", "--dry-run"), "\n"); len(got) != 3 || len(got[0]) != len("would remove ")+64 {
		t.Errorf("prune --dry-run: %q", got)
	}
	var rows []struct{ Name string }
	if err := json.Unmarshal([]byte(h.must("volume", "prune", "--dry-run", "--all", "--format", "json")), &rows); err != nil || len(rows) != 3 || rows[2].Name != "kept" {
		t.Errorf("prune --dry-run --all --format json: %v, %v", rows, err)
	}
	h.refused("--format json is for --dry-run", "volume", "prune", "--format", "json")
	if left := h.entries("volumes"); len(left) != 3 {
		t.Errorf("after --dry-run: %q", left)
	}
	if got := strings.Fields(h.must("volume", "prune")); len(got) != 2 || len(got[0]) != 64 {
		t.Errorf("prune: %q", got)
	}
	if got := h.must("volume", "prune", "--all"); got != "kept\n" {
		t.Errorf("prune --all: %q", got)
	}
	h.noVolumes("pruned")
	// delete --volumes takes what has no name and what nobody else uses.
	first, second := h.id(), h.id()
	h.must("run", "--image", "base", "-v", "kept:/kept", first, "true")
	h.must("run", "--image", "base", "--volumes-from", first, "-v", "/own", second, "true")
	h.must("delete", "--volumes", first)
	if left := h.entries("volumes"); len(left) != 4 {
		t.Errorf("delete -v of what another uses: %q, want 4 volumes", left)
	}
	h.must("delete", "-f", "-v", second)
	if left := h.entries("volumes"); len(left) != 1 || left[0] != "kept" {
		t.Errorf("delete -v: %q", left)
	}
	h.must("volume", "rm", "kept")
	h.noVolumes("delete --volumes")
	// A container that cannot be made leaves none, one that is only explained neither.
	if r := h.do("run", "--image", "base", "--user", "nosuch", h.id(), "true"); r.Code == 0 {
		t.Errorf("an unknown user: %+v", r)
	}
	if r := h.do("run", "--image", "base", "-v", "/nosuch/dir:/x", h.id(), "true"); r.Code == 0 || !strings.Contains(r.Stderr, "/nosuch/dir: no such file or directory") {
		t.Errorf("a missing source: %+v", r)
	}
	if got := h.must("explain", "--image", "base", "-v", "n:/n", h.id(), "true"); !strings.Contains(got, "volumes/n/_data") {
		t.Errorf("explain: %q", got)
	}
	h.noVolumes("nothing ran")
	for _, tt := range []struct{ want, flag, value string }{
		{"does not exist", "--volumes-from", "nosuch"}, {"want CONTAINER", "--volumes-from", "x:rx"}, {"absolute", "-v", "a"}, {"unknown key", "--mount", "dst=/x,a=b"},
	} {
		if r := h.do("run", "--image", "base", tt.flag, tt.value, h.id(), "true"); r.Code == 0 || !strings.Contains(r.Stderr, tt.want) {
			t.Errorf("%s %s: %+v, want %q", tt.flag, tt.value, r, tt.want)
		}
	}
}

func TestRootVolumeCommands(t *testing.T) {
	h := imageSetup(t).base()
	if got := h.must("volume", "list"); got != "NAME  CREATED  CONTAINERS\n" {
		t.Errorf("no volumes: %q", got)
	}
	if got := h.must("volume", "list", "--format", "json"); got != "[]\n" {
		t.Errorf("no volumes as JSON: %q", got)
	}
	if got := h.must("volume", "create", "--label", "a=b", "--label", "c", "one"); got != "one\n" {
		t.Errorf("create: %q", got)
	}
	random := strings.TrimSpace(h.must("volume", "create"))
	if len(random) != 64 {
		t.Errorf("create without a name: %q", random)
	}
	id := h.background("", "-v", "one:/one")
	var rows []struct {
		Name, Mountpoint, Created string
		Labels                    map[string]string
		Anonymous                 bool
		Containers                []string
	}
	if err := json.Unmarshal([]byte(h.must("volume", "inspect", "one")), &rows); err != nil || len(rows) != 1 {
		t.Fatalf("inspect: %v, %v", err, rows)
	}
	if r := rows[0]; r.Name != "one" || r.Mountpoint != h.store+"/volumes/one/_data" || r.Created == "" || len(r.Labels) != 2 || r.Labels["a"] != "b" || r.Anonymous || !slices.Equal(r.Containers, []string{id}) {
		t.Errorf("inspect: %+v", r)
	}
	if got := strings.Fields(h.must("volume", "list", "-q")); len(got) != 2 || !slices.Contains(got, "one") || !slices.Contains(got, random) {
		t.Errorf("list -q: %q", got)
	}
	for _, dir := range []string{"volumes", "volumes/one"} {
		if st, err := os.Stat(filepath.Join(h.store, dir)); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, st.Mode(), err)
		}
	}
	for _, tt := range []struct {
		want string
		args []string
	}{
		{"exists already", []string{"create", "one"}},
		{"volume name", []string{"create", "../x"}},
		{"volume name", []string{"create", ".x"}},
		{"volume name", []string{"rm", ".."}},
		{"volume name", []string{"inspect", "a/b"}},
		{"unknown driver", []string{"create", "--driver", "nfs", "x"}},
		{"label", []string{"create", "--label", "=x", "x"}},
		{"in use by " + id, []string{"rm", "one"}},
		{"in use by " + id, []string{"rm", "--force", "one"}},
		{"does not exist", []string{"rm", "x"}},
		{"does not exist", []string{"inspect", "x"}},
		{"unknown format", []string{"list", "--format", "x"}},
		{"unknown command", []string{"x"}},
	} {
		if r := h.do(append([]string{"volume"}, tt.args...)...); r.Code != 1 || !strings.Contains(r.Stderr, tt.want) || !strings.Contains(r.Stderr, "hint: ") && strings.Contains(tt.want, "in use") {
			t.Errorf("volume %q: %+v, want %q", tt.args, r, tt.want)
		}
	}
	h.must("volume", "rm", "--force", "nosuch")
	if got := h.must("volume", "prune"); got != "" {
		t.Errorf("prune without --all removes %q", got)
	}
	if got := h.must("volume", "prune", "--all"); got != random+"\n" {
		t.Errorf("prune --all: %q", got)
	}
	h.must("delete", "--force", id)
	if got := h.must("volume", "rm", "one"); got != "one\n" {
		t.Errorf("rm: %q", got)
	}
	h.noVolumes("all removed")
}

// minirun is killed at system calls all over the making, filling and using of
// volumes: what the next container finds is the whole of what the image has, and
// nothing that was made is left when it is asked to go.
func TestRootVolumeCrash(t *testing.T) {
	h := imageSetup(t)
	disk := filepath.Join(t.TempDir(), "disk") // whose syncs wait for nobody else's files
	imageDisk(t, disk, "size=256m")
	h.store = filepath.Join(disk, "store")
	h.load(&imageBlobs{
		name: "base", layers: [][]byte{imageRootfs(t, imageEntry{name: "data/a", data: "a\n"}, imageEntry{name: "data/b/c", data: "c\n"}, imageEntry{name: "data/z", data: "z\n"})},
		config: map[string]any{"Env": []string{"PATH=/bin"}, "Volumes": map[string]any{"/data/b": map[string]any{}}},
	})
	points, half := 0, 0
	for n := 1; ; n += 7 {
		id := h.id()
		code, reached := tracedRun(t, minirunItself, n, []uint64{unix.SYS_MKDIRAT, sysMkdir}, h.command("run", "--rm", "--image", "base", "-v", "named:/data", id, "true")...)
		what := "killed at call " + strconv.Itoa(n)
		if !reached && code != 0 {
			t.Fatalf("%s: exit status %d under trace", what, code)
		}
		points++
		if _, err := os.Stat(h.store + "/volumes/named/_data.new"); err == nil {
			half++
		}
		got := h.do("run", "--rm", "--image", "base", "-v", "named:/data", h.id(), "sh", "-c", "cat /data/a /data/z /data/b/c")
		if got.Code != 0 || got.Stdout != "a\nz\nc\n" {
			t.Errorf("%s: the volume is not whole: %+v", what, got)
		}
		h.converge(what, id)
		h.must("volume", "prune", "--all")
		h.noVolumes(what)
		if t.Failed() {
			t.Fatal(what)
		}
		if !reached {
			break
		}
	}
	t.Logf("%d crash points, %d in the middle of filling", points, half)
	if points < 20 || half == 0 {
		t.Errorf("only %d crash points, %d in the middle of filling", points, half)
	}
	// So is a removal.
	h.must("run", "--rm", "--image", "base", "-v", "named:/data", h.id(), "true")
	for n := 1; ; n++ {
		_, reached := tracedRun(t, minirunItself, n, []uint64{unix.SYS_RENAMEAT}, h.command("volume", "rm", "named")...)
		got := h.do("run", "--rm", "--image", "base", "-v", "named:/data", h.id(), "cat", "/data/a")
		if got.Code != 0 || got.Stdout != "a\n" {
			t.Fatalf("rm killed at call %d: %+v", n, got)
		}
		if !reached {
			break
		}
	}
	h.must("volume", "prune", "--all")
	h.noVolumes("the end")
}
