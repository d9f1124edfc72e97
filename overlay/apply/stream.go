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
// where a caller's decompressor works, one hashes, and the caller of Read unpacks.
// One writes the file that keeps the archive, if that is wanted, behind the caller:
// who has read a header can have the content go elsewhere. Each chunk is used again
// when all are done with it.
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

	keeping bool     // keep is open
	asides  []*aside // that do not end before cur does
	open    []*aside // that were not done the last time anybody looked

	cur  *chunk // what Read is in
	rest []byte
	at   int64 // where cur begins
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

	// For the one who keeps: where it is in the archive, and what goes elsewhere.
	at     int64
	asides []*aside
}

// archiveKeeper keeps an archive.
type archiveKeeper interface {
	io.Writer
	// skip leaves n bytes out, which are kept elsewhere.
	skip(n int64) error
}

// aside is a part of the archive that goes elsewhere.
type aside struct {
	from, to int64
	w        io.WriteCloser
	done     atomic.Bool // w is closed
}

func newStream(ctx context.Context, r io.Reader, max int64, keep archiveKeeper) *stream {
	s := &stream{
		ctx: ctx, h: sha256.New(), stop: make(chan struct{}),
		// Room for every chunk: only free ever blocks.
		free: make(chan *chunk, chunks), out: make(chan *chunk, chunks), hash: make(chan *chunk, chunks),
	}
	for range chunks {
		s.free <- &chunk{}
	}
	if keep != nil {
		s.keep, s.keeping = make(chan *chunk, chunks), true
		s.wg.Go(func() {
			for c := range s.keep {
				if s.fail == nil {
					s.fail = c.keep(keep)
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
		c.users.Store(2) // who hashes, and who unpacks and then hands it on
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

// keep writes what the chunk has.
func (c *chunk) keep(to archiveKeeper) error {
	at, b := c.at, c.b[:c.n]
	for _, a := range c.asides {
		if before := a.from - at; before > 0 {
			if _, err := to.Write(b[:before]); err != nil {
				return err
			}
			at, b = a.from, b[before:]
		}
		n := min(a.to-at, int64(len(b)))
		if _, err := a.w.Write(b[:n]); err != nil {
			return err
		}
		if err := to.skip(n); err != nil {
			return err
		}
		if at, b = at+n, b[n:]; at == a.to {
			err := a.w.Close()
			a.done.Store(true) // closed once, whatever came of it
			if err != nil {
				return err
			}
		}
	}
	_, err := to.Write(b)
	return err
}

// setAside has the next size bytes go to w and not to what keeps the archive. w is
// closed after them, or at the end. Nothing else may be set aside before.
func (s *stream) setAside(size int64, w io.WriteCloser) {
	for len(s.open) > 0 && s.open[0].done.Load() {
		s.open = s.open[1:]
	}
	a := &aside{from: s.pos, to: s.pos + size, w: w}
	s.asides, s.open = append(s.asides, a), append(s.open, a)
}

// passed is for a chunk of which nothing is left to read.
func (s *stream) passed(c *chunk) {
	at := s.at
	s.at += int64(c.n)
	if s.keep == nil {
		s.release(c)
		return
	}
	c.at, c.asides, s.asides = at, s.asides, nil
	for _, a := range c.asides {
		if a.to > s.at {
			s.asides = append(s.asides, a)
		}
	}
	s.keep <- c
}

// endKeep says that there is nothing more to keep.
func (s *stream) endKeep() {
	if s.keeping {
		s.keeping = false
		close(s.keep)
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
			s.passed(c)
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
	s.endKeep()
	s.wg.Wait()
	return "sha256:" + hex.EncodeToString(s.h.Sum(nil)), s.n, s.fail
}

// close ends the goroutines and waits for them, and with that for a Read of the
// archive that is under way.
func (s *stream) close() {
	close(s.stop)
	s.endKeep()
	s.wg.Wait()
	for _, a := range s.open {
		if !a.done.Load() {
			_ = a.w.Close() // it is not whole: something else has failed
		}
	}
}
