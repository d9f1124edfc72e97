package apply

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/minirun/minirun/overlay"
)

// fuzzStore makes <tmp>/store and <tmp>/canary, and returns a check that
// everything but the store is as it was.
func fuzzStore(t *testing.T) (*overlay.Store, func()) {
	top := t.TempDir()
	if err := os.Mkdir(top+"/canary", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(top+"/canary/file", []byte("alive"), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := overlay.OpenStore(filepath.Join(top, "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	before := append(list(t, top+"/canary"), ctimes(t, top+"/canary")...)
	return s, func() {
		t.Helper()
		if after := append(list(t, top+"/canary"), ctimes(t, top+"/canary")...); !slices.Equal(before, after) {
			t.Errorf("canary: %q, was %q", after, before)
		}
		if names, err := os.ReadDir(top); err != nil || len(names) != 2 {
			t.Errorf("beside the store: %v, %v", names, err)
		}
		if names, err := os.ReadDir(s.Root()); err != nil || len(names) != 3 {
			t.Errorf("in the store: %v, %v", names, err)
		}
		if names, err := os.ReadDir(s.Root() + "/staging"); err != nil || len(names) != 0 {
			t.Errorf("in staging: %v, %v", names, err)
		}
	}
}

// out leads from a layer being unpacked, or unpacked, to the canary.
const out = "../../../../canary"

var fuzzOptions = Options{MaxBytes: 1 << 20, MaxEntries: 200, MaxMemory: 1 << 20, unprivileged: true}

// fixSums gives every block that looks like a header a right checksum, so that
// the fuzzer gets past it.
func fixSums(b []byte) {
	for ; len(b) >= 512; b = b[512:] {
		if !bytes.Equal(b[257:262], []byte("ustar")) {
			continue
		}
		sum := 8 * int(' ')
		for i, c := range b[:512] {
			if i < 148 || i >= 156 {
				sum += int(c)
			}
		}
		copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	}
}

// FuzzApplyLayer feeds archives: nothing outside of the store changes, a refused
// layer leaves nothing, an accepted one can be removed.
func FuzzApplyLayer(f *testing.F) {
	f.Add(archive(f, dir("a"), file("a/f", "x"), symlink("l", out), file("l/new", "x"), hardlink("h", "l"), whiteoutOf("w")))
	f.Add(archive(f, symlink("l", "/"), file("l/../"+out+"/x", "x")))
	f.Add(raw(rawPAX('x', "path", out+"/new", "size", "3"), rawEntry("f", '0', "x")))
	f.Add(raw(rawEntry("../../../../canary/file", '0', "x")))
	f.Add(raw(rawHeader("l", '1', 0, out+"/file"), rawEntry("l", '0', "x")))
	f.Add(raw(rawEntry("././@LongLink", 'L', out+"/new"), rawEntry("f", '0', "x")))
	f.Add(raw(sparse("f", 9000)))
	f.Add(raw(rawPAX('x', "SCHILY.xattr.user.a", "b", "LIBARCHIVE.xattr.user.c", "eA"), rawEntry("d", '5', "")))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = bytes.Clone(b)
		fixSums(b)
		s, check := fuzzStore(t)
		c, _, err := Layer(context.Background(), s, "", digest(b), bytes.NewReader(b), fuzzOptions)
		check()
		if err == nil {
			if err := s.RemoveLayer(c); err != nil {
				t.Error(err)
			}
		} else if names, _ := os.ReadDir(s.Root() + "/layers"); len(names) > 0 {
			t.Errorf("%v, and yet layers %v", err, names)
		}
	})
}

// wordPath takes a path from the front of in: each byte is one of 16 words, and whether
// another one follows.
func wordPath(in *[]byte, words []string) (path string) {
	for len(*in) > 0 {
		w := (*in)[0]
		*in = (*in)[1:]
		path += words[w&15]
		if w&16 == 0 {
			break
		}
		path += "/"
	}
	return path
}

// FuzzApplyEntries builds two layers from words that matter: two bytes of input
// choose a component, or end the name.
func FuzzApplyEntries(f *testing.F) {
	words := []string{"a", "b", "c", "..", ".", "", ".wh.a", ".wh.b", whOpaque, ".wh.", ".wh...", "canary", "file", out, ".wh..wh.plnk", "/"}
	types := []byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo, tar.TypeReg, tar.TypeDir, tar.TypeSymlink}
	f.Add([]byte("\x02\x00\x0d\x00\x00\x10\x00"), []byte("\x00\x10\x00\x0c"))
	f.Add([]byte("\x01\x00\x11\x02\x00\x01"), []byte("\x03\x01\x00\x00\x06"))
	f.Fuzz(func(t *testing.T, one, two []byte) {
		s, check := fuzzStore(t)
		var c overlay.ChainID
		for _, in := range [][]byte{one, two} {
			var b []byte
			name := func() string { return wordPath(&in, words) }
			for len(in) > 0 && len(b) < 40*1536 {
				ty := types[in[0]&7]
				in = in[1:]
				pax := []string{"path", name()}
				if ty == tar.TypeSymlink || ty == tar.TypeLink {
					pax = append(pax, "linkpath", name())
				}
				b = append(b, rawPAX('x', pax...)...)
				b = append(b, rawHeader("f", ty, 0, "")...)
			}
			b = raw(b)
			id, _, err := Layer(context.Background(), s, c, digest(b), bytes.NewReader(b), fuzzOptions)
			check()
			if err != nil {
				return
			}
			c = id
		}
	})
}
