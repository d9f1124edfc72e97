package archive

import (
	"archive/tar"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// deviceIn makes a device without a driver: an attempt to open it is another
// error than that it is no regular file.
func deviceIn(t *testing.T, name string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mknod(filepath.Join(dir, name), unix.S_IFCHR|0o600, int(unix.Mkdev(4095, 1<<20-1))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What was a file when its directory was read is a device when it is opened:
// containers that run may do that to their own files while they are committed.
func TestRootDirWriter_BecomesDevice(t *testing.T) {
	dir := deviceIn(t, "file")
	fd, err := linux.OpenAt(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer linux.Close(fd)
	w := &dirWriter{ctx: context.Background(), tw: tar.NewWriter(io.Discard), raw: io.Discard}
	if err := w.file(fd, "file", "file", nil); err == nil || !strings.Contains(err.Error(), "changed while it was read") {
		t.Errorf("got %v", err)
	}
}

func TestRootDirectory_Device(t *testing.T) {
	root, err := os.OpenRoot(deviceIn(t, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	d := &directory{root: root}
	if _, err := d.file("index.json"); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("got %v", err)
	}
}
