package apply

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minirun/minirun/overlay"
)

// blobFile is an archive as a file beside a store, open.
func blobFile(t *testing.T, s *overlay.Store, b []byte) *os.File {
	t.Helper()
	f, err := os.CreateTemp(filepath.Dir(s.Root()), "blob")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	return f
}

func indexPlain(s *overlay.Store, f *os.File, b []byte, diffID string) (overlay.ChainID, error) {
	o := testOptions()
	o.Kind, o.Plain = Index, f
	c, _, err := Layer(context.Background(), s, "", diffID, bytes.NewReader(b), o)
	return c, err
}

func archivePath(s *overlay.Store, c overlay.ChainID) string {
	return filepath.Join(s.Root(), overlay.Indexed.Dir(c), overlay.ArchiveFile)
}

// An archive that is a file already gets a second name, and files at its very end
// are read from it whole: without a trailer, the last block is the last of the file.
func TestLayer_PlainIsLinked(t *testing.T) {
	s := openStore(t)
	for n := range 9 { // of all lengths that a page can have at the end
		last := strings.Repeat("z", 65<<10+512*n+100) // nothing so large is embedded
		b := archive(t, file("a", "first"), file("b", last))
		b = b[:len(b)-1024]
		f := blobFile(t, s, b)
		c, err := indexPlain(s, f, b, digest(b))
		if err != nil {
			t.Fatal(err)
		}
		if inodeOf(t, f.Name()) != inodeOf(t, archivePath(s, c)) {
			t.Errorf("%d bytes were copied", len(b))
		}
		for name, want := range map[string]string{"a": "first", "b": last} {
			if got, err := os.ReadFile(filepath.Join(indexView(t, s, c), name)); err != nil || string(got) != want {
				t.Errorf("%d bytes: %s has %d bytes, %v, want %d", len(b), name, len(got), err, len(want))
			}
		}
	}
}

// What cannot be linked is copied, and then it is padded; the file itself stays as
// it is.
func TestLayer_PlainIsCopied(t *testing.T) {
	b := archive(t, file("a", "first"), file("b", strings.Repeat("z", 5000)))
	for _, tt := range []struct {
		name string
		body []byte
		file func(t *testing.T, s *overlay.Store, b []byte) *os.File
	}{
		{"half a block at its end", append(bytes.Clone(b), make([]byte, 100)...), blobFile},
		{"no name", b, func(t *testing.T, s *overlay.Store, b []byte) *os.File {
			f := blobFile(t, s, b)
			if err := os.Remove(f.Name()); err != nil {
				t.Fatal(err)
			}
			return f
		}},
		{"a pipe", b, func(t *testing.T, _ *overlay.Store, _ []byte) *os.File {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { r.Close(); w.Close() })
			return r
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := openStore(t)
			f := tt.file(t, s, tt.body)
			c, err := indexPlain(s, f, tt.body, digest(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(archivePath(s, c))
			if err != nil || len(got)%4096 != 0 || !bytes.HasPrefix(got, tt.body) {
				t.Errorf("the archive has %d bytes, %v", len(got), err)
			}
		})
	}
}

// A layer that comes to nothing takes its name away and leaves the file as it was.
func TestLayer_PlainFails(t *testing.T) {
	b := archive(t, file("a", strings.Repeat("z", 5000)))
	longer := append(bytes.Clone(b), make([]byte, 512)...)
	for _, tt := range []struct {
		name, diffID string
		file         []byte
		want         error
	}{
		{"another digest", digest([]byte("another")), b, ErrInvalid},
		{"a longer file", digest(b), longer, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := openStore(t)
			f := blobFile(t, s, tt.file)
			if _, err := indexPlain(s, f, b, tt.diffID); err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %v", err)
			}
			wantEmpty(t, s, 0)
			if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, tt.file) {
				t.Errorf("the file has %d bytes, %v, want %d", len(got), err, len(tt.file))
			}
		})
	}
}
