package registry_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/imagetest"
	"github.com/minirun/minirun/imagestore/registry"
	"github.com/minirun/minirun/imagestore/registrytest"
)

// multi is an index of an image for this host, one for another and an attestation.
type multi struct {
	host, other, note *imagetest.Built
	body              []byte
	digest            imagestore.Digest
}

func newMulti(t *testing.T, srv *registrytest.Server, repo, tag string) *multi {
	t.Helper()
	m := &multi{host: build(t, 30), other: build(t, 31, func(im *imagetest.Image) {
		im.Config.OS, im.Config.Architecture = "linux", "s390x"
	}), note: build(t, 32)}
	x := imagestore.Index{SchemaVersion: 2, MediaType: imagestore.MediaTypeIndex}
	for b, p := range map[*imagetest.Built]imagestore.Platform{
		m.host: imagestore.HostPlatform(), m.other: {OS: "linux", Architecture: "s390x"}, m.note: {OS: "unknown", Architecture: "unknown"},
	} {
		publish(srv, repo, b)
		d := b.Manifest
		d.Platform = &p
		x.Manifests = append(x.Manifests, d)
	}
	m.body = imagetest.JSON(t, x)
	m.digest = imagestore.Digest(srv.AddManifest(repo, imagestore.MediaTypeIndex, m.body, tag))
	return m
}

