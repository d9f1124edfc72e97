package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
)

// A root file system becomes an image, in whatever form it comes.
func TestRootImageImport(t *testing.T) {
	h := imageSetup(t)
	dir := t.TempDir()
	plain := imageRootfs(t, imageEntry{name: "marker", data: "here\n", mode: 0o640, uid: 7, gid: 8},
		imageEntry{name: "bin/setuid", data: "x", mode: 0o4711}, imageEntry{name: "tmp/link", link: "/marker"})
	forms := map[string][]byte{"plain": plain, "gzip": imageGzip(t, plain), "zstd": imageZstd(plain)}
	const look = "cat /tmp/link; stat -c '%a %u:%g' /marker /bin/setuid /tmp"
	const want = "here\n640 7:8\n4711 0:0\n1777 0:0\n"
	for name, raw := range forms {
		path := filepath.Join(dir, name)
		writeFile(t, path, string(raw))
		h.must("image", "import", "--quiet", path, name)
		if got := h.must("run", "--rm", "--image", name, h.id(), "sh", "-c", look); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if layers := h.entries("overlay/layers"); len(layers) != 1 {
		t.Errorf("one content, unpacked %d times", len(layers))
	}

	// From standard input, with changes of the configuration.
	cmd := testenv.Command(t, h.command("image", "import", "--quiet", "--change", `ENTRYPOINT ["echo","entry"]`, "--change", `CMD ["cmd"]`, "-", "piped")...)
	cmd.Stdin = strings.NewReader(string(forms["gzip"]))
	if r := testenv.RunCmd(t, cmd); r.Code != 0 || r.Stderr != "" {
		t.Fatalf("import from a pipe: %+v", r)
	}
	if got := h.must("run", "--rm", "--image", "piped", h.id()); got != "entry cmd\n" {
		t.Errorf("Entrypoint and Cmd: %q", got)
	}

	// A directory.
	rootfs := testenv.Rootfs(t)
	writeFile(t, filepath.Join(rootfs, "marker"), "in a directory\n")
	h.must("image", "import", "--quiet", rootfs, "directory")
	if got := h.must("run", "--rm", "--image", "directory", h.id(), "cat", "/marker"); got != "in a directory\n" {
		t.Errorf("directory: %q", got)
	}
	writeFile(t, filepath.Join(rootfs, "marker"), "changed afterwards\n")
	if got := h.must("run", "--rm", "--image", "directory", h.id(), "cat", "/marker"); got != "in a directory\n" {
		t.Errorf("the image changes with the directory it was made from: %q", got)
	}

	h.refused("no such file", "image", "import", filepath.Join(dir, "missing"), "x")
	junk := filepath.Join(dir, "junk")
	writeFile(t, junk, strings.Repeat("this is no archive ", 100))
	h.refused("", "image", "import", junk, "x")
	truncated := filepath.Join(dir, "truncated")
	writeFile(t, truncated, string(forms["gzip"][:len(forms["gzip"])/2]))
	h.refused("", "image", "import", truncated, "x")
	h.refused("", "run", "--image", "x", h.id(), "true")
}

// Layers on layers, as archives of docker and of OCI bring them: an upper layer
// adds, replaces and removes.
func TestRootImageLoad(t *testing.T) {
	h := imageSetup(t)
	base := imageRootfs(t, imageEntry{name: "gone", data: "x"}, imageEntry{name: "changed", data: "old"},
		imageEntry{name: "opaque/"}, imageEntry{name: "opaque/below", data: "x"}, imageEntry{name: "dir/"}, imageEntry{name: "dir/sub/"},
		imageEntry{name: "dir/sub/file", data: "x"}, imageEntry{name: "dir/stays", data: "x"}, imageEntry{name: "type/"}, imageEntry{name: "type/x", data: "x"})
	top := imageLayer(t, imageEntry{name: ".wh.gone"}, imageEntry{name: "changed", data: "new"}, imageEntry{name: "opaque/"},
		imageEntry{name: "opaque/.wh..wh..opq"}, imageEntry{name: "opaque/above", data: "x"}, imageEntry{name: "dir/"}, imageEntry{name: "dir/.wh.sub"},
		imageEntry{name: "type", data: "a file now"})
	const look = "cd /; ls -d gone; cat changed; echo; ls opaque dir; cat type"
	const want = "new\ndir:\nstays\n\nopaque:\nabove\na file now"
	config := map[string]any{"Cmd": []string{"sh", "-c", look}}
	docker := &imageBlobs{name: "docker", layers: [][]byte{base, top}, config: config}
	layout := &imageBlobs{name: "layout", layers: [][]byte{base, top}, config: config}
	archive := &imageBlobs{name: "archive", layers: [][]byte{base, top}, config: config}
	h.load(docker)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range layout.oci(t) {
		writeFile(t, filepath.Join(dir, f.name), f.data)
	}
	h.must("image", "load", "--quiet", dir)
	cmd := testenv.Command(t, h.command("image", "load", "--quiet")...)
	cmd.Stdin = strings.NewReader(string(imageGzip(t, imageLayer(t, archive.oci(t)...))))
	if r := testenv.RunCmd(t, cmd); r.Code != 0 || r.Stderr != "" {
		t.Fatalf("load from a pipe: %+v", r)
	}
	for _, name := range []string{"docker", "layout", "archive"} {
		r := h.do("run", "--rm", "--image", name, h.id())
		if r.Code != 0 || r.Stdout != want || !strings.Contains(r.Stderr, "gone") {
			t.Errorf("%s: %+v, want %q", name, r, want)
		}
	}
	if layers := h.entries("overlay/layers"); len(layers) != 2 {
		t.Errorf("two layers in three images, unpacked as %d", len(layers))
	}

	// What does not fit together is refused, and nothing of it is kept.
	bad := docker.docker(t)
	i := strings.Index(string(bad), "a file now")
	bad[i] = 'A'
	path := filepath.Join(dir, "bad.tar")
	writeFile(t, path, string(bad))
	blobs := len(h.entries("blobs/sha256"))
	h.refused("", "image", "load", "--name", "bad", path)
	if n := len(h.entries("blobs/sha256")); n != blobs {
		t.Errorf("%d blobs after a refused load, %d before", n, blobs)
	}
	h.refused("bad", "run", "--image", "bad", h.id())
}

// The layers are unpacked when the first container needs them, and not before
// when that was the wish.
func TestRootImageUnpackOnDemand(t *testing.T) {
	h := imageSetup(t)
	h.must("image", "import", "--quiet", "--no-unpack", "--change", `CMD ["echo","ran"]`, testenv.Rootfs(t), "base")
	if l := h.entries("overlay/layers"); l != nil {
		t.Errorf("unpacked at once: %v", l)
	}
	// explain says what would be done, and does not do it.
	r := h.do("explain", "--image", "base")
	if r.Code == 0 || !strings.Contains(r.Stderr, "not unpacked") || !strings.Contains(r.Stderr, "hint: minirun image unpack base") {
		t.Errorf("explain: %+v", r)
	}
	if _, err := os.Lstat(filepath.Join(h.store, "overlay")); err == nil {
		t.Error("explain has made the layer store")
	}
	if got := h.do("run", "--rm", "--image", "base", h.id()); got.Code != 0 || got.Stdout != "ran\n" {
		t.Errorf("run: %+v", got)
	}
	if err := os.RemoveAll(filepath.Join(h.store, "overlay")); err != nil {
		t.Fatal(err)
	}
	if got := h.do("run", "--rm", "--image", "base", h.id()); got.Code != 0 || got.Stdout != "ran\n" {
		t.Errorf("run, the layers lost: %+v", got)
	}

	// A blob that has gone bad since.
	if err := os.RemoveAll(filepath.Join(h.store, "overlay")); err != nil {
		t.Fatal(err)
	}
	var layer string
	for _, b := range h.entries("blobs/sha256") {
		path := filepath.Join(h.store, "blobs/sha256", b)
		if st, err := os.Stat(path); err == nil && (layer == "" || st.Size() > 100<<10) {
			layer = path
		}
	}
	whole := readFile(t, layer)
	for what, content := range map[string]string{
		"a bit flipped": whole[:1<<19] + "\xff\xff\xff\xff" + whole[1<<19+4:],
		"truncated":     whole[:len(whole)/2],
		"empty":         "",
	} {
		if err := os.Remove(layer); err != nil {
			t.Fatal(err)
		}
		writeFile(t, layer, content)
		h.refused("base", "run", "--rm", "--image", "base", h.id())
		h.refused("base", "create", "--image", "base", h.id())
		if l := h.entries("overlay/layers"); len(l) > 0 {
			t.Errorf("%s: layers %v", what, l)
		}
		if r := h.do("image", "verify", "base"); r.Code == 0 {
			t.Errorf("%s: verify: %+v", what, r)
		}
	}
	if err := os.Remove(layer); err != nil {
		t.Fatal(err)
	}
	h.refused("base", "run", "--rm", "--image", "base", h.id())
	writeFile(t, layer, whole)
	if got := h.do("run", "--rm", "--image", "base", h.id()); got.Code != 0 || got.Stdout != "ran\n" {
		t.Errorf("run, the blob back: %+v", got)
	}
	// The records may be missing too, as in a store of a version that wrote none, or useless.
	if err := os.RemoveAll(filepath.Join(h.store, "unpacked")); err != nil {
		t.Fatal(err)
	}
	if got := h.do("run", "--rm", "--image", "base", h.id()); got.Code != 0 || got.Stdout != "ran\n" {
		t.Errorf("run without a record: %+v", got)
	}
	for _, name := range h.entries("unpacked") {
		writeFile(t, filepath.Join(h.store, "unpacked", name), "{")
	}
	if got := h.do("run", "--rm", "--image", "base", h.id()); got.Code != 0 || got.Stdout != "ran\n" {
		t.Errorf("run with half a record: %+v", got)
	}
}

// The image that is built in is made on first use; what that says does not
// mingle with the container's output.
// An image that is damaged where nothing was unpacked yet: one error, with the way out.
func TestRootImageUnpackDamaged(t *testing.T) {
	h := imageSetup(t)
	h.load(&imageBlobs{name: "base", layers: [][]byte{imageRootfs(t)}}, "--no-unpack")
	var list []struct{ Layers []struct{ Digest string } }
	if err := json.Unmarshal([]byte(h.must("image", "inspect", "base")), &list); err != nil || len(list) != 1 || len(list[0].Layers) != 1 {
		t.Fatalf("inspect: %v, %v", list, err)
	}
	blob := filepath.Join(h.store, "blobs", strings.Replace(list[0].Layers[0].Digest, ":", "/", 1))
	b := []byte(readFile(t, blob))
	b[len(b)/2] ^= 1
	writeFile(t, blob, string(b))
	r := h.do("run", "--rm", "--image", "base", h.id(), "true")
	if r.Code != 1 || strings.Count(r.Stderr, "minirun:") != 1 || !strings.Contains(r.Stderr, "hint: what is stored is damaged: minirun image fsck --repair") {
		t.Errorf("run: %+v", r)
	}
	if r := h.do("image", "fsck", "--repair"); r.Code != 1 || !strings.Contains(r.Stdout, "is missing (load or pull it again, or remove it)") {
		t.Errorf("fsck: %+v", r)
	}
	h.load(&imageBlobs{name: "base", layers: [][]byte{imageRootfs(t)}})
	h.must("run", "--rm", "--image", "base", h.id(), "true")
	h.sound("at the end")
}

func TestRootImageDemo(t *testing.T) {
	h := imageSetup(t)
	r := h.do("explain", "--image", "minirun/demo")
	if r.Code == 0 || !strings.Contains(r.Stderr, "hint: minirun image demo") {
		t.Errorf("explain: %+v", r)
	}
	if _, err := os.Lstat(h.store); err == nil {
		t.Error("explain has made the store")
	}
	// Without minirund beside it, minirun says what is missing.
	alone := filepath.Join(t.TempDir(), "minirun")
	if err := os.WriteFile(alone, []byte(readFile(t, testenv.Binary(t))), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := testenv.Command(t, h.command("run", "--rm", "--image", "minirun/demo", h.id())...)
	cmd.Path = alone
	cmd.Args[0] = alone
	if r := testenv.RunCmd(t, cmd); r.Code != 1 || !strings.Contains(r.Stderr, "minirund\" is missing") || !strings.Contains(r.Stderr, "hint: install minirund") {
		t.Errorf("without minirund: %+v", r)
	}
	h.clean("without minirund")

	id := h.id()
	r = h.do("run", "--rm", "--image", "minirun/demo", id)
	if r.Code != 0 || !strings.HasPrefix(r.Stdout, "Hello from the image minirun/demo.") || !strings.Contains(r.Stdout, "host name  "+id+"\n") || !strings.Contains(r.Stderr, "made minirun/demo") {
		t.Errorf("the first run: %+v", r)
	}
	if got := h.must("run", "--rm", "--image", "minirun/demo", h.id(), "echo", "again"); got != "again\n" {
		t.Errorf("the second run: %q", got)
	}
	// Once it is there, minirun needs nobody.
	cmd = testenv.Command(t, h.command("run", "--rm", "--image", "docker.io/minirun/demo:latest", h.id(), "exit", "9")...)
	cmd.Path = alone
	cmd.Args[0] = alone
	if r := testenv.RunCmd(t, cmd); r.Code != 9 || r.Stderr != "" {
		t.Errorf("alone: %+v", r)
	}
}

// An ID may be as long as a file name.
func TestRootImageLongID(t *testing.T) {
	h := imageSetup(t).base()
	short := h.id()
	for _, n := range []int{64, 128, 200, 201, 247, 248, 255} {
		id := short + strings.Repeat("x", n-len(short))
		r := h.do("run", "--rm", "--image", "base", id, "hostname")
		if r.Code != 0 || r.Stdout != id[:63]+"\n" {
			t.Errorf("%d bytes: %+v", n, r)
		}
		h.clean("long ID")
	}
	h.refused("invalid container ID", "run", "--image", "base", short+strings.Repeat("x", 256-len(short)), "true")
}
