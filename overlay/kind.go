package overlay

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Kind is how a layer is kept. A store may have both, even of one layer.
type Kind int

const (
	// Extracted is a directory with the layer's files, for overlayfs.
	Extracted Kind = iota
	// Indexed is the layer's archive as it came. What the files of a chain are,
	// and where in the archives their content is, says an EROFS image.
	Indexed
)

func (k Kind) String() string {
	if k == Indexed {
		return "index"
	}
	return "extract"
}

const indexSuffix = ".index"

// Dir is where the layer c lies, relative to the store.
func (k Kind) Dir(c ChainID) string {
	if k == Indexed {
		return c.path() + indexSuffix
	}
	return c.path()
}

// Has reports whether the layer is in the store, complete, and kept as k.
func (s *Store) Has(k Kind, c ChainID) bool {
	return c.Valid() && s.exists(k.Dir(c))
}

// HasLayer reports whether the layer is in the store, complete.
func (s *Store) HasLayer(c ChainID) bool { return s.Has(Extracted, c) || s.Has(Indexed, c) }

// HasImage reports whether the chain that ends with the indexed layer c has its
// image.
func (s *Store) HasImage(c ChainID) bool { return c.Valid() && s.exists(Indexed.Dir(c)+"/image") }

// Ready reports whether a snapshot can stand on the chain that ends with c.
func (s *Store) Ready(c ChainID) bool { return s.HasImage(c) || s.Has(Extracted, c) }

func (s *Store) exists(path string) bool { return unix.Faccessat(s.dir, path, unix.F_OK, 0) == nil }

// ParentsOf returns the chain IDs below the layer c, kept as k, nearest first.
func (s *Store) ParentsOf(k Kind, c ChainID) ([]ChainID, error) {
	if !c.Valid() {
		return nil, &NameError{"chain ID", string(c)}
	}
	ids, err := s.readParents(k.Dir(c))
	if errors.Is(err, unix.ENOENT) {
		return nil, &NotExistError{"layer", string(c)}
	}
	return ids, err
}

// Parents returns the chain IDs below the layer c, nearest first.
func (s *Store) Parents(c ChainID) ([]ChainID, error) {
	ids, err := s.ParentsOf(Extracted, c)
	var none *NotExistError
	if errors.As(err, &none) {
		ids, err = s.ParentsOf(Indexed, c)
	}
	return ids, err
}

// chain returns c and the layers below it, top first, all kept as k; nothing for
// the empty ID.
func (s *Store) chain(k Kind, c ChainID) ([]ChainID, error) {
	if c == "" {
		return nil, nil
	}
	below, err := s.ParentsOf(k, c)
	if err != nil {
		return nil, err
	}
	return append([]ChainID{c}, below...), nil
}
