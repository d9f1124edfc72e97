package linux

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// InRoot are the openat2(2) flags (Linux 5.6) under which every path inside a
// container's root is resolved: the descriptor is the root for absolute names,
// symbolic links and "..", and links of procfs that jump elsewhere fail.
const InRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// OpenInRoot opens unsafePath as a process would that has root as its root
// directory. Unlike open(filepath.Join(root, path)) nothing in the tree, and
// nobody who edits it meanwhile, can lead outside. The kernel answers EAGAIN
// when a rename or mount raced with "..": retried for at most 100 ms, so that
// an attacker who renames without pause makes us fail and not hang.
func OpenInRoot(root int, unsafePath string, flags int) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: InRoot}
	var deadline time.Time
	for {
		fd, err := unix.Openat2(root, unsafePath, &how)
		switch err {
		case nil:
			return fd, nil
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			if now := time.Now(); deadline.IsZero() {
				deadline = now.Add(100 * time.Millisecond)
				continue
			} else if now.Before(deadline) {
				continue
			}
		}
		return -1, &os.PathError{Op: "openat2", Path: unsafePath, Err: err}
	}
}
