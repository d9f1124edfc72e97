package overlay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// The image of a chain is made by overlay/apply in the format of overlay/erofs;
// the few fields that are needed to mount it are read here, because a container
// start should not link more.
const (
	superOffset = 1024 // struct erofs_super_block
	superSize   = 128
	superMagic  = 0xe0f5e1e2
	volumeAt    = 64 // volume_name in it, 16 bytes
	redirects   = "redirects\x00"
	slotSize    = 128 // struct erofs_deviceslot
	tagSize     = 64  // its first field
	inodeSize   = 64  // struct erofs_inode_extended
	nidUnit     = 32
	maxDevices  = 2 * MaxLayers
)

// image is what a mount needs to know of a chain's image.
type image struct {
	path    string   // relative to the store
	devices []string // likewise, in their order
	root    []byte   // struct erofs_inode_extended of the root directory
	xattrs  []byte   // and its attributes, entries only
	which   string   // tells the file from one that took its place

	// Some files have their content in layersDir, where overlayfs finds it.
	redirects bool
}

// dir is the directory of the layer that the image is in.
func (img *image) dir() string { return img.path[:len(img.path)-len("/image")] }

// Tags of devices: which file of which layer, counted from the bottom, holds the
// data. The kernel does not look at them when devices are given by name.
const (
	// ArchiveFile is the name of a layer's archive.
	ArchiveFile = "tar"
	// SparseFile is the name of the file with the content of sparse files.
	SparseFile = "sparse"
	// RestFile is the name of the archive of a layer with large files: those are
	// holes in it. An image of the one kind of archive must not find the other.
	RestFile = "rest"
	// LargeDir is the name of the directory with the content of large files, each a
	// file of its own.
	LargeDir = "large"
)

// layersDir has the directories of the layers. It is what redirects in images are
// relative to.
const layersDir = "layers"

// RedirectTo is the path by which overlayfs, over the image of a chain, finds a file
// in the directory of the indexed layer c.
func RedirectTo(c ChainID, file string) string {
	return Indexed.Dir(c)[len(layersDir):] + "/" + file
}

// DeviceTag is the tag of an image's device that is the file of the layer with
// that number of layers below it.
func DeviceTag(file string, below int) string { return file + "/" + strconv.Itoa(below) }

// errDamaged says that an image is none of ours.
var errDamaged = errors.New("damaged image of a chain of layers")

