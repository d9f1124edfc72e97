package overlay

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/safepath"
)

// openStaged makes the directory staging/<name>, or opens it if it is there, and
// locks it. Another process may delete or rename it between the steps: a lock
// on a directory that is no longer at its path is worth nothing, so that is
// checked after locking and everything tried again. wait says whether to wait
// for another holder; if not, EWOULDBLOCK.
func (s *Store) openStaged(ctx context.Context, name string, wait bool) (int, error) {
	path := "staging/" + name
	for {
		if err := unix.Mkdirat(s.dir, path, 0o700); err != nil && err != unix.EEXIST {
			return -1, &os.PathError{Op: "mkdir", Path: path, Err: err}
		}
		fd, err := linux.OpenAt(s.dir, path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return -1, err
		}
		err = flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == unix.EWOULDBLOCK && wait {
			err = waitLock(ctx, fd)
			if ctx.Err() != nil {
				return -1, ctx.Err() // waitLock's goroutine closes fd
			}
		}
		if err != nil {
			linux.Close(fd)
			return -1, &os.PathError{Op: "flock", Path: path, Err: err}
		}
		if s.isAt(fd, path) {
			return fd, nil
		}
		linux.Close(fd)
	}
}

// waitLock waits for the lock of fd. When ctx ends first, the wait goes on in a
// goroutine that closes fd as soon as the other holder is done: flock(2) cannot
// be called off.
func waitLock(ctx context.Context, fd int) error {
	done := make(chan error, 1)
	go func() { done <- flock(fd, unix.LOCK_EX) }()
	select {
	case err := <-done:
		if ctx.Err() != nil {
			linux.Close(fd)
		}
		return err
	case <-ctx.Done():
		go func() {
			<-done
			linux.Close(fd)
		}()
		return ctx.Err()
	}
}

// isAt reports whether the open directory fd is what path names.
func (s *Store) isAt(fd int, path string) bool {
	var a, b unix.Stat_t
	return unix.Fstat(fd, &a) == nil && unix.Fstatat(s.dir, path, &b, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		a.Ino == b.Ino && a.Dev == b.Dev
}

// Staged is a layer being made. End it with Commit or Abort; if the process dies
// before, Cleanup or the next Stage of the same layer deletes it.
type Staged struct {
	s       *Store
	id      ChainID
	parents []ChainID
	dir     int // staging/layer-<hex>, locked
	fs      int // its fs directory, O_PATH
}

// Stage begins the layer c on top of parent ("" for none), which must exist.
// While another process or goroutine makes the same layer, Stage waits for it.
// When the layer exists, or came to exist while waiting, the result is nil
// without an error.
func (s *Store) Stage(ctx context.Context, c, parent ChainID) (*Staged, error) {
	if !c.Valid() {
		return nil, &NameError{"chain ID", string(c)}
	}
	parents, err := s.chain(parent)
	if err != nil {
		return nil, err
	}
	name := "layer-" + c.hex()
	for {
		if s.HasLayer(c) {
			return nil, nil
		}
		dir, err := s.openStaged(ctx, name, true)
		if err != nil {
			return nil, err
		}
		st := &Staged{s: s, id: c, parents: parents, dir: dir, fs: -1}
		if s.HasLayer(c) {
			st.Abort()
			return nil, nil
		}
		names, err := safepath.ReadNames(dir)
		if err == nil && len(names) > 0 { // left by a process that died
			if err = st.discard(); err == nil {
				continue
			}
			return nil, err
		}
		if err == nil {
			err = writeFile(dir, "parents", formatParents(parents))
		}
		if err == nil {
			err = safepath.MkdirAt(dir, "fs", 0o700)
		}
		if err == nil {
			st.fs, err = safepath.OpenDirAt(dir, "fs", unix.O_PATH)
		}
		if err != nil {
			return nil, errors.Join(err, st.discard())
		}
		return st, nil
	}
}

// FS returns the directory to fill (O_PATH). It belongs to st.
func (st *Staged) FS() int { return st.fs }

// Parents returns the chain IDs below the layer, nearest first.
func (st *Staged) Parents() []ChainID { return st.parents }

// Commit writes the layer's data to disk and makes it visible, or returns an
// error after deleting it. The data is synced with syncfs(2): one call instead
// of one fsync per file, at the price of flushing what others wrote to that
// file system too; without it a power failure could leave a layer that is there
// and empty.
func (st *Staged) Commit() error {
	err := st.commit()
	if err != nil {
		return errors.Join(fmt.Errorf("commit layer %q: %w", string(st.id), err), st.discard())
	}
	st.close()
	return nil
}

func (st *Staged) commit() error {
	if err := unix.Syncfs(st.dir); err != nil {
		return os.NewSyscallError("syncfs", err)
	}
	lock, err := st.s.lockDir("layers", unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer linux.Close(lock)
	if len(st.parents) > 0 && !st.s.HasLayer(st.parents[0]) {
		return &NotExistError{"layer", string(st.parents[0])}
	}
	err = unix.Renameat2(st.s.dir, "staging/layer-"+st.id.hex(), st.s.dir, st.id.path(), unix.RENAME_NOREPLACE)
	if err != nil {
		return os.NewSyscallError("renameat2", err)
	}
	if err := unix.Fsync(lock); err != nil {
		return os.NewSyscallError("fsync", err)
	}
	return nil
}

// Abort deletes the layer being made. It returns what could not be deleted.
func (st *Staged) Abort() error { return st.discard() }

// discard deletes the staging directory while holding its lock: who waits for
// the lock finds that the directory is gone and starts over.
func (st *Staged) discard() error {
	err := st.s.removeIn("staging", "layer-"+st.id.hex())
	st.close()
	return err
}

func (st *Staged) close() {
	linux.Close(st.fs)
	linux.Close(st.dir)
	st.fs, st.dir = -1, -1
}
