package container

import (
	"fmt"

	"github.com/minirun/minirun/container/volume"
	"github.com/minirun/minirun/imagestore/unpacked"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/runtime"
	"github.com/minirun/minirun/runtime/bundle"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Explain makes the bundle that Prepare would make, without taking the ID or
// making a snapshot. Users are looked up in the image's top layer.
func (i *Images) Explain(id string, image *unpacked.Image, o *Options) (*bundle.Bundle, runtime.PlanOptions, error) {
	var po runtime.PlanOptions
	if image.Chain == "" {
		return nil, po, fmt.Errorf("image %q has no layers: there is nothing to look into", image.Name)
	}
	layers, err := i.Layers()
	if err != nil {
		return nil, po, err
	}
	defer layers.Close()
	root, err := layers.MountView(overlay.ChainID(image.Chain))
	if err != nil {
		return nil, po, err
	}
	explaining := *o
	if o.AutoMap {
		explaining.UIDMap = autoRange(0)
		explaining.GIDMap = explaining.UIDMap
	}
	explaining.Net.explain(Networks(i.Dir))
	for _, m := range explaining.Net.mounts() {
		po.Later = append(po.Later, m.Source)
	}
	place := explained(volume.Store(i.Dir))
	explaining.place = func(m *userMount) (string, error) {
		path, err := place(m)
		po.Later = append(po.Later, path)
		return path, err
	}
	var spec *specs.Spec
	if spec, err = Spec(id, image, root, &explaining); err != nil {
		linux.Close(root)
		return nil, po, err
	}
	spec.Root.Path = OverlayDir(i.Dir) + "/snapshots/" + id + "/rootfs"
	po.RootMount, po.Root = true, root
	b, err := inMemory(OverlayDir(i.Dir), spec)
	return b, po, err
}
