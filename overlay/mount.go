package overlay

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// MaxLayers is OVL_MAX_STACK of the kernel: more lower directories are EINVAL. A
// chain with an index is one of them, whatever its length.
const MaxLayers = 500

// way is one of the three ways to hand lower directories to overlayfs.
type way int

const (
	byFD     way = iota // fsconfig "lowerdir+" with descriptors, Linux 6.13
	byPath              // fsconfig "lowerdir+" with paths of up to 255 bytes, Linux 6.7
	byOption            // mount(2) with one option string of up to 4095 bytes
	lastWay  = byOption
)

// options that every mount gets. A container's upper directory is read by
// others (commit, diff), so the features that leave half a file or a pointer
// to another directory in it are off whatever the kernel was built to prefer;
// and a redirect in an upper directory or an extracted layer, which could name a
// sibling, is not followed. Those of our images, to the data of large files, are.
var options = [...][2]string{{"index", "off"}, {"metacopy", "off"}, {"redirect_dir", "nofollow"}}

// stack is a mount to be made. Paths are relative to the store.
type stack struct {
	s        *Store
	lowers   []string // top first
	lowerFD  int      // the only lower directory, if lowers is empty
	data     string   // has the content of files that lowerFD has redirects for; "" for none
	upper    string   // "" for a read-only mount
	work     string
	volatile bool

	// See MountMapped: the user namespace, and what is mounted with it.
	mapped bool
	userns int
	clones []int
}

// Mount makes the snapshot's overlay mount and returns it as a descriptor for
// move_mount(2) and openat(2), close-on-exec. It is in no mount namespace:
// closing the descriptor without attaching it undoes the mount.
//
// A snapshot must not be mounted twice at one time: the kernel only warns
// ("accessing files from both mounts will result in undefined behavior").
// Whoever owns the container sees to that.
func (sn *Snapshot) Mount() (fd int, err error) { return sn.mount(false) }

// MountVolatile is Mount for a container whose files nobody wants after a crash
// of the host (--rm, build steps): the kernel omits every sync of the upper
// directory, the one at unmount included, which otherwise waits for all dirty
// data of that file system. The snapshot cannot be mounted again afterwards.
func (sn *Snapshot) MountVolatile() (fd int, err error) { return sn.mount(true) }

func (sn *Snapshot) mount(volatile bool) (int, error) {
	st := stack{s: sn.s, upper: sn.path() + "/upper", work: sn.path() + "/work", volatile: volatile}
	fd, err := sn.mountOver(&st)
	if errors.Is(err, unix.EINVAL) && unix.Faccessat(sn.s.dir, st.work+"/work/incompat/volatile", unix.F_OK, 0) == nil {
		err = &VolatileError{sn.key} // the kernel says so in its log only
	}
	if err != nil {
		return -1, fmt.Errorf("mount snapshot %q: %w", sn.key, err)
	}
	return fd, nil
}

// mountOver mounts st over what the snapshot stands on.
func (sn *Snapshot) mountOver(st *stack) (fd int, err error) {
	if sn.parent == "" {
		st.lowers = []string{sn.path() + "/lower"}
		return st.mount(byFD)
	}
	if sn.image == nil {
		if sn.image, err = sn.s.openImage(sn.parent); err != nil {
			return -1, err
		}
	}
	if sn.image != nil {
		fd, err := sn.mountOverImage(st)
		if !sn.s.insteadOf(err, sn.parent) {
			return fd, err
		}
		st.lowerFD, st.data = 0, ""
		if sn.share != nil { // nobody stands on it
			sn.share.Close()
			sn.share = nil
		}
	}
	if st.lowers, err = sn.s.lowerPaths(sn.parent); err != nil {
		return -1, err
	}
	return st.mount(byFD)
}

// mountOverImage mounts st over the snapshot's image.
func (sn *Snapshot) mountOverImage(st *stack) (fd int, err error) {
	if st.lowerFD, err = sn.mountImage(st.mapped); err != nil {
		return -1, err
	}
	defer linux.Close(st.lowerFD) // overlayfs has a clone of it
	st.data = sn.image.dataDir()
	if st.mapped {
		if err := st.idmap(st.lowerFD); err != nil {
			return -1, err
		}
	}
	return st.mount(byFD)
}

// insteadOf reports whether the directories of an extracted chain have to do in place
// of its image, which failed: because the kernel is older than yesterday's. They show
// the same.
func (s *Store) insteadOf(err error, c ChainID) bool {
	var no *IndexError
	return errors.As(err, &no) && s.Has(Extracted, c)
}

