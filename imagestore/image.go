package imagestore

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/minirun/minirun/imagestore/reference"
)

// Image is one image for one platform. All of it was checked against its
// digests when it was read.
type Image struct {
	Name         string       // normalised; empty for one without a name
	Target       Descriptor   // what index.json has: Manifest, or an index that holds it
	Manifest     Descriptor   // the manifest of the platform that was picked
	Layers       []Descriptor // bottom first
	ConfigDigest Digest       // docker calls it the image ID
	Config       Config
	DiffIDs      []Digest // uncompressed digests of Layers

	configSize int64
}

// ChainID identifies the stack of the lowest n layers (image-spec, config.md,
// "Layer ChainID"). It is empty for n = 0.
func (m *Image) ChainID(n int) Digest {
	var chain Digest
	for i, d := range m.DiffIDs[:n] {
		if i == 0 {
			chain = d
			continue
		}
		sum := sha256.Sum256([]byte(string(chain) + " " + string(d)))
		chain = Digest("sha256:" + hex.EncodeToString(sum[:]))
	}
	return chain
}

// TopChainID is the chain ID of all layers: the parent of a container's snapshot.
func (m *Image) TopChainID() Digest { return m.ChainID(len(m.DiffIDs)) }

// Size is the number of bytes of the image's blobs, config and manifest included.
func (m *Image) Size() int64 {
	n := m.Manifest.Size + m.configSize
	for _, l := range m.Layers {
		n += l.Size
	}
	return n
}

// Resolve finds ref and reads the image for this host's platform. ref is a
// name, a name with a digest, "sha256:..." or the first four or more digits of
// an image ID. It takes no lock.
func (s *Store) Resolve(ref string) (*Image, error) {
	x, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	target, err := s.find(x, ref)
	if err != nil {
		return nil, err
	}
	img, err := s.load(*target, HostPlatform(), true)
	if err != nil {
		if p, ok := err.(*PlatformError); ok {
			p.Ref = ref
			return nil, p
		}
		return nil, fmt.Errorf("image %q: %w", clip(ref), err)
	}
	return img, nil
}

func entryName(d *Descriptor) string { return d.Annotations[AnnotationRefName] }

// find returns the entry of index.json that ref stands for.
func (s *Store) find(x *Index, ref string) (*Descriptor, error) {
	isID := reference.IsID(ref)
	// As written first: another tool may have given a name that is no
	// reference of ours, such as a bare tag.
	for i := range x.Manifests {
		d := &x.Manifests[i]
		if ref != "" && !isID && entryName(d) == ref && reference.Fits(ref, d.Digest) {
			return d, nil
		}
	}
	r, refErr := ParseReference(ref)
	if refErr == nil && !isID {
		full := r.String()
		for i := range x.Manifests {
			d := &x.Manifests[i]
			name := entryName(d)
			if r.Digest != "" && d.Digest != r.Digest {
				continue // whatever it is called
			}
			if name == full {
				return d, nil
			}
			if r.Digest == "" {
				continue
			}
			if have, err := ParseReference(name); err == nil && have.Repository() == r.Repository() {
				return d, nil
			}
		}
	}
	hits, err := s.findID(x, ref)
	if err != nil {
		return nil, err
	}
	if len(hits) > 0 {
		return hits[0], nil
	}
	if refErr != nil && !reference.LooksLikeID(ref) {
		return nil, refErr
	}
	return nil, &NotExistError{Ref: ref}
}

// findID returns the entries whose manifest or config digest is, or begins
// with, ref. Several entries of one image are no ambiguity.
func (s *Store) findID(x *Index, ref string) ([]*Descriptor, error) {
	if !reference.LooksLikeID(ref) {
		return nil, nil
	}
	prefix := ref
	if !strings.Contains(ref, ":") {
		prefix = "sha256:" + ref
	}
	var hits []*Descriptor
	ids := []string{}
	for i := range x.Manifests {
		d := &x.Manifests[i]
		id := d.Digest
		match := strings.HasPrefix(string(d.Digest), prefix)
		if !match {
			if img, err := s.load(*d, HostPlatform(), false); err == nil {
				id = img.ConfigDigest
				match = strings.HasPrefix(string(img.ConfigDigest), prefix) || strings.HasPrefix(string(img.Manifest.Digest), prefix)
			}
		}
		if !match {
			continue
		}
		if len(hits) == 0 || hits[0].Digest != d.Digest {
			candidate := id.Short()
			if name := entryName(d); name != "" {
				candidate += " (" + Familiar(name) + ")"
			}
			ids = append(ids, candidate)
		}
		hits = append(hits, d)
	}
	if len(ids) > 1 {
		return nil, &AmbiguousError{Ref: ref, Names: ids}
	}
	return hits, nil
}

// load reads the image that target leads to. With strict only an image for
// host will do; without, the first one that can be read stands for the others.
func (s *Store) load(target Descriptor, host Platform, strict bool) (*Image, error) {
	return loadFrom(s.ReadBlob, target, host, strict)
}

// blobReader is [Store.ReadBlob] or [Ingest.ReadBlob].
type blobReader func(what string, d Descriptor, limit int) ([]byte, error)

