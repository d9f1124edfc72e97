package imagestore

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// partialDir holds blobs that come in over a network, one file for each, named
// by its digest. A file outlives the process that wrote it, so that the next
// one goes on where it ended; it is never trusted: whoever opens it hashes what
// is there. While a process writes a file it holds flock(2) on it, so the same
// blob is fetched once, however many ask for it.
const partialDir = "partial"

// partialAge is how long what nobody came back for is kept.
const partialAge = 24 * time.Hour

// Partial is a blob on its way into an Ingest, which other processes and later
// runs share. It must be closed.
type Partial struct {
	g    *Ingest
	d    Descriptor
	what string
	path string
	f    *os.File
	h    hash.Hash
	n    int64
}

// Partial returns the blob d to be written, with what earlier runs have of it,
// or nil if the Ingest or the store has it by now. It waits for another process
// or goroutine that writes the same blob; waiting, if not nil, is called once
// before that. what names the object in errors.
func (g *Ingest) Partial(ctx context.Context, what string, d Descriptor, waiting func()) (*Partial, error) {
	if err := d.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if g.has(what, d) {
		return nil, nil
	}
	if err := os.Mkdir(g.s.path(partialDir), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	p := &Partial{g: g, d: d, what: what, path: g.s.path(partialDir, d.Digest.Algorithm()+"-"+d.Digest.Hex())}
	var err error
	if p.f, err = lockFilePath(ctx, p.path, waiting); err != nil {
		return nil, err
	}
	// Whoever had the lock may have brought it in.
	if g.has(what, d) {
		p.drop()
		return nil, nil
	}
	if err := p.rehash(ctx); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// has tells whether the Ingest or the store has d, and keeps it.
func (g *Ingest) has(what string, d Descriptor) bool {
	if st, err := os.Lstat(g.blobPath(d.Digest)); err == nil {
		return st.Size() == d.Size
	}
	if st, err := os.Lstat(g.s.blobPath(d.Digest)); err != nil || st.Size() != d.Size {
		return false
	}
	return g.Keep(what, d) == nil
}

// LockPull waits until no other process brings in what d describes and returns
// the function that lets the next one do it. Processes that want the same image
// take turns: the second one finds it in the store.
func (g *Ingest) LockPull(ctx context.Context, d Descriptor, waiting func()) (unlock func(), err error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	if err := os.Mkdir(g.s.path(partialDir), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	path := g.s.path(partialDir, "lock-"+d.Digest.Algorithm()+"-"+d.Digest.Hex())
	f, err := lockFilePath(ctx, path, waiting)
	if err != nil {
		return nil, err
	}
	return func() {
		_ = os.Remove(path) // under the lock: who waits sees that the name is gone
		f.Close()
	}, nil
}

// lockFilePath opens or makes the file at path and locks it.
func lockFilePath(ctx context.Context, path string, waiting func()) (*os.File, error) {
	pause := 5 * time.Millisecond
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		err = flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && sameFile(f, path) {
			return f, nil
		}
		f.Close()
		if err == nil {
			continue // it was removed or replaced meanwhile
		}
		if err != unix.EWOULDBLOCK {
			return nil, fmt.Errorf("lock %q: %w", path, err)
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		// flock(2) that waits could not be interrupted.
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pause):
		}
		pause = min(2*pause, 250*time.Millisecond)
	}
}

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(path)
	return err == nil && os.SameFile(a, b)
}

// rehash reads what there is. A file that has another name, in the store or in
// an Ingest, is never written: if it is not the whole blob, a new one takes its
// place.
func (p *Partial) rehash(ctx context.Context) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(p.f.Fd()), &st); err != nil {
		return &os.PathError{Op: "fstat", Path: p.path, Err: err}
	}
	if st.Size > p.d.Size || st.Nlink > 1 && st.Size < p.d.Size {
		return p.Reset()
	}
	h, err := newHash(p.d.Digest.Algorithm())
	if err != nil {
		return err
	}
	p.h = h
	n, err := io.CopyBuffer(h, struct{ io.Reader }{ContextReader(ctx, p.f)}, make([]byte, 256<<10))
	if err != nil {
		return err
	}
	p.n = n
	if n == p.d.Size && sumDigest(p.d.Digest.Algorithm(), h) != p.d.Digest {
		return p.Reset()
	}
	return nil
}

// Reset begins anew: what there is was not right.
func (p *Partial) Reset() error {
	h, err := newHash(p.d.Digest.Algorithm())
	if err != nil {
		return err
	}
	// A new file, locked before it has the name.
	f, err := os.CreateTemp(p.g.dir, "part-")
	if err != nil {
		return err
	}
	err = flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		err = os.Rename(f.Name(), p.path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		f.Close()
		return err
	}
	p.f.Close()
	p.f, p.h, p.n = f, h, 0
	return nil
}

