package apply

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"sync"
	"sync/atomic"
)

const (
	chunkSize = 128 << 10
	chunks    = 8 // in flight: 1 MiB
)

// stream is the archive as it is read: hashed, counted, bounded, and ended by
// its context. Three things happen at a time: one goroutine reads, which is
// where a caller's decompressor works, one hashes, and the caller of Read
// unpacks. Each chunk goes to both of the latter and is used again when both
// are done with it.
type stream struct {
	ctx  context.Context
	h    hash.Hash
	free chan *chunk
	out  chan *chunk
	hash chan *chunk
	stop chan struct{}
	wg   sync.WaitGroup

	cur  *chunk // what Read is in
	rest []byte
	n    int64 // bytes of the archive, for the reader only, until the end
	err  error // what ended it, io.EOF apart
	eof  bool
}

type chunk struct {
	b     []byte
	n     int
	err   error // after the n bytes
	users atomic.Int32
}

func newStream(ctx context.Context, r io.Reader, max int64) *stream {
	s := &stream{
		ctx: ctx, h: sha256.New(), stop: make(chan struct{}),
		// Room for every chunk: only free ever blocks.
		free: make(chan *chunk, chunks), out: make(chan *chunk, chunks), hash: make(chan *chunk, chunks),
	}
	for range chunks {
		s.free <- &chunk{}
	}
	s.wg.Go(func() { s.read(r, max) })
	s.wg.Go(func() {
		for c := range s.hash {
			s.h.Write(c.b[:c.n])
			s.release(c)
		}
	})
	return s
}

func (s *stream) read(r io.Reader, max int64) {
	defer close(s.out)
	defer close(s.hash)
	for {
		var c *chunk
		select {
		case c = <-s.free:
		case <-s.stop:
			return
		}
		if c.b == nil {
			c.b = make([]byte, chunkSize)
		}
		c.n, c.err = 0, s.ctx.Err()
		if c.err == nil {
			c.n, c.err = r.Read(c.b)
		}
		if s.n += int64(c.n); s.n > max {
			c.err = limit("archive of more than %d bytes (MaxBytes)", max)
		}
		err := c.err
		c.users.Store(2)
		s.hash <- c
		s.out <- c
		if err != nil {
			return
		}
	}
}

func (s *stream) release(c *chunk) {
	if c.users.Add(-1) == 0 {
		s.free <- c
	}
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		switch {
		case s.err != nil:
			return 0, s.err
		case s.eof:
			return 0, io.EOF
		}
		if c := s.cur; c != nil {
			s.cur = nil
			if s.eof = c.err == io.EOF; !s.eof {
				s.err = c.err
			}
			s.release(c)
			continue
		}
		if s.err = s.ctx.Err(); s.err != nil {
			continue
		}
		s.cur = <-s.out // never closed before an error or the end was sent
		s.rest = s.cur.b[:s.cur.n]
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// drain reads what follows the tar end marker: padding, or anything else. It is
// part of what the diff ID covers.
func (s *stream) drain(buf []byte) error {
	for {
		if _, err := s.Read(buf); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// digest returns the digest and length of everything. Call it after the end.
func (s *stream) digest() (string, int64) {
	s.wg.Wait()
	return "sha256:" + hex.EncodeToString(s.h.Sum(nil)), s.n
}

// close ends the goroutines and waits for them, and with that for a Read of the
// archive that is under way.
func (s *stream) close() {
	close(s.stop)
	s.wg.Wait()
}
