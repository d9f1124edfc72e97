package imagestore

import (
	"context"
	"hash"
	"io"
)

// Verifier passes a stream through and fails at its end, or as soon as it is
// too long, unless size and digest are the descriptor's. A consumer that stops
// before io.EOF has verified nothing.
type Verifier struct {
	r    io.Reader
	what string
	d    Descriptor
	h    hash.Hash
	n    int64
}

// NewVerifier returns a Verifier of r; what names the object in errors.
func NewVerifier(r io.Reader, what string, d Descriptor) (*Verifier, error) {
	h, err := newHash(d.Digest.Algorithm())
	if err != nil {
		return nil, err
	}
	return &Verifier{r: r, what: what + " " + string(d.Digest), d: d, h: h}, nil
}

func (v *Verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.h.Write(p[:n])
	v.n += int64(n)
	if v.n > v.d.Size {
		return n, &SizeError{Object: v.what, Want: v.d.Size, Got: -1}
	}
	if err == io.EOF {
		if v.n != v.d.Size {
			return n, &SizeError{Object: v.what, Want: v.d.Size, Got: v.n}
		}
		if got := sumDigest(v.d.Digest.Algorithm(), v.h); got != v.d.Digest {
			return n, &DigestError{Object: v.what, Want: v.d.Digest, Got: got}
		}
	}
	return n, err
}

// ContextReader makes reads from r fail with the cause once ctx is done. It does
// not interrupt a read that waits.
func ContextReader(ctx context.Context, r io.Reader) io.Reader { return &contextReader{ctx, r} }

type contextReader struct {
	ctx context.Context // of one copy: it lives as long as the reader does
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	if err != nil && err != io.EOF && c.ctx.Err() != nil {
		err = context.Cause(c.ctx) // a deadline that the end of ctx set, say
	}
	return n, err
}
