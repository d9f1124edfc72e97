package inventory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/apply"
)

// Fsck checks both halves of a store. With a repair, broken layers go, so that
// they are unpacked again; those that containers stand on stay.
func Fsck(ctx context.Context, s Stores, o imagestore.FsckOptions) ([]imagestore.Finding, error) {
	linked, err := linkedLayers(s) // while damaged blobs have their names
	if err != nil {
		return nil, err
	}
	found, err := s.Images.Fsck(ctx, o)
	if err != nil || s.Layers == nil {
		return found, err
	}
	for _, f := range found {
		if f.Residue {
			continue
		}
		for _, c := range linked[f.Object] {
			also, err := damagedArchive(s, c, f)
			if err != nil {
				return found, err
			}
			found = append(found, also)
		}
	}
	// First what is in layers: what stands on one that goes is broken then.
	if found, err = contents(ctx, s, o, found); err != nil {
		return found, err
	}
	broken, err := s.Layers.Check()
	if err != nil {
		return found, err
	}
	for _, b := range broken {
		f := imagestore.Finding{Object: "overlay/" + b.Path, Problem: b.Problem}
		switch {
		case b.Key != "":
			f.Object, f.Advice = fmt.Sprintf("snapshot of container %q", ContainerOf(b.Key)), "delete the container"
		case b.Layer == "":
			f.Advice = "nothing reads it; remove it if it is not yours either"
		default:
			f.Object, f.Advice = "layer "+string(b.Layer), "repair it, and it is unpacked again"
			if !o.Repair {
				break
			}
			if err := drop(&f, func() (*overlay.Dropped, error) { return s.Layers.DropBroken(b.Kind, b.Layer) }); err != nil {
				return found, err
			}
		}
		found = append(found, f)
	}
	return residue(ctx, s, o, found)
}

// linkedLayers are the layers whose archives are blobs, by what findings call the
// blob.
func linkedLayers(s Stores) (map[string][]overlay.ChainID, error) {
	if s.Layers == nil {
		return nil, nil
	}
	d, err := measure(s.Images.Root())
	if err != nil {
		return nil, err
	}
	linked := map[string][]overlay.ChainID{}
	for layer, blob := range d.blobs {
		algorithm, word, _ := strings.Cut(strings.TrimPrefix(blob, "blobs/"), "/")
		object := "blob " + algorithm + ":" + word
		linked[object] = append(linked[object], overlay.ChainID("sha256:"+strings.TrimPrefix(layer, "overlay/layers/")))
	}
	return linked, nil
}

// damagedArchive is the finding about a layer whose archive is the blob that the
// finding f is about, and its repair, if f was repaired.
func damagedArchive(s Stores, c overlay.ChainID, f imagestore.Finding) (imagestore.Finding, error) {
	also := imagestore.Finding{Object: "layer " + string(c), Problem: "its archive is the damaged " + f.Object, Advice: "repair it, and it is unpacked again"}
	if f.Repaired == "" {
		return also, nil
	}
	err := dropFrom(s.Layers, c)
	var used *overlay.InUseError
	switch {
	case errors.As(err, &used):
		also.Advice = used.Error()
	case err != nil:
		return also, err
	default:
		also.Repaired = "removed, with what stood on it"
	}
	return also, nil
}

// dropFrom removes the layer c and all above it, those first.
func dropFrom(layers *overlay.Store, c overlay.ChainID) error {
	all, err := layers.Layers()
	if err != nil {
		return err
	}
	drop := []overlay.ChainID{c}
	for i := 0; i < len(drop); i++ {
		for _, l := range all {
			if l.Parent == drop[i] && !slices.Contains(drop, l.ID) {
				drop = append(drop, l.ID)
			}
		}
	}
	r, err := layers.BeginRemoval()
	if err != nil {
		return err
	}
	var dropped []*overlay.Dropped
	for _, c := range slices.Backward(drop) {
		var d *overlay.Dropped
		if d, err = r.Drop(c); err != nil {
			break
		}
		if d != nil {
			dropped = append(dropped, d)
		}
	}
	r.Close()
	for _, d := range dropped {
		err = errors.Join(err, d.Delete())
	}
	return err
}

