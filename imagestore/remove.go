package imagestore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sort"
)

// Swept counts what a sweep removed.
type Swept struct {
	Blobs int
	Bytes int64
}

// Removed says what Remove did.
type Removed struct {
	Name  string // the name that is gone, or the ID of an image without one
	Swept Swept
	// Kept is why blobs were left that may be unused: something else in the
	// store is damaged, so it is not known what it needs.
	Kept error
}

// Tag gives the image ref a further name and tells whether that name stood for
// another image before.
func (s *Store) Tag(ref, name string) (replaced bool, err error) {
	full, err := Normalize(name)
	if err != nil {
		return false, err
	}
	err = s.update(func(x *Index) error {
		d, err := s.find(x, ref)
		if err != nil {
			return err
		}
		replaced = x.set(full, *d)
		return nil
	})
	return replaced, err
}

// Remove removes the name ref, and the blobs that nothing else refers to. An ID
// names the image only if it has one name or none: otherwise the error is an
// [*AmbiguousError].
func (s *Store) Remove(ref string) (*Removed, error) {
	r := &Removed{}
	err := s.update(func(x *Index) error {
		d, err := s.find(x, ref)
		if err != nil {
			return err
		}
		name, target := entryName(d), d.Digest
		byName := name == ref
		if p, err := ParseReference(ref); err == nil && (name == p.String() || p.Digest != "") {
			byName = true
		}
		if !byName {
			var names []string
			for i := range x.Manifests {
				if x.Manifests[i].Digest == target {
					names = append(names, Familiar(entryName(&x.Manifests[i])))
				}
			}
			if len(names) > 1 {
				sort.Strings(names)
				return &AmbiguousError{Ref: ref, Names: names}
			}
		}
		kept := x.Manifests[:0]
		for _, e := range x.Manifests {
			if entryName(&e) != name || e.Digest != target {
				kept = append(kept, e)
			}
		}
		x.Manifests = kept
		r.Name = name
		if name == "" {
			r.Name = string(target)
		}
		return nil
	}, func() { r.Swept, r.Kept = s.sweep() })
	if err != nil {
		return nil, err
	}
	return r, nil
}

// GC removes what dead processes left and every blob that nothing refers to.
func (s *Store) GC() (Swept, error) {
	if _, err := os.Lstat(s.path(layoutFile)); errors.Is(err, fs.ErrNotExist) {
		return Swept{}, nil
	}
	unlock, err := s.lock()
	if err != nil {
		return Swept{}, err
	}
	defer unlock()
	if _, err := s.removeDead(); err != nil {
		return Swept{}, err
	}
	return s.sweep()
}

// update changes index.json under the lock and calls after while it is held.
func (s *Store) update(change func(*Index) error, after ...func()) error {
	x, err := s.readIndex()
	if err == nil {
		err = change(x) // a trial: errors come before a lock file is made
	}
	if err != nil {
		return err
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if x, err = s.readIndex(); err != nil {
		return err
	}
	if err := change(x); err != nil {
		return err
	}
	if err := s.writeIndex(x); err != nil {
		return err
	}
	for _, f := range after {
		f()
	}
	return nil
}

// sweep removes the blobs that index.json does not lead to. Work in progress
// has links of its own to what it needs. If something referred to is damaged
// nothing is removed, because what that needs is not known. The lock must be held.
func (s *Store) sweep() (Swept, error) {
	_ = os.Remove(s.path(indexTemp)) // of a process that died before its rename
	var n Swept
	x, err := s.readIndex()
	if err != nil {
		return n, err
	}
	m := newMarker(s.ReadBlob)
	for _, d := range x.Manifests {
		if err := m.mark(d, 0); err != nil {
			return n, fmt.Errorf("image %q: %w", entryName(&d), err)
		}
	}
	for _, algorithm := range []string{"sha256", "sha512"} {
		names, err := readNames(s.path(blobsDir, algorithm))
		if err != nil {
			return n, err
		}
		for _, name := range names {
			d, err := ParseDigest(algorithm + ":" + name)
			if err != nil || m.marked[d] {
				continue
			}
			st, err := os.Lstat(s.blobPath(d))
			if err != nil {
				return n, err
			}
			if err := os.Remove(s.blobPath(d)); err != nil {
				return n, err
			}
			n.Blobs++
			n.Bytes += st.Size()
		}
	}
	return n, nil
}
