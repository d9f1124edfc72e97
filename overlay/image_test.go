package overlay

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// Which file a device is, of a chain of any length, without reading the list of all
// its layers; and nothing but an error for a list or a tag that is none of ours.
func TestPlaces(t *testing.T) {
	s := openTemp(t)
	id := func(i int) ChainID { return ChainID(fmt.Sprintf("sha256:%064x", i)) }
	top := id(499)
	dir := s.root + "/" + Indexed.Dir(top)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	var below []ChainID // nearest first
	for i := 498; i >= 0; i-- {
		below = append(below, id(i))
	}
	list := func(text string) {
		t.Helper()
		if err := os.WriteFile(dir+"/parents", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	look := func(tag string) (string, error) {
		p := &places{s: s, top: top, fd: -1}
		defer p.close()
		return p.device(tag)
	}
	list(string(formatParents(below)))
	for _, i := range []int{0, 1, 250, 498, 499} {
		for _, file := range []string{ArchiveFile, RestFile, SparseFile} {
			want := Indexed.Dir(id(i)) + "/" + file
			if got, err := look(DeviceTag(file, i) + strings.Repeat("\x00", 50)); err != nil || got != want {
				t.Errorf("layer %d: got %q, %v, want %q", i, got, err, want)
			}
		}
	}
	for _, tag := range []string{"", "tar", "tar/", "tar/500", "tar/-1", "tar/1/1", "tar/99999999999999999999", "image/1", "../tar/1", "large/1", "/etc/passwd"} {
		if got, err := look(tag); !errors.Is(err, errDamaged) {
			t.Errorf("%q: got %q, %v", tag, got, err)
		}
	}
	for _, text := range []string{"x", string(formatParents(below))[1:], strings.Repeat("x", 499*parentsLine), strings.Repeat("sha256:"+strings.Repeat("/", 64)+"\n", 499)} {
		list(text)
		if got, err := look("tar/3"); !errors.Is(err, errDamaged) {
			t.Errorf("a list of %d bytes: got %q, %v", len(text), got, err)
		}
	}
	if err := os.Remove(dir + "/parents"); err != nil {
		t.Fatal(err)
	}
	if got, err := look("tar/3"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no list: got %q, %v", got, err)
	}
}
