package unpack

import (
	"context"
	"errors"
	goruntime "runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/unpacked"
	"github.com/minirun/minirun/overlay"
)

// Prune removes the layers that no image in images needs, those above first.
// Layers that a snapshot stands on, or that are being unpacked, stay until they
// are free and somebody prunes again. The images' records go first. No image can
// be added while the layers are taken out of their places, so none can lose a
// layer that it was about to use; their files are deleted afterwards, while
// everybody else works on. onDelete is called for each before the first goes and
// may be nil. Prune also removes what dead
// processes left in the layer store.
func Prune(ctx context.Context, images *imagestore.Store, layers *overlay.Store, onDelete func(*overlay.Dropped)) (removed []overlay.ChainID, err error) {
	var dropped []*overlay.Dropped
	err = images.WithImages(ctx, func(list []*imagestore.Image) error {
		used, recorded := map[overlay.ChainID]bool{}, map[imagestore.Digest]bool{}
		for _, img := range list {
			recorded[img.Target.Digest] = true
			for n := range img.DiffIDs {
				used[overlay.ChainID(img.ChainID(n+1))] = true
			}
		}
		unused, err := unusedLayers(layers, used)
		if err == nil {
			err = unpacked.Sweep(images.Root(), recorded)
		}
		if err != nil {
			return err
		}
		if len(unused) == 0 {
			return nil
		}
		r, err := layers.BeginRemoval()
		if err != nil {
			return err
		}
		defer r.Close()
		for _, c := range unused {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			d, err := r.Drop(c)
			var inUse *overlay.InUseError
			switch {
			case errors.As(err, &inUse), d == nil && err == nil:
			case err != nil:
				return err
			default:
				dropped = append(dropped, d)
			}
		}
		return nil
	})
	for _, d := range dropped {
		if onDelete != nil {
			onDelete(d)
		}
		removed = append(removed, d.ID)
	}
	err = errors.Join(err, deleteAll(dropped))
	return removed, errors.Join(err, layers.Cleanup())
}

// removers is how many layers are deleted at one time: it is the kernel's work,
// which takes the files' pages out of the page cache. More than there are
// processors only get into each other's way: a tenth more CPU time, none less to wait.
const removers = 4

func deleteAll(dropped []*overlay.Dropped) error {
	errs := make([]error, len(dropped))
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(len(dropped), removers, goruntime.GOMAXPROCS(0)) {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(dropped) {
					return
				}
				errs[i] = dropped[i].Delete()
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// unusedLayers returns the layers that are not used, a layer always before the
// one below it.
func unusedLayers(layers *overlay.Store, used map[overlay.ChainID]bool) ([]overlay.ChainID, error) {
	all, err := layers.Layers()
	if err != nil {
		return nil, err
	}
	parent := map[overlay.ChainID]overlay.ChainID{}
	for _, l := range all {
		parent[l.ID] = l.Parent
	}
	depths := map[overlay.ChainID]int{"": 0}
	var depth func(overlay.ChainID) int
	depth = func(c overlay.ChainID) int {
		n, ok := depths[c]
		if !ok {
			depths[c] = 0 // ends a circle, which only damage makes
			n = depth(parent[c]) + 1
			depths[c] = n
		}
		return n
	}
	var unused []overlay.ChainID
	for _, l := range all {
		if !used[l.ID] {
			unused = append(unused, l.ID)
		}
	}
	slices.SortStableFunc(unused, func(a, b overlay.ChainID) int { return depth(b) - depth(a) })
	return unused, nil
}
