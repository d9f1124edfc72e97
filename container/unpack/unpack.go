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
	"fmt"
	"io"

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
	img, err := images.Resolve(ref)
	if err != nil {
		return nil, err
	}
	if chain := overlay.ChainID(img.TopChainID()); chain == "" || layers.HasLayer(chain) {
		return &Result{Image: img, Chain: chain}, record(images, img)
	}
	img, pin, err := images.Pin(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer pin.Close()
	res, err := pinned(ctx, pin, layers, img, ref, onProgress)
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

func pinned(ctx context.Context, pin *imagestore.Ingest, layers *overlay.Store, img *imagestore.Image, ref string, onProgress func(Progress)) (*Result, error) {
	res := &Result{Image: img}
	p := Progress{Layers: len(img.Layers)}
	for i := range img.Layers {
		if !layers.HasLayer(overlay.ChainID(img.ChainID(i + 1))) {
			p.Total += img.Layers[i].Size
		}
	}
	for i, l := range img.Layers {
		chain := overlay.ChainID(img.ChainID(i + 1))
		if !layers.HasLayer(chain) {
			p.Layer = i + 1
			r, err := layer(ctx, pin, layers, res.Chain, img.DiffIDs[i], l, func(n int64) {
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
			res.Warnings = append(res.Warnings, r.Warnings...)
		}
		res.Chain = chain
	}
	return res, nil
}

func layer(ctx context.Context, pin *imagestore.Ingest, layers *overlay.Store, parent overlay.ChainID, diffID imagestore.Digest, d imagestore.Descriptor, count func(int64)) (apply.Result, error) {
	blob, err := pin.OpenBlob("layer", d)
	if err != nil {
		return apply.Result{}, err
	}
	defer blob.Close()
	// The blob's own digest was checked when it came in; the diff ID that
	// apply checks covers every byte that can reach a container.
	z, err := decompress.NewReader(&counter{r: imagestore.ContextReader(ctx, blob), count: count})
	if err != nil {
		return apply.Result{}, err
	}
	defer z.Close()
	_, res, err := apply.Layer(ctx, layers, parent, string(diffID), z, apply.Options{})
	return res, err
}

type counter struct {
	r     io.Reader
	count func(int64)
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.count(int64(n))
	return n, err
}
