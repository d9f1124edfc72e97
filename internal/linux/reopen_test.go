package linux

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReopenRegular(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", at("link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(at("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{"file": nil, "link": unix.EINVAL, "fifo": unix.EINVAL, ".": unix.EINVAL} {
		checkReopen(t, at(name), want)
	}
}

// A device without a driver cannot be opened: that this is not the error shows
// that nobody tried.
func TestRootReopenRegular_Device(t *testing.T) {
	name := filepath.Join(t.TempDir(), "device")
	if err := unix.Mknod(name, unix.S_IFCHR|0o600, int(unix.Mkdev(4095, 1<<20-1))); err != nil {
		t.Fatal(err)
	}
	if fd, err := OpenAt(unix.AT_FDCWD, name, unix.O_RDONLY, 0); err == nil {
		Close(fd)
		t.Fatal("the device can be opened")
	}
	checkReopen(t, name, unix.EINVAL)
}

func checkReopen(t *testing.T, name string, want error) {
	t.Helper()
	path, err := OpenAt(unix.AT_FDCWD, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := ReopenRegular(path)
	if err != want { //nolint:errorlint // as it is
		t.Errorf("%s: %v, want %v", filepath.Base(name), err, want)
	}
	if err != nil {
		return
	}
	b, err := ReadAll(fd, 100)
	Close(fd)
	if err != nil || string(b) != "content" {
		t.Errorf("%s: %q, %v", filepath.Base(name), b, err)
	}
}