func loadFrom(read blobReader, target Descriptor, host Platform, strict bool) (*Image, error) {
	img := &Image{Name: entryName(&target), Target: target}
	if isIndexType(target.MediaType) {
		m, err := pick(read, target, host, strict)
		if err != nil {
			return nil, err
		}
		img.Manifest = m
	} else {
		img.Manifest = target
	}
	m, c, err := readImage(read, img.Manifest)
	var missing *MissingError
	if strict && isIndexType(target.MediaType) && errors.As(err, &missing) && missing.Digest == img.Manifest.Digest {
		if have := present(read, target); len(have) > 0 {
			return nil, &PlatformError{Host: host.String(), Have: have, Elsewhere: true}
		}
	}
	if err != nil {
		return nil, err
	}
	if strict && rank(host, c.Platform(), cpuLevel) == 0 {
		return nil, &PlatformError{Host: host.String(), Have: []string{c.Platform().String()}}
	}
	img.Layers, img.Config, img.DiffIDs = m.Layers, *c, c.RootFS.DiffIDs
	img.ConfigDigest, img.configSize = m.Config.Digest, m.Config.Size
	return img, nil
}

// readImage reads a manifest and its config.
func readImage(read blobReader, d Descriptor) (*Manifest, *Config, error) {
	b, err := read("manifest", d, MaxMetadata)
	if err != nil {
		return nil, nil, err
	}
	m, err := ParseManifest(b, d.MediaType)
	if err != nil {
		return nil, nil, &FormatError{Object: "manifest " + string(d.Digest), Err: err}
	}
	if !m.IsImage() {
		return nil, nil, &ArtifactError{Digest: d.Digest, Type: m.Kind()}
	}
	b, err = read("config", m.Config, MaxMetadata)
	if err != nil {
		return nil, nil, err
	}
	c, err := ParseConfig(b, len(m.Layers))
	if err != nil {
		return nil, nil, &FormatError{Object: "config " + string(m.Config.Digest), Err: err}
	}
	return m, c, nil
}

// candidate is one manifest of an index with the platform it is for.
type candidate struct {
	d Descriptor
	p Platform
}

// pick chooses the manifest of an index that fits host best; the first one of
// equals. Without strict, the first one whose manifest and config are there.
func pick(read blobReader, target Descriptor, host Platform, strict bool) (Descriptor, error) {
	c := collector{read: read, seen: map[Digest]bool{}}
	if err := c.collect(target, 1); err != nil {
		return Descriptor{}, err
	}
	all := c.images
	best, bestRank := -1, 0
	var have []string
	for i, c := range all {
		if r := rank(host, c.p, cpuLevel); r > bestRank {
			best, bestRank = i, r
		}
		have = append(have, c.p.String())
	}
	readable := func(i int) bool {
		_, _, err := readImage(read, all[i].d)
		return err == nil
	}
	if !strict && (best < 0 || !readable(best)) {
		for i := range all {
			if readable(i) {
				best = i
				break
			}
		}
	}
	if best < 0 {
		switch {
		case len(have) == 0 && len(c.seen) > 0 && !strict:
			return Descriptor{}, &ArtifactError{Digest: target.Digest, Type: target.MediaType} // of signatures, say
		case len(have) == 0:
			return Descriptor{}, &FormatError{Object: "index " + string(target.Digest), Err: fmt.Errorf("it holds no image")}
		}
		return Descriptor{}, &PlatformError{Host: host.String(), Have: have}
	}
	return all[best].d, nil
}

// present lists the platforms of an index for which manifest and config are there.
func present(read blobReader, target Descriptor) (have []string) {
	c := collector{read: read, seen: map[Digest]bool{}}
	if c.collect(target, 1) != nil {
		return nil
	}
	for _, i := range c.images {
		if _, _, err := readImage(read, i.d); err == nil {
			have = append(have, i.p.String())
		}
	}
	return have
}

// collector walks an index and the indexes in it. It visits each one once, so
// that many references to the same content cost nothing.
type collector struct {
	read   blobReader
	seen   map[Digest]bool
	images []candidate
}

// collect lists the image manifests of an index. Entries for the platform
// unknown/unknown are attestations and no images.
func (c *collector) collect(d Descriptor, depth int) error {
	object := "index " + string(d.Digest)
	if depth > maxDepth {
		return &FormatError{Object: object, Err: fmt.Errorf("indexes are nested more than %d deep", maxDepth)}
	}
	b, err := c.read("index", d, MaxMetadata)
	if err != nil {
		return err
	}
	x, err := ParseIndex(b, d.MediaType)
	if err != nil {
		return &FormatError{Object: object, Err: err}
	}
	for _, e := range x.Manifests {
		if c.seen[e.Digest] {
			continue
		}
		c.seen[e.Digest] = true
		if len(c.seen) > MaxEntries {
			return &FormatError{Object: object, Err: fmt.Errorf("it leads to more than %d manifests", MaxEntries)}
		}
		switch {
		case isIndexType(e.MediaType):
			err := c.collect(e, depth+1)
			if _, missing := err.(*MissingError); err != nil && !missing { // missing: for other platforms, not copied here
				return err
			}
		case !isManifestType(e.MediaType):
		case e.Platform != nil && e.Platform.OS == "unknown":
		case e.Platform != nil:
			c.images = append(c.images, candidate{e, *e.Platform})
		default:
			if _, cfg, err := readImage(c.read, e); err == nil {
				c.images = append(c.images, candidate{e, cfg.Platform()})
			}
		}
	}
	return nil
}
