package imagestore

import (
	"context"
	"os"
	"sort"
)

// Entry is one line of the list of images.
type Entry struct {
	Name   string     // normalised, as another tool wrote it, or empty
	Target Descriptor // the entry of index.json
	Image  *Image     // nil if Err is set
	Err    error      // why the image cannot be read; the others are not affected
}

// List returns every entry of the store by name. Images for other platforms
// are listed too; one that is damaged has its Err set.
func (s *Store) List() ([]Entry, error) {
	x, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	return s.entries(x), nil
}

func (s *Store) entries(x *Index) []Entry {
	list := make([]Entry, 0, len(x.Manifests))
	for _, d := range x.Manifests {
		e := Entry{Name: entryName(&d), Target: d}
		e.Image, e.Err = s.load(d, HostPlatform(), false)
		list = append(list, e)
	}
	sort.SliceStable(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list
}

// WithImages calls f with the images that the store holds or that work in
// progress relies on, while nobody can add or remove one. It is how unpacked
// layers that no image needs are found and removed.
func (s *Store) WithImages(ctx context.Context, f func([]*Image) error) error {
	if _, err := os.Lstat(s.path(layoutFile)); err != nil {
		return f(nil)
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	list, err := s.List()
	if err != nil {
		return err
	}
	var images []*Image
	for _, e := range list {
		if e.Err == nil {
			images = append(images, e.Image)
		}
	}
	pinned, err := s.pinned()
	if err != nil {
		return err
	}
	return f(append(images, pinned...))
}

// ID is what docker calls the image's ID; of an artifact, its digest; of an
// image that cannot be read, the digest of its entry.
func (e *Entry) ID() Digest {
	if e.Image != nil {
		return e.Image.ConfigDigest
	}
	return e.Target.Digest
}

// Artifact is what kind of artifact the entry is; empty for an image.
func (e *Entry) Artifact() string {
	if a, ok := e.Err.(*ArtifactError); ok {
		return a.Type
	}
	return ""
}
