package overlay

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// Dropped is a layer that nobody can find any more and that is still on the disk.
type Dropped struct {
	s    *Store
	ID   ChainID
	name string // below staging
}

// Path is where its files are until Delete.
func (d *Dropped) Path() string { return d.s.root + "/staging/" + d.name }

// Delete deletes the files. If it does not come to that, Cleanup does.
func (d *Dropped) Delete() error {
	if err := d.s.removeIn("staging", d.name); err != nil {
		return fmt.Errorf("remove layer %q: %w", string(d.ID), err)
	}
	return nil
}

// DropLayer takes a layer out of its place in one step, whatever its size: who
// holds a lock meanwhile holds it for that step and not for the deletion of a
// hundred thousand files. While something stands on the layer, the error is an
// *InUseError; without a layer the result is nil. Who drops many uses a [Removal].
func (s *Store) DropLayer(c ChainID) (*Dropped, error) {
	if !c.Valid() {
		return nil, &NameError{"chain ID", string(c)}
	}
	r, err := s.BeginRemoval()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.Drop(c)
}

// Removal drops many layers and reads only once what stands on which. From its
// beginning to Close it holds the exclusive lock of layers, so nothing can come to
// stand on a layer: containers that are started wait. It is for one goroutine.
type Removal struct {
	s    *Store
	lock int

	// What has a layer as its direct parent, as paths: in layers, in snapshots, and in
	// staging, in this order. Everything else above it has that above it. nil as long
	// as it was not read.
	above   map[ChainID][]string
	unread  error // something was not readable: rather keep a layer too many
	dropped map[string]bool
}

// BeginRemoval begins to remove layers. The caller ends it with Close.
func (s *Store) BeginRemoval() (*Removal, error) {
	lock, err := s.lockDir(layersDir, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	return &Removal{s: s, lock: lock, dropped: map[string]bool{}}, nil
}

// Close lets others add to the store again. The files of what was dropped are better
// deleted afterwards.
func (r *Removal) Close() {
	linux.Close(r.lock)
	r.lock = -1
}

// Drop is [Store.DropLayer]. Layers above c come before it.
func (r *Removal) Drop(c ChainID) (*Dropped, error) {
	if !c.Valid() {
		return nil, &NameError{"chain ID", string(c)}
	}
	by, err := r.user(c)
	if err == nil && by != "" {
		return nil, &InUseError{c, by}
	}
	d := &Dropped{s: r.s, ID: c, name: randomName("trash")}
	if err == nil {
		err = r.take(Extracted.Dir(c), d.name)
		both := "/index" // within the other, if it is kept in both ways
		if errors.Is(err, unix.ENOENT) {
			both = ""
		}
		if err == nil || both == "" {
			if ierr := r.take(Indexed.Dir(c), d.name+both); both == "" || !errors.Is(ierr, unix.ENOENT) {
				err = ierr
			}
		}
	}
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("remove layer %q: %w", string(c), err)
	}
	return d, nil
}

// take moves a layer's directory away. It stands on nothing from then on.
func (r *Removal) take(path, tmp string) error {
	err := r.s.toTrash(path, tmp)
	if err == nil {
		r.dropped[path] = true
	}
	return err
}

// user names something that has the layer c as its direct parent, or "".
func (r *Removal) user(c ChainID) (string, error) {
	if r.above == nil {
		if err := r.readAll(); err != nil {
			return "", err
		}
	}
	for _, path := range r.above[c] {
		kind, name, _ := strings.Cut(path, "/")
		switch {
		case r.dropped[path]:
		case kind == "layers":
			return fmt.Sprintf("layer %q", prefix+strings.TrimSuffix(name, indexSuffix)), nil
		case kind == "snapshots":
			return fmt.Sprintf("snapshot %q", name), nil
		case r.s.alive(name): // may have died since
			return fmt.Sprintf("a layer being unpacked (%s)", name), nil
		}
	}
	return "", r.unread
}

// readAll finds what stands on which layer. All who add to that hold the shared lock
// of layers until they have: Commit, Prepare, and Stage and MakeImage with what they
// leave in staging.
func (r *Removal) readAll() error {
	above := map[ChainID][]string{}
	for _, kind := range []string{"layers", "snapshots", "staging"} {
		names, err := r.s.names(kind)
		if err != nil {
			return err
		}
		for _, name := range names {
			path := kind + "/" + name
			below, err := r.s.readParents(path)
			switch {
			case err == nil && len(below) > 0:
				above[below[0]] = append(above[below[0]], path)
			case err == nil, errors.Is(err, unix.ENOENT), kind == "staging":
			case r.unread == nil:
				r.unread = err
			}
		}
	}
	r.above = above
	return nil
}

// StagedInfo describes work in progress in a listing.
type StagedInfo struct {
	Name   string
	Parent ChainID // layer that it needs, "" for none
	Live   bool    // its process works on it
}

// Staging lists work in progress and what dead processes left of it, by name.
func (s *Store) Staging() ([]StagedInfo, error) {
	names, err := s.names("staging")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var list []StagedInfo
	for _, name := range names {
		below, _ := s.readParents("staging/" + name) // perhaps none yet
		list = append(list, StagedInfo{name, first(below), s.alive(name)})
	}
	return list, nil
}
