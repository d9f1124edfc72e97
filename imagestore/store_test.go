package imagestore_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/decompress"
	"github.com/minirun/minirun/imagestore/imagetest"
)

func open(t testing.TB, root string) *imagestore.Store {
	t.Helper()
	s, err := imagestore.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newStore(t testing.TB) *imagestore.Store {
	t.Helper()
	return open(t, filepath.Join(t.TempDir(), "store"))
}

func begin(t testing.TB, s *imagestore.Store) *imagestore.Ingest {
	t.Helper()
	g, err := s.Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

// image builds a small image whose content depends on text.
func image(t testing.TB, text ...string) *imagetest.Built {
	t.Helper()
	im := imagetest.Image{Names: []string{"docker.io/library/" + text[0] + ":latest"}}
	for _, s := range text {
		im.Layers = append(im.Layers, imagetest.Layer{Tar: imagetest.Files(t, s, s), Format: decompress.Gzip})
	}
	return imagetest.Build(t, im)
}

func stage(t testing.TB, g *imagestore.Ingest, b *imagetest.Built) {
	t.Helper()
	for d, body := range b.Blobs {
		if err := g.Copy(context.Background(), "blob", imagestore.Descriptor{Digest: d, Size: int64(len(body))}, bytes.NewReader(body)); err != nil {
			t.Fatal(err)
		}
	}
}

func publish(t testing.TB, s *imagestore.Store, name string, b *imagetest.Built) *imagestore.Published {
	t.Helper()
	g := begin(t, s)
	stage(t, g, b)
	p, err := g.Publish(context.Background(), imagestore.Naming{Name: name, Target: b.Manifest})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	return p
}

func blobFile(s *imagestore.Store, d imagestore.Digest) string {
	return filepath.Join(s.Root(), "blobs", d.Algorithm(), d.Hex())
}

func TestStore_EmptyIsNotCreated(t *testing.T) {
	s := newStore(t)
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("List of no store = %v, %v", list, err)
	}
	_, err := s.Resolve("x")
	var ne *imagestore.NotExistError
	if !errors.As(err, &ne) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Resolve = %v, want a NotExistError", err)
	}
	if _, err := s.Remove(t.Context(), "x"); !errors.As(err, &ne) {
		t.Errorf("Remove = %v, want a NotExistError", err)
	}
	if _, err := s.GC(t.Context()); err != nil {
		t.Errorf("GC: %v", err)
	}
	if _, _, err := s.Pin(context.Background(), "x"); !errors.As(err, &ne) {
		t.Errorf("Pin = %v, want a NotExistError", err)
	}
	if _, err := os.Lstat(s.Root()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("looking created the store: %v", err)
	}
}

func TestStore_PublishAndResolve(t *testing.T) {
	s := newStore(t)
	b := image(t, "one", "two")
	publish(t, s, "one", b)
	s = open(t, s.Root())
	for _, ref := range []string{
		"one", "one:latest", "docker.io/library/one", "one@" + string(b.Manifest.Digest), "one:latest@" + string(b.Manifest.Digest),
		string(b.Manifest.Digest), string(b.Config.Digest), b.Config.Digest.Hex(), b.Config.Digest.Hex()[:12], "sha256:" + b.Config.Digest.Hex()[:8],
	} {
		img, err := s.Resolve(ref)
		if err != nil {
			t.Fatalf("Resolve(%q): %v", ref, err)
		}
		if img.Name != "docker.io/library/one:latest" || img.ConfigDigest != b.Config.Digest || img.Manifest.Digest != b.Manifest.Digest {
			t.Errorf("Resolve(%q) = %+v", ref, img)
		}
		if len(img.DiffIDs) != 2 || img.DiffIDs[0] != b.DiffIDs[0] || len(img.Layers) != 2 {
			t.Errorf("Resolve(%q): layers %v, diff IDs %v", ref, img.Layers, img.DiffIDs)
		}
		want := imagestore.FromBytes([]byte(string(b.DiffIDs[0]) + " " + string(b.DiffIDs[1])))
		if img.TopChainID() != want || img.ChainID(1) != b.DiffIDs[0] || img.ChainID(0) != "" {
			t.Errorf("chain IDs %q %q %q, want top %q", img.ChainID(0), img.ChainID(1), img.TopChainID(), want)
		}
	}
	for _, ref := range []string{"two", "one:2", "one@" + string(b.Config.Digest), "deadbeef"} {
		var ne *imagestore.NotExistError
		if _, err := s.Resolve(ref); !errors.As(err, &ne) {
			t.Errorf("Resolve(%q) = %v, want a NotExistError", ref, err)
		}
	}
	var re *imagestore.ReferenceError
	if _, err := s.Resolve("No Name"); !errors.As(err, &re) {
		t.Errorf("Resolve of nonsense = %v, want a ReferenceError", err)
	}
	if err := s.Verify(context.Background(), "one"); err != nil {
		t.Errorf("Verify: %v", err)
	}
}

