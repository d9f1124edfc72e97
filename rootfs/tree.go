package rootfs

import (
	"strings"
	"syscall"

	"github.com/minirun/minirun/internal/initprog"
	"golang.org/x/sys/unix"
)

// tree is what the steps of one plan share while they are emitted: the slot of
// the container's root and the descriptors and structures used again and again.
type tree struct {
	root    initprog.Value // the root directory of the container
	howDir  initprog.Value // struct open_how: a directory
	howAny  initprog.Value // struct open_how: anything
	howReal initprog.Value // struct open_how: a directory, without symbolic links on the way
	attrRO  initprog.Value // struct mount_attr: read-only
	empty   initprog.Value // an empty read-only tmpfs, for masked directories
	label   string         // SELinux label of new file systems
	host    uint64         // propagation of the host's mounts: MS_SLAVE, MS_PRIVATE or MS_SHARED
	userns  bool           // the container has a user namespace of its own
	live    bool           // the container runs: the host's paths are out of reach of the steps
	cmsg    initprog.Value // see announce
	msg     initprog.Value // the same
	frugal  bool           // close descriptors as soon as possible: there are many mounts
}

func (t *tree) init(b *initprog.Builder) {
	t.howDir = b.How(unix.O_PATH|unix.O_DIRECTORY, 0)
	t.howAny = b.How(unix.O_PATH, 0)
	t.howReal = b.Words(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0,
		unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS|unix.RESOLVE_NO_SYMLINKS)
	t.attrRO = b.MountAttr(unix.MOUNT_ATTR_RDONLY, 0, 0)
}

type kind int

const (
	directory      kind = iota
	file                // anything but a directory
	realDirectory       // a directory reached without symbolic links
	unfollowed          // what is there, a symbolic link too; else a directory is made
	unfollowedFile      // the same, and else a file
)

// open opens path below the root into a new slot. The caller says what follows
// on ENOENT and the like.
func (t *tree) open(b *initprog.Builder, path string, how initprog.Value) initprog.Ref {
	return b.Openat2(t.root, path, how)
}

// resolve opens path below the root and makes what is missing of it. Every
// component is made in a directory opened for it, never through a path: nobody
// who edits the tree meanwhile gets anything made elsewhere (CVE-2024-45310).
func (t *tree) resolve(b *initprog.Builder, path string, k kind) initprog.Value {
	path = clean(path)
	how := t.howDir
	switch k {
	case file:
		how = t.howAny
	case realDirectory:
		how = t.howReal
	case unfollowed, unfollowedFile:
		how = b.How(unix.O_PATH|unix.O_NOFOLLOW, 0)
	}
	if path == "." {
		return t.open(b, path, how).RetrySome(syscall.EAGAIN).Result()
	}
	slot := b.Slot(0)
	create, done := b.NewLabel(), b.NewLabel()
	t.open(b, path, how).To(slot).OnSuccess(done).On(syscall.ENOENT, create).RetrySome(syscall.EAGAIN)
	b.Place(create)
	parent := t.root
	for i := 0; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		prefix, name := path[:i], path[strings.LastIndexByte(path[:i], '/')+1:i]
		last := i == len(path)
		switch {
		case last && (k == file || k == unfollowedFile):
			b.Mknodat(parent, name, unix.S_IFREG|0o644, 0).Ignore(syscall.EEXIST)
			t.open(b, path, how).To(slot).RetrySome(syscall.EAGAIN)
		case last:
			b.Mkdirat(parent, name, 0o755).Ignore(syscall.EEXIST)
			t.open(b, path, how).To(slot).RetrySome(syscall.EAGAIN)
		default:
			b.Mkdirat(parent, name, 0o755).Ignore(syscall.EEXIST)
			dir := t.howDir
			if k == realDirectory {
				dir = t.howReal
			}
			r := t.open(b, prefix, dir)
			parent = r.Result()
			r.RetrySome(syscall.EAGAIN)
		}
	}
	b.Place(done)
	return slot
}

// symlink makes a symbolic link in place of whatever is there but a directory.
func (t *tree) symlink(b *initprog.Builder, path, target string) {
	dir, name := ".", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, name = path[:i], path[i+1:]
	}
	parent := t.resolve(b, dir, directory)
	done, again := b.NewLabel(), b.NewLabel()
	b.Symlinkat(target, parent, name).OnSuccess(done).On(syscall.EEXIST, again)
	b.Place(again)
	b.Unlinkat(parent, name)
	b.Symlinkat(target, parent, name)
	b.Place(done)
	t.release(b, parent)
}

// attach puts the detached mount m onto the open place at.
func (t *tree) attach(b *initprog.Builder, m, at initprog.Value) {
	if t.live {
		t.announce(b, m)
	}
	b.MoveMount(m, at)
	t.release(b, at)
	t.release(b, m)
}

// Attached is the word of the record with which a mount for a running container
// is announced, right before it is attached. Its descriptor comes along.
const Attached = 0x6d6f756e74

// announce sends the mount to whoever started the program and takes it back if
// a later one fails.
func (t *tree) announce(b *initprog.Builder, m initprog.Value) {
	if t.cmsg.IsZero() {
		// struct cmsghdr with one descriptor, in a message with a record.
		t.cmsg = b.Words(20, unix.SOL_SOCKET|unix.SCM_RIGHTS<<32, 0)
		record := b.Words(0, Attached)
		iov := b.Words(record.Bits(), initprog.RecordSize)
		t.msg = b.Words(0, 0, iov.Bits(), 1, t.cmsg.Bits(), 24, 0)
	}
	b.Set(initprog.SlotAt(t.cmsg, 16), m)
	b.Sendmsg(initprog.Sync(), t.msg)
}

// release closes a descriptor where that is worth a system call: all of them
// are close-on-exec, so with few mounts the kernel does it anyway.
func (t *tree) release(b *initprog.Builder, fd initprog.Value) {
	if t.frugal {
		b.Close(fd)
	}
}

// clean makes path relative to the root, lexically: "." for the root itself.
// What ".." means behind a symbolic link is left to the kernel only for names
// that come without "..".
func clean(path string) string {
	parts := make([]string, 0, 8)
	plain := true
	for i, start := 0, 0; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		p := path[start:i]
		start = i + 1
		switch p {
		case "":
			plain = plain && i == 0
		case ".":
			plain = false
		case "..":
			plain = false
			if len(parts) > 0 {
				parts = parts[:len(parts)-1]
			}
		default:
			parts = append(parts, p)
		}
	}
	if plain && len(path) > 1 && path[0] == '/' {
		return path[1:]
	}
	if len(parts) == 0 {
		return "."
	}
	return strings.Join(parts, "/")
}
