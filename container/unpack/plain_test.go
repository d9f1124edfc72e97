package unpack_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/minirun/minirun/container/unpack"
	"github.com/minirun/minirun/imagestore/archive"
	"github.com/minirun/minirun/imagestore/decompress"
	"github.com/minirun/minirun/imagestore/imagetest"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/apply"
)

// What import has decompressed is not decompressed again: the blob is not even
// looked into. An index keeps that very file.
func TestRootImageFrom(t *testing.T) {
	for _, kind := range []apply.Kind{apply.Index, apply.Extract} {
		s := newStores(t)
		if kind == apply.Index && apply.CanIndex(s.layers) != nil {
			continue
		}
		body := imagetest.Compress(t, decompress.Gzip, imagetest.Files(t, "a", string(bytes.Repeat([]byte("a"), 100_000)), "b", "b"))
		res, err := archive.Import(context.Background(), s.images, "-", "x", archive.ImportOptions{
			Stdin: bytes.NewReader(body), KeepPlain: func() bool { return true },
		})
		if err != nil || res.Plain == nil {
			t.Fatalf("kept %v, %v", res, err)
		}
		defer res.Plain.Close()
		img, err := s.images.Resolve("x")
		if err != nil {
			t.Fatal(err)
		}
		// A file that is not the layer is refused as a blob would be.
		evil, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer evil.Close()
		if _, err := evil.Write(imagetest.Files(t, "a", "evil")); err != nil {
			t.Fatal(err)
		}
		var digest *apply.DigestError
		if _, err := unpack.ImageFrom(context.Background(), kind, s.images, s.layers, "x", evil, nil); !errors.As(err, &digest) {
			t.Errorf("%v: another archive: %v, want a DigestError", kind, err)
		}
		blob := filepath.Join(s.images.Root(), "blobs", img.Layers[0].Digest.Algorithm(), img.Layers[0].Digest.Hex())
		if err := os.WriteFile(blob, bytes.Repeat([]byte{1}, len(body)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := unpack.ImageFrom(context.Background(), kind, s.images, s.layers, "x", res.Plain, nil); err != nil {
			t.Errorf("%v: %v", kind, err)
		}
		if kind == apply.Index {
			want, err := res.Plain.Stat()
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.Stat(filepath.Join(s.layers.Root(), overlay.Indexed.Dir(overlay.ChainID(img.TopChainID())), overlay.ArchiveFile))
			if err != nil || !os.SameFile(got, want) {
				t.Errorf("the archive is another file: %v", err)
			}
		}
	}
}
