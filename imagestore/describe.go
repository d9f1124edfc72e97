package imagestore

import (
	"encoding/json"
	"fmt"
	"sort"
)

// Lookup finds ref, for whatever platform it is. Like an [Entry] of List it may
// be an artifact or damaged, and then has Err set.
func (s *Store) Lookup(ref string) (*Entry, error) {
	x, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	d, err := s.find(x, ref)
	if err != nil {
		return nil, err
	}
	e := &Entry{Name: entryName(d), Target: *d}
	e.Image, e.Err = s.load(*d, HostPlatform(), false)
	return e, nil
}

// Description is what there is to know of an entry, for people.
type Description struct {
	Names       []string          // all of its target
	Annotations map[string]string // of the manifest, the index and the entry
	Config      json.RawMessage   // of an image
	Blobs       []Descriptor      // layers, or what an artifact consists of
	Platforms   []PlatformInfo    // of an index
	Subject     Digest            // what it is about; empty for an image
	Referrers   []Descriptor      // what is about it, with artifactType filled in
}

// PlatformInfo is one image of an index.
type PlatformInfo struct {
	Platform Platform
	Digest   Digest
	Complete bool // manifest, config and layers are in the store
}

// Describe reads what List does not.
func (s *Store) Describe(e *Entry) (*Description, error) {
	if e.Err != nil && e.Artifact() == "" {
		return nil, fmt.Errorf("image %q: %w", clip(Familiar(e.Name)), e.Err)
	}
	x, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	d := &Description{Names: []string{}, Annotations: map[string]string{}, Subject: subjectOf(s.ReadBlob, e.Target)}
	for i := range x.Manifests {
		if m := &x.Manifests[i]; m.Digest == e.Target.Digest && entryName(m) != "" {
			d.Names = append(d.Names, entryName(m))
		}
	}
	sort.Strings(d.Names)
	m := newMarker(s.ReadBlob)
	if err := m.mark(e.Target); err == nil {
		for _, r := range x.referrers(s.ReadBlob, m) {
			if r.Digest == e.Target.Digest {
				continue
			}
			if b, err := s.ReadBlob("manifest", r, MaxMetadata); err == nil && r.ArtifactType == "" {
				if a, err := ParseManifest(b, r.MediaType); err == nil {
					r.ArtifactType = a.Kind()
				}
			}
			d.Referrers = append(d.Referrers, r)
		}
	}
	note := func(annotations map[string]string) {
		for k, v := range annotations {
			d.Annotations[k] = v
		}
	}
	manifest := e.Target
	if isIndexType(e.Target.MediaType) {
		b, err := s.ReadBlob("index", e.Target, MaxMetadata)
		if err != nil {
			return nil, err
		}
		top, err := ParseIndex(b, e.Target.MediaType)
		if err != nil {
			return nil, err
		}
		note(top.Annotations)
		c := collector{read: s.ReadBlob, seen: map[Digest]bool{}}
		if err := c.collect(e.Target, 1); err != nil {
			return nil, err
		}
		for _, i := range c.images {
			d.Platforms = append(d.Platforms, PlatformInfo{i.p, i.d.Digest, s.complete(i.d)})
		}
		if e.Image == nil {
			d.Blobs = top.Manifests
			return d, nil
		}
		manifest = e.Image.Manifest
	}
	b, err := s.ReadBlob("manifest", manifest, MaxMetadata)
	if err != nil {
		return nil, err
	}
	body, err := ParseManifest(b, manifest.MediaType)
	if err != nil {
		return nil, err
	}
	note(body.Annotations)
	note(e.Target.Annotations)
	delete(d.Annotations, AnnotationRefName)
	d.Blobs = body.Layers
	if e.Image != nil {
		d.Config, err = s.ReadBlob("config", body.Config, MaxMetadata)
	}
	return d, err
}

// complete tells whether all of a manifest is there, with the right size.
func (s *Store) complete(d Descriptor) bool {
	m, _, err := readImage(s.ReadBlob, d)
	if err != nil {
		return false
	}
	for _, l := range m.Layers {
		f, err := s.OpenBlob("layer", l)
		if err != nil {
			return false
		}
		f.Close()
	}
	return true
}
