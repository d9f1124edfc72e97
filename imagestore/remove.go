package imagestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	goruntime "runtime"
	"slices"
	"sort"
	"sync"

	"golang.org/x/sys/unix"
)

// Swept counts what a sweep removed.
type Swept struct {
	Blobs int
	Bytes int64
	// Disk are the bytes of blocks that became free, those of interrupted work
	// included. Blocks that a lease still keeps are not.
	Disk int64
}

// Removed says what Remove did.
type Removed struct {
	Name  string   // the first of Names
	Names []string // what is gone: names, or the ID of an image without one
	Swept Swept
	// Kept is why blobs were left that may be unused: something else in the
	// store is damaged, so it is not known what it needs.
	Kept error
}

// RemoveOptions are optional.
type RemoveOptions struct {
	// AllNames removes every name of an image that an ID stands for.
	AllNames bool
	// Last is asked before the last name of an image goes, with the other images
	// that stay. Its error keeps the image.
	Last func(gone *Image, others []*Image) error
}

// Tag gives the image ref a further name and tells whether that name stood for
// another image before.
func (s *Store) Tag(ctx context.Context, ref, name string) (replaced bool, err error) {
	r, err := ParseReference(name)
	if err != nil {
		return false, err
	}
	err = s.update(ctx, false, func(x *Index) error {
		d, err := s.find(x, ref)
		if err == nil {
			err = r.Check(name, d.Digest)
		}
		if err != nil {
			return err
		}
		replaced = x.set(r.String(), *d)
		return nil
	})
	return replaced, err
}

// Remove removes the name ref, and the blobs that nothing else refers to. An ID
// names the image only if it has one name or none: otherwise the error is an
// [*AmbiguousError].
func (s *Store) Remove(ctx context.Context, ref string) (*Removed, error) {
	return s.RemoveWith(ctx, ref, RemoveOptions{})
}

// RemoveWith is Remove with options.
func (s *Store) RemoveWith(ctx context.Context, ref string, o RemoveOptions) (*Removed, error) {
	var r *Removed
	err := s.update(ctx, true, func(x *Index) error {
		r = &Removed{}
		d, err := s.find(x, ref)
		if err != nil {
			return err
		}
		gone := *d
		name := entryName(d)
		byName := refersByName(ref, name)
		var names []string
		for i := range x.Manifests {
			if e := &x.Manifests[i]; e.Digest == gone.Digest && (!byName || entryName(e) == name) {
				names = append(names, entryName(e))
			}
		}
		if len(names) > 1 && !o.AllNames {
			for i := range names {
				names[i] = Familiar(names[i])
			}
			sort.Strings(names)
			return &AmbiguousError{Ref: ref, Names: names}
		}
		before := *x
		before.Manifests = slices.Clone(x.Manifests)
		kept := x.Manifests[:0]
		for _, e := range x.Manifests {
			if e.Digest != gone.Digest || !slices.Contains(names, entryName(&e)) {
				kept = append(kept, e)
			}
		}
		x.Manifests = kept
		if err := s.askLast(x, gone, o); err != nil {
			return err
		}
		x.dropReferrers(s.ReadBlob, &before)
		for i := range names {
			if names[i] == "" {
				names[i] = string(gone.Digest)
			}
		}
		sort.Strings(names)
		r.Names, r.Name = names, names[0]
		return nil
	}, func() {
		r.Swept, r.Kept = s.sweep()
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// askLast calls o.Last if x does not have the image any more.
func (s *Store) askLast(x *Index, gone Descriptor, o RemoveOptions) error {
	if o.Last == nil {
		return nil
	}
	for _, e := range x.Manifests {
		if e.Digest == gone.Digest {
			return nil
		}
	}
	img, err := s.load(gone, HostPlatform(), false)
	if err != nil {
		return nil // damaged, or an artifact: no container needs it
	}
	var others []*Image
	for _, e := range x.Manifests {
		if other, err := s.load(e, HostPlatform(), false); err == nil {
			others = append(others, other)
		}
	}
	return o.Last(img, others)
}

// GC removes what dead processes left and every blob that nothing refers to.
func (s *Store) GC(ctx context.Context) (Swept, error) {
	if _, err := os.Lstat(s.path(layoutFile)); errors.Is(err, fs.ErrNotExist) {
		return Swept{}, nil
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return Swept{}, err
	}
	defer unlock()
	_, residue, err := s.removeDead()
	if err != nil {
		return Swept{Disk: residue}, err
	}
	parts, err := s.dropPartials(0)
	if err != nil {
		return Swept{Disk: residue}, err
	}
	swept, err := s.sweep()
	swept.Disk += residue + parts
	// Whoever was killed behind his index.json has left no reserve for the next one.
	if st, err := os.Lstat(s.path(indexFile)); err == nil {
		s.reserve(int(st.Size()))
	}
	return swept, err
}

// update changes index.json under the lock and calls after while it is held.
func (s *Store) update(ctx context.Context, removal bool, change func(*Index) error, after ...func()) error {
	x, err := s.readIndex()
	if err == nil {
		err = change(x) // a trial: errors come before a lock file is made
	}
	if err != nil {
		return err
	}
	unlock, err := s.lock(ctx)
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
	if err := s.writeIndex(x, removal); err != nil {
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
func (s *Store) sweep() (n Swept, err error) {
	_ = os.Remove(s.path(indexTemp)) // of a process that died before its rename
	x, err := s.readIndex()
	if err != nil {
		return n, err
	}
	m := newMarker(s.ReadBlob)
	for _, d := range x.Manifests {
		if err := m.mark(d); err != nil {
			return n, fmt.Errorf("image %q: %w", entryName(&d), err)
		}
	}
	var gone []unused
	err = s.eachBlob(func(d Digest, st *unix.Stat_t) error {
		if !m.marked[d] {
			gone = append(gone, unused{s.blobPath(d), *st})
		}
		return nil
	}, func(string) {})
	if err != nil {
		return n, err
	}
	return n, n.remove(gone)
}

// unused is a blob that goes.
type unused struct {
	path string
	st   unix.Stat_t
}

// remove deletes blobs, several at a time: what takes long is the kernel's, taking
// the pages of each file out of the page cache.
func (n *Swept) remove(blobs []unused) error {
	var (
		mu   sync.Mutex
		errs error
		next int
		all  sync.WaitGroup
	)
	for range min(len(blobs), removers, goruntime.GOMAXPROCS(0)) {
		all.Go(func() {
			for {
				mu.Lock()
				if next == len(blobs) || errs != nil {
					mu.Unlock()
					return
				}
				b := &blobs[next]
				next++
				mu.Unlock()
				err := os.Remove(b.path)
				mu.Lock()
				if err == nil {
					n.Blobs++
					n.Bytes += b.st.Size
					if b.st.Nlink == 1 {
						n.Disk += b.st.Blocks * 512
					}
				}
				errs = errors.Join(errs, err)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return errs
}

// removers is how many blobs are deleted at one time, on as many processors.
const removers = 4