// openImage reads the image of the chain that ends with the layer c; nil if there
// is none.
func (s *Store) openImage(c ChainID) (*image, error) {
	img := &image{path: Indexed.Dir(c) + "/image"}
	fd, err := linux.OpenAt(s.dir, img.path, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	err = img.read(fd, &places{s: s, top: c, fd: -1})
	if err == nil {
		var st unix.Stat_t
		err = os.NewSyscallError("fstat", unix.Fstat(fd, &st))
		img.which = strconv.FormatUint(st.Ino, 10) + "." + strconv.FormatInt(st.Mtim.Nano(), 10)
	}
	linux.Close(fd)
	if err != nil {
		return nil, &os.PathError{Op: "read", Path: s.root + "/" + img.path, Err: err}
	}
	return img, nil
}

func (img *image) read(fd int, chain *places) error {
	defer chain.close()
	le := binary.LittleEndian
	b := make([]byte, 4096)
	n, err := unix.Pread(fd, b, superOffset)
	if err != nil {
		return err
	}
	b = b[:n]
	if n < superSize || le.Uint32(b) != superMagic {
		return errDamaged
	}
	devices, at := int(le.Uint16(b[86:])), int(le.Uint16(b[88:]))*slotSize-superOffset
	root := int(le.Uint16(b[14:]))*nidUnit - superOffset
	if devices > maxDevices || devices > 0 && at < superSize || root < superSize {
		return errDamaged
	}
	if need := max(at+devices*slotSize, root+inodeSize); need > len(b) {
		b = make([]byte, need+4096)
		if n, err = unix.Pread(fd, b, superOffset); err != nil {
			return err
		}
		if b = b[:n]; n < need {
			return errDamaged
		}
	}
	img.redirects = string(b[volumeAt:][:len(redirects)]) == redirects
	for i := range devices {
		tag := b[at+i*slotSize:][:tagSize]
		path, err := chain.device(string(tag))
		if err != nil {
			return err
		}
		img.devices = append(img.devices, path)
	}
	img.root = b[root:][:inodeSize]
	if count := int(le.Uint16(img.root[2:])); count > 1 {
		size := (count - 1) * 4
		img.xattrs = make([]byte, size)
		// After struct erofs_xattr_ibody_header.
		if n, err := unix.Pread(fd, img.xattrs, int64(superOffset+root+inodeSize+12)); err != nil || n != size {
			return errDamaged
		}
	}
	return nil
}

// places finds the files of a chain of indexed layers. Of a chain of hundreds, of
// which few are devices, it reads those lines of the list that it needs.
type places struct {
	s     *Store
	top   ChainID
	fd    int // of the list of the layers below top, nearest first; -1 as long as it is not needed
	below int // how many these are
}

func (p *places) close() { linux.Close(p.fd) }

// device is the path of the file that the tag of a device names.
func (p *places) device(tag string) (string, error) {
	file, number, _ := strings.Cut(strings.TrimRight(tag, "\x00"), "/")
	below, err := strconv.Atoi(number)
	if err != nil || file != ArchiveFile && file != RestFile && file != SparseFile {
		return "", errDamaged
	}
	c, err := p.layer(below)
	if err != nil {
		return "", err
	}
	return Indexed.Dir(c) + "/" + file, nil
}

// layer is the one with that number of layers below it.
func (p *places) layer(below int) (ChainID, error) {
	if p.fd < 0 {
		var st unix.Stat_t
		var err error
		if p.fd, err = linux.OpenAt(p.s.dir, Indexed.Dir(p.top)+"/parents", unix.O_RDONLY|unix.O_NOFOLLOW, 0); err != nil {
			return "", err
		}
		if err := unix.Fstat(p.fd, &st); err != nil {
			return "", os.NewSyscallError("fstat", err)
		}
		if p.below = int(st.Size) / parentsLine; int(st.Size)%parentsLine != 0 {
			return "", errDamaged
		}
	}
	if below == p.below {
		return p.top, nil
	}
	if below < 0 || below > p.below {
		return "", errDamaged
	}
	var line [parentsLine]byte
	n, err := unix.Pread(p.fd, line[:], int64((p.below-1-below)*parentsLine))
	if err != nil {
		return "", os.NewSyscallError("pread", err)
	}
	ids, ok := parseParents(line[:n])
	if !ok || len(ids) != 1 {
		return "", errDamaged
	}
	return ids[0], nil
}

// giveTo sets the attributes of the directory fd to those of the image's root,
// as [CopyAttributes] does.
func (img *image) giveTo(fd int) error {
	le := binary.LittleEndian
	if err := unix.Fchown(fd, int(le.Uint32(img.root[24:])), int(le.Uint32(img.root[28:]))); err != nil {
		return os.NewSyscallError("fchown", err)
	}
	if err := unix.Fchmod(fd, uint32(le.Uint16(img.root[4:]))&0o7777); err != nil {
		return os.NewSyscallError("fchmod", err)
	}
	for b := img.xattrs; len(b) > 0; {
		if len(b) < 4 {
			return errDamaged
		}
		size := 4 + int(b[0]) + int(le.Uint16(b[2:]))
		if size > len(b) {
			return errDamaged
		}
		name, value := string(b[4:4+int(b[0])]), b[4+int(b[0]):size]
		switch b[1] {
		case 1:
			name = "user." + name
		case 2:
			name = "system.posix_acl_access"
		case 3:
			name = "system.posix_acl_default"
		default:
			name = ""
		}
		if name != "" {
			if err := unix.Fsetxattr(fd, name, value, 0); err != nil {
				return &os.PathError{Op: "copy attribute", Path: name, Err: err}
			}
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: int64(le.Uint64(img.root[32:])), Nsec: int64(le.Uint32(img.root[40:]))}}
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH))
}

// IndexError says that the kernel does not mount images from files, or does not find
// large files by redirects, as it did when the layers were indexed.
type IndexError struct{ Err error }

