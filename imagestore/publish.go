package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Naming asks Publish to enter an image under a name. An empty name keeps the
// image reachable by its ID alone.
type Naming struct {
	Name   string
	Target Descriptor
	Free   bool // the name must not stand for another image
}

// Published says what Publish changed.
type Published struct {
	Replaced []string // names that stood for another image before
	Removed  Swept    // blobs of replaced images that nothing else refers to
}

// Publish makes images visible: it waits until every blob that they need is on
// disk, moves the blobs to their place and replaces index.json, all under the
// lock. After an error the store is as before. Blobs of the Ingest that the
// images do not refer to stay behind and go with Close.
func (g *Ingest) Publish(ctx context.Context, names ...Naming) (*Published, error) {
	for i, n := range names {
		if err := n.Target.check(); err != nil {
			return nil, err
		}
		if n.Name == "" {
			continue
		}
		r, err := ParseReference(n.Name)
		if err == nil {
			err = r.Check(n.Name, n.Target.Digest)
		}
		if err != nil {
			return nil, err
		}
		names[i].Name = r.String()
	}
	staged, err := g.reachable(names)
	if err != nil {
		return nil, err
	}
	for _, d := range staged {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		if err := syncData(g.blobPath(d)); err != nil {
			return nil, err
		}
	}
	unlock, err := g.s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return g.publish(names, staged)
}

func (g *Ingest) publish(names []Naming, staged []Digest) (_ *Published, err error) {
	s := g.s
	x, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	p := &Published{}
	for _, n := range names {
		if x.set(n.Name, n.Target) {
			if n.Free {
				return nil, &TakenError{n.Name}
			}
			p.Replaced = append(p.Replaced, n.Name)
		}
	}
	// The file that needs space is written first, so that a full disk is
	// noticed before anything moved.
	b, err := encodeIndex(x)
	if err != nil {
		return nil, err
	}
	temp := s.path(indexTemp)
	if err := writeTemp(temp, b); err != nil {
		return nil, err
	}
	var added []string
	defer func() {
		if err != nil {
			for _, path := range added {
				_ = os.Remove(path)
			}
			_ = os.Remove(temp)
		}
	}()
	dirs := map[string]bool{}
	for _, d := range staged {
		to := s.blobPath(d)
		if dir := filepath.Dir(to); !dirs[dir] {
			dirs[dir] = true
			if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return nil, err
			}
		}
		_, statErr := os.Lstat(to)
		// An existing blob is replaced: this content was just hashed, and the
		// old file may be what a power failure left of it.
		if err := os.Rename(g.blobPath(d), to); err != nil {
			return nil, err
		}
		if errors.Is(statErr, fs.ErrNotExist) {
			added = append(added, to)
		}
	}
	for dir := range dirs {
		if err := syncDir(dir); err != nil {
			return nil, err
		}
	}
	if err := os.Rename(temp, s.path(indexFile)); err != nil {
		return nil, err
	}
	added = nil // referred to from here on
	s.reserve(len(b))
	if err := syncDir(s.root); err != nil {
		return nil, err
	}
	if len(p.Replaced) > 0 {
		p.Removed, _ = s.sweep() // what is left behind goes with the next one
	}
	return p, nil
}

// set makes name stand for target and tells whether it stood for something else.
func (x *Index) set(name string, target Descriptor) (replaced bool) {
	annotations := map[string]string{}
	for k, v := range target.Annotations {
		if k != AnnotationRefName && k != AnnotationContainerdName {
			annotations[k] = v
		}
	}
	if name != "" {
		annotations[AnnotationRefName] = name
	}
	target.Annotations = annotations
	if len(annotations) == 0 {
		target.Annotations = nil
	}
	kept := x.Manifests[:0]
	for _, d := range x.Manifests {
		have := entryName(&d)
		switch {
		case name != "" && have == name:
			replaced = replaced || d.Digest != target.Digest
			continue
		case name == "" && d.Digest == target.Digest:
			return false // reachable already
		case name != "" && have == "" && d.Digest == target.Digest:
			continue // it gets a name
		}
		kept = append(kept, d)
	}
	x.Manifests = append(kept, target)
	return replaced
}

