package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/archive"
	"github.com/minirun/minirun/imagestore/decompress"
	"github.com/minirun/minirun/imagestore/imagetest"
)

// many makes a layout with all that a store may hold: images of two platforms in
// an index in an index, docker's media types, an attestation, and referrers: a
// signature of the index and something about the signature.
func many(t *testing.T) (files []imagetest.File, multi imagestore.Descriptor, referrers []imagestore.Descriptor) {
	t.Helper()
	bodies := map[imagestore.Digest][]byte{}
	add := func(mediaType string, v any) imagestore.Descriptor {
		b, ok := v.([]byte)
		if !ok {
			b = imagetest.JSON(t, v)
		}
		d := imagestore.Descriptor{MediaType: mediaType, Digest: imagestore.FromBytes(b), Size: int64(len(b))}
		bodies[d.Digest] = b
		return d
	}
	image := func(name, arch string, f decompress.Format) imagestore.Descriptor {
		host := imagestore.HostPlatform()
		if arch == "" {
			arch = host.Architecture
		}
		b := imagetest.Build(t, imagetest.Image{
			Layers: []imagetest.Layer{{Tar: imagetest.Files(t, name, random(name, 3000)), Format: f}},
			Config: imagestore.Config{OS: "linux", Architecture: arch},
		})
		for d, body := range b.Blobs {
			bodies[d] = body
		}
		d := b.Manifest
		d.Platform = &imagestore.Platform{OS: "linux", Architecture: arch}
		return d
	}
	empty := add("application/vnd.oci.empty.v1+json", []byte("{}"))
	artifact := func(kind, content string, subject *imagestore.Descriptor) imagestore.Descriptor {
		d := add(imagestore.MediaTypeManifest, imagestore.Manifest{
			SchemaVersion: 2, MediaType: imagestore.MediaTypeManifest, ArtifactType: kind, Config: empty,
			Layers: []imagestore.Descriptor{add("text/plain", []byte(content))}, Subject: subject, Annotations: map[string]string{"a": "b"},
		})
		d.ArtifactType = kind
		return d
	}
	attestation := artifact("application/vnd.in-toto+json", "attestation", nil)
	attestation.Platform = &imagestore.Platform{OS: "unknown", Architecture: "unknown"}
	inner := add(imagestore.MediaTypeDockerList, imagestore.Index{
		SchemaVersion: 2, MediaType: imagestore.MediaTypeDockerList, Manifests: []imagestore.Descriptor{image("arm", "arm64", decompress.Zstd), image("s390", "s390x", 0), image("amd", "amd64", decompress.Gzip)},
	})
	multi = add(imagestore.MediaTypeIndex, imagestore.Index{
		SchemaVersion: 2, MediaType: imagestore.MediaTypeIndex, Manifests: []imagestore.Descriptor{inner, attestation}, Annotations: map[string]string{"k": "v"},
	})
	signature := artifact("application/vnd.test.signature", "signed", &multi)
	note := artifact("application/vnd.test.note", "about the signature", &signature)
	named := multi
	named.Annotations = map[string]string{imagestore.AnnotationRefName: "docker.io/test/multi:1", "other": "kept"}
	x := imagestore.Index{SchemaVersion: 2, Manifests: []imagestore.Descriptor{note, named, signature}}
	files = []imagetest.File{{Name: "oci-layout", Body: []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {Name: "index.json", Body: imagetest.JSON(t, x)}}
	for _, b := range bodies {
		files = append(files, imagetest.Blob(b))
	}
	return files, multi, []imagestore.Descriptor{signature, note}
}

func saveBytes(t *testing.T, s *imagestore.Store, f archive.Format, refs ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := archive.Save(context.Background(), s, &b, refs, archive.SaveOptions{Format: f}); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Root(), "ingest", "*")); len(left) != 0 {
		t.Errorf("left in staging: %v", left)
	}
	return b.Bytes()
}

