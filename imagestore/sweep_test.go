package imagestore_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/minirun/minirun/imagestore"
)

// Indexes that are flat as they come can be parts of each other: a chain of any
// length when all are there. It must not keep the store from being swept.
func TestSweep_ChainOfIndexes(t *testing.T) {
	s := newStore(t)
	victim := image(t, "victim")
	target := victim.Manifest
	type link struct {
		d imagestore.Descriptor
		b []byte
	}
	var chain []link
	for i := range 30 {
		b, err := json.Marshal(imagestore.Index{
			SchemaVersion: 2, MediaType: imagestore.MediaTypeIndex,
			Manifests: []imagestore.Descriptor{target}, Annotations: map[string]string{"n": fmt.Sprint(i)},
		})
		if err != nil {
			t.Fatal(err)
		}
		target = imagestore.Descriptor{MediaType: imagestore.MediaTypeIndex, Digest: imagestore.FromBytes(b), Size: int64(len(b))}
		chain = append(chain, link{target, b})
	}
	for i := len(chain) - 1; i >= 0; i-- { // each before what it lists
		g := begin(t, s)
		if _, err := g.PutBytes(context.Background(), imagestore.MediaTypeIndex, chain[i].b); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Publish(context.Background(), imagestore.Naming{Name: fmt.Sprintf("n%d", i), Target: chain[i].d}); err != nil {
			t.Fatal(err)
		}
		g.Close()
	}
	publish(t, s, "victim", victim)
	publish(t, s, "other", image(t, "other"))
	if r, err := s.Remove(t.Context(), "other"); err != nil || r.Kept != nil || r.Swept.Blobs == 0 {
		t.Errorf("Remove = %+v, %v, want its blobs to go", r, err)
	}
	for i := range len(chain) - 1 { // reachable by the last of the chain alone
		if _, err := s.Remove(t.Context(), fmt.Sprintf("n%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Remove(t.Context(), "victim"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GC(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b, err := s.ReadBlob("manifest", victim.Manifest, 1<<20); err != nil || len(b) == 0 {
		t.Errorf("what the last index of the chain leads to is gone: %v", err)
	}
}
