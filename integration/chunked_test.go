package integration

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// tarParts cuts an archive before the entries with these names.
func tarParts(t testing.TB, archive []byte, names ...string) [][]byte {
	t.Helper()
	var parts [][]byte
	for _, name := range names {
		at := bytes.Index(archive, append([]byte(name), 0))
		if at <= 0 || at%512 != 0 {
			t.Fatalf("no entry %q at a block: %d", name, at)
		}
		parts = append(parts, archive[:at])
		archive = archive[at:]
	}
	return append(parts, archive)
}

// estargz is a layer in the form of eStargz: a gzip member for each part, the
// last of which is the table of contents, and a footer, an empty member that says
// where that begins.
func estargz(t testing.TB, parts [][]byte) []byte {
	t.Helper()
	var blob []byte
	toc := 0
	for _, p := range parts {
		toc = len(blob)
		blob = append(blob, imageGzip(t, p)...)
	}
	var footer bytes.Buffer
	w, _ := gzip.NewWriterLevel(&footer, gzip.NoCompression)
	w.Extra = append([]byte{'S', 'G', 22, 0}, fmt.Sprintf("%016xSTARGZ", toc)...)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if footer.Len() != 51 {
		t.Fatalf("the footer has %d bytes, want 51", footer.Len())
	}
	return append(blob, footer.Bytes()...)
}

// zstdChunked is a layer in the form of zstd:chunked: a frame for each part, and
// the table of contents and the footer in skippable frames.
func zstdChunked(parts [][]byte) []byte {
	skippable := func(b []byte) []byte {
		head := binary.LittleEndian.AppendUint32(nil, 0x184d2a50)
		return append(binary.LittleEndian.AppendUint32(head, uint32(len(b))), b...)
	}
	var blob []byte
	for _, p := range parts {
		blob = append(blob, imageZstd(p)...)
	}
	at := len(blob) + 8
	manifest := imageZstd([]byte(`{"version":1,"entries":[]}`))
	blob = append(blob, skippable(manifest)...)
	var footer []byte
	for _, n := range []int{at, len(manifest), 26, 1} {
		footer = binary.LittleEndian.AppendUint64(footer, uint64(n))
	}
	return append(blob, skippable(append(footer, "GNUlInUx"...))...)
}

// TestRootChunkedImages: layers that can be fetched in pieces are read as the gzip
// and zstd that they are, by both unpackers. What eStargz has in the archive
// beside the files is in the container's root, as it is with every program that
// does not know the format; zstd:chunked has nothing there.
func TestRootChunkedImages(t *testing.T) {
	h := imageSetup(t)
	root := imageRootfs(t)
	files := []imageEntry{{name: "a", data: strings.Repeat("first ", 1000), mode: 0o644}, {name: "b", data: "second", mode: 0o644}}
	extra := []imageEntry{{name: ".prefetch.landmark", data: "\x0f", mode: 0o644}, {name: "stargz.index.json", data: `{"version":1,"entries":[]}`, mode: 0o644}}
	plain := imageLayer(t, append(append([]imageEntry{extra[0]}, files...), extra[1])...)
	zplain := imageLayer(t, files...)
	for _, tt := range []struct {
		name, suffix string
		plain, blob  []byte
		extra        string
	}{
		{"estargz", "+gzip", plain, estargz(t, tarParts(t, plain, "a", "b", "stargz.index.json")), "/.prefetch.landmark\n/stargz.index.json\n"},
		{"zstd-chunked", "+zstd", zplain, zstdChunked(tarParts(t, zplain, "b")), ""},
	} {
		config := (&imageBlobs{layers: [][]byte{root, tt.plain}, config: map[string]any{"Cmd": []string{"sh"}}}).configBlob(t)
		rootBlob := imageGzip(t, root)
		layer := describe(ociType+"layer.v1.tar"+tt.suffix, tt.blob)
		layer.Annotations = map[string]string{ // which lie, and are not looked at
			"containerd.io/snapshot/stargz/toc.digest":            "sha256:" + strings.Repeat("0", 64),
			"io.github.containers.zstd-chunked.manifest-position": "99999999999:1:1:1",
			"io.github.containers.zstd-chunked.manifest-checksum": "sha256:" + strings.Repeat("0", 64),
			"io.containers.estargz.uncompressed-size":             "1",
			"io.github.containers.zstd-chunked.tarsplit-position": "1:1:1",
			"org.opencontainers.image.toc.digest":                 "nonsense",
		}
		m := imageJSON(t, map[string]any{
			"schemaVersion": 2, "mediaType": ociType + "manifest.v1+json", "config": describe(ociType+"config.v1+json", config),
			"layers": []ociDescriptor{describe(ociType+"layer.v1.tar+gzip", rootBlob), layer},
		})
		for _, kind := range []string{"extract", "index"} {
			d := describe(ociType+"manifest.v1+json", m)
			name := tt.name + "-" + kind
			d.Annotations = map[string]string{"org.opencontainers.image.ref.name": name + ":latest"}
			path := filepath.Join(t.TempDir(), "image.tar")
			writeFile(t, path, string(ociLayout(t, d, rootBlob, tt.blob, config, m)))
			h := *h
			h.store += "-" + kind // a layer that is there is not unpacked again
			if kind == "index" {
				needIndex(t)
			}
			if r := h.do("image", "load", "--quiet", "--unpacker", kind, path); r.Code != 0 || r.Stderr != "" {
				t.Fatalf("%s: %+v", name, r)
			}
			script := "for f in /.prefetch.landmark /.no.prefetch.landmark /stargz.index.json; do [ ! -e $f ] || echo $f; done; cat /a /b"
			if got, want := h.must("run", "--rm", "--image", name, h.id(), "sh", "-c", script), tt.extra+files[0].data+files[1].data; got != want {
				t.Errorf("%s: %.200q, want %.200q", name, got, want)
			}
			h.must("image", "verify", name)
		}
	}
}
