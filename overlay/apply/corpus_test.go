package apply

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/overlay"
)

// A layer that stands on another parent is another layer, whatever its diff ID:
// what it hides and links to is different (CVE-2024-24557).
func testOtherParent(t *testing.T) {
	s := openStore(t)
	top := archive(t, hardlink("copy", "f"), whiteoutOf("secret"))
	var got []string
	for _, body := range []string{"one", "two"} {
		base := mustApply(t, s, "", file("f", body), file("secret", body))
		c, res, err := apply(s, base, top)
		if err != nil || res.Existed {
			t.Fatalf("%v, existed: %v", err, res.Existed)
		}
		lines := strings.Join(view(t, s, c), "\n")
		if !strings.Contains(lines, "/copy 100644 0:0 1000000000 "+body) || strings.Contains(lines, "secret") {
			t.Errorf("on %q:\n%s", body, lines)
		}
		got = append(got, string(c))
	}
	if got[0] == got[1] {
		t.Error("both have one chain ID")
	}
	if _, _, err := apply(s, "", top); !errors.Is(err, ErrInvalid) {
		t.Errorf("on nothing: %v, want ErrInvalid for the hard link", err)
	}
}

// chainOfThree is a chain in which everything is: sparse files, links to lower
// layers, files of a device of their own and files that are copied.
func chainOfThree(t *testing.T, s *overlay.Store) []overlay.ChainID {
	t.Helper()
	a := mustApply(t, s, "", file("small", "small"), file("big", strings.Repeat("big ", 50_000)), dir("d").pax("SCHILY.xattr.user.a", "x"))
	b, _, err := apply(s, a, raw(sparseAt("hole", 8<<20, "in the middle", 4<<20)))
	if err != nil {
		t.Fatal(err)
	}
	return []overlay.ChainID{a, b, mustApply(t, s, b, hardlink("linked", "big"), whiteoutOf("small"), file("top", "top"))}
}

// verifyAll is the first damage in a chain.
func verifyAll(t *testing.T, s *overlay.Store, chain []overlay.ChainID) *DamageError {
	t.Helper()
	base := &Base{}
	for _, c := range chain {
		err := Verify(t.Context(), s, c, base)
		var d *DamageError
		if errors.As(err, &d) {
			return d
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return nil
}

// The kernel mounts no file system but ours (the rows of TestMalicious that have
// this number); ours cannot be written to, and what has changed in it is found.
func testDamagedImage(t *testing.T) {
	s := openStore(t)
	chain := chainOfThree(t, s)
	if kindUnderTest == Extract {
		// There is none.
		for _, c := range chain {
			if s.HasImage(c) || s.Has(overlay.Indexed, c) {
				t.Errorf("%s has an image", c)
			}
		}
		return
	}
	path := filepath.Join(s.Root(), overlay.Indexed.Dir(chain[2]), "image")
	st, err := os.Stat(path)
	if err != nil || st.Mode() != 0o400 {
		t.Fatalf("%v, %v, want a file that nobody writes to", st.Mode(), err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := verifyAll(t, s, chain); d != nil {
		t.Fatalf("undamaged: %v", d)
	}
	// A bit of the superblock: the kernel finds it.
	needIndex(t, s)
	set := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	bad := bytes.Clone(good)
	bad[1024+20] ^= 1
	set(bad)
	if fd, err := s.MountView(chain[2]); err == nil {
		unix.Close(fd)
		t.Error("a damaged superblock was mounted")
	}
	// A bit anywhere: verification finds it.
	for at := 0; at < len(good); at += len(good)/16 + 1 {
		bad := bytes.Clone(good)
		bad[at] ^= 0x10
		set(bad)
		if d := verifyAll(t, s, chain); d == nil || d.File != "image" || d.Layer != chain[2] {
			t.Fatalf("bit %d of byte %d: %v", 4, at, d)
		}
	}
	for _, b := range [][]byte{good[:len(good)-1], append(bytes.Clone(good), 0), nil} {
		set(b)
		if d := verifyAll(t, s, chain); d == nil || d.File != "image" {
			t.Errorf("%d bytes in place of %d: %v", len(b), len(good), d)
		}
	}
	set(good)
	if d := verifyAll(t, s, chain); d != nil {
		t.Error(d)
	}
}

// The archive that an index points into, or the index, is changed later.
func testDamagedLayer(t *testing.T) {
	s := openStore(t)
	chain := chainOfThree(t, s)
	if kindUnderTest == Extract {
		// Extracting keeps no archive; what has changed in a tree cannot be told,
		// so the directories are closed to everybody else (row 18).
		if names := glob(s.Root() + "/layers/*/tar"); len(names) > 0 {
			t.Errorf("archives are left: %q", names)
		}
		return
	}
	left := func() []string { return glob(s.Root() + "/staging/*") }
	for i, c := range chain {
		tar := overlay.ArchiveFile
		if s.HasLarge(c) {
			tar = overlay.RestFile
		}
		for _, name := range []string{tar, entriesName, overlay.SparseFile} {
			path := filepath.Join(s.Root(), overlay.Indexed.Dir(c), name)
			good, err := os.ReadFile(path)
			if errors.Is(err, os.ErrNotExist) && name == overlay.SparseFile && i != 1 {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, at := range []int{0, 156, len(good) / 2, len(good) - 1} {
				if name == tar && (at >= len(good)-512 || at > 0 && kindUnderTest == apart) {
					continue // padding after the archive, or a hole, which is nobody's
				}
				bad := bytes.Clone(good)
				bad[min(at, len(bad)-1)] ^= 1
				if err := os.WriteFile(path, bad, 0o600); err != nil {
					t.Fatal(err)
				}
				if d := verifyAll(t, s, chain); d == nil || !strings.HasPrefix(d.File, name) || d.Layer != c {
					t.Errorf("layer %d, byte %d of %s: %v", i, at, name, d)
				}
			}
			for _, b := range [][]byte{good[:len(good)/2], append(bytes.Clone(good), 0), nil} {
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
				if d := verifyAll(t, s, chain); d == nil || d.Layer != c {
					t.Errorf("layer %d, %d bytes of %s in place of %d: %v", i, len(b), name, len(good), d)
				}
			}
			if err := os.WriteFile(path, good, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if d := verifyAll(t, s, chain); d != nil {
		t.Errorf("undamaged: %v", d)
	}
	// An index that is well formed and lies about its archive.
	path := filepath.Join(s.Root(), overlay.Indexed.Dir(chain[0]))
	e, err := readEntries(s, chain[0], &Base{root: newDir(nil, "")}, &budget{1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	e.root.dir.names["small"].Mode |= unix.S_ISUID
	fd, err := linuxOpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := os.Remove(path + "/" + entriesName); err != nil {
		t.Fatal(err)
	}
	if err := writeEntries(fd, e); err != nil {
		t.Fatal(err)
	}
	if d := verifyAll(t, s, chain); d == nil || d.File != entriesName || d.Layer != chain[0] {
		t.Errorf("an index that lies: %v", d)
	}
	if names := left(); len(names) > 0 {
		t.Errorf("left: %q", names)
	}
}

func linuxOpenDir(path string) (int, error) {
	return unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}
