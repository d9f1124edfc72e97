package registry_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/imagetest"
	"github.com/minirun/minirun/imagestore/registry"
	"github.com/minirun/minirun/imagestore/registrytest"
)

// sign puts a signature of an image into a registry.
func sign(t *testing.T, srv *registrytest.Server, repo string, b *imagetest.Built, tags ...string) (imagestore.Descriptor, []byte) {
	t.Helper()
	content := []byte("signed: " + string(b.Manifest.Digest))
	blob := func(mediaType string, body []byte) imagestore.Descriptor {
		return imagestore.Descriptor{MediaType: mediaType, Digest: imagestore.Digest(srv.AddBlob(repo, body)), Size: int64(len(body))}
	}
	body := imagetest.JSON(t, imagestore.Manifest{
		SchemaVersion: 2, MediaType: imagestore.MediaTypeManifest, ArtifactType: "application/vnd.example.signature",
		Config: blob("application/vnd.oci.empty.v1+json", []byte("{}")), Layers: []imagestore.Descriptor{blob("text/plain", content)}, Subject: &b.Manifest,
	})
	d := imagestore.Descriptor{MediaType: imagestore.MediaTypeManifest, Digest: imagestore.FromBytes(body), Size: int64(len(body))}
	srv.AddManifest(repo, d.MediaType, body, tags...)
	return d, content
}

func TestPull_Referrers(t *testing.T) {
	for _, noAPI := range []bool{false, true} {
		b := build(t, 50)
		srv := registrytest.New(t, registrytest.Options{NoReferrers: noAPI})
		publish(srv, "test/one", b, "v1")
		sig, content := sign(t, srv, "test/one", b)
		if noAPI {
			x := imagestore.Index{SchemaVersion: 2, MediaType: imagestore.MediaTypeIndex, Manifests: []imagestore.Descriptor{sig}}
			srv.AddManifest("test/one", imagestore.MediaTypeIndex, imagetest.JSON(t, x), "sha256-"+b.Manifest.Digest.Hex())
		}
		name := srv.Host() + "/test/one:v1"
		s := newStore(t)
		res, err := client(t, quick()).Pull(t.Context(), s, reference(t, name), registry.PullOptions{Referrers: true})
		if err != nil {
			t.Fatal(err)
		}
		check(t, s, name, b)
		if len(res.Referrers) != 1 || res.Referrers[0].Digest != sig.Digest {
			t.Errorf("%+v", res.Referrers)
		}
		if got, err := s.ReadBlob("signature", imagestore.Descriptor{Digest: imagestore.FromBytes(content), Size: int64(len(content))}, 1000); err != nil || string(got) != string(content) {
			t.Errorf("%q, %v", got, err)
		}
		// Again, and it goes with the image.
		if res, err := client(t, quick()).Pull(t.Context(), s, reference(t, name), registry.PullOptions{Referrers: true}); err != nil || !res.UpToDate {
			t.Errorf("%+v, %v", res, err)
		}
		if _, err := s.Remove(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		if left, err := s.List(); err != nil || len(left) != 0 {
			t.Errorf("left: %+v, %v", left, err)
		}
	}
	// None, and a list that lies.
	b := build(t, 51)
	srv := registrytest.New(t, registrytest.Options{NoReferrers: true})
	publish(srv, "test/one", b, "v1")
	name := srv.Host() + "/test/one:v1"
	if res, err := client(t, quick()).Pull(t.Context(), newStore(t), reference(t, name), registry.PullOptions{Referrers: true}); err != nil || len(res.Referrers) != 0 {
		t.Errorf("none: %+v, %v", res, err)
	}
	sig, _ := sign(t, srv, "test/one", build(t, 52))
	x := imagestore.Index{SchemaVersion: 2, MediaType: imagestore.MediaTypeIndex, Manifests: []imagestore.Descriptor{sig}}
	srv.AddManifest("test/one", imagestore.MediaTypeIndex, imagetest.JSON(t, x), "sha256-"+b.Manifest.Digest.Hex())
	s := newStore(t)
	if _, err := client(t, quick()).Pull(t.Context(), s, reference(t, name), registry.PullOptions{Referrers: true}); err == nil || !strings.Contains(err.Error(), "it is listed as one about") {
		t.Errorf("of another image: %v", err)
	}
	if list, _ := s.List(); len(list) != 0 {
		t.Errorf("kept: %+v", list)
	}
}

// Layers are there to be unpacked before the last one has come, and what the
// unpacker says ends the transfer.
func TestPull_Arriving(t *testing.T) {
	b := build(t, 53)
	srv := registrytest.New(t, registrytest.Options{})
	publish(srv, "test/one", b, "v1")
	unpacked := make(chan struct{})
	srv.Fail(registrytest.Fault{Path: string(b.Layers[1].Digest), Do: func(*http.Request) { <-unpacked }})
	name := srv.Host() + "/test/one:v1"
	s := newStore(t)
	_, err := client(t, quick()).Pull(t.Context(), s, reference(t, name), registry.PullOptions{
		Arriving: func(_ context.Context, g *imagestore.Ingest, target imagestore.Descriptor) error {
			img, err := g.Image(target)
			if err != nil || len(img.Layers) != 2 {
				t.Errorf("%+v, %v", img, err)
			}
			f, err := g.OpenBlob("layer", b.Layers[0])
			if err != nil {
				t.Error(err)
			} else {
				f.Close()
			}
			close(unpacked) // only now the second one comes
			f, err = g.OpenBlob("layer", b.Layers[1])
			if err != nil {
				return err
			}
			return f.Close()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	check(t, s, name, b)
	bad := errors.New("cannot be unpacked")
	s = newStore(t)
	_, err = client(t, quick()).Pull(t.Context(), s, reference(t, name), registry.PullOptions{
		Arriving: func(context.Context, *imagestore.Ingest, imagestore.Descriptor) error { return bad },
	})
	if !errors.Is(err, bad) {
		t.Errorf("%v, want %v", err, bad)
	}
	if list, _ := s.List(); len(list) != 0 {
		t.Errorf("kept: %+v", list)
	}
}
