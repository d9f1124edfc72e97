package registry_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/imagetest"
	"github.com/minirun/minirun/imagestore/registry"
	"github.com/minirun/minirun/imagestore/registrytest"
)

// sbom puts a manifest about an image into a registry.
func sbom(t *testing.T, srv *registrytest.Server, repo string, b *imagetest.Built, n int) imagestore.Descriptor {
	t.Helper()
	blob := func(mediaType string, body []byte) imagestore.Descriptor {
		return imagestore.Descriptor{MediaType: mediaType, Digest: imagestore.Digest(srv.AddBlob(repo, body)), Size: int64(len(body))}
	}
	body := imagetest.JSON(t, imagestore.Manifest{
		SchemaVersion: 2, MediaType: imagestore.MediaTypeManifest, ArtifactType: "application/vnd.example.sbom",
		Config: blob("application/vnd.oci.empty.v1+json", []byte("{}")), Layers: []imagestore.Descriptor{blob("text/plain", fmt.Appendf(nil, "part %d", n))},
		Subject: &b.Manifest, Annotations: map[string]string{"n": fmt.Sprint(n)},
	})
	d := imagestore.Descriptor{MediaType: imagestore.MediaTypeManifest, Digest: imagestore.FromBytes(body), Size: int64(len(body))}
	srv.AddManifest(repo, d.MediaType, body)
	return d
}

// cosigned puts a signature into a registry as cosign does: by its tag, or as a referrer.
func cosigned(t *testing.T, srv *registrytest.Server, repo string, b *imagetest.Built, referrer bool) (d imagestore.Descriptor, tag string) {
	t.Helper()
	payload, config := []byte("payload of "+b.Manifest.Digest), []byte("{}")
	m := imagestore.Manifest{
		SchemaVersion: 2, MediaType: imagestore.MediaTypeManifest,
		Config: imagestore.Descriptor{MediaType: "application/vnd.oci.image.config.v1+json", Digest: imagestore.Digest(srv.AddBlob(repo, config)), Size: int64(len(config))},
		Layers: []imagestore.Descriptor{{
			MediaType: imagestore.MediaTypeSimpleSigning, Digest: imagestore.Digest(srv.AddBlob(repo, payload)), Size: int64(len(payload)),
			Annotations: map[string]string{imagestore.AnnotationSignature: "c2lnbmF0dXJl"},
		}},
	}
	tag = imagestore.SignatureTag(b.Manifest.Digest)
	tags := []string{tag}
	if referrer {
		m.Subject, tags = &b.Manifest, nil
	}
	body := imagetest.JSON(t, m)
	d = imagestore.Descriptor{MediaType: imagestore.MediaTypeManifest, Digest: imagestore.FromBytes(body), Size: int64(len(body))}
	srv.AddManifest(repo, d.MediaType, body, tags...)
	return d, tag
}

