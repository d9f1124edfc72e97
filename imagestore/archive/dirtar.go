package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// dirWriter writes a directory as a tar archive that depends on its content
// alone: names in byte order, numeric owners, modification times to the
// nanosecond, no other times. Sockets are left out.
//
// The tree may be changed by others meanwhile. It is walked by descriptors that
// follow no symbolic link, so nothing outside it can get into the archive.
type dirWriter struct {
	ctx      context.Context // of one walk
	tw       *tar.Writer
	raw      io.Writer            // what tw writes to; for sparse files, which it cannot write
	upper    bool                 // the directory is an upper one of overlayfs: see upper.go
	links    map[[2]uint64]string // device and inode of files with several names
	skipped  []string
	progress Progress
	n        int64
	// owner, if not nil, says whom a file belongs to in the archive.
	owner Owner
	// places are left out where nothing is: see CommitOptions.
	places map[string]bool
}

// maxTreeDepth bounds open descriptors, and is deeper than a path can be named.
const maxTreeDepth = 256

func (w *dirWriter) write(dir string) error {
	fd, err := linux.OpenAt(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	return w.writeFD(fd, dir)
}

// writeFD is write for an open directory; dir is what errors call it.
func (w *dirWriter) writeFD(fd int, dir string) error {
	w.links = map[[2]uint64]string{}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	xattrs, err := readXattrs(fd, ".")
	if err != nil {
		return fmt.Errorf("%q: %w", dir, err)
	}
	if err := w.header(&st, "./", "", xattrs); err != nil {
		return err
	}
	return w.children(fd, "", 1)
}

// children writes what is in the directory fd, whose name in the archive is
// prefix: empty, or with a slash at its end.
func (w *dirWriter) children(fd int, prefix string, depth int) error {
	if depth > maxTreeDepth {
		return fmt.Errorf("%q is more than %d directories deep", prefix, maxTreeDepth)
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(dup), prefix)
	names, err := f.Readdirnames(-1)
	f.Close()
	if err != nil {
		return err
	}
	sort.Strings(names)
	for _, name := range names {
		if err := w.ctx.Err(); err != nil {
			return context.Cause(w.ctx)
		}
		if err := w.entry(fd, name, prefix+name, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *dirWriter) entry(dir int, name, full string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("%q: %w", full, err)
	}
	if strings.HasPrefix(name, whiteoutPrefix) {
		return fmt.Errorf("%q: in a layer, names that begin with .wh. mean a removed file", full)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		w.skipped = append(w.skipped, fmt.Sprintf("left out the socket %q", full))
		return nil
	case unix.S_IFCHR:
		if st.Rdev == 0 && w.upper {
			return w.marker(strings.TrimSuffix(full, name) + whiteoutPrefix + name)
		}
		if st.Rdev == 0 {
			return fmt.Errorf("%q: in a layer, a character device 0:0 means a removed file", full)
		}
	}
	if w.places[full] {
		if nothing, err := isNothing(dir, name, &st); err != nil || nothing {
			return err
		}
	}
	key := [2]uint64{uint64(st.Dev), st.Ino}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if st.Nlink > 1 && !isDir {
		if first, ok := w.links[key]; ok {
			return w.link(&st, full, first)
		}
		w.links[key] = full
	}
	xattrs, err := readXattrs(dir, name)
	if err != nil {
		return fmt.Errorf("%q: %w", full, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return w.dir(dir, name, full, depth, xattrs)
	case unix.S_IFREG:
		return w.file(dir, name, full, xattrs)
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, name, buf)
		if err != nil {
			return fmt.Errorf("%q: %w", full, err)
		}
		return w.header(&st, full, string(buf[:n]), xattrs)
	}
	return w.header(&st, full, "", xattrs)
}

func (w *dirWriter) dir(dir int, name, full string, depth int, xattrs map[string]string) error {
	fd, err := linux.OpenAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("%q: %w", full, err)
	}
	defer linux.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if err := w.header(&st, full+"/", "", xattrs); err != nil {
		return err
	}
	if w.upper {
		if err := w.opaque(fd, full+"/"); err != nil {
			return fmt.Errorf("%q: %w", full, err)
		}
	}
	return w.children(fd, full+"/", depth+1)
}

func (w *dirWriter) file(dir int, name, full string, xattrs map[string]string) error {
	fd, err := linux.OpenAt(dir, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("%q: %w", full, err)
	}
	// It may have become a FIFO or a device since the look at it.
	if fd, err = linux.ReopenRegular(fd); err == unix.EINVAL {
		return fmt.Errorf("%q changed while it was read", full)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", full, err)
	}
	f := os.NewFile(uintptr(fd), full)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if w.upper {
		if done, err := w.sparse(f, &st, full, xattrs); done || err != nil {
			return err
		}
	}
	if err := w.header(&st, full, "", xattrs); err != nil {
		return err
	}
	n, err := io.CopyN(w.tw, f, st.Size)
	if err == io.EOF {
		return fmt.Errorf("%q changed while it was read: it has %d bytes, had %d", full, n, st.Size)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", full, err)
	}
	w.n += n
	if w.progress != nil {
		w.progress(w.n, 0)
	}
	return nil
}

func (w *dirWriter) link(st *unix.Stat_t, full, first string) error {
	h := w.newHeader(st, full)
	h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
	return w.put(h)
}

func (w *dirWriter) newHeader(st *unix.Stat_t, full string) *tar.Header {
	mtime := time.Unix(st.Mtim.Unix())
	uid, gid := int(st.Uid), int(st.Gid)
	if w.owner != nil {
		uid, gid = w.owner(st.Uid, st.Gid)
	}
	return &tar.Header{
		Name:    full,
		Mode:    int64(st.Mode & 0o7777),
		Uid:     uid,
		Gid:     gid,
		ModTime: mtime,
		Format:  tar.FormatPAX,
	}
}

func (w *dirWriter) header(st *unix.Stat_t, full, target string, xattrs map[string]string) error {
	h := w.newHeader(st, full)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
	case unix.S_IFLNK:
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(uint64(st.Rdev))), int64(unix.Minor(uint64(st.Rdev)))
	default:
		return fmt.Errorf("%q has the unknown file type %#o", full, st.Mode&unix.S_IFMT)
	}
	if len(xattrs) > 0 {
		h.PAXRecords = map[string]string{}
		for k, v := range xattrs {
			h.PAXRecords["SCHILY.xattr."+k] = w.owner.xattr(k, v)
		}
	}
	return w.put(h)
}