// blobs are the digests in a store.
func blobs(t *testing.T, s *imagestore.Store) []string {
	t.Helper()
	list, err := s.Survey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, b := range list.Blobs {
		all = append(all, string(b.Digest))
	}
	return all
}

func list(t *testing.T, s *imagestore.Store) []string {
	t.Helper()
	entries, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name+"@"+string(e.Target.Digest)+" "+e.Target.Annotations["other"])
	}
	slices.Sort(all)
	return all
}

// What comes in goes out and comes in again: all platforms, artifacts, referrers.
func TestSave_RoundTrip(t *testing.T) {
	files, multi, referrers := many(t)
	one := build(t, "one", decompress.Zstd)
	from := newStore(t)
	if _, err := loadBytes(from, imagetest.Archive(t, files)); err != nil {
		t.Fatal(err)
	}
	if _, err := loadBytes(from, imagetest.Archive(t, imagetest.Layout(t, one))); err != nil {
		t.Fatal(err)
	}
	if _, err := from.Tag(t.Context(), "test/one:1", "quay.io/other/name:2"); err != nil {
		t.Fatal(err)
	}
	refs := []string{"test/multi:1", "test/one:1", "quay.io/other/name:2"}
	saved := saveBytes(t, from, archive.OCI, refs...)
	again := newStore(t)
	res, err := loadBytes(again, saved)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Warnings) != 0 {
		t.Errorf("warnings: %q", res.Warnings)
	}
	if a, b := list(t, from), list(t, again); !slices.Equal(a, b) || len(a) != 5 {
		t.Errorf("entries\n%s\nafterwards\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
	if a, b := blobs(t, from), blobs(t, again); !slices.Equal(a, b) {
		t.Errorf("blobs\n%s\nafterwards\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
	// The same images give the same bytes, in another store and another time.
	if b := saveBytes(t, again, archive.OCI, refs...); !bytes.Equal(saved, b) {
		t.Error("a second archive differs from the first")
	}
	// As a directory the files are the same.
	dir := filepath.Join(t.TempDir(), "layout")
	must(t, os.Mkdir(dir, 0o755)) // empty is fine
	if err := archive.SaveDir(context.Background(), again, dir, refs, archive.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(bytes.NewReader(saved))
	for n := 0; ; n++ {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		want, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, h.Name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s differs in the directory: %v", h.Name, err)
		}
		if h.ModTime.Unix() != 0 || h.Uid != 0 || h.Uname != "" {
			t.Errorf("header of %s: %+v", h.Name, h)
		}
	}
	third := newStore(t)
	if _, err := archive.Load(context.Background(), third, dir, archive.LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	if a, b := list(t, from), list(t, third); !slices.Equal(a, b) {
		t.Errorf("entries\n%s\nfrom the directory\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
	// The referrers go with the last name of what they are about.
	if _, err := from.Tag(t.Context(), "test/multi:1", "second"); err != nil {
		t.Fatal(err)
	}
	if _, err := from.Remove(t.Context(), "test/multi:1"); err != nil {
		t.Fatal(err)
	}
	for _, d := range append(referrers, multi) {
		if !slices.Contains(blobs(t, from), string(d.Digest)) {
			t.Errorf("%s went while its subject has a name", d.Digest)
		}
	}
	if _, err := from.Remove(t.Context(), "second"); err != nil {
		t.Fatal(err)
	}
	if got := blobs(t, from); len(got) != len(one.Blobs) {
		t.Errorf("%d blobs are left, want %d", len(got), len(one.Blobs))
	}
}

func TestSave_Docker(t *testing.T) {
	s := newStore(t)
	one, two := build(t, "one", decompress.Gzip), build(t, "two", decompress.None)
	if _, err := loadBytes(s, imagetest.Archive(t, imagetest.Layout(t, one, two))); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Tag(t.Context(), "test/one:1", "alpine"); err != nil {
		t.Fatal(err)
	}
	saved := saveBytes(t, s, archive.Docker, "test/one:1", "test/two:1", "alpine", string(two.Config.Digest))
	var items []struct {
		Config           string
		RepoTags, Layers []string
	}
	r := tar.NewReader(bytes.NewReader(saved))
	for {
		h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == "manifest.json" {
			must(t, json.NewDecoder(r).Decode(&items))
			break
		}
	}
	if len(items) != 2 || !slices.Equal(items[0].RepoTags, []string{"test/one:1", "alpine:latest"}) || items[0].Config != one.Config.Digest.Hex()+".json" || len(items[0].Layers) != 3 {
		t.Errorf("manifest.json: %+v", items)
	}
	again := newStore(t)
	if _, err := loadBytes(again, saved); err != nil {
		t.Fatal(err)
	}
	check(t, again, "test/one:1", one)
	check(t, again, "alpine", one)
	check(t, again, "test/two:1", two)
	if b := saveBytes(t, again, archive.Docker, "test/one:1", "test/two:1", "alpine"); !bytes.Equal(saved, b) {
		t.Error("a second archive differs from the first")
	}
	// An image that is given by its ID keeps its names to itself.
	if b := saveBytes(t, s, archive.OCI, string(one.Config.Digest)); bytes.Contains(b, []byte("test/one")) {
		t.Error("the archive of an ID has a name")
	}
}

// A damaged or incomplete image is not written, and what was begun is taken back.
func TestSave_Damaged(t *testing.T) {
	s := newStore(t)
	one := build(t, "one", decompress.Gzip)
	if _, err := loadBytes(s, imagetest.Archive(t, imagetest.Layout(t, one))); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(s.Root(), "blobs/sha256", one.Layers[1].Digest.Hex())
	good, err := os.ReadFile(path)
	must(t, err)
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for name, damage := range map[string]func(){
		"flipped": func() { must(t, os.WriteFile(path, flipped, 0o600)) },
		"cut":     func() { must(t, os.WriteFile(path, good[:20], 0o600)) },
		"gone":    func() { must(t, os.Remove(path)) },
	} {
		damage()
		f, err := archive.CreateFile(filepath.Join(dir, "out.tar"))
		must(t, err)
		err = f.Finish(archive.Save(context.Background(), s, f, []string{"test/one:1"}, archive.SaveOptions{}))
		if err == nil || !strings.Contains(err.Error(), one.Layers[1].Digest.Hex()) {
			t.Errorf("%s: %v", name, err)
		}
		err = archive.SaveDir(context.Background(), s, filepath.Join(dir, "out"), []string{"test/one:1"}, archive.SaveOptions{})
		if err == nil {
			t.Errorf("%s: a directory was written", name)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("%s: left: %v", name, left)
		}
		must(t, os.WriteFile(path, good, 0o600))
	}
	if err := archive.Save(context.Background(), s, io.Discard, []string{"nope"}, archive.SaveOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("save of what is not there: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	if err := archive.SaveDir(context.Background(), s, dir, []string{"test/one:1"}, archive.SaveOptions{}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("save to a directory with files: %v", err)
	}
}

// The image goes while it is saved.
func TestSave_RemovedMeanwhile(t *testing.T) {
	s := newStore(t)
	one := build(t, "one", decompress.Gzip)
	if _, err := loadBytes(s, imagetest.Archive(t, imagetest.Layout(t, one))); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	removed := false
	w := writerFunc(func(p []byte) (int, error) {
		if !removed {
			removed = true
			if _, err := s.Remove(t.Context(), "test/one:1"); err != nil {
				t.Error(err)
			}
			if _, err := s.GC(t.Context()); err != nil {
				t.Error(err)
			}
		}
		return b.Write(p)
	})
	if err := archive.Save(context.Background(), s, w, []string{"test/one:1"}, archive.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := loadBytes(s, b.Bytes()); err != nil {
		t.Fatal(err)
	}
	check(t, s, "test/one:1", one)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
