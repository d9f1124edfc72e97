package apply

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sort"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/erofs"
)

// classOf is what has to be the same about the two answers to an archive.
func classOf(err error) string {
	switch {
	case err == nil:
		return "accepted"
	case errors.Is(err, ErrLimit):
		return "limit"
	case errors.Is(err, ErrInvalid):
		return "invalid"
	}
	return "error " + err.Error()
}

// listImage describes an indexed chain as list describes a directory.
func listImage(t testing.TB, s *overlay.Store, c overlay.ChainID) []string {
	root, content := readImage(t, s, c)
	var lines []string
	var walk func(in *erofs.Inode, path string)
	walk = func(in *erofs.Inode, path string) {
		line := fmt.Sprintf("%s %o %d:%d %d", path, in.Mode, in.UID, in.GID, in.Sec)
		switch in.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			line += " " + string(content(in))
		case unix.S_IFLNK:
			line += " -> " + in.Target
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" %d:%d", in.Major, in.Minor)
		}
		lines = append(lines, line)
		for _, e := range in.Entries {
			p := path + "/" + e.Name
			if path == "/" {
				p = path + e.Name
			}
			walk(e.Inode, p)
		}
	}
	walk(root, "/")
	sort.Strings(lines)
	return lines
}

// bothWays applies layers in both ways, each into a store of its own, and compares
// answers and results after each of them. Without root, what there is of owners
// and of layers below cannot be compared.
func bothWays(t *testing.T, limits Options, layers ...[]byte) {
	t.Helper()
	one, two := openStore(t), openStore(t)
	limits.unprivileged = os.Geteuid() != 0
	var c overlay.ChainID
	for i, b := range layers {
		run := func(s *overlay.Store, kind Kind) (overlay.ChainID, error) {
			o := limits
			if o.Kind = kind; len(layers[0])%1024 != 0 { // of half of all archives
				o.largeFrom = 1
			}
			id, _, err := Layer(context.Background(), s, c, digest(b), bytes.NewReader(b), o)
			return id, err
		}
		id, err := run(one, Extract)
		_, err2 := run(two, Index)
		if got, want := classOf(err2), classOf(err); got != want {
			t.Fatalf("layer %d: index says %s: %v\nextract %s: %v", i, got, err2, want, err)
		}
		wantEmpty(t, one, len(layers[:i])+btoi(err == nil))
		wantEmpty(t, two, len(layers[:i])+btoi(err == nil))
		if err != nil {
			return
		}
		c = id
		if limits.unprivileged {
			continue
		}
		want, got := view(t, one, c), listImage(t, two, c)
		if !slices.Equal(got, want) {
			t.Fatalf("layer %d: index\n%q\nextract\n%q", i, got, want)
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// wordLayer makes a layer from words that matter: the bytes of in choose types
// and components.
func wordLayer(in []byte) []byte {
	words := []string{"a", "b", "c", "..", ".", "", ".wh.a", ".wh.b", whOpaque, ".wh.", ".wh...", "d", "e", "/a", ".wh..wh.plnk", "/"}
	types := []byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo, tar.TypeReg, tar.TypeDir, tar.TypeLink}
	var b []byte
	name := func() string { return wordPath(&in, words) }
	for len(in) > 0 && len(b) < 40*2048 {
		ty := types[in[0]&7]
		in = in[1:]
		pax := []string{"path", name()}
		if ty == tar.TypeSymlink || ty == tar.TypeLink {
			pax = append(pax, "linkpath", name())
		}
		b = append(b, rawPAX('x', pax...)...)
		if ty == tar.TypeReg {
			b = append(b, rawEntry("f", ty, fmt.Sprint("body", len(b)))...)
		} else {
			b = append(b, rawHeader("f", ty, 0, "")...)
		}
	}
	return raw(b)
}

// FuzzBothWays: no chain of layers is taken by one way of unpacking and refused
// by the other, and what is taken looks the same.
func FuzzBothWays(f *testing.F) {
	f.Add([]byte("\x02\x00\x0d\x00\x00\x10\x00"), []byte("\x00\x10\x00\x0c"))
	f.Add([]byte("\x01\x00\x11\x02\x00\x01"), []byte("\x03\x01\x00\x00\x06"))
	f.Add([]byte("\x00\x00\x00\x01"), []byte("\x03\x02\x00\x00\x06\x00\x08"))
	r := rand.New(rand.NewPCG(9, 9))
	for range 60 {
		b := make([]byte, 2+r.IntN(60))
		for i := range b {
			b[i] = byte(r.IntN(32))
		}
		f.Add(b[:len(b)/2], b[len(b)/2:])
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		bothWays(t, Options{MaxBytes: 1 << 20, MaxEntries: 200}, wordLayer(a), wordLayer(b))
	})
}

// FuzzReader: whatever archive/tar makes of an archive, the index says the same
// about it, and the content of each file is where the index says it is.
func FuzzReader(f *testing.F) {
	f.Add(archive(f, dir("a"), file("a/f", "x"), symlink("l", "a"), hardlink("h", "a/f"), whiteoutOf("w")))
	f.Add(raw(rawPAX('x', "path", "new", "size", "3"), rawEntry("f", '0', "x")))
	f.Add(raw(rawEntry("././@LongLink", 'L', "long"), rawEntry("f", '0', "x")))
	f.Add(raw(sparse("f", 9000), rawEntry("g", '0', "behind")))
	f.Add(raw(sparseAt("f", 20000, "data in the middle", 8192), sparseAt("g", 100, "all data", 0)))
	f.Add(raw(rawPAX('x', "GNU.sparse.map", "0,4,100,4", "GNU.sparse.size", "200", "GNU.sparse.numblocks", "2"), rawEntry("f", '0', "12345678")))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = bytes.Clone(b)
		fixSums(b)
		s := openStore(t)
		o := Options{Kind: Index, MaxBytes: 1 << 20, MaxEntries: 200, unprivileged: os.Geteuid() != 0}
		c, _, err := Layer(context.Background(), s, "", digest(b), bytes.NewReader(b), o)
		if err != nil {
			if len(layersOf(t, s)) > 0 {
				t.Errorf("%v, and yet a layer", err)
			}
			return
		}
		// The content of every file that was not replaced, by its name.
		want := map[string][]byte{}
		for r := tar.NewReader(bytes.NewReader(b)); ; {
			hdr, err := r.Next()
			if err != nil {
				break
			}
			name, err := cleanName(hdr.Name)
			if err != nil {
				t.Fatalf("accepted the name %q", hdr.Name)
			}
			delete(want, name)
			switch hdr.Typeflag {
			case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
				var body bytes.Buffer
				if _, err := body.ReadFrom(r); err != nil {
					t.Fatalf("accepted %q, which cannot be read: %v", name, err)
				}
				want[name] = body.Bytes()
			}
		}
		root, content := readImage(t, s, c)
		var walk func(in *erofs.Inode, path string)
		walk = func(in *erofs.Inode, path string) {
			for _, e := range in.Entries {
				p := join(path, e.Name)
				if e.Inode.Mode&unix.S_IFMT == unix.S_IFREG {
					// Links and names below links have other names in the archive.
					if w, ok := want[p]; ok && !bytes.Equal(content(e.Inode), w) {
						t.Errorf("%q: %q, archive/tar has %q", p, content(e.Inode), w)
					}
				}
				walk(e.Inode, p)
			}
		}
		walk(root, "")
	})
}

