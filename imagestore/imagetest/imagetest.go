// Package imagetest makes images and archives of images for tests: docker
// archives and OCI layouts, with layers plain, gzip or zstd. Everything is a
// list of files before it is written, so a test can damage any part of it.
package imagetest

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/decompress"
)

// Tar returns a tar archive of the headers; the content of a regular file is in
// Bodies under its name.
func Tar(t testing.TB, bodies map[string]string, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(bodies[h.Name]))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, bodies[h.Name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Files returns a tar archive of regular files in the order given: name, content, name, ...
func Files(t testing.TB, pairs ...string) []byte {
	t.Helper()
	bodies := map[string]string{}
	var headers []tar.Header
	for i := 0; i < len(pairs); i += 2 {
		bodies[pairs[i]] = pairs[i+1]
		headers = append(headers, tar.Header{Name: pairs[i]})
	}
	return Tar(t, bodies, headers...)
}

// Compress returns b in the given format.
func Compress(t testing.TB, f decompress.Format, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch f {
	case decompress.None:
		return b
	case decompress.Gzip:
		w = gzip.NewWriter(&out)
	case decompress.Zstd:
		w, err = zstd.NewWriter(&out)
	default:
		t.Fatalf("cannot compress as %s", f)
	}
	if err == nil {
		_, err = w.Write(b)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Layer is one layer of an image.
type Layer struct {
	Tar    []byte
	Format decompress.Format
}

// Image is an image to be built.
type Image struct {
	Names  []string
	Layers []Layer
	Config imagestore.Config // platform and rootfs are filled in
}

// Built is an image as blobs.
type Built struct {
	Names    []string
	Blobs    map[imagestore.Digest][]byte
	Config   imagestore.Descriptor
	Layers   []imagestore.Descriptor
	DiffIDs  []imagestore.Digest
	Manifest imagestore.Descriptor
	Plain    [][]byte // the layers' tar archives
}

// Build makes the blobs of an image.
func Build(t testing.TB, im Image) *Built {
	t.Helper()
	b := &Built{Names: im.Names, Blobs: map[imagestore.Digest][]byte{}}
	cfg := im.Config
	host := imagestore.HostPlatform()
	if cfg.OS == "" {
		cfg.OS, cfg.Architecture = host.OS, host.Architecture
	}
	cfg.RootFS = imagestore.RootFS{Type: "layers", DiffIDs: []imagestore.Digest{}}
	for _, l := range im.Layers {
		mt := imagestore.MediaTypeLayer
		switch l.Format {
		case decompress.Gzip:
			mt = imagestore.MediaTypeLayerGzip
		case decompress.Zstd:
			mt = imagestore.MediaTypeLayerZstd
		}
		b.Layers = append(b.Layers, b.add(mt, Compress(t, l.Format, l.Tar)))
		b.Plain = append(b.Plain, l.Tar)
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, imagestore.FromBytes(l.Tar))
	}
	b.DiffIDs = cfg.RootFS.DiffIDs
	b.Config = b.add(imagestore.MediaTypeConfig, JSON(t, cfg))
	layers := b.Layers
	if layers == nil {
		layers = []imagestore.Descriptor{}
	}
	b.Manifest = b.add(imagestore.MediaTypeManifest, JSON(t, imagestore.Manifest{
		SchemaVersion: 2, MediaType: imagestore.MediaTypeManifest, Config: b.Config, Layers: layers,
	}))
	return b
}

func (b *Built) add(mediaType string, body []byte) imagestore.Descriptor {
	d := imagestore.Descriptor{MediaType: mediaType, Digest: imagestore.FromBytes(body), Size: int64(len(body))}
	b.Blobs[d.Digest] = body
	return d
}

// JSON encodes v.
func JSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// File is one file of an archive; with Link a symbolic link.
type File struct {
	Name string
	Body []byte
	Link string
}

// Blob is a blob's file in an OCI layout.
func Blob(body []byte) File {
	return File{Name: "blobs/sha256/" + imagestore.FromBytes(body).Hex(), Body: body}
}

// Layout returns the images as an OCI layout in which every name is an
// annotation with the full name.
func Layout(t testing.TB, images ...*Built) []File {
	t.Helper()
	x := imagestore.Index{SchemaVersion: 2, MediaType: imagestore.MediaTypeIndex, Manifests: []imagestore.Descriptor{}}
	var blobs []File
	for _, im := range images {
		for _, n := range im.Names {
			d := im.Manifest
			d.Annotations = map[string]string{imagestore.AnnotationRefName: n}
			x.Manifests = append(x.Manifests, d)
		}
		if len(im.Names) == 0 {
			x.Manifests = append(x.Manifests, im.Manifest)
		}
		blobs = append(blobs, im.blobFiles()...)
	}
	files := []File{
		{Name: "oci-layout", Body: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{Name: "index.json", Body: JSON(t, x)},
	}
	return unique(append(files, blobs...))
}

// blobFiles is in a fixed order: layers, config, manifest.
func (b *Built) blobFiles() []File {
	var files []File
	for _, l := range b.Layers {
		files = append(files, Blob(b.Blobs[l.Digest]))
	}
	return append(files, Blob(b.Blobs[b.Config.Digest]), Blob(b.Blobs[b.Manifest.Digest]))
}

func unique(files []File) []File {
	seen := map[string]bool{}
	var out []File
	for _, f := range files {
		if !seen[f.Name] {
			seen[f.Name] = true
			out = append(out, f)
		}
	}
	return out
}

// DockerArchive returns the images as docker save wrote them before version 25:
// a directory for each layer, in which a layer that was there already is a
// symbolic link, and manifest.json at the end.
func DockerArchive(t testing.TB, images ...*Built) []File {
	t.Helper()
	type item struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	var files []File
	var items []item
	where := map[imagestore.Digest]string{}
	n := 0
	for _, im := range images {
		it := item{Config: im.Config.Digest.Hex() + ".json", RepoTags: im.Names}
		for _, l := range im.Layers {
			n++
			dir := imagestore.FromBytes([]byte{byte(n)}).Hex()
			name := dir + "/layer.tar"
			f := File{Name: name, Body: im.Blobs[l.Digest]}
			if first, ok := where[l.Digest]; ok {
				f = File{Name: name, Link: "../" + first}
			} else {
				where[l.Digest] = name
			}
			files = append(files, File{Name: dir + "/VERSION", Body: []byte("1.0")}, File{Name: dir + "/json", Body: []byte("{}")}, f)
			it.Layers = append(it.Layers, name)
		}
		files = append(files, File{Name: it.Config, Body: im.Blobs[im.Config.Digest]})
		items = append(items, it)
	}
	files = append(files,
		File{Name: "manifest.json", Body: JSON(t, items)},
		File{Name: "repositories", Body: []byte("{}")})
	return unique(files)
}

// Archive writes the files as a tar archive.
func Archive(t testing.TB, files []File) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.Name, Mode: 0o644, Size: int64(len(f.Body))}
		if f.Link != "" {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, f.Link, 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if f.Link == "" {
			if _, err := w.Write(f.Body); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// WriteDir writes the files below dir.
func WriteDir(t testing.TB, dir string, files []File) {
	t.Helper()
	for _, f := range files {
		path := filepath.Join(dir, f.Name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil && f.Link != "" {
			err = os.Symlink(f.Link, path)
		} else if err == nil {
			err = os.WriteFile(path, f.Body, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Dump lists a directory tree: every path with the digest of regular files.
// Two dumps of a store are equal when the store is as it was.
func Dump(t testing.TB, root string) string {
	t.Helper()
	var b bytes.Buffer
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		b.WriteString(rel)
		if d.Type().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b.WriteString(" " + imagestore.FromBytes(content).Short())
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return b.String()
}