// What is about an image comes from a list of several pages, and goes with the image to
// another registry, whether that keeps the list or leaves it to a tag.
func TestPush_About(t *testing.T) {
	b := build(t, 60)
	src := registrytest.New(t, registrytest.Options{ReferrersPage: 2})
	publish(src, "test/one", b, "v1")
	var boms []imagestore.Descriptor
	for n := range 5 {
		boms = append(boms, sbom(t, src, "test/one", b, n))
	}
	sigTagged, tag := cosigned(t, src, "test/one", b, false)
	sigReferrer, _ := cosigned(t, src, "test/one", b, true)
	from := src.Host() + "/test/one:v1"
	s := newStore(t)
	res, err := client(t, quick()).Pull(t.Context(), s, reference(t, from), registry.PullOptions{
		Referrers: true, Trust: func([]imagestore.Digest, []imagestore.Signature) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Referrers) != 7 || src.Count("GET", "/referrers/") < 3 {
		t.Fatalf("%d referrers on %d pages, want 7", len(res.Referrers), src.Count("GET", "/referrers/"))
	}
	listed := func(srv *registrytest.Server) (n int) {
		t.Helper()
		_, body, ok := srv.Manifest("copy/one", "sha256-"+b.Manifest.Digest.Hex())
		if !ok {
			return 0
		}
		x, err := imagestore.ParseIndex(body, imagestore.MediaTypeIndex)
		if err != nil {
			t.Fatal(err)
		}
		return len(x.Manifests)
	}
	for _, noAPI := range []bool{false, true} {
		for _, tt := range []struct {
			about      registry.About
			sent, list int
		}{{registry.Nothing, 0, 0}, {registry.Signatures, 2, 1}, {registry.Everything, 7, 6}} {
			dst := registrytest.New(t, registrytest.Options{NoReferrers: noAPI})
			to := reference(t, dst.Host()+"/copy/one:v2")
			push := func() *registry.Pushed {
				t.Helper()
				res, err := client(t, quick()).Push(t.Context(), s, from, registry.PushOptions{As: &to, About: tt.about})
				if err != nil {
					t.Fatal(err)
				}
				return res
			}
			res := push()
			has(t, dst, "copy/one", "v2", b)
			if len(res.About) != tt.sent {
				t.Errorf("no API %v, %v: %d were sent, want %d", noAPI, tt.about, len(res.About), tt.sent)
			}
			for _, d := range append(boms, sigReferrer, sigTagged) {
				want := tt.about == registry.Everything || tt.about == registry.Signatures && (d.Digest == sigReferrer.Digest || d.Digest == sigTagged.Digest)
				_, got, ok := dst.Manifest("copy/one", string(d.Digest))
				_, orig, _ := src.Manifest("test/one", string(d.Digest))
				if ok != want || ok && !bytes.Equal(got, orig) {
					t.Errorf("no API %v, %v: %s is there: %v, want %v", noAPI, tt.about, d.Digest, ok, want)
				}
			}
			if _, got, ok := dst.Manifest("copy/one", tag); ok != (tt.sent > 0) || ok && imagestore.FromBytes(got) != sigTagged.Digest {
				t.Errorf("no API %v, %v: the tag of signatures is there: %v", noAPI, tt.about, ok)
			}
			if want := map[bool]int{true: tt.list}[noAPI]; listed(dst) != want {
				t.Errorf("no API %v, %v: the tag in place of the list has %d, want %d", noAPI, tt.about, listed(dst), want)
			}
			if push(); noAPI && listed(dst) != tt.list { // again: nothing twice
				t.Errorf("again: %d in the list, want %d", listed(dst), tt.list)
			}
			if tt.sent == 0 {
				continue
			}
			// It can be pulled from there, and is the same.
			back := newStore(t)
			if res, err := client(t, quick()).Pull(t.Context(), back, to, registry.PullOptions{
				Referrers: true, Trust: func([]imagestore.Digest, []imagestore.Signature) error { return nil },
			}); err != nil || len(res.Referrers) != tt.sent {
				t.Errorf("no API %v, %v: back: %+v, %v", noAPI, tt.about, res, err)
			}
		}
	}
}

// Signatures that somebody else has made there are not overwritten; what is about the
// image comes before its name; and what cannot be sent is an error that names it.
func TestPush_AboutOthers(t *testing.T) {
	b := build(t, 61)
	src := registrytest.New(t, registrytest.Options{})
	publish(src, "test/one", b, "v1")
	_, tag := cosigned(t, src, "test/one", b, false)
	referrer, _ := cosigned(t, src, "test/one", b, true)
	from := src.Host() + "/test/one:v1"
	s := newStore(t)
	if _, err := client(t, quick()).Pull(t.Context(), s, reference(t, from), registry.PullOptions{
		Trust: func([]imagestore.Digest, []imagestore.Signature) error { return nil },
	}); err != nil {
		t.Fatal(err)
	}
	dst := registrytest.New(t, registrytest.Options{})
	other := imagetest.JSON(t, imagestore.Manifest{SchemaVersion: 2, MediaType: imagestore.MediaTypeManifest, Config: b.Config})
	dst.AddManifest("copy/one", imagestore.MediaTypeManifest, other, tag)
	to := reference(t, dst.Host()+"/copy/one:v2")
	res, err := client(t, quick()).Push(t.Context(), s, from, registry.PushOptions{As: &to})
	if err != nil || len(res.About) != 1 || len(res.Others) != 1 || res.Others[0] != tag {
		t.Errorf("%+v, %v", res, err)
	}
	if _, got, _ := dst.Manifest("copy/one", tag); !bytes.Equal(got, other) {
		t.Errorf("the signatures of others are %q now", got)
	}

	dst = registrytest.New(t, registrytest.Options{})
	dst.Fail(registrytest.Fault{Method: http.MethodPut, Path: string(referrer.Digest), Status: http.StatusForbidden})
	to = reference(t, dst.Host()+"/copy/one:v2")
	_, err = client(t, quick()).Push(t.Context(), s, from, registry.PushOptions{As: &to})
	var about *registry.AboutError
	if !errors.As(err, &about) || about.Digest != referrer.Digest || about.Hint() == "" {
		t.Errorf("refused: %v", err)
	}
	if _, _, ok := dst.Manifest("copy/one", "v2"); ok {
		t.Error("the image is named at the registry without its signature")
	}
	if _, err := client(t, quick()).Push(t.Context(), s, from, registry.PushOptions{As: &to, About: registry.Nothing}); err != nil {
		t.Errorf("alone: %v", err)
	}
}

// A registry that means harm with what is about an image: it is refused within bounds,
// and nothing is kept.
func TestPull_AboutHostile(t *testing.T) {
	b := build(t, 62)
	stranger := registrytest.New(t, registrytest.Options{})
	for _, tt := range []struct {
		name  string
		fault registrytest.Fault
		want  string
		most  int // requests
	}{
		{"pages without end", registrytest.Fault{Path: "/referrers/", Header: map[string]string{"Link": `<?at=0>; rel="next"`}}, "more than 32 pages", 60},
		{"a page elsewhere", registrytest.Fault{Path: "/referrers/", Header: map[string]string{"Link": "<" + stranger.URL + "/v2/x>; rel=next"}}, "is not that host", 30},
		{"a page with a login", registrytest.Fault{Path: "/referrers/", Header: map[string]string{"Link": "<http://a:b@localhost/v2/x>; rel=next"}}, "is not that host", 30},
		{"a page by another scheme", registrytest.Fault{Path: "/referrers/", Header: map[string]string{"Link": "<file:///etc/passwd>; rel=next"}}, "is not that host", 30},
		{"a list without end", registrytest.Fault{Path: "/manifests/sha256-", Endless: true}, "longer than the limit", 60},
	} {
		for _, signatures := range []bool{false, true} {
			srv := registrytest.New(t, registrytest.Options{NoReferrers: strings.Contains(tt.fault.Path, "sha256-")})
			publish(srv, "test/one", b, "v1")
			x := imagestore.Index{SchemaVersion: 2, MediaType: imagestore.MediaTypeIndex}
			srv.AddManifest("test/one", imagestore.MediaTypeIndex, imagetest.JSON(t, x), "sha256-"+b.Manifest.Digest.Hex())
			srv.Fail(tt.fault)
			s := newStore(t)
			o := registry.PullOptions{Referrers: !signatures}
			if signatures {
				o.Trust = func([]imagestore.Digest, []imagestore.Signature) error { return nil }
			}
			_, err := client(t, quick()).Pull(t.Context(), s, reference(t, srv.Host()+"/test/one:v1"), o)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s, signatures %v: %v, want %q", tt.name, signatures, err, tt.want)
			}
			if list, _ := s.List(); len(list) != 0 {
				t.Errorf("%s, signatures %v: kept %+v", tt.name, signatures, list)
			}
			if n := len(srv.Requests()); n > tt.most {
				t.Errorf("%s, signatures %v: %d requests", tt.name, signatures, n)
			}
		}
	}
	if n := len(stranger.Requests()); n > 0 {
		t.Errorf("the stranger was asked %d times", n)
	}
}

