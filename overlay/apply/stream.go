package apply

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
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
// its context. Several things happen at a time: one goroutine reads, which is
// where a caller's decompressor works, one hashes, one writes the file that
// keeps the archive, if that is wanted, and the caller of Read unpacks. Each
// chunk goes to all of the latter and is used again when they are done with it.
type stream struct {
	ctx  context.Context
	h    hash.Hash
	free chan *chunk
	out  chan *chunk
	hash chan *chunk
	keep chan *chunk // nil: not kept
	stop chan struct{}
	fail error // of keeping, valid when failed is set or everything has ended

	failed atomic.Bool
	wg     sync.WaitGroup

	cur  *chunk // what Read is in
	rest []byte
	pos  int64 // bytes that were read or passed over
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

func newStream(ctx context.Context, r io.Reader, max int64, keep io.Writer) *stream {
	s := &stream{
		ctx: ctx, h: sha256.New(), stop: make(chan struct{}),
		// Room for every chunk: only free ever blocks.
		free: make(chan *chunk, chunks), out: make(chan *chunk, chunks), hash: make(chan *chunk, chunks),
	}
	for range chunks {
		s.free <- &chunk{}
	}
	if keep != nil {
		s.keep = make(chan *chunk, chunks)
		s.wg.Go(func() {
			for c := range s.keep {
				if s.fail == nil {
					_, s.fail = keep.Write(c.b[:c.n])
				}
				if s.fail != nil {
					s.failed.Store(true)
				}
				s.release(c)
			}
		})
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
	if s.keep != nil {
		defer close(s.keep)
	}
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
		if c.err == nil && s.failed.Load() {
			c.err = s.fail
		}
		// Decompressors return less than a chunk at a time, and each chunk costs a
		// write and several switches between goroutines. Nobody waits for what is
		// in a chunk that is not full but those who read on.
		for c.err == nil && c.n < len(c.b) {
			var n int
			n, c.err = r.Read(c.b[c.n:])
			c.n += n
		}
		if s.n += int64(c.n); s.n > max {
			c.err = limit("archive of more than %d bytes (MaxBytes)", max)
		}
		err := c.err
		if s.keep != nil {
			c.users.Store(3)
			s.keep <- c
		} else {
			c.users.Store(2)
		}
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
	s.pos += int64(n)
	return n, nil
}

// Seek implements io.Seeker as far as archive/tar uses it, which is to pass over
// content that nobody reads: forward from here. It fails where Read would.
func (s *stream) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekCurrent || offset < 0 {
		return 0, errors.ErrUnsupported
	}
	for offset > 0 {
		if len(s.rest) == 0 {
			var one [1]byte
			n, err := s.Read(one[:])
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			if err != nil {
				return 0, err
			}
			offset -= int64(n)
			continue
		}
		n := min(offset, int64(len(s.rest)))
		s.rest = s.rest[n:]
		s.pos += n
		offset -= n
	}
	return s.pos, nil
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

// digest returns the digest and length of everything, or why it could not be
// kept. Call it after the end.
func (s *stream) digest() (string, int64, error) {
	s.wg.Wait()
	return "sha256:" + hex.EncodeToString(s.h.Sum(nil)), s.n, s.fail
}

// close ends the goroutines and waits for them, and with that for a Read of the
// archive that is under way.
func (s *stream) close() {
	close(s.stop)
	s.wg.Wait()
}
