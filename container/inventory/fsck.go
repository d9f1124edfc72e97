package inventory

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/overlay"
)

// Fsck checks both halves of a store. With a repair, broken layers go, so that
// they are unpacked again; those that containers stand on stay.
func Fsck(ctx context.Context, s Stores, o imagestore.FsckOptions) ([]imagestore.Finding, error) {
	found, err := s.Images.Fsck(ctx, o)
	if err != nil || s.Layers == nil {
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
			d, err := s.Layers.DropBroken(b.Kind, b.Layer)
			var used *overlay.InUseError
			switch {
			case errors.As(err, &used):
				f.Advice = used.Error()
			case err != nil:
				return found, err
			case d != nil:
				if err := d.Delete(); err != nil {
					return found, err
				}
				f.Repaired = "removed"
			}
		}
		found = append(found, f)
	}
	return residue(ctx, s, o, found)
}

// residue adds what a collection would remove in the half of the layers.
func residue(ctx context.Context, s Stores, o imagestore.FsckOptions, found []imagestore.Finding) ([]imagestore.Finding, error) {
	p, err := NewPlan(s)
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
