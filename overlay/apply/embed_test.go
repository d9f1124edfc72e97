package apply

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/erofs"
)

// Small layers are copied into the image until few devices are left, within a
// budget; files for sparse files are not, except for tiny ones.
func TestEmbed(t *testing.T) {
	const big = 1 << 30
	many := func(n int, archive, sparse int64) (used []int64) {
		for range n {
			used = append(used, archive, sparse)
		}
		return used
	}
	for _, tt := range []struct {
		name            string
		used            []int64
		copied, devices int
	}{
		{"nothing", many(3, 0, 0), 0, 0},
		{"tiny", many(500, embedBelow, 0), 500, 0},
		{"few", many(fewDevices, big, 0), 0, fewDevices},
		{"many small", many(500, 100<<10, 0), 500 - fewDevices, fewDevices},
		{"many large", many(100, big, 0), 6, 94},
		{"more than the budget", many(20, embedBudget+1, 0), 1, 19},
		{"one within its part", append(many(fewDevices, embedShare*big, 0), big+1, 0), 1, fewDevices},
		{"sparse", many(20, 0, 100<<10), 0, 20},
		{"tiny sparse", many(20, 0, 100), 20, 0},
		{"both", many(10, embedBudget/4, 100<<10), 4, 16},
	} {
		got := embed(tt.used)
		copied, devices := 0, 0
		for i, yes := range got {
			switch {
			case yes && tt.used[i] == 0:
				t.Errorf("%s: device %d, which is not used, is copied", tt.name, i)
			case yes:
				copied++
			case tt.used[i] > 0:
				devices++
			}
		}
		if copied != tt.copied || devices != tt.devices {
			t.Errorf("%s: %d copied and %d devices, want %d and %d", tt.name, copied, devices, tt.copied, tt.devices)
		}
	}
	used := []int64{0, 0}
	for i := range 20 {
		used = append(used, int64(100-i)<<10, 0)
	}
	if got := embed(used); !slices.Equal(got[34:], []bool{true, false, true, false, true, false, true, false}) {
		t.Errorf("not the smallest ones: %v", got)
	}
}

// A chain of many layers shows the content of all, those in the image and those in
// devices.
func TestImage_ManyLayers(t *testing.T) {
	s := openStore(t)
	const layers = fewDevices + 9
	body := func(i int) string { return strings.Repeat(fmt.Sprintf("layer %d ", i), 9000+i) }
	o := testOptions()
	o.Kind, o.Base = Index, &Base{}
	var c overlay.ChainID
	for i := range layers {
		b := archive(t, file(fmt.Sprint("f", i), body(i)), file("last", fmt.Sprint(i)))
		o.Inner = i < layers-1
		var err error
		if c, _, err = Layer(context.Background(), s, c, digest(b), bytes.NewReader(b), o); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := os.ReadFile(filepath.Join(s.Root(), overlay.Indexed.Dir(c), "image"))
	if err != nil || len(fd) < 9*len(body(0)) {
		t.Errorf("the image has %d bytes, %v", len(fd), err)
	}
	if got := bytes.Count(fd[:16<<10], []byte(overlay.ArchiveFile+"/")); got != fewDevices {
		t.Errorf("%d devices, want %d", got, fewDevices)
	}
	view := indexView(t, s, c)
	for i := range layers {
		if got, err := os.ReadFile(filepath.Join(view, fmt.Sprint("f", i))); err != nil || string(got) != body(i) {
			t.Errorf("layer %d: %d bytes, %v, want %d", i, len(got), err, len(body(i)))
		}
	}
	if got, err := os.ReadFile(filepath.Join(view, "last")); err != nil || string(got) != fmt.Sprint(layers-1) {
		t.Errorf("last: %q, %v", got, err)
	}
}

// An image that an earlier version made is as good as one made today.
func TestVerify_EarlierImage(t *testing.T) {
	s := openStore(t)
	was := kindUnderTest
	t.Cleanup(func() { kindUnderTest = was })
	kindUnderTest = Index
	chain := chainOfThree(t, s)
	top := chain[len(chain)-1]
	base, mem := &Base{}, budget{1 << 40}
	if err := base.advance(t.Context(), s, top, &mem); err != nil {
		t.Fatal(err)
	}
	var earlier bytes.Buffer
	if err := base.writeImage(s, &earlier, erofs.WritePlain); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.Root(), overlay.Indexed.Dir(top), "image")
	now, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(now, earlier.Bytes()) {
		t.Fatal("nothing has changed since")
	}
	if err := os.WriteFile(path, earlier.Bytes(), 0o400); err != nil {
		t.Fatal(err)
	}
	if d := verifyAll(t, s, chain); d != nil {
		t.Errorf("an image of an earlier version: %v", d)
	}
	earlier.Bytes()[1024+20] ^= 1
	if err := os.WriteFile(path, earlier.Bytes(), 0o400); err != nil {
		t.Fatal(err)
	}
	if d := verifyAll(t, s, chain); d == nil || d.File != "image" {
		t.Errorf("damaged: %v", d)
	}
}
