package integration

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// layout writes an OCI layout.
type layout struct {
	t      *testing.T
	dir    string
	images []map[string]any
}

type layerBlob struct {
	digest, diffID string
	size           int64
}

func newLayout(t *testing.T, dir string) *layout {
	t.Helper()
	if err := os.MkdirAll(dir+"/blobs/sha256", 0o755); err != nil {
		t.Fatal(err)
	}
	return &layout{t: t, dir: dir}
}

// layer stores what fill writes, compressed.
func (l *layout) layer(fill func(*tar.Writer) error) layerBlob {
	l.t.Helper()
	f, err := os.CreateTemp(l.dir, "layer")
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	packed, plain := sha256.New(), sha256.New()
	z := gzip.NewWriter(io.MultiWriter(packed, f))
	w := tar.NewWriter(io.MultiWriter(plain, z))
	for _, f := range []func() error{func() error { return fill(w) }, w.Close, z.Close} {
		if err := f(); err != nil {
			l.t.Fatal(err)
		}
	}
	st, err := f.Stat()
	if err != nil {
		l.t.Fatal(err)
	}
	hex := fmt.Sprintf("%x", packed.Sum(nil))
	if err := os.Rename(f.Name(), filepath.Join(l.dir, "blobs/sha256", hex)); err != nil {
		l.t.Fatal(err)
	}
	return layerBlob{"sha256:" + hex, fmt.Sprintf("sha256:%x", plain.Sum(nil)), st.Size()}
}

func (l *layout) put(mediaType string, v any) map[string]any {
	l.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		l.t.Fatal(err)
	}
	hex := fmt.Sprintf("%x", sha256.Sum256(b))
	if err := os.WriteFile(filepath.Join(l.dir, "blobs/sha256", hex), b, 0o644); err != nil {
		l.t.Fatal(err)
	}
	return map[string]any{"mediaType": mediaType, "digest": "sha256:" + hex, "size": len(b)}
}

