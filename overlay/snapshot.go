package overlay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/safepath"
)

// Snapshot is a container's writable directory over a chain of layers.
type Snapshot struct {
	s      *Store
	key    string
	parent ChainID // the layer that it stands on, "" for none
	image  *image  // of the chain, nil if it is extracted or was not looked at

	early  chan mountedImage // of the image's mount that PrepareFor has begun; nil for none
	share  *Share            // see Share
	closes bool              // whoever has it calls Close
}

// validKey reports whether key is [A-Za-z0-9_+-][A-Za-z0-9_+.-]*, at most 255
// bytes: the IDs that the runtime accepts. An @ before that is for those who make
// snapshots that no container can have.
func validKey(key string) bool {
	if len(key) > 255 {
		return false
	}
	key = strings.TrimPrefix(key, "@")
	if key == "" || key[0] == '.' {
		return false
	}
	for i := 0; i < len(key); i++ {
		c := key[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9',
			c == '_', c == '+', c == '-', c == '.':
		default:
			return false
		}
	}
	return true
}

// Prepare makes the snapshot key over the layer parent, or over nothing if parent
// is empty. The new root directory has the owner, mode and extended attributes
// of the top layer's. Of a chain that is kept both ways the image is taken. A key that exists is an *ExistError, a missing layer a
// *NotExistError.
func (s *Store) Prepare(key string, parent ChainID) (*Snapshot, error) {
	sn := &Snapshot{s: s, key: key}
	if err := sn.prepare(parent, "", false); err != nil {
		return nil, err
	}
	return sn, nil
}

// prepare makes the snapshot. early says to begin with the mount of its image
// meanwhile: the kernel takes as long for one as for the other.
func (sn *Snapshot) prepare(parent ChainID, owner string, early bool) error {
	s, key := sn.s, sn.key
	if !validKey(key) {
		return &NameError{"snapshot key", key}
	}
	// Shared: from here until the snapshot is in place nobody removes layers.
	lock, err := s.lockDir("layers", unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer linux.Close(lock)
	if err = sn.stand(parent); err != nil {
		return fmt.Errorf("prepare snapshot %q: %w", key, err)
	}
	if early && sn.image != nil {
		sn.mountEarly()
	}
	name := randomName("snapshot")
	dir, err := s.openStaged(context.Background(), name, false)
	if err != nil {
		return fmt.Errorf("prepare snapshot %q: %w", key, err)
	}
	defer linux.Close(dir)
	err = sn.fill(dir)
	if err == nil {
		err = sayOwner(dir, owner)
	}
	if err == nil {
		err = unix.Renameat2(s.dir, "staging/"+name, s.dir, sn.path(), unix.RENAME_NOREPLACE)
		if err == unix.EEXIST {
			err = &ExistError{key}
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("prepare snapshot %q: %w", key, err), s.removeIn("staging", name))
	}
	return nil
}

// stand finds the layers below and the image, if it is to be used.
func (sn *Snapshot) stand(parent ChainID) (err error) {
	if parent == "" {
		return nil
	}
	if !parent.Valid() {
		return &NameError{"chain ID", string(parent)}
	}
	sn.parent = parent
	sn.image, err = sn.s.openImage(parent)
	if err == nil && sn.image == nil && !sn.s.exists(Extracted.Dir(parent)+"/parents") {
		err = &NotExistError{"layer", string(parent)}
	}
	return err
}

// fill makes the content of a new snapshot in the directory dir.
func (sn *Snapshot) fill(dir int) error {
	for _, name := range []string{"upper", "work", "rootfs"} {
		if err := safepath.MkdirAt(dir, name, 0o700); err != nil {
			return err
		}
	}
	// The chain is what the layer stands on: nothing here is per layer.
	if err := safepath.SymlinkAt(parentLink(sn.parent), dir, "parents"); err != nil {
		return err
	}
	upper, err := safepath.OpenDirAt(dir, "upper", unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer linux.Close(upper)
	if sn.parent == "" {
		// overlayfs wants a lower directory: an empty one, next to upper.
		if err := safepath.MkdirAt(dir, "lower", 0o755); err != nil {
			return err
		}
		return os.NewSyscallError("fchmod", unix.Fchmod(upper, 0o755))
	}
	if sn.image != nil {
		return sn.image.giveTo(upper)
	}
	top, err := linux.OpenAt(sn.s.dir, sn.parent.path()+"/fs", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer linux.Close(top)
	return CopyAttributes(top, upper)
}

// Snapshot returns the snapshot key, or a *NotExistError.
func (s *Store) Snapshot(key string) (*Snapshot, error) {
	if !validKey(key) {
		return nil, &NameError{"snapshot key", key}
	}
	sn := &Snapshot{s: s, key: key}
	ids, err := s.readParents(sn.path())
	if errors.Is(err, unix.ENOENT) {
		err = &NotExistError{"snapshot", key}
	}
	if err != nil {
		return nil, err
	}
	sn.parent = first(ids)
	return sn, nil
}

// Key returns the snapshot's key.
func (sn *Snapshot) Key() string { return sn.key }

// Parent returns the layer the snapshot stands on, "" for none.
func (sn *Snapshot) Parent() ChainID { return sn.parent }

// RootfsDir returns the absolute path of an empty directory, made to attach the
// snapshot's mount on.
func (sn *Snapshot) RootfsDir() string { return sn.s.root + "/" + sn.path() + "/rootfs" }

// UpperDir returns the absolute path of the directory that holds what the
// container wrote. Its content is the container's: hostile.
func (sn *Snapshot) UpperDir() string { return sn.s.root + "/" + sn.path() + "/upper" }

// path is relative to the store.
func (sn *Snapshot) path() string { return "snapshots/" + sn.key }

// OpenLayer opens the directory with the files of one extracted layer alone,
// without those below it (O_PATH).
func (s *Store) OpenLayer(c ChainID) (fd int, err error) {
	if !c.Valid() {
		return -1, &NameError{"chain ID", string(c)}
	}
	fd, err = linux.OpenAt(s.dir, c.path()+"/fs", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		err = &NotExistError{"layer", string(c)}
	}
	return fd, err
}
