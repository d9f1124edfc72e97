package overlay

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/minirun/minirun/internal/safepath"
	"golang.org/x/sys/unix"
)

// ownerName is a symbolic link in a snapshot: made and read in one step, and short
// ones take no block of the disk.
const ownerName = "owner"

// maxOwner bounds what a link can say.
const maxOwner = unix.PathMax - 1

// PrepareFor is Prepare of a snapshot that says for whom it is: owner is the caller's
// word, which [Store.Snapshots] repeats. One that is too long is left out.
//
// It begins to mount the image of the layers, in a goroutine; so there is something to
// be closed, [Snapshot.Close].
func (s *Store) PrepareFor(key string, parent ChainID, owner string) (*Snapshot, error) {
	sn := &Snapshot{s: s, key: key, closes: true}
	if err := sn.prepare(parent, owner, true); err != nil {
		sn.Close()
		return nil, err
	}
	return sn, nil
}

// owner is what PrepareFor was told; "" for nothing.
func (s *Store) owner(path string) string {
	var buf [maxOwner + 1]byte
	n, err := unix.Readlinkat(s.dir, path+"/"+ownerName, buf[:])
	if err != nil || n > maxOwner {
		return ""
	}
	return string(buf[:n])
}

// Written reports whether anything was written to a snapshot, or removed in it.
func (s *Store) Written(key string) (bool, error) {
	if !validKey(key) {
		return false, &NameError{"snapshot key", key}
	}
	names, err := s.names("snapshots/" + key + "/upper")
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return len(names) > 0, err
}

// Retired is what is left of a snapshot that was retired: what was written to it,
// without any claim to the layers that it stood on.
type Retired struct {
	Key   string
	Owner string
	Dir   string // absolute
}

// Retire takes a snapshot that nobody will mount again out of use, and keeps what was
// written to it. That there is none is fine: path is "" then.
func (s *Store) Retire(key string) (path string, err error) {
	if !validKey(key) {
		return "", &NameError{"snapshot key", key}
	}
	if err := s.private("lost"); err != nil {
		return "", fmt.Errorf("retire snapshot %q: %w", key, err)
	}
	err = unix.Renameat2(s.dir, "snapshots/"+key, s.dir, "lost/"+key, unix.RENAME_NOREPLACE)
	if err == unix.ENOENT {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("retire snapshot %q: %w", key, &os.PathError{Op: "rename", Path: s.root + "/lost/" + key, Err: err})
	}
	return s.root + "/lost/" + key, nil
}

// Retired lists what Retire has kept, sorted by key.
func (s *Store) Retired() ([]Retired, error) {
	names, err := s.names("lost")
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	slices.Sort(names)
	list := make([]Retired, len(names))
	for i, name := range names {
		list[i] = Retired{Key: name, Owner: s.owner("lost/" + name), Dir: s.root + "/lost/" + name}
	}
	return list, err
}

// RemoveRetired deletes what Retire has kept of a snapshot.
func (s *Store) RemoveRetired(key string) error {
	if key == "" || key == "." || key == ".." || strings.Contains(key, "/") {
		return &NameError{"snapshot key", key}
	}
	if err := s.trash("lost/" + key); err != nil {
		return fmt.Errorf("remove what is left of snapshot %q: %w", key, err)
	}
	// The next Retire makes it again; while something is in it, it stays.
	if err := unix.Unlinkat(s.dir, "lost", unix.AT_REMOVEDIR); err != nil && err != unix.ENOTEMPTY && err != unix.EEXIST && err != unix.ENOENT {
		return &os.PathError{Op: "rmdir", Path: s.root + "/lost", Err: err}
	}
	return nil
}

// sayOwner writes the owner into the directory of a new snapshot.
func sayOwner(dir int, owner string) error {
	if owner == "" || len(owner) > maxOwner {
		return nil
	}
	return safepath.SymlinkAt(owner, dir, ownerName)
}
