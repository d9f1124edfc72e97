package unpack_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/container/unpack"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/apply"
)

// The store is listed a few times, however many layers go.
func TestPruneListsOnce(t *testing.T) {
	const layers = 300
	s := newStores(t)
	var c overlay.ChainID
	parents := ""
	for i := range layers {
		c = apply.Chain(c, fmt.Sprintf("sha256:%064x", i))
		dir := s.layers.Root() + "/" + overlay.Extracted.Dir(c)
		if err := os.MkdirAll(dir+"/fs", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/parents", []byte(parents), 0o600); err != nil {
			t.Fatal(err)
		}
		parents = string(c) + "\n" + parents
	}
	w, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(w)
	for _, dir := range strings.Fields("layers snapshots staging") {
		if _, err := unix.InotifyAddWatch(w, s.layers.Root()+"/"+dir, unix.IN_OPEN); err != nil {
			t.Fatal(err)
		}
	}
	removed, err := unpack.Prune(context.Background(), s.images, s.layers, nil)
	if err != nil || len(removed) != layers || removed[0] != c {
		t.Fatalf("removed %d, %v", len(removed), err)
	}
	if got := s.chains(t); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
	lists := 0
	for buf := make([]byte, 1<<16); ; {
		n, err := unix.Read(w, buf)
		if err == unix.EAGAIN {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for b := buf[:n]; len(b) > 0; {
			name := int(b[12]) // its length, which is short: 0 is the directory itself
			if name == 0 {
				lists++
			}
			b = b[unix.SizeofInotifyEvent+name:]
		}
	}
	if lists < 3 || lists > 20 {
		t.Errorf("directories of the store were opened %d times for %d layers", lists, layers)
	}
}
