package archive

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/decompress"
)

// content is a file that was written to the staging area.
type content struct {
	digest imagestore.Digest
	size   int64
	format decompress.Format
	diffID imagestore.Digest // of the decompressed content; see plainDigest
	err    error             // why it cannot be decompressed; matters for layers only
}

// spool writes r to a blob of g and leaves it compressed: who unpacks the layer
// decompresses it, and should be the only one.
func spool(ctx context.Context, g *imagestore.Ingest, algorithm string, r io.Reader) (*content, error) {
	w, err := g.Create(algorithm)
	if err != nil {
		return nil, err
	}
	br := bufio.NewReaderSize(imagestore.ContextReader(ctx, r), chunk)
	head, err := br.Peek(6)
	if err == nil || err == io.EOF {
		_, err = io.CopyBuffer(onlyWriter{w}, onlyReader{br}, make([]byte, chunk))
	}
	if err != nil {
		w.Abort()
		return nil, err
	}
	c := &content{format: decompress.Sniff(head), digest: w.Digest(), size: w.Size()}
	if c.format == decompress.None && c.digest.Algorithm() == "sha256" {
		c.diffID = c.digest
	}
	return c, w.Commit(ctx, "")
}

// plainDigest fills in diffID, or err.
func (c *content) plainDigest(ctx context.Context, g *imagestore.Ingest) error {
	if c.diffID != "" || c.err != nil {
		return nil
	}
	f, err := g.OpenBlob("layer", imagestore.Descriptor{Digest: c.digest, Size: c.size})
	if err != nil {
		return err
	}
	defer f.Close()
	c.diffID, c.err = diffID(imagestore.ContextReader(ctx, f), nil)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// spoolChecked writes r to a blob of g, decompresses it in passing, and has the
// decompressed content read by check, whose error counts as a decompression error.
// plain keeps that content if it is not what r has, and may be nil.
func spoolChecked(ctx context.Context, g *imagestore.Ingest, algorithm string, r io.Reader, check func(io.Reader) error, plain *plainKeeper) (*content, error) {
	w, err := g.Create(algorithm)
	if err != nil {
		return nil, err
	}
	br := bufio.NewReaderSize(imagestore.ContextReader(ctx, r), chunk)
	head, err := br.Peek(6)
	if err != nil && err != io.EOF {
		w.Abort()
		return nil, err
	}
	c := &content{format: decompress.Sniff(head)}
	t := startTee(func(r io.Reader) error {
		keep := io.Discard
		if plain != nil && c.format != decompress.None {
			keep = plain
		}
		c.diffID, c.err = diffIDKeeping(r, check, keep)
		return nil
	})
	_, err = io.CopyBuffer(onlyWriter{io.MultiWriter(w, t)}, onlyReader{br}, make([]byte, chunk))
	t.finish(err)
	if err != nil {
		w.Abort()
		return nil, err
	}
	c.digest, c.size = w.Digest(), w.Size()
	return c, w.Commit(ctx, "")
}

// onlyReader and onlyWriter hide other methods, so that io.Copy uses the buffer
// that it is given.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

// diffID hashes the decompressed content of r, up to its last byte.
func diffID(r io.Reader, check func(io.Reader) error) (imagestore.Digest, error) {
	return diffIDKeeping(r, check, io.Discard)
}

func diffIDKeeping(r io.Reader, check func(io.Reader) error, keep io.Writer) (imagestore.Digest, error) {
	z, err := decompress.NewReader(r)
	if err != nil {
		return "", err
	}
	defer z.Close()
	h := sha256.New()
	plain := io.TeeReader(z, io.MultiWriter(h, keep))
	if check != nil {
		if err := check(plain); err != nil {
			return "", err
		}
	}
	if _, err := io.CopyBuffer(io.Discard, onlyReader{plain}, make([]byte, chunk)); err != nil {
		return "", err
	}
	return imagestore.Digest("sha256:" + hex.EncodeToString(h.Sum(nil))), nil
}

// chunk is the unit in which a stream is handed on, in bytes.
const chunk = 256 << 10

// tee hands a copy of a stream to a goroutine, a few chunks ahead, so that
// writing and hashing the file and decompressing it use two processors.
type tee struct {
	full, free chan []byte
	done       chan struct{}
	end        error
	cur        []byte // what the reader has not read yet
	buf        []byte // the chunk that cur is of
}

func startTee(f func(io.Reader) error) *tee {
	t := &tee{full: make(chan []byte, 4), free: make(chan []byte, 4), done: make(chan struct{})}
	for range cap(t.free) {
		t.free <- nil
	}
	go func() {
		defer close(t.done)
		_ = f(teeReader{t})
		for b := range t.full { // what f did not want
			t.free <- b
		}
	}()
	return t
}

func (t *tee) Write(p []byte) (int, error) {
	b := <-t.free
	t.full <- append(b[:0], p...)
	return len(p), nil
}

// finish ends the stream, with err if it is not nil, and waits for the goroutine.
func (t *tee) finish(err error) {
	t.end = err
	close(t.full)
	<-t.done
}

type teeReader struct{ t *tee }

func (r teeReader) Read(p []byte) (int, error) {
	t := r.t
	for len(t.cur) == 0 {
		if t.buf != nil {
			t.free <- t.buf
			t.buf = nil
		}
		b, ok := <-t.full
		if !ok {
			if t.end != nil {
				return 0, t.end
			}
			return 0, io.EOF
		}
		t.buf, t.cur = b, b
	}
	n := copy(p, t.cur)
	t.cur = t.cur[n:]
	return n, nil
}
