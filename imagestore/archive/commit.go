package archive

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/minirun/minirun/imagestore"
)

// CommitOptions say what an image is made of besides a container's files.
type CommitOptions struct {
	Base      string   // image that the container was made from, by digest; empty: none
	Changes   []string // see [Change]
	Author    string
	Message   string // comment in the history
	CreatedBy string // the container's command, for the history
	Created   time.Time
	Progress  Progress
	Owner     Owner // of a container with a user namespace
	// Places are where something is mounted in the container, such as etc/hosts. What
	// lies there is covered, so the container cannot have made it: an empty file or
	// directory is a place to mount on, and no change.
	Places map[string]bool
	// Check, if not nil, is asked when everything was read whether it may be
	// used: the directory may have been emptied meanwhile.
	Check func() error
}

// BaseGoneError reports that the image of a container is not in the store any
// more, so that there is nothing to add a layer to.
type BaseGoneError struct {
	Base string
	Err  error
}

func (e *BaseGoneError) Error() string {
	return fmt.Sprintf("image %s, which the container was made from, was removed: %v", e.Base, e.Err)
}
func (e *BaseGoneError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *BaseGoneError) Hint() string {
	return "load or pull that image again: its content has to be the same, the name does not matter"
}

// Commit makes an image of what a container has written: one layer more on the
// image that it was made from. upper is the open upper directory of its overlay,
// and the only thing that is read: the price is that of the difference. An empty
// name makes an image that only has an ID.
//
// Owners, modes, times to the nanosecond, hard links, holes, devices, FIFOs and
// the attributes user.*, security.capability and POSIX ACLs are in the layer;
// sockets are not. What was deleted is there as a whiteout. The layer depends on
// the content of the directory alone.
func Commit(ctx context.Context, s *imagestore.Store, upper int, name string, o CommitOptions) (*Result, error) {
	res, err := commit(ctx, s, upper, name, o)
	if err != nil {
		return nil, fmt.Errorf("make image %q: %w", name, err)
	}
	return res, nil
}

func commit(ctx context.Context, s *imagestore.Store, upper int, name string, o CommitOptions) (*Result, error) {
	if name != "" {
		var err error
		if name, err = imagestore.Normalize(name); err != nil {
			return nil, err
		}
	}
	g, base, err := beginCommit(ctx, s, o.Base)
	if err != nil {
		return nil, err
	}
	defer g.Close()
	cfg := base.Config
	if err := Change(&cfg.Config, o.Changes...); err != nil {
		return nil, err
	}
	blob, err := g.Create("")
	if err != nil {
		return nil, err
	}
	out := bufio.NewWriterSize(blob, chunk)
	w := &dirWriter{ctx: ctx, tw: tar.NewWriter(out), raw: out, upper: true, progress: o.Progress, owner: o.Owner, places: o.Places}
	err = w.writeFD(upper, "/")
	if err == nil {
		err = w.tw.Close()
	}
	if err == nil {
		err = out.Flush()
	}
	if err == nil && o.Check != nil {
		err = o.Check()
	}
	if err != nil {
		blob.Abort()
		return nil, err
	}
	layer := imagestore.Descriptor{MediaType: imagestore.MediaTypeLayer, Digest: blob.Digest(), Size: blob.Size()}
	if err := blob.Commit(ctx, ""); err != nil {
		return nil, err
	}
	res := &Result{Warnings: w.skipped}
	return res, publishCommit(ctx, g, base, cfg, layer, name, o, res)
}

// beginCommit keeps the image at the bottom alive until the Ingest is closed.
func beginCommit(ctx context.Context, s *imagestore.Store, base string) (*imagestore.Ingest, *imagestore.Image, error) {
	if base == "" {
		host := imagestore.HostPlatform()
		g, err := s.Begin(ctx)
		return g, &imagestore.Image{Config: imagestore.Config{
			Architecture: host.Architecture, OS: host.OS, Variant: host.Variant, RootFS: imagestore.RootFS{Type: "layers"},
		}}, err
	}
	img, g, err := s.Pin(ctx, base)
	var missing *imagestore.MissingError
	if errors.Is(err, fs.ErrNotExist) || errors.As(err, &missing) {
		err = &BaseGoneError{base, err}
	}
	return g, img, err
}

func publishCommit(ctx context.Context, g *imagestore.Ingest, base *imagestore.Image, cfg imagestore.Config, layer imagestore.Descriptor, name string, o CommitOptions, res *Result) error {
	created := ""
	if !o.Created.IsZero() {
		created = o.Created.UTC().Format(time.RFC3339Nano)
	}
	cfg.Created, cfg.Author = created, o.Author
	n := len(base.Layers)
	cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs[:n:n], layer.Digest) // plain: it is its own diff ID
	// The history may be shorter than the layers, but what it has must line up.
	have := 0
	for _, h := range cfg.History {
		if !h.EmptyLayer {
			have++
		}
	}
	history := cfg.History[:len(cfg.History):len(cfg.History)]
	for ; have < n; have++ {
		history = append(history, imagestore.History{})
	}
	cfg.History = append(history, imagestore.History{Created: created, CreatedBy: o.CreatedBy, Author: o.Author, Comment: o.Message})
	b, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	cd, err := g.PutBytes(ctx, imagestore.MediaTypeConfig, b)
	if err != nil {
		return err
	}
	m := imagestore.Manifest{SchemaVersion: 2, MediaType: imagestore.MediaTypeManifest, Config: cd}
	for _, l := range base.Layers {
		m.Layers = append(m.Layers, ociLayer(l))
	}
	m.Layers = append(m.Layers, layer)
	if b, err = json.Marshal(m); err != nil {
		return err
	}
	target, err := g.PutBytes(ctx, imagestore.MediaTypeManifest, b)
	if err != nil {
		return err
	}
	res.Images = []Loaded{{Name: name, ID: cd.Digest, Target: target}}
	return publish(ctx, g, []imagestore.Naming{{Name: name, Target: target}}, res)
}

// ociLayer describes a layer of docker's format in the words of OCI: an image
// has one format, and the bytes are the same.
func ociLayer(d imagestore.Descriptor) imagestore.Descriptor {
	if d.MediaType == "application/vnd.docker.image.rootfs.diff.tar.gzip" {
		d.MediaType = imagestore.MediaTypeLayerGzip
	}
	return d
}