// Signatures that mean harm: too large, of another content than their digest, too many.
func TestPull_SignatureHostile(t *testing.T) {
	b := build(t, 63)
	var seen []imagestore.Signature
	pull := func(srv *registrytest.Server) error {
		t.Helper()
		s := newStore(t)
		seen = nil
		_, err := client(t, quick()).Pull(t.Context(), s, reference(t, srv.Host()+"/test/one:v1"), registry.PullOptions{
			Trust: func(_ []imagestore.Digest, list []imagestore.Signature) error {
				if seen = list; len(list) == 0 {
					return errors.New("no signature")
				}
				return nil
			},
		})
		if list, _ := s.List(); err != nil && len(list) != 0 {
			t.Errorf("kept %+v", list)
		}
		return err
	}
	// manifest makes a manifest of n signatures, each said to be size bytes long.
	manifest := func(srv *registrytest.Server, n int, size int64) {
		config := []byte("{}")
		m := imagestore.Manifest{
			SchemaVersion: 2, MediaType: imagestore.MediaTypeManifest,
			Config: imagestore.Descriptor{MediaType: "application/vnd.oci.image.config.v1+json", Digest: imagestore.Digest(srv.AddBlob("test/one", config)), Size: 2},
		}
		for i := range n {
			payload := fmt.Appendf(nil, "payload %d", i)
			d := imagestore.Descriptor{
				MediaType: imagestore.MediaTypeSimpleSigning, Digest: imagestore.Digest(srv.AddBlob("test/one", payload)), Size: int64(len(payload)),
				Annotations: map[string]string{imagestore.AnnotationSignature: "c2lnbmF0dXJl"},
			}
			if size > 0 {
				d.Size = size
			}
			m.Layers = append(m.Layers, d)
		}
		srv.AddManifest("test/one", imagestore.MediaTypeManifest, imagetest.JSON(t, m), imagestore.SignatureTag(b.Manifest.Digest))
	}
	for _, tt := range []struct {
		name string
		n    int
		size int64
		path string
		do   registrytest.Fault
		want string // of the error, "" for none
	}{
		{name: "good", n: 2},
		{name: "a payload that is said to be huge", n: 1, size: 1 << 40, want: "no signature"},
		{name: "more than anybody needs", n: 257, want: "no signature"},
		{name: "a payload that does not end", n: 1, do: registrytest.Fault{Path: "/blobs/", Endless: true}, want: "longer than"},
		{name: "a payload of another digest", n: 1, do: registrytest.Fault{Path: "/blobs/", Flip: 3}, want: "digest"},
		{name: "a manifest that does not end", n: 1, do: registrytest.Fault{Path: ".sig", Endless: true}, want: "longer than"},
		{name: "a manifest of another kind", n: 1, do: registrytest.Fault{Path: ".sig", ContentType: "text/html"}, want: "text/html"},
	} {
		srv := registrytest.New(t, registrytest.Options{})
		publish(srv, "test/one", b, "v1")
		manifest(srv, tt.n, tt.size)
		if tt.do.Path != "" {
			srv.Fail(tt.do)
		}
		err := pull(srv)
		if tt.want == "" && (err != nil || len(seen) != tt.n) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v with %d signatures, want %q", tt.name, err, len(seen), tt.want)
		}
		if got := srv.BlobBytes(); got > 1<<20 {
			t.Errorf("%s: %d bytes of blobs came", tt.name, got)
		}
	}
}

// A host that does not answer is an error that says what to look at.
func TestPull_NobodyThere(t *testing.T) {
	srv := registrytest.New(t, registrytest.Options{})
	host := srv.Host()
	srv.Close()
	o := quick()
	o.Attempts = 1
	_, err := client(t, o).Pull(t.Context(), newStore(t), reference(t, host+"/x:v1"), registry.PullOptions{})
	var hinter interface{ Hint() string }
	if err == nil || !strings.Contains(err.Error(), "connection refused") || !errors.As(err, &hinter) || !strings.Contains(hinter.Hint(), "nothing listens there") {
		t.Errorf("%v", err)
	}
}
