package overlay

import (
	"errors"
	"fmt"
	"slices"

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
// *InUseError; without a layer the result is nil.
func (s *Store) DropLayer(c ChainID) (*Dropped, error) {
	if !c.Valid() {
		return nil, &NameError{"chain ID", string(c)}
	}
	lock, err := s.lockDir("layers", unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer linux.Close(lock)
	d := &Dropped{s: s, ID: c, name: randomName("trash")}
	by, err := s.user(c)
	if err == nil && by != "" {
		return nil, &InUseError{c, by}
	}
	if err == nil {
		err = s.toTrash(Extracted.Dir(c), d.name)
		both := "/index" // within the other, if it is kept in both ways
		if errors.Is(err, unix.ENOENT) {
			both = ""
		}
		if err == nil || both == "" {
			if ierr := s.toTrash(Indexed.Dir(c), d.name+both); both == "" || !errors.Is(ierr, unix.ENOENT) {
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
