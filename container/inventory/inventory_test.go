package inventory_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/minirun/minirun/container/inventory"
	"github.com/minirun/minirun/container/unpack"
	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/archive"
	"github.com/minirun/minirun/imagestore/decompress"
	"github.com/minirun/minirun/imagestore/imagetest"
	"github.com/minirun/minirun/overlay"
	"golang.org/x/sys/unix"
)

// newStores has the images a and b, which share their lowest layer; a is unpacked.
func newStores(t *testing.T) (inventory.Stores, map[string]*imagetest.Built) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "store")
	images, err := imagestore.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	built := map[string]*imagetest.Built{}
	for _, name := range []string{"a", "b"} {
		b := imagetest.Build(t, imagetest.Image{Names: []string{name + ":latest"}, Layers: []imagetest.Layer{
			{Tar: imagetest.Files(t, "base", strings.Repeat("base", 5000)), Format: decompress.None},
			{Tar: imagetest.Files(t, name, strings.Repeat(name, 9000)), Format: decompress.Gzip},
		}})
		built[name] = b
		load(t, images, b)
	}
	layers, err := overlay.OpenStore(filepath.Join(root, "overlay"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(layers.Close)
	return inventory.Stores{Images: images, Layers: layers}, built
}

func load(t *testing.T, s *imagestore.Store, b *imagetest.Built) {
	t.Helper()
	body := imagetest.Archive(t, imagetest.Layout(t, b))
	if _, err := archive.Load(context.Background(), s, "-", archive.LoadOptions{Stdin: bytes.NewReader(body)}); err != nil {
		t.Fatal(err)
	}
}

func unpacked(t *testing.T, s inventory.Stores, name string) overlay.ChainID {
	t.Helper()
	res, err := unpack.Image(context.Background(), s.Images, s.Layers, name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res.Chain
}

// blocks is an independent du: every inode once.
func blocks(t *testing.T, root string) (n int64) {
	t.Helper()
	seen := map[string]bool{}
	err := filepath.Walk(root, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if id := fmt.Sprint(st.Dev, ":", st.Ino); !seen[id] {
			seen[id] = true
			n += st.Blocks * 512
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func plan(t *testing.T, s inventory.Stores) *inventory.Plan {
	t.Helper()
	p, err := inventory.NewPlan(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// lines shows a plan with short names: "stays blob layer of a: name a:latest".
func lines(p *inventory.Plan, names map[string]string) []string {
	var out []string
	for _, i := range p.Items {
		word := "goes"
		if i.Keep {
			word = "stays"
		}
		name, ok := names[i.Name]
		if !ok {
			name = "?"
		}
		out = append(out, fmt.Sprintf("%s %s %s: %s", word, i.Kind, name, strings.Join(i.Why, "; ")))
	}
	slices.Sort(out)
	return out
}

func TestPlan_Blobs(t *testing.T) {
	s, built := newStores(t)
	a, b := built["a"], built["b"]
	names := map[string]string{
		string(a.Layers[0].Digest): "base", string(a.Layers[1].Digest): "top of a", string(b.Layers[1].Digest): "top of b",
		string(a.Config.Digest): "config of a", string(b.Config.Digest): "config of b",
		string(a.Manifest.Digest): "manifest of a", string(b.Manifest.Digest): "manifest of b",
	}
	want := []string{
		"stays blob base: name a:latest; name b:latest",
		"stays blob config of a: name a:latest", "stays blob config of b: name b:latest",
		"stays blob manifest of a: name a:latest", "stays blob manifest of b: name b:latest",
		"stays blob top of a: name a:latest", "stays blob top of b: name b:latest",
	}
	if got := lines(plan(t, s), names); !slices.Equal(got, want) {
		t.Errorf("plan:\n%s", strings.Join(got, "\n"))
	}
	// Somebody saves a; its name is taken behind the store's back.
	_, g, err := s.Images.Hold(context.Background(), "image save", "a")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	index := filepath.Join(s.Images.Root(), "index.json")
	body, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(index, bytes.Replace(body, []byte(a.Manifest.Digest), []byte(b.Manifest.Digest), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	lease := fmt.Sprintf("lease of process %d (image save)", os.Getpid())
	p := plan(t, s)
	if p.Freed != 0 {
		t.Errorf("%d bytes would be freed while a lease keeps them", p.Freed)
	}
	text := strings.Join(lines(p, names), "\n")
	for _, w := range []string{
		"goes blob top of a: nothing in the store needs it; its bytes stay for the " + lease,
		"stays work ?: " + lease,
		"stays blob base: name a:latest; name b:latest", // both are b now
	} {
		if !strings.Contains(text, w) {
			t.Errorf("no %q in\n%s", w, text)
		}
	}
	before := blocks(t, s.Images.Root())
	done, err := inventory.Collect(context.Background(), s)
	if err != nil || done.Freed != 0 || done.Blobs != 3 {
		t.Errorf("collected %+v, %v", done, err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if after := blocks(t, s.Images.Root()); after >= before {
		t.Errorf("%d bytes before, %d after the lease", before, after)
	}
}

// What the plan says is what a collection does, to the byte, beside a container,
// a lease of unpacking, and what dead processes left.
func TestRootPlan_IsWhatHappens(t *testing.T) {
	s, built := newStores(t)
	root := s.Images.Root()
	top := map[string]overlay.ChainID{"a": unpacked(t, s, "a"), "b": unpacked(t, s, "b")}
	if _, err := s.Layers.Prepare("web.0123456789ab", top["a"]); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		if _, err := s.Images.Remove(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"ingest/dead/part-1", "overlay/staging/trash-dead/fs/f"} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, 10000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stray := imagestore.FromBytes([]byte("stray"))
	if err := os.WriteFile(filepath.Join(root, "blobs/sha256", stray.Hex()), []byte("stray"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := overlay.ChainID(built["a"].DiffIDs[0])
	p := plan(t, s)
	got := lines(p, map[string]string{
		string(top["a"]): "a", string(top["b"]): "b", string(base): "base", "web.0123456789ab": "web", string(stray): "stray",
		"unpacked/sha256-" + built["a"].Manifest.Digest.Hex(): "of a", "unpacked/sha256-" + built["b"].Manifest.Digest.Hex(): "of b", "ingest/dead": "dead", "overlay/staging/trash-dead": "trash",
	})
	want := []string{
		"goes blob stray: nothing needs it", "goes layer b: nothing needs it",
		"goes record of a: nothing needs it", "goes record of b: nothing needs it",
		"goes work dead: left by a process that is gone: lease of a process", "goes work trash: left by a process that is gone",
		"stays layer a: container web", "stays layer base: container web", "stays snapshot web: container web",
	}
	if !slices.Equal(got, want) {
		t.Errorf("plan:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	before := blocks(t, root)
	done, err := inventory.Collect(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	if freed := before - blocks(t, root); freed != p.Freed || done.Freed != p.Freed || p.Freed < 20000 {
		t.Errorf("%d bytes were freed, the plan says %d, the collection %d", freed, p.Freed, done.Freed)
	}
	if done.Blobs != 1 || done.Layers != 1 {
		t.Errorf("collected %+v", done)
	}
	for _, i := range plan(t, s).Items {
		if !i.Keep {
			t.Errorf("still to go: %+v", i)
		}
	}
}

// The bytes of an archive that is a blob too are there once, and become free when
// the last of the two names goes.
func TestRootPlan_LinkedArchive(t *testing.T) {
	s, built := newStores(t)
	root := s.Images.Root()
	chain := unpacked(t, s, "a")
	if !s.Layers.Has(overlay.Indexed, chain) {
		t.Skip("this kernel does not mount indexed layers: archives are not kept")
	}
	if _, err := s.Layers.Prepare("web.0123456789ab", chain); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name        string
		do          func() error
		least, most int64
	}{
		{"the container stays", func() error {
			return os.WriteFile(filepath.Join(root, "index.json"), []byte(`{"schemaVersion":2,"manifests":[]}`), 0o600)
		}, 1, 39999},
		{"and goes", func() error { return s.Layers.RemoveSnapshot("web.0123456789ab") }, 20000, 1 << 20},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		p := plan(t, s)
		before := blocks(t, root)
		done, err := inventory.Collect(context.Background(), s)
		if err != nil {
			t.Fatal(err)
		}
		freed := before - blocks(t, root)
		if freed != p.Freed || done.Freed != p.Freed || freed < step.least || freed > step.most {
			t.Errorf("%s: %d bytes were freed, the plan says %d, the collection %d", step.name, freed, p.Freed, done.Freed)
		}
	}
	if names, err := os.ReadDir(filepath.Join(root, "blobs/sha256")); err != nil || len(names) > 0 {
		t.Errorf("left of %v: %v, %v", built["a"].Layers, names, err)
	}
}

func TestRootUsage_SumIsDu(t *testing.T) {
	s, built := newStores(t)
	root := s.Images.Root()
	check := func(when string) *inventory.Usage {
		t.Helper()
		u, err := inventory.NewUsage(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		var sum int64
		for _, g := range u.Groups {
			sum += g.Disk
		}
		if du := blocks(t, root); u.Total != du || sum != du {
			t.Errorf("%s: total %d, sum %d, du %d: %+v", when, u.Total, sum, du, u.Groups)
		}
		return u
	}
	check("packed")
	top := unpacked(t, s, "a")
	unpacked(t, s, "b")
	snap, err := s.Layers.Prepare("web.0123456789ab", top)
	if err != nil {
		t.Fatal(err)
	}
	_ = snap
	if err := os.WriteFile(filepath.Join(root, "overlay/snapshots/web.0123456789ab/upper/f"), make([]byte, 50000), 0o600); err != nil {
		t.Fatal(err)
	}
	_, g, err := s.Images.Hold(context.Background(), "image save", "b") // hard links
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	u := check("in use")
	if len(u.Images) != 2 {
		t.Fatalf("images %+v", u.Images)
	}
	shared := u.Images[0].Shared
	if shared == 0 || u.Images[1].Shared != shared {
		t.Errorf("shared %d and %d", shared, u.Images[1].Shared)
	}
	if g := u.Groups[2]; g.Kind != "snapshot" || g.Count != 1 || g.Disk < 50000 {
		t.Errorf("snapshots: %+v", g)
	}
	g.Close()
	// What an image has for itself becomes free with it.
	i := slices.IndexFunc(u.Images, func(i inventory.ImageUse) bool { return i.Digest == built["b"].Manifest.Digest })
	before := blocks(t, root)
	if _, err := s.Images.Remove(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if _, err := inventory.Collect(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	if freed := before - blocks(t, root); freed != u.Images[i].Unique || freed < 9000 {
		t.Errorf("%d bytes were freed, du said %d", freed, u.Images[i].Unique)
	}
	check("after b is gone")
}

func TestUsage_Empty(t *testing.T) {
	images, err := imagestore.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	u, err := inventory.NewUsage(t.Context(), inventory.Stores{Images: images})
	if err != nil || u.Total != 0 || len(u.Images) != 0 {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := os.Lstat(images.Root()); err == nil {
		t.Error("looking made a store")
	}
}
