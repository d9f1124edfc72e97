package volume

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/safepath"
)

// Every level keeps two descriptors open: a tree without end must be an error
// before there are none left.
func TestCopier_Deep(t *testing.T) {
	dir := t.TempDir()
	src, dst := openDir(t, dir, "src"), openDir(t, dir, "dst")
	at := src
	for range maxDepth + 2 {
		if err := safepath.MkdirAt(at, "d", 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := safepath.OpenDirAt(at, "d", unix.O_RDONLY)
		if at != src {
			linux.Close(at)
		}
		if err != nil {
			t.Fatal(err)
		}
		at = next
	}
	linux.Close(at)
	c := copier{top: dst}
	err := c.tree(src, dst, "", 0)
	if err != nil && len(err.Error()) > 2000 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
	if err == nil || !strings.Contains(err.Error(), "more than 256 directories deep") {
		t.Errorf("%.200v", err)
	}
}

func openDir(t *testing.T, dir, name string) int {
	t.Helper()
	if err := os.Mkdir(dir+"/"+name, 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := linux.OpenAt(unix.AT_FDCWD, dir+"/"+name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { linux.Close(fd) })
	return fd
}