// The directories hold set-user-ID files and secrets of images.
func TestStore_Modes(t *testing.T) {
	s := newStore(t)
	publish(t, s, "one", image(t, "one"))
	for _, dir := range []string{"", "blobs", "blobs/sha256", "ingest"} {
		st, err := os.Stat(filepath.Join(s.Root(), dir))
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != 0o700 {
			t.Errorf("mode of %q is %v, want 0700", dir, st.Mode())
		}
	}
}

func TestOpen_OtherLayoutVersion(t *testing.T) {
	dir := t.TempDir()
	for _, content := range []string{`{"imageLayoutVersion":"2.0.0"}`, `{}`, `x`} {
		if err := os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := imagestore.Open(dir); err == nil {
			t.Errorf("Open accepts oci-layout %s", content)
		}
	}
}

func TestBegin_NotAStore(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "index.json"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, dir).Begin(context.Background()); err == nil {
		t.Fatal("Begin took a directory with a foreign index.json")
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "index.json")); string(b) != "mine" {
		t.Errorf("index.json is now %q", b)
	}
}

// What a commit refused can be read under no digest.
func TestWriter_CommitMismatch(t *testing.T) {
	s := newStore(t)
	g := begin(t, s)
	body := []byte("content")
	want := imagestore.FromBytes([]byte("other"))
	w, err := g.Create("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	err = w.Commit(context.Background(), want)
	var de *imagestore.DigestError
	if !errors.As(err, &de) || de.Got != imagestore.FromBytes(body) || de.Want != want {
		t.Fatalf("Commit = %v, want a DigestError with both digests", err)
	}
	for _, d := range []imagestore.Digest{want, imagestore.FromBytes(body)} {
		var me *imagestore.MissingError
		if _, err := g.ReadBlob("blob", imagestore.Descriptor{Digest: d, Size: 7}, 100); !errors.As(err, &me) {
			t.Errorf("ReadBlob(%s) = %v, want a MissingError", d, err)
		}
	}
	if names, _ := filepath.Glob(filepath.Join(s.Root(), "ingest", "*", "[^l]*")); len(names) != 0 { // all but lease.json
		t.Errorf("left in staging: %v", names)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if w, err = g.Create(""); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := w.Commit(ctx, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("Commit after cancel = %v", err)
	}
}

func TestIngest_CopySizes(t *testing.T) {
	g := begin(t, newStore(t))
	body := "content"
	d := imagestore.Descriptor{Digest: imagestore.FromBytes([]byte(body)), Size: int64(len(body))}
	ctx := context.Background()
	var se *imagestore.SizeError
	if err := g.Copy(ctx, "layer", d, strings.NewReader(body[:3])); !errors.As(err, &se) {
		t.Errorf("short: %v, want a SizeError", err)
	}
	endless := &countingReader{}
	if err := g.Copy(ctx, "layer", d, endless); !errors.As(err, &se) {
		t.Errorf("endless: %v, want a SizeError", err)
	}
	if endless.n > 1<<20 {
		t.Errorf("read %d bytes of an endless body of %d", endless.n, d.Size)
	}
	if err := g.Copy(ctx, "layer", imagestore.Descriptor{Digest: "sha256:../../x", Size: 7}, strings.NewReader(body)); err == nil {
		t.Error("a digest that is a path was accepted")
	}
	if err := g.Copy(ctx, "layer", imagestore.Descriptor{Digest: d.Digest, Size: -1}, strings.NewReader(body)); err == nil {
		t.Error("a negative size was accepted")
	}
	if err := g.Copy(ctx, "layer", d, strings.NewReader(body)); err != nil {
		t.Error(err)
	}
}

type countingReader struct{ n int }

func (c *countingReader) Read(p []byte) (int, error) { c.n += len(p); return len(p), nil }

// A digest that was read from a file never becomes a path unchecked.
func TestReadBlob_UnsafeDigest(t *testing.T) {
	s := newStore(t)
	publish(t, s, "one", image(t, "one"))
	secret := filepath.Join(s.Root(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, d := range []imagestore.Digest{"sha256:../../secret", "../../:../secret", "sha256:", "x", ""} {
		if b, err := s.ReadBlob("config", imagestore.Descriptor{Digest: d, Size: 6}, 100); err == nil {
			t.Errorf("ReadBlob(%q) = %q", d, b)
		}
		if f, err := s.OpenBlob("config", imagestore.Descriptor{Digest: d, Size: 6}); err == nil {
			f.Close()
			t.Errorf("OpenBlob(%q) succeeded", d)
		}
	}
}

func TestReadBlob_Damaged(t *testing.T) {
	s := newStore(t)
	b := image(t, "one")
	publish(t, s, "one", b)
	path := blobFile(s, b.Config.Digest)
	good := b.Blobs[b.Config.Digest]
	damage := map[string]func([]byte) []byte{
		"flipped": func(b []byte) []byte { b[3] ^= 1; return b },
		"short":   func(b []byte) []byte { return b[:5] },
		"empty":   func([]byte) []byte { return nil },
		"long":    func(b []byte) []byte { return append(b, 'x') },
	}
	for name, f := range damage {
		if err := os.WriteFile(path, f(bytes.Clone(good)), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := s.Resolve("one")
		var de *imagestore.DigestError
		var se *imagestore.SizeError
		if !errors.As(err, &de) && !errors.As(err, &se) {
			t.Errorf("%s: Resolve = %v, want a DigestError or SizeError", name, err)
		}
		if err == nil || !strings.Contains(err.Error(), string(b.Config.Digest)) {
			t.Errorf("%s: %v does not name the config", name, err)
		}
	}
	// Publishing again heals it.
	publish(t, s, "one", b)
	if _, err := s.Resolve("one"); err != nil {
		t.Errorf("after publishing again: %v", err)
	}
}

func TestList_DamagedImageDoesNotHideOthers(t *testing.T) {
	s := newStore(t)
	a, b := image(t, "aaa"), image(t, "bbb")
	publish(t, s, "aaa", a)
	publish(t, s, "bbb", b)
	if err := os.Remove(blobFile(s, a.Manifest.Digest)); err != nil {
		t.Fatal(err)
	}
	list, err := s.List()
	if err != nil || len(list) != 2 {
		t.Fatalf("List = %v, %v", list, err)
	}
	var me *imagestore.MissingError
	if !errors.As(list[0].Err, &me) || list[0].Image != nil {
		t.Errorf("damaged entry: %+v", list[0])
	}
	if list[1].Err != nil || list[1].Image.ConfigDigest != b.Config.Digest {
		t.Errorf("sound entry: %+v", list[1])
	}
	if _, err := s.Remove(t.Context(), "aaa"); err != nil {
		t.Errorf("a damaged image cannot be removed: %v", err)
	}
}

func TestTagAndRemove(t *testing.T) {
	s := newStore(t)
	// one and two share a layer.
	one := image(t, "one", "shared")
	two := image(t, "two", "shared")
	publish(t, s, "one", one)
	publish(t, s, "two", two)
	if replaced, err := s.Tag(t.Context(), "one", "also/one:5"); err != nil || replaced {
		t.Fatalf("Tag = %v, %v", replaced, err)
	}
	if _, err := s.Tag(t.Context(), "one", "BAD"); err == nil {
		t.Error("Tag accepts an invalid name")
	}
	id := string(one.Config.Digest)
	var amb *imagestore.AmbiguousError
	if _, err := s.Remove(t.Context(), id); !errors.As(err, &amb) || len(amb.Names) != 2 {
		t.Errorf("Remove by ID of an image with two names = %v, want an AmbiguousError with both", err)
	}
	r, err := s.Remove(t.Context(), "one")
	if err != nil || r.Swept.Blobs != 0 || r.Name != "docker.io/library/one:latest" {
		t.Fatalf("Remove of one of two names = %+v, %v", r, err)
	}
	r, err = s.Remove(t.Context(), id[:20])
	if err != nil || r.Name != "docker.io/also/one:5" {
		t.Fatalf("Remove by ID = %+v, %v", r, err)
	}
	// Manifest, config and its own layer go; the shared one stays.
	if r.Swept.Blobs != 3 || r.Kept != nil {
		t.Errorf("swept %+v, kept %v, want 3 blobs", r.Swept, r.Kept)
	}
	if err := s.Verify(context.Background(), "two"); err != nil {
		t.Errorf("the other image suffered: %v", err)
	}
	if _, err := s.Remove(t.Context(), "two"); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Root(), "blobs/*/*")); len(left) != 0 {
		t.Errorf("blobs left: %v", left)
	}
}

func TestPublish_ReplacedNameIsReportedAndSwept(t *testing.T) {
	s := newStore(t)
	old, now := image(t, "old"), image(t, "new")
	publish(t, s, "x", old)
	if p := publish(t, s, "x", old); len(p.Replaced) != 0 {
		t.Errorf("same image again: replaced %v", p.Replaced)
	}
	p := publish(t, s, "x", now)
	if len(p.Replaced) != 1 || p.Replaced[0] != "docker.io/library/x:latest" || p.Removed.Blobs != 3 {
		t.Errorf("Published = %+v", p)
	}
	if _, err := s.Resolve(string(old.Config.Digest)); err == nil {
		t.Error("the replaced image is still there")
	}
	if img, err := s.Resolve("x"); err != nil || img.ConfigDigest != now.Config.Digest {
		t.Errorf("Resolve = %v, %v", img, err)
	}
}

func TestPublish_Unnamed(t *testing.T) {
	s := newStore(t)
	b := image(t, "one")
	publish(t, s, "", b)
	publish(t, s, "", b)
	if list, _ := s.List(); len(list) != 1 || list[0].Name != "" {
		t.Fatalf("List = %+v", list)
	}
	publish(t, s, "named", b)
	if list, _ := s.List(); len(list) != 1 || list[0].Name != "docker.io/library/named:latest" {
		t.Fatalf("List = %+v", list)
	}
	if _, err := s.Remove(t.Context(), b.Config.Digest.Hex()[:10]); err != nil {
		t.Fatal(err)
	}
}

// A publish that refers to a manifest nobody has changes nothing.
func TestPublish_MissingManifest(t *testing.T) {
	s := newStore(t)
	publish(t, s, "one", image(t, "one"))
	before := imagetest.Dump(t, s.Root())
	g := begin(t, s)
	_, err := g.Publish(context.Background(), imagestore.Naming{Name: "x", Target: image(t, "x").Manifest})
	var me *imagestore.MissingError
	if !errors.As(err, &me) {
		t.Errorf("Publish = %v, want a MissingError", err)
	}
	g.Close()
	if after := imagetest.Dump(t, s.Root()); after != before {
		t.Errorf("store changed:\n%s\nwas:\n%s", after, before)
	}
}

// A failure in the middle of publishing takes back what was moved.
func TestPublish_FailureIsUndone(t *testing.T) {
	s := newStore(t)
	publish(t, s, "one", image(t, "one"))
	before := imagetest.Dump(t, s.Root())
	b := image(t, "two")
	g := begin(t, s)
	stage(t, g, b)
	// A directory in a blob's place: rename(2) fails.
	obstacle := blobFile(s, b.Layers[0].Digest)
	if err := os.MkdirAll(filepath.Join(obstacle, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Publish(context.Background(), imagestore.Naming{Name: "two", Target: b.Manifest}); err == nil {
		t.Fatal("Publish succeeded over a directory")
	}
	g.Close()
	if err := os.RemoveAll(obstacle); err != nil {
		t.Fatal(err)
	}
	if after := imagetest.Dump(t, s.Root()); after != before {
		t.Errorf("store changed:\n%s\nwas:\n%s", after, before)
	}
	publish(t, s, "two", b)
}

// What a live ingest keeps survives the removal of the image.
func TestKeep_SurvivesRemove(t *testing.T) {
	s := newStore(t)
	b := image(t, "one")
	publish(t, s, "one", b)
	g := begin(t, s)
	for _, d := range []imagestore.Descriptor{b.Layers[0], b.Config, b.Manifest} {
		if err := g.Keep("blob", d); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Remove(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	f, err := g.OpenBlob("layer", b.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	content, _ := io.ReadAll(f)
	f.Close()
	if !bytes.Equal(content, b.Blobs[b.Layers[0].Digest]) {
		t.Error("kept blob has other content")
	}
	if _, err := g.Publish(context.Background(), imagestore.Naming{Name: "back", Target: b.Manifest}); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(context.Background(), "back"); err != nil {
		t.Error(err)
	}
}

func TestPin(t *testing.T) {
	s := newStore(t)
	b := image(t, "one")
	publish(t, s, "one", b)
	img, pin, err := s.Pin(context.Background(), "one")
	if err != nil {
		t.Fatal(err)
	}
	defer pin.Close()
	if _, err := s.Remove(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	count := func() (n int) {
		err := s.WithImages(t.Context(), func(list []*imagestore.Image) error {
			for _, im := range list {
				if im.ConfigDigest == img.ConfigDigest {
					n++
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if count() != 1 {
		t.Error("a pinned image is not among those that are in use")
	}
	if _, err := s.GC(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f, err := pin.OpenBlob("layer", b.Layers[0]); err != nil {
		t.Errorf("a layer of a pinned image is gone: %v", err)
	} else {
		f.Close()
	}
	pin.Close()
	if count() != 0 {
		t.Error("an image is in use after its pin is closed")
	}
}

// What a dead process left is removed by the next one; live work is not touched.
func TestBegin_RemovesDead(t *testing.T) {
	s := newStore(t)
	publish(t, s, "one", image(t, "one"))
	live := begin(t, s)
	if _, err := live.PutBytes(context.Background(), "x", []byte("live")); err != nil {
		t.Fatal(err)
	}
	// As a process leaves it that died while it published: its directory, a
	// blob that nothing refers to, and the new index.json.
	dead := filepath.Join(s.Root(), "ingest", "dead")
	stray := []byte("stray")
	strayPath := blobFile(s, imagestore.FromBytes(stray))
	temp := filepath.Join(s.Root(), ".index.json.new")
	if err := os.Mkdir(dead, 0o700); err != nil {
		t.Fatal(err)
	}
	for path, b := range map[string][]byte{filepath.Join(dead, "part-1"): stray, strayPath: stray, temp: []byte(`{"half`)} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	begin(t, s).Close()
	for _, path := range []string{dead, strayPath, temp} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there", path)
		}
	}
	if _, err := live.ReadBlob("x", imagestore.Descriptor{Digest: imagestore.FromBytes([]byte("live")), Size: 4}, 10); err != nil {
		t.Errorf("live work was damaged: %v", err)
	}
	if err := s.Verify(context.Background(), "one"); err != nil {
		t.Error(err)
	}
}

// An image that names another image's manifest as its layer must not make the
// sweep forget what that manifest needs.
func TestSweep_ManifestAsLayer(t *testing.T) {
	s := newStore(t)
	victim := image(t, "victim")
	publish(t, s, "victim", victim)
	manifest := victim.Blobs[victim.Manifest.Digest]
	attack := imagetest.Build(t, imagetest.Image{Layers: []imagetest.Layer{{Tar: manifest}}})
	for _, name := range []string{"a", "zz"} { // before and after the victim in index.json
		publish(t, s, name, attack)
	}
	if _, err := s.GC(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(context.Background(), "victim"); err != nil {
		t.Errorf("the sweep removed what an image needs: %v", err)
	}
}

// If it is not known what is needed, nothing is removed.
func TestSweep_DamagedManifestKeepsBlobs(t *testing.T) {
	s := newStore(t)
	a, b := image(t, "aaa"), image(t, "bbb")
	publish(t, s, "aaa", a)
	publish(t, s, "bbb", b)
	if err := os.WriteFile(blobFile(s, a.Manifest.Digest), bytes.Repeat([]byte("x"), int(a.Manifest.Size)), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := s.Remove(t.Context(), "bbb")
	if err != nil {
		t.Fatal(err)
	}
	if r.Kept == nil || r.Swept.Blobs != 0 {
		t.Errorf("Removed = %+v, want blobs kept and a reason", r)
	}
	if r, err = s.Remove(t.Context(), "aaa"); err != nil || r.Kept != nil {
		t.Errorf("Removed = %+v, %v", r, err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Root(), "blobs/*/*")); len(left) != 0 {
		t.Errorf("blobs left: %v", left)
	}
}

func TestVerify_ListsEveryFinding(t *testing.T) {
	s := newStore(t)
	b := image(t, "one", "two", "three")
	publish(t, s, "one", b)
	if err := os.Remove(blobFile(s, b.Layers[0].Digest)); err != nil {
		t.Fatal(err)
	}
	body := bytes.Clone(b.Blobs[b.Layers[2].Digest])
	body[len(body)-1] ^= 1
	if err := os.WriteFile(blobFile(s, b.Layers[2].Digest), body, 0o600); err != nil {
		t.Fatal(err)
	}
	err := s.Verify(context.Background(), "one")
	var me *imagestore.MissingError
	var de *imagestore.DigestError
	if !errors.As(err, &me) || me.Digest != b.Layers[0].Digest || !errors.As(err, &de) || de.Want != b.Layers[2].Digest {
		t.Errorf("Verify = %v, want both findings", err)
	}
}

// Readers take no lock and must never see half an index.json; writers must not
// lose each other's names.
func TestConcurrentPublish(t *testing.T) {
	s := newStore(t)
	names := []string{"a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7"}
	var writers sync.WaitGroup
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if list, err := s.List(); err != nil {
				t.Errorf("List while publishing: %v", err)
				return
			} else {
				for _, e := range list {
					if e.Err != nil && !strings.Contains(e.Name, "gone") {
						t.Errorf("%s: %v", e.Name, e.Err)
						return
					}
				}
			}
		}
	})
	for _, n := range names {
		writers.Go(func() {
			o, err := imagestore.Open(s.Root())
			if err != nil {
				t.Error(err)
				return
			}
			publish(t, o, n, image(t, n, "shared"))
			publish(t, o, "gone-"+n, image(t, "gone"+n, "shared"))
			if _, err := o.Remove(t.Context(), "gone-"+n); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	close(stop)
	reader.Wait()
	list, err := s.List()
	if err != nil || len(list) != len(names) {
		t.Fatalf("%d images, %v, want %d", len(list), err, len(names))
	}
	for _, n := range names {
		if err := s.Verify(context.Background(), n); err != nil {
			t.Error(err)
		}
	}
}

// Names that another tool wrote are found as they are.
func TestResolve_ForeignNames(t *testing.T) {
	dir := t.TempDir()
	b := image(t, "one")
	b.Names = []string{"v1"}
	imagetest.WriteDir(t, dir, imagetest.Layout(t, b))
	s := open(t, dir)
	if _, err := s.Resolve("v1"); err != nil {
		t.Error(err)
	}
	if _, err := s.Tag(t.Context(), "v1", "mine"); err != nil {
		t.Error(err)
	}
	if _, err := s.Remove(t.Context(), "v1"); err != nil {
		t.Error(err)
	}
	if err := s.Verify(context.Background(), "mine"); err != nil {
		t.Error(err)
	}
}

// A name with a digest, and an ID, stand for what has the digest, whoever says otherwise.
func TestResolve_LyingNames(t *testing.T) {
	good, bad := image(t, "good"), image(t, "bad")
	digest, id := string(good.Manifest.Digest), string(good.Config.Digest)
	for _, lie := range []string{"docker.io/library/app@" + digest, "app@" + digest, "docker.io/library/app:1@" + digest, id, id[len("sha256:"):], digest, "docker.io/library/" + id} {
		for _, both := range []bool{false, true} {
			dir := t.TempDir()
			bad.Names = []string{lie}
			imagetest.WriteDir(t, dir, imagetest.Layout(t, bad))
			s := open(t, dir)
			if both {
				publish(t, s, "true/name", good)
			}
			if lie == "docker.io/library/"+id {
				lie = id // as a name it stands for what has it
			}
			for _, ref := range []string{lie, "app@" + digest, "app:1@" + digest, id, id[len("sha256:"):], digest} {
				img, err := s.Resolve(ref)
				if err == nil && img.ConfigDigest != good.Config.Digest {
					t.Errorf("with the name %q, %q is another image", lie, ref)
				}
				if both && (ref == id || ref == digest) && err != nil {
					t.Errorf("with the name %q: %v", lie, err)
				}
			}
			found, err := s.Fsck(context.Background(), imagestore.FsckOptions{})
			if err != nil || strings.Contains(lie, "@") != slices.ContainsFunc(found, func(f imagestore.Finding) bool { return strings.Contains(f.Problem, "the digest in its name") }) {
				t.Errorf("fsck of %q: %+v, %v", lie, found, err)
			}
			if _, err := s.RemoveWith(context.Background(), string(bad.Manifest.Digest), imagestore.RemoveOptions{AllNames: true}); err != nil {
				t.Errorf("remove what lies: %v", err)
			}
		}
	}
	s := newStore(t)
	publish(t, s, "good", good)
	var refErr *imagestore.ReferenceError
	for _, name := range []string{"x@" + string(bad.Manifest.Digest), "x:1@" + string(bad.Manifest.Digest), "sha256:1234", "sha512", "docker.io/library/" + id} {
		if _, err := s.Tag(context.Background(), "good", name); !errors.As(err, &refErr) {
			t.Errorf("tag %q: %v, want a ReferenceError", name, err)
		}
	}
	if _, err := s.Tag(context.Background(), "good", "x@"+digest); err != nil {
		t.Error(err)
	}
	if _, err := s.Tag(context.Background(), "good", "quay.io/sha256:1234"); err != nil {
		t.Error(err)
	}
}

func TestResolve_IDAmbiguous(t *testing.T) {
	// Two configs whose digests begin with the same four digits: some three
	// hundred are enough.
	seen := map[string]*imagetest.Built{}
	var a, b *imagetest.Built
	for i := 0; a == nil; i++ {
		b = imagetest.Build(t, imagetest.Image{Config: imagestore.Config{Author: strings.Repeat("x", i)}})
		prefix := b.Config.Digest.Hex()[:4]
		a = seen[prefix]
		seen[prefix] = b
	}
	s := newStore(t)
	publish(t, s, "a", a)
	publish(t, s, "b", b)
	prefix := a.Config.Digest.Hex()[:4]
	var amb *imagestore.AmbiguousError
	if _, err := s.Resolve(prefix); !errors.As(err, &amb) || len(amb.Names) != 2 {
		t.Errorf("Resolve(%q) = %v, want an AmbiguousError with two IDs", prefix, err)
	}
	if _, err := s.Remove(t.Context(), prefix); !errors.As(err, &amb) {
		t.Errorf("Remove(%q) = %v, want an AmbiguousError", prefix, err)
	}
	if img, err := s.Resolve(a.Config.Digest.Hex()[:20]); err != nil || img.ConfigDigest != a.Config.Digest {
		t.Errorf("Resolve of 20 digits = %v, %v", img, err)
	}
	// A name that looks like an ID is a name.
	if _, err := s.Tag(t.Context(), "b", prefix); err != nil {
		t.Fatal(err)
	}
	if img, err := s.Resolve(prefix); err != nil || img.ConfigDigest != b.Config.Digest {
		t.Errorf("Resolve of a name that looks like an ID = %v, %v", img, err)
	}
}

func TestIndexJSON_IsAnImageIndex(t *testing.T) {
	s := newStore(t)
	publish(t, s, "one", image(t, "one"))
	if _, err := s.Remove(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(s.Root(), "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	if list, ok := m["manifests"].([]any); !ok || len(list) != 0 || m["schemaVersion"] != 2.0 {
		t.Errorf("index.json of an empty store is %s", b)
	}
}
