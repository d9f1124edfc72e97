package container

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/minirun/minirun/container/volume"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/runtime"
	"golang.org/x/sys/unix"
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
	if runtime.OrdinaryUser() {
		if dir := os.Getenv("XDG_DATA_HOME"); strings.HasPrefix(dir, "/") {
			return dir + "/minirun"
		}
		if dir := os.Getenv("HOME"); strings.HasPrefix(dir, "/") {
			return dir + "/.local/share/minirun"
		}
	}
	return DefaultStore
}

// DefaultTrustPolicy is the policy that counts where there is a file of that name.
const DefaultTrustPolicy = "/etc/minirun/trust.json"

// TrustPolicy is the path of the policy that images have to comply with. wanted
// says that somebody has asked for it: then it must be there.
func TrustPolicy() (path string, wanted bool) {
	if path = os.Getenv("MINIRUN_TRUST_POLICY"); path != "" {
		return path, true
	}
	return DefaultTrustPolicy, false
}

// Layers opens the store of unpacked layers and snapshots.
func (i *Images) Layers() (*overlay.Store, error) { return overlay.OpenStore(OverlayDir(i.Dir)) }

// OverlayDir is where the layers of a store lie.
func OverlayDir(store string) string { return store + "/overlay" }

// snapshotKey is the name of a new snapshot. The ID alone would not do: it is
// unique among the containers of one state directory, and several of those may
// share a store. One of them must not find, or remove, the snapshot of another.
func snapshotKey(id string) string {
	if len(id) > maxKeyID {
		id = id[:maxKeyID]
	}
	return id + "." + RandomID()
}

// RandomID is 12 random hexadecimal digits.
func RandomID() string {
	// Not crypto/rand: that package and what it imports cost every start more
	// than the call.
	var b [6]byte
	_, _ = unix.Getrandom(b[:], 0) // does not fail for so few bytes
	const digits = "0123456789abcdef"
	var id [2 * len(b)]byte
	for i, c := range b {
		id[2*i], id[2*i+1] = digits[c>>4], digits[c&15]
	}
	return string(id[:])
}

// maxKeyID is how much of an ID is in the key of its snapshot, in bytes; keys
// have at most 255.
const maxKeyID = 200

// snapshotRecord is what the runtime's record keeps of a snapshot: the store,
// an absolute path, and the key in it. Stores may be many; the record tells which.
func snapshotRecord(store, key string) string { return key + "@" + store }

// SnapshotOf says where the snapshot of a container is: the store's directory and
// the key in it. ok is false for a container that was not made from an image.
func SnapshotOf(c *runtime.Container) (store, key string, ok bool) {
	key, store, ok = strings.Cut(c.Snapshot, "@")
	return store, key, ok
}

// release removes a container's snapshot, named by its record, and what it has of
// networks.
func release(record string) error {
	key, store, ok := strings.Cut(record, "@")
	if !ok {
		return nil
	}
	if err := Networks(store).Detach(key); err != nil {
		return err
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
	if c.Snapshot == "" && !hasUserNetwork(c) {
		return c.Delete(mode, nil)
	}
	return c.Delete(mode, func() error { return errors.Join(awaitUserNetwork(c), release(c.Snapshot)) })
}

// DeleteVolumes is Delete that also removes the container's volumes without a name,
// but for those that other containers use.
func DeleteVolumes(c *runtime.Container, mode runtime.Mode) error {
	store, key, ok := SnapshotOf(c)
	if !ok {
		return Delete(c, mode)
	}
	names, err := volume.Store(store).AnonymousOf(key)
	if err != nil {
		return err
	}
	if err := Delete(c, mode); err != nil {
		return err
	}
	return volume.Store(store).RemoveAnonymous(names)
}

// DeleteRemains removes a container that has no usable record, and its snapshot.
// A container that has one by now is returned instead.
func DeleteRemains(s *runtime.Store, id string) (*runtime.Container, error) {
	return s.DeleteRemains(id, release)
}
