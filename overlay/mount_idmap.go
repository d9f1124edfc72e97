package overlay

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// MountMapped is Mount for a container with a user namespace: every layer is an
// idmapped mount of userns, a descriptor of a user namespace with the container's
// maps, so layers are shared with everybody and files belong to the container's
// own users. shift says what host id an id of the container is; the upper
// directory has owners of the host, because overlayfs works in it as the mounter,
// who is nobody in the container's namespace. It needs overlayfs with descriptors
// (Linux 6.13): otherwise the error is an *IDMapError.
func (sn *Snapshot) MountMapped(userns int, shift func(uid, gid uint32) (int, int)) (fd int, err error) {
	st := stack{s: sn.s, upper: sn.path() + "/upper", work: sn.path() + "/work", userns: userns, mapped: true}
	if err = sn.shiftUpper(shift); err == nil {
		fd, err = sn.mountOver(&st)
	}
	for _, fd := range st.clones {
		linux.Close(fd)
	}
	if err != nil {
		return -1, fmt.Errorf("mount snapshot %q: %w", sn.key, err)
	}
	return fd, nil
}

// shiftUpper gives the root of a new upper directory, which was made like that of
// the top layer, to the container's user.
func (sn *Snapshot) shiftUpper(shift func(uid, gid uint32) (int, int)) error {
	fd, err := linux.OpenAt(sn.s.dir, sn.path()+"/upper", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	uid, gid := shift(st.Uid, st.Gid)
	if err := unix.Fchown(fd, uid, gid); err != nil {
		return os.NewSyscallError("fchown", err)
	}
	return os.NewSyscallError("fchmod", unix.Fchmod(fd, st.Mode&0o7777)) // chown clears set-ID bits
}

// IDMapError reports that overlayfs, or the file system of the store, cannot
// show files as another user's.
type IDMapError struct{ Err error }

func (e *IDMapError) Error() string { return "idmapped layers: " + e.Err.Error() }
func (e *IDMapError) Unwrap() error { return e.Err }

// Hint says what it takes.
func (e *IDMapError) Hint() string {
	return "a user namespace for an image needs Linux 6.13, and a store on a file system with idmapped mounts, such as ext4, xfs, btrfs or tmpfs"
}

// clone is a detached, idmapped mount of a directory of the store.
func (st *stack) clone(dir string) (int, error) {
	fd, err := unix.OpenTree(st.s.dir, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: dir, Err: err}
	}
	if err := st.idmap(fd); err != nil {
		linux.Close(fd)
		return -1, err
	}
	return fd, nil
}

// idmap maps the ids of a mount that nobody else has.
func (st *stack) idmap(mount int) error {
	err := unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(st.userns)})
	if err == unix.EINVAL {
		return &IDMapError{os.NewSyscallError("mount_setattr", err)} // the file system has no idmapped mounts
	}
	return os.NewSyscallError("mount_setattr", err)
}

// open opens a directory of the stack to hand it to overlayfs.
func (st *stack) open(key, dir string) (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW
	if !st.mapped || key != "lowerdir+" {
		return linux.OpenAt(st.s.dir, dir, flags, 0)
	}
	clone, err := st.clone(dir)
	if err != nil {
		return -1, err
	}
	// A detached mount goes with its last descriptor, and overlayfs looks at its
	// layers when they are all there: so there is one descriptor for each.
	st.clones = append(st.clones, clone)
	return linux.OpenAt(clone, ".", flags, 0)
}

// mappedOnly turns "the kernel does not know the way" into what it means for a
// stack that has no other.
func (st *stack) mappedOnly(err error) error {
	var no *noWayError
	if st.mapped && errors.As(err, &no) {
		return &IDMapError{no.error}
	}
	return err
}
