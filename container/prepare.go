package container

import (
	"fmt"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/runtime"
	"github.com/minirun/minirun/runtime/bundle"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Prepared is a container from an image, ready for the runtime.
type Prepared struct {
	Bundle      *bundle.Bundle
	RootFD      int // a detached overlay mount: the container's root
	Reservation *runtime.Reservation
}

// NotUnpackedError reports an image whose layers have not been unpacked.
type NotUnpackedError struct{ Image string }

func (e *NotUnpackedError) Error() string {
	return fmt.Sprintf("image %q: its layers are not unpacked", e.Image)
}

// Find looks an image up and makes sure that its layers are there.
func (i *Images) Find(ref string) (*imagestore.Image, error) {
	images, err := i.Images()
	if err != nil {
		return nil, err
	}
	image, err := images.Resolve(ref)
	if err != nil {
		return nil, err
	}
	layers, err := i.Layers()
	if err != nil {
		return nil, err
	}
	defer layers.Close()
	if chain := image.TopChainID(); chain != "" && !layers.HasLayer(overlay.ChainID(chain)) {
		return nil, &NotUnpackedError{ref}
	}
	return image, nil
}

// Prepare makes everything a container from the image needs before the runtime
// takes over: the ID is taken, a snapshot made and mounted, the configuration
// written. On error nothing is left. The root is a detached mount: it belongs to
// no mount namespace and goes with its last descriptor, so a crash leaves none.
func (i *Images) Prepare(s *runtime.Store, id string, image *imagestore.Image, o *Options) (*Prepared, error) {
	layers, err := i.Layers()
	if err != nil {
		return nil, err
	}
	defer layers.Close()
	record := snapshotRecord(i.Dir, id)
	r, err := s.Reserve(id, record, func() error { return release(record) })
	if err != nil {
		return nil, err
	}
	p, err := prepare(layers, r, id, image, o)
	if err != nil {
		if cancelErr := r.Cancel(); cancelErr != nil {
			err = fmt.Errorf("%w; and then %w", err, cancelErr)
		}
		return nil, err
	}
	return p, nil
}

func prepare(layers *overlay.Store, r *runtime.Reservation, id string, image *imagestore.Image, o *Options) (*Prepared, error) {
	snapshot, err := layers.Prepare(id, overlay.ChainID(image.TopChainID()))
	if err != nil {
		return nil, err
	}
	root, err := snapshot.Mount()
	if err != nil {
		return nil, err
	}
	spec, err := Spec(id, image, root, o)
	if err == nil {
		spec.Root.Path = snapshot.RootfsDir()
		var b *bundle.Bundle
		if b, err = inMemory(r.Dir(), spec); err == nil {
			return &Prepared{Bundle: b, RootFD: root, Reservation: r}, nil
		}
	}
	linux.Close(root)
	return nil, err
}

// inMemory is a bundle that was never on disk; the runtime keeps a copy of its
// configuration.
func inMemory(dir string, spec *specs.Spec) (*bundle.Bundle, error) {
	raw, err := bundle.AppendJSON(nil, spec)
	if err != nil {
		return nil, err
	}
	return &bundle.Bundle{Dir: dir, Raw: raw, Spec: spec}, nil
}
