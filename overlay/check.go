package overlay

import (
	"errors"
	"fmt"
	"slices"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/safepath"
	"golang.org/x/sys/unix"
)

// Broken is a layer or a snapshot that cannot be used.
type Broken struct {
	Layer   ChainID // or
	Key     string  // of a snapshot, or neither: Path is no file of a store
	Path    string  // relative to the store
	Problem string
}

// Check looks at the form of every layer and snapshot: whether it has files, and
// says what it stands on, and whether that is there. It does not read the files.
func (s *Store) Check() ([]Broken, error) {
	var broken []Broken
	names, err := s.names("layers")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		c := ChainID(prefix + name)
		path := "layers/" + name
		if !c.Valid() {
			broken = append(broken, Broken{Path: path, Problem: "it is none of a store's files"})
			continue
		}
		if problem := s.checkParents(path); problem != "" {
			broken = append(broken, Broken{Layer: c, Path: path, Problem: problem})
		}
	}
	if names, err = s.names("snapshots"); err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		path := "snapshots/" + name
		if problem := s.checkParents(path); problem != "" {
			broken = append(broken, Broken{Key: name, Path: path, Problem: problem})
		}
	}
	return broken, nil
}

// checkParents checks a directory of layers or snapshots; "" is fine.
func (s *Store) checkParents(path string) string {
	fd, err := linux.OpenAt(s.dir, path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) { // removed meanwhile
		return ""
	}
	if err != nil {
		return err.Error()
	}
	content, err := safepath.ReadNames(fd)
	linux.Close(fd)
	if err != nil {
		return err.Error()
	}
	if !slices.Contains(content, "parents") {
		return "it does not say what it stands on"
	}
	if len(content) < 2 {
		return "its files are missing"
	}
	below, err := s.readParents(path)
	if err != nil {
		return err.Error()
	}
	for _, c := range below {
		if !s.HasLayer(c) {
			return fmt.Sprintf("the layer %s below it is missing", c)
		}
	}
	return ""
}

// DropBroken is DropLayer for a layer that Check has found, whatever it stands
// on. What stands on it is broken too, and stays until it is dropped.
func (s *Store) DropBroken(c ChainID) (*Dropped, error) {
	if !c.Valid() {
		return nil, &NameError{"chain ID", string(c)}
	}
	lock, err := s.lockDir("layers", unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer linux.Close(lock)
	if s.checkParents(c.path()) == "" {
		return nil, nil // somebody has made it again
	}
	snapshots, err := s.names("snapshots")
	if err != nil {
		return nil, err
	}
	for _, key := range snapshots {
		if below, err := s.readParents("snapshots/" + key); err == nil && slices.Contains(below, c) {
			return nil, &InUseError{c, fmt.Sprintf("snapshot %q", key)}
		}
	}
	d := &Dropped{s: s, ID: c, name: randomName("trash")}
	if err := s.toTrash(c.path(), d.name); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil, nil
		}
		return nil, fmt.Errorf("remove layer %q: %w", string(c), err)
	}
	return d, nil
}
