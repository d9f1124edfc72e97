package overlay

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/safepath"
	"golang.org/x/sys/unix"
)

// Broken is a layer or a snapshot that cannot be used.
type Broken struct {
	Layer   ChainID // kept as Kind, or
	Kind    Kind
	Key     string // of a snapshot, or neither: Path is no file of a store
	Path    string // relative to the store
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
		k, word := Extracted, name
		if strings.HasSuffix(name, indexSuffix) {
			k, word = Indexed, strings.TrimSuffix(name, indexSuffix)
		}
		c := ChainID(prefix + word)
		if !c.Valid() {
			broken = append(broken, Broken{Path: "layers/" + name, Problem: "it is none of a store's files"})
			continue
		}
		if problem := s.checkLayer(k, c); problem != "" {
			broken = append(broken, Broken{Layer: c, Kind: k, Path: k.Dir(c), Problem: problem})
		}
	}
	if names, err = s.names("snapshots"); err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		below, problem := s.checkDir("snapshots/"+name, "upper", "work")
		for _, c := range s.wholeChain(below) {
			if !s.HasLayer(c) {
				problem = fmt.Sprintf("the layer %s below it is missing", c)
			}
		}
		if problem != "" {
			broken = append(broken, Broken{Key: name, Path: "snapshots/" + name, Problem: problem})
		}
	}
	return broken, nil
}

// wholeChain is what a snapshot stands on: its layer and, as far as that can be
// told, those below. Snapshots of older versions name them all.
func (s *Store) wholeChain(ids []ChainID) []ChainID {
	if len(ids) != 1 {
		return ids
	}
	for _, k := range []Kind{Extracted, Indexed} {
		below, _ := s.ParentsOf(k, ids[0])
		for _, c := range below {
			if !slices.Contains(ids, c) {
				ids = append(ids, c)
			}
		}
	}
	return ids
}

// checkLayer tells what is wrong with a layer; "" is nothing. It stands on
// layers that are kept as it is.
func (s *Store) checkLayer(k Kind, c ChainID) string {
	files := []string{"fs"}
	if k == Indexed {
		if files = []string{ArchiveFile, "entries"}; s.HasLarge(c) {
			files = []string{RestFile, LargeDir, "entries"}
		}
	}
	below, problem := s.checkDir(k.Dir(c), files...)
	for _, b := range below {
		if !s.Has(k, b) {
			problem = fmt.Sprintf("the layer %s below it is missing", b)
		}
	}
	return problem
}

// checkDir checks that a directory has the files, and returns what it stands on.
func (s *Store) checkDir(path string, files ...string) (below []ChainID, problem string) {
	fd, err := linux.OpenAt(s.dir, path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) { // removed meanwhile
		return nil, ""
	}
	if err != nil {
		return nil, err.Error()
	}
	have, err := safepath.ReadNames(fd)
	linux.Close(fd)
	if err != nil {
		return nil, err.Error()
	}
	if !slices.Contains(have, "parents") {
		return nil, "it does not say what it stands on"
	}
	for _, f := range files {
		if !slices.Contains(have, f) {
			return nil, "its files are missing"
		}
	}
	below, err = s.readParents(path)
	if err != nil {
		return nil, err.Error()
	}
	return below, ""
}

// DropBroken is DropLayer for a layer that Check has found, whatever it stands
// on. What stands on it is broken too, and stays until it is dropped.
func (s *Store) DropBroken(k Kind, c ChainID) (*Dropped, error) {
	return s.dropIf(k, c, func() bool { return s.checkLayer(k, c) != "" })
}

// DropDamaged is DropBroken for a layer of which somebody has found that its
// content is not what it was.
func (s *Store) DropDamaged(k Kind, c ChainID) (*Dropped, error) {
	return s.dropIf(k, c, func() bool { return true })
}

func (s *Store) dropIf(k Kind, c ChainID, still func() bool) (*Dropped, error) {
	if !c.Valid() {
		return nil, &NameError{"chain ID", string(c)}
	}
	lock, err := s.lockDir("layers", unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer linux.Close(lock)
	if !still() {
		return nil, nil // somebody has made it again
	}
	snapshots, err := s.names("snapshots")
	if err != nil {
		return nil, err
	}
	for _, key := range snapshots {
		if below, err := s.readParents("snapshots/" + key); err == nil && slices.Contains(s.wholeChain(below), c) {
			return nil, &InUseError{c, fmt.Sprintf("snapshot %q", key)}
		}
	}
	staged, err := s.names("staging")
	if err != nil {
		return nil, err
	}
	for _, name := range staged {
		if below, err := s.readParents("staging/" + name); err == nil && slices.Contains(below, c) && s.alive(name) {
			return nil, &InUseError{c, fmt.Sprintf("a layer being unpacked (%s)", name)}
		}
	}
	if k == Indexed {
		if err := s.dropImages(c); err != nil {
			return nil, err
		}
	}
	d := &Dropped{s: s, ID: c, name: randomName("trash")}
	if err := s.toTrash(k.Dir(c), d.name); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil, nil
		}
		return nil, fmt.Errorf("remove layer %q: %w", string(c), err)
	}
	return d, nil
}

// dropImages removes the images of what stands on the layer c. They say where in its
// files content is, and it may be kept in others when it is made again. Whoever needs
// them makes them again too.
func (s *Store) dropImages(c ChainID) error {
	names, err := s.names(layersDir)
	if err != nil {
		return err
	}
	for _, name := range names {
		dir := layersDir + "/" + name
		below, err := s.readParents(dir)
		if err != nil || !slices.Contains(below, c) {
			continue // Check tells of those that cannot be read
		}
		if err := unix.Unlinkat(s.dir, dir+"/image", 0); err != nil && err != unix.ENOENT {
			return &os.PathError{Op: "remove", Path: dir + "/image", Err: err}
		}
	}
	return nil
}
