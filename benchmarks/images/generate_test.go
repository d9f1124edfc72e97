package main

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
)

// The image is the same each time, and one that every tool can unpack: no name is there twice
// in a layer, links lead to files of the layer, whiteouts hide something.
func TestGenerate(t *testing.T) {
	s := scale{files: []int{450, 420, 410}, average: 100}
	a, err := generate(t.TempDir(), s)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	b, err := generate(dir, s)
	if err != nil {
		t.Fatal(err)
	}
	if a.Manifest != b.Manifest || len(a.Layers) != 3 {
		t.Errorf("%+v and then %+v", a, b)
	}
	below := map[string]bool{}
	whiteouts := 0
	for _, l := range b.Layers {
		f, err := os.Open(filepath.Join(dir, l.Digest))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		own := map[string]bool{}
		for r := tar.NewReader(z); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if own[h.Name] {
				t.Errorf("%s is there twice", h.Name)
			}
			own[h.Name] = true
			if h.Typeflag == tar.TypeLink && !own[h.Linkname] {
				t.Errorf("%s links to %s, which is not there", h.Name, h.Linkname)
			}
			if dir, base, ok := strings.Cut(h.Name, ".wh."); ok {
				whiteouts++
				if !below[dir+base] {
					t.Errorf("%s hides nothing", h.Name)
				}
			}
		}
		for name := range own {
			below[name] = true
		}
	}
	if whiteouts != 20 {
		t.Errorf("%d whiteouts, want 20", whiteouts)
	}
}
