package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/archive"
	"github.com/minirun/minirun/imagestore/decompress"
	"github.com/minirun/minirun/imagestore/imagetest"
)

var formats = []decompress.Format{decompress.None, decompress.Gzip, decompress.Zstd}

func newStore(t testing.TB) *imagestore.Store {
	t.Helper()
	return openStore(t, filepath.Join(t.TempDir(), "store"))
}

func openStore(t testing.TB, root string) *imagestore.Store {
	t.Helper()
	s, err := imagestore.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// random is content that no compressor shrinks, so that a cut lands in it.
func random(seed string, n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		b.WriteString(imagestore.FromBytes(fmt.Append(nil, seed, i)).Hex())
	}
	return b.String()[:n]
}

// build makes an image of three layers, the first and last of which are equal.
func build(t testing.TB, name string, f decompress.Format) *imagetest.Built {
	t.Helper()
	a := imagetest.Layer{Tar: imagetest.Files(t, "a", random(name, 3000)), Format: f}
	b := imagetest.Layer{Tar: imagetest.Files(t, "b", "b of "+name), Format: f}
	im := imagetest.Image{Layers: []imagetest.Layer{a, b, a}, Config: imagestore.Config{Config: imagestore.ImageConfig{Cmd: []string{"/" + name}}}}
	if name != "" {
		im.Names = []string{"docker.io/test/" + name + ":1"}
	}
	return imagetest.Build(t, im)
}

func loadBytes(s *imagestore.Store, b []byte) (*archive.Result, error) {
	// Only an io.Reader, as a pipe is.
	return archive.Load(context.Background(), s, "-", archive.LoadOptions{Stdin: struct{ io.Reader }{bytes.NewReader(b)}})
}

func check(t testing.TB, s *imagestore.Store, ref string, b *imagetest.Built) {
	t.Helper()
	img, err := s.Resolve(ref)
	if err != nil {
		t.Fatal(err)
	}
	if img.ConfigDigest != b.Config.Digest {
		t.Errorf("%s has config %s, want %s", ref, img.ConfigDigest, b.Config.Digest)
	}
	for i, l := range b.Layers {
		if i >= len(img.Layers) || img.Layers[i].Digest != l.Digest || img.Layers[i].MediaType != l.MediaType {
			t.Fatalf("%s has layers %v, want %v", ref, img.Layers, b.Layers)
		}
	}
	if err := s.Verify(context.Background(), ref); err != nil {
		t.Error(err)
	}
}

// Every form, every compression inside and outside, every way in.
func TestLoad(t *testing.T) {
	forms := map[string]func(testing.TB, ...*imagetest.Built) []imagetest.File{"docker": imagetest.DockerArchive, "layout": imagetest.Layout}
	for form, files := range forms {
		for _, inner := range formats {
			one, two := build(t, "one", inner), build(t, "two", inner)
			list := files(t, one, two)
			check := func(t *testing.T, s *imagestore.Store, res *archive.Result, err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
				if len(res.Images) != 2 || len(res.Warnings) != 0 || res.Images[0].ID != one.Config.Digest || res.Images[0].Name != one.Names[0] {
					t.Errorf("result %+v", res)
				}
				check(t, s, "test/one:1", one)
				check(t, s, "test/two:1", two)
				// Two images of three blobs that differ, a config and a manifest.
				if n := countBlobs(t, s); n != 8 {
					t.Errorf("%d blobs, want 8: strays of the archive were kept", n)
				}
				if names, _ := filepath.Glob(filepath.Join(s.Root(), "ingest", "*")); len(names) != 0 {
					t.Errorf("left in staging: %v", names)
				}
			}
			for _, outer := range formats {
				b := imagetest.Compress(t, outer, imagetest.Archive(t, list))
				t.Run(fmt.Sprintf("%s/%s in %s/pipe", form, inner, outer), func(t *testing.T) {
					s := newStore(t)
					res, err := loadBytes(s, b)
					check(t, s, res, err)
				})
				t.Run(fmt.Sprintf("%s/%s in %s/file", form, inner, outer), func(t *testing.T) {
					s := newStore(t)
					path := filepath.Join(t.TempDir(), "a.tar")
					if err := os.WriteFile(path, b, 0o600); err != nil {
						t.Fatal(err)
					}
					var done, total int64
					res, err := archive.Load(context.Background(), s, path, archive.LoadOptions{Progress: func(d, n int64) { done, total = d, n }})
					check(t, s, res, err)
					if done != int64(len(b)) || total != done {
						t.Errorf("progress ended at %d of %d, want %d", done, total, len(b))
					}
				})
			}
			t.Run(fmt.Sprintf("%s/%s/directory", form, inner), func(t *testing.T) {
				s := newStore(t)
				dir := t.TempDir()
				imagetest.WriteDir(t, dir, list)
				res, err := archive.Load(context.Background(), s, dir, archive.LoadOptions{})
				check(t, s, res, err)
			})
		}
	}
}

