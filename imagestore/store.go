package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

const (
	layoutFile    = "oci-layout"
	layoutVersion = "1.0.0"
	indexFile     = "index.json"
	indexTemp     = ".index.json.new"
	reserveFile   = "index.reserve"
	blobsDir      = "blobs"
	ingestDir     = "ingest"
	lockFile      = "lock"

	// maxIndex bounds index.json: a store with thousands of names is fine.
	maxIndex = 64 << 20
)

// Store is an image store in one directory. It holds no descriptors and no
// state: any number of processes and goroutines may use the same directory.
type Store struct{ root string }

// Open returns the store in the directory root. It reads one small file and
// writes nothing; a directory that does not exist yet is an empty store, which
// the first [Store.Begin] creates.
func Open(root string) (*Store, error) {
	abs, err := absolute(root)
	if err != nil {
		return nil, err
	}
	s := &Store{root: abs}
	b, err := linux.ReadFile(s.path(layoutFile), 4096)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		var l struct {
			Version string `json:"imageLayoutVersion"`
		}
		if err = json.Unmarshal(b, &l); err == nil && l.Version != layoutVersion {
			err = fmt.Errorf("%s has version %q, want %q", layoutFile, l.Version, layoutVersion)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("image store %q: %w", root, err)
	}
	return s, nil
}

func absolute(root string) (string, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return "", fmt.Errorf("image store %q: %w", root, err)
	}
	return abs, nil
}

// Root is the absolute path of the store directory. Other packages keep what
// belongs to images beside the layout, in directories of their own.
func (s *Store) Root() string { return s.root }

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.root}, elem...)...)
}

func (s *Store) blobPath(d Digest) string { return s.path(blobsDir, d.Algorithm(), d.Hex()) }