// drop removes a layer and says so in f, unless a container stands on it.
func drop(f *imagestore.Finding, from func() (*overlay.Dropped, error)) error {
	d, err := from()
	var used *overlay.InUseError
	switch {
	case errors.As(err, &used):
		f.Advice = used.Error()
	case err != nil:
		return err
	case d != nil:
		if err := d.Delete(); err != nil {
			return err
		}
		f.Repaired = "removed"
	}
	return nil
}

// contents reads the layers that are kept as archives, each after those that it
// stands on, and compares them with their chain IDs. Of an extracted layer there
// is nothing to compare its files with.
func contents(ctx context.Context, s Stores, o imagestore.FsckOptions, found []imagestore.Finding) ([]imagestore.Finding, error) {
	list, err := s.Layers.Layers()
	if err != nil {
		return found, nil // Check says what is wrong
	}
	above := map[overlay.ChainID][]overlay.ChainID{}
	for _, l := range list {
		above[l.Parent] = append(above[l.Parent], l.ID)
	}
	base := &apply.Base{}
	// A chain from the bottom to the top needs every layer once; only where it
	// forks the layers below are read again. What stands on damage is not looked at.
	for todo := slices.Clone(above[""]); len(todo) > 0; {
		c := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if slices.ContainsFunc(found, func(f imagestore.Finding) bool { return f.Object == "layer "+string(c) }) {
			continue // by its blob
		}
		if !s.Layers.Has(overlay.Indexed, c) {
			todo = append(todo, above[c]...)
			continue
		}
		err := apply.Verify(ctx, s.Layers, c, base)
		var damage *apply.DamageError
		var gone *overlay.NotExistError
		switch {
		case ctx.Err() != nil:
			return found, context.Cause(ctx)
		case err == nil:
			todo = append(todo, above[c]...)
			continue
		case errors.As(err, &gone), errors.Is(err, fs.ErrNotExist): // removed meanwhile, or Check says so
			continue
		case !errors.As(err, &damage):
			found = append(found, imagestore.Finding{Object: "layer " + string(c), Problem: err.Error()})
			continue
		}
		f := imagestore.Finding{Object: "layer " + string(c), Problem: damage.File + ": " + damage.Problem, Advice: "repair it, and it is unpacked again"}
		if o.Repair {
			if err := drop(&f, func() (*overlay.Dropped, error) { return s.Layers.DropDamaged(overlay.Indexed, c) }); err != nil {
				return found, err
			}
		}
		found = append(found, f)
	}
	return found, nil
}

// residue adds what a collection would remove in the half of the layers.
func residue(ctx context.Context, s Stores, o imagestore.FsckOptions, found []imagestore.Finding) ([]imagestore.Finding, error) {
	p, err := NewPlan(ctx, s)
	if ctx.Err() != nil {
		return found, context.Cause(ctx)
	}
	if err != nil {
		return found, nil // of an index.json that was found damaged
	}
	damaged := imagestore.Damaged(found)
	repaired := ""
	if o.Repair {
		repaired = "removed"
		if damaged {
			err = s.Layers.Cleanup()
		} else {
			_, err = Prune(ctx, s)
		}
		if err != nil {
			return found, err
		}
	}
	for _, i := range p.Items {
		unused := (i.Kind == Layer || i.Kind == Record) && !damaged
		if !i.Keep && (unused || i.Kind == Work && !strings.HasPrefix(i.Name, "ingest/")) {
			found = append(found, imagestore.Finding{Object: string(i.Kind) + " " + i.Name, Problem: i.Why[0], Residue: true, Repaired: repaired, Advice: "minirun image gc"})
		}
	}
	return found, nil
}
