package unpack_test

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/container/unpack"
	"github.com/minirun/minirun/imagestore/decompress"
	"github.com/minirun/minirun/imagestore/imagetest"
)

// resident is how many pages of a file are in memory.
func resident(t *testing.T, path string) (n int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(b)
	pages := make([]byte, (len(b)+os.Getpagesize()-1)/os.Getpagesize())
	if _, _, e := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(unsafe.Pointer(&pages[0]))); e != 0 {
		t.Fatal(e)
	}
	for _, p := range pages {
		n += int(p & 1)
	}
	return n
}

// The blob of a compressed layer is not kept in memory once it is unpacked. One that is
// not compressed is the layer.
func TestRootImage_BlobIsForgotten(t *testing.T) {
	s := newStores(t)
	var fs unix.Statfs_t
	if err := unix.Statfs(s.images.Root(), &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type != unix.EXT4_SUPER_MAGIC && fs.Type != unix.XFS_SUPER_MAGIC && fs.Type != unix.BTRFS_SUPER_MAGIC {
		t.Skipf("on a file system of type %#x files may have to be in memory", fs.Type)
	}
	noise := make([]byte, 1<<20)
	r := rand.NewChaCha8([32]byte{})
	_, _ = r.Read(noise)
	b := s.load(t, imagetest.Image{Names: []string{"x"}, Layers: []imagetest.Layer{
		layer(t, decompress.Gzip, "a", string(noise)), layer(t, decompress.Zstd, "b", string(noise)), layer(t, decompress.None, "c", string(noise)),
	}})
	d, err := os.Open(s.images.Root())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		t.Fatal(err)
	}
	if _, err := unpack.Image(context.Background(), s.images, s.layers, "x", nil); err != nil {
		t.Fatal(err)
	}
	for i, l := range b.Layers {
		path := filepath.Join(s.images.Root(), "blobs", "sha256", l.Digest.Hex())
		if n := resident(t, path); (n == 0) != (i < 2) {
			t.Errorf("layer %d: %d pages are in memory", i, n)
		}
	}
}