func (w *dirWriter) put(h *tar.Header) error {
	if h.Uid < 0 || h.Gid < 0 {
		return fmt.Errorf("%q belongs to a user or group that the container does not have", h.Name)
	}
	if err := w.tw.WriteHeader(h); err != nil {
		return fmt.Errorf("%q: %w", h.Name, err)
	}
	return nil
}

// readXattrs returns the extended attributes that belong into an image: not the
// labels of this host's security modules and not overlayfs's own.
func readXattrs(dir int, name string) (map[string]string, error) {
	// There is no lgetxattrat(2) before Linux 6.13; the magic link is ours.
	path := "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name
	buf := make([]byte, 64<<10) // XATTR_LIST_MAX and XATTR_SIZE_MAX
	n, err := unix.Llistxattr(path, buf)
	if errors.Is(err, unix.ENOTSUP) || n == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "llistxattr", Path: name, Err: err}
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	var m map[string]string
	for _, key := range names {
		if !wantXattr(key) {
			continue
		}
		n, err := unix.Lgetxattr(path, key, buf)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "lgetxattr", Path: name + " " + key, Err: err}
		}
		if m == nil {
			m = map[string]string{}
		}
		m[key] = string(buf[:n])
	}
	return m, nil
}

func wantXattr(key string) bool {
	switch {
	case key == "security.capability":
		return true
	case strings.HasPrefix(key, "user.overlay."):
		return false
	case strings.HasPrefix(key, "user."), strings.HasPrefix(key, "system.posix_acl_"):
		return true
	}
	return false
}