func countBlobs(t testing.TB, s *imagestore.Store) int {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.Root(), "blobs/*/*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func TestLoad_AgainIsNoChange(t *testing.T) {
	s := newStore(t)
	b := imagetest.Archive(t, imagetest.DockerArchive(t, build(t, "one", decompress.Gzip)))
	if _, err := loadBytes(s, b); err != nil {
		t.Fatal(err)
	}
	before := imagetest.Dump(t, s.Root())
	res, err := loadBytes(s, b)
	if err != nil || res.Images[0].Replaced {
		t.Errorf("%+v, %v", res, err)
	}
	if after := imagetest.Dump(t, s.Root()); after != before {
		t.Errorf("store changed:\n%s\nwas:\n%s", after, before)
	}
}

func TestLoad_Names(t *testing.T) {
	b := build(t, "one", decompress.None)
	layout := func(annotations map[string]string, extra ...imagetest.File) []imagetest.File {
		files := imagetest.Layout(t, b)
		d := b.Manifest
		d.Annotations = annotations
		files[1].Body = imagetest.JSON(t, imagestore.Index{SchemaVersion: 2, Manifests: []imagestore.Descriptor{d}})
		return append(files, extra...)
	}
	docker := func(tags ...string) []imagetest.File {
		c := *b
		c.Names = tags
		return imagetest.DockerArchive(t, &c)
	}
	ref, full := imagestore.AnnotationRefName, imagestore.AnnotationContainerdName
	manifestJSON := imagetest.File{Name: "manifest.json", Body: imagetest.JSON(t, []map[string]any{
		{"Config": "blobs/sha256/" + b.Config.Digest.Hex(), "RepoTags": []string{"from/manifest:1", "also:2"}, "Layers": []string{}},
	})}
	tests := []struct {
		name, src, option string
		files             []imagetest.File
		want              string // names, comma separated
		err               bool
	}{
		{"docker save since 25", "x.tar", "", layout(map[string]string{full: "docker.io/library/alpine:3", ref: "3"}), "docker.io/library/alpine:3", false},
		{"full name", "x.tar", "", layout(map[string]string{ref: "quay.io/a/b:c"}), "quay.io/a/b:c", false},
		{"tag alone", "my-image.oci.tar.gz", "", layout(map[string]string{ref: "v1"}), "docker.io/library/my-image:v1", false},
		{"tag alone, bad file name", "-x-.tar", "", layout(map[string]string{ref: "v1"}), "", false},
		{"tag alone, pipe", "-", "", layout(map[string]string{ref: "v1"}), "", false},
		{"nothing", "dir", "", layout(nil), "docker.io/library/dir:latest", false},
		{"nothing, pipe", "-", "", layout(nil), "", false},
		{"names from manifest.json", "x.tar", "", layout(nil, manifestJSON), "docker.io/from/manifest:1,docker.io/library/also:2", false},
		{"option", "x.tar", "mine", layout(map[string]string{ref: "quay.io/a/b:c"}), "docker.io/library/mine:latest", false},
		{"invalid name", "x.tar", "", layout(map[string]string{ref: "UPPER/x:1"}), "UPPER/x:1", false},
		{"really invalid name", "x.tar", "", layout(map[string]string{ref: "a/../b:1"}), "", true},
		{"docker, two tags", "x.tar", "", docker("a:1", "b"), "docker.io/library/a:1,docker.io/library/b:latest", false},
		{"docker, none", "x.tar", "", docker(), "", false},
		{"docker, option", "x.tar", "mine:2", docker("a:1", "b"), "docker.io/library/mine:2", false},
		{"its digest", "x.tar", "", layout(map[string]string{ref: "a@" + string(b.Manifest.Digest)}), "docker.io/library/a@" + string(b.Manifest.Digest), false},
		{"another one's digest", "x.tar", "", layout(map[string]string{ref: "docker.io/library/a@sha256:" + strings.Repeat("a", 64)}), "", true},
		{"another one's digest, containerd", "x.tar", "", layout(map[string]string{full: "docker.io/library/a:1@sha256:" + strings.Repeat("a", 64)}), "", true},
		{"another one's digest, option", "x.tar", "a@sha256:" + strings.Repeat("a", 64), layout(nil), "", true},
		{"another one's digest, docker", "x.tar", "", docker("a@sha256:" + strings.Repeat("a", 64)), "", true},
		{"an ID", "x.tar", "", layout(map[string]string{ref: "sha256:" + strings.Repeat("a", 64)}), "", true},
		{"an ID, docker", "x.tar", "", docker("sha256:" + strings.Repeat("a", 64)), "", true},
		{"the beginning of an ID, docker", "x.tar", "", docker("sha256:aaaa"), "", true},
		{"docker, invalid", "x.tar", "", docker("a b"), "", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			o := archive.LoadOptions{Name: tt.option}
			src := tt.src
			switch {
			case src == "-":
				o.Stdin = bytes.NewReader(imagetest.Archive(t, tt.files))
			case src == "dir":
				src = filepath.Join(t.TempDir(), src)
				imagetest.WriteDir(t, src, tt.files)
			default:
				src = filepath.Join(t.TempDir(), src)
				if err := os.WriteFile(src, imagetest.Archive(t, tt.files), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := archive.Load(context.Background(), s, src, o)
			if (err != nil) != tt.err {
				t.Fatalf("Load: %v", err)
			}
			list, err := s.List()
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, e := range list {
				names = append(names, e.Name)
			}
			if got := strings.Join(names, ","); got != tt.want {
				t.Errorf("names %q, want %q", got, tt.want)
			}
			if !tt.err && len(list) == 0 {
				t.Error("the image is not there")
			}
		})
	}
	two := imagetest.Archive(t, imagetest.DockerArchive(t, build(t, "one", 0), build(t, "two", 0)))
	if _, err := archive.Load(context.Background(), newStore(t), "-", archive.LoadOptions{Stdin: bytes.NewReader(two), Name: "x"}); err == nil {
		t.Error("two images were given one name")
	}
}

func TestLoad_Replaced(t *testing.T) {
	s := newStore(t)
	if _, err := loadBytes(s, imagetest.Archive(t, imagetest.DockerArchive(t, build(t, "one", 0)))); err != nil {
		t.Fatal(err)
	}
	other := build(t, "other", 0)
	other.Names = []string{"test/one:1"}
	res, err := loadBytes(s, imagetest.Archive(t, imagetest.Layout(t, other)))
	if err != nil || !res.Images[0].Replaced {
		t.Errorf("%+v, %v, want the name reported as replaced", res, err)
	}
	check(t, s, "test/one:1", other)
}

// An index of which the archive has one platform only, as docker save writes it.
func TestLoad_PartialIndex(t *testing.T) {
	native := build(t, "native", decompress.Gzip)
	foreign := imagetest.Build(t, imagetest.Image{Layers: []imagetest.Layer{{Tar: imagetest.Files(t, "f", "f")}}, Config: imagestore.Config{OS: "linux", Architecture: "s390x"}})
	host := imagestore.HostPlatform()
	nd, fd := native.Manifest, foreign.Manifest
	nd.Platform, fd.Platform = &host, &imagestore.Platform{OS: "linux", Architecture: "s390x"}
	index := imagetest.JSON(t, imagestore.Index{SchemaVersion: 2, MediaType: imagestore.MediaTypeIndex, Manifests: []imagestore.Descriptor{fd, nd}})
	target := imagestore.Descriptor{MediaType: imagestore.MediaTypeIndex, Digest: imagestore.FromBytes(index), Size: int64(len(index)), Annotations: map[string]string{imagestore.AnnotationRefName: "test/multi:1"}}
	top := imagetest.JSON(t, imagestore.Index{SchemaVersion: 2, Manifests: []imagestore.Descriptor{target}})
	files := func(of ...*imagetest.Built) []imagetest.File {
		list := append(imagetest.Layout(t, of...), imagetest.Blob(index))
		list[1].Body = top
		return list
	}
	t.Run("native only", func(t *testing.T) {
		s := newStore(t)
		if _, err := loadBytes(s, imagetest.Archive(t, files(native))); err != nil {
			t.Fatal(err)
		}
		check(t, s, "test/multi:1", native)
		if _, err := s.GC(t.Context()); err != nil {
			t.Fatal(err)
		}
		check(t, s, "test/multi:1", native)
	})
	t.Run("both", func(t *testing.T) {
		s := newStore(t)
		if _, err := loadBytes(s, imagetest.Archive(t, files(native, foreign))); err != nil {
			t.Fatal(err)
		}
		check(t, s, "test/multi:1", native)
		if _, err := os.Stat(filepath.Join(s.Root(), "blobs/sha256", foreign.Layers[0].Digest.Hex())); err != nil {
			t.Errorf("the other platform's layer was dropped: %v", err)
		}
	})
	t.Run("foreign only", func(t *testing.T) {
		s := newStore(t)
		if _, err := loadBytes(s, imagetest.Archive(t, files(foreign))); err != nil {
			t.Fatal(err)
		}
		// The index offers an image for this host, of which nothing is here.
		var pe *imagestore.PlatformError
		if _, err := s.Resolve("test/multi:1"); !errors.As(err, &pe) || !pe.Elsewhere {
			t.Errorf("Resolve = %v, want a PlatformError of an image that is elsewhere", err)
		}
	})
	t.Run("none", func(t *testing.T) {
		s := newStore(t)
		if _, err := loadBytes(s, imagetest.Archive(t, files())); err == nil {
			t.Error("an index without any image was loaded")
		}
	})
	t.Run("native incomplete", func(t *testing.T) {
		list := files(native)
		gone := imagetest.Blob(native.Blobs[native.Layers[1].Digest]).Name
		var rest []imagetest.File
		for _, f := range list {
			if f.Name != gone {
				rest = append(rest, f)
			}
		}
		_, err := loadBytes(newStore(t), imagetest.Archive(t, rest))
		var me *imagestore.MissingError
		if !errors.As(err, &me) || me.Digest != native.Layers[1].Digest {
			t.Errorf("Load = %v, want a MissingError of the layer", err)
		}
	})
}

// A store that was loaded into, its archive damaged in one way, and what the
// error must name. The store must be as before, and the sound archive must load.
func TestLoad_Refuses(t *testing.T) {
	b := build(t, "one", decompress.Gzip)
	layer := imagetest.Blob(b.Blobs[b.Layers[1].Digest]).Name
	config := imagetest.Blob(b.Blobs[b.Config.Digest]).Name
	manifest := imagetest.Blob(b.Blobs[b.Manifest.Digest]).Name
	docker := func() []imagetest.File { return imagetest.DockerArchive(t, b) }
	layout := func() []imagetest.File { return imagetest.Layout(t, b) }
	// edit changes the body of the file whose name ends in name.
	edit := func(files []imagetest.File, name string, f func([]byte) []byte) []imagetest.File {
		for i := range files {
			if strings.HasSuffix(files[i].Name, name) && files[i].Link == "" {
				files[i].Body = f(bytes.Clone(files[i].Body))
				return files
			}
		}
		t.Fatalf("no file %q", name)
		return nil
	}
	drop := func(files []imagetest.File, name string) []imagetest.File {
		var out []imagetest.File
		for _, f := range files {
			if !strings.HasSuffix(f.Name, name) {
				out = append(out, f)
			}
		}
		if len(out) == len(files) {
			t.Fatalf("no file %q", name)
		}
		return out
	}
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	cut := func(b []byte) []byte { return b[:len(b)-3] }
	grow := func(b []byte) []byte { return append(b, 0) }
	set := func(s string) func([]byte) []byte { return func([]byte) []byte { return []byte(s) } }
	// An image whose config lies about a layer: blob digests fit, the diff ID does not.
	lie := imagetest.Build(t, imagetest.Image{Names: b.Names, Layers: []imagetest.Layer{{Tar: imagetest.Files(t, "x", "x"), Format: decompress.Gzip}}})
	liar := *lie
	liar.Layers = []imagestore.Descriptor{b.Layers[1]}
	liar.Blobs = map[imagestore.Digest][]byte{b.Layers[1].Digest: b.Blobs[b.Layers[1].Digest], lie.Config.Digest: lie.Blobs[lie.Config.Digest]}
	liarManifest := imagetest.JSON(t, imagestore.Manifest{SchemaVersion: 2, Config: lie.Config, Layers: liar.Layers})
	liar.Manifest = imagestore.Descriptor{MediaType: imagestore.MediaTypeManifest, Digest: imagestore.FromBytes(liarManifest), Size: int64(len(liarManifest))}
	liar.Blobs[liar.Manifest.Digest] = liarManifest
	// A manifest that can also be read as an index, under its right digest.
	ambiguous := bytes.Replace(b.Blobs[b.Manifest.Digest], []byte("{"), []byte(`{"manifests":[],`), 1)
	layoutOf := func(manifest []byte, mediaType string) []imagetest.File {
		d := imagestore.Descriptor{MediaType: mediaType, Digest: imagestore.FromBytes(manifest), Size: int64(len(manifest))}
		files := layout()
		if d.Digest != b.Manifest.Digest {
			files = append(files, imagetest.Blob(manifest))
		}
		files[1].Body = imagetest.JSON(t, imagestore.Index{SchemaVersion: 2, Manifests: []imagestore.Descriptor{d}})
		return files
	}
	hugeManifest := append(b.Blobs[b.Manifest.Digest], bytes.Repeat([]byte(" "), imagestore.MaxMetadata)...)
	indexWith := func(d string) []imagetest.File {
		files := layout()
		files[1].Body = []byte(`{"schemaVersion":2,"manifests":[` + d + `]}`)
		return files
	}
	schema1 := []byte(`{"schemaVersion":1,"fsLayers":[{"blobSum":"x"}],"history":[]}`)

	tests := []struct {
		name  string
		files []imagetest.File
		want  []string // all in the error's text
	}{
		{"layout: layer flipped", edit(layout(), layer, flip), []string{"layer " + string(b.Layers[1].Digest), "digest"}},
		{"layout: layer cut", edit(layout(), layer, cut), []string{"layer " + string(b.Layers[1].Digest), "bytes"}},
		{"layout: layer longer", edit(layout(), layer, grow), []string{"layer " + string(b.Layers[1].Digest), "longer"}},
		{"layout: layer missing", drop(layout(), layer), []string{"layer " + string(b.Layers[1].Digest), "missing"}},
		{"layout: config flipped", edit(layout(), config, flip), []string{"config " + string(b.Config.Digest)}},
		{"layout: config missing", drop(layout(), config), []string{"config " + string(b.Config.Digest), "missing"}},
		{"layout: manifest flipped", edit(layout(), manifest, flip), []string{"manifest " + string(b.Manifest.Digest)}},
		{"layout: manifest missing", drop(layout(), manifest), []string{"manifest " + string(b.Manifest.Digest), "missing"}},
		{"layout: diff ID", imagetest.Layout(t, &liar), []string{"diff ID of layer 1", string(lie.DiffIDs[0]), string(b.DiffIDs[1])}},
		{"layout: index.json is no JSON", edit(layout(), "index.json", cut), []string{"index.json"}},
		{"layout: index.json has layers", edit(layout(), "index.json", set(`{"schemaVersion":2,"manifests":[],"layers":[]}`)), []string{"index.json", "ambiguous"}},
		{"layout: index.json is empty", edit(layout(), "index.json", set(`{"schemaVersion":2,"manifests":[]}`)), []string{"lists no image"}},
		{"layout: version", edit(layout(), "oci-layout", set(`{"imageLayoutVersion":"9"}`)), []string{"oci-layout", `"9"`}},
		{"layout: digest is a path", indexWith(`{"mediaType":"` + imagestore.MediaTypeManifest + `","digest":"sha256:../../index.json","size":3}`), []string{"index.json", "digest"}},
		{"layout: unknown media type", indexWith(`{"mediaType":"a/b","digest":"` + string(b.Manifest.Digest) + `","size":3}`), []string{"media type", "a/b"}},
		{"layout: manifest is an index too", layoutOf(ambiguous, imagestore.MediaTypeManifest), []string{"manifest sha256:", "ambiguous"}},
		{"layout: index is a manifest", layoutOf(b.Blobs[b.Manifest.Digest], imagestore.MediaTypeIndex), []string{"index sha256:", "ambiguous"}},
		{"layout: schema 1", layoutOf(schema1, imagestore.MediaTypeManifest), []string{"schema 1"}},
		{"layout: huge manifest", layoutOf(hugeManifest, imagestore.MediaTypeManifest), []string{"manifest sha256:", "limit"}},
		{"docker: layer flipped", edit(docker(), "/layer.tar", flip), []string{"layer.tar", "layer"}},
		{"docker: layer cut", edit(docker(), "/layer.tar", cut), []string{"layer.tar"}},
		{"docker: layer missing", drop(docker(), "/layer.tar"), []string{"layer.tar", "missing"}},
		{"docker: config flipped", edit(docker(), b.Config.Digest.Hex()+".json", flip), []string{b.Config.Digest.Hex() + ".json"}},
		{"docker: config missing", drop(docker(), b.Config.Digest.Hex()+".json"), []string{b.Config.Digest.Hex() + ".json", "missing"}},
		{"docker: manifest.json no JSON", edit(docker(), "manifest.json", cut), []string{"manifest.json"}},
		{"docker: manifest.json empty", edit(docker(), "manifest.json", set("[]")), []string{"lists no image"}},
		{"docker: manifest.json null item", edit(docker(), "manifest.json", set("[null]")), []string{"no file name"}},
		{"docker: config outside", edit(docker(), "manifest.json", set(`[{"Config":"../../etc/passwd","Layers":[]}]`)), []string{"leads out", "../../etc/passwd"}},
		{"docker: layers do not fit config", edit(docker(), "manifest.json", set(`[{"Config":"`+b.Config.Digest.Hex()+`.json","Layers":[]}]`)), []string{"3 diff IDs", "0 layers"}},
		{"docker: layer is a link outside", append(drop(docker(), "manifest.json"), imagetest.File{Name: "evil", Link: "../../../etc/passwd"}), []string{"evil", "leads out"}},
		{"docker: layer is an absolute link", append(drop(docker(), "manifest.json"), imagetest.File{Name: "evil", Link: "/etc/passwd"}), []string{"evil", "leads out"}},
		{"docker: links in a circle", append(edit(docker(), "manifest.json", set(`[{"Config":"a","Layers":[]}]`)), imagetest.File{Name: "a", Link: "b"}, imagetest.File{Name: "b", Link: "a"}), []string{"config \"a\"", "symbolic links"}},
		{"docker: a name twice", append(docker(), imagetest.File{Name: "./manifest.json", Body: []byte("[]")}), []string{"manifest.json", "twice"}},
		{"docker: repositories without a name", drop(docker(), "manifest.json"), []string{"repositories", "lists no image"}},
		{"no image archive", []imagetest.File{{Name: "etc/passwd", Body: []byte("root")}}, []string{"no image archive"}},
		{"huge manifest.json", []imagetest.File{{Name: "manifest.json", Body: bytes.Repeat([]byte(" "), imagestore.MaxMetadata+1)}}, []string{"manifest.json", "limit"}},
	}
	for _, tt := range tests {
		for _, way := range []string{"pipe", "directory"} {
			if way == "directory" && (strings.Contains(tt.name, "twice") || strings.Contains(tt.name, "link is") || strings.Contains(tt.name, "link outside") || strings.Contains(tt.name, "absolute link")) {
				continue // cannot be written, or is not looked at there
			}
			t.Run(tt.name+"/"+way, func(t *testing.T) {
				s := newStore(t)
				if _, err := loadBytes(s, imagetest.Archive(t, imagetest.Layout(t, build(t, "before", 0)))); err != nil {
					t.Fatal(err)
				}
				before := imagetest.Dump(t, s.Root())
				var err error
				if way == "pipe" {
					_, err = loadBytes(s, imagetest.Archive(t, tt.files))
				} else {
					dir := t.TempDir()
					imagetest.WriteDir(t, dir, tt.files)
					_, err = archive.Load(context.Background(), s, dir, archive.LoadOptions{})
				}
				if err == nil {
					t.Fatal("it was loaded")
				}
				for _, w := range tt.want {
					if !strings.Contains(err.Error(), w) {
						t.Errorf("error %q does not say %q", err, w)
					}
				}
				if strings.Contains(err.Error(), "\n") {
					t.Errorf("error has several lines: %q", err)
				}
				if after := imagetest.Dump(t, s.Root()); after != before {
					t.Errorf("store changed:\n%s\nwas:\n%s", after, before)
				}
				if _, err := loadBytes(s, imagetest.Archive(t, layout())); err != nil {
					t.Errorf("the sound archive afterwards: %v", err)
				}
				check(t, s, "test/one:1", b)
			})
		}
	}
}

// A directory may be an unpacked archive of somebody else: links in it lead
// nowhere outside, and a FIFO does not hang.
func TestLoad_HostileDirectory(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	b := build(t, "one", 0)
	body := b.Blobs[b.Layers[0].Digest]
	if err := os.WriteFile(secret, body, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	imagetest.WriteDir(t, dir, imagetest.Layout(t, b))
	path := filepath.Join(dir, imagetest.Blob(body).Name)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, path); err != nil {
		t.Fatal(err)
	}
	s := newStore(t)
	if _, err := archive.Load(context.Background(), s, dir, archive.LoadOptions{}); err == nil {
		t.Error("a link out of the directory was followed")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := mkfifo(path); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Load(context.Background(), s, dir, archive.LoadOptions{}); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("a FIFO as blob: %v", err)
	}
}

// Cut anywhere: an error and no change, or, behind the last content, a sound image.
func TestLoad_CutAnywhere(t *testing.T) {
	b := build(t, "one", decompress.Zstd)
	for form, files := range map[string][]imagetest.File{"docker": imagetest.DockerArchive(t, b), "layout": imagetest.Layout(t, b)} {
		for _, f := range formats {
			t.Run(form+"/"+f.String(), func(t *testing.T) {
				whole := imagetest.Compress(t, f, imagetest.Archive(t, files))
				s := newStore(t)
				if _, err := loadBytes(s, imagetest.Archive(t, imagetest.Layout(t, build(t, "before", 0)))); err != nil {
					t.Fatal(err)
				}
				before := imagetest.Dump(t, s.Root())
				good := 0
				for n := 0; n < len(whole); n += len(whole)/60 + 1 {
					_, err := loadBytes(s, whole[:n])
					if err == nil {
						good++
						check(t, s, "test/one:1", b)
						if _, err := s.Remove(t.Context(), "test/one:1"); err != nil {
							t.Fatal(err)
						}
					}
					if after := imagetest.Dump(t, s.Root()); after != before {
						t.Fatalf("cut after %d of %d: %v, store changed:\n%s\nwas:\n%s", n, len(whole), err, after, before)
					}
				}
				if f != decompress.None && good > 0 {
					t.Errorf("%d cuts of a compressed archive went unnoticed", good)
				}
				if f == decompress.None && good > 8 { // of 1024 bytes and padding at the end
					t.Errorf("%d cuts went unnoticed", good)
				}
			})
		}
	}
}

// One bit flipped anywhere: an error and no change, or the very same image (the
// flip hit a time stamp, say).
func TestLoad_FlippedAnywhere(t *testing.T) {
	b := build(t, "one", decompress.Gzip)
	for form, files := range map[string][]imagetest.File{"docker": imagetest.DockerArchive(t, b), "layout": imagetest.Layout(t, b)} {
		t.Run(form, func(t *testing.T) {
			whole := imagetest.Archive(t, files)
			s := newStore(t)
			for n := 3; n < len(whole); n += len(whole)/120 + 1 {
				damaged := bytes.Clone(whole)
				damaged[n] ^= 1 << (n % 8)
				res, err := loadBytes(s, damaged)
				if err == nil {
					for _, img := range res.Images {
						if img.ID != b.Config.Digest {
							t.Errorf("byte %d: loaded another image %s", n, img.ID)
						}
						if err := s.Verify(context.Background(), string(img.ID)); err != nil {
							t.Errorf("byte %d: %v", n, err)
						}
						ref := img.Name
						if ref == "" {
							ref = string(img.ID)
						}
						if _, err := s.Remove(t.Context(), ref); err != nil {
							t.Fatal(err)
						}
					}
				}
				if n := countBlobs(t, s); n != 0 {
					t.Fatalf("%d blobs left", n)
				}
				if left, _ := filepath.Glob(filepath.Join(s.Root(), "ingest", "*")); len(left) != 0 {
					t.Fatalf("left in staging: %v", left)
				}
			}
		})
	}
}

func TestLoad_Cancel(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithCancel(context.Background())
	whole := imagetest.Archive(t, imagetest.DockerArchive(t, build(t, "one", decompress.Gzip)))
	r := io.MultiReader(bytes.NewReader(whole[:len(whole)/2]), readerFunc(func(p []byte) (int, error) { cancel(); p[0] = 0; return 1, nil }))
	_, err := archive.Load(ctx, s, "-", archive.LoadOptions{Stdin: r})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Load = %v, want context.Canceled", err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Root(), "ingest", "*")); len(left) != 0 || countBlobs(t, s) != 0 {
		t.Errorf("left: %v", left)
	}
}

