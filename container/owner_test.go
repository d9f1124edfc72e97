package container

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/linux"
)

// Whether a container can still exist is told by the boot, by its record, and by
// whether its state root is the one that it was.
func TestLostSnapshot(t *testing.T) {
	root := t.TempDir()
	boot, err := linux.BootID()
	if err != nil {
		t.Fatal(err)
	}
	now, other := boot[:bootDigits], strings.Repeat("0", bootDigits)
	if now == other {
		other = strings.Repeat("1", bootDigits)
	}
	write := func(id, snapshot string) string {
		dir := filepath.Join(root, id)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if snapshot != "-" {
			if err := os.WriteFile(dir+"/snapshot", []byte(snapshot), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	own := write("own", "web.1@/store")
	another := write("another", "web.2@/store") // the name was used again
	empty := write("empty", "")
	bare := write("bare", "-") // of a bundle, or being made
	none := filepath.Join(root, "none")
	disk := rootOnDisk + strings.TrimLeft(rootKind(root), rootOnDisk)
	if rootKind(root) == rootInMemory { // where /tmp is
		disk = rootInMemory
	}
	for _, tt := range []struct {
		name, owner string
		lost, rm    bool
	}{
		{"nothing is said", "", false, false},
		{"nonsense", "x", false, false},
		{"no record", other + ":m", false, false},
		{"no path", other + ":m:web", false, false},
		{"short boot", "0:m:" + none, false, false},
		{"this boot", now + ":m:" + none, false, false},
		{"this boot, disposable", now + ":dm:" + none, false, false},
		{"another boot", other + ":m:" + none, true, false},
		{"disposable", other + ":dm:" + none, true, true},
		{"its record is there", other + ":m:" + own, false, false},
		{"its record is there, disposable", other + ":dm:" + own, false, true},
		{"the name was used again", other + ":m:" + another, true, false},
		{"by a container that is being made", other + ":m:" + bare, true, false},
		{"a kind of a newer version", other + ":z:" + none, false, false},
		{"on a disk", other + ":" + disk + ":" + none, true, false},
		{"on a disk, its record is there", other + ":" + disk + ":" + own, false, false},
		{"on a disk, the name was used again", other + ":" + disk + ":" + another, true, false},
		{"on a disk, cut off", other + ":i7:" + empty, false, false},
		{"on a disk, without a file", other + ":i7:" + bare, false, false},
		{"another disk", other + ":i7:" + none, false, false},
		{"a disk that is not mounted", other + ":i7:/nonexistent/state/none", false, false},
	} {
		l := LostSnapshot("web.1", tt.owner)
		if (l != nil) != tt.lost || l != nil && l.Disposable != tt.rm {
			t.Errorf("%s, %q: %+v", tt.name, tt.owner, l)
		}
	}
	got := ownerOf(root, "web", true)
	if want := now + ":d" + rootKind(root) + ":" + root + "/web"; got != want {
		t.Errorf("owner %q, want %q", got, want)
	}
	if got := ownerOf("/nonexistent", "web", false); got != "" {
		t.Errorf("owner below no root: %q", got)
	}
}
