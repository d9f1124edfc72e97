package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/decompress"
)

// Progress is told how many bytes of a source were read so far. total is 0 when
// it is not known.
type Progress func(done, total int64)

// LoadOptions are optional.
type LoadOptions struct {
	Stdin    io.Reader // what the source "-" reads
	Name     string    // the name of the image, in place of the archive's
	NoRetag  bool      // a name that stands for another image is an error
	Progress Progress
	// Unpack may unpack an image for this host before anybody can see it, and
	// tells of which layers that has proved the diff ID. It spares these the
	// second decompression. An error is no reason not to keep the image.
	Unpack func(ctx context.Context, g *imagestore.Ingest, img *imagestore.Image) (proved []bool, err error)
}

// Loaded is one image that was brought in.
type Loaded struct {
	Name     string // normalised; empty if the archive had none
	ID       imagestore.Digest
	Target   imagestore.Descriptor
	Replaced bool   // the name stood for another image before
	Artifact string // what it is if it is no image; ID is its digest then
}

// Result says what came in. Warnings are for people.
type Result struct {
	Images   []Loaded
	Warnings []string
	Plain    *os.File // of Import: see KeepPlain; nil if there is none. To be closed by the caller
}

// Error reports a source that could not be brought in; the store is as it was.
type Error struct {
	Op, Source string
	Err        error
}

