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

	"github.com/minirun/minirun/imagestore"
)

// Format is what Save writes.
type Format int

// The formats.
const (
	// OCI is an image layout with all platforms, artifacts and referrers that the
	// store has, and a manifest.json beside it, so that docker of any age loads it.
	OCI Format = iota
	// Docker is what docker save wrote before version 25: configs, layers and
	// manifest.json of one platform each.
	Docker
)

// SaveOptions are optional.
type SaveOptions struct {
	Format   Format
	Progress Progress
}

// Save writes images to w as a tar archive. The bytes depend on nothing but the
// images and their order. Content is what was loaded or pulled, bit for bit, and
// checked in passing; it cannot be removed meanwhile.
func Save(ctx context.Context, s *imagestore.Store, w io.Writer, refs []string, o SaveOptions) error {
	return save(ctx, s, refs, o, func(files []saved) (sink, error) { return newTarSink(w, files), nil })
}

// SaveDir writes an OCI layout to a directory that does not exist or is empty.
func SaveDir(ctx context.Context, s *imagestore.Store, dir string, refs []string, o SaveOptions) error {
	return save(ctx, s, refs, o, func([]saved) (sink, error) { return newDirSink(dir) })
}

// saved is a file of what is written: a blob of the store, or text.
type saved struct {
	name string
	blob imagestore.Digest
	text []byte
	size int64
}

// sink is where files go.
type sink interface {
	file(f saved, r io.Reader) error
	// close completes what was written, or takes it back if err is not nil.
	close(err error) error
}

func save(ctx context.Context, s *imagestore.Store, refs []string, o SaveOptions, open func([]saved) (sink, error)) error {
	held, g, err := s.Hold(ctx, "image save", refs...)
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	defer g.Close()
	files, err := plan(g, held, o.Format)
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	out, err := open(files)
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	if err := out.close(writeFiles(ctx, g, files, out, o.Progress)); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	return nil
}

func writeFiles(ctx context.Context, g *imagestore.Ingest, files []saved, out sink, p Progress) error {
	var total, done int64
	for _, f := range files {
		total += f.size
	}
	for _, f := range files {
		if f.blob == "" {
			if err := out.file(f, strings.NewReader(string(f.text))); err != nil {
				return err
			}
			continue
		}
		d := imagestore.Descriptor{Digest: f.blob, Size: f.size}
		r, err := g.OpenBlob("blob", d)
		if err != nil {
			return err
		}
		v, err := imagestore.NewVerifier(imagestore.ContextReader(ctx, r), "blob", d)
		if err == nil {
			at := done
			err = out.file(f, counted(v, total, func(n, _ int64) {
				if p != nil {
					p(at+n, total)
				}
			}))
		}
		r.Close()
		if err != nil {
			return err
		}
		done += f.size
	}
	return nil
}

// plan lists the files, by name.
func plan(g *imagestore.Ingest, held []imagestore.Held, format Format) ([]saved, error) {
	p := planner{g: g, byConfig: map[imagestore.Digest]int{}, items: []dockerItem{}, files: map[string]saved{}}
	for _, h := range held {
		if err := p.image(h, format); err != nil {
			return nil, err
		}
	}
	if format == OCI {
		if err := p.layout(held); err != nil {
			return nil, err
		}
	}
	if format == Docker || len(p.items) > 0 {
		b, err := json.Marshal(p.items)
		if err != nil {
			return nil, err
		}
		p.text("manifest.json", b)
	}
	files := make([]saved, 0, len(p.files))
	for _, f := range p.files {
		files = append(files, f)
	}
	sort.Slice(files, func(i, j int) bool { return files[i].name < files[j].name })
	return files, nil
}

type planner struct {
	g        *imagestore.Ingest
	items    []dockerItem
	byConfig map[imagestore.Digest]int
	files    map[string]saved
}

func (p *planner) text(name string, b []byte) {
	p.files[name] = saved{name: name, text: b, size: int64(len(b))}
}

func (p *planner) blob(name string, d imagestore.Digest) error {
	n, err := p.g.BlobSize(d)
	if err == nil {
		p.files[name] = saved{name: name, blob: d, size: n}
	}
	return err
}

