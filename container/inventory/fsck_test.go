package inventory_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/minirun/minirun/container/inventory"
	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/imagetest"
	"github.com/minirun/minirun/overlay"
)

// fsck returns the findings as lines and how many are damage that is left.
func fsck(t *testing.T, s inventory.Stores, repair bool) (lines []string, damage int) {
	t.Helper()
	found, err := inventory.Fsck(context.Background(), s, imagestore.FsckOptions{Repair: repair})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		lines = append(lines, fmt.Sprintf("%s: %s: %s", f.Object, f.Problem, f.Repaired))
		if !f.Residue && f.Repaired == "" {
			damage++
		}
	}
	return lines, damage
}

// Every kind of damage is found, a repair takes the broken bytes and nothing
// else, and a load makes the store whole again.
func TestRootFsck(t *testing.T) {
	for _, tt := range []struct {
		name string
		// damage returns the paths that a repair may change or remove.
		damage func(t *testing.T, root string, b *imagetest.Built) []string
		want   []string // in the findings
		left   bool     // damage is left until the image is loaded again
		fatal  bool     // the names are lost
	}{
		{"nothing", func(*testing.T, string, *imagetest.Built) []string { return nil }, nil, false, false},
		{"layer flipped", func(t *testing.T, root string, b *imagetest.Built) []string {
			return []string{rewrite(t, root, "blobs/sha256/"+b.Layers[1].Digest.Hex(), func(c []byte) []byte { c[len(c)/2] ^= 1; return c })}
		}, []string{"its content is another: removed", `image "a:latest": layer`}, true, false},
		{"layer empty, as after a power failure", func(t *testing.T, root string, b *imagetest.Built) []string {
			return []string{rewrite(t, root, "blobs/sha256/"+b.Layers[1].Digest.Hex(), func([]byte) []byte { return nil })}
		}, []string{"its content is another: removed", `image "a:latest": layer`}, true, false},
		{"layer gone", func(t *testing.T, root string, b *imagetest.Built) []string {
			path := "blobs/sha256/" + b.Layers[1].Digest.Hex()
			return []string{rewrite(t, root, path, nil)}
		}, []string{`image "a:latest": layer`}, true, false},
		{"manifest flipped", func(t *testing.T, root string, b *imagetest.Built) []string {
			return []string{rewrite(t, root, "blobs/sha256/"+b.Manifest.Digest.Hex(), func(c []byte) []byte { c[5] ^= 1; return c })}
		}, []string{"its content is another: removed", `image "a:latest": manifest`}, true, false},
		{"config gone", func(t *testing.T, root string, b *imagetest.Built) []string {
			return []string{rewrite(t, root, "blobs/sha256/"+b.Config.Digest.Hex(), nil)}
		}, []string{`image "a:latest": config`}, true, false},
		{"size in index.json", func(t *testing.T, root string, b *imagetest.Built) []string {
			old := fmt.Sprintf(`"digest":"%s","size":%d`, b.Manifest.Digest, b.Manifest.Size)
			return []string{rewrite(t, root, "index.json", func(c []byte) []byte {
				return bytes.Replace(c, []byte(old), []byte(old+"0"), 1)
			})}
		}, []string{`image "a:latest": manifest`}, true, false},
		{"index.json cut", func(t *testing.T, root string, b *imagetest.Built) []string {
			return []string{rewrite(t, root, "index.json", func(c []byte) []byte { return c[:len(c)/2] }), "index.json.damaged"}
		}, []string{"index.json: ", "written again with 2 images, without their names"}, false, true},
		{"index.json gone", func(t *testing.T, root string, b *imagetest.Built) []string {
			return []string{rewrite(t, root, "index.json", nil)}
		}, []string{"index.json: it is missing", "written again with 2 images"}, false, true},
		{"one entry of index.json", func(t *testing.T, root string, b *imagetest.Built) []string {
			return []string{rewrite(t, root, "index.json", func(c []byte) []byte {
				return bytes.Replace(c, []byte(b.Manifest.Digest), []byte("sha256:../../x"), 1)
			}), "index.json.damaged"}
		}, []string{"index.json: ", "written again with 1 images, without 1 entries"}, false, true},
		{"oci-layout", func(t *testing.T, root string, b *imagetest.Built) []string {
			return []string{rewrite(t, root, "oci-layout", func([]byte) []byte { return []byte("{") })}
		}, []string{"oci-layout: it is not JSON: written again"}, false, false},
		{"layer without files", func(t *testing.T, root string, b *imagetest.Built) []string {
			path := place(root, top(b))
			files := "/fs"
			if strings.HasSuffix(path, ".index") {
				files = "/tar"
			}
			if err := os.RemoveAll(filepath.Join(root, path+files)); err != nil {
				t.Fatal(err)
			}
			return []string{path}
		}, []string{"its files are missing: removed"}, false, false},
		{"layer without parents", func(t *testing.T, root string, b *imagetest.Built) []string {
			return []string{filepath.Dir(rewrite(t, root, place(root, top(b))+"/parents", nil))}
		}, []string{"it does not say what it stands on: removed"}, false, false},
		{"parents are nonsense", func(t *testing.T, root string, b *imagetest.Built) []string {
			return []string{filepath.Dir(rewrite(t, root, place(root, top(b))+"/parents", func([]byte) []byte { return []byte("x") }))}
		}, []string{"not a list of chain IDs: removed"}, false, false},
		{"archive of a layer flipped", func(t *testing.T, root string, b *imagetest.Built) []string {
			below, above := place(root, b.DiffIDs[0].Hex()), place(root, top(b))
			if !strings.HasSuffix(below, ".index") {
				t.Skip("layers are extracted here")
			}
			path := filepath.Join(root, below, "tar") // which may be a name of the blob
			c, err := os.ReadFile(path)
			if err == nil {
				c[515] ^= 1
				err = errors.Join(os.Remove(path), os.WriteFile(path, c, 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
			return []string{below, above}
		}, []string{"tar: its content is another: removed", "below it is missing: removed"}, false, false},
		{"image of a chain flipped", func(t *testing.T, root string, b *imagetest.Built) []string {
			path := place(root, top(b))
			if !strings.HasSuffix(path, ".index") {
				t.Skip("layers are extracted here")
			}
			rewrite(t, root, path+"/image", func(c []byte) []byte { c[len(c)-1] ^= 1; return c })
			return []string{path}
		}, []string{"image: it is not what the archives make of it: removed"}, false, false},
		{"layer below gone", func(t *testing.T, root string, b *imagetest.Built) []string {
			if err := os.RemoveAll(filepath.Join(root, place(root, b.DiffIDs[0].Hex()))); err != nil {
				t.Fatal(err)
			}
			return []string{place(root, top(b))}
		}, []string{"below it is missing: removed"}, false, false},
		{"orphans and interrupted work", func(t *testing.T, root string, b *imagetest.Built) []string {
			stray := imagestore.FromBytes([]byte("stray")).Hex()
			for path, content := range map[string]string{"blobs/sha256/" + stray: "stray", "ingest/1/part-2": "half", "overlay/staging/trash-1/f": "x"} {
				path = filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			return []string{"blobs/sha256/" + stray, "ingest/1", "overlay/staging/trash-1"}
		}, []string{"nothing needs it: removed", "ingest/1: left by a process that is gone: removed", "overlay/staging/trash-1: left by a process that is gone: removed"}, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, built := newStores(t)
			root := s.Images.Root()
			b := built["a"]
			unpacked(t, s, "a")
			before := imagetest.Dump(t, root)
			changed := tt.damage(t, root, b)
			damaged := imagetest.Dump(t, root)
			lines, damage := fsck(t, s, false)
			if (damage == 0) != (len(tt.want) == 0 || strings.Contains(tt.name, "orphans")) {
				t.Errorf("%d damaged: %q", damage, lines)
			}
			if imagetest.Dump(t, root) != damaged {
				t.Error("looking has changed something")
			}
			s.Images, _ = imagestore.OpenDamaged(root)
			lines, damage = fsck(t, s, true)
			text := strings.Join(lines, "\n")
			for _, w := range tt.want {
				if !strings.Contains(text, w) {
					t.Errorf("no %q in\n%s", w, text)
				}
			}
			if (damage > 0) != tt.left {
				t.Errorf("%d are damaged after the repair:\n%s", damage, text)
			}
			// What was good is there and as it was, wherever it is.
			for line := range strings.Lines(before) {
				name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
				own := slices.ContainsFunc(changed, func(c string) bool { return name == c || strings.HasPrefix(name, c+"/") })
				if !own && strings.Contains(damaged, line) && !strings.Contains(imagetest.Dump(t, root), line) {
					t.Errorf("the repair has taken %s", line)
				}
			}
			// Whole again.
			for _, b := range built {
				load(t, s.Images, b)
			}
			unpacked(t, s, "a")
			if lines, damage := fsck(t, s, true); damage > 0 {
				t.Errorf("after a load: %q", lines)
			}
			if lines, _ := fsck(t, s, false); len(lines) > 0 && !tt.fatal {
				t.Errorf("at the end: %q", lines)
			}
			for _, name := range []string{"a", "b"} {
				if err := s.Images.Verify(context.Background(), name); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// top is the name of the directory of an image's highest layer.
func top(b *imagetest.Built) string {
	return imagestore.FromBytes([]byte(string(b.DiffIDs[0]) + " " + string(b.DiffIDs[1]))).Hex()
}

// place is where a layer lies: extracted, or as an archive with an index.
func place(root, hex string) string {
	path := "overlay/layers/" + hex
	if _, err := os.Lstat(filepath.Join(root, path)); err != nil {
		path += ".index"
	}
	return path
}

// rewrite changes a file of a store, or removes it without a function.
func rewrite(t *testing.T, root, name string, f func([]byte) []byte) string {
	t.Helper()
	path := filepath.Join(root, name)
	b, err := os.ReadFile(path)
	if err == nil && f == nil {
		err = os.Remove(path)
	} else if err == nil {
		err = os.WriteFile(path, f(b), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// A layer under a container stays, broken as it is.
func TestRootFsck_Container(t *testing.T) {
	s, built := newStores(t)
	chain := unpacked(t, s, "a")
	if _, err := s.Layers.Prepare("web.0123456789ab", chain); err != nil {
		t.Fatal(err)
	}
	rewrite(t, s.Images.Root(), place(s.Images.Root(), top(built["a"]))+"/parents", nil)
	lines, damage := fsck(t, s, true)
	if damage == 0 || !s.Layers.HasLayer(chain) {
		t.Errorf("%d damaged, layer there %v: %q", damage, s.Layers.HasLayer(chain), lines)
	}
}

// The blob of a layer that is not compressed is the archive of the indexed layer
// too: when it is damaged, what stands on it goes with it, unless a container does.
func TestRootFsck_LinkedArchive(t *testing.T) {
	for _, used := range []bool{false, true} {
		s, built := newStores(t)
		root, b := s.Images.Root(), built["a"]
		chain, base := unpacked(t, s, "a"), overlay.ChainID(b.DiffIDs[0])
		if !s.Layers.Has(overlay.Indexed, base) {
			t.Skip("this kernel does not mount indexed layers: archives are not kept")
		}
		if used {
			if _, err := s.Layers.Prepare("web.0123456789ab", chain); err != nil {
				t.Fatal(err)
			}
		}
		rewrite(t, root, "blobs/sha256/"+b.Layers[0].Digest.Hex(), func(c []byte) []byte { c[len(c)/2] ^= 1; return c })
		want := fmt.Sprintf("layer %s: its archive is the damaged blob %s: ", base, b.Layers[0].Digest)
		if lines, _ := fsck(t, s, false); !slices.Contains(lines, want) {
			t.Errorf("no %q in %q", want, lines)
		}
		if !used {
			want += "removed, with what stood on it"
		}
		if lines, _ := fsck(t, s, true); !slices.Contains(lines, want) {
			t.Errorf("no %q in %q", want, lines)
		}
		if s.Layers.HasLayer(base) != used || s.Layers.HasLayer(chain) != used {
			t.Errorf("used %v: layers there %v, %v", used, s.Layers.HasLayer(base), s.Layers.HasLayer(chain))
		}
		if used {
			continue
		}
		load(t, s.Images, b)
		unpacked(t, s, "a")
		if lines, damage := fsck(t, s, false); damage > 0 {
			t.Errorf("after a load: %q", lines)
		}
	}
}

// Each index.json that was damaged stays under a name of its own, also when a repair
// is done again that was killed.
func TestFsck_DamagedAgain(t *testing.T) {
	s, _ := newStores(t)
	index := filepath.Join(s.Images.Root(), "index.json")
	for n, name := range []string{"index.json.damaged", "index.json.damaged.2", "index.json.damaged.3"} {
		content := fmt.Sprintf("damaged %d", n)
		if err := os.WriteFile(index, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if n == 1 { // by one that did not come to its end
			if err := os.Link(index, filepath.Join(s.Images.Root(), name)); err != nil {
				t.Fatal(err)
			}
		}
		lines, damage := fsck(t, s, true)
		if text := strings.Join(lines, "\n"); damage > 0 || !strings.HasSuffix(text, "; the old one is "+name) {
			t.Errorf("%d damaged: %s", damage, text)
		}
		if b, err := os.ReadFile(filepath.Join(s.Images.Root(), name)); string(b) != content {
			t.Errorf("%s is %q, %v, want %q", name, b, err, content)
		}
	}
	if err := os.Remove(index); err != nil {
		t.Fatal(err)
	}
	if lines, _ := fsck(t, s, true); strings.Contains(strings.Join(lines, "\n"), "the old one") {
		t.Errorf("one that was missing: %q", lines)
	}
}