// A pipe that is named as a file, as a shell's <(...) is, does not hang a load
// that is interrupted.
func TestLoad_CancelNamedPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := mkfifo(path); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("enough")
	release := make(chan struct{})
	defer close(release)
	go func() {
		w, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer w.Close()
		_, _ = w.Write(make([]byte, 100))
		cancel(why)
		<-release
	}()
	if _, err := archive.Load(ctx, newStore(t), path, archive.LoadOptions{}); !errors.Is(err, why) {
		t.Errorf("Load = %v, want the cause", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestLoad_Concurrent(t *testing.T) {
	s := newStore(t)
	one, two := build(t, "one", decompress.Gzip), build(t, "two", decompress.Gzip)
	same := imagetest.Archive(t, imagetest.DockerArchive(t, one))
	other := imagetest.Archive(t, imagetest.Layout(t, two))
	var wg sync.WaitGroup
	for range 4 {
		for _, b := range [][]byte{same, other} {
			wg.Go(func() {
				o, err := imagestore.Open(s.Root())
				if err == nil {
					_, err = loadBytes(o, b)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	check(t, s, "test/one:1", one)
	check(t, s, "test/two:1", two)
	if n := countBlobs(t, s); n != 8 {
		t.Errorf("%d blobs, want 8", n)
	}
}

func TestLoad_TooManyEntries(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range 33 << 10 {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	if _, err := loadBytes(newStore(t), b.Bytes()); err == nil || !strings.Contains(err.Error(), "entries") {
		t.Errorf("Load = %v, want an error about entries", err)
	}
}

func TestLoad_NoSource(t *testing.T) {
	s := newStore(t)
	_, err := archive.Load(context.Background(), s, "/no/such/file", archive.LoadOptions{})
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), `load "/no/such/file"`) {
		t.Errorf("Load = %v", err)
	}
	if _, err := os.Stat(s.Root()); err == nil {
		t.Error("a store was created for a source that is not there")
	}
	if _, err := loadBytes(s, nil); err == nil || !strings.Contains(err.Error(), "standard input") {
		t.Errorf("empty input: %v", err)
	}
}

// What standard archives cannot carry is named.
func TestLoad_OtherCompression(t *testing.T) {
	_, err := loadBytes(newStore(t), []byte("BZh91AY&SY and so on, long enough"))
	if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "it is compressed with bzip2; gzip and zstd are supported") {
		t.Errorf("bzip2: %v", err)
	}
	b := imagetest.Build(t, imagetest.Image{Names: []string{"x"}, Layers: []imagetest.Layer{{Tar: []byte("BZh91AY&SY no tar at all")}}})
	_, err = loadBytes(newStore(t), imagetest.Archive(t, imagetest.Layout(t, b)))
	if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "layer "+string(b.Layers[0].Digest)+": it is compressed with bzip2") {
		t.Errorf("bzip2 layer: %v", err)
	}
}

// The media type says gzip, the content is zstd: the content decides, people are told.
func TestLoad_MediaTypeMismatch(t *testing.T) {
	b := build(t, "one", decompress.Zstd)
	m := bytes.ReplaceAll(b.Blobs[b.Manifest.Digest], []byte("tar+zstd"), []byte("tar+gzip"))
	b.Manifest = imagestore.Descriptor{MediaType: imagestore.MediaTypeManifest, Digest: imagestore.FromBytes(m), Size: int64(len(m))}
	b.Blobs[b.Manifest.Digest] = m
	res, err := loadBytes(newStore(t), imagetest.Archive(t, imagetest.Layout(t, b)))
	if err != nil || len(res.Warnings) != 3 || !strings.Contains(res.Warnings[0], "gzip") {
		t.Errorf("%+v, %v, want a warning for each layer", res, err)
	}
}
