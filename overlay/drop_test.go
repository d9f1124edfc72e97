package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// addChain makes a chain of n layers without a sync for each, bottom first.
func addChain(t testing.TB, s *Store, kind Kind, n int) (ids []ChainID) {
	t.Helper()
	var c ChainID
	var below []ChainID
	for i := range n {
		c = Chain(c, digestOf(fmt.Sprint(i)))
		dir := s.root + "/" + kind.Dir(c)
		if err := errors.Join(os.MkdirAll(dir+"/fs", 0o700), os.WriteFile(dir+"/parents", formatParents(below), 0o600)); err != nil {
			t.Fatal(err)
		}
		if kind == Indexed {
			if err := errors.Join(os.WriteFile(dir+"/"+ArchiveFile, nil, 0o600), os.WriteFile(dir+"/entries", nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		below = slices.Insert(below, 0, c)
		ids = append(ids, c)
	}
	return ids
}

func begin(t testing.TB, s *Store) *Removal {
	t.Helper()
	r, err := s.BeginRemoval()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func TestRemoval(t *testing.T) {
	s := openTemp(t)
	ids := addChain(t, s, Extracted, 4)
	addChain(t, s, Indexed, 3) // the lower three are kept in both ways
	if _, err := s.Prepare("k", ids[1]); err != nil {
		t.Fatal(err)
	}
	dead, err := s.Stage(t.Context(), Extracted, Chain(ids[2], digestOf("dead")), ids[2])
	if err != nil {
		t.Fatal(err)
	}
	dead.close()
	live, err := s.Stage(t.Context(), Extracted, Chain(ids[0], digestOf("live")), ids[0])
	if err != nil {
		t.Fatal(err)
	}
	r := begin(t, s)
	var use *InUseError
	if d, err := r.Drop(ids[2]); d != nil || !errors.As(err, &use) || !strings.Contains(use.By, "layer") {
		t.Errorf("below a layer: %v, %v", d, err)
	}
	if d, err := r.Drop("x"); d != nil || !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a bad name: %v, %v", d, err)
	}
	for _, c := range []ChainID{ids[3], ids[2]} {
		d, err := r.Drop(c)
		if err != nil || d == nil || s.HasLayer(c) {
			t.Fatalf("%v, %v; still there: %v", d, err, s.HasLayer(c))
		}
		if again, err := r.Drop(c); again != nil || err != nil {
			t.Errorf("again: %v, %v", again, err)
		}
		if _, err := os.Stat(d.Path()); err != nil {
			t.Error(err)
		}
	}
	if d, err := r.Drop(ids[1]); d != nil || !errors.As(err, &use) || !strings.Contains(use.By, `"k"`) {
		t.Errorf("below a snapshot: %v, %v", d, err)
	}
	if d, err := r.Drop(ids[0]); d != nil || !errors.As(err, &use) {
		t.Errorf("below a layer that stays: %v, %v", d, err)
	}
	r.Close()
	if err := s.RemoveSnapshot("k"); err != nil {
		t.Fatal(err)
	}
	r = begin(t, s)
	if d, err := r.Drop(ids[1]); d == nil || err != nil {
		t.Errorf("free: %v, %v", d, err)
	}
	if d, err := r.Drop(ids[0]); d != nil || !errors.As(err, &use) || !strings.Contains(use.By, "unpacked") {
		t.Errorf("below a layer being made: %v, %v", d, err)
	}
	r.Close()
	// Killed here, the store is as it should be: what was dropped is of no use any more.
	if broken, err := s.Check(); err != nil || len(broken) > 0 {
		t.Errorf("broken: %v, %v", broken, err)
	}
	if err := errors.Join(live.Abort(), s.Cleanup()); err != nil {
		t.Fatal(err)
	}
	staging(t, s)
}

// What cannot be read may stand on any layer.
func TestRemoval_Damaged(t *testing.T) {
	s := openTemp(t)
	ids := addChain(t, s, Extracted, 3)
	if err := os.WriteFile(s.root+"/"+ids[1].path()+"/parents", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := begin(t, s)
	for _, c := range []ChainID{ids[2], ids[0]} {
		if d, err := r.Drop(c); d != nil || err == nil || !strings.Contains(err.Error(), ids[1].hex()) || !s.HasLayer(c) {
			t.Errorf("%s: %v, %v", c, d, err)
		}
	}
}

// Who begins a layer while others are removed finds the one below it, which stays then,
// or an error: never one that goes while he works.
func TestRemoval_StageMeanwhile(t *testing.T) {
	s := openTemp(t)
	ids := addChain(t, s, Extracted, 3)
	other, err := OpenStore(s.root)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	r := begin(t, s)
	if d, err := r.Drop(ids[2]); d == nil || err != nil { // has read what stands on which
		t.Fatalf("%v, %v", d, err)
	}
	c := Chain(ids[1], digestOf("new"))
	done := make(chan error, 1)
	go func() {
		st, err := other.Stage(context.Background(), Extracted, c, ids[1])
		if err == nil {
			err = st.Abort()
		}
		done <- err
	}()
	for !s.exists("staging/layer-" + c.hex()) { // it has seen the layer below
		select {
		case err := <-done:
			t.Fatalf("ended with %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	for _, c := range []ChainID{ids[1], ids[0]} {
		if d, err := r.Drop(c); err == nil && d != nil {
			err = d.Delete()
			if err != nil {
				t.Error(err)
			}
		} else {
			t.Errorf("%v, %v", d, err)
		}
	}
	r.Close()
	if err := <-done; !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want ErrNotExist", err)
	}
	if err := s.Cleanup(); err != nil {
		t.Error(err)
	}
	staging(t, s)
}

// Snapshots and layers come while whole chains are removed. Nothing ever stands on
// what is not there.
func TestRemovalAgainstAll(t *testing.T) {
	s := openTemp(t)
	for round := range 10 {
		ids := addChain(t, s, Extracted, 20)
		var wg sync.WaitGroup
		for i := range 8 {
			key, below := fmt.Sprint("k", i), ids[(7*round+i*5)%len(ids)]
			wg.Go(func() {
				if i%2 == 0 {
					if _, err := s.Prepare(key, below); err != nil && !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("prepare: %v", err)
					}
					return
				}
				st, err := s.Stage(t.Context(), Extracted, Chain(below, digestOf(key)), below)
				if errors.Is(err, fs.ErrNotExist) {
					return
				}
				if err != nil {
					t.Errorf("stage: %v", err)
					return
				}
				if err := st.Commit(); err != nil { // it has claimed the layer below
					t.Errorf("commit: %v", err)
				}
			})
		}
		wg.Go(func() {
			r, err := s.BeginRemoval()
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			var use *InUseError
			for _, c := range slices.Backward(ids) {
				if _, err := r.Drop(c); err != nil && !errors.As(err, &use) {
					t.Error(err)
				}
			}
		})
		wg.Wait()
		if broken, err := s.Check(); err != nil || len(broken) > 0 {
			t.Fatalf("round %d: %v, %v", round, broken, err)
		}
		// From the top down, all goes.
		for i := range 8 {
			if err := s.RemoveSnapshot(fmt.Sprint("k", i)); err != nil {
				t.Fatal(err)
			}
		}
		r := begin(t, s)
		list, err := s.Layers()
		if err != nil {
			t.Fatal(err)
		}
		for range len(list) {
			for _, l := range list {
				_, _ = r.Drop(l.ID)
			}
		}
		r.Close()
		if list, err = s.Layers(); err != nil || len(list) > 0 {
			t.Fatalf("left: %v, %v", list, err)
		}
		if err := s.Cleanup(); err != nil {
			t.Fatal(err)
		}
	}
	staging(t, s)
}

// Removal holds a lock that stops containers from starting: however many layers go,
// each is looked at a few times.
func TestRemoval_ReadsOnce(t *testing.T) {
	const layers = 300
	s := openTemp(t)
	ids := addChain(t, s, Indexed, layers)
	w, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(w)
	watch := func(path string) {
		if _, err := unix.InotifyAddWatch(w, s.root+"/"+path, unix.IN_OPEN); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range ids {
		watch(Indexed.Dir(c))
	}
	for _, dir := range []string{"layers", "snapshots", "staging"} {
		watch(dir)
	}
	r := begin(t, s)
	for _, c := range slices.Backward(ids) {
		if d, err := r.Drop(c); d == nil || err != nil {
			t.Fatalf("%v, %v", d, err)
		}
	}
	r.Close()
	opened := 0
	buf := make([]byte, 1<<16)
	for {
		n, err := unix.Read(w, buf)
		if err == unix.EAGAIN {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for b := buf[:n]; len(b) > 0; opened++ {
			b = b[unix.SizeofInotifyEvent+int(b[12]):] // names are short
		}
	}
	// The queue holds 16,384 events, of 90,000 that a look at all for each would be.
	if opened < layers || opened > 2*layers {
		t.Errorf("opened %d files for %d layers", opened, layers)
	}
}
