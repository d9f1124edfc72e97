package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/minirun/minirun/container/volume"
	"github.com/minirun/minirun/imagestore/unpacked"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/network/usernet"
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
	Connect     func(pid int) error // attaches it to its networks; nil without any
	// ConnectInside does it for an ordinary user.
	ConnectInside func(pid, user, net int) error
	volumes       volumes
	share         *overlay.Share // the image's mount, if the monitor is to keep it for others
}

// Keep is what the container's monitor shall keep open, see [runtime.Monitor]: the mount
// of the image, for others to share.
func (p *Prepared) Keep() int {
	if p.share == nil {
		return 0
	}
	return p.share.Mount
}

// Announce tells other containers over the same image of the mount that the monitor of
// this one keeps. It comes after every start; c is nil if that failed.
func (p *Prepared) Announce(c *runtime.Container) {
	if p.share == nil {
		return
	}
	if c != nil {
		if pid, start, fd := c.Keeper(); pid > 0 {
			p.share.Announce(pid, start, fd)
		}
	}
	p.share.Close()
	p.share = nil
}

// RemoveVolumes removes the volumes that were made for the container and have no
// name, once it is gone.
func (p *Prepared) RemoveVolumes() error {
	return p.volumes.store.RemoveAnonymous(p.volumes.anonymous)
}

// awaitNetwork waits for the program that connects a container of an ordinary user.
func (p *Prepared) awaitNetwork() error {
	if p.ConnectInside == nil {
		return nil
	}
	return usernet.Wait(p.Reservation.Dir())
}

// NotUnpackedError reports an image whose layers have not been unpacked.
type NotUnpackedError = unpacked.NotUnpackedError

// Find looks an image up and makes sure that its layers are there. sure is what
// [unpacked.Find] says.
func (i *Images) Find(ref string) (image *unpacked.Image, sure bool, err error) {
	image, sure, err = unpacked.Find(i.Dir, ref)
	if err != nil || image.Chain == "" {
		return image, sure, err
	}
	if _, err := os.Lstat(OverlayDir(i.Dir)); errors.Is(err, fs.ErrNotExist) {
		return nil, sure, &NotUnpackedError{Image: ref} // opening the layer store would make it
	}
	layers, err := i.Layers()
	if err != nil {
		return nil, sure, err
	}
	defer layers.Close()
	if !layers.Ready(overlay.ChainID(image.Chain)) {
		return nil, sure, &NotUnpackedError{Image: ref}
	}
	return image, sure, nil
}

// Prepare makes everything a container from the image needs before the runtime
// takes over: the ID is taken, a snapshot made and mounted, the configuration
// written. On error nothing is left. The root is a detached mount: it belongs to
// no mount namespace and goes with its last descriptor, so a crash leaves none.
func (i *Images) Prepare(s *runtime.Store, id string, image *unpacked.Image, o *Options) (*Prepared, error) {
	layers, err := i.Layers()
	if err != nil {
		return nil, err
	}
	defer layers.Close()
	// The record is read by processes with another working directory.
	store, err := filepath.Abs(i.Dir)
	if err != nil {
		return nil, err
	}
	key := snapshotKey(id)
	p := &Prepared{RootFD: -1, volumes: volumes{store: volume.Store(store), user: key}}
	record := snapshotRecord(store, key)
	p.Reservation, err = s.Reserve(id, record, func() error {
		p.closeRoot() // a snapshot is not removed under its mount
		return errors.Join(p.awaitNetwork(), release(record), p.RemoveVolumes())
	})
	if err != nil {
		return nil, err
	}
	placing := *o
	if err := p.reserveNetwork(store, key, id, s.Root(), image, &placing); err != nil {
		return nil, p.cancel(err)
	}
	placing.root = s.Root()
	if err := p.fill(layers, key, id, image, &placing); err != nil {
		return nil, p.cancel(err)
	}
	return p, nil
}

// Cancel gives back what Prepare has made. It is for a container that was not
// handed to the runtime, whose own errors do the same.
func (p *Prepared) Cancel() error {
	defer p.closeRoot()
	defer p.Announce(nil)
	return p.Reservation.Cancel()
}

func (p *Prepared) cancel(err error) error {
	if cancelErr := p.Cancel(); cancelErr != nil {
		err = fmt.Errorf("%w; and then %w", err, cancelErr)
	}
	return err
}

func (p *Prepared) closeRoot() {
	if p.RootFD >= 0 {
		linux.Close(p.RootFD)
		p.RootFD = -1
	}
}

func (p *Prepared) fill(layers *overlay.Store, key, id string, image *unpacked.Image, o *Options) error {
	snapshot, err := layers.PrepareFor(key, overlay.ChainID(image.Chain), ownerOf(o.root, id, o.Disposable))
	if err != nil {
		return err
	}
	defer snapshot.Close()
	if o.Size > 0 {
		if err := snapshot.SetSize(o.Size); err != nil {
			return err
		}
	}
	placing := *o
	if err := placing.mapIDs(p.volumes.store, key); err != nil {
		return err
	}
	if p.RootFD, err = mountSnapshot(snapshot, &placing); err != nil {
		p.RootFD = -1
		return err
	}
	p.share = snapshot.Share()
	p.volumes.root = p.RootFD
	if len(placing.UIDMap) > 0 && image.Chain != "" {
		// Volumes are filled with the owners that files have on disk.
		if p.volumes.root, err = layers.MountView(overlay.ChainID(image.Chain)); err != nil {
			return err
		}
		defer linux.Close(p.volumes.root)
	}
	placing.place = p.volumes.place
	spec, err := Spec(id, image, p.RootFD, &placing)
	if err != nil {
		return err
	}
	spec.Root.Path = snapshot.RootfsDir()
	p.Bundle, err = inMemory(p.Reservation.Dir(), spec)
	if err != nil {
		return fmt.Errorf("image %q: %w", image.Name, err)
	}
	return nil
}

// inMemory is a bundle that was never on disk; the runtime keeps a copy of its
// configuration.
func inMemory(dir string, spec *specs.Spec) (*bundle.Bundle, error) {
	raw, err := bundle.AppendJSON(nil, spec)
	if err != nil {
		return nil, err
	}
	if len(raw) > bundle.MaxConfigSize { // what an image has may be three times as long in here
		return nil, fmt.Errorf("a container of it has a config.json of %d bytes, %d is the limit: its labels or variables are too long", len(raw), bundle.MaxConfigSize)
	}
	return &bundle.Bundle{Dir: dir, Raw: raw, Spec: spec}, nil
}
