package archive_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/archive"
	"github.com/minirun/minirun/imagestore/decompress"
	"github.com/minirun/minirun/imagestore/imagetest"
)

// Docker before 1.10: no manifest.json, no digests, random IDs, links between
// layers of the same content, steps that left an archive without entries.
func TestLoad_Legacy(t *testing.T) {
	base, top := imagetest.Files(t, "base", "base"), imagetest.Files(t, "top", "top")
	id := func(n int) string { return strings.Repeat(fmt.Sprint(n), 64) }
	v1 := func(n, parent int, rest string) imagetest.File {
		below := ""
		if parent > 0 {
			below = `"parent":"` + id(parent) + `",`
		}
		return imagetest.File{Name: id(n) + "/json", Body: []byte(`{"id":"` + id(n) + `",` + below + `"created":"2015-01-02T03:04:05.6Z","os":"linux","architecture":"` + imagestore.HostPlatform().Architecture + `",` + rest + `}`)}
	}
	files := func() []imagetest.File {
		return []imagetest.File{
			v1(1, 0, `"container_config":{"Cmd":["/bin/sh","-c","#(nop) ADD base"]}`),
			{Name: id(1) + "/layer.tar", Body: base},
			{Name: id(1) + "/VERSION", Body: []byte("1.0")},
			v1(2, 1, `"container_config":{"Cmd":["CMD sh"]}`),
			{Name: id(2) + "/layer.tar", Body: make([]byte, 1024)},
			v1(3, 2, `"config":{"Cmd":["sh"],"Env":["A=b"]},"author":"me"`),
			{Name: id(3) + "/layer.tar", Body: top},
			v1(4, 3, `"config":{"Cmd":["again"]}`),
			{Name: id(4) + "/layer.tar", Link: "../" + id(3) + "/layer.tar"},
			{Name: "repositories", Body: []byte(`{"old/image":{"1":"` + id(3) + `","2":"` + id(4) + `"},"localhost:5000/x":{"latest":"` + id(3) + `"}}`)},
		}
	}
	for _, way := range []string{"pipe", "directory"} {
		s := newStore(t)
		var err error
		if way == "pipe" {
			_, err = loadBytes(s, imagetest.Archive(t, files()))
		} else {
			dir := t.TempDir()
			imagetest.WriteDir(t, dir, files())
			_, err = archive.Load(context.Background(), s, dir, archive.LoadOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
		img, err := s.Resolve("old/image:1")
		if err != nil {
			t.Fatal(err)
		}
		c := img.Config
		if len(img.Layers) != 2 || img.DiffIDs[0] != imagestore.FromBytes(base) || img.DiffIDs[1] != imagestore.FromBytes(top) ||
			len(c.History) != 3 || !c.History[1].EmptyLayer || c.History[0].CreatedBy != "/bin/sh -c #(nop) ADD base" ||
			fmt.Sprint(c.Config.Cmd, c.Config.Env) != "[sh] [A=b]" || c.Author != "me" || c.Created != "2015-01-02T03:04:05.6Z" {
			t.Errorf("%s: %+v", way, img)
		}
		same, err := s.Resolve("localhost:5000/x")
		if err != nil || same.ConfigDigest != img.ConfigDigest {
			t.Errorf("%s: second name: %v", way, err)
		}
		if two, err := s.Resolve("old/image:2"); err != nil || len(two.Layers) != 3 || two.DiffIDs[2] != two.DiffIDs[1] {
			t.Errorf("%s: layer that is a link: %+v, %v", way, two, err)
		}
		for _, ref := range []string{"old/image:1", "old/image:2"} {
			if err := s.Verify(context.Background(), ref); err != nil {
				t.Error(err)
			}
		}
	}
	for want, damage := range map[string]func([]imagetest.File) []imagetest.File{
		"stand on each other": func(f []imagetest.File) []imagetest.File { f[0] = v1(1, 3, `"author":""`); return f },
		"is missing":          func(f []imagetest.File) []imagetest.File { return f[3:] },
		"calls itself": func(f []imagetest.File) []imagetest.File {
			f[0].Body = bytes.ReplaceAll(f[0].Body, []byte(id(1)), []byte(id(9)))
			return f
		},
		"that is no ID": func(f []imagetest.File) []imagetest.File {
			f[len(f)-1].Body = []byte(`{"x":{"y":"../../etc"}}`)
			return f
		},
		"lists no image": func(f []imagetest.File) []imagetest.File { f[len(f)-1].Body = []byte(`{"x":{}}`); return f },
		"repositories":   func(f []imagetest.File) []imagetest.File { f[len(f)-1].Body = []byte(`[]`); return f },
	} {
		s := newStore(t)
		if _, err := loadBytes(s, imagetest.Archive(t, damage(files()))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// What cannot be run anywhere is refused by name; in an index, beside an image
// for this host, it does not matter.
func TestLoad_RefusesByName(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		change     func(m *imagestore.Manifest, c *imagestore.Config)
	}{
		{"windows", "it is for Windows", func(_ *imagestore.Manifest, c *imagestore.Config) { c.OS = "windows" }},
		{"encrypted", "it is encrypted", func(m *imagestore.Manifest, _ *imagestore.Config) {
			m.Layers[0].MediaType = imagestore.MediaTypeLayerGzip + "+encrypted"
		}},
		{"foreign", "foreign layer, whose content is at https://example.com/layer", func(m *imagestore.Manifest, _ *imagestore.Config) {
			m.Layers[0].MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
			m.Layers[0].URLs = []string{"https://example.com/layer"}
			m.Layers[0].Digest = imagestore.FromBytes([]byte("elsewhere"))
		}},
		{"other kind", `media type "application/vnd.wasm.content.layer.v1+wasm"`, func(m *imagestore.Manifest, _ *imagestore.Config) {
			m.Layers[0].MediaType = "application/vnd.wasm.content.layer.v1+wasm"
		}},
	} {
		good := build(t, "good", decompress.Gzip)
		b := imagetest.Build(t, imagetest.Image{Layers: []imagetest.Layer{{Tar: imagetest.Files(t, "f", "f"), Format: decompress.Gzip}}})
		c := imagestore.Config{OS: "linux", Architecture: imagestore.HostPlatform().Architecture, RootFS: imagestore.RootFS{Type: "layers", DiffIDs: b.DiffIDs}}
		m := imagestore.Manifest{SchemaVersion: 2, MediaType: imagestore.MediaTypeManifest, Layers: b.Layers}
		tt.change(&m, &c)
		body := imagetest.JSON(t, c)
		m.Config = imagestore.Descriptor{MediaType: imagestore.MediaTypeConfig, Digest: imagestore.FromBytes(body), Size: int64(len(body))}
		manifest := imagetest.JSON(t, m)
		d := imagestore.Descriptor{MediaType: imagestore.MediaTypeManifest, Digest: imagestore.FromBytes(manifest), Size: int64(len(manifest))}
		layout := func(x imagestore.Index, more ...imagetest.File) []byte {
			files := []imagetest.File{{Name: "index.json", Body: imagetest.JSON(t, x)}, imagetest.Blob(body), imagetest.Blob(manifest), imagetest.Blob(b.Blobs[b.Layers[0].Digest])}
			return imagetest.Archive(t, append(files, more...))
		}
		s := newStore(t)
		_, err := loadBytes(s, layout(imagestore.Index{SchemaVersion: 2, Manifests: []imagestore.Descriptor{d}}))
		if err == nil || !strings.Contains(err.Error(), tt.want) || !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if n := len(blobs(t, s)); n != 0 {
			t.Errorf("%s: %d blobs were kept", tt.name, n)
		}
		// Beside an image for this host.
		d.Platform = &imagestore.Platform{OS: "windows", Architecture: "amd64"}
		native := good.Manifest
		host := imagestore.HostPlatform()
		native.Platform = &host
		index := imagetest.JSON(t, imagestore.Index{SchemaVersion: 2, MediaType: imagestore.MediaTypeIndex, Manifests: []imagestore.Descriptor{d, native}})
		top := imagestore.Descriptor{
			MediaType: imagestore.MediaTypeIndex, Digest: imagestore.FromBytes(index), Size: int64(len(index)),
			Annotations: map[string]string{imagestore.AnnotationRefName: "docker.io/test/multi:1"},
		}
		var files []imagetest.File
		for _, blob := range good.Blobs {
			files = append(files, imagetest.Blob(blob))
		}
		if _, err := loadBytes(s, layout(imagestore.Index{SchemaVersion: 2, Manifests: []imagestore.Descriptor{top}}, append(files, imagetest.Blob(index))...)); err != nil {
			t.Errorf("%s in an index: %v", tt.name, err)
			continue
		}
		check(t, s, "test/multi:1", good)
	}
	for _, mt := range []string{"application/vnd.docker.distribution.manifest.v1+json", "application/vnd.docker.distribution.manifest.v1+prettyjws"} {
		x := `{"schemaVersion":2,"manifests":[{"mediaType":"` + mt + `","digest":"` + string(imagestore.FromBytes(nil)) + `","size":0}]}`
		if _, err := loadBytes(newStore(t), imagetest.Archive(t, []imagetest.File{{Name: "index.json", Body: []byte(x)}})); err == nil || !strings.Contains(err.Error(), "schema 1") {
			t.Errorf("%s: %v", mt, err)
		}
	}
}

// Layers in several gzip members, in several zstd frames with skippable frames
// between and behind (as zstd:chunked has its table of contents), with
// annotations that claim things about offsets: read as what they are.
func TestLoad_ChunkedLayers(t *testing.T) {
	plain := imagetest.Files(t, "a", random("a", 5000), "b", random("b", 5000))
	skippable := func(b string) []byte {
		head := binary.LittleEndian.AppendUint32(nil, 0x184d2a50)
		return append(binary.LittleEndian.AppendUint32(head, uint32(len(b))), b...)
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	half := len(plain) / 2
	for name, layer := range map[string]struct {
		format decompress.Format
		body   []byte
	}{
		"gzip members":          {decompress.Gzip, join(imagetest.Compress(t, decompress.Gzip, plain[:half]), imagetest.Compress(t, decompress.Gzip, nil), imagetest.Compress(t, decompress.Gzip, plain[half:]))},
		"zstd:chunked":          {decompress.Zstd, join(imagetest.Compress(t, decompress.Zstd, plain[:half]), skippable("manifest"), imagetest.Compress(t, decompress.Zstd, plain[half:]), skippable("GNUlInUx"))},
		"zstd, skippable first": {decompress.Zstd, join(skippable("x"), imagetest.Compress(t, decompress.Zstd, plain))},
	} {
		b := imagetest.Build(t, imagetest.Image{Names: []string{"docker.io/test/x:1"}, Layers: []imagetest.Layer{{Tar: plain}}})
		mt := imagestore.MediaTypeLayerGzip
		if layer.format == decompress.Zstd {
			mt = imagestore.MediaTypeLayerZstd
		}
		l := imagestore.Descriptor{
			MediaType: mt, Digest: imagestore.FromBytes(layer.body), Size: int64(len(layer.body)),
			Annotations: map[string]string{
				"io.github.containers.zstd-chunked.manifest-position": "99999999999:1:1:1", "io.github.containers.zstd-chunked.manifest-checksum": "nonsense",
				"containerd.io/snapshot/stargz/toc.digest": "sha256:../../etc",
			},
		}
		manifest := imagetest.JSON(t, imagestore.Manifest{SchemaVersion: 2, MediaType: imagestore.MediaTypeManifest, Config: b.Config, Layers: []imagestore.Descriptor{l}})
		d := imagestore.Descriptor{
			MediaType: imagestore.MediaTypeManifest, Digest: imagestore.FromBytes(manifest), Size: int64(len(manifest)),
			Annotations: map[string]string{imagestore.AnnotationRefName: b.Names[0]},
		}
		files := []imagetest.File{
			{Name: "index.json", Body: imagetest.JSON(t, imagestore.Index{SchemaVersion: 2, Manifests: []imagestore.Descriptor{d}})},
			imagetest.Blob(layer.body), imagetest.Blob(manifest), imagetest.Blob(b.Blobs[b.Config.Digest]),
		}
		s := newStore(t)
		res, err := loadBytes(s, imagetest.Archive(t, files))
		if err != nil || len(res.Warnings) > 0 {
			t.Errorf("%s: %v, %+v", name, err, res)
			continue
		}
		if err := s.Verify(context.Background(), "test/x:1"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		// And it goes out as it came.
		again := newStore(t)
		if _, err := loadBytes(again, saveBytes(t, s, archive.OCI, "test/x:1")); err != nil {
			t.Error(err)
		}
		if img, err := again.Resolve("test/x:1"); err != nil || img.Manifest.Digest != d.Digest || img.Layers[0].Annotations["io.github.containers.zstd-chunked.manifest-checksum"] != "nonsense" {
			t.Errorf("%s: after a round trip: %+v, %v", name, img, err)
		}
	}
}

// Whoever unpacks the layers proves their diff IDs: they are decompressed for
// nothing else. The test claims a proof for a layer that is wrong; that it is
// believed shows that nobody looked again.
func TestLoad_DecompressesOnce(t *testing.T) {
	b := imagetest.Build(t, imagetest.Image{Names: []string{"x:1"}, Layers: []imagetest.Layer{{Tar: imagetest.Files(t, "f", "f"), Format: decompress.Gzip}}})
	files := imagetest.DockerArchive(t, b)
	for i := range files {
		if strings.HasSuffix(files[i].Name, "layer.tar") {
			files[i].Body = imagetest.Compress(t, decompress.Gzip, imagetest.Files(t, "f", "other"))
		}
	}
	for _, tt := range []struct {
		proved []bool
		err    error
		loads  bool
	}{{[]bool{true}, nil, true}, {[]bool{false}, nil, false}, {nil, nil, false}, {[]bool{true}, errors.New("no space"), false}} {
		_, err := archive.Load(context.Background(), newStore(t), "-", archive.LoadOptions{
			Stdin: bytes.NewReader(imagetest.Archive(t, files)),
			Unpack: func(context.Context, *imagestore.Ingest, *imagestore.Image) ([]bool, error) {
				return tt.proved, tt.err
			},
		})
		if (err == nil) != tt.loads {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}
