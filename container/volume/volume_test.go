package volume

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestCheckName(t *testing.T) {
	for _, good := range []string{"a", "A.b_c-d", "0", strings.Repeat("n", 200), RandomName()} {
		if err := CheckName(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", ".", "..", ".x", "-x", "_x", "a/b", "a b", "a\x00", "ü", strings.Repeat("n", 201), ".new-0123456789abcdef"} {
		if err := CheckName(bad); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// Many make, use and remove the same volume at a time: each sees a whole one.
func TestConcurrentUse(t *testing.T) {
	dir := t.TempDir()
	s := Store(dir)
	image := dir + "/image"
	if err := errors.Join(os.MkdirAll(image+"/data", 0o755), os.WriteFile(image+"/data/f", []byte("content"), 0o644), os.MkdirAll(dir+"/overlay/snapshots/c.1", 0o700)); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(2)
		go func() {
			defer wg.Done()
			path, err := s.Use(Use{Name: "v", User: "c.1", Root: int(root.Fd()), Dest: "/data"})
			if err != nil {
				t.Error(err)
				return
			}
			if b, err := os.ReadFile(path + "/f"); err != nil || string(b) != "content" {
				t.Errorf("%q, %v", b, err)
			}
		}()
		go func() { // before anybody uses it, or not at all
			defer wg.Done()
			err := s.Remove("v")
			var inUse *InUseError
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.As(err, &inUse) {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	if err := s.Remove("v"); err == nil || !strings.Contains(err.Error(), "in use by c") {
		t.Errorf("remove of a used one: %v", err)
	}
	if err := os.Remove(dir + "/overlay/snapshots/c.1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove("v"); err != nil {
		t.Error(err)
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// What dead processes have left is nobody's volume, and goes with a prune.
func TestPruneRemains(t *testing.T) {
	s := Store(t.TempDir())
	if err := s.Create("kept", []Label{{"a", "b"}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Create("kept", nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("created twice: %v", err)
	}
	for _, name := range []string{".new-x", ".trash-y"} {
		if err := os.MkdirAll(s.dir()+"/"+name+"/_data", 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := s.List(); err != nil || len(list) != 1 || list[0].Name != "kept" || !strings.Contains(string(list[0].Meta), `"labels":{"a":"b"}`) {
		t.Errorf("list: %+v, %v", list, err)
	}
	removed, err := s.Prune(func(v *Info) bool { return v.Anonymous })
	if err != nil || len(removed) > 0 {
		t.Errorf("prune: %q, %v", removed, err)
	}
	entries, _ := os.ReadDir(s.dir())
	if len(entries) != 1 {
		t.Errorf("left: %v", entries)
	}
	removed, err = s.Prune(func(*Info) bool { return true })
	if err != nil || !slices.Equal(removed, []string{"kept"}) {
		t.Errorf("prune: %q, %v", removed, err)
	}
}

// One volume that is damaged does not hide the others, and the error says what to do.
func TestDamaged(t *testing.T) {
	s := Store(t.TempDir())
	for _, name := range []string{"a", "b", "c"} {
		if err := s.Create(name, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(s.dir()+"/a/meta.json", 0); err != nil { // as a power cut may leave it
		t.Fatal(err)
	}
	if err := os.Remove(s.dir() + "/b/users"); err != nil {
		t.Fatal(err)
	}
	list, err := s.List()
	var damaged *DamagedError
	if len(list) != 2 || list[0].Name != "a" || list[1].Name != "c" || !errors.As(err, &damaged) || damaged.Name != "b" || !strings.Contains(damaged.Hint(), s.dir()+"/b") {
		t.Errorf("list: %+v, %v", list, err)
	}
	if err := s.Remove("b"); !errors.As(err, &damaged) { // perhaps somebody uses it
		t.Errorf("remove: %v", err)
	}
	removed, err := s.Prune(func(*Info) bool { return true })
	if !slices.Equal(removed, []string{"a", "c"}) || !errors.As(err, &damaged) {
		t.Errorf("prune: %q, %v", removed, err)
	}
}