func blobName(d imagestore.Digest) string { return "blobs/" + d.Algorithm() + "/" + d.Hex() }

// image adds an image to manifest.json and, for docker's format, its files. All
// of it must be there; of an index, the image for this host, or else the first.
func (p *planner) image(h imagestore.Held, format Format) error {
	name := entryName(h.Entry)
	img, err := p.g.Image(h.Entry)
	var artifact *imagestore.ArtifactError
	if errors.As(err, &artifact) && format == OCI {
		return nil
	}
	if err == nil {
		for _, l := range img.Layers {
			if _, err = p.g.BlobSize(l.Digest); err != nil {
				break
			}
		}
	}
	if err != nil {
		return fmt.Errorf("image %q: %w", imagestore.Familiar(name), err)
	}
	it := dockerItem{Config: blobName(img.ConfigDigest), Layers: []string{}}
	for _, l := range img.Layers {
		it.Layers = append(it.Layers, blobName(l.Digest))
	}
	if format == Docker {
		it.Config = img.ConfigDigest.Hex() + ".json"
		if err := p.blob(it.Config, img.ConfigDigest); err != nil {
			return err
		}
		for i, l := range img.Layers {
			it.Layers[i] = l.Digest.Hex() + "/layer.tar"
			if err := p.blob(it.Layers[i], l.Digest); err != nil {
				return err
			}
		}
	}
	i, ok := p.byConfig[img.ConfigDigest]
	if !ok {
		i = len(p.items)
		p.byConfig[img.ConfigDigest] = i
		p.items = append(p.items, it)
	}
	if r, err := imagestore.ParseReference(name); h.ByName && err == nil && r.Digest == "" {
		if tag := r.Familiar(); !slices.Contains(p.items[i].RepoTags, tag) {
			p.items[i].RepoTags = append(p.items[i].RepoTags, tag)
		}
	}
	return nil
}

func entryName(d imagestore.Descriptor) string { return d.Annotations[imagestore.AnnotationRefName] }

// layout adds index.json, oci-layout and every blob.
func (p *planner) layout(held []imagestore.Held) error {
	x := imagestore.Index{SchemaVersion: 2, MediaType: imagestore.MediaTypeIndex, Manifests: []imagestore.Descriptor{}}
	seen := map[string]bool{}
	add := func(d imagestore.Descriptor, name string) {
		if key := name + "@" + string(d.Digest); !seen[key] {
			seen[key] = true
			d.Annotations = annotations(d, name)
			x.Manifests = append(x.Manifests, d)
		}
	}
	for _, h := range held {
		name := ""
		if h.ByName {
			name = entryName(h.Entry)
		}
		add(h.Entry, name)
	}
	for _, h := range held {
		slices.SortFunc(h.Referrers, func(a, b imagestore.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
		for _, r := range h.Referrers {
			add(r, "")
		}
	}
	b, err := json.Marshal(x)
	if err != nil {
		return err
	}
	p.text("index.json", b)
	p.text("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	blobs, err := p.g.Blobs()
	if err != nil {
		return err
	}
	for _, d := range blobs {
		if err := p.blob(blobName(d), d); err != nil {
			return err
		}
	}
	return nil
}

// annotations gives a descriptor its name as docker and containerd read it, the
// full name, and as the image-spec has it, the tag.
func annotations(d imagestore.Descriptor, name string) map[string]string {
	a := map[string]string{}
	for k, v := range d.Annotations {
		if k != imagestore.AnnotationRefName && k != imagestore.AnnotationContainerdName {
			a[k] = v
		}
	}
	switch r, err := imagestore.ParseReference(name); {
	case name == "":
	case err != nil || r.String() != name:
		a[imagestore.AnnotationRefName] = name // as another tool wrote it
	default:
		a[imagestore.AnnotationContainerdName] = name
		if r.Tag != "" {
			a[imagestore.AnnotationRefName] = r.Tag
		}
	}
	if len(a) == 0 {
		return nil
	}
	return a
}
