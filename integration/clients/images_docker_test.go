package clients

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// dockerFiles exchanges images with docker and containerd by files, both ways. The
// registry has docker:1, as docker has pushed it, with a compressed layer.
func dockerFiles(c *dockerd, a *minirunStore, plain *registry, ctr func(...string) string) {
	t := c.t
	at := func(name string) string { return filepath.Join(c.dir, name) }
	ids := func(ref string) string {
		return c.ok("image", "inspect", "--format", "{{.Id}} {{range .RootFS.Layers}}{{.}} {{end}}", ref)
	}
	ours := func(d digests) string {
		s := d.ID + " "
		for _, l := range d.Layers {
			s += l.DiffID + " "
		}
		return s + "\n"
	}
	digest := func(name string) string { // containerd's
		for line := range strings.Lines(ctr("image", "ls", "name=="+name)) {
			if f := strings.Fields(line); len(f) > 2 && f[0] == name {
				return f[2]
			}
		}
		return ""
	}

	// What docker saves. Of a name it keeps no compressed layer, so the image is the same by its config and diff IDs.
	compressed := plainRegistry + "/docker:1"
	c.ok("save", "-o", at("docker.tar"), "img:1", compressed)
	m := c.minirunStore("of-docker")
	m.ok("image", "load", "--quiet", at("docker.tar"))
	for _, ref := range []string{"img:1", compressed} {
		if got, want := ours(m.inspect(ref)), ids(ref); got != want {
			t.Errorf("of docker's %s we have %s, want %s", ref, got, want)
		}
	}

	// What we save, for docker, in both forms: of layers that are compressed and others.
	for i, tt := range []struct {
		from      *minirunStore
		ref, form string
	}{{m, "img:1", "docker"}, {m, "img:1", "oci"}, {a, compressed, "docker"}, {a, compressed, "oci"}} {
		path := at(fmt.Sprintf("ours.%d.tar", i))
		tt.from.ok("image", "save", "--format", tt.form, "-o", path, tt.ref)
		c.ok("rmi", "-f", tt.ref)
		c.ok("load", "-qi", path)
		if got, want := ids(tt.ref), ours(tt.from.inspect(tt.ref)); got != want {
			t.Errorf("of %s as %s docker has %s, want %s", tt.ref, tt.form, got, want)
		}
		c.prints("hello", "run", "--rm", "--network=none", tt.ref, "echo", "hello")
	}

	// containerd keeps manifests: every digest counts. An image of one platform, and an index of two.
	ref := plainRegistry + "/two:1"
	index := plain.twoPlatforms("docker", "1", "two")
	a.ok("pull", "--quiet", "--all-platforms", ref)
	for _, tt := range []struct{ ref, want string }{{compressed, plain.tag("docker", "1")}, {ref, index}} {
		if got := a.inspect(tt.ref).Digest; got != tt.want {
			t.Errorf("%s: we have %s, want %s", tt.ref, got, tt.want)
		}
		path := at("ours." + strings.Map(alnum, tt.ref) + ".tar")
		a.ok("image", "save", "-o", path, tt.ref)
		ctr("image", "rm", tt.ref)
		ctr("image", "import", "--all-platforms", path)
		if got := digest(tt.ref); got != tt.want {
			t.Errorf("of %s containerd has %s, want %s", tt.ref, got, tt.want)
		}
		back := at("ctr." + strings.Map(alnum, tt.ref) + ".tar")
		ctr("image", "export", "--all-platforms", back, tt.ref)
		m := c.minirunStore("of-ctr." + strings.Map(alnum, tt.ref))
		m.ok("image", "load", "--quiet", back)
		if got := m.inspect(tt.ref).Digest; got != tt.want {
			t.Errorf("of containerd's %s we have %s, want %s", tt.ref, got, tt.want)
		}
		repository, tag, _ := strings.Cut(strings.TrimPrefix(tt.ref, plainRegistry+"/"), ":")
		m.has(plain, tt.ref, repository, tag)
		if out := m.ok("image", "fsck"); out != "the store is in order\n" {
			t.Errorf("fsck: %s", out)
		}
	}
	if out := a.ok("run", "--pull", "never", "--rm", "--image", ref, "two", "echo", "hello"); out != "hello\n" {
		t.Errorf("run: %q", out)
	}
}

// twoPlatforms puts an index into the registry, of an image that is there and of its
// twin for another architecture, under the tag 1.
func (r *registry) twoPlatforms(repository, tag, as string) (digest string) {
	r.t.Helper()
	other := "arm64"
	if runtime.GOARCH == other {
		other = "amd64"
	}
	const docker = "application/vnd.docker."
	var m map[string]any
	if err := json.Unmarshal(r.blob(r.tag(repository, tag)), &m); err != nil {
		r.t.Fatal(err)
	}
	for _, l := range m["layers"].([]any) {
		r.put(as, "", "", r.blob(l.(map[string]any)["digest"].(string)))
	}
	config := m["config"].(map[string]any)
	text := r.blob(config["digest"].(string))
	var list []any
	for _, arch := range []string{runtime.GOARCH, other} {
		b := bytes.Replace(slices.Clone(text), []byte(fmt.Sprintf(`"architecture":%q`, runtime.GOARCH)), []byte(fmt.Sprintf(`"architecture":%q`, arch)), 1)
		config["digest"], config["size"] = r.put(as, "", "", b), len(b)
		manifest, err := json.Marshal(m)
		if err != nil {
			r.t.Fatal(err)
		}
		list = append(list, map[string]any{
			"mediaType": docker + "distribution.manifest.v2+json", "digest": r.put(as, "", docker+"distribution.manifest.v2+json", manifest),
			"size": len(manifest), "platform": map[string]any{"os": "linux", "architecture": arch},
		})
	}
	b, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": docker + "distribution.manifest.list.v2+json", "manifests": list})
	if err != nil {
		r.t.Fatal(err)
	}
	return r.put(as, "1", docker+"distribution.manifest.list.v2+json", b)
}
