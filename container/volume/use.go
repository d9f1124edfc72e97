package volume

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/safepath"
)

// Use says how a container uses a volume.
type Use struct {
	Name      string
	Anonymous bool   // make it one that nobody has named
	User      string // key of the container's snapshot, which is there
	NoCopy    bool
	// Root and Dest are a directory of the image, its root and a path below, with
	// which a volume that is used for the first time is filled.
	Root int
	Dest string
}

// Use makes a volume if it is not there, notes who uses it, and fills it from
// the image the first time. It returns what to mount.
func (s Store) Use(u Use) (path string, err error) {
	if err := CheckName(u.Name); err != nil {
		return "", err
	}
	dir, err := s.open(true, unix.LOCK_SH)
	if err != nil {
		return "", err
	}
	defer linux.Close(dir)
	fd, err := safepath.OpenDirAt(dir, u.Name, unix.O_RDONLY)
	if errors.Is(err, unix.ENOENT) {
		err = s.create(dir, u.Name, u.Anonymous, nil)
		var exists *ExistError
		if err == nil || errors.As(err, &exists) { // somebody was faster
			fd, err = safepath.OpenDirAt(dir, u.Name, unix.O_RDONLY)
		}
	}
	if err != nil {
		return "", err
	}
	defer linux.Close(fd)
	err = touch(fd, usersName+"/"+u.User)
	if err == nil && unix.Faccessat(fd, freshName, unix.F_OK, 0) == nil {
		err = u.first(fd)
	}
	if err != nil {
		return "", fmt.Errorf("volume %q: %w", u.Name, err)
	}
	return s.Path(u.Name), nil
}

// touch makes an empty file; one that is there is as good.
func touch(dir int, name string) error {
	fd, err := linux.OpenAt(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW, 0o600)
	linux.Close(fd)
	return err
}

// first fills a volume that nobody has used yet. Others that use it for the
// first time wait.
func (u *Use) first(fd int) error {
	for {
		if err := unix.Flock(fd, unix.LOCK_EX); err == nil {
			break
		} else if err != unix.EINTR {
			return os.NewSyscallError("flock", err)
		}
	}
	if unix.Faccessat(fd, freshName, unix.F_OK, 0) != nil {
		return nil
	}
	if !u.NoCopy {
		if err := u.fill(fd); err != nil {
			return fmt.Errorf("copy %q from the image: %w", u.Dest, err)
		}
	}
	return safepath.UnlinkAt(fd, freshName)
}

func (u *Use) fill(fd int) error {
	if err := safepath.RemoveAllAt(fd, fillName); err != nil { // of one that was killed
		return err
	}
	src, err := linux.OpenInRoot(u.Root, u.Dest, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil // the image has nothing there
	}
	if err != nil {
		return err
	}
	defer linux.Close(src)
	err = safepath.MkdirAt(fd, fillName, 0o700)
	if err != nil {
		return err
	}
	dst, err := safepath.OpenDirAt(fd, fillName, unix.O_RDONLY)
	if err != nil {
		return err
	}
	c := copier{top: dst}
	err = c.tree(src, dst, "", 0)
	if err == nil && c.files > 0 {
		// Once fresh is gone nobody fills it again: so it has to be on the disk.
		err = os.NewSyscallError("syncfs", unix.Syncfs(dst))
	}
	linux.Close(dst)
	if err == nil {
		err = os.NewSyscallError("rename", unix.Renameat(fd, fillName, fd, dataName)) // replaces an empty directory, atomically
		if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
			err = nil // filled already, or somebody has put something into it
			return safepath.RemoveAllAt(fd, fillName)
		}
	}
	if err != nil {
		return errors.Join(err, safepath.RemoveAllAt(fd, fillName))
	}
	return nil
}

// maxDepth bounds open descriptors, and is deeper than a path can be named.
const maxDepth = 256

// copier copies a tree: owners, modes, times, attributes, hard links and holes.
// Both trees are walked by descriptors, one component at a time, and no link is
// followed: what an image puts where a volume goes is hostile (CVE-2022-23648).
type copier struct {
	top   int
	files int
	links map[[2]uint64]string // first name of files with several
}

// tree copies the attributes and the content of a directory.
func (c *copier) tree(src, dst int, prefix string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%q is more than %d directories deep", prefix, maxDepth)
	}
	names, err := safepath.ReadNames(src)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := c.entry(src, dst, name, prefix, depth); err != nil {
			if below, ok := err.(*os.PathError); ok && below.Op == "copy" { //nolint:errorlint // of a level below
				return err
			}
			return &os.PathError{Op: "copy", Path: prefix + name, Err: err}
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	return attributes(src, dst, &st)
}

