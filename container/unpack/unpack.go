// Package unpack takes images from their store to the layer store: the blobs
// of an image become the chain of layers that a container's snapshot stands on.
//
// The two stores do not know each other. A layer travels between them as a
// stream with a digest: blob, decompressor, [apply.Layer], which makes nothing
// visible whose diff ID is not the one in the image's config.
package unpack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/decompress"
	"github.com/minirun/minirun/imagestore/unpacked"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/apply"
)

// Progress says how far the unpacking of an image is.
type Progress struct {
	Layer, Layers int   // 1 to Layers
	Done, Total   int64 // bytes of the image's blobs, of those that had to be unpacked
}

// Result is an unpacked image.
type Result struct {
	Image    *imagestore.Image
	Chain    overlay.ChainID // parent for a snapshot; empty for an image without layers
	Unpacked int             // layers that were not there
	Warnings []string
}

// LayerError reports a layer that could not be unpacked.
type LayerError struct {
	Ref    string
	Layer  int // from 1
	Digest imagestore.Digest
	Err    error
}

func (e *LayerError) Error() string {
	return fmt.Sprintf("unpack image %q: layer %d (%s): %v", e.Ref, e.Layer, e.Digest, e.Err)
}
func (e *LayerError) Unwrap() error { return e.Err }

// Image makes sure that all layers of the image ref are in layers, bottom
// first, and returns the image with its chain. Then it records the image for
// those who start containers from it ([unpacked]). An image that is there already
// costs one look. Blobs and layers cannot be removed while it works. onProgress
// may be nil.
func Image(ctx context.Context, images *imagestore.Store, layers *overlay.Store, ref string, onProgress func(Progress)) (*Result, error) {
	return ImageAs(ctx, apply.Auto, images, layers, ref, onProgress)
}

// ImageAs is Image with a choice of how to keep the layers. apply.Auto keeps them
// as archives with an index where the kernel can mount those ([apply.CanIndex]),
// unless they exceed what an index can hold.
func ImageAs(ctx context.Context, kind apply.Kind, images *imagestore.Store, layers *overlay.Store, ref string, onProgress func(Progress)) (*Result, error) {
	return ImageFrom(ctx, kind, images, layers, ref, nil, onProgress)
}

