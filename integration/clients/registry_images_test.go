package clients

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
)

// saved returns every blob of what the store saves of an image.
func (m *minirunStore) saved(ref string) map[string][]byte {
	m.t.Helper()
	dir := filepath.Join(m.dir, testenv.UniqueID(m.t)+".saved")
	m.ok("image", "save", "--format", "oci-dir", "-o", dir, ref)
	blobs := map[string][]byte{}
	err := filepath.WalkDir(filepath.Join(dir, "blobs/sha256"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			blobs["sha256:"+d.Name()], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return blobs
}

// has wants the store to save exactly what the registry has of a tag, bit for bit.
func (m *minirunStore) has(r *registry, ref, repository, tag string) {
	m.t.Helper()
	want := r.all(r.tag(repository, tag))
	have := m.saved(ref)
	for _, d := range want {
		if b, ok := have[d]; !ok || !bytes.Equal(b, r.blob(d)) {
			m.t.Errorf("%s: %s is there: %t; it is not what the registry has", ref, d, ok)
		}
	}
	for d := range have {
		if !slices.Contains(want, d) {
			m.t.Errorf("%s: %s is saved, too", ref, d)
		}
	}
}

// What others push to a registry we pull, and what we save and push of it is the
// same, bit for bit; others pull what we push.
func TestRootClientsRegistry(t *testing.T) {
	c := newPodman(t, "minirun") // podman has img:1
	plain := c.plainRegistry()
	secret, authority := c.tlsRegistry()
	a := c.minirunStore("a")
	archive := c.image()
	at := func(name string) string { return filepath.Join(c.dir, name) }

	// Pushed by each tool, in each form.
	host := "docker://" + plainRegistry
	for tag, format := range map[string]string{"docker": "v2s2", "gzip": "oci"} {
		c.skopeo("copy", "--quiet", "--dest-tls-verify=false", "--format", format, "docker-archive:"+archive, host+"/skopeo:"+tag)
	}
	c.ok("push", "-q", "--tls-verify=false", "--format", "v2s2", "img:1", plainRegistry+"/podman:docker")
	c.ok("push", "-q", "--tls-verify=false", "--format", "oci", "img:1", plainRegistry+"/podman:oci")
	buildah := func(args ...string) { c.exec(append([]string{"/usr/bin/buildah"}, args...)...) }
	c.write("context/file", "content\n", 0o644)
	c.write("context/Containerfile", "FROM scratch\nARG TARGETARCH\nCOPY file /etc/file.$TARGETARCH\nCOPY file /etc/second\n", 0o644)
	other := "arm64"
	if runtime.GOARCH == other {
		other = "amd64"
	}
	buildah("build", "-q", "--layers", "--platform", "linux/"+runtime.GOARCH+",linux/"+other, "--manifest", "multi", at("context"))
	buildah("manifest", "push", "-q", "--all", "--tls-verify=false", "multi", host+"/buildah:multi")
	// By way of a layout, and at the end: these tools offer a layer that the registry has by now, compressed in another way or not.
	c.skopeo("copy", "--quiet", "--dest-compress", "--dest-compress-format", "zstd", "docker-archive:"+archive, "oci:"+at("zstd")+":1")
	c.skopeo("copy", "--quiet", "--dest-tls-verify=false", "--preserve-digests", "oci:"+at("zstd")+":1", host+"/skopeo:zstd")

	types := []string{}
	const oci, docker = "application/vnd.oci.image.", "application/vnd.docker."
	for _, name := range []string{"skopeo:docker", "skopeo:gzip", "skopeo:zstd", "podman:docker", "podman:oci", "buildah:multi"} {
		repository, tag, _ := strings.Cut(name, ":")
		ref := plainRegistry + "/" + name
		a.ok("pull", "--quiet", "--all-platforms", ref)
		digest := plain.tag(repository, tag)
		if got := a.inspect(ref); got.Digest != digest {
			t.Errorf("%s: we have %s, the registry %s", name, got.Digest, digest)
		}
		a.has(plain, ref, repository, tag)
		p := plain.parts(digest)
		types = append(types, name+" "+p.MediaType)
		for _, l := range p.Layers {
			types = append(types, l.MediaType)
		}
		for _, m := range p.Manifests {
			types = append(types, m.MediaType)
		}
		if out := a.ok("pull", "--all-platforms", ref); !strings.HasPrefix(out, "up to date: ") {
			t.Errorf("%s again: %q", name, out)
		}
	}
	// That the tools have made what this test is about.
	if got, want := strings.Join(types, "\n"), strings.Join([]string{
		"skopeo:docker " + docker + "distribution.manifest.v2+json", docker + "image.rootfs.diff.tar.gzip",
		"skopeo:gzip " + oci + "manifest.v1+json", oci + "layer.v1.tar+gzip",
		"skopeo:zstd " + oci + "manifest.v1+json", oci + "layer.v1.tar+zstd",
		"podman:docker " + docker + "distribution.manifest.v2+json", docker + "image.rootfs.diff.tar.gzip",
		"podman:oci " + oci + "manifest.v1+json", oci + "layer.v1.tar+gzip",
		"buildah:multi " + oci + "index.v1+json", oci + "manifest.v1+json", oci + "manifest.v1+json",
	}, "\n"); got != want {
		t.Errorf("media types:\n%s\nwant\n%s", got, want)
	}
	if out := a.ok("run", "--pull", "never", "--rm", "--image", plainRegistry+"/skopeo:zstd", "one", "echo", "hello"); out != "hello\n" {
		t.Errorf("run: %q", out)
	}

	registryTLS(c, a, authority)
	// We push to the other registry; skopeo and podman pull from there with the
	// login that we have made.
	for _, name := range []string{"skopeo:docker", "skopeo:zstd", "podman:docker", "podman:oci", "buildah:multi"} {
		repository, tag, _ := strings.Cut(name, ":")
		a.ok("push", "--quiet", plainRegistry+"/"+name, tlsRegistry+"/"+name)
		digest := plain.tag(repository, tag)
		if got := secret.tag(repository, tag); got != digest {
			t.Errorf("%s: after our push the registry has %s, want %s", name, got, digest)
			continue
		}
		for _, d := range secret.all(digest) {
			if !bytes.Equal(secret.blob(d), plain.blob(d)) {
				t.Errorf("%s: %s is not the same in both registries", name, d)
			}
		}
		to := at("back." + strings.Map(alnum, name))
		c.skopeo("copy", "--quiet", "--all", "--preserve-digests", "docker://"+tlsRegistry+"/"+name, "dir:"+to) // checks what it reads
		if b, err := os.ReadFile(to + "/manifest.json"); err != nil || "sha256:"+sha256Hex(string(b)) != digest {
			t.Errorf("%s: skopeo has pulled another manifest, want %s: %v", name, digest, err)
		}
		c.ok("pull", "-q", tlsRegistry+"/"+name)
		if out := c.ok("image", "inspect", "--format", "{{.RepoDigests}}", tlsRegistry+"/"+name); !strings.Contains(out, tlsRegistry+"/"+repository+"@"+digest) {
			t.Errorf("%s: podman has %s, want %s", name, out, digest)
		}
	}
	c.prints("hello", "run", "--rm", tlsRegistry+"/skopeo:zstd", "echo", "hello")
	if out := a.ok("image", "fsck"); out != "the store is in order\n" {
		t.Errorf("fsck: %s", out)
	}

	registryMirrors(c, plain)
	registryReferrers(c, plain)

	// What is gone there is an error and stays here.
	if code, _, _ := plain.request("DELETE", "/v2/skopeo/manifests/"+plain.tag("skopeo", "gzip"), "", nil); code != 202 {
		t.Fatalf("delete: status %d", code)
	}
	a.exits(1, "manifest gzip at "+plainRegistry+": 404 not found", "pull", plainRegistry+"/skopeo:gzip")
	a.ok("image", "verify", plainRegistry+"/skopeo:gzip")
}

// registryTLS logs in to the registry with an authority of its own and leaves the
// login, and the authority where docker, podman and we look for it.
func registryTLS(c *client, a *minirunStore, authority string) {
	t := c.t
	ref := tlsRegistry + "/skopeo:docker"
	login := func(password string, args ...string) testenv.Result {
		cmd := c.sandbox.command(slices.Concat(a.command, []string{"login", "--username", "alice", "--password-stdin"}, args, []string{tlsRegistry})...)
		cmd.Stdin = strings.NewReader(password + "\n")
		return testenv.RunCmdWithin(t, cmd, patience)
	}
	if r := login("s3cret"); r.Code != 1 || !strings.Contains(r.Stderr, "certificate signed by unknown authority") {
		t.Errorf("login without the authority: %+v", r)
	}
	// As containerd wants it, in a directory of ours.
	c.write("hosts/"+tlsRegistry+"/hosts.toml", fmt.Sprintf("server = \"https://%s\"\nca = %q\n", tlsRegistry, authority), 0o644)
	hosts := "--hosts-dir=" + filepath.Join(c.dir, "hosts")
	if r := login("wrong", hosts); r.Code != 1 || !strings.Contains(r.Stderr, "does not accept the credentials") {
		t.Errorf("wrong password: %+v", r)
	}
	a.exits(1, "wants a login", "push", hosts, plainRegistry+"/skopeo:docker", ref)
	if r := login("s3cret", hosts); r.Code != 0 || r.Stdout != "logged in to "+tlsRegistry+" as alice\n" {
		t.Errorf("login: %+v", r)
	}
	a.ok("push", "--quiet", hosts, plainRegistry+"/skopeo:docker", ref)
	a.ok("logout", tlsRegistry)
	a.exits(1, "wants a login", "pull", hosts, ref)
	// podman's login, in podman's own file.
	c.exec("sh", "-c", "mkdir -p /etc/docker/certs.d/"+tlsRegistry+" && cp "+authority+" /etc/docker/certs.d/"+tlsRegistry+"/ca.crt")
	c.ok("login", "--username", "alice", "--password", "s3cret", tlsRegistry)
	a.ok("pull", "--quiet", ref)
	c.ok("logout", tlsRegistry)
	a.exits(1, "wants a login", "pull", ref)
	// As docker wants it, and for the tools.
	if r := login("s3cret"); r.Code != 0 {
		t.Errorf("login: %+v", r)
	}
}

// registryMirrors pulls a name whose first mirror is down.
func registryMirrors(c *client, plain *registry) {
	t := c.t
	const name = "mirrored.test/podman:oci"
	hosts := func(dir string, mirrors ...string) string {
		text := "server = \"https://mirrored.test\"\n"
		for _, m := range mirrors {
			text += fmt.Sprintf("[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n", m)
		}
		c.write(dir+"/mirrored.test/hosts.toml", text, 0o644)
		return "--hosts-dir=" + filepath.Join(c.dir, dir)
	}
	m := c.minirunStore("mirrored")
	// Nobody answers at the first one.
	m.ok("pull", "--quiet", hosts("next", "http://127.0.0.1:5999", "http://"+plainRegistry), name)
	if got, want := m.inspect(name).Digest, plain.tag("podman", "oci"); got != want {
		t.Errorf("through a mirror: %s, want %s", got, want)
	}
	m.has(plain, name, "podman", "oci")
}

// registryReferrers has something about an image in the registry. This version of
// it has no API for referrers: the tag that stands in lists them.
func registryReferrers(c *client, plain *registry) {
	t := c.t
	subject := plain.tag("skopeo", "zstd")
	body := []byte(`{"sbom":"test"}`)
	empty := []byte("{}")
	const oci = "application/vnd.oci.image."
	artifact, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "artifactType": "application/vnd.example.sbom",
		"config":  map[string]any{"mediaType": "application/vnd.oci.empty.v1+json", "digest": plain.put("skopeo", "", "", empty), "size": len(empty)},
		"layers":  []any{map[string]any{"mediaType": "application/json", "digest": plain.put("skopeo", "", "", body), "size": len(body)}},
		"subject": map[string]any{"mediaType": oci + "manifest.v1+json", "digest": subject, "size": len(plain.blob(subject))},
	})
	if err != nil {
		t.Fatal(err)
	}
	digest := plain.put("skopeo", "", oci+"manifest.v1+json", artifact)
	list := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"%sindex.v1+json","manifests":[{"mediaType":"%[1]smanifest.v1+json","digest":%q,"size":%d,"artifactType":"application/vnd.example.sbom"}]}`,
		oci, digest, len(artifact))
	plain.put("skopeo", strings.Replace(subject, ":", "-", 1), oci+"index.v1+json", []byte(list))
	if code, _, _ := plain.request("GET", "/v2/skopeo/referrers/"+subject, "", nil); code != 404 {
		t.Errorf("referrers API: status %d, and this test is about a registry without", code)
	}
	m := c.minirunStore("about")
	ref := plainRegistry + "/skopeo:zstd"
	m.ok("pull", "--quiet", "--with-referrers", ref)
	if have := m.saved(ref); !bytes.Equal(have[digest], artifact) || !bytes.Equal(have["sha256:"+sha256Hex(string(body))], body) {
		t.Errorf("what is about the image is not in what is saved: %d blobs", len(have))
	}
	if got := m.inspect(ref).Digest; got != subject {
		t.Errorf("with referrers: %s, want %s", got, subject)
	}
}

// docker and ctr, with the containerd that dockerd has started.
func TestRootClientsRegistryDocker(t *testing.T) {
	c := newDocker(t, "minirun")
	plain := c.plainRegistry()
	a := c.minirunStore("a")
	c.ok("tag", "img:1", plainRegistry+"/docker:1")
	c.ok("push", "-q", plainRegistry+"/docker:1")
	ctr := func(args ...string) string {
		return c.exec(append([]string{"/usr/bin/ctr", "--address", "/run/docker/containerd/containerd.sock"}, args...)...)
	}
	ctr("image", "import", c.image())
	ctr("image", "push", "--plain-http", plainRegistry+"/ctr:1", ctrImage)
	for _, repository := range []string{"docker", "ctr"} {
		ref := plainRegistry + "/" + repository
		a.ok("pull", "--quiet", ref+":1")
		digest := plain.tag(repository, "1")
		if got := a.inspect(ref + ":1").Digest; got != digest {
			t.Errorf("%s: we have %s, the registry %s", repository, got, digest)
		}
		a.has(plain, ref+":1", repository, "1")
		// Under a name of ours, for both of them.
		a.ok("push", "--quiet", ref+":1", plainRegistry+"/ours-"+repository+":1")
		if got := plain.tag("ours-"+repository, "1"); got != digest {
			t.Errorf("after our push: %s, want %s", got, digest)
		}
		if out := c.ok("pull", plainRegistry+"/ours-"+repository+":1"); !strings.Contains(out, "Digest: "+digest+"\n") {
			t.Errorf("docker pull, want %s:\n%s", digest, out)
		}
		ctr("image", "pull", "--plain-http", plainRegistry+"/ours-"+repository+":1")
		if out := ctr("image", "ls", "name=="+plainRegistry+"/ours-"+repository+":1"); !strings.Contains(out, digest) {
			t.Errorf("ctr has, want %s:\n%s", digest, out)
		}
	}
	c.prints("hello", "run", "--rm", "--network=none", plainRegistry+"/ours-ctr:1", "echo", "hello")
	dockerFiles(c, a, plain, ctr)
	c.stop(syscall.SIGTERM)
}
