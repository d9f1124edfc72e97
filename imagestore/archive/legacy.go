package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/decompress"
)

// Docker before 1.10 (2016) saved a directory for each layer, named by a random
// ID, with the archive and a description that names the layer below; the file
// repositories has the names. There are no digests, so there is nothing to check
// but the form.

// v1Layer is <id>/json.
type v1Layer struct {
	ID              string                 `json:"id"`
	Parent          string                 `json:"parent"`
	Created         string                 `json:"created"`
	Author          string                 `json:"author"`
	Comment         string                 `json:"comment"`
	Architecture    string                 `json:"architecture"`
	OS              string                 `json:"os"`
	Config          imagestore.ImageConfig `json:"config"`
	ContainerConfig struct{ Cmd []string } `json:"container_config"`
}

// legacy reads an archive that has only repositories: {"name": {"tag": "id"}}.
func (l *loader) legacy(ctx context.Context, b []byte) ([]imagestore.Naming, error) {
	var repositories map[string]map[string]string
	if err := json.Unmarshal(b, &repositories); err != nil {
		return nil, &imagestore.FormatError{Object: "repositories", Err: err}
	}
	type item struct{ name, id string }
	var items []item
	for repo, tags := range repositories {
		for tag, id := range tags {
			items = append(items, item{repo + ":" + tag, id})
		}
	}
	sort.Slice(items, func(i, j int) bool { return items[i].name < items[j].name })
	switch {
	case len(items) == 0:
		return nil, &imagestore.FormatError{Object: "repositories", Err: errors.New("it lists no image")}
	case len(items) > imagestore.MaxEntries:
		return nil, &imagestore.FormatError{Object: "repositories", Err: fmt.Errorf("it lists more than %d images", imagestore.MaxEntries)}
	case l.o.Name != "" && len(items) > 1:
		return nil, fmt.Errorf("it holds %d images, which cannot all be called %q", len(items), l.o.Name)
	case l.o.Name != "":
		items[0].name = l.o.Name
	}
	made := map[string]imagestore.Descriptor{}
	var names []imagestore.Naming
	for _, it := range items {
		name, err := imagestore.Normalize(it.name)
		if err != nil {
			return nil, &imagestore.FormatError{Object: "repositories", Err: err}
		}
		target, ok := made[it.id]
		if !ok {
			if target, err = l.legacyImage(ctx, it.id); err != nil {
				return nil, err
			}
			made[it.id] = target
		}
		names = append(names, imagestore.Naming{Name: name, Target: target})
	}
	return names, nil
}

// legacyImage follows the parents of the layer id down and makes config and
// manifest of what it finds.
func (l *loader) legacyImage(ctx context.Context, id string) (imagestore.Descriptor, error) {
	none := imagestore.Descriptor{}
	var chain []v1Layer
	for at := id; at != ""; {
		if len(chain) == imagestore.MaxLayers {
			return none, &imagestore.FormatError{Object: "layer " + id, Err: fmt.Errorf("there are more than %d below it, or they stand on each other", imagestore.MaxLayers)}
		}
		v, err := l.v1(ctx, at)
		if err != nil {
			return none, err
		}
		chain = append(chain, *v)
		at = v.Parent
	}
	slices.Reverse(chain)
	top := chain[len(chain)-1]
	host := imagestore.HostPlatform()
	cfg := imagestore.Config{
		Created: top.Created, Author: top.Author, Architecture: top.Architecture, OS: top.OS, Config: top.Config,
		RootFS: imagestore.RootFS{Type: "layers", DiffIDs: []imagestore.Digest{}},
	}
	if cfg.Architecture == "" {
		cfg.Architecture = host.Architecture
	}
	if cfg.OS == "" {
		cfg.OS = host.OS
	}
	m := imagestore.Manifest{SchemaVersion: 2, MediaType: imagestore.MediaTypeManifest, Layers: []imagestore.Descriptor{}}
	for _, v := range chain {
		h := imagestore.History{Created: v.Created, CreatedBy: strings.Join(v.ContainerConfig.Cmd, " "), Author: v.Author, Comment: v.Comment}
		c, err := l.dockerFile(ctx, "layer", v.ID+"/layer.tar")
		if err == nil {
			err = c.plainDigest(ctx, l.g)
		}
		if err == nil && c.err != nil {
			err = fmt.Errorf("layer %q: %w", v.ID, c.err)
		}
		if err != nil {
			return none, err
		}
		if h.EmptyLayer, err = l.isEmpty(ctx, c); err != nil {
			return none, err
		}
		if !h.EmptyLayer {
			cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, c.diffID)
			m.Layers = append(m.Layers, imagestore.Descriptor{MediaType: layerType(c.format), Digest: c.digest, Size: c.size})
		}
		cfg.History = append(cfg.History, h)
	}
	b, err := json.Marshal(cfg)
	if err != nil {
		return none, err
	}
	if m.Config, err = l.g.PutBytes(ctx, imagestore.MediaTypeConfig, b); err != nil {
		return none, err
	}
	if err := imagestore.CheckKind(m.Config, &m, &cfg); err != nil {
		return none, err
	}
	if b, err = json.Marshal(m); err != nil {
		return none, err
	}
	return l.g.PutBytes(ctx, imagestore.MediaTypeManifest, b)
}

// v1 reads the description of a layer.
func (l *loader) v1(ctx context.Context, id string) (*v1Layer, error) {
	object := fmt.Sprintf("layer %q", id)
	if id == "" || len(id) > 128 || strings.ContainsAny(id, "/.") {
		return nil, &imagestore.FormatError{Object: object, Err: errors.New("that is no ID")}
	}
	c, err := l.dockerFile(ctx, "layer", id+"/json")
	if err != nil {
		return nil, err
	}
	b, err := l.g.ReadBlob("layer", imagestore.Descriptor{Digest: c.digest, Size: c.size}, imagestore.MaxMetadata)
	if err != nil {
		return nil, err
	}
	var v v1Layer
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, &imagestore.FormatError{Object: object, Err: err}
	}
	if v.ID != id {
		return nil, &imagestore.FormatError{Object: object, Err: fmt.Errorf("it calls itself %q", v.ID)}
	}
	if _, err := time.Parse(time.RFC3339Nano, v.Created); err != nil {
		v.Created = ""
	}
	return &v, nil
}

// isEmpty tells the archives without entries that steps like CMD left behind:
// nothing but zeros.
func (l *loader) isEmpty(ctx context.Context, c *content) (bool, error) {
	f, err := l.g.OpenBlob("layer", imagestore.Descriptor{Digest: c.digest, Size: c.size})
	if err != nil {
		return false, err
	}
	defer f.Close()
	z, err := decompress.NewReader(imagestore.ContextReader(ctx, f))
	if err != nil {
		return false, err
	}
	defer z.Close()
	head := make([]byte, 512)
	n, err := io.ReadFull(z, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return false, err
	}
	for _, b := range head[:n] {
		if b != 0 {
			return false, nil
		}
	}
	return true, nil
}
