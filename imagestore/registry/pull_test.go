package registry_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/decompress"
	"github.com/minirun/minirun/imagestore/imagetest"
	"github.com/minirun/minirun/imagestore/registry"
	"github.com/minirun/minirun/imagestore/registrytest"
)

func newStore(t testing.TB) *imagestore.Store {
	t.Helper()
	s, err := imagestore.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// noise is content that no compressor makes smaller.
func noise(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

// layerSize is that of the biggest layer of a test's image, about.
const layerSize = 300 << 10

func build(t testing.TB, seed uint64, more ...func(*imagetest.Image)) *imagetest.Built {
	t.Helper()
	im := imagetest.Image{Layers: []imagetest.Layer{
		{Tar: imagetest.Files(t, "base", "base"), Format: decompress.Gzip},
		{Tar: imagetest.Files(t, "big", string(noise(seed, layerSize)))},
	}}
	for _, f := range more {
		f(&im)
	}
	return imagetest.Build(t, im)
}

// publish puts an image into a registry.
func publish(srv *registrytest.Server, repo string, b *imagetest.Built, tags ...string) {
	for _, d := range append(b.Layers, b.Config) {
		srv.AddBlob(repo, b.Blobs[d.Digest])
	}
	srv.AddManifest(repo, b.Manifest.MediaType, b.Blobs[b.Manifest.Digest], tags...)
}

func reference(t testing.TB, name string) imagestore.Reference {
	t.Helper()
	r, err := imagestore.ParseReference(name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// quick are options for tests: everything that waits is short.
func quick() registry.Options {
	return registry.Options{Backoff: time.Millisecond, Attempts: 4, Stall: 10 * time.Second}
}

func client(t testing.TB, o registry.Options) *registry.Client {
	c := registry.New(o)
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// check wants an image to be complete in the store, and nothing half done there.
func check(t testing.TB, s *imagestore.Store, name string, b *imagetest.Built) {
	t.Helper()
	img, err := s.Resolve(name)
	if err != nil {
		t.Fatal(err)
	}
	if img.ConfigDigest != b.Config.Digest || img.Manifest.Digest != b.Manifest.Digest {
		t.Errorf("%s is image %s, want %s", name, img.ConfigDigest, b.Config.Digest)
	}
	if err := s.Verify(context.Background(), name); err != nil {
		t.Error(err)
	}
	residue(t, s)
}

func residue(t testing.TB, s *imagestore.Store) {
	t.Helper()
	for _, dir := range []string{"ingest", "partial"} {
		if names, _ := filepath.Glob(filepath.Join(s.Root(), dir, "*")); len(names) > 0 {
			t.Errorf("left: %v", names)
		}
	}
}

func blobBytes(b *imagetest.Built) (n int64) {
	for _, d := range append(b.Layers, b.Config) {
		n += d.Size
	}
	return n
}

func TestPull(t *testing.T) {
	for _, useTLS := range []bool{false, true} {
		srv := registrytest.New(t, registrytest.Options{TLS: useTLS})
		b := build(t, 1)
		publish(srv, "test/one", b, "v1")
		o := quick()
		o.Insecure = useTLS
		c := client(t, o)
		s := newStore(t)
		name := srv.Host() + "/test/one:v1"
		var last registry.Progress
		res, err := c.Pull(t.Context(), s, reference(t, name), registry.PullOptions{Progress: func(p registry.Progress) { last = p }})
		if err != nil {
			t.Fatal(err)
		}
		check(t, s, name, b)
		if res.Name != name || res.ID != b.Config.Digest || res.Target.Digest != b.Manifest.Digest || res.Replaced || res.UpToDate || res.Wire != blobBytes(b) {
			t.Errorf("%+v", res)
		}
		if last.Done != last.Total || last.Total != blobBytes(b) || last.Blobs != 3 || last.BlobsDone != 3 {
			t.Errorf("last progress %+v", last)
		}
		if got := srv.BlobBytes(); got != blobBytes(b) {
			t.Errorf("%d bytes of blobs were sent, want %d", got, blobBytes(b))
		}

		// Again: one HEAD.
		srv.Reset()
		res, err = c.Pull(t.Context(), s, reference(t, name), registry.PullOptions{})
		if err != nil || !res.UpToDate || res.Wire != 0 {
			t.Errorf("again: %+v, %v", res, err)
		}
		if r := srv.Requests(); len(r) != 1 || r[0].Method != "HEAD" {
			t.Errorf("again: %+v, want one HEAD", r)
		}

		// The tag moves to an image that shares a layer.
		two := build(t, 1, func(im *imagetest.Image) {
			im.Layers = append(im.Layers, imagetest.Layer{Tar: imagetest.Files(t, "top", "top")})
		})
		publish(srv, "test/one", two, "v1")
		srv.Reset()
		res, err = c.Pull(t.Context(), s, reference(t, name), registry.PullOptions{})
		if err != nil || !res.Replaced || res.UpToDate {
			t.Errorf("moved: %+v, %v", res, err)
		}
		check(t, s, name, two)
		if want := two.Layers[2].Size + two.Config.Size; srv.BlobBytes() != want {
			t.Errorf("%d bytes were sent for the new layer, want %d", srv.BlobBytes(), want)
		}

		// By digest.
		byDigest := srv.Host() + "/test/one@" + string(b.Manifest.Digest)
		if _, err = c.Pull(t.Context(), s, reference(t, byDigest), registry.PullOptions{}); err != nil {
			t.Fatal(err)
		}
		check(t, s, byDigest, b)
		srv.Close()
	}
}

// fault is one that a pull meets.
type fault struct {
	name  string
	f     registrytest.Fault
	fails string // text of the error; empty: it succeeds
	stall bool   // with a short time without data
	more  int64  // how many bytes of blobs may be sent beyond the image's
	then  registrytest.Fault
}

func faults(b *imagetest.Built) []fault {
	big := "blobs/" + string(b.Layers[1].Digest)
	half := int(b.Layers[1].Size / 2)
	size := b.Layers[1].Size
	return []fault{
		{name: "500 twice", f: registrytest.Fault{Path: big, Status: 500, Times: 2}},
		{name: "500 always", f: registrytest.Fault{Path: big, Status: 500, Body: "<html>oops"}, fails: "500 internal server error"},
		{name: "429", f: registrytest.Fault{Path: big, Status: 429, Times: 1, Header: map[string]string{"Retry-After": "1"}}},
		{name: "429 for a day", f: registrytest.Fault{Path: big, Status: 429, Header: map[string]string{"Retry-After": "86400"}}, fails: "429 too many requests"},
		{name: "429 of a manifest", f: registrytest.Fault{Path: "manifests/", Method: "HEAD", Status: 429, Times: 1}},
		{name: "404 blob", f: registrytest.Fault{Path: big, Status: 404, Body: `{"errors":[{"code":"BLOB_UNKNOWN","message":"gone \u001b[31m"}]}`}, fails: "404 not found, BLOB_UNKNOWN: gone"},
		{name: "404 manifest", f: registrytest.Fault{Path: "manifests/", Method: "HEAD", Status: 404}, fails: "404 not found"},
		{name: "close mid-blob", f: registrytest.Fault{Path: big, Cut: half, Times: 1}},
		{name: "close mid-blob, no ranges", f: registrytest.Fault{Path: big, Cut: half, Times: 1, NoRange: true}},
		{name: "truncated without a length", f: registrytest.Fault{Path: big, Cut: half, Chunked: true, Times: 1}},
		{name: "truncated always", f: registrytest.Fault{Path: big, Cut: 1000}, fails: "unexpected EOF"},
		{name: "stall", f: registrytest.Fault{Path: big, Stall: half, Times: 1}, stall: true},
		{name: "stall before the header", f: registrytest.Fault{Path: big, StallHead: true, Times: 1}, stall: true},
		{name: "stall always", f: registrytest.Fault{Path: big, Stall: 5000}, stall: true, fails: "nothing arrived for"},
		{name: "drip", f: registrytest.Fault{Path: big, Drip: 20 * time.Millisecond, Times: 1}, stall: true},
		{name: "drip always", f: registrytest.Fault{Path: big, Drip: 20 * time.Millisecond}, stall: true, fails: "nothing arrived for"},
		{name: "flipped byte", f: registrytest.Fault{Path: big, Flip: half, Times: 1}, more: size},
		{name: "flipped byte always", f: registrytest.Fault{Path: big, Flip: half}, fails: "content has digest sha256:"},
		{name: "longer than said", f: registrytest.Fault{Path: big, Length: 100}, fails: "content has"},
		{name: "shorter than said", f: registrytest.Fault{Path: big, Length: -100, Times: 1}},
		{name: "endless", f: registrytest.Fault{Path: big, Endless: true}, fails: "content is longer than"},
		{name: "no ranges", f: registrytest.Fault{Path: big, NoRange: true}},
		{name: "416 for the rest", f: registrytest.Fault{Path: big, Cut: half, Times: 1}, then: registrytest.Fault{Path: big, Tagged: "bytes=", Status: 416}, more: size / 2},
		{name: "a part without Content-Range", f: registrytest.Fault{Path: big, Cut: half, Times: 1}, then: registrytest.Fault{Path: big, Tagged: "bytes=", Part: "none"}, more: size},
		{name: "another part", f: registrytest.Fault{Path: big, Cut: half, Times: 1}, then: registrytest.Fault{Path: big, Tagged: "bytes=", Part: "bytes 5-9/10"}, more: size},
		{name: "flipped manifest", f: registrytest.Fault{Path: "manifests/", Flip: 10}, fails: "content has digest sha256:"},
		{name: "manifest cut", f: registrytest.Fault{Path: "manifests/", Cut: 10, Times: 1}},
		{name: "manifest is a page", f: registrytest.Fault{Path: "manifests/", Status: 200, Body: "<html>log in here</html>", Header: map[string]string{"Content-Type": "text/html"}}, fails: "content has digest"},
		{name: "manifest of another type", f: registrytest.Fault{Path: "manifests/", ContentType: "text/html; charset=utf-8"}, fails: "text/html"},
		{name: "manifest endless", f: registrytest.Fault{Path: "manifests/", Endless: true}, fails: "longer than the limit of 4194304 bytes"},
		{name: "redirect loop", f: registrytest.Fault{Path: big, RedirectTo: "/v2/test/one/" + big}, fails: "more than 8 redirections"},
		{name: "redirect to nowhere", f: registrytest.Fault{Path: big, RedirectTo: "file:///etc/passwd"}, fails: `redirected to "file:///etc/passwd"`},
	}
}

// Whatever goes wrong: it works after all or there is one clear error, no image
// that is not whole, and the next pull works and fetches little again.
func TestPull_Faults(t *testing.T) {
	b := build(t, 2)
	for _, tt := range faults(b) {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv := registrytest.New(t, registrytest.Options{})
			publish(srv, "test/one", b, "v1")
			srv.Fail(tt.f)
			if tt.then.Path != "" {
				srv.Fail(tt.then)
			}
			o := quick()
			if tt.stall {
				o.Stall, o.Attempts = 150*time.Millisecond, 3
				if tt.fails == "" {
					o.Attempts = 30 // a loaded machine stalls, too
				}
			}
			c := client(t, o)
			s := newStore(t)
			name := srv.Host() + "/test/one:v1"
			_, err := c.Pull(t.Context(), s, reference(t, name), registry.PullOptions{})
			if tt.fails == "" {
				if err != nil {
					t.Fatal(err)
				}
				check(t, s, name, b)
				// Where little time counts as a stall, a loaded machine stalls by itself.
				if extra := srv.BlobBytes() - blobBytes(b); extra > tt.more && !tt.f.NoRange && !tt.stall {
					t.Errorf("%d bytes were sent twice, want at most %d", extra, tt.more)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.fails) || !strings.HasPrefix(err.Error(), `pull "`+name+`": `) {
				t.Fatalf("error %v, want %q", err, tt.fails)
			}
			if strings.ContainsAny(err.Error(), "\n\x1b") || len(err.Error()) > 1000 {
				t.Errorf("the error is %q", err)
			}
			if list, err := s.List(); err != nil || len(list) != 0 {
				t.Errorf("after an error: %v, %v", list, err)
			}
			if _, err := os.Stat(filepath.Join(s.Root(), "blobs/sha256", b.Layers[1].Digest.Hex())); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the blob is in the store: %v", err)
			}
			if names, _ := filepath.Glob(filepath.Join(s.Root(), "ingest", "*")); len(names) > 0 {
				t.Errorf("left: %v", names)
			}
			// The trouble is over.
			srv.Heal()
			srv.CloseClientConnections() // of what was given up, too
			srv.Reset()
			o.Stall = quick().Stall
			if _, err := client(t, o).Pull(t.Context(), s, reference(t, name), registry.PullOptions{}); err != nil {
				t.Fatal(err)
			}
			check(t, s, name, b)
			if got := srv.BlobBytes(); got > blobBytes(b) {
				t.Errorf("%d bytes were sent for an image of %d", got, blobBytes(b))
			}
		})
	}
}

// What an earlier run has left is used; what is wrong in it is noticed, and
// fetched anew once.
func TestPull_Resume(t *testing.T) {
	b := build(t, 3)
	d := b.Layers[1]
	good := b.Blobs[d.Digest]
	cut := len(good) * 9 / 10
	bad := bytes.Clone(good[:cut])
	bad[1000] ^= 1
	for _, tt := range []struct {
		name string
		left []byte
		want int64 // bytes of the layer that are sent
	}{
		{"90 %", good[:cut], int64(len(good) - cut)},
		{"all", good, 0},
		{"damaged", bad, int64(len(good) - cut + len(good))},
		{"all, damaged", append(bytes.Clone(bad), good[cut:]...), int64(len(good))},
		{"too long", append(bytes.Clone(good), 1), int64(len(good))},
		{"empty", nil, int64(len(good))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := registrytest.New(t, registrytest.Options{})
			publish(srv, "test/one", b, "v1")
			s := newStore(t)
			dir := filepath.Join(s.Root(), "partial")
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "sha256-"+d.Digest.Hex()), tt.left, 0o600); err != nil {
				t.Fatal(err)
			}
			name := srv.Host() + "/test/one:v1"
			if _, err := client(t, quick()).Pull(t.Context(), s, reference(t, name), registry.PullOptions{}); err != nil {
				t.Fatal(err)
			}
			check(t, s, name, b)
			if got := srv.BlobBytes() - b.Layers[0].Size - b.Config.Size; got != tt.want {
				t.Errorf("%d bytes of the layer were sent, want %d", got, tt.want)
			}
		})
	}
}