// ImageFrom is ImageAs for whoever has the archive of the image's only layer
// decompressed already, in a file that nobody else writes to; nil if not. It is
// trusted no more than a blob.
func ImageFrom(ctx context.Context, kind apply.Kind, images *imagestore.Store, layers *overlay.Store, ref string, plain *os.File, onProgress func(Progress)) (*Result, error) {
	img, err := images.Resolve(ref)
	if err != nil {
		return nil, err
	}
	chain := overlay.ChainID(img.TopChainID())
	as, err := way(layers, kind, img)
	if err != nil {
		return nil, fmt.Errorf("unpack image %q: %w", ref, err)
	}
	if complete(layers, as, chain) {
		return &Result{Image: img, Chain: chain}, record(images, img)
	}
	img, pin, err := images.Pin(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer pin.Close()
	if len(img.Layers) != 1 {
		plain = nil
	}
	res, err := pinned(ctx, pin, layers, kind, as, img, ref, plain, onProgress)
	if err == nil {
		err = record(images, img)
	}
	return res, err
}

// record tells containers of an image whose layers are all there.
func record(images *imagestore.Store, img *imagestore.Image) error {
	c := img.Config
	c.History, c.RootFS = nil, imagestore.RootFS{} // nothing to a container
	config, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return unpacked.Write(images.Root(), &unpacked.Image{
		Target: img.Target.Digest, Manifest: img.Manifest.Digest, ID: img.ConfigDigest, Chain: string(img.TopChainID()),
	}, config)
}

// way decides how the layers of an image are kept: as they are already, or as the
// kernel allows. Directories that no container could mount are not made.
func way(layers *overlay.Store, kind apply.Kind, img *imagestore.Image) (overlay.Kind, error) {
	chain := overlay.ChainID(img.TopChainID())
	deep := tooDeep(img)
	if chain == "" || kind == apply.Extract || kind == apply.Auto && deep == nil && layers.Has(overlay.Extracted, chain) {
		return overlay.Extracted, deep
	}
	err := apply.CanIndex(layers)
	for i := 0; i < len(img.DiffIDs) && err == nil; i++ {
		if layers.HasLarge(overlay.ChainID(img.ChainID(i + 1))) { // by a kernel that could more
			err = apply.CanRedirect(layers)
			break
		}
	}
	if err == nil {
		return overlay.Indexed, nil
	}
	if kind == apply.Auto {
		return overlay.Extracted, deep
	}
	return overlay.Extracted, fmt.Errorf("with an index: %w", err)
}

// tooDeep reports an image with more layers than can be mounted as directories.
func tooDeep(img *imagestore.Image) error {
	if n := len(img.DiffIDs); n > overlay.MaxLayers {
		return &overlay.DepthError{Layers: n}
	}
	return nil
}

// complete reports whether a snapshot can stand on the chain, kept in that way.
func complete(layers *overlay.Store, as overlay.Kind, chain overlay.ChainID) bool {
	if as == overlay.Indexed {
		return layers.HasImage(chain)
	}
	return chain == "" || layers.Has(as, chain)
}

// pinned unpacks an image that nobody can remove meanwhile.
func pinned(ctx context.Context, pin *imagestore.Ingest, layers *overlay.Store, kind apply.Kind, as overlay.Kind, img *imagestore.Image, ref string, plain *os.File, onProgress func(Progress)) (*Result, error) {
	res, err := allLayers(ctx, pin, layers, as, img, ref, plain, onProgress)
	if kind == apply.Auto && as == overlay.Indexed && errors.Is(err, apply.ErrLimit) && tooDeep(img) == nil {
		// More than an index holds. Directories hold more, and decide.
		res, err = allLayers(ctx, pin, layers, overlay.Extracted, img, ref, plain, onProgress)
	}
	return res, err
}

func allLayers(ctx context.Context, pin *imagestore.Ingest, layers *overlay.Store, as overlay.Kind, img *imagestore.Image, ref string, plain *os.File, onProgress func(Progress)) (*Result, error) {
	res := &Result{Image: img}
	p := Progress{Layers: len(img.Layers)}
	for i := range img.Layers {
		if !layers.Has(as, overlay.ChainID(img.ChainID(i+1))) {
			p.Total += img.Layers[i].Size
		}
	}
	opts := apply.Options{Kind: apply.Extract}
	if as == overlay.Indexed {
		opts = apply.Options{Kind: apply.Index, Base: &apply.Base{}, Inner: true}
	}
	var done []imagestore.Descriptor // which nobody reads soon
	for i, l := range img.Layers {
		chain := overlay.ChainID(img.ChainID(i + 1))
		if !layers.Has(as, chain) {
			p.Layer = i + 1
			r, compressed, err := layer(ctx, pin, layers, res.Chain, img.DiffIDs[i], l, plain, opts, func(n int64) {
				p.Done += n
				if onProgress != nil {
					onProgress(p)
				}
			})
			if err != nil {
				return nil, &LayerError{Ref: ref, Layer: i + 1, Digest: l.Digest, Err: err}
			}
			if !r.Existed {
				res.Unpacked++
			}
			if compressed {
				done = append(done, l)
			}
			res.Warnings = append(res.Warnings, r.Warnings...)
		}
		res.Chain = chain
	}
	for _, l := range done {
		if blob, err := pin.OpenBlob("layer", l); err == nil {
			if f, ok := blob.(*os.File); ok {
				forget(f)
			}
			blob.Close()
		}
	}
	if as == overlay.Indexed {
		if err := apply.MakeImage(ctx, layers, res.Chain, opts); err != nil {
			return nil, fmt.Errorf("unpack image %q: %w", ref, err)
		}
	}
	return res, nil
}

func layer(ctx context.Context, pin *imagestore.Ingest, layers *overlay.Store, parent overlay.ChainID, diffID imagestore.Digest, d imagestore.Descriptor, plain *os.File, opts apply.Options, count func(int64)) (r apply.Result, compressed bool, err error) {
	if plain != nil {
		if _, err := plain.Seek(0, io.SeekStart); err != nil {
			return r, false, err
		}
		opts.Plain = plain
		_, res, err := apply.Layer(ctx, layers, parent, string(diffID), imagestore.ContextReader(ctx, plain), opts)
		count(d.Size)
		return res, false, err
	}
	blob, err := pin.OpenBlob("layer", d)
	if err != nil {
		return r, false, err
	}
	defer blob.Close()
	// The blob's own digest was checked when it came in; the diff ID that
	// apply checks covers every byte that can reach a container.
	z, err := decompress.NewReader(&counter{r: imagestore.ContextReader(ctx, blob), count: count})
	if err != nil {
		return r, false, err
	}
	defer z.Close()
	compressed = z.Format != decompress.None
	f, isFile := blob.(*os.File)
	if isFile && !compressed {
		opts.Plain = f // no second copy of it
	}
	_, r, err = apply.Layer(ctx, layers, parent, string(diffID), z, opts)
	if isFile && compressed {
		forget(f) // which has the kernel begin to write it to the disk, if it is new
	}
	return r, compressed, err
}

// forget takes a compressed blob out of memory, as far as it is on the disk. Nobody reads
// it before the image is pushed or saved. See posix_fadvise(2).
func forget(f *os.File) { _ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }

type counter struct {
	r     io.Reader
	count func(int64)
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.count(int64(n))
	return n, err
}
