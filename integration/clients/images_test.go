package clients

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
)

// minirunStore runs minirun's image commands in the sandbox, with a store there.
type minirunStore struct {
	*client
	store string
}

func (c *client) minirunStore(name string) *minirunStore {
	testenv.Supervisor(c.t)
	m := *c
	m.command = []string{testenv.Binary(c.t), "--root", c.dir + "/" + name + ".state", "--store", c.dir + "/" + name}
	return &minirunStore{&m, m.dir + "/" + name}
}

// digests are what a name stands for: manifest, image ID and layers.
type digests struct {
	Digest, ID string
	Layers     []struct{ Digest, DiffID string }
}

func (m *minirunStore) inspect(ref string) digests {
	m.t.Helper()
	var list []digests
	if err := json.Unmarshal([]byte(m.ok("image", "inspect", ref)), &list); err != nil || len(list) != 1 {
		m.t.Fatalf("inspect %q: %v", ref, err)
	}
	return list[0]
}

func (d digests) same(t *testing.T, what string, other digests) {
	t.Helper()
	if d.Digest != other.Digest || d.ID != other.ID || len(d.Layers) == 0 || len(d.Layers) != len(other.Layers) {
		t.Errorf("%s: %+v, want %+v", what, other, d)
		return
	}
	for i := range d.Layers {
		if d.Layers[i] != other.Layers[i] {
			t.Errorf("%s: layer %d is %+v, want %+v", what, i, other.Layers[i], d.Layers[i])
		}
	}
}

// skopeo, umoci and podman read what we save and write what we load; content
// stays what it is: the digests of manifest, config and layers are the same all
// the way round, wherever the form has them.
func TestRootClientsImages(t *testing.T) {
	c := newPodman(t, "minirun") // podman has img:1
	a := c.minirunStore("a")
	run := func(args ...string) string {
		t.Helper()
		r := c.run(args...)
		if r.Code != 0 {
			t.Fatalf("%q: exit status %d\n%s%s", args, r.Code, r.Stdout, r.Stderr)
		}
		return r.Stdout
	}
	at := func(name string) string { return filepath.Join(c.dir, name) }
	skopeo := func(from, to string, more ...string) {
		t.Helper()
		run(append(append([]string{"/usr/bin/skopeo", "copy", "--quiet", "--insecure-policy"}, more...), from, to)...)
	}
	archive := c.image() // one: each call makes another
	c.ok("load", "-qi", archive)
	a.ok("image", "load", "--quiet", archive)
	first := a.inspect("img:1")

	// What podman saves, in each of its formats, is the same image.
	for _, format := range []string{"docker-archive", "oci-archive", "oci-dir", "docker-dir"} {
		path := at("podman." + format)
		c.ok("save", "-q", "--format", format, "-o", path, "img:1")
		m := c.minirunStore("of-podman-" + format)
		if format == "docker-dir" { // no layout: skopeo's own form
			m.exits(1, "manifest.json is a manifest", "image", "load", path)
			continue
		}
		m.ok("image", "load", "--quiet", "--name", "img:1", path)
		got := m.inspect("img:1")
		if format == "docker-archive" {
			if got.ID != first.ID || got.Layers[0].DiffID != first.Layers[0].DiffID {
				t.Errorf("%s of podman: %+v, want %+v", format, got, first)
			}
			continue
		}
		// For the layout podman makes a config of its own.
		raw := run("/usr/bin/skopeo", "inspect", "--raw", strings.Replace(format, "oci-dir", "oci", 1)+":"+path)
		if want := "sha256:" + sha256Hex(raw); got.Digest != want {
			t.Errorf("%s of podman: we have the manifest %s, skopeo %s", format, got.Digest, want)
		}
	}

	// skopeo compresses and makes an OCI image of it: from here on every digest counts.
	skopeo("docker-archive:"+archive, "oci:"+at("layout")+":1", "--dest-compress", "--dest-compress-format", "zstd")
	a.ok("image", "load", "--quiet", "--name", "made:1", at("layout"))
	made := a.inspect("made:1")
	a.ok("image", "save", "-o", at("saved.tar"), "made:1")
	a.ok("image", "save", "--format", "oci-dir", "-o", at("saved.dir"), "made:1")
	a.ok("image", "save", "--format", "docker", "-o", at("saved.docker"), "img:1")
	for _, from := range []string{"oci-archive:" + at("saved.tar") + ":1", "oci:" + at("saved.dir") + ":1"} {
		raw := run("/usr/bin/skopeo", "inspect", "--raw", from)
		if got := "sha256:" + sha256Hex(raw); got != made.Digest {
			t.Errorf("skopeo reads the manifest %s from %s, want %s", got, from, made.Digest)
		}
		to := at("round" + strings.Map(alnum, from[:12]))
		skopeo(from, "oci:"+to+":1", "--preserve-digests")
		m := c.minirunStore("round" + strings.Map(alnum, from[:12]) + ".store")
		m.ok("image", "load", "--quiet", "--name", "made:1", to)
		made.same(t, "after "+from, m.inspect("made:1"))
		if out := m.ok("image", "fsck"); out != "the store is in order\n" {
			t.Errorf("fsck: %s", out)
		}
	}

	// The store itself is a layout.
	if got := "sha256:" + sha256Hex(run("/usr/bin/skopeo", "inspect", "--raw", "oci:"+a.store+":docker.io/library/made:1")); got != made.Digest {
		t.Errorf("skopeo reads the manifest %s from the store, want %s", got, made.Digest)
	}

	// umoci unpacks what we save, and we load what it has repacked.
	skopeo("docker-archive:"+archive, "oci:"+at("plain")+":1")
	a.ok("image", "load", "--quiet", "--name", "gz:1", at("plain"))
	a.ok("image", "save", "--format", "oci-dir", "-o", at("umoci"), "gz:1")
	run("/usr/bin/umoci", "unpack", "--image", at("umoci")+":1", at("bundle"))
	if err := os.WriteFile(at("bundle/rootfs/etc/added"), []byte("by umoci\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(at("bundle/rootfs/etc/passwd")); err != nil {
		t.Fatal(err)
	}
	run("/usr/bin/umoci", "repack", "--image", at("umoci")+":2", at("bundle"))
	m := c.minirunStore("of-umoci")
	m.ok("image", "load", "--quiet", at("umoci"))
	a.inspect("gz:1").same(t, "umoci", m.inspect("gz:1"))
	if two := m.inspect("gz:2"); len(two.Layers) != 2 || two.Layers[0] != a.inspect("gz:1").Layers[0] {
		t.Errorf("umoci's second image: %+v", two)
	}
	if got := m.ok("image", "history", "-q", "gz:2"); strings.Count(got, "\n") != 2 {
		t.Errorf("history: %s", got)
	}

	// podman runs what we save, in both forms.
	for _, tt := range []struct{ path, name string }{{"saved.tar", "docker.io/library/made:1"}, {"saved.docker", "img:1"}} {
		c.ok("rmi", "-af")
		c.ok("load", "-qi", at(tt.path))
		list := c.ok("images", "-q", "--no-trunc")
		want := first.ID
		if tt.path == "saved.tar" {
			want = made.ID
		}
		if strings.TrimSpace(list) != want {
			t.Errorf("podman has %q after load of %s, want %s", list, tt.path, want)
		}
		c.prints("hello", "run", "--rm", strings.TrimSpace(list), "echo", "hello")
	}
}

func alnum(r rune) rune {
	if r >= 'a' && r <= 'z' {
		return r
	}
	return -1
}

func sha256Hex(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }
