package container

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/runtime"
)

// DefaultStore is where images and snapshots are kept unless said otherwise.
const DefaultStore = "/var/lib/minirun"

// Images are the image store and the snapshots beside it. They are opened when
// they are needed: a container from a bundle never does.
type Images struct{ Dir string }

// StoreDir is the directory that a flag, or else the environment, names.
func StoreDir(flag string) string {
	if flag != "" {
		return flag
	}
	if dir := os.Getenv("MINIRUN_STORE"); dir != "" {
		return dir
	}
	return DefaultStore
}

// Images opens the image store.
func (i *Images) Images() (*imagestore.Store, error) { return imagestore.Open(i.Dir) }

// Layers opens the store of unpacked layers and snapshots.
func (i *Images) Layers() (*overlay.Store, error) { return overlay.OpenStore(OverlayDir(i.Dir)) }

// OverlayDir is where the layers of a store lie.
func OverlayDir(store string) string { return store + "/overlay" }

// snapshotRecord is what the runtime's record keeps of a snapshot: the store
// and the key in it. Stores may be many; the record tells which.
func snapshotRecord(store, key string) string { return key + "@" + store }

// release removes a container's snapshot, named by its record.
func release(record string) error {
	key, store, ok := strings.Cut(record, "@")
	if !ok {
		return nil
	}
	if _, err := os.Stat(OverlayDir(store)); errors.Is(err, fs.ErrNotExist) {
		return nil // the whole store is gone
	}
	layers, err := overlay.OpenStore(OverlayDir(store))
	if err != nil {
		return err
	}
	defer layers.Close()
	return layers.RemoveSnapshot(key)
}

// Delete removes a container and, if it was made from an image, its snapshot.
func Delete(c *runtime.Container, mode runtime.Mode) error {
	if c.Snapshot == "" {
		return c.Delete(mode, nil)
	}
	return c.Delete(mode, func() error { return release(c.Snapshot) })
}
