package integration

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
)

// imageHost is a state directory and a store of images for one test.
type imageHost struct {
	t     testing.TB
	spent *spent // by its commands, if somebody wants to know
	root  string
	store string
}

// imageSetup starts a test that needs root. At its end the containers are
// deleted, and nothing may be left of them in the store or anywhere else.
func imageSetup(t *testing.T) *imageHost {
	t.Helper()
	setup(t)
	testenv.Supervisor(t)
	h := &imageHost{t: t, root: testenv.StateRoot(t), store: filepath.Join(t.TempDir(), "store")}
	t.Cleanup(func() {
		stop := reapContainers(t)
		for _, id := range strings.Fields(h.must("list", "--quiet")) {
			h.must("delete", "--force", id)
		}
		stop()
		h.clean("at the end")
	})
	return h
}

// command is minirun's command line with this state directory and this store.
func (h *imageHost) command(args ...string) []string {
	return append([]string{"--root", h.root, "--store", h.store}, args...)
}

func (h *imageHost) do(args ...string) testenv.Result {
	h.t.Helper()
	if h.spent != nil {
		return h.spent.run(h.t, testenv.Command(h.t, h.command(args...)...))
	}
	return testenv.Run(h.t, h.command(args...)...)
}

// must is do for a command that has to succeed without a word on standard error.
func (h *imageHost) must(args ...string) string {
	h.t.Helper()
	r := h.do(args...)
	if r.Code != 0 || r.Stderr != "" {
		h.t.Fatalf("minirun %q: exit status %d\n%s%s", args, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// refused wants a command to fail with a text on standard error, and nothing to
// be left of what it did.
func (h *imageHost) refused(want string, args ...string) {
	h.t.Helper()
	r := h.do(args...)
	if r.Code == 0 || !strings.Contains(r.Stderr, want) || strings.Contains(r.Stderr, "panic") {
		h.t.Errorf("minirun %q: %+v, want an error with %q", args, r, want)
	}
	h.clean(fmt.Sprintf("after %q", args))
}

// base makes the image "base": busybox, with sh as its command.
func (h *imageHost) base() *imageHost {
	h.t.Helper()
	h.must("image", "import", "--quiet", "--change", `CMD ["sh"]`, testenv.Rootfs(h.t), "base")
	return h
}

// id is a new container ID.
func (h *imageHost) id() string { h.t.Helper(); return testenv.UniqueID(h.t) }

// sh runs a script in a new container of the image "base", which it removes.
func (h *imageHost) sh(script string, flags ...string) testenv.Result {
	h.t.Helper()
	args := append([]string{"run", "--rm", "--image", "base"}, flags...)
	return h.do(append(args, h.id(), "sh", "-c", script)...)
}

// out is the output of a script that has to succeed.
func (h *imageHost) out(script string, flags ...string) string {
	h.t.Helper()
	r := h.sh(script, flags...)
	if r.Code != 0 || r.Stderr != "" {
		h.t.Fatalf("%q with %q: %+v", script, flags, r)
	}
	return r.Stdout
}

// status is a container's status, "" for one that does not exist.
func (h *imageHost) status(id string) string {
	h.t.Helper()
	r := h.do("state", id)
	var s ociState
	if r.Code != 0 {
		return ""
	}
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		h.t.Fatal(err)
	}
	return s.Status
}

func (h *imageHost) waitStatus(id, want string) {
	h.t.Helper()
	eventually(h.t, id+" is "+want, func() bool { return h.status(id) == want })
}

// entries are the names in a directory of the store; none if it does not exist.
func (h *imageHost) entries(dir string) []string {
	var names []string
	list, _ := os.ReadDir(filepath.Join(h.store, dir))
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// clean fails the test unless every snapshot belongs to a container, and every
// container to a snapshot, and no work is left half done.
func (h *imageHost) clean(when string) {
	h.t.Helper()
	var ids, keys []string
	list, err := os.ReadDir(h.root)
	if err != nil {
		h.t.Error(err)
	}
	for _, e := range list {
		ids = append(ids, e.Name())
	}
	for _, key := range h.entries("overlay/snapshots") {
		if i := strings.LastIndexByte(key, '.'); i > 0 {
			key = key[:i]
		}
		keys = append(keys, key)
	}
	slices.Sort(ids)
	slices.Sort(keys)
	if !slices.Equal(ids, keys) {
		h.t.Errorf("%s: containers %q, snapshots of %q", when, ids, keys)
	}
	for _, dir := range []string{"overlay/staging", "ingest"} {
		if left := h.entries(dir); len(left) > 0 {
			h.t.Errorf("%s: %s has %q", when, dir, left)
		}
	}
	for line := range strings.Lines(readFile(h.t, "/proc/self/mountinfo")) {
		if strings.Contains(line, h.store+"/") || strings.Contains(line, h.root+"/") {
			h.t.Errorf("%s: a mount is left: %s", when, line)
		}
	}
	for _, root := range cgroupMounts() {
		groups, _ := filepath.Glob(filepath.Join(root, "minirun-mrt*"))
		for _, g := range groups {
			id := strings.TrimPrefix(filepath.Base(g), "minirun-")
			if strings.HasPrefix(id, fmt.Sprintf("mrt%d-", os.Getpid())) && !slices.Contains(ids, id) {
				h.t.Errorf("%s: the cgroup %s is left", when, g)
			}
		}
	}
}

// imageEntry is an entry of a layer: a directory if the name ends in a slash, a
// symbolic link if it has a target, else a file.
type imageEntry struct {
	name, data, link string
	mode             int64
	uid, gid         int
}

func imageLayer(t testing.TB, entries ...imageEntry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: e.mode, Uid: e.uid, Gid: e.gid, Size: int64(len(e.data)), Linkname: e.link, Typeflag: tar.TypeReg}
		switch {
		case strings.HasSuffix(e.name, "/"):
			h.Typeflag = tar.TypeDir
		case e.link != "":
			h.Typeflag = tar.TypeSymlink
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// imageRootfs is the test's root file system as a layer, with more entries.
func imageRootfs(t testing.TB, more ...imageEntry) []byte {
	t.Helper()
	dir := testenv.Rootfs(t)
	var entries []imageEntry
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e := imageEntry{name: strings.TrimPrefix(path, dir+"/"), mode: int64(info.Mode().Perm())}
		switch {
		case d.IsDir():
			e.name += "/"
			if info.Mode()&fs.ModeSticky != 0 {
				e.mode |= 0o1000
			}
		case d.Type() == fs.ModeSymlink:
			e.link, err = os.Readlink(path)
		default:
			e.data = readFile(t, path)
		}
		if strings.HasPrefix(e.name, "home/user") {
			e.uid, e.gid = 1000, 1000
		}
		entries = append(entries, e)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return imageLayer(t, append(entries, more...)...)
}

func imageGzip(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// imageZstd is b as a zstd frame of raw blocks (RFC 8878, 3.1.1).
func imageZstd(b []byte) []byte {
	out := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0} // magic; a single segment, 4 bytes of content size
	out = binary.LittleEndian.AppendUint32(out, uint32(len(b)))
	const most = 64 << 10
	for {
		n := min(len(b), most)
		head := uint32(n << 3)
		if n == len(b) {
			head |= 1 // the last one
		}
		out = append(append(out, byte(head), byte(head>>8), byte(head>>16)), b[:n]...)
		if b = b[n:]; len(b) == 0 {
			return out
		}
	}
}

func imageDigest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// imageBlobs is an image: its layers, plain, and its configuration.
type imageBlobs struct {
	name   string
	layers [][]byte
	config map[string]any // what follows "config": in the configuration
}

func imageJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *imageBlobs) configBlob(t testing.TB) []byte {
	ids := []string{}
	for _, l := range b.layers {
		ids = append(ids, imageDigest(l))
	}
	return imageJSON(t, map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": b.config, "rootfs": map[string]any{"type": "layers", "diff_ids": ids},
	})
}

// docker is the image as docker save writes it.
func (b *imageBlobs) docker(t testing.TB) []byte {
	t.Helper()
	config := b.configBlob(t)
	name := strings.TrimPrefix(imageDigest(config), "sha256:") + ".json"
	var files []imageEntry
	var layers []string
	for i, l := range b.layers {
		path := fmt.Sprintf("layer%d/layer.tar", i)
		layers = append(layers, path)
		files = append(files, imageEntry{name: path, data: string(l), mode: 0o644})
	}
	manifest := imageJSON(t, []map[string]any{{"Config": name, "RepoTags": []string{b.name + ":latest"}, "Layers": layers}})
	return imageLayer(t, append(files, imageEntry{name: name, data: string(config), mode: 0o644}, imageEntry{name: "manifest.json", data: string(manifest), mode: 0o644})...)
}

// oci is the image as an OCI layout, the layers compressed with gzip and zstd in turn.
func (b *imageBlobs) oci(t testing.TB) []imageEntry {
	t.Helper()
	type descriptor struct {
		MediaType   string            `json:"mediaType"`
		Digest      string            `json:"digest"`
		Size        int               `json:"size"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	const prefix = "application/vnd.oci.image."
	files := []imageEntry{{name: "oci-layout", data: `{"imageLayoutVersion":"1.0.0"}`, mode: 0o644}}
	add := func(mediaType string, body []byte) descriptor {
		d := descriptor{MediaType: prefix + mediaType, Digest: imageDigest(body), Size: len(body)}
		files = append(files, imageEntry{name: "blobs/sha256/" + strings.TrimPrefix(d.Digest, "sha256:"), data: string(body), mode: 0o644})
		return d
	}
	var layers []descriptor
	for i, l := range b.layers {
		if i%2 == 0 {
			layers = append(layers, add("layer.v1.tar+gzip", imageGzip(t, l)))
		} else {
			layers = append(layers, add("layer.v1.tar+zstd", imageZstd(l)))
		}
	}
	manifest := add("manifest.v1+json", imageJSON(t, map[string]any{
		"schemaVersion": 2, "mediaType": prefix + "manifest.v1+json", "config": add("config.v1+json", b.configBlob(t)), "layers": layers,
	}))
	manifest.Annotations = map[string]string{"org.opencontainers.image.ref.name": b.name + ":latest"}
	index := imageJSON(t, map[string]any{"schemaVersion": 2, "mediaType": prefix + "index.v1+json", "manifests": []descriptor{manifest}})
	return append(files, imageEntry{name: "index.json", data: string(index), mode: 0o644})
}

// load loads the image from a docker archive.
func (h *imageHost) load(b *imageBlobs, flags ...string) {
	h.t.Helper()
	path := filepath.Join(filepath.Dir(h.store), b.name+".tar")
	writeFile(h.t, path, string(b.docker(h.t)))
	h.must(append(append([]string{"image", "load", "--quiet"}, flags...), path)...)
}