// mountedImage is what came of the mount of an image.
type mountedImage struct {
	fd  int
	new bool // nobody has mounted it before, as far as we know
	err error
}

// mountEarly begins to mount the snapshot's image.
func (sn *Snapshot) mountEarly() {
	sn.early = make(chan mountedImage, 1)
	go func() { sn.early <- sn.s.shareImage(sn.image) }()
}

// shareImage takes the mount of an image from another container, or mounts it.
func (s *Store) shareImage(img *image) (m mountedImage) {
	if m.fd = s.sharedMount(img); m.fd < 0 {
		m.new = true
		m.fd, m.err = s.mountImage(img)
	}
	return m
}

// mountImage mounts the snapshot's image, unless that was begun.
func (sn *Snapshot) mountImage(mapped bool) (int, error) {
	var m mountedImage
	if sn.early == nil {
		m = sn.s.shareImage(sn.image)
	} else {
		m = <-sn.early
		sn.early = nil
	}
	if m.err == nil && m.new && sn.closes && !mapped { // which is for one container alone
		sn.share = sn.s.newShare(sn.image, m.fd)
	}
	return m.fd, m.err
}

// Close gives back what is open of a snapshot: the mount that PrepareFor has begun, and
// a Share that nobody wanted. The snapshot stays.
func (sn *Snapshot) Close() {
	if sn.early != nil {
		if m := <-sn.early; m.err == nil {
			linux.Close(m.fd)
		}
		sn.early = nil
	}
	if sn.share != nil {
		sn.share.Close()
		sn.share = nil
	}
}

// MountView mounts the layers of a chain read-only and detached, without any
// snapshot, to look into an image. What keeps the layers has to do so as long as it is
// looked into: large files are opened in them.
func (s *Store) MountView(c ChainID) (fd int, err error) {
	sn := Snapshot{s: s}
	err = sn.stand(c)
	if err == nil && c == "" {
		err = &NameError{"chain ID", ""}
	}
	if err == nil {
		if sn.image != nil {
			fd, err = s.viewImage(sn.image)
		}
		if sn.image == nil || s.insteadOf(err, c) {
			fd, err = s.viewDirs(c)
		}
	}
	if err != nil {
		return -1, fmt.Errorf("mount layer %q: %w", string(c), err)
	}
	return fd, nil
}

// viewImage mounts what an image shows.
func (s *Store) viewImage(img *image) (int, error) {
	fd, err := s.mountImage(img)
	if err != nil || !img.redirects {
		return fd, err
	}
	defer linux.Close(fd)
	st := stack{s: s, lowerFD: fd, data: img.dataDir()}
	return st.mount(byFD)
}

// viewDirs mounts what the directories of an extracted chain show.
func (s *Store) viewDirs(c ChainID) (fd int, err error) {
	st := stack{s: s}
	if st.lowers, err = s.lowerPaths(c); err != nil {
		return -1, err
	}
	if len(st.lowers) == 1 {
		return st.bind() // overlayfs wants two directories at least
	}
	return st.mount(byFD)
}

// lowerPaths are the directories of the extracted chain that ends with c, top first.
func (s *Store) lowerPaths(c ChainID) ([]string, error) {
	ids, err := s.chain(Extracted, c)
	if err != nil {
		return nil, err
	}
	paths := make([]string, len(ids))
	for i, c := range ids {
		paths[i] = c.path() + "/fs"
	}
	return paths, nil
}

// bind is a read-only detached bind mount of the only lower directory.
func (st *stack) bind() (int, error) {
	fd, err := unix.OpenTree(st.s.dir, st.lowers[0], unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: st.lowers[0], Err: err}
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		linux.Close(fd)
		return -1, os.NewSyscallError("mount_setattr", err)
	}
	return fd, nil
}

// mount tries the ways from the given one on, from the best to the oldest, and
// goes on when the kernel does not know the way; any other error is final.
// There is no table of versions: distributions backport.
func (st *stack) mount(from way) (int, error) {
	if len(st.lowers) > MaxLayers {
		return -1, &DepthError{len(st.lowers)}
	}
	for w := from; ; w++ {
		var fd int
		var err error
		if w == byOption {
			fd, err = st.mountOption()
		} else {
			fd, err = st.mountNew(w)
		}
		if err == nil {
			return fd, nil
		}
		var no *noWayError
		if st.mapped {
			return -1, st.mappedOnly(err)
		}
		if len(st.lowers) == 0 && errors.As(err, &no) {
			return -1, &IndexError{err}
		}
		if w == lastWay || !errors.As(err, &no) {
			return -1, err
		}
	}
}

