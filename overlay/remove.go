package overlay

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/safepath"
)

// RemoveSnapshot deletes a snapshot with everything the container wrote; that
// there is none is fine. The overlay mount must be gone, which is not checked:
// the directory would be emptied under it.
func (s *Store) RemoveSnapshot(key string) error {
	if !validKey(key) {
		return &NameError{"snapshot key", key}
	}
	if err := s.trash("snapshots/" + key); err != nil {
		return fmt.Errorf("remove snapshot %q: %w", key, err)
	}
	return nil
}

// RemoveLayer deletes a layer; that there is none is fine. While a layer, a
// snapshot or a layer being unpacked stands on it, the error is an *InUseError.
// A mount of it that [Store.MountView] made is not a user: close it before.
func (s *Store) RemoveLayer(c ChainID) error {
	d, err := s.DropLayer(c)
	if err != nil || d == nil {
		return err
	}
	return d.Delete()
}

// alive reports whether a process holds the lock of staging/<name>.
func (s *Store) alive(name string) bool {
	fd, err := s.lockDir("staging/"+name, unix.LOCK_EX|unix.LOCK_NB)
	linux.Close(fd)
	return errors.Is(err, unix.EWOULDBLOCK)
}

// Cleanup deletes what processes that are dead left in staging: half-made
// layers and snapshots, half-deleted ones. What a living process works on is
// left alone.
func (s *Store) Cleanup() error {
	names, err := s.names("staging")
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		fd, err := s.lockDir("staging/"+name, unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case errors.Is(err, unix.EWOULDBLOCK), errors.Is(err, unix.ENOENT):
			continue
		case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP): // no directory: nothing of ours is
		case err != nil:
			errs = append(errs, err)
			continue
		}
		if fd < 0 || s.isAt(fd, "staging/"+name) {
			errs = append(errs, s.removeIn("staging", name))
		}
		linux.Close(fd)
	}
	errs = append(errs, s.dropLimits())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up layer store %q: %w", s.root, err)
	}
	return nil
}

// trash takes path out of its place in one step and then deletes it.
func (s *Store) trash(path string) error {
	tmp := randomName("trash")
	if err := s.toTrash(path, tmp); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}
	project := s.projectOf("staging/" + tmp)
	err := s.removeIn("staging", tmp)
	if project != 0 && err == nil {
		err = s.dropLimit(project)
	}
	return err
}

func (s *Store) toTrash(path, tmp string) error {
	if err := unix.Renameat(s.dir, path, s.dir, "staging/"+tmp); err != nil {
		return &os.PathError{Op: "rename", Path: path, Err: err}
	}
	return nil
}

// removeIn deletes <sub>/<name>.
func (s *Store) removeIn(sub, name string) error {
	dir, err := linux.OpenAt(s.dir, sub, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	err = safepath.RemoveAllAt(dir, name)
	linux.Close(dir)
	return err
}

// names lists a subdirectory.
func (s *Store) names(sub string) ([]string, error) {
	fd, err := linux.OpenAt(s.dir, sub, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	names, err := safepath.ReadNames(fd)
	linux.Close(fd)
	return names, err
}
