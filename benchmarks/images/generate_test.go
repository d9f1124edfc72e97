package main

import (
	"archive/tar"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
)

// The image is the same each time, and one that every tool can unpack: no name is there twice
// in a layer, links lead to files of the layer, whiteouts hide something.
func TestGenerate(t *testing.T) {
	s := scale{[]int{450, 420, 410}, smallSize(100), root}
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

// The sizes that are drawn are those of the table.
func TestInstalledSize(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	sizes := make([]int, 200_000)
	total := 0
	for i := range sizes {
		sizes[i] = installedSize(r)
		total += sizes[i]
	}
	slices.Sort(sizes)
	for _, q := range installedSizes[3:23] { // the last ones are few
		got, want := float64(sizes[int(q.below*float64(len(sizes)))]), q.size
		if got < want*0.9-2 || got > want*1.1+2 {
			t.Errorf("%v of the files are below %v, want %v", q.below, got, want)
		}
	}
	if sizes[0] < 0 || sizes[len(sizes)-1] > 33342568 {
		t.Errorf("from %d to %d", sizes[0], sizes[len(sizes)-1])
	}
	if average := total / len(sizes); average < 18_000 || average > 28_000 { // of what was measured 27,525, with a tail of 110 MB
		t.Errorf("the average is %d bytes", average)
	}
}