func TestPull_Platforms(t *testing.T) {
	srv := registrytest.New(t, registrytest.Options{})
	m := newMulti(t, srv, "test/many", "v1")
	name := srv.Host() + "/test/many:v1"
	ref := reference(t, name)

	s := newStore(t)
	res, err := client(t, quick()).Pull(t.Context(), s, ref, registry.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	check(t, s, name, m.host)
	if res.Target.Digest != m.digest || srv.BlobBytes() != blobBytes(m.host) {
		t.Errorf("%+v, %d bytes", res, srv.BlobBytes())
	}
	if b, err := s.ReadBlob("index", res.Target, imagestore.MaxMetadata); err != nil || string(b) != string(m.body) {
		t.Errorf("the index is not the registry's: %v", err)
	}

	// Another platform comes to the same index.
	srv.Reset()
	other := imagestore.Platform{OS: "linux", Architecture: "s390x"}
	if res, err = client(t, quick()).Pull(t.Context(), s, ref, registry.PullOptions{Platform: &other}); err != nil || res.UpToDate || res.Wire == 0 {
		t.Errorf("%+v, %v", res, err)
	}
	check(t, s, name, m.host)
	if n := srv.Count("GET", "/blobs/"); n != 2 {
		t.Errorf("%d blobs were fetched, want the other image's", n)
	}
	srv.Reset()
	res, err = client(t, quick()).Pull(t.Context(), s, ref, registry.PullOptions{AllPlatforms: true})
	if err != nil || srv.Count("GET", string(m.note.Manifest.Digest)) != 1 {
		t.Errorf("all: %+v, %v", res, err)
	}
	for _, b := range []*imagetest.Built{m.host, m.other, m.note} {
		for d, body := range b.Blobs {
			if _, err := s.ReadBlob("blob", imagestore.Descriptor{Digest: d, Size: int64(len(body))}, 8<<20); err != nil {
				t.Error(err)
			}
		}
	}
	residue(t, s)

	// None for it: said before anything big comes, with what there is.
	srv.Reset()
	none := imagestore.Platform{OS: "linux", Architecture: "riscv64"}
	_, err = client(t, quick()).Pull(t.Context(), newStore(t), ref, registry.PullOptions{Platform: &none})
	var np *registry.NoPlatformError
	if !errors.As(err, &np) || !strings.Contains(err.Error(), "there is none for linux/riscv64, only for ") || !strings.Contains(err.Error(), "linux/s390x") {
		t.Errorf("%v", err)
	}
	publish(srv, "test/foreign", m.other, "v1")
	_, err = client(t, quick()).Pull(t.Context(), newStore(t), reference(t, srv.Host()+"/test/foreign:v1"), registry.PullOptions{})
	if !errors.As(err, &np) || np.Hint() != "to have it all the same, to push it elsewhere for example: --platform linux/s390x" {
		t.Errorf("%v", err)
	}
	if n := srv.Count("GET", string(m.other.Layers[1].Digest)); n != 0 {
		t.Errorf("a layer of an image for another platform was fetched")
	}
}

func TestPull_Refused(t *testing.T) {
	srv := registrytest.New(t, registrytest.Options{})
	b := build(t, 33)
	publish(srv, "r", b)
	add := func(tag, mediaType, body string) { srv.AddManifest("r", mediaType, []byte(body), tag) }
	manifest := string(b.Blobs[b.Manifest.Digest])
	add("schema1", "application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1,"fsLayers":[]}`)
	add("schema1-json", "application/json", `{"schemaVersion":1,"fsLayers":[]}`)
	add("artifact-manifest", "application/vnd.oci.artifact.manifest.v1+json", `{}`)
	add("unknown", "application/vnd.example.thing+json", `{}`)
	add("no-json", "application/json", `<html>`)
	add("nothing", "application/json", `{"schemaVersion":2}`)
	add("both", imagestore.MediaTypeManifest, strings.Replace(manifest, `"layers"`, `"manifests":[],"layers"`, 1))
	add("other-type", imagestore.MediaTypeDockerImage, manifest+" ")
	add("artifact", imagestore.MediaTypeManifest, strings.Replace(manifest, b.Config.MediaType, "application/vnd.example.config+json", 1))
	add("layer", imagestore.MediaTypeManifest, strings.Replace(manifest, `.tar"`, `.tar+encrypted"`, 1))
	add("path", imagestore.MediaTypeManifest, strings.Replace(manifest, string(b.Layers[0].Digest), "sha256:../../../etc/passwd", 1))
	add("huge", imagestore.MediaTypeManifest, strings.Replace(manifest, `"size":`, `"size":9000000000000000`, 2))
	add("plain-json", "application/json; charset=utf-8", manifest)
	x := imagestore.Index{SchemaVersion: 2, MediaType: imagestore.MediaTypeIndex}
	lie := b.Manifest
	lie.Size--
	host := imagestore.HostPlatform()
	lie.Platform = &host
	x.Manifests = append(x.Manifests, lie)
	add("wrong-size", imagestore.MediaTypeIndex, string(imagetest.JSON(t, x)))
	for tag, want := range map[string]string{
		"schema1":           "docker image manifest version 2, schema 1",
		"schema1-json":      "docker image manifest version 2, schema 1",
		"artifact-manifest": "OCI artifact manifest",
		"unknown":           `content type "application/vnd.example.thing+json" is no manifest's`,
		"no-json":           "it is no manifest",
		"nothing":           "its own media type is missing",
		"both":              `ambiguous: a manifest must not have "manifests"`,
		"other-type":        "ambiguous: its mediaType is",
		"artifact":          `it is an artifact of type "application/vnd.example.config+json"`,
		"layer":             `layer 2 is of media type "application/vnd.oci.image.layer.v1.tar+encrypted"`,
		"path":              `digest "sha256:../../../etc/passwd" is not`,
		"huge":              "more than the limit of",
		"wrong-size":        "content is longer than the",
		"plain-json":        "",
		"none":              "404 not found",
	} {
		s := newStore(t)
		_, err := client(t, quick()).Pull(t.Context(), s, reference(t, srv.Host()+"/r:"+tag), registry.PullOptions{})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: error %v, want %q", tag, err, want)
		}
		if want != "" {
			if list, _ := s.List(); len(list) > 0 {
				t.Errorf("%s: the store has %v", tag, list)
			}
		}
	}
	// More than there is space for.
	size := func(n string) string {
		return strings.Replace(manifest, `"size":`+itoa(b.Layers[1].Size), `"size":`+n, 1)
	}
	add("big", imagestore.MediaTypeManifest, size("1000000000000000"))
	_, err := client(t, quick()).Pull(t.Context(), newStore(t), reference(t, srv.Host()+"/r:big"), registry.PullOptions{})
	var space *registry.SpaceError
	if !errors.As(err, &space) || space.Need < 9e14 {
		t.Errorf("a petabyte: %v", err)
	}
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
