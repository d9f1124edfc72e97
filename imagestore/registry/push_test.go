package registry_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/imagetest"
	"github.com/minirun/minirun/imagestore/registry"
	"github.com/minirun/minirun/imagestore/registrytest"
)

// stored is a store with an image, pulled from a registry that is gone.
func stored(t *testing.T, b *imagetest.Built, name string) *imagestore.Store {
	t.Helper()
	src := registrytest.New(t, registrytest.Options{})
	publish(src, "src", b, "v1")
	s := newStore(t)
	from := src.Host() + "/src:v1"
	if _, err := client(t, quick()).Pull(t.Context(), s, reference(t, from), registry.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Tag(t.Context(), from, name); err != nil {
		t.Fatal(err)
	}
	return s
}

// has wants an image to be in a registry, byte for byte.
func has(t *testing.T, srv *registrytest.Server, repo, ref string, b *imagetest.Built) {
	t.Helper()
	mediaType, body, ok := srv.Manifest(repo, ref)
	if !ok || mediaType != b.Manifest.MediaType || !bytes.Equal(body, b.Blobs[b.Manifest.Digest]) {
		t.Errorf("manifest %s: %v, %s %q", ref, ok, mediaType, body)
	}
	for _, d := range append(b.Layers, b.Config) {
		if got, ok := srv.Blob(repo, string(d.Digest)); !ok || !bytes.Equal(got, b.Blobs[d.Digest]) {
			t.Errorf("blob %s: %v", d.Digest, ok)
		}
	}
}

func TestPush(t *testing.T) {
	b := build(t, 40)
	for _, o := range []registrytest.Options{{}, {User: user, Password: password, Bearer: true}, {User: user, Password: password}} {
		srv := registrytest.New(t, o)
		name := srv.Host() + "/test/one:v1"
		s := stored(t, b, name)
		opts := quick()
		opts.Credentials = alice(srv.Host())
		c := client(t, opts)
		var last registry.Progress
		res, err := c.Push(t.Context(), s, name, registry.PushOptions{Progress: func(p registry.Progress) { last = p }})
		if err != nil {
			t.Fatal(err)
		}
		has(t, srv, "test/one", "v1", b)
		has(t, srv, "test/one", string(b.Manifest.Digest), b)
		if res.Name != name || res.Target.Digest != b.Manifest.Digest || res.Wire != blobBytes(b) || last.Done != last.Total || last.BlobsDone != 3 {
			t.Errorf("%+v, %+v", res, last)
		}
		// Again: nothing is sent but the manifest.
		srv.Reset()
		if res, err := c.Push(t.Context(), s, name, registry.PushOptions{}); err != nil || res.Wire != 0 || srv.Count("PATCH", "") != 0 {
			t.Errorf("again: %+v, %v", res, err)
		}
		// To another repository: what this one has is taken over.
		to := reference(t, srv.Host()+"/other/two:v2")
		srv.Reset()
		if res, err := c.Push(t.Context(), s, name, registry.PushOptions{As: &to}); err != nil || res.Mounted != 3 || res.Wire != 0 {
			t.Errorf("mounted: %+v, %v", res, err)
		}
		has(t, srv, "other/two", "v2", b)
		// It comes back the same.
		back := newStore(t)
		if _, err := client(t, opts).Pull(t.Context(), back, to, registry.PullOptions{}); err != nil {
			t.Fatal(err)
		}
		check(t, back, to.String(), b)
	}
}

func TestPush_Faults(t *testing.T) {
	b := build(t, 41)
	const patch = "/blobs/uploads/"
	for _, tt := range []struct {
		name  string
		f     registrytest.Fault
		fails string
		more  int64
	}{
		{name: "cut", f: registrytest.Fault{Method: "PATCH", Path: patch, Cut: 200 << 10, Times: 1}},
		{name: "cut often", f: registrytest.Fault{Method: "PATCH", Path: patch, Cut: 50 << 10, Times: 5}},
		{name: "500", f: registrytest.Fault{Method: "PATCH", Path: patch, Status: 500, Times: 2}, more: 2 * layerSize},
		{name: "500 for HEAD", f: registrytest.Fault{Method: "HEAD", Path: "/blobs/", Status: 500, Times: 2}},
		{name: "429 for the manifest", f: registrytest.Fault{Method: "PUT", Path: "/manifests/", Status: 429, Times: 1, Header: map[string]string{"Retry-After": "1"}}},
		{name: "403", f: registrytest.Fault{Method: "POST", Path: patch, Status: 403, Body: `{"errors":[{"code":"DENIED","message":"read only"}]}`}, fails: "403 forbidden, DENIED: read only"},
		{name: "500 always", f: registrytest.Fault{Method: "PATCH", Path: patch, Status: 500}, fails: "500 internal server error"},
		{name: "no place", f: registrytest.Fault{Method: "POST", Path: patch, Status: 202}, fails: "is no URL"},
		{name: "bad place", f: registrytest.Fault{Method: "POST", Path: patch, Status: 202, Header: map[string]string{"Location": "ftp://other.example/x"}}, fails: "https must not become http"},
		{name: "stall", f: registrytest.Fault{Method: "POST", Path: patch, StallHead: true}, fails: "nothing arrived for"},
		{name: "forgets the upload", f: registrytest.Fault{Method: "PATCH", Path: patch, Status: 503, Times: 1, Do: func(*http.Request) {}}, more: layerSize + 10000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := registrytest.New(t, registrytest.Options{})
			name := srv.Host() + "/test/one:v1"
			s := stored(t, b, name)
			srv.Fail(tt.f)
			o := quick()
			if tt.f.StallHead {
				o.Stall, o.Attempts = 50*time.Millisecond, 2
			}
			res, err := client(t, o).Push(t.Context(), s, name, registry.PushOptions{})
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) || !strings.HasPrefix(err.Error(), "push ") {
					t.Errorf("error %v, want %q", err, tt.fails)
				}
				if _, _, ok := srv.Manifest("test/one", "v1"); ok {
					t.Error("the manifest was sent")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			has(t, srv, "test/one", "v1", b)
			// What was in flight when a connection broke is sent again, no more.
			if extra := srv.BlobBytes() - blobBytes(b); extra > tt.more {
				t.Errorf("%d bytes arrived twice (%+v)", extra, res)
			}
			if left, err := s.GC(t.Context()); err != nil || left.Blobs != 0 {
				t.Errorf("gc: %+v, %v", left, err)
			}
		})
	}
}