// Size is the number of bytes that are there.
func (p *Partial) Size() int64 { return p.n }

// Write appends. It takes no more than the blob's size.
func (p *Partial) Write(b []byte) (int, error) {
	if p.n+int64(len(b)) > p.d.Size {
		return 0, &SizeError{Object: p.what + " " + string(p.d.Digest), Want: p.d.Size, Got: -1}
	}
	n, err := p.f.WriteAt(b, p.n)
	p.h.Write(b[:n])
	p.n += int64(n)
	return n, err
}

// Commit makes the content readable within the Ingest if size and digest are
// right, and closes p. A [*DigestError] or a [*SizeError] leaves p open, for
// [Partial.Reset]. The shared file stays until the Ingest is published, so that
// a process that dies before has not fetched it in vain.
func (p *Partial) Commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	object := p.what + " " + string(p.d.Digest)
	if p.n != p.d.Size {
		return &SizeError{Object: object, Want: p.d.Size, Got: p.n}
	}
	if got := sumDigest(p.d.Digest.Algorithm(), p.h); got != p.d.Digest {
		return &DigestError{Object: object, Want: p.d.Digest, Got: got}
	}
	if err := os.Link(p.path, p.g.blobPath(p.d.Digest)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return p.Close()
}

// Close lets others go on with what is there. A file without content goes.
func (p *Partial) Close() error {
	if p.f == nil {
		return nil
	}
	if p.n == 0 && p.d.Size > 0 {
		p.drop()
		return nil
	}
	err := p.f.Close()
	p.f = nil
	return err
}

// drop removes the shared file, under its lock.
func (p *Partial) drop() {
	_ = os.Remove(p.path)
	p.f.Close()
	p.f = nil
}

// DropPartials removes the shared files of blobs that the store has by now, and
// those that nobody came back for within a day. Files that are written right now
// stay.
func (s *Store) DropPartials() { _, _ = s.dropPartials(partialAge) } // what is left goes with the next one

// dropPartials removes what is older than age and returns the bytes of blocks
// that became free.
func (s *Store) dropPartials(age time.Duration) (disk int64, err error) {
	list, err := s.Partials()
	for _, p := range list {
		if p.Live || time.Since(p.Written) < age && !p.Stored {
			continue
		}
		path := s.path(partialDir, p.Name)
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		if flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && sameFile(f, path) && os.Remove(path) == nil {
			disk += p.Disk
		}
		f.Close()
	}
	return disk, err
}

// PartialFile is what a transfer left, or is about to write.
type PartialFile struct {
	Name    string // below partial/
	Live    bool   // a process holds its lock
	Stored  bool   // the store has the whole blob
	Written time.Time
	Disk    int64 // bytes of its blocks; 0 if they are those of a blob
}

// Partials lists what transfers left.
func (s *Store) Partials() ([]PartialFile, error) {
	names, err := readNames(s.path(partialDir))
	var list []PartialFile
	for _, name := range names {
		p := PartialFile{Name: name}
		f, err := os.OpenFile(s.path(partialDir, name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			continue // removed a moment ago
		}
		var st unix.Stat_t
		if unix.Fstat(int(f.Fd()), &st) == nil {
			p.Written = time.Unix(st.Mtim.Unix())
			if st.Nlink == 1 {
				p.Disk = st.Blocks * 512
			}
			p.Live = flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == unix.EWOULDBLOCK
			p.Stored = s.hasNamed(name)
			list = append(list, p)
		}
		f.Close()
	}
	return list, err
}

// hasNamed tells whether the shared file is a blob of the store.
func (s *Store) hasNamed(name string) bool {
	for _, algorithm := range []string{"sha256", "sha512"} {
		if len(name) <= len(algorithm) || name[:len(algorithm)] != algorithm {
			continue
		}
		d, err := ParseDigest(algorithm + ":" + name[len(algorithm)+1:])
		if err != nil {
			return false
		}
		_, err = os.Lstat(s.blobPath(d))
		return err == nil
	}
	return false
}

// PartialBytes is how much of the blobs interrupted transfers left.
func (s *Store) PartialBytes(blobs []Descriptor) (n int64) {
	for _, d := range blobs {
		if d.check() != nil {
			continue
		}
		if st, err := os.Lstat(s.path(partialDir, d.Digest.Algorithm()+"-"+d.Digest.Hex())); err == nil {
			n += min(st.Size(), d.Size)
		}
	}
	return n
}

// Await has [Ingest.OpenBlob] call f before it opens a blob: f returns when the
// blob is there, at once for one that is not on its way. It must be called
// before the Ingest is used by several goroutines.
func (g *Ingest) Await(f func(Descriptor) error) { g.await = f }
