package unpack_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/minirun/minirun/container/unpack"
	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/archive"
	"github.com/minirun/minirun/imagestore/decompress"
	"github.com/minirun/minirun/imagestore/imagetest"
	"github.com/minirun/minirun/imagestore/unpacked"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/apply"
	"golang.org/x/sys/unix"
)

type stores struct {
	images *imagestore.Store
	layers *overlay.Store
}

func newStores(t *testing.T) stores {
	t.Helper()
	dir := t.TempDir()
	images, err := imagestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := overlay.OpenStore(filepath.Join(dir, "overlay"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(layers.Close)
	return stores{images, layers}
}

func (s stores) load(t *testing.T, im imagetest.Image) *imagetest.Built {
	t.Helper()
	b := imagetest.Build(t, im)
	_, err := archive.Load(context.Background(), s.images, "-", archive.LoadOptions{Stdin: bytes.NewReader(imagetest.Archive(t, imagetest.DockerArchive(t, b)))})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (s stores) chains(t *testing.T) []overlay.ChainID {
	t.Helper()
	list, err := s.layers.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var ids []overlay.ChainID
	for _, l := range list {
		ids = append(ids, l.ID)
	}
	return ids
}

func layer(t *testing.T, f decompress.Format, pairs ...string) imagetest.Layer {
	return imagetest.Layer{Tar: imagetest.Files(t, pairs...), Format: f}
}

// view is a path at which the files of a chain are, however they are kept.
func (s stores) view(t *testing.T, c overlay.ChainID) string {
	t.Helper()
	fd, err := s.layers.MountView(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fmt.Sprintf("/proc/self/fd/%d", fd)
}

func TestRootImage(t *testing.T) {
	s := newStores(t)
	b := s.load(t, imagetest.Image{Names: []string{"x"}, Layers: []imagetest.Layer{
		layer(t, decompress.None, "a", "1", "keep", "k"), layer(t, decompress.Gzip, "a", "2"), layer(t, decompress.Zstd, ".wh.keep", "", "c", "3"),
	}})
	var last unpack.Progress
	res, err := unpack.Image(context.Background(), s.images, s.layers, "x", func(p unpack.Progress) { last = p })
	if err != nil {
		t.Fatal(err)
	}
	var want overlay.ChainID
	for i, d := range b.DiffIDs {
		want = apply.Chain(want, string(d))
		if overlay.ChainID(res.Image.ChainID(i+1)) != want {
			t.Errorf("chain of %d layers is %s here and %s in overlay", i+1, res.Image.ChainID(i+1), want)
		}
		if !s.layers.HasLayer(want) {
			t.Errorf("layer %d is not there", i+1)
		}
	}
	if res.Chain != want || res.Unpacked != 3 {
		t.Errorf("chain %s, %d unpacked, want %s, 3", res.Chain, res.Unpacked, want)
	}
	var total int64
	for _, l := range b.Layers {
		total += l.Size
	}
	if last.Done != total || last.Total != total || last.Layer != 3 || last.Layers != 3 {
		t.Errorf("last progress %+v, want %d bytes", last, total)
	}
	if got, err := os.ReadFile(s.view(t, want) + "/c"); err != nil || string(got) != "3" {
		t.Errorf("file of the top layer: %q, %v", got, err)
	}
	if st, err := os.Lstat(s.view(t, want) + "/keep"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the hidden file is %v, %v", st, err)
	}
	again, err := unpack.Image(context.Background(), s.images, s.layers, "x", nil)
	if err != nil || again.Unpacked != 0 || again.Chain != want {
		t.Errorf("again: %+v, %v", again, err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.images.Root(), "ingest", "*")); len(left) != 0 {
		t.Errorf("pins left: %v", left)
	}
}

// More layers than can be mounted as directories are not made directories of, and are
// nothing special to an index.
func TestRootImage_Deep(t *testing.T) {
	s := newStores(t)
	im := imagetest.Image{Names: []string{"x"}}
	for i := range overlay.MaxLayers + 1 {
		im.Layers = append(im.Layers, layer(t, decompress.None, "file", fmt.Sprint(i)))
	}
	var deep *overlay.DepthError
	_, err := archive.Load(context.Background(), s.images, "-", archive.LoadOptions{
		Stdin: bytes.NewReader(imagetest.Archive(t, imagetest.Layout(t, imagetest.Build(t, im)))), Name: "x",
		Unpack: func(ctx context.Context, g *imagestore.Ingest, img *imagestore.Image) ([]bool, error) {
			_, _, err := unpack.Staged(ctx, apply.Extract, g, s.layers, img, "x", nil)
			if !errors.As(err, &deep) {
				t.Errorf("staged: %v", err)
			}
			return nil, err
		},
	})
	if err != nil || deep == nil {
		t.Fatal(err, deep)
	}
	_, err = unpack.ImageAs(context.Background(), apply.Extract, s.images, s.layers, "x", nil)
	if !errors.As(err, &deep) || err.Error() != `unpack image "x": 501 layers as directories: overlayfs takes at most 500` {
		t.Errorf("extract: %v", err)
	}
	if got := s.chains(t); len(got) != 0 {
		t.Errorf("%d layers are there", len(got))
	}
	if err := apply.CanIndex(s.layers); err != nil {
		t.Skip(err)
	}
	res, err := unpack.Image(context.Background(), s.images, s.layers, "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(s.view(t, res.Chain) + "/file"); err != nil || string(got) != "500" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestRootImage_NoLayers(t *testing.T) {
	s := newStores(t)
	s.load(t, imagetest.Image{Names: []string{"x"}})
	res, err := unpack.Image(context.Background(), s.images, s.layers, "x", nil)
	if err != nil || res.Chain != "" {
		t.Errorf("%+v, %v", res, err)
	}
}

// A blob that rotted after it came in: the error names the layer, the layers
// below stay, nothing of it does, and after a new load it works.
func TestRootImage_DamagedBlob(t *testing.T) {
	for _, f := range []decompress.Format{decompress.None, decompress.Gzip, decompress.Zstd} {
		t.Run(f.String(), func(t *testing.T) {
			s := newStores(t)
			im := imagetest.Image{Names: []string{"x"}, Layers: []imagetest.Layer{layer(t, decompress.Gzip, "a", "1"), layer(t, f, "b", "some content\n", "c", "more content\n")}}
			b := s.load(t, im)
			path := filepath.Join(s.images.Root(), "blobs/sha256", b.Layers[1].Digest.Hex())
			good := b.Blobs[b.Layers[1].Digest]
			damage := map[string][]byte{"flipped": bytes.Clone(good), "cut": good[:len(good)-9]}
			at := len(good) / 2
			if f == decompress.None {
				at = 515 // in the content of the first file
			}
			damage["flipped"][at] ^= 4
			for name, body := range damage {
				if err := os.WriteFile(path, body, 0o600); err != nil {
					t.Fatal(err)
				}
				_, err := unpack.Image(context.Background(), s.images, s.layers, "x", nil)
				var le *unpack.LayerError
				if !errors.As(err, &le) || le.Layer != 2 || le.Digest != b.Layers[1].Digest {
					t.Errorf("%s: %v, want a LayerError of layer 2", name, err)
				}
				if got := s.chains(t); len(got) != 1 || got[0] != overlay.ChainID(b.DiffIDs[0]) {
					t.Errorf("%s: layers %v, want the first one alone", name, got)
				}
			}
			s.load(t, im)
			if _, err := unpack.Image(context.Background(), s.images, s.layers, "x", nil); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRootImage_HostileLayer(t *testing.T) {
	s := newStores(t)
	canary := filepath.Join(t.TempDir(), "canary")
	evil := imagetest.Tar(t, map[string]string{"up/x": "gotcha"}, tar.Header{Typeflag: tar.TypeSymlink, Name: "up", Linkname: filepath.Dir(canary)}, tar.Header{Name: "up/x"})
	s.load(t, imagetest.Image{Names: []string{"x"}, Layers: []imagetest.Layer{{Tar: evil}}})
	res, err := unpack.Image(context.Background(), s.images, s.layers, "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(filepath.Dir(canary), "x")
	if _, err := os.Lstat(outside); err == nil {
		t.Error("a file outside of the store was written")
	}
	// The name goes where the link leads, seen from the layer's root.
	if got, err := os.ReadFile(s.view(t, res.Chain) + outside); err != nil || string(got) != "gotcha" {
		t.Errorf("within the layer: %q, %v", got, err)
	}
}

func TestRootImage_Cancel(t *testing.T) {
	s := newStores(t)
	s.load(t, imagetest.Image{Names: []string{"x"}, Layers: []imagetest.Layer{layer(t, 0, "a", "1"), layer(t, 0, "b", "2")}})
	ctx, cancel := context.WithCancel(context.Background())
	_, err := unpack.Image(ctx, s.images, s.layers, "x", func(unpack.Progress) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
	if got := s.chains(t); len(got) == 2 {
		t.Errorf("all layers are there after a cancel in the first")
	}
}

func TestRootImage_Concurrent(t *testing.T) {
	s := newStores(t)
	var layers []imagetest.Layer
	for i := range 5 {
		layers = append(layers, layer(t, decompress.Gzip, fmt.Sprint(i), fmt.Sprint(i)))
	}
	s.load(t, imagetest.Image{Names: []string{"x"}, Layers: layers})
	var mu sync.Mutex
	unpacked := 0
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			res, err := unpack.Image(context.Background(), s.images, s.layers, "x", nil)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			unpacked += res.Unpacked
		})
	}
	wg.Wait()
	if unpacked != 5 {
		t.Errorf("%d layers were unpacked, want each of 5 once", unpacked)
	}
}

func TestRootPrune(t *testing.T) {
	s := newStores(t)
	base := layer(t, 0, "base", "b")
	x := imagetest.Image{Names: []string{"x"}, Layers: []imagetest.Layer{base, layer(t, 0, "x", "x"), layer(t, 0, "x2", "x")}}
	y := imagetest.Image{Names: []string{"y"}, Layers: []imagetest.Layer{base, layer(t, 0, "y", "y")}}
	s.load(t, x)
	s.load(t, y)
	var tops []overlay.ChainID
	for _, n := range []string{"x", "y"} {
		res, err := unpack.Image(context.Background(), s.images, s.layers, n, nil)
		if err != nil {
			t.Fatal(err)
		}
		tops = append(tops, res.Chain)
	}
	prune := func(want int) {
		t.Helper()
		removed, err := unpack.Prune(context.Background(), s.images, s.layers, nil)
		if err != nil || len(removed) != want {
			t.Fatalf("Prune removed %v, %v, want %d layers", removed, err, want)
		}
	}
	prune(0)
	recorded := func(name string, want bool) {
		t.Helper()
		if records, err := os.ReadDir(filepath.Join(s.images.Root(), "unpacked")); err != nil || (len(records) > 0) != want {
			t.Errorf("%d records, %v; want some: %v", len(records), err, want)
		}
		if img, _, err := unpacked.Find(s.images.Root(), name); (err == nil) != want || err == nil && img.Chain != string(tops[1]) {
			t.Errorf("record of %s: %+v, %v; want one: %v", name, img, err, want)
		}
	}
	recorded("y", true)
	// A container stands on x: its layers stay although the image goes.
	if _, err := s.layers.Prepare("container", tops[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := s.images.Remove(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	prune(0)
	if !s.layers.HasLayer(tops[0]) {
		t.Fatal("a layer under a container was removed")
	}
	if err := s.layers.RemoveSnapshot("container"); err != nil {
		t.Fatal(err)
	}
	prune(2) // the base is y's too
	if s.layers.HasLayer(tops[0]) || !s.layers.HasLayer(tops[1]) {
		t.Error("the wrong layers were removed")
	}
	// A pinned image's layers stay: somebody is unpacking them.
	_, pin, err := s.images.Pin(context.Background(), "y")
	if err != nil {
		t.Fatal(err)
	}
	defer pin.Close()
	if _, err := s.images.Remove(t.Context(), "y"); err != nil {
		t.Fatal(err)
	}
	prune(0)
	pin.Close()
	prune(2)
	recorded("y", false)
	if got := s.chains(t); len(got) != 0 {
		t.Errorf("layers left: %v", got)
	}
}

func TestRootImage_DigestErrorIsTyped(t *testing.T) {
	s := newStores(t)
	b := s.load(t, imagetest.Image{Names: []string{"x"}, Layers: []imagetest.Layer{layer(t, 0, "a", "content")}})
	path := filepath.Join(s.images.Root(), "blobs/sha256", b.Layers[0].Digest.Hex())
	body := bytes.Clone(b.Blobs[b.Layers[0].Digest])
	body[513] ^= 1
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := unpack.Image(context.Background(), s.images, s.layers, "x", nil)
	if !errors.Is(err, apply.ErrInvalid) {
		t.Errorf("%v, want apply.ErrInvalid", err)
	}
}

// What was unpacked in one way stays usable, and the other way can be had too.
func TestRootImageAs(t *testing.T) {
	s := newStores(t)
	b := s.load(t, imagetest.Image{Names: []string{"x"}, Layers: []imagetest.Layer{layer(t, decompress.Gzip, "a", "1", "b", "1"), layer(t, 0, "a", "2", ".wh.b", "")}})
	as := func(kind apply.Kind, unpacked int) overlay.ChainID {
		t.Helper()
		res, err := unpack.ImageAs(context.Background(), kind, s.images, s.layers, "x", nil)
		if err != nil || res.Unpacked != unpacked {
			t.Fatalf("kind %d: %+v, %v, want %d layers unpacked", kind, res, err, unpacked)
		}
		return res.Chain
	}
	c := as(apply.Extract, 2)
	as(apply.Auto, 0)
	if s.layers.HasImage(c) || !s.layers.Has(overlay.Extracted, c) {
		t.Error("it was to be extracted")
	}
	if err := apply.CanIndex(s.layers); err != nil {
		if _, err := unpack.ImageAs(context.Background(), apply.Index, s.images, s.layers, "x", nil); err == nil {
			t.Error("unpacked for a mount that is not possible")
		}
		t.Skip(err)
	}
	as(apply.Index, 2)
	as(apply.Index, 0)
	if !s.layers.HasImage(c) || len(s.chains(t)) != 2 {
		t.Errorf("layers %v, image %v", s.chains(t), s.layers.HasImage(c))
	}
	if names, err := os.ReadDir(s.view(t, c)); err != nil || len(names) != 1 || names[0].Name() != "a" {
		t.Errorf("the image shows %v, %v", names, err)
	}
	// The layers are there and the image of the chain is not: it is made again,
	// and until then nobody takes the image for ready.
	if err := s.layers.RemoveLayer(c); err != nil {
		t.Fatal(err)
	}
	if s.layers.HasLayer(c) || s.layers.Ready(c) {
		t.Error("removed in one of two ways only")
	}
	as(apply.Auto, 1)
	below := overlay.ChainID(b.DiffIDs[0])
	if s.layers.Has(overlay.Indexed, below) && s.layers.HasImage(below) {
		t.Error("the lower chain has an image that nobody asked for")
	}
}