// noWayError marks an error that comes from the way and not from what is mounted.
type noWayError struct{ error }

func (e *noWayError) Unwrap() error { return e.error }

// mountNew uses fsopen(2), fsconfig(2) and fsmount(2). At most one lower
// directory is open at a time, however many there are: the kernel keeps its own
// reference.
func (st *stack) mountNew(w way) (int, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsopen", err)
	}
	defer linux.Close(fs)
	if len(st.lowers) == 0 {
		if err := unix.FsconfigSetFd(fs, "lowerdir+", st.lowerFD); err != nil {
			// The kernel does not take descriptors (before 6.13), or not those
			// of detached mounts.
			return -1, &noWayError{fsError(fs, "fsconfig lowerdir+", "image", err)}
		}
		if st.data != "" {
			if err := st.setDir(fs, w, dataParameter, st.data); err != nil {
				return -1, st.noData(err)
			}
		}
	}
	for i, dir := range st.lowers {
		if err := st.setDir(fs, w, "lowerdir+", dir); err != nil {
			// EINVAL is "not with a descriptor" (before 6.13), "unknown
			// parameter" (before 6.7) or "options too large" (before 6.5, where
			// any string is taken and only looked at in the end). EBADF is "not
			// with an O_PATH descriptor" (before 6.13), EOPNOTSUPP "no
			// descriptors at all" (before 6.5).
			no := errors.Is(err, unix.EINVAL) || w == byFD && (errors.Is(err, unix.EBADF) || errors.Is(err, unix.EOPNOTSUPP))
			if (i == 0 || w == byPath) && no {
				return -1, &noWayError{err}
			}
			return -1, err
		}
	}
	if st.upper != "" {
		if err := st.setDir(fs, w, "upperdir", st.upper); err != nil {
			return -1, err
		}
		if err := st.setDir(fs, w, "workdir", st.work); err != nil {
			return -1, err
		}
	}
	for _, o := range options {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return -1, fsError(fs, "fsconfig", o[0]+"="+o[1], err)
		}
	}
	if st.volatile {
		if err := unix.FsconfigSetFlag(fs, "volatile"); err != nil {
			return -1, fsError(fs, "fsconfig", "volatile", err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		err = fsError(fs, "fsconfig", "create", err)
		if w == byPath && errors.Is(err, unix.EINVAL) {
			err = &noWayError{err}
		}
		return -1, st.noData(err)
	}
	attr := 0
	if st.upper == "" {
		attr = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return -1, fsError(fs, "fsmount", "overlay", err)
	}
	return fd, nil
}

// dataParameter is that of data-only lower directories.
var dataParameter = "datadir+"

// noData turns EINVAL into what it means for a stack with data for redirects: before
// Linux 6.16 overlayfs wants metacopy for it.
func (st *stack) noData(err error) error {
	if st.data != "" && errors.Is(err, unix.EINVAL) {
		return &IndexError{err}
	}
	return err
}

// setDir hands the directory dir to the context fs.
func (st *stack) setDir(fs int, w way, key, dir string) error {
	if w == byPath {
		path := st.s.root + "/" + dir
		if len(path) > 255 || strings.ContainsAny(path, `\:,`) {
			// A string of fsconfig has 255 bytes, and overlayfs treats these
			// characters specially in some versions.
			return &noWayError{&os.PathError{Op: "fsconfig " + key, Path: path, Err: unix.EINVAL}}
		}
		if err := unix.FsconfigSetString(fs, key, path); err != nil {
			return fsError(fs, "fsconfig "+key, path, err)
		}
		return nil
	}
	fd, err := st.open(key, dir)
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	if err := unix.FsconfigSetFd(fs, key, fd); err != nil {
		return fsError(fs, "fsconfig "+key, dir, err)
	}
	return nil
}

// fsError adds what the kernel has to say: lines that start with a letter and a
// space (e, w, i), read from the context until ENODATA. See fsopen(2).
func fsError(fs int, op, object string, err error) error {
	pe := &os.PathError{Op: op, Path: object, Err: err}
	var said []string
	buf := make([]byte, 1024)
	for len(said) < 8 {
		n, rerr := linux.Read(fs, buf)
		if rerr != nil || n <= 0 {
			break
		}
		said = append(said, strings.TrimSpace(string(buf[:n])))
	}
	if len(said) == 0 {
		return pe
	}
	return fmt.Errorf("%w (kernel: %s)", pe, strings.Join(said, "; "))
}
