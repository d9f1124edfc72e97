package decompress_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/minirun/minirun/imagestore/decompress"
	"github.com/minirun/minirun/imagestore/imagetest"
)

func read(b []byte) (string, decompress.Format, error) {
	r, err := decompress.NewReader(bytes.NewReader(b))
	if err != nil {
		return "", 0, err
	}
	defer r.Close()
	out, err := io.ReadAll(r)
	return string(out), r.Format, err
}

func TestNewReader(t *testing.T) {
	gz := func(s string) []byte { return imagetest.Compress(t, decompress.Gzip, []byte(s)) }
	zs := func(s string) []byte { return imagetest.Compress(t, decompress.Zstd, []byte(s)) }
	skippable := []byte{0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c'}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	tests := []struct {
		name   string
		in     []byte
		want   string
		format decompress.Format
	}{
		{"empty", nil, "", decompress.None},
		{"one byte", []byte("x"), "x", decompress.None},
		{"plain", []byte("plain text"), "plain text", decompress.None},
		{"gzip", gz("a"), "a", decompress.Gzip},
		{"gzip members", join(gz("a"), gz(""), gz("b")), "ab", decompress.Gzip},
		{"zstd", zs("a"), "a", decompress.Zstd},
		{"zstd frames", join(zs("a"), zs("b")), "ab", decompress.Zstd},
		{"skippable frame first", join(skippable, zs("a")), "a", decompress.Zstd},
		{"skippable frame between and last", join(zs("a"), skippable, zs("b"), skippable), "ab", decompress.Zstd},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, format, err := read(tt.in)
			if err != nil || got != tt.want || format != tt.format {
				t.Errorf("got %q, %s, %v, want %q, %s", got, format, err, tt.want, tt.format)
			}
			r, err := decompress.NewReader(iotest.OneByteReader(bytes.NewReader(tt.in)))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if b, err := io.ReadAll(r); err != nil || string(b) != tt.want {
				t.Errorf("byte by byte: %q, %v", b, err)
			}
		})
	}
}

func TestNewReader_Errors(t *testing.T) {
	text := bytes.Repeat([]byte("some text that is long enough "), 1000)
	for _, f := range []decompress.Format{decompress.Gzip, decompress.Zstd} {
		b := imagetest.Compress(t, f, text)
		for n := 6; n < len(b); n += 7 {
			if _, _, err := read(b[:n]); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%s cut after %d of %d bytes: %v, want unexpected EOF", f, n, len(b), err)
			}
		}
		if got, _, err := read(append(bytes.Clone(b), "garbage that is no member"...)); err == nil {
			t.Errorf("%s with garbage behind: no error, %d bytes", f, len(got))
		}
	}
	for name, b := range map[string][]byte{"bzip2": []byte("BZh91AY"), "xz": {0xfd, '7', 'z', 'X', 'Z', 0, 0}} {
		if _, _, err := read(b); !errors.Is(err, errors.ErrUnsupported) || err.Error() != "it is compressed with "+name+"; gzip and zstd are supported" {
			t.Errorf("%s: %v, want ErrUnsupported and what is supported", name, err)
		}
	}
	// A frame that asks for a window of 4 GiB: refused, not allocated.
	huge := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 22 << 3, 0, 0, 0, 0, 0, 0, 0}
	if _, _, err := read(huge); err == nil {
		t.Error("a zstd window of 4 GiB was accepted")
	}
}
