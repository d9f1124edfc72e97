package imagestore

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Ingest is work in progress: a private directory in the store to which blobs
// are written before anybody can see them, and which keeps existing blobs alive
// that the work relies on. The directory is locked for the life of the process
// that made it; [Ingest.Close], or whoever comes after a crash, removes it.
type Ingest struct {
	s   *Store
	dir string
	fd  *os.File // holds the flock

	await func(Descriptor) error
}

// Begin creates the store if needed, removes what dead processes left in it and
// returns a new Ingest. It must be closed, also after Publish.
func (s *Store) Begin(ctx context.Context) (*Ingest, error) { return s.BeginFor(ctx, "") }

// BeginFor is Begin with a word for people who ask what keeps their disk full.
func (s *Store) BeginFor(ctx context.Context, purpose string) (*Ingest, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if err := s.create(ctx); err != nil {
		return nil, fmt.Errorf("create image store %q: %w", s.root, err)
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	// Under the lock nobody can take a directory that was made and is not
	// locked yet for a dead one.
	dead, _, err := s.removeDead()
	if err != nil {
		return nil, err
	}
	if dead > 0 {
		// One of them may have died between moving blobs and writing
		// index.json. What cannot be removed now is tried again by GC.
		_, _ = s.sweep()
	}
	dir, err := os.MkdirTemp(s.path(ingestDir), "")
	if err != nil {
		return nil, err
	}
	fd, err := os.Open(dir)
	if err == nil {
		if err = flock(int(fd.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			if err = writeLease(dir, purpose); err == nil {
				return &Ingest{s: s, dir: dir, fd: fd}, nil
			}
		}
		fd.Close()
	}
	_ = os.RemoveAll(dir)
	return nil, fmt.Errorf("lease %q: %w", dir, err)
}

// Close removes the directory and whatever was not published. It may be called
// more than once.
func (g *Ingest) Close() error {
	if g.fd == nil {
		return nil
	}
	err := os.RemoveAll(g.dir)
	g.fd.Close()
	g.fd = nil
	return err
}

// removeDead removes the ingest directories whose process is gone. The store's
// lock must be held.
func (s *Store) removeDead() (n int, freed int64, err error) {
	names, err := readNames(s.path(ingestDir))
	if err != nil {
		return 0, 0, err
	}
	for _, name := range names {
		dir := s.path(ingestDir, name)
		alive, err := isLocked(dir)
		if err != nil || alive {
			continue
		}
		blocks := blocksOf(dir)
		if err := os.RemoveAll(dir); err != nil {
			return n, freed, err
		}
		freed += blocks
		n++
	}
	return n, freed, nil
}

// blocksOf is what becomes free when an ingest directory is removed.
func blocksOf(dir string) (n int64) {
	files, _ := readNames(dir)
	for _, f := range append(files, "") {
		var st unix.Stat_t
		if unix.Lstat(filepath.Join(dir, f), &st) == nil && (st.Nlink == 1 || f == "") {
			n += st.Blocks * 512
		}
	}
	return n
}

func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// isLocked tells whether some process holds the flock of a directory.
func isLocked(dir string) (bool, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		return true, nil
	}
	return false, err
}

func (g *Ingest) blobPath(d Digest) string {
	return filepath.Join(g.dir, d.Algorithm()+"-"+d.Hex())
}

// Writer writes one blob. Nothing is readable under any digest until Commit.
type Writer struct {
	g         *Ingest
	f         *os.File
	algorithm string
	h         hash.Hash
	n         int64
}

// Create returns a Writer that hashes with the given algorithm, sha256 if empty.
func (g *Ingest) Create(algorithm string) (*Writer, error) {
	if algorithm == "" {
		algorithm = "sha256"
	}
	h, err := newHash(algorithm)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(g.dir, "part-")
	if err != nil {
		return nil, err
	}
	return &Writer{g: g, f: f, algorithm: algorithm, h: h}, nil
}

// Nameless makes a file beside the blobs that has no name and can get one. It is
// gone with its last descriptor.
func (g *Ingest) Nameless() (*os.File, error) {
	return os.OpenFile(g.dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
}

func (w *Writer) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	w.h.Write(p[:n])
	w.n += int64(n)
	return n, err
}

// Size is the number of bytes written so far.
func (w *Writer) Size() int64 { return w.n }

// Digest is the digest of the bytes written so far.
func (w *Writer) Digest() Digest { return sumDigest(w.algorithm, w.h) }

// Commit makes the content readable within the Ingest if its digest is want;
// an empty want accepts any. Otherwise the content is gone and the error is a
// [*DigestError]. The bytes reach the disk before [Ingest.Publish] returns, in
// which only those are waited for that the published image needs.
func (w *Writer) Commit(ctx context.Context, want Digest) error {
	got := w.Digest()
	err := ctx.Err()
	if err == nil && want != "" && got != want {
		err = &DigestError{Object: "blob " + string(want), Want: want, Got: got}
	}
	if err == nil {
		err = w.f.Close()
	}
	if err == nil {
		err = os.Rename(w.f.Name(), w.g.blobPath(got))
	}
	if err != nil {
		w.Abort()
	}
	return err
}

// Abort drops what was written. It does nothing after Commit.
func (w *Writer) Abort() {
	w.f.Close()
	_ = os.Remove(w.f.Name()) // Commit renamed it, or Close of the Ingest removes it
}

// Copy writes the content of r as the blob that d describes. what names the
// object in errors: "layer", "config". It reads at most one byte more than d.Size.
func (g *Ingest) Copy(ctx context.Context, what string, d Descriptor, r io.Reader) error {
	if err := d.check(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	object := what + " " + string(d.Digest)
	w, err := g.Create(d.Digest.Algorithm())
	if err != nil {
		return err
	}
	n, err := io.Copy(w, io.LimitReader(ContextReader(ctx, r), d.Size+1))
	if err == nil && n != d.Size {
		err = &SizeError{Object: object, Want: d.Size, Got: n}
	}
	if err != nil {
		w.Abort()
		return fmt.Errorf("%s: %w", object, err)
	}
	err = w.Commit(ctx, d.Digest)
	if e, ok := err.(*DigestError); ok {
		e.Object = object
	}
	return err
}

// PutBytes stores b and returns its descriptor.
func (g *Ingest) PutBytes(ctx context.Context, mediaType string, b []byte) (Descriptor, error) {
	d := Descriptor{MediaType: mediaType, Digest: FromBytes(b), Size: int64(len(b))}
	w, err := g.Create("")
	if err != nil {
		return d, err
	}
	if _, err := w.Write(b); err != nil {
		w.Abort()
		return d, err
	}
	return d, w.Commit(ctx, d.Digest)
}

// Keep makes a blob of the store stay readable through the Ingest, whatever is
// removed meanwhile. A blob that neither has is a [*MissingError].
func (g *Ingest) Keep(what string, d Descriptor) error {
	if err := d.check(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	err := os.Link(g.s.blobPath(d.Digest), g.blobPath(d.Digest))
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return &MissingError{Object: what, Digest: d.Digest}
	case err != nil:
		return err
	}
	return nil
}

// ReadBlob is [Store.ReadBlob] for what the Ingest has, else for the store.
func (g *Ingest) ReadBlob(what string, d Descriptor, limit int) ([]byte, error) {
	b, err := readBlobFile(g.blobPath, what, d, limit)
	if _, missing := err.(*MissingError); missing {
		return g.s.ReadBlob(what, d, limit)
	}
	return b, err
}

// OpenBlob is [Store.OpenBlob] for what the Ingest has, else for the store.
func (g *Ingest) OpenBlob(what string, d Descriptor) (io.ReadCloser, error) {
	if err := d.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if g.await != nil {
		if err := g.await(d); err != nil {
			return nil, fmt.Errorf("%s %s: %w", what, d.Digest, err)
		}
	}
	f, err := openBlobFile(g.blobPath(d.Digest), what, d)
	if _, missing := err.(*MissingError); missing {
		return g.s.OpenBlob(what, d)
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Image reads an image of which all blobs are in the Ingest or the store,
// whatever platform it is for.
func (g *Ingest) Image(target Descriptor) (*Image, error) {
	return loadFrom(g.ReadBlob, target, HostPlatform(), false)
}

// Pin resolves ref and keeps all blobs of the image, and layers unpacked from
// it, until the Ingest is closed.
func (s *Store) Pin(ctx context.Context, ref string) (*Image, *Ingest, error) {
	if _, err := s.Resolve(ref); err != nil { // before a store is created
		return nil, nil, err
	}
	g, err := s.BeginFor(ctx, "unpack")
	if err != nil {
		return nil, nil, err
	}
	img, err := g.pin(ctx, ref)
	if err != nil {
		g.Close()
		return nil, nil, err
	}
	return img, g, nil
}

func (g *Ingest) pin(ctx context.Context, ref string) (*Image, error) {
	unlock, err := g.s.lock(ctx) // so that it is not removed blob by blob meanwhile
	if err != nil {
		return nil, err
	}
	defer unlock()
	img, err := g.s.Resolve(ref)
	if err != nil {
		return nil, err
	}
	for _, l := range img.Layers {
		if err := g.Keep("layer", l); err != nil {
			return nil, fmt.Errorf("image %q: %w", clip(ref), err)
		}
	}
	if err := g.Keep("manifest", img.Manifest); err != nil {
		return nil, err
	}
	if err := g.Keep("config", Descriptor{Digest: img.ConfigDigest}); err != nil {
		return nil, err
	}
	return img, g.PinStaged(img)
}

// HostImage is Image for this host alone.
func (g *Ingest) HostImage(target Descriptor) (*Image, error) {
	return loadFrom(g.ReadBlob, target, HostPlatform(), true)
}