func (e *IndexError) Error() string {
	return fmt.Sprintf("the image's layers are kept as archives with an index, which this kernel does not mount: %v", e.Err)
}
func (e *IndexError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *IndexError) Hint() string {
	return "minirun image unpack --unpacker extract IMAGE keeps them as directories too"
}

// mountImage mounts an image, detached and read-only.
func (s *Store) mountImage(img *image) (int, error) {
	fs, err := unix.Fsopen("erofs", unix.FSOPEN_CLOEXEC)
	if err == unix.ENODEV {
		return -1, &IndexError{err}
	}
	if err != nil {
		return -1, os.NewSyscallError("fsopen", err)
	}
	defer linux.Close(fs)
	// Strings of fsconfig(2) have 255 bytes, the store's path may have more.
	base := "/proc/self/fd/" + strconv.Itoa(s.dir) + "/"
	set := func(key, path string) error {
		if err := unix.FsconfigSetString(fs, key, base+path); err != nil {
			return fsError(fs, "fsconfig "+key, path, err)
		}
		return nil
	}
	if err := set("source", img.path); err != nil {
		return -1, err
	}
	for _, d := range img.devices {
		if err := set("device", d); err != nil {
			return -1, err
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		err := fsError(fs, "fsconfig", "create", err)
		if errors.Is(err, unix.ENOTBLK) {
			err = &IndexError{err}
		}
		return -1, err
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID)
	if err != nil {
		return -1, fsError(fs, "fsmount", "erofs", err)
	}
	return fd, nil
}

// HasLarge reports whether the layer is in the store, with an index, and has large files.
func (s *Store) HasLarge(c ChainID) bool {
	return c.Valid() && s.exists(Indexed.Dir(c)+"/"+RestFile)
}

// dataDir is the data-only lower directory that goes with the image; "" for none.
func (img *image) dataDir() string {
	if img.redirects {
		return layersDir
	}
	return ""
}

// ProbeIndex tells whether snapshots can stand on images here: it mounts the
// given one, of an empty directory, with an empty upper directory over it. The
// kernel must mount EROFS from files (Linux 6.12), with small blocks (6.4), on
// the file system that the store is on, and take a detached mount as a lower
// directory of overlayfs.
func (s *Store) ProbeIndex(content []byte) error {
	return s.probe(content, nil, func(int) error { return nil })
}

// ProbeRedirect tells whether files can lie beside the archive of their layer: the
// image given, which has the file "file" with a redirect to "/data" and the size of
// data, has to show it. The kernel must take data-only lower directories without
// metacopy (Linux 6.16).
func (s *Store) ProbeRedirect(content, data []byte) error {
	return s.probe(content, data, func(mount int) error {
		fd, err := linux.OpenAt(mount, "file", unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		defer linux.Close(fd)
		got, err := linux.ReadAll(fd, len(data)+1)
		if err == nil && !bytes.Equal(got, data) {
			err = fmt.Errorf("a file with a redirect has %d other bytes", len(got))
		}
		return err
	})
}

// probe mounts an image, with an upper directory over it, for look to look at.
func (s *Store) probe(content, data []byte, look func(mount int) error) (err error) {
	name := randomName("probe")
	dir, err := s.newStaged(name)
	if err != nil {
		return err
	}
	defer linux.Close(dir)
	defer func() { err = errors.Join(err, s.removeIn("staging", name)) }()
	if err := writeFile(dir, "image", content); err != nil {
		return err
	}
	for _, sub := range []string{"upper", "work"} {
		if err := unix.Mkdirat(dir, sub, 0o700); err != nil {
			return os.NewSyscallError("mkdirat", err)
		}
	}
	at := "staging/" + name
	st := stack{s: s, upper: at + "/upper", work: at + "/work"}
	if data != nil {
		st.data = at
		if err := writeFile(dir, "data", data); err != nil {
			return err
		}
	}
	if st.lowerFD, err = s.mountImage(&image{path: at + "/image"}); err != nil {
		return err
	}
	defer linux.Close(st.lowerFD)
	fd, err := st.mount(byFD)
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	return look(fd)
}
