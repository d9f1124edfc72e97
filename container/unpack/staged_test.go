package unpack_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/minirun/minirun/container/unpack"
	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/archive"
	"github.com/minirun/minirun/imagestore/decompress"
	"github.com/minirun/minirun/imagestore/imagetest"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/apply"
)

// staged loads with the unpacking in the middle, and prunes right after it, as
// another process might.
func (s stores) staged(t *testing.T, files []imagetest.File) (proved []bool, err error) {
	t.Helper()
	_, err = archive.Load(context.Background(), s.images, "-", archive.LoadOptions{
		Stdin: bytes.NewReader(imagetest.Archive(t, files)),
		Unpack: func(ctx context.Context, g *imagestore.Ingest, img *imagestore.Image) ([]bool, error) {
			var err error
			proved, _, err = unpack.Staged(ctx, apply.Auto, g, s.layers, img, "x", nil)
			if _, err := unpack.Prune(ctx, s.images, s.layers, nil); err != nil {
				t.Error(err)
			}
			return proved, err
		},
	})
	return proved, err
}

func TestRootStaged(t *testing.T) {
	s := newStores(t)
	one := imagetest.Build(t, imagetest.Image{Names: []string{"x:1"}, Layers: []imagetest.Layer{layer(t, decompress.Gzip, "a", "1"), layer(t, decompress.Zstd, "b", "2")}})
	proved, err := s.staged(t, imagetest.DockerArchive(t, one))
	if err != nil || len(proved) != 2 || !proved[0] || !proved[1] {
		t.Fatalf("proved %v, %v", proved, err)
	}
	img, err := s.images.Resolve("x:1")
	if err != nil || !s.layers.HasLayer(overlay.ChainID(img.TopChainID())) {
		t.Errorf("not unpacked, or pruned: %v", err)
	}
	// The lower layer is there: it proves nothing about the blob that comes now.
	two := imagetest.Build(t, imagetest.Image{Names: []string{"y:1"}, Layers: []imagetest.Layer{layer(t, decompress.Zstd, "a", "1"), layer(t, decompress.Gzip, "c", "3")}})
	if proved, err = s.staged(t, imagetest.DockerArchive(t, two)); err != nil || len(proved) != 2 || proved[0] || !proved[1] {
		t.Errorf("proved %v, %v", proved, err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.images.Root(), "ingest", "*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// A layer that is not what the configuration says: refused whether its place is
// free or another image has brought the right one.
func TestRootStaged_WrongDiffID(t *testing.T) {
	for _, have := range []bool{false, true} {
		s := newStores(t)
		good := imagetest.Image{Names: []string{"good:1"}, Layers: []imagetest.Layer{layer(t, decompress.Gzip, "a", "1")}}
		if have {
			if _, err := s.staged(t, imagetest.DockerArchive(t, imagetest.Build(t, good))); err != nil {
				t.Fatal(err)
			}
		}
		if g, err := s.images.Begin(context.Background()); err != nil { // makes the directories
			t.Fatal(err)
		} else if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		b := imagetest.Build(t, good)
		evil := imagetest.Compress(t, decompress.Gzip, imagetest.Files(t, "a", "evil"))
		files := imagetest.DockerArchive(t, b)
		for i := range files {
			if bytes.Equal(files[i].Body, b.Blobs[b.Layers[0].Digest]) {
				files[i].Body = evil
			}
		}
		before := imagetest.Dump(t, filepath.Join(s.images.Root(), "blobs"))
		_, err := s.staged(t, files)
		var de *imagestore.DigestError
		if !errors.As(err, &de) || de.Want != b.DiffIDs[0] {
			t.Errorf("have %v: %v, want a DigestError", have, err)
		}
		if got := imagetest.Dump(t, filepath.Join(s.images.Root(), "blobs")); got != before {
			t.Errorf("have %v: blobs before\n%safterwards\n%s", have, before, got)
		}
		if n := len(s.chains(t)); n > 1 || n == 1 && !have {
			t.Errorf("have %v: %d layers", have, n)
		}
	}
}
