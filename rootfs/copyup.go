package rootfs

import (
	"strings"
	"syscall"

	"github.com/minirun/minirun/internal/initprog"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// An Entry is a file that a tmpfs with the option tmpcopyup gets a copy of.
type Entry struct {
	Path     string // below the directory; "" is itself
	Mode     uint32 // type and permissions
	UID, GID uint32 // on the host
	Dev      uint64 // of a device node
	Target   string // of a symbolic link
	// Times of access and change, in seconds and nanoseconds.
	Times  [4]uint64
	Xattrs []Xattr // of a file or directory
}

// An Xattr is an extended attribute.
type Xattr struct {
	Name  string
	Value []byte
}

// copyUpLimit bounds the program: a copy takes up to nine of its ops, an extended
// attribute counts as one.
const copyUpLimit = 4000

// planCopyUp lists what the tmpfs covers. The copies are made by the init, one
// operation after the other: so they count against the container's memory
// limit, not the host's, and explain shows them.
func (s *mount) planCopyUp(m *specs.Mount, o *Options) error {
	dir := s.dest
	for _, e := range o.earlier { // the last one that covers the place counts
		rest, below := strings.CutPrefix(s.dest, e.dest+"/")
		switch {
		case e.options.remount || e.link != "":
		case strings.HasPrefix(e.dest, s.dest+"/"):
			return s.fail(m, ".options", "tmpcopyup would have to copy from mounts[%d] at /%s: put that one behind", e.index, e.dest)
		case !below && e.dest != s.dest:
		case e.options.bind && !below:
			dir = e.source
		case e.options.bind:
			dir = e.source + "/" + rest
		case e.options.copyUp && !below: // its copies are those of the same place
		default:
			dir = ""
		}
	}
	if dir == "" { // in a new file system there is nothing to copy
		return nil
	}
	var err error
	if s.copyUp, err = o.CopyUp(dir, copyUpLimit); err != nil {
		return s.fail(m, ".options", "tmpcopyup: %w", err)
	}
	for i := range s.copyUp {
		e := &s.copyUp[i]
		if o.UserNS {
			e.UID, e.GID = toContainer(o.maps.uids, e.UID), toContainer(o.maps.gids, e.GID)
		}
	}
	return nil
}

// toContainer is the container's id for one of the host; 0 where it has none.
func toContainer(maps []specs.LinuxIDMapping, id uint32) uint32 {
	for _, m := range maps {
		if id >= m.HostID && uint64(id) < uint64(m.HostID)+uint64(m.Size) {
			return m.ContainerID + (id - m.HostID)
		}
	}
	return 0
}

// emitCopyUp copies from the directory at into the mount m, which is attached
// nowhere yet. Whatever happens to the directory meanwhile, names are looked up
// below it, without links and without leaving its file system.
func (s *mount) emitCopyUp(b *initprog.Builder, at, m initprog.Value) {
	const special = unix.S_ISUID | unix.S_ISGID | unix.S_ISVTX
	in := b.HowNoLinks(unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOFOLLOW | unix.O_NOCTTY)
	for i := range s.copyUp {
		e := &s.copyUp[i]
		perm := e.Mode &^ unix.S_IFMT
		b.Object("/" + s.dest + "/" + e.Path)
		switch kind := e.Mode & unix.S_IFMT; {
		case e.Path == "":
			if e.UID|e.GID != 0 && !s.options.owner() {
				b.Fchownat(m, "", e.UID, e.GID)
			}
		case kind == unix.S_IFREG:
			r := b.Openat2(at, e.Path, in)
			from := r.Result()
			to := b.OpenCreate(m, e.Path, perm&^special).Result()
			loop := b.Here()
			b.Sendfile(to, from, 1<<30).OnNonzero(loop)
			if e.UID|e.GID != 0 {
				b.Fchown(to, e.UID, e.GID)
			}
			if perm&special != 0 { // which a change of the owner takes away
				b.Fchmod(to, perm)
			}
			setXattrs(b, to, e.Xattrs)
			b.Close(from)
			b.Close(to)
		case kind == unix.S_IFDIR:
			b.Mkdirat(m, e.Path, perm&^special)
			if e.UID|e.GID != 0 {
				b.Fchownat(m, e.Path, e.UID, e.GID)
			}
		case kind == unix.S_IFLNK:
			b.Symlinkat(e.Target, m, e.Path)
			if e.UID|e.GID != 0 {
				b.Fchownat(m, e.Path, e.UID, e.GID)
			}
		default:
			if s.t.userns && kind != unix.S_IFIFO { // mknod(2) is not permitted
				continue
			}
			b.Mknodat(m, e.Path, e.Mode, e.Dev)
			if e.UID|e.GID != 0 {
				b.Fchownat(m, e.Path, e.UID, e.GID)
			}
		}
	}
	for i := range s.copyUp { // at the end: what is made in a setgid directory inherits
		if e := &s.copyUp[i]; e.Path != "" && e.Mode&unix.S_IFMT == unix.S_IFDIR && (e.Mode&special != 0 || len(e.Xattrs) > 0) {
			b.Object("/" + s.dest + "/" + e.Path)
			dir := b.Openat(m, e.Path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW).Result()
			if e.Mode&special != 0 {
				b.Fchmod(dir, e.Mode&^unix.S_IFMT)
			}
			setXattrs(b, dir, e.Xattrs)
			b.Close(dir)
		}
	}
	for i := range s.copyUp { // and the times when nothing changes any more
		if e := &s.copyUp[i]; !s.t.userns || e.Mode&unix.S_IFMT != unix.S_IFCHR && e.Mode&unix.S_IFMT != unix.S_IFBLK {
			b.Object("/" + s.dest + "/" + e.Path)
			b.Utimensat(m, e.Path, b.Words(e.Times[:]...))
		}
	}
	b.Object("/" + s.dest)
	if s.options.set&unix.MOUNT_ATTR_RDONLY != 0 && s.dest != "dev" {
		b.MountSetattr(m, false, s.t.attrRO)
	}
}

// setXattrs sets attributes as far as the tmpfs takes them: user.* since Linux
// 6.6, and capabilities of files where root may set them.
func setXattrs(b *initprog.Builder, fd initprog.Value, list []Xattr) {
	for _, x := range list {
		b.Fsetxattr(fd, x.Name, x.Value).Ignore(syscall.EOPNOTSUPP, syscall.EPERM)
	}
}

// owner reports whether the options say whom the root of a tmpfs belongs to.
func (o *mountOptions) owner() bool {
	for _, d := range o.data {
		if strings.HasPrefix(d, "uid=") || strings.HasPrefix(d, "gid=") {
			return true
		}
	}
	return false
}