func (c *copier) entry(src, dst int, name, prefix string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(src, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("fstatat", err)
	}
	typ := st.Mode & unix.S_IFMT
	if st.Nlink > 1 && typ != unix.S_IFDIR {
		key := [2]uint64{uint64(st.Dev), st.Ino}
		if first, ok := c.links[key]; ok {
			return os.NewSyscallError("linkat", unix.Linkat(c.top, first, dst, name, 0)) // the tree is ours alone
		}
		if c.links == nil {
			c.links = map[[2]uint64]string{}
		}
		c.links[key] = prefix + name
	}
	switch typ {
	case unix.S_IFDIR:
		if err := safepath.MkdirAt(dst, name, 0o700); err != nil {
			return err
		}
		from, err := safepath.OpenDirAt(src, name, unix.O_RDONLY)
		if err != nil {
			return err
		}
		defer linux.Close(from)
		to, err := safepath.OpenDirAt(dst, name, unix.O_RDONLY)
		if err != nil {
			return err
		}
		defer linux.Close(to)
		return c.tree(from, to, prefix+name+"/", depth+1)
	case unix.S_IFREG:
		from, err := linux.OpenAt(src, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer linux.Close(from)
		to, err := safepath.CreateAt(dst, name, unix.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer linux.Close(to)
		c.files++
		if err := content(from, to, st.Size); err != nil {
			return err
		}
		return attributes(from, to, &st)
	case unix.S_IFLNK:
		b := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(src, name, b)
		if err != nil {
			return os.NewSyscallError("readlinkat", err)
		}
		if err := safepath.SymlinkAt(string(b[:n]), dst, name); err != nil {
			return err
		}
	case unix.S_IFSOCK:
		return nil // of a program that does not run
	default:
		if err := safepath.MknodAt(dst, name, typ|0o600, st.Rdev); err != nil {
			return err
		}
		if err := unix.Fchownat(dst, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return os.NewSyscallError("fchownat", err)
		}
		if err := unix.Fchmodat(dst, name, st.Mode&0o7777, 0); err != nil { // no link: we have just made it
			return os.NewSyscallError("fchmodat", err)
		}
		return mtime(dst, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err := unix.Fchownat(dst, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("fchownat", err)
	}
	return mtime(dst, name, &st, unix.AT_SYMLINK_NOFOLLOW)
}

// content copies a file; holes stay holes.
func content(from, to int, size int64) error {
	buf := []byte(nil)
	for at := int64(0); at < size; {
		off, err := unix.Seek(from, at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		if err != nil {
			return os.NewSyscallError("lseek", err)
		}
		if at, err = unix.Seek(from, off, unix.SEEK_HOLE); err != nil {
			return os.NewSyscallError("lseek", err)
		}
		if buf == nil {
			buf = make([]byte, min(size, 256<<10))
		}
		for off < at {
			n, err := unix.Pread(from, buf[:min(int64(len(buf)), at-off)], off)
			if err == unix.EINTR {
				continue
			}
			if err == nil && n == 0 {
				return unix.EIO // it gets shorter: nobody can write to an image
			}
			for w := 0; err == nil && w < n; {
				var m int
				if m, err = unix.Pwrite(to, buf[w:n], off+int64(w)); err == unix.EINTR {
					m, err = 0, nil
				}
				w += m
			}
			if err != nil {
				return err
			}
			off += int64(n)
		}
	}
	return os.NewSyscallError("ftruncate", unix.Ftruncate(to, size))
}

// attributes copies owner, mode, extended attributes and modification time.
func attributes(from, to int, st *unix.Stat_t) error {
	if err := unix.Fchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return os.NewSyscallError("fchown", err)
	}
	if err := unix.Fchmod(to, st.Mode&0o7777); err != nil { // chown clears set-ID bits
		return os.NewSyscallError("fchmod", err)
	}
	if err := xattrs(from, to); err != nil { // and capabilities
		return err
	}
	return mtime(to, "", st, unix.AT_EMPTY_PATH)
}

func mtime(dir int, name string, st *unix.Stat_t, flags int) error {
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(dir, name, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, st.Mtim}, flags))
}

func xattrs(from, to int) error {
	var small [1024]byte
	list := small[:]
	n, err := unix.Flistxattr(from, list)
	if err == unix.ERANGE {
		list = make([]byte, 64<<10) // XATTR_LIST_MAX
		n, err = unix.Flistxattr(from, list)
	}
	if err == unix.ENOTSUP {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("flistxattr", err)
	}
	var value []byte
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if !strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "system.posix_acl_") && name != "security.capability" {
			continue
		}
		if value == nil {
			value = make([]byte, 64<<10) // XATTR_SIZE_MAX
		}
		n, err := unix.Fgetxattr(from, name, value)
		if err == nil {
			err = unix.Fsetxattr(to, name, value[:n], 0)
		}
		if err != nil {
			return &os.PathError{Op: "copy attribute " + strconv.Quote(name), Err: err}
		}
	}
	return nil
}
