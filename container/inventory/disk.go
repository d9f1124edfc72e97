package inventory

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// disk is how much of the disk the parts of a store take, in bytes of blocks.
type disk struct {
	total int64
	parts map[string]int64 // by path relative to the store, see partOf
	// blobs are those that are the archive of an indexed layer too, by the layer's
	// part: a file with two names, whose bytes count as the blob's.
	blobs map[string]string
}

// partOf is the part of a store that a path belongs to: a blob, a layer, a
// snapshot, work in progress; "" is all the rest.
func partOf(rel string) string {
	f := strings.SplitN(rel, "/", 4)
	switch {
	case f[0] == "blobs" && len(f) == 3:
		return rel
	case (f[0] == "ingest" || f[0] == "partial" || f[0] == "unpacked") && len(f) > 1:
		return f[0] + "/" + strings.TrimSuffix(f[1], ".trust") // of the same image
	case f[0] == "overlay" && len(f) > 2:
		return strings.TrimSuffix(strings.Join(f[:3], "/"), ".index") // a layer kept in both ways is one
	}
	return ""
}

// measure walks root. What vanishes meanwhile is not there; a file with several
// names counts where it is found first, and blobs come first.
func measure(root string) (*disk, error) {
	d := &disk{parts: map[string]int64{}, blobs: map[string]string{}}
	type inode struct{ dev, ino uint64 }
	seen := map[inode]string{} // where it was found first
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			var st unix.Stat_t
			err = unix.Lstat(path, &st)
			id := inode{st.Dev, st.Ino}
			part := partOf(strings.TrimPrefix(strings.TrimPrefix(path, root), "/"))
			first, again := seen[id]
			switch {
			case err != nil:
			case again && strings.HasPrefix(first, "blobs/") && strings.HasPrefix(part, "overlay/layers/"):
				d.blobs[part] = first
			case !again:
				if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
					seen[id] = part
				}
				n := st.Blocks * 512
				d.total += n
				d.parts[part] += n
			}
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	})
	return d, err
}
