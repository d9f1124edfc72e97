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

// newStaged is openStaged for a name that nobody else uses.
func (s *Store) newStaged(name string) (int, error) {
	return s.openStaged(context.Background(), name, false)
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
	kind    Kind
	id      ChainID
	parents []ChainID
	dir     int // staging/layer-<hex>, locked
	fs      int // its fs directory, O_PATH; -1 of an indexed layer
}

// Stage begins the layer c on top of parent ("" for none), which must exist, kept
// in the same way.
// While another process or goroutine makes the same layer, Stage waits for it.
// When the layer exists, or came to exist while waiting, the result is nil
// without an error.
func (s *Store) Stage(ctx context.Context, kind Kind, c, parent ChainID) (*Staged, error) {
	if !c.Valid() {
		return nil, &NameError{"chain ID", string(c)}
	}
	parents, err := s.chain(kind, parent)
	if err != nil {
		return nil, err
	}
	name := "layer-" + c.hex()
	for {
		if s.Has(kind, c) {
			return nil, nil
		}
		dir, err := s.openStaged(ctx, name, true)
		if err != nil {
			return nil, err
		}
		st := &Staged{s: s, kind: kind, id: c, parents: parents, dir: dir, fs: -1}
		if s.Has(kind, c) {
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
			err = st.claim()
		}
		if err == nil && kind == Extracted {
			if err = safepath.MkdirAt(dir, "fs", 0o700); err == nil {
				st.fs, err = safepath.OpenDirAt(dir, "fs", unix.O_PATH)
			}
		}
		if err != nil {
			return nil, errors.Join(err, st.discard())
		}
		return st, nil
	}
}

// claim has the layer stand on its parents, if they are there still. Who removes
// layers sees that or has removed them before.
func (st *Staged) claim() error {
	lock, err := st.s.lockDir(layersDir, unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer linux.Close(lock)
	if err := st.standing(); err != nil {
		return err
	}
	return writeFile(st.dir, "parents", formatParents(st.parents))
}

// standing reports whether the layer below is there, with the lock of layers held.
func (st *Staged) standing() error {
	if len(st.parents) > 0 && !st.s.Has(st.kind, st.parents[0]) {
		return &NotExistError{"layer", string(st.parents[0])}
	}
	return nil
}

// Dir returns the directory of the layer, where the files of an indexed one are
// made. It belongs to st.
func (st *Staged) Dir() int { return st.dir }

// FS returns the directory to fill of an extracted layer (O_PATH). It belongs to st.
func (st *Staged) FS() int { return st.fs }

// Parents returns the chain IDs below the layer, nearest first.
func (st *Staged) Parents() []ChainID { return st.parents }

// Commit writes the layer's data to disk and makes it visible, or returns an
// error after deleting it. The data is synced with syncfs(2): one call instead
// of one fsync per file, at the price of flushing what others wrote to that
// file system too; without it a power failure could leave a layer that is there
// and empty. Of an indexed layer the caller's files must be synced already.
func (st *Staged) Commit() error {
	err := st.commit()
	if err != nil {
		return errors.Join(fmt.Errorf("commit layer %q: %w", string(st.id), err), st.discard())
	}
	st.close()
	return nil
}

func (st *Staged) commit() error {
	if st.kind == Indexed {
		if err := syncFile(st.dir, "parents"); err != nil {
			return err
		}
		if err := unix.Fsync(st.dir); err != nil {
			return os.NewSyscallError("fsync", err)
		}
	} else if err := unix.Syncfs(st.dir); err != nil {
		return os.NewSyscallError("syncfs", err)
	}
	lock, err := st.s.lockDir("layers", unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer linux.Close(lock)
	if err := st.standing(); err != nil {
		return err
	}
	err = unix.Renameat2(st.s.dir, "staging/layer-"+st.id.hex(), st.s.dir, st.kind.Dir(st.id), unix.RENAME_NOREPLACE)
	if err != nil {
		return os.NewSyscallError("renameat2", err)
	}
	if err := unix.Fsync(lock); err != nil {
		return os.NewSyscallError("fsync", err)
	}
	return nil
}

func syncFile(dir int, name string) error {
	fd, err := linux.OpenAt(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	return os.NewSyscallError("fdatasync", unix.Fdatasync(fd))
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

// OpenIndexed opens a file of an indexed layer for reading.
func (s *Store) OpenIndexed(c ChainID, file string) (fd int, err error) {
	if !c.Valid() {
		return -1, &NameError{"chain ID", string(c)}
	}
	fd, err = linux.OpenAt(s.dir, Indexed.Dir(c)+"/"+file, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) && !s.Has(Indexed, c) {
		err = &NotExistError{"layer", string(c)}
	}
	return fd, err
}

// MakeImage makes the image of the chain that ends with the indexed layer c: write
// fills the file, which then appears complete and on disk. Whoever makes the same
// one at the same time makes the same bytes; one of them stays. While write runs no
// layer of the chain is replaced by another.
func (s *Store) MakeImage(ctx context.Context, c ChainID, write func(fd int) error) error {
	if !s.Has(Indexed, c) {
		return &NotExistError{"layer", string(c)}
	}
	name := randomName("image")
	dir, err := s.openStaged(ctx, name, false)
	if err != nil {
		return err
	}
	defer linux.Close(dir)
	if err = s.claim(dir, c); err == nil {
		err = s.makeImage(name, dir, c, write)
	}
	if err != nil {
		err = fmt.Errorf("make the image of layer %q: %w", string(c), err)
	}
	return errors.Join(err, s.removeIn("staging", name))
}

// claim has the staging directory dir stand on the indexed layer c, if its chain is
// there.
func (s *Store) claim(dir int, c ChainID) error {
	lock, err := s.lockDir(layersDir, unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer linux.Close(lock)
	chain, err := s.chain(Indexed, c)
	if err != nil {
		return err
	}
	for _, c := range chain {
		if !s.Has(Indexed, c) {
			return &NotExistError{"layer", string(c)}
		}
	}
	return writeFile(dir, "parents", formatParents(chain))
}

func (s *Store) makeImage(name string, dir int, c ChainID, write func(fd int) error) error {
	fd, err := linux.OpenAt(dir, "image", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	if err = write(fd); err == nil {
		err = os.NewSyscallError("fsync", unix.Fsync(fd))
	}
	linux.Close(fd)
	if err != nil {
		return err
	}
	lock, err := s.lockDir("layers", unix.LOCK_SH) // nobody removes the layer meanwhile
	if err != nil {
		return err
	}
	defer linux.Close(lock)
	if err := unix.Renameat(s.dir, "staging/"+name+"/image", s.dir, Indexed.Dir(c)+"/image"); err != nil {
		return os.NewSyscallError("rename", err)
	}
	layer, err := s.lockDir(Indexed.Dir(c), unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer linux.Close(layer)
	return os.NewSyscallError("fsync", unix.Fsync(layer))
}
