package unpack

import (
	"context"
	"fmt"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/apply"
)

// Staged unpacks an image that nobody can see yet: all its blobs are in g or in
// the store. It tells of which layers that has proved the diff ID, because they
// were made here and now from these blobs. The layers are kept until g is closed,
// so what comes of the image has to be decided before.
func Staged(ctx context.Context, kind apply.Kind, g *imagestore.Ingest, layers *overlay.Store, img *imagestore.Image, ref string, onProgress func(Progress)) (proved []bool, warnings []string, err error) {
	if err := g.PinStaged(img); err != nil {
		return nil, nil, err
	}
	as, err := way(layers, kind, img)
	if err != nil {
		return nil, nil, fmt.Errorf("unpack image %q: %w", ref, err)
	}
	proved = make([]bool, len(img.Layers))
	missing := 0
	for i := range proved {
		if !layers.Has(as, overlay.ChainID(img.ChainID(i+1))) {
			proved[i] = true
			missing++
		}
	}
	if missing == 0 && complete(layers, as, overlay.ChainID(img.TopChainID())) {
		return proved, nil, nil
	}
	res, err := pinned(ctx, g, layers, kind, as, img, ref, nil, onProgress)
	if err != nil {
		return nil, nil, err
	}
	if res.Unpacked != missing { // somebody else made some of them, from blobs of their own
		return nil, res.Warnings, nil
	}
	return proved, res.Warnings, nil
}
