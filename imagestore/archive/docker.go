package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/decompress"
)

// dockerItem is one image of a docker archive's manifest.json.
type dockerItem struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func parseDockerManifest(b []byte) ([]dockerItem, error) {
	if strings.HasPrefix(strings.TrimSpace(string(b[:min(len(b), 64)])), "{") {
		return nil, &imagestore.UnsupportedError{Object: "directory", Reason: "its manifest.json is a manifest and no list of images, as skopeo's dir: has it; oci: makes a layout"}
	}
	var items []dockerItem
	if err := json.Unmarshal(b, &items); err != nil {
		return nil, &imagestore.FormatError{Object: "manifest.json", Err: err}
	}
	if len(items) == 0 {
		return nil, &imagestore.FormatError{Object: "manifest.json", Err: errors.New("it lists no image")}
	}
	if len(items) > imagestore.MaxEntries {
		return nil, &imagestore.FormatError{Object: "manifest.json", Err: fmt.Errorf("it lists more than %d images", imagestore.MaxEntries)}
	}
	return items, nil
}

// docker reads a docker archive: the images of manifest.json get an OCI
// manifest, config and layers stay as they are.
func (l *loader) docker(ctx context.Context, b []byte) ([]imagestore.Naming, error) {
	items, err := parseDockerManifest(b)
	if err != nil {
		return nil, err
	}
	if l.o.Name != "" && len(items) > 1 {
		return nil, fmt.Errorf("it holds %d images, which cannot all be called %q", len(items), l.o.Name)
	}
	var names []imagestore.Naming
	for _, it := range items {
		target, err := l.dockerImage(ctx, it)
		if err != nil {
			return nil, err
		}
		tags := it.RepoTags
		if l.o.Name != "" {
			tags = []string{l.o.Name}
		}
		if len(tags) == 0 {
			tags = []string{""}
		}
		for _, t := range tags {
			if t != "" {
				if t, err = imagestore.Normalize(t); err != nil {
					return nil, &imagestore.FormatError{Object: "manifest.json", Err: err}
				}
			}
			names = append(names, imagestore.Naming{Name: t, Target: target})
		}
	}
	return names, nil
}

func (l *loader) dockerImage(ctx context.Context, it dockerItem) (imagestore.Descriptor, error) {
	none := imagestore.Descriptor{}
	if len(it.Layers) > imagestore.MaxLayers {
		return none, &imagestore.FormatError{Object: "manifest.json", Err: fmt.Errorf("an image has %d layers, more than %d", len(it.Layers), imagestore.MaxLayers)}
	}
	c, err := l.dockerFile(ctx, "config", it.Config)
	if err != nil {
		return none, err
	}
	m := imagestore.Manifest{
		SchemaVersion: 2,
		MediaType:     imagestore.MediaTypeManifest,
		Config:        imagestore.Descriptor{MediaType: imagestore.MediaTypeConfig, Digest: c.digest, Size: c.size},
		Layers:        []imagestore.Descriptor{},
	}
	cfg, err := l.config(m.Config, len(it.Layers))
	if err != nil {
		return none, err
	}
	for i, name := range it.Layers {
		c, err := l.dockerFile(ctx, "layer", name)
		if err != nil {
			return none, err
		}
		l.layers = append(l.layers, layerCheck{c: c, i: i, object: fmt.Sprintf("layer %q", name), want: cfg.RootFS.DiffIDs[i]})
		m.Layers = append(m.Layers, imagestore.Descriptor{MediaType: layerType(c.format), Digest: c.digest, Size: c.size})
	}
	if err := imagestore.CheckKind(imagestore.Descriptor{Digest: c.digest}, &m, cfg); err != nil {
		return none, err
	}
	b, err := json.Marshal(m)
	if err != nil {
		return none, err
	}
	return l.g.PutBytes(ctx, imagestore.MediaTypeManifest, b)
}

// dockerFile returns a file that manifest.json names. Where the name holds a
// digest it must be the content's: <hex>.json, blobs/sha256/<hex>.
func (l *loader) dockerFile(ctx context.Context, what, name string) (*content, error) {
	if name == "" {
		return nil, &imagestore.FormatError{Object: "manifest.json", Err: fmt.Errorf("a %s has no file name", what)}
	}
	if clean := cleanName(name); clean != path.Clean(name) {
		return nil, &imagestore.FormatError{Object: "manifest.json", Err: fmt.Errorf("%s %q leads out of the archive", what, name)}
	}
	object := fmt.Sprintf("%s %q", what, name)
	c, err := l.t.entry(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &imagestore.FormatError{Object: object, Err: errors.New("manifest.json names it and it is missing")}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", object, err)
	}
	base := path.Base(name)
	isBlob := path.Dir(path.Clean(name)) == "blobs/sha256"
	if what == "config" {
		base = strings.TrimSuffix(base, ".json")
		isBlob = true
	}
	if want, err := imagestore.ParseDigest("sha256:" + base); err == nil && isBlob && want != c.digest {
		return nil, &imagestore.DigestError{Object: object, Want: want, Got: c.digest}
	}
	return c, nil
}

func layerType(f decompress.Format) string {
	switch f {
	case decompress.Gzip:
		return imagestore.MediaTypeLayerGzip
	case decompress.Zstd:
		return imagestore.MediaTypeLayerZstd
	}
	return imagestore.MediaTypeLayer
}