func layersOf(t testing.TB, s *overlay.Store) []overlay.LayerInfo {
	list, err := s.Layers()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// FuzzEntries feeds indexes: they are ours, but a disk may have damaged them.
func FuzzEntries(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x80\x10\x00\x01\xed\x83\x01\x00\x00\x00\x00\x00\x01\x01w\x01\x01ff\xa4\x83\x02\x00\x00\x00\x00\x00\x04\x00\x80\x04"))
	f.Fuzz(func(t *testing.T, body []byte) {
		b := append([]byte(entriesMagic), body...)
		sum := []byte(digest(b)[len("sha256:"):])
		for i := 0; i < len(sum); i += 2 {
			var v byte
			fmt.Sscanf(string(sum[i:i+2]), "%02x", &v)
			b = append(b, v)
		}
		base := &Base{root: newDir(nil, "")}
		base.root.dir.names["below"] = &inode{Inode: erofs.Inode{Mode: unix.S_IFREG}}
		e, err := parseEntries(b, base, &budget{1 << 20})
		if err != nil {
			return
		}
		base.add("sha256:", e.root, sizes{1 << 40, 1 << 40, e.large}, nil)
		used := make([]int64, 2)
		base.prepare(base.root, used)
		_, _ = erofs.Write(&bytes.Buffer{}, &base.root.Inode, []erofs.Device{{Size: 1 << 40}, {Size: 1 << 40}})
	})
}
