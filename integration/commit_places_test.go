package integration

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What minirun makes in a container's root to mount on is no change of the container:
// diff and commit leave it out. What lies in its place for another reason they do not.
func TestRootCommitPlaces(t *testing.T) {
	h := imageSetup(t)
	h.load(&imageBlobs{name: "base", layers: [][]byte{imageRootfs(t, imageEntry{name: "here/", mode: 0o755}, imageEntry{name: "etc/hostname", data: "image\n"})}, config: map[string]any{"Env": []string{"PATH=/bin"}}})
	flags := []string{"--network", "host", "-v", "named:/new/place", "--tmpfs", "/here/tmp"}
	t.Cleanup(func() { h.must("volume", "prune", "--all") })
	for _, tt := range []struct {
		name, script string
		flags        []string
		want         []string
	}{
		{"nothing but places", "echo x >/new/place/file; echo x >/here/tmp/file", flags, []string{"A /new"}},
		{"a place and a change", "chmod 700 /here; rm /etc/group; mkdir /etc/dir", flags, []string{"C /etc", "A /etc/dir", "D /etc/group", "C /here", "A /new"}},
		{"no places", "mkdir -p /new/place; : >/etc/hosts; : >/etc/hostname; mkdir /here/tmp", nil, []string{"C /etc", "C /etc/hostname", "A /etc/hosts", "C /here", "A /here/tmp", "A /new", "A /new/place"}},
	} {
		id := h.id()
		h.must(append(append([]string{"run", "--image", "base"}, tt.flags...), id, "sh", "-c", tt.script)...)
		lines := func(s string) (list []string) {
			for line := range strings.Lines(s) {
				// The root file system of the tests has these or not.
				if path := line[2 : len(line)-1]; !slices.Contains([]string{"/dev", "/proc", "/sys"}, path) {
					list = append(list, line[:len(line)-1])
				}
			}
			return list
		}
		if got := lines(h.must("diff", id)); !slices.Equal(got, tt.want) {
			t.Errorf("%s: diff\n got %q\nwant %q", tt.name, got, tt.want)
		}
		h.must("commit", "--quiet", id, "made")
		if got := lines(h.must("image", "diff", "base", "made")); !slices.Equal(got, tt.want) {
			t.Errorf("%s: diff of what commit has made\n got %q\nwant %q", tt.name, got, tt.want)
		}
		h.must("delete", id)
		h.must("image", "rm", "made")
	}
}

// What du calls an image's own is what rm says that it frees, and what is free then.
func TestRootImageRemoveFrees(t *testing.T) {
	for _, kind := range []string{"index", "extract"} {
		h := imageSetup(t)
		one, two := faultImages(t)
		for _, path := range []string{one, two} {
			h.must("image", "load", "--quiet", "--unpacker", kind, path)
		}
		h.must("image", "import", "--quiet", "--unpacker", kind, filepath.Dir(one), "three")
		h.must("image", "tag", "three", "again")
		for _, refs := range [][]string{{"two"}, {"three", "again"}, {"one"}} {
			own, before := "", h.diskUse()
			for line := range strings.Lines(h.must("image", "du")) {
				// A name, or several with commas; the ID; and a number with its unit.
				if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(line, refs[len(refs)-1]+":latest") {
					own = strings.Join(f[len(f)-4:len(f)-2], " ")
				}
			}
			var want strings.Builder
			for _, ref := range refs {
				want.WriteString("removed " + ref + ":latest\n")
			}
			want.WriteString(own + " freed\n")
			if got := h.must(append([]string{"image", "rm"}, refs...)...); got != want.String() {
				t.Errorf("%s: rm %q: %q, want %q", kind, refs, got, want.String())
			}
			if freed := before - h.diskUse(); freed < 20000 {
				t.Errorf("%s: rm %q has freed %d bytes", kind, refs, freed)
			}
		}
		h.sound(kind)
	}
}