// create makes the layout if it is not there. Directories are private to root:
// layers contain set-user-ID files and secrets of whoever built them.
func (s *Store) create(ctx context.Context) error {
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return err
	}
	for _, dir := range []string{blobsDir, blobsDir + "/sha256", ingestDir} {
		if err := os.Mkdir(s.path(dir), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if _, err := os.Lstat(s.path(layoutFile)); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	// A directory with an index.json and no oci-layout is somebody's, in a
	// form that we do not know.
	if _, err := os.Lstat(s.path(indexFile)); err == nil {
		if _, err := os.Lstat(s.path(layoutFile)); err == nil {
			return nil // another process was faster
		}
		// Empty, it may be of one of ours that died before it wrote oci-layout.
		if x, err := s.readIndex(); err == nil && len(x.Manifests) == 0 {
			return s.writeLayout()
		}
		return fmt.Errorf("%q has an %s and no %s: not an image store", s.root, indexFile, layoutFile)
	}
	if err := s.writeIndex(&Index{}, false); err != nil {
		return err
	}
	return s.writeLayout()
}

func (s *Store) writeLayout() error {
	return replaceFile(s.root, layoutFile, layoutFile+".new", []byte(`{"imageLayoutVersion":"`+layoutVersion+`"}`))
}

// lock takes the store's lock exclusively. It waits for it until ctx ends.
// Everything done under it is short.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	fd, err := linux.OpenAt(unix.AT_FDCWD, s.path(lockFile), unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	// flock(2) that waits could not be interrupted.
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		err := flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { linux.Close(fd) }, nil
		}
		if err != unix.EWOULDBLOCK {
			linux.Close(fd)
			return nil, fmt.Errorf("lock %q: %w", s.path(lockFile), err)
		}
		select {
		case <-ctx.Done():
			linux.Close(fd)
			return nil, fmt.Errorf("waiting for lock %q, which others hold: %w", s.path(lockFile), context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

func flock(fd, how int) error {
	for {
		if err := unix.Flock(fd, how); err != unix.EINTR {
			return err
		}
	}
}

// readIndex returns index.json; an empty one when there is none.
func (s *Store) readIndex() (*Index, error) {
	b, err := linux.ReadFile(s.path(indexFile), maxIndex)
	if errors.Is(err, fs.ErrNotExist) {
		return &Index{SchemaVersion: 2}, nil
	}
	if err != nil {
		return nil, err
	}
	x, err := parseStoreIndex(b)
	if err != nil {
		return nil, &FormatError{Object: s.path(indexFile), Err: err}
	}
	return x, nil
}

// parseStoreIndex is ParseIndex without the limit on entries: the file is ours.
func parseStoreIndex(b []byte) (*Index, error) {
	if err := checkBody(b, MediaTypeIndex, "layers", "config"); err != nil {
		return nil, err
	}
	var x Index
	if err := json.Unmarshal(b, &x); err != nil {
		return nil, err
	}
	for i := range x.Manifests {
		if err := x.Manifests[i].check(); err != nil {
			return nil, fmt.Errorf("manifest %d: %w", i+1, err)
		}
	}
	return &x, nil
}

// writeIndex replaces index.json. The lock must be held. For a removal, which
// has to work on a full disk, it takes the blocks of the reserve.
func (s *Store) writeIndex(x *Index, removal bool) error {
	b, err := encodeIndex(x)
	if err != nil {
		return err
	}
	temp := s.path(indexTemp)
	if removal {
		if err := os.Rename(s.path(reserveFile), temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := writeTemp(temp, b); err != nil {
		return err
	}
	if err := os.Rename(temp, s.path(indexFile)); err != nil {
		return err
	}
	if err := syncDir(s.root); err != nil {
		return err
	}
	s.reserve(len(b))
	return nil
}

// reserve sets blocks aside for the index.json after this one, which has n bytes.
// On a full disk it does without: the next removal makes room.
func (s *Store) reserve(n int) {
	path := s.path(reserveFile)
	fd, err := linux.OpenAt(unix.AT_FDCWD, path, unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return
	}
	if err := unix.Fallocate(fd, 0, 0, int64(n+4095)&^4095); err != nil {
		_ = os.Remove(path) // a file system that cannot keep blocks back, or a full one
	}
	linux.Close(fd)
}

func encodeIndex(x *Index) ([]byte, error) {
	x.SchemaVersion, x.MediaType = 2, MediaTypeIndex
	if x.Manifests == nil {
		x.Manifests = []Descriptor{} // null would not be valid
	}
	return json.Marshal(x)
}

// replaceFile writes name in dir so that a reader, and a machine that loses
// power, has the old content or the new one.
func replaceFile(dir, name, temp string, content []byte) error {
	if err := writeTemp(filepath.Join(dir, temp), content); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, temp), filepath.Join(dir, name)); err != nil {
		return err
	}
	return syncDir(dir)
}

// writeTemp writes and syncs the file at path, and removes it when that does not work.
func writeTemp(path string, content []byte) error {
	// Not O_TRUNC: the file may bring the blocks for its content along.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Truncate(int64(len(content)))
	}
	if err == nil {
		err = f.Sync()
	}
	if err2 := f.Close(); err == nil {
		err = err2
	}
	if err != nil {
		_ = os.Remove(path)
	}
	return err
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = f.Sync()
	if err2 := f.Close(); err == nil {
		err = err2
	}
	return err
}

// ReadBlob returns the content of a blob that is at most limit bytes long,
// checked against the descriptor's digest and size. what names the object in
// errors: "config", "manifest".
func (s *Store) ReadBlob(what string, d Descriptor, limit int) ([]byte, error) {
	return readBlobFile(s.blobPath, what, d, limit)
}

func readBlobFile(path func(Digest) string, what string, d Descriptor, limit int) ([]byte, error) {
	if err := d.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	object := what + " " + string(d.Digest)
	if d.Size > int64(limit) {
		return nil, &FormatError{Object: object, Err: fmt.Errorf("its %d bytes are more than the limit of %d", d.Size, limit)}
	}
	b, err := linux.ReadFile(path(d.Digest), max(int(d.Size), 1))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &MissingError{Object: what, Digest: d.Digest}
	case errors.Is(err, unix.EFBIG):
		return nil, &SizeError{Object: object, Want: d.Size, Got: -1}
	case err != nil:
		return nil, fmt.Errorf("%s: %w", object, err)
	case int64(len(b)) != d.Size:
		return nil, &SizeError{Object: object, Want: d.Size, Got: int64(len(b))}
	}
	if got := digestOf(d.Digest, b); got != d.Digest {
		return nil, &DigestError{Object: object, Want: d.Digest, Got: got}
	}
	return b, nil
}

// OpenBlob opens a blob for reading. The size is checked here; the content is
// hashed by whoever reads it ([NewVerifier]). what names the object in errors.
func (s *Store) OpenBlob(what string, d Descriptor) (io.ReadCloser, error) {
	if err := d.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	f, err := openBlobFile(s.blobPath(d.Digest), what, d)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func openBlobFile(path, what string, d Descriptor) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &MissingError{Object: what, Digest: d.Digest}
	}
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && st.Size() != d.Size {
		err = &SizeError{Object: what + " " + string(d.Digest), Want: d.Size, Got: st.Size()}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