// An upload that goes on at another host goes there without credentials.
func TestPush_Elsewhere(t *testing.T) {
	b := build(t, 42)
	other := stranger(t, registrytest.Options{})
	srv := registrytest.New(t, registrytest.Options{User: user, Password: password})
	srv.Fail(registrytest.Fault{Method: "POST", Path: "/uploads/", Status: 202, Header: map[string]string{"Location": other.URL + "/v2/x/blobs/uploads/1?state=a+b"}})
	name := srv.Host() + "/test/one:v1"
	o := quick()
	o.Credentials = alice(srv.Host())
	if _, err := client(t, o).Push(t.Context(), stored(t, b, name), name, registry.PushOptions{}); err == nil || !strings.Contains(err.Error(), "BLOB_UPLOAD_UNKNOWN") {
		t.Errorf("%v", err)
	}
}

func TestPush_Index(t *testing.T) {
	src := registrytest.New(t, registrytest.Options{})
	m := newMulti(t, src, "many", "v1")
	srv := registrytest.New(t, registrytest.Options{})
	s := newStore(t)
	from := reference(t, src.Host()+"/many:v1")
	name := srv.Host() + "/test/many:v1"
	pull := func(o registry.PullOptions) {
		if _, err := client(t, quick()).Pull(t.Context(), s, from, o); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Tag(t.Context(), from.String(), name); err != nil {
			t.Fatal(err)
		}
	}
	pull(registry.PullOptions{})
	_, err := client(t, quick()).Push(t.Context(), s, name, registry.PushOptions{})
	var incomplete *registry.IncompleteError
	if !errors.As(err, &incomplete) || !strings.Contains(err.Error(), "linux/s390x") || !strings.Contains(incomplete.Hint(), "pull --all-platforms") || !strings.Contains(incomplete.Hint(), "--platform "+imagestore.HostPlatform().String()) {
		t.Errorf("%v", err)
	}
	if len(srv.Requests()) != 0 {
		t.Errorf("%d requests before the error", len(srv.Requests()))
	}
	host := imagestore.HostPlatform()
	to := reference(t, srv.Host()+"/test/one:v1")
	if _, err := client(t, quick()).Push(t.Context(), s, name, registry.PushOptions{Platform: &host, As: &to}); err != nil {
		t.Fatal(err)
	}
	has(t, srv, "test/one", "v1", m.host)

	pull(registry.PullOptions{AllPlatforms: true})
	if _, err := client(t, quick()).Push(t.Context(), s, name, registry.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	if mediaType, body, ok := srv.Manifest("test/many", "v1"); !ok || mediaType != imagestore.MediaTypeIndex || !bytes.Equal(body, m.body) {
		t.Errorf("the index is %s %q", mediaType, body)
	}
	for _, b := range []*imagetest.Built{m.host, m.other, m.note} {
		has(t, srv, "test/many", string(b.Manifest.Digest), b)
	}
	// By digest: without a tag.
	digest := reference(t, srv.Host()+"/test/bydigest@"+string(m.digest))
	if _, err := client(t, quick()).Push(t.Context(), s, name, registry.PushOptions{As: &digest}); err != nil {
		t.Fatal(err)
	}
	if _, _, ok := srv.Manifest("test/bydigest", string(m.digest)); !ok {
		t.Error("not there by digest")
	}
	wrong := reference(t, srv.Host()+"/x@sha256:"+strings.Repeat("0", 64))
	if _, err := client(t, quick()).Push(t.Context(), s, name, registry.PushOptions{As: &wrong}); err == nil || !strings.Contains(err.Error(), "which is not that of") {
		t.Errorf("another digest: %v", err)
	}
	if _, err := client(t, quick()).Push(t.Context(), s, "none", registry.PushOptions{}); err == nil || !strings.Contains(err.Error(), `image "none" does not exist`) {
		t.Errorf("none: %v", err)
	}
}

// Layers that only their owner may distribute stay where they are.
func TestPush_Foreign(t *testing.T) {
	b := build(t, 43)
	b.Layers[0].MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	b.Layers[0].URLs = []string{"https://vendor.example/layer"}
	body := imagetest.JSON(t, imagestore.Manifest{SchemaVersion: 2, MediaType: imagestore.MediaTypeManifest, Config: b.Config, Layers: b.Layers})
	b.Manifest = imagestore.Descriptor{MediaType: imagestore.MediaTypeManifest, Digest: imagestore.FromBytes(body), Size: int64(len(body))}
	b.Blobs[b.Manifest.Digest] = body
	srv := registrytest.New(t, registrytest.Options{})
	name := srv.Host() + "/test/one:v1"
	s := stored(t, b, name)
	srv.AddBlob("test/one", []byte("unrelated"))
	_, err := client(t, quick()).Push(t.Context(), s, name, registry.PushOptions{})
	if _, ok := srv.Blob("test/one", string(b.Layers[0].Digest)); ok || err == nil || !strings.Contains(err.Error(), "MANIFEST_BLOB_UNKNOWN") {
		t.Errorf("sent: %v, %v", ok, err) // registries that know the type take the manifest
	}
}

func TestPush_Cancel(t *testing.T) {
	b := build(t, 44)
	srv := registrytest.New(t, registrytest.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	srv.Fail(registrytest.Fault{Method: "HEAD", Path: "/blobs/", StallHead: true, Do: func(*http.Request) { cancel() }})
	name := srv.Host() + "/test/one:v1"
	if _, err := client(t, quick()).Push(ctx, stored(t, b, name), name, registry.PushOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