// image makes an image of layers, docker.io/library/x with that tag.
func (l *layout) image(tag string, layers ...layerBlob) {
	l.t.Helper()
	var diffIDs []string
	var list []map[string]any
	for _, b := range layers {
		diffIDs = append(diffIDs, b.diffID)
		list = append(list, map[string]any{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": b.digest, "size": b.size})
	}
	config := l.put("application/vnd.oci.image.config.v1+json", map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	const manifest = "application/vnd.oci.image.manifest.v1+json"
	d := l.put(manifest, map[string]any{"schemaVersion": 2, "mediaType": manifest, "config": config, "layers": list})
	d["annotations"] = map[string]string{"org.opencontainers.image.ref.name": tag, "io.containerd.image.name": "docker.io/library/x:" + tag}
	l.images = append(l.images, d)
}

// close writes what makes it a layout.
func (l *layout) close() {
	l.t.Helper()
	for name, v := range map[string]any{
		"oci-layout": map[string]string{"imageLayoutVersion": "1.0.0"},
		"index.json": map[string]any{"schemaVersion": 2, "manifests": l.images},
	} {
		b, err := json.Marshal(v)
		if err == nil {
			err = os.WriteFile(filepath.Join(l.dir, name), b, 0o644)
		}
		if err != nil {
			l.t.Fatal(err)
		}
	}
}

// imageGenerator makes layers that every tool understands alike: directories
// come with all that they are in, no name is there twice, hard links stay within
// their layer. It knows what the image is.
type imageGenerator struct {
	r     *rand.Rand
	files map[string]tar.Header // by path, "" for the root; what is visible
	seq   int
}

func newImageGenerator(seed uint64) *imageGenerator {
	return &imageGenerator{r: rand.New(rand.NewPCG(seed, 11)), files: map[string]tar.Header{}}
}

// made notes what there must be of a generated image.
func (x *interop) made(tag string, g *imageGenerator) {
	if x.names == nil {
		x.names = map[string][]string{}
	}
	var names []string
	for path := range g.files {
		names = append(names, "/"+path)
	}
	slices.Sort(names)
	x.names[tag] = names
}

// attributes are those of any file.
func (g *imageGenerator) attributes(h tar.Header) tar.Header {
	h.ModTime = time.Unix(1+g.r.Int64N(1<<31), g.r.Int64N(1e9))
	h.Uid, h.Gid = g.r.IntN(70000), g.r.IntN(70000)
	h.Mode = int64(g.r.IntN(0o10000))
	h.Format = tar.FormatPAX
	if h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeDir {
		h.PAXRecords = map[string]string{}
		for _, x := range []struct{ name, value string }{
			{"user.one", strings.Repeat("v", g.r.IntN(300))},
			{"user.two.three", "a b=c"},
			{"security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
		} {
			if g.r.IntN(5) == 0 && x.value != "" && (x.name != "security.capability" || h.Typeflag == tar.TypeReg) {
				h.PAXRecords["SCHILY.xattr."+x.name] = x.value
			}
		}
	}
	return h
}

// paths returns the visible ones that f wants, in order.
func (g *imageGenerator) paths(f func(path string, h tar.Header) bool) []string {
	var list []string
	for path, h := range g.files {
		if f(path, h) {
			list = append(list, path)
		}
	}
	slices.Sort(list)
	return list
}

func parentOf(path string) string {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)]
}

// layer writes the next layer.
func (g *imageGenerator) layer(w *tar.Writer) error {
	own := map[string]bool{} // names in this layer
	var write func(path string, h tar.Header, body string) error
	write = func(path string, h tar.Header, body string) error {
		if up := parentOf(path); path != "" && !own[up] {
			d, ok := g.files[up]
			if !ok || g.r.IntN(4) == 0 { // its attributes change with this layer
				d = g.attributes(tar.Header{Typeflag: tar.TypeDir})
			}
			if err := write(up, d, ""); err != nil {
				return err
			}
		}
		own[path] = true
		g.hide(path, h.Typeflag != tar.TypeDir)
		g.files[path] = h
		h.Name, h.Size = path, int64(len(body))
		if h.Typeflag == tar.TypeDir {
			h.Name = "./" + path + "/"
			if path == "" {
				h.Name = "./"
			}
		}
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := io.WriteString(w, body)
		return err
	}
	marker := func(dir, name string) error {
		if !own[dir] {
			if err := write(dir, g.files[dir], ""); err != nil {
				return err
			}
		}
		return w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(dir+"/"+name, "/"), Mode: 0o644, Format: tar.FormatPAX})
	}
	if err := write("", g.attributes(tar.Header{Typeflag: tar.TypeDir}), ""); err != nil {
		return err
	}
	below := func(path string) bool { // nothing of this layer is there or in it
		if path == "" || own[path] {
			return false
		}
		for p := range own {
			if strings.HasPrefix(p, path+"/") {
				return false
			}
		}
		return true
	}
	old := g.paths(func(path string, _ tar.Header) bool { return path != "" })
	for range 2 + g.r.IntN(6) { // what is below changes
		left := slices.DeleteFunc(slices.Clone(old), func(p string) bool { _, ok := g.files[p]; return !ok || !below(p) })
		if len(left) == 0 {
			break
		}
		path := left[g.r.IntN(len(left))]
		isDir := g.files[path].Typeflag == tar.TypeDir
		var err error
		switch {
		case g.r.IntN(3) == 0:
			if err = marker(parentOf(path), ".wh."+filepath.Base(path)); err == nil {
				g.hide(path, true)
				delete(g.files, path)
				own[path] = true // does not come again in this layer
			}
		case isDir && g.r.IntN(2) == 0:
			if err = marker(path, ".wh..wh..opq"); err == nil {
				g.hide(path, true)
			}
		default:
			h, body := g.some()
			err = write(path, h, body)
		}
		if err != nil {
			return err
		}
	}
	for range 5 + g.r.IntN(25) { // what is new
		dirs := g.paths(func(path string, h tar.Header) bool { return h.Typeflag == tar.TypeDir })
		g.seq++
		path := fmt.Sprintf("%s/%s-%d", dirs[g.r.IntN(len(dirs))], []string{"file", "größe", "with space", strings.Repeat("long", 30)}[g.r.IntN(4)], g.seq)
		h, body := g.some()
		path = strings.TrimPrefix(path, "/")
		if err := write(path, h, body); err != nil {
			return err
		}
		for i := range g.r.IntN(3) {
			if h.Typeflag != tar.TypeReg {
				break
			}
			l := h
			l.Typeflag, l.Linkname, l.PAXRecords = tar.TypeLink, path, nil
			if err := write(fmt.Sprintf("link-%d-%d", g.seq, i), l, ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// hide takes away what is at path: children with all, and the file itself later,
// when another takes its place.
func (g *imageGenerator) hide(path string, children bool) {
	if h, ok := g.files[path]; !ok || h.Typeflag == tar.TypeDir && !children || path == "" {
		return
	}
	for p := range g.files {
		if strings.HasPrefix(p, path+"/") {
			delete(g.files, p)
		}
	}
}

// some is a file of any type.
func (g *imageGenerator) some() (h tar.Header, body string) {
	switch g.r.IntN(12) {
	case 0, 1, 2:
		h.Typeflag = tar.TypeDir
	case 3:
		h.Typeflag, h.Linkname = tar.TypeSymlink, []string{"a", "../b", "/etc/passwd", strings.Repeat("x/", 100)}[g.r.IntN(4)]
	case 4:
		h.Typeflag = tar.TypeFifo
	case 5:
		h.Typeflag, h.Devmajor, h.Devminor = []byte{tar.TypeChar, tar.TypeBlock}[g.r.IntN(2)], 1+g.r.Int64N(200), g.r.Int64N(200)
	default:
		h.Typeflag = tar.TypeReg
		body = strings.Repeat("content ", g.r.IntN(3)*g.r.IntN(3000)) + fmt.Sprint(g.seq)
	}
	h = g.attributes(h)
	if h.Typeflag == tar.TypeSymlink {
		h.Mode = 0o777
	}
	return h, body
}
