package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// Store is one directory of layers and snapshots. Its methods may be called
// from several goroutines, and several processes may have the store open.
type Store struct {
	root string // absolute
	dir  int    // descriptor of root, O_PATH
}

// OpenStore opens the store in the directory root, which is created with mode
// 0700 if need be. Its three subdirectories must belong to the caller's user;
// modes wider than 0700 are narrowed.
func OpenStore(root string) (*Store, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	dir, err := linux.OpenAt(unix.AT_FDCWD, root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOENT) {
		if err = os.MkdirAll(root, 0o700); err == nil {
			dir, err = linux.OpenAt(unix.AT_FDCWD, root, unix.O_PATH|unix.O_DIRECTORY, 0)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("layer store: %w", err)
	}
	s := &Store{root: root, dir: dir}
	if err := errors.Join(s.private("layers"), s.private("snapshots"), s.private("staging")); err != nil {
		linux.Close(dir)
		return nil, fmt.Errorf("layer store %q: %w", root, err)
	}
	return s, nil
}

// private makes sure that the subdirectory name exists, is ours, and is closed
// to everybody else.
func (s *Store) private(name string) error {
	if err := unix.Mkdirat(s.dir, name, 0o700); err == nil {
		return nil
	} else if err != unix.EEXIST {
		return &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstatat(s.dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return &os.PathError{Op: "open", Path: name, Err: unix.ENOTDIR}
	}
	if int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%q belongs to user %d, want %d: %w", name, st.Uid, os.Geteuid(), unix.EPERM)
	}
	if st.Mode&0o077 != 0 {
		if err := unix.Fchmodat(s.dir, name, 0o700, 0); err != nil {
			return &os.PathError{Op: "chmod", Path: name, Err: err}
		}
	}
	return nil
}

// Close releases the store's descriptor. Snapshots of it must not be used any more.
func (s *Store) Close() {
	linux.Close(s.dir)
	s.dir = -1
}

// Root returns the absolute path of the store.
func (s *Store) Root() string { return s.root }

// readParents reads what something stands on: a file in layers, which are synced
// before they have their name, and a link in snapshots; see parentLink.
func (s *Store) readParents(dir string) ([]ChainID, error) {
	fd, err := linux.OpenAt(s.dir, dir+"/parents", unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	var ids []ChainID
	ok := false
	switch err {
	case nil:
		// A chain has at most MaxLayers lines, but older content should stay readable.
		b, err := linux.ReadAll(fd, 1<<20)
		linux.Close(fd)
		if err != nil {
			return nil, &os.PathError{Op: "read", Path: dir + "/parents", Err: err}
		}
		ids, ok = parseParents(b)
	default:
		if !errors.Is(err, unix.ELOOP) {
			return nil, err
		}
		var word [64]byte
		n, err := unix.Readlinkat(s.dir, dir+"/parents", word[:])
		if err != nil {
			return nil, &os.PathError{Op: "readlink", Path: dir + "/parents", Err: err}
		}
		ids, ok = parseParentLink(string(word[:n]))
	}
	if !ok {
		return nil, fmt.Errorf("%q: not a list of chain IDs", filepath.Join(s.root, dir, "parents"))
	}
	return ids, nil
}

func writeFile(dir int, name string, b []byte) error {
	fd, err := linux.OpenAt(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = linux.WriteAll(fd, b)
	linux.Close(fd)
	if err != nil {
		return &os.PathError{Op: "write", Path: name, Err: err}
	}
	return nil
}

// lockDir opens the directory name of the store and takes flock(2) on it; the
// lock ends when the descriptor is closed, at the latest with the process.
func (s *Store) lockDir(name string, how int) (int, error) {
	fd, err := linux.OpenAt(s.dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, err
	}
	if err := flock(fd, how); err != nil {
		linux.Close(fd)
		return -1, &os.PathError{Op: "flock", Path: name, Err: err}
	}
	return fd, nil
}

func flock(fd, how int) error {
	for {
		if err := unix.Flock(fd, how); err != unix.EINTR {
			return err
		}
	}
}

// randomName returns kind, a dash and 16 random hex digits. Not crypto/rand,
// which costs a short-lived process more to load than the whole store. So few
// bytes come complete or, before the kernel has any entropy, not at all: a name
// that is taken is an error then, and nothing worse.
func randomName(kind string) string {
	var b [8]byte
	_, _ = unix.Getrandom(b[:], 0)
	name := append(make([]byte, 0, 32), kind+"-"...)
	for _, c := range b {
		const digits = "0123456789abcdef"
		name = append(name, digits[c>>4], digits[c&15])
	}
	return string(name)
}
