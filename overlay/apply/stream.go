package apply

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
)

// stream is the archive as it is read: hashed, counted and bounded, and at its
// end as soon as the context is.
type stream struct {
	ctx context.Context
	r   io.Reader
	h   hash.Hash
	n   int64
	max int64
	err error // the first of r or ctx, io.EOF apart
}

func newStream(ctx context.Context, r io.Reader, max int64) *stream {
	return &stream{ctx: ctx, r: r, h: sha256.New(), max: max}
}

func (s *stream) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := 0, s.ctx.Err()
	if err == nil {
		n, err = s.r.Read(p)
	}
	s.h.Write(p[:n])
	if s.n += int64(n); s.n > s.max {
		err = limit("archive of more than %d bytes (MaxBytes)", s.max)
	}
	if err != io.EOF {
		s.err = err
	}
	return n, err
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

func (s *stream) digest() string { return "sha256:" + hex.EncodeToString(s.h.Sum(nil)) }
