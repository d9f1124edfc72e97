// Package decompress tells how a stream is compressed from its first bytes and
// undoes it in this process: no helper program is looked up or started, which
// in the past ran programs of the image (CVE-2019-14271, CVE-2026-41567).
//
// A compressed stream is read to its very end: all gzip members, all zstd
// frames, skippable ones included, because the digest of a layer covers them.
package decompress

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/minirun/minirun/imagestore/decompress/internal/gunzip"
)

// Format is a compression format.
type Format int

// None is any content whose beginning is of no known format.
const (
	None Format = iota
	Gzip
	Zstd
	Bzip2 // recognised so that it can be named; not supported
	Xz    // likewise
)

func (f Format) String() string {
	switch f {
	case None:
		return "none"
	case Gzip:
		return "gzip"
	case Zstd:
		return "zstd"
	case Bzip2:
		return "bzip2"
	case Xz:
		return "xz"
	}
	return fmt.Sprintf("Format(%d)", int(f))
}

// maxWindow is the memory that a zstd frame may ask for, in bytes.
const maxWindow = 128 << 20

// magicLen is how many bytes Sniff looks at.
const magicLen = 6

// Sniff returns the format of a stream that begins with b.
func Sniff(b []byte) Format {
	switch {
	case bytes.HasPrefix(b, []byte{0x1f, 0x8b}):
		return Gzip
	case bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return Zstd
	case len(b) >= 4 && binary.LittleEndian.Uint32(b)&^0xf == 0x184d2a50: // a skippable frame in front
		return Zstd
	case bytes.HasPrefix(b, []byte("BZh")):
		return Bzip2
	case bytes.HasPrefix(b, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return Xz
	}
	return None
}

// Reader is the plain content of a stream.
type Reader struct {
	io.Reader
	Format Format
	close  func()
}

// Close frees the decoder. It does not close the stream underneath.
func (r *Reader) Close() error {
	if r.close != nil {
		r.close()
		r.close = nil
	}
	return nil
}

// NewReader returns the plain content of r. A format that is recognised and not
// supported is an error that is errors.ErrUnsupported.
func NewReader(r io.Reader) (*Reader, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(magicLen)
	if err != nil && err != io.EOF {
		return nil, err
	}
	format := Sniff(head)
	switch format {
	case Gzip:
		z, err := gunzip.NewReader(br)
		if err != nil {
			return nil, decodeError(format, err)
		}
		return &Reader{Reader: &errReader{z, format}, Format: format}, nil
	case Zstd:
		// One goroutine per decoder: callers run several side by side.
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, decodeError(format, err)
		}
		return &Reader{Reader: &errReader{z, format}, Format: format, close: z.Close}, nil
	case None:
		return &Reader{Reader: br, Format: format}, nil
	}
	return nil, &FormatError{format}
}

// FormatError reports a format that is recognised and not supported. It is
// errors.ErrUnsupported.
type FormatError struct{ Format Format }

func (e *FormatError) Error() string {
	return fmt.Sprintf("it is compressed with %s; gzip and zstd are supported", e.Format)
}

// Is makes it errors.ErrUnsupported.
func (e *FormatError) Is(target error) bool { return target == errors.ErrUnsupported }

// errReader names the format in errors. An end in the middle of the stream is
// io.ErrUnexpectedEOF, whatever the decoder says.
type errReader struct {
	r      io.Reader
	format Format
}

func (e *errReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil && err != io.EOF {
		err = decodeError(e.format, err)
	}
	return n, err
}

func decodeError(f Format, err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%s: %w", f, err)
}