func (e *Error) Error() string {
	if e.Source == "-" {
		return fmt.Sprintf("%s from standard input: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("%s %q: %v", e.Op, e.Source, e.Err)
}
func (e *Error) Unwrap() error { return e.Err }

// NoImageError reports an archive that is none of images.
type NoImageError struct{}

func (e *NoImageError) Error() string {
	return "it has neither index.json nor manifest.json: no image archive"
}
func (e *NoImageError) Is(target error) bool { return target == errors.ErrUnsupported }

// Load brings the images of a docker archive or an OCI layout into s. src is a
// file, compressed or not, a directory or "-".
func Load(ctx context.Context, s *imagestore.Store, src string, o LoadOptions) (*Result, error) {
	res, err := load(ctx, s, src, o)
	if err != nil {
		var e *Error
		if errors.As(err, &e) {
			return nil, err
		}
		return nil, &Error{Op: "load", Source: src, Err: err}
	}
	return res, nil
}

// publish makes what was brought in visible and notes which names changed.
func publish(ctx context.Context, g *imagestore.Ingest, names []imagestore.Naming, res *Result) error {
	pub, err := g.Publish(ctx, names...)
	if err != nil {
		return err
	}
	for i := range res.Images {
		res.Images[i].Replaced = res.Images[i].Name != "" && slices.Contains(pub.Replaced, res.Images[i].Name)
	}
	return nil
}

type loader struct {
	g    *imagestore.Ingest
	t    tree
	o    LoadOptions
	base string // what images are called that have only a tag
	res  *Result
	seen map[imagestore.Digest]bool
	// layers are those whose diff ID has not been compared with the config's yet.
	layers []layerCheck
}

type layerCheck struct {
	c      *content
	i      int // in its image
	object string
	want   imagestore.Digest
	proved bool
}

func load(ctx context.Context, s *imagestore.Store, src string, o LoadOptions) (*Result, error) {
	in, err := openSource(ctx, src, o.Stdin, o.Progress)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if o.Name != "" { // before a long archive is read
		if _, err := imagestore.Normalize(o.Name); err != nil {
			return nil, err
		}
	}
	g, err := s.BeginFor(ctx, "image load")
	if err != nil {
		return nil, err
	}
	defer g.Close()
	l := &loader{g: g, o: o, res: &Result{}, seen: map[imagestore.Digest]bool{}}
	if in.dir != nil {
		l.t = &directory{g: g, root: in.dir, done: map[string]*content{}}
	} else if l.t, err = readTar(ctx, g, in.r); err != nil {
		return nil, err
	}
	if src != "-" {
		l.base = baseName(src)
	}
	names, err := l.images(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.checkLayers(ctx, names); err != nil {
		return nil, err
	}
	for _, n := range names {
		img, err := g.Image(n.Target)
		var artifact *imagestore.ArtifactError
		switch {
		case errors.As(err, &artifact):
			l.res.Images = append(l.res.Images, Loaded{Name: n.Name, ID: n.Target.Digest, Target: n.Target, Artifact: artifact.Type})
		case err != nil:
			return nil, err
		default:
			l.res.Images = append(l.res.Images, Loaded{Name: n.Name, ID: img.ConfigDigest, Target: n.Target})
		}
	}
	for i := range names {
		names[i].Free = o.NoRetag && names[i].Name != ""
	}
	return l.res, publish(ctx, g, names, l.res)
}

// images finds out which form the archive has, checks what it holds and
// returns the images with their names.
func (l *loader) images(ctx context.Context) ([]imagestore.Naming, error) {
	// docker since 25 writes both files; index.json says more.
	b, err := l.t.file("index.json")
	if err == nil {
		return l.layout(ctx, b)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	b, err = l.t.file("manifest.json")
	if err == nil {
		return l.docker(ctx, b)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	b, err = l.t.file("repositories")
	if err == nil {
		return l.legacy(ctx, b)
	}
	return nil, &NoImageError{}
}

// checkLayers compares diff IDs with what layers decompress to: by unpacking
// them if somebody does, else by decompressing them for nothing else.
func (l *loader) checkLayers(ctx context.Context, names []imagestore.Naming) error {
	done := map[imagestore.Digest]bool{}
	for _, n := range names {
		img, err := l.g.HostImage(n.Target)
		if err != nil || l.o.Unpack == nil || done[img.Manifest.Digest] {
			continue
		}
		done[img.Manifest.Digest] = true
		proved, err := l.o.Unpack(ctx, l.g, img)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for i := range l.layers {
			c := &l.layers[i]
			for j := range img.Layers {
				if err == nil && j < len(proved) && proved[j] && img.Layers[j].Digest == c.c.digest && img.DiffIDs[j] == c.want {
					c.proved = true
				}
			}
		}
	}
	for _, c := range l.layers {
		if c.proved {
			continue
		}
		if err := c.c.plainDigest(ctx, l.g); err != nil {
			return err
		}
		if err := checkLayer(c.c, c.i, c.object, c.want); err != nil {
			return err
		}
	}
	return nil
}

// layout reads an OCI image layout.
func (l *loader) layout(ctx context.Context, b []byte) ([]imagestore.Naming, error) {
	if lb, err := l.t.file("oci-layout"); err == nil {
		var v struct {
			Version string `json:"imageLayoutVersion"`
		}
		if err := json.Unmarshal(lb, &v); err != nil {
			return nil, &imagestore.FormatError{Object: "oci-layout", Err: err}
		}
		if v.Version != "1.0.0" {
			return nil, &imagestore.UnsupportedError{Object: "oci-layout", Reason: fmt.Sprintf("version %q", v.Version)}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	x, err := imagestore.ParseIndex(b, imagestore.MediaTypeIndex)
	if err != nil {
		return nil, &imagestore.FormatError{Object: "index.json", Err: err}
	}
	if len(x.Manifests) == 0 {
		return nil, &imagestore.FormatError{Object: "index.json", Err: errors.New("it lists no image")}
	}
	// What is about an image, and no image, takes no name from the command line or the file.
	attached := make([]bool, len(x.Manifests))
	images := 0
	for i, d := range x.Manifests {
		if attached[i], err = l.target(ctx, d); err != nil {
			return nil, err
		}
		if !attached[i] {
			images++
		}
	}
	if l.o.Name != "" && images > 1 {
		return nil, fmt.Errorf("it holds %d images, which cannot all be called %q", images, l.o.Name)
	}
	var names []imagestore.Naming
	for i, d := range x.Manifests {
		if attached[i] && images > 0 {
			names = append(names, imagestore.Naming{Target: d})
			continue
		}
		found, err := l.names(ctx, d, len(x.Manifests) == 1 || images == 1)
		if err != nil {
			return nil, err
		}
		names = append(names, found...)
	}
	return names, nil
}

// blob returns the content that d describes, checked.
func (l *loader) blob(ctx context.Context, what string, d imagestore.Descriptor) (*content, error) {
	c, err := l.t.entry(ctx, "blobs/"+d.Digest.Algorithm()+"/"+d.Digest.Hex())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &imagestore.MissingError{Object: what, Digest: d.Digest}
	}
	if err != nil {
		return nil, err
	}
	object := what + " " + string(d.Digest)
	if c.size != d.Size {
		return nil, &imagestore.SizeError{Object: object, Want: d.Size, Got: c.size}
	}
	if c.digest != d.Digest {
		return nil, &imagestore.DigestError{Object: object, Want: d.Digest, Got: c.digest}
	}
	return c, nil
}

// target checks what an entry of index.json leads to, and tells whether it is an
// artifact without a name that is about something else.
func (l *loader) target(ctx context.Context, d imagestore.Descriptor) (attached bool, err error) {
	named := d.Annotations[imagestore.AnnotationRefName] != "" || d.Annotations[imagestore.AnnotationContainerdName] != ""
	switch d.MediaType {
	case imagestore.MediaTypeIndex, imagestore.MediaTypeDockerList:
		n, entries, err := l.index(ctx, d, 1)
		if err == nil && n == 0 && entries == 0 {
			err = &imagestore.FormatError{Object: "index " + string(d.Digest), Err: errors.New("the archive has none of its images")}
		}
		return false, err
	case imagestore.MediaTypeManifest, imagestore.MediaTypeDockerImage:
		m, err := l.manifest(ctx, d)
		if err != nil {
			return false, err
		}
		_, about := d.Annotations[imagestore.AnnotationSubject]
		return !named && (m.Subject != nil || about) && !m.IsImage(), nil
	}
	return false, &imagestore.UnsupportedError{Object: "index.json", Reason: imagestore.Unsupported(d.MediaType)}
}

// index checks what an index lists and counts the complete images and artifacts.
// Archives are often made on a host that has one platform's content only.
func (l *loader) index(ctx context.Context, d imagestore.Descriptor, depth int) (n, artifacts int, err error) {
	object := "index " + string(d.Digest)
	if depth > 3 {
		return 0, 0, &imagestore.FormatError{Object: object, Err: errors.New("indexes are nested more than 3 deep")}
	}
	if _, err := l.blob(ctx, "index", d); err != nil {
		return 0, 0, err
	}
	b, err := l.g.ReadBlob("index", d, imagestore.MaxMetadata)
	if err != nil {
		return 0, 0, err
	}
	x, err := imagestore.ParseIndex(b, d.MediaType)
	if err != nil {
		return 0, 0, &imagestore.FormatError{Object: object, Err: err}
	}
	for _, c := range x.Manifests {
		if l.seen[c.Digest] {
			continue
		}
		l.seen[c.Digest] = true
		switch c.MediaType {
		case imagestore.MediaTypeIndex, imagestore.MediaTypeDockerList:
			sub, more, err := l.index(ctx, c, depth+1)
			if err != nil && !isMissing(err) {
				return 0, 0, err
			}
			n += sub
			artifacts += more
		case imagestore.MediaTypeManifest, imagestore.MediaTypeDockerImage:
			m, err := l.manifest(ctx, c)
			switch {
			case err == nil && m.IsImage():
				n++
			case err == nil && (c.Platform == nil || c.Platform.OS != "unknown"): // but attestations
				artifacts++
			case err == nil:
			case isUnsupported(err) && !isNative(c.Platform):
				// Kept as far as it is there, for other hosts: Windows, say.
			case isMissing(err) && (!isNative(c.Platform) || missingDigest(err) == c.Digest):
				// Of another platform, or not there at all. One for this
				// host of which a part is missing is a damaged archive.
			case err != nil:
				return 0, 0, fmt.Errorf("%s: %w", object, err)
			}
		}
	}
	return n, artifacts, nil
}

func isUnsupported(err error) bool {
	var u *imagestore.UnsupportedError
	return errors.As(err, &u)
}

func isMissing(err error) bool { return missingDigest(err) != "" }

// missingDigest is the digest of a MissingError, empty for another error.
func missingDigest(err error) imagestore.Digest {
	var m *imagestore.MissingError
	if errors.As(err, &m) {
		return m.Digest
	}
	return ""
}

func isNative(p *imagestore.Platform) bool {
	host := imagestore.HostPlatform()
	return p != nil && p.OS == host.OS && p.Architecture == host.Architecture && p.Variant == ""
}

// manifest checks a manifest, its config and its layers.
func (l *loader) manifest(ctx context.Context, d imagestore.Descriptor) (*imagestore.Manifest, error) {
	if _, err := l.blob(ctx, "manifest", d); err != nil {
		return nil, err
	}
	b, err := l.g.ReadBlob("manifest", d, imagestore.MaxMetadata)
	if err != nil {
		return nil, err
	}
	m, err := imagestore.ParseManifest(b, d.MediaType)
	if err != nil {
		return nil, &imagestore.FormatError{Object: "manifest " + string(d.Digest), Err: err}
	}
	if _, err := l.blob(ctx, "config", m.Config); err != nil {
		return nil, err
	}
	isImage := m.IsImage()
	var cfg *imagestore.Config
	var refused error // only after all of it was kept
	if isImage {
		if cfg, err = l.config(m.Config, len(m.Layers)); err != nil {
			return nil, err
		}
		refused = imagestore.CheckKind(d, m, cfg)
	}
	var layers []layerCheck
	for i, ld := range m.Layers {
		c, err := l.blob(ctx, "layer", ld)
		if err != nil {
			if isMissing(err) && refused != nil {
				err = refused
			}
			return nil, err
		}
		if !isImage || refused != nil {
			continue
		}
		layers = append(layers, layerCheck{c: c, i: i, object: "layer " + string(ld.Digest), want: cfg.RootFS.DiffIDs[i]})
		if said := typeFormat(ld.MediaType); said >= 0 && said != c.format {
			l.res.Warnings = append(l.res.Warnings, fmt.Sprintf("layer %s: its media type says compression %s, its content is %s", ld.Digest.Short(), said, c.format))
		}
	}
	if refused != nil {
		return nil, refused
	}
	l.layers = append(l.layers, layers...)
	return m, nil
}

func (l *loader) config(d imagestore.Descriptor, layers int) (*imagestore.Config, error) {
	b, err := l.g.ReadBlob("config", d, imagestore.MaxMetadata)
	if err != nil {
		return nil, err
	}
	cfg, err := imagestore.ParseConfig(b, layers)
	if err != nil {
		return nil, &imagestore.FormatError{Object: "config " + string(d.Digest), Err: err}
	}
	return cfg, nil
}

// checkLayer compares a layer's uncompressed digest with the config's.
func checkLayer(c *content, i int, object string, want imagestore.Digest) error {
	if want.Algorithm() != "sha256" {
		return &imagestore.UnsupportedError{Object: object, Reason: "its diff ID is no sha256"}
	}
	if c.err != nil {
		return fmt.Errorf("%s: %w", object, c.err)
	}
	if c.diffID != want {
		return &imagestore.DigestError{Object: fmt.Sprintf("diff ID of layer %d (%s)", i+1, strings.TrimPrefix(object, "layer ")), Want: want, Got: c.diffID}
	}
	return nil
}

// typeFormat is the compression that a layer's media type states, -1 if none.
func typeFormat(mediaType string) decompress.Format {
	switch {
	case strings.HasSuffix(mediaType, "gzip"):
		return decompress.Gzip
	case strings.HasSuffix(mediaType, "zstd"):
		return decompress.Zstd
	case strings.HasSuffix(mediaType, ".tar"):
		return decompress.None
	}
	return -1
}
