package unpacked_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/archive"
	"github.com/minirun/minirun/imagestore/imagetest"
	"github.com/minirun/minirun/imagestore/reference"
	"github.com/minirun/minirun/imagestore/unpacked"
)

// record does what package container/unpack does when the layers are there.
func record(t *testing.T, s *imagestore.Store, ref string) *imagestore.Image {
	t.Helper()
	img, err := s.Resolve(ref)
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(img.Config)
	if err == nil {
		err = unpacked.Write(s.Root(), &unpacked.Image{Target: img.Target.Digest, Manifest: img.Manifest.Digest, ID: img.ConfigDigest, Chain: string(img.TopChainID())}, config)
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func newStore(t *testing.T) *imagestore.Store {
	t.Helper()
	s, err := imagestore.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func load(t *testing.T, s *imagestore.Store, images ...imagetest.Image) {
	t.Helper()
	for _, im := range images {
		tar := imagetest.Archive(t, imagetest.DockerArchive(t, imagetest.Build(t, im)))
		if _, err := archive.Load(context.Background(), s, "-", archive.LoadOptions{Stdin: bytes.NewReader(tar)}); err != nil {
			t.Fatal(err)
		}
	}
}

// Whatever name an image is looked up by, the answer is that of the store, which
// reads and hashes everything.
func TestFind_AsResolve(t *testing.T) {
	s := newStore(t)
	load(t, s, imagetest.Image{Names: []string{"one", "quay.io/x/two:3"}, Layers: []imagetest.Layer{{Tar: imagetest.Files(t, "a", "1")}}}, imagetest.Image{Names: []string{"three"}})
	one := record(t, s, "one")
	record(t, s, "three")
	for _, ref := range []string{
		"one", "one:latest", "docker.io/library/one", "quay.io/x/two:3", "three", "nosuch", "one:2", "", "UPPER", "a b", "quay.io/x/two", "feed", "@",
		"one@" + string(one.Target.Digest), "other@" + string(one.Target.Digest), "one@sha256:" + strings.Repeat("0", 64),
		string(one.Target.Digest), one.Target.Digest.Hex(), one.Target.Digest.Hex()[:12], string(one.ConfigDigest), one.ConfigDigest.Short(), string(one.ConfigDigest)[:14],
		"sha256:" + strings.Repeat("0", 64), strings.Repeat("0", 12), one.ConfigDigest.Hex()[:3], "sha512:" + strings.Repeat("0", 128),
	} {
		want, wantErr := s.Resolve(ref)
		got, sure, err := unpacked.Find(s.Root(), ref)
		if (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() || errors.Is(err, fs.ErrNotExist) != errors.Is(wantErr, fs.ErrNotExist) {
			t.Errorf("%q: %v, want %v", ref, err, wantErr)
			continue
		}
		if err == nil && (!sure || got.Name != want.Name || got.Target != want.Target.Digest || got.Manifest != want.Manifest.Digest ||
			got.ID != want.ConfigDigest || got.Chain != string(want.TopChainID())) {
			t.Errorf("%q: %+v, %v, want %+v", ref, got, sure, want)
		}
	}
}

// As TestResolve_LyingNames of imagestore: a digest and an ID stand for what has it.
func TestFind_LyingNames(t *testing.T) {
	good := imagetest.Build(t, imagetest.Image{Config: imagestore.Config{Author: "good"}})
	bad := imagetest.Build(t, imagetest.Image{Config: imagestore.Config{Author: "bad"}})
	digest, id := string(good.Manifest.Digest), string(good.Config.Digest)
	for _, lie := range []string{"docker.io/library/app@" + digest, "app@" + digest, "docker.io/library/app:1@" + digest, id, id[len("sha256:"):], digest, "docker.io/library/" + id} {
		for _, both := range []bool{false, true} {
			dir := t.TempDir()
			b := *bad
			b.Names = []string{lie}
			files := imagetest.Layout(t, &b)
			if both {
				g := *good
				g.Names = []string{"docker.io/true/name:1"}
				files = imagetest.Layout(t, &b, &g)
			}
			imagetest.WriteDir(t, dir, files)
			for _, b := range []*imagetest.Built{good, bad} {
				if err := unpacked.Write(dir, &unpacked.Image{Target: b.Manifest.Digest, Manifest: b.Manifest.Digest, ID: b.Config.Digest}, []byte("{}")); err != nil {
					t.Fatal(err)
				}
			}
			for _, ref := range []string{"app@" + digest, "app:1@" + digest, id, id[len("sha256:"):], digest} {
				img, _, err := unpacked.Find(dir, ref)
				if err == nil && img.ID != good.Config.Digest {
					t.Errorf("with the name %q, %q is another image", lie, ref)
				}
				if both && (ref == id || ref == digest) && err != nil {
					t.Errorf("with the name %q: %v", lie, err)
				}
			}
			if img, _, err := unpacked.Find(dir, string(bad.Config.Digest)); err != nil || img.ID != bad.Config.Digest {
				t.Errorf("with the name %q, by its own ID: %v", lie, err)
			}
		}
	}
}

// made is a store with entries of the given digests; nothing is behind them.
func made(t *testing.T, digests ...reference.Digest) string {
	t.Helper()
	dir := t.TempDir()
	entries := make([]string, len(digests))
	for i, d := range digests {
		entries[i] = `{"mediaType":"m","digest":"` + string(d) + `","size":1,"annotations":{"a":"b","org.opencontainers.image.ref.name":"n` + string(d[7]) + `"}}`
	}
	put(t, filepath.Join(dir, "oci-layout"), `{"imageLayoutVersion":"1.0.0"}`)
	put(t, filepath.Join(dir, "index.json"), `{"schemaVersion":2,"manifests":[`+strings.Join(entries, ",")+`]}`)
	return dir
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func digest(begin string) reference.Digest {
	return reference.Digest("sha256:" + begin + strings.Repeat("0", 64-len(begin)))
}

func write(t *testing.T, dir string, target, id reference.Digest) {
	t.Helper()
	if err := unpacked.Write(dir, &unpacked.Image{Target: target, Manifest: target, ID: id}, []byte("{}")); err != nil {
		t.Fatal(err)
	}
}

// The beginning of an ID is only as good as what is known of all images.
func TestFind_ShortID(t *testing.T) {
	a, b := digest("a"), digest("b")
	dir := made(t, a, b)
	find := func(ref, wantErr string, wantSure bool) {
		t.Helper()
		img, sure, err := unpacked.Find(dir, ref)
		text := ""
		if err != nil {
			text = err.Error()
		} else if img.Name != "na" {
			t.Errorf("%s: found %q", ref, img.Name)
		}
		if text != wantErr || err == nil && sure != wantSure {
			t.Errorf("%s: %v, %v; want %q, %v", ref, sure, err, wantErr, wantSure)
		}
	}
	notUnpacked := func(ref string) string { return `image "` + ref + `": its layers are not unpacked` }
	find("na", notUnpacked("na"), false)
	find("cccc1", notUnpacked("cccc1"), false) // it may be the ID of one of them
	write(t, dir, a, digest("cccc1"))
	find("na", "", true)
	find("cccc", "", false) // b may be called so too
	find("cccc2", notUnpacked("cccc2"), false)
	find(string(digest("cccc1")), "", true) // this one it cannot
	find("a000", "", false)
	write(t, dir, b, digest("cccc2"))
	find("cccc1", "", true)
	find("cccc", `image "cccc" stands for more than one: cccc10000000, cccc20000000`, true)
	find("cccc3", `image "cccc3" does not exist`, true)
}

// A record that cannot be used is no record: cut off, of another version, host or image.
func TestFind_UselessRecord(t *testing.T) {
	a := digest("a")
	dir := made(t, a)
	write(t, dir, a, digest("c"))
	path := filepath.Join(dir, "unpacked", "sha256-"+a.Hex())
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	good := string(raw)
	for _, bad := range []string{
		"", "{", "[]", "null", "{}", good + "x", strings.Replace(good, `"version":1`, `"version":2`, 1), strings.Replace(good, `"linux/`, `"plan9/`, 1),
		strings.ReplaceAll(good, string(a), string(digest("b"))), strings.Replace(good, string(digest("c")), "sha256:../../x", 1),
		strings.Replace(good, `"chain":""`, `"chain":"../../etc"`, 1), strings.Replace(good, `"config":{}`, `"config":{"config":{"Env":"A=b"}}`, 1),
	} {
		put(t, path, bad)
		var no *unpacked.NotUnpackedError
		if img, _, err := unpacked.Find(dir, "na"); !errors.As(err, &no) {
			t.Errorf("%q: %+v, %v", bad, img, err)
		}
	}
	for n := range len(good) - 1 { // what a crash of the machine can leave
		put(t, path, good[:n])
		if _, _, err := unpacked.Find(dir, "na"); err == nil {
			t.Fatalf("the first %d bytes are taken for a record", n)
		}
	}
	write(t, dir, a, digest("c"))
	if img, _, err := unpacked.Find(dir, "na"); err != nil || img.ID != digest("c") {
		t.Errorf("after writing it again: %+v, %v", img, err)
	}
}

func TestFind_BadStore(t *testing.T) {
	dir := made(t, digest("a"))
	for index, want := range map[string]string{
		`{"manifests":[{"digest":"sha256:../../../etc/passwd"}]}`: "manifests[0]: digest",
		`{"manifests":[{}]}`:              "manifests[0]: digest",
		`{"manifests":5}`:                 "want an array",
		`{"manifests":[]`:                 "want",
		`{"manifests":[],"manifests":[]}`: "given twice",
		``:                                "want an object",
	} {
		put(t, filepath.Join(dir, "index.json"), index)
		if _, _, err := unpacked.Find(dir, "na"); err == nil || !strings.Contains(err.Error(), "index.json: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", index, err, want)
		}
	}
	put(t, filepath.Join(dir, "oci-layout"), `{"imageLayoutVersion":"2.0.0"}`)
	if _, _, err := unpacked.Find(dir, "na"); err == nil || !strings.Contains(err.Error(), `has version "2.0.0"`) {
		t.Error(err)
	}
	if _, _, err := unpacked.Find(filepath.Join(dir, "none"), "na"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// The sweep takes what no image needs, and what a writer that died has left.
func TestSweep(t *testing.T) {
	a, b := digest("a"), digest("b")
	dir := made(t, a, b)
	if err := unpacked.Sweep(dir, nil); err != nil {
		t.Errorf("without records: %v", err)
	}
	write(t, dir, a, a)
	write(t, dir, b, b)
	put(t, filepath.Join(dir, "unpacked", "new"), "half a rec")
	if err := unpacked.Sweep(dir, map[reference.Digest]bool{b: true}); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "unpacked"))
	if err != nil || len(left) != 1 || left[0].Name() != "sha256-"+b.Hex() {
		t.Errorf("left: %v, %v", left, err)
	}
	put(t, filepath.Join(dir, "unpacked", "new"), "half a rec")
	write(t, dir, a, a)
	if img, _, err := unpacked.Find(dir, "na"); err != nil || img.ID != a {
		t.Errorf("after a dead writer: %+v, %v", img, err)
	}
}

// Every field of the store's configuration reaches a container, except those
// that are listed here: they say nothing to one.
func TestConfig_Fields(t *testing.T) {
	unused := map[string]bool{"RootFS": true, "History": true, "ArgsEscaped": true, "Healthcheck": true, "OnBuild": true, "Shell": true}
	var c imagestore.Config
	fill(reflect.ValueOf(&c).Elem(), unused)
	s := newStore(t)
	c.OS, c.Architecture, c.Variant = "", "", "v1" // the host's
	load(t, s, imagetest.Image{Names: []string{"x"}, Config: c})
	want := record(t, s, "x").Config
	img, _, err := unpacked.Find(s.Root(), "x")
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "", reflect.ValueOf(want), reflect.ValueOf(img.Config), unused)
}

func fill(v reflect.Value, unused map[string]bool) {
	for i := range v.NumField() {
		f, name := v.Field(i), v.Type().Field(i).Name
		switch {
		case unused[name]:
		case f.Kind() == reflect.Struct:
			fill(f, unused)
		case f.Kind() == reflect.String:
			f.SetString("of " + name + " \"\u2028\\")
		case f.Kind() == reflect.Slice:
			f.Set(reflect.ValueOf([]string{name, "", "é\n"}))
		case f.Type().Elem().Kind() == reflect.String:
			f.Set(reflect.ValueOf(map[string]string{name: "v", "": "w"}))
		default:
			f.Set(reflect.ValueOf(map[string]struct{}{name: {}, "80/tcp": {}}))
		}
	}
}

func compare(t *testing.T, at string, want, got reflect.Value, unused map[string]bool) {
	t.Helper()
	for i := range want.NumField() {
		name := want.Type().Field(i).Name
		if unused[name] {
			continue
		}
		w, g := want.Field(i), got.FieldByName(name)
		switch {
		case !g.IsValid():
			t.Errorf("%s%s is in the image and not in the record", at, name)
		case w.Kind() == reflect.Struct:
			compare(t, at+name+".", w, g, unused)
		case w.Kind() == reflect.Map && w.Type() != g.Type():
			if w.Len() != g.Len() || w.Len() != 2 || !g.MapIndex(w.MapKeys()[0]).IsValid() || !g.MapIndex(w.MapKeys()[1]).IsValid() {
				t.Errorf("%s%s: %v, want %v", at, name, g, w)
			}
		case w.IsZero() || !reflect.DeepEqual(w.Interface(), g.Interface()):
			t.Errorf("%s%s: %q, want %q", at, name, g, w)
		}
	}
}
