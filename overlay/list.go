package overlay

import (
	"errors"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// LayerInfo describes a layer in a listing.
type LayerInfo struct {
	ID     ChainID
	Parent ChainID // "" for a bottom layer
}

// SnapshotInfo describes a snapshot in a listing.
type SnapshotInfo struct {
	Key    string
	Parent ChainID // top layer, "" for none
	Owner  string  // what PrepareFor was told
}

// Layers lists the layers, sorted by chain ID.
func (s *Store) Layers() ([]LayerInfo, error) {
	names, err := s.names("layers")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var list []LayerInfo
	for _, name := range names {
		c := ChainID(prefix + strings.TrimSuffix(name, indexSuffix))
		if !c.Valid() || len(list) > 0 && list[len(list)-1].ID == c {
			continue
		}
		parents, err := s.readParents("layers/" + name)
		if errors.Is(err, unix.ENOENT) { // removed meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, LayerInfo{c, first(parents)})
	}
	return list, nil
}

// Snapshots lists the snapshots, sorted by key.
func (s *Store) Snapshots() ([]SnapshotInfo, error) {
	names, err := s.names("snapshots")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var list []SnapshotInfo
	for _, key := range names {
		parents, err := s.readParents("snapshots/" + key)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, SnapshotInfo{key, first(parents), s.owner("snapshots/" + key)})
	}
	return list, nil
}

func first(ids []ChainID) ChainID {
	if len(ids) == 0 {
		return ""
	}
	return ids[0]
}