// reachable returns the staged blobs that the images need. Blobs that only the
// store has are kept first, so that they are staged too. References from an
// index to blobs that nobody has are of platforms that were not copied.
func (g *Ingest) reachable(names []Naming) ([]Digest, error) {
	m := newMarker(g.ReadBlob)
	for _, n := range names {
		if err := m.mark(n.Target); err != nil {
			return nil, err
		}
	}
	var staged []Digest
	for d := range m.marked {
		err := g.Keep("blob", Descriptor{Digest: d})
		if _, missing := err.(*MissingError); missing {
			if _, err := os.Lstat(g.blobPath(d)); err != nil {
				continue
			}
		} else if err != nil {
			return nil, err
		}
		staged = append(staged, d)
	}
	for _, n := range names {
		if !slices.Contains(staged, n.Target.Digest) {
			return nil, &MissingError{Object: "manifest", Digest: n.Target.Digest}
		}
	}
	return staged, nil
}

// marker collects every digest that descriptors lead to. What was followed is
// counted apart from what is marked: an image that names another one's manifest
// as its layer must not hide what that manifest needs.
type marker struct {
	read             blobReader
	marked, followed map[Digest]bool
	onMark           func(Digest) // may be nil
}

func newMarker(read blobReader) *marker {
	return &marker{read: read, marked: map[Digest]bool{}, followed: map[Digest]bool{}}
}

func (m *marker) add(d Digest) {
	m.marked[d] = true
	if m.onMark != nil {
		m.onMark(d)
	}
}

// mark follows d. Content of a kind that is not known is read as what it may
// be, a manifest or an index: marking too much is harmless. A manifest that is
// missing refers to nothing; one that is there and damaged is an error. The
// subject of a manifest is not followed: what a signature is about does not stay
// because of the signature, see [Index.referrers].
//
// It ends, because nothing is followed twice, and has no limit of depth: indexes
// that refer to each other can come as many images, each of them flat as long as
// the others are not there, and none must keep the store from being swept.
func (m *marker) mark(d Descriptor) error {
	for todo := []Descriptor{d}; len(todo) > 0; {
		d, todo = todo[len(todo)-1], todo[:len(todo)-1]
		children, err := m.visit(d)
		if err != nil {
			return err
		}
		todo = append(todo, children...)
	}
	return nil
}

// visit marks d and what it says that it consists of, and returns the manifests
// that it lists.
func (m *marker) visit(d Descriptor) (children []Descriptor, err error) {
	m.add(d.Digest)
	if m.followed[d.Digest] {
		return nil, nil
	}
	if d.Size > MaxMetadata && !isManifestType(d.MediaType) && !isIndexType(d.MediaType) {
		return nil, nil
	}
	b, err := m.read(kind(d.MediaType), d, MaxMetadata)
	if _, missing := err.(*MissingError); missing {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m.followed[d.Digest] = true
	var body struct {
		Config    *Descriptor  `json:"config"`
		Layers    []Descriptor `json:"layers"`
		Blobs     []Descriptor `json:"blobs"`
		Manifests []Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(b, &body); err != nil {
		if isManifestType(d.MediaType) || isIndexType(d.MediaType) {
			return nil, &FormatError{Object: kind(d.MediaType) + " " + string(d.Digest), Err: err}
		}
		return nil, nil
	}
	leaves := append(body.Layers, body.Blobs...)
	if body.Config != nil {
		leaves = append(leaves, *body.Config)
	}
	for _, l := range leaves {
		if validDigest(string(l.Digest)) {
			m.add(l.Digest)
		}
	}
	for _, c := range body.Manifests {
		if c.check() == nil && !m.followed[c.Digest] {
			children = append(children, c)
		}
	}
	return children, nil
}

func syncData(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		return &os.PathError{Op: "fdatasync", Path: path, Err: err}
	}
	return nil
}