// A pull that is cut keeps what came; the next one asks for the rest.
func TestPull_ResumeAfterError(t *testing.T) { cutAndResumed(t) }

// A host that refuses to send the rest, and all of it, too, does not cost what is there.
func TestPull_BadRangeKeepsPart(t *testing.T) {
	cutAndResumed(t, registrytest.Fault{Tagged: "bytes=", Status: 416})
}

// cutAndResumed pulls a blob that is cut at nine tenths and then refused, after the faults,
// and pulls it again.
func cutAndResumed(t *testing.T, faults ...registrytest.Fault) {
	t.Helper()
	b := build(t, 4)
	srv := registrytest.New(t, registrytest.Options{})
	publish(srv, "test/one", b, "v1")
	s := newStore(t)
	srv.Fail(registrytest.Fault{Path: string(b.Layers[1].Digest), Cut: int(b.Layers[1].Size * 9 / 10), Times: 1})
	for _, f := range append(faults, registrytest.Fault{Status: 403}) {
		f.Path = string(b.Layers[1].Digest)
		srv.Fail(f)
	}
	name := srv.Host() + "/test/one:v1"
	if _, err := client(t, quick()).Pull(t.Context(), s, reference(t, name), registry.PullOptions{}); !errors.Is(err, fs.ErrPermission) {
		t.Fatalf("%v, want 403", err)
	}
	srv.Heal()
	srv.Reset()
	if _, err := client(t, quick()).Pull(t.Context(), s, reference(t, name), registry.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	check(t, s, name, b)
	if got, most := srv.BlobBytes(), blobBytes(b)*12/100; got > most {
		t.Errorf("%d bytes were sent again, want at most %d", got, most)
	}
}

// Twenty pulls at once, with clients of their own, as processes have: each blob is sent once.
func TestPull_SingleFlight(t *testing.T) {
	b := build(t, 5)
	other := build(t, 5, func(im *imagetest.Image) {
		im.Layers = append(im.Layers, imagetest.Layer{Tar: imagetest.Files(t, "top", "top")})
	})
	srv := registrytest.New(t, registrytest.Options{})
	publish(srv, "test/one", b, "v1")
	publish(srv, "test/one", other, "v2") // shares two layers
	s := newStore(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			c := client(t, quick())
			name := srv.Host() + "/test/one:v1"
			if i%4 == 3 {
				name = srv.Host() + "/test/one:v2"
			}
			if _, err := c.Pull(t.Context(), s, reference(t, name), registry.PullOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	check(t, s, srv.Host()+"/test/one:v1", b)
	check(t, s, srv.Host()+"/test/one:v2", other)
	if want := blobBytes(b) + other.Layers[2].Size + other.Config.Size; srv.BlobBytes() != want {
		t.Errorf("%d bytes of blobs were sent, want %d", srv.BlobBytes(), want)
	}
}

func TestPull_Cancel(t *testing.T) {
	b := build(t, 6)
	srv := registrytest.New(t, registrytest.Options{})
	publish(srv, "test/one", b, "v1")
	ctx, cancel := context.WithCancel(t.Context())
	srv.Fail(registrytest.Fault{Path: string(b.Layers[1].Digest), Stall: 100 << 10})
	s := newStore(t)
	done := make(chan error, 1)
	go func() {
		_, err := client(t, quick()).Pull(ctx, s, reference(t, srv.Host()+"/test/one:v1"), registry.PullOptions{Progress: func(p registry.Progress) {
			if p.Wire > 0 {
				cancel()
			}
		}})
		done <- err
	}()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
	if names, _ := filepath.Glob(filepath.Join(s.Root(), "ingest", "*")); len(names) > 0 {
		t.Errorf("left: %v", names)
	}
	// What is kept can be thrown away.
	if _, err := s.GC(t.Context()); err != nil {
		t.Fatal(err)
	}
	residue(t, s)
}
