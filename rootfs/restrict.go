package rootfs

import (
	"strings"
	"syscall"

	"github.com/minirun/minirun/internal/initprog"
	"golang.org/x/sys/unix"
)

// masks hides paths: directories under an empty read-only tmpfs, files under
// /dev/null.
type masks struct {
	t     *tree
	paths []string
}

func (s *masks) Phase() string  { return "masked paths" }
func (s *masks) String() string { return "hide /" + strings.Join(s.paths, " /") }
func (s *masks) Why() string    { return "linux.maskedPaths: what procfs and sysfs tell about the host" }

func (s *masks) Emit(b *initprog.Builder) {
	t := s.t
	b.Object("empty directory")
	// One file system for all of them: every superblock costs memory and a
	// lock that the whole host takes.
	t.empty = newFS(b, "tmpfs", "tmpfs", t.withLabel("tmpfs", []string{"nr_blocks=1", "nr_inodes=1"}), unix.MOUNT_ATTR_RDONLY)
	for _, p := range s.paths {
		b.Object("/" + p)
		m := b.Slot(0)
		skip, notDir, attach, unattached := b.NewLabel(), b.NewLabel(), b.NewLabel(), b.NewLabel()
		r := t.open(b, p, t.howDir).On(syscall.ENOENT, skip).On(syscall.ENOTDIR, notDir)
		at := r.Result()
		r.RetrySome(syscall.EAGAIN)
		// Before Linux 6.15 a mount can only be cloned once it is attached: the
		// first directory gets the original.
		b.OpenTree(t.empty, "", false).To(m).OnSuccess(attach).On(syscall.EINVAL, unattached)
		b.Place(unattached)
		b.Set(m, t.empty).OnSuccess(attach)
		b.Place(notDir)
		t.open(b, p, t.howAny).To(at).On(syscall.ENOENT, skip).On(syscall.ENOTDIR, skip).RetrySome(syscall.EAGAIN)
		// The host's own null device, not a file of the rootfs (CVE-2025-31133).
		// Read-only: its mode and owner are the host's, and the container's root
		// could change them; what is written to a device is no matter of the mount.
		b.OpenTree(initprog.CWD(), "/dev/null", false).To(m)
		b.MountSetattr(m, false, t.attrRO)
		b.Place(attach)
		b.MoveMount(m, at)
		t.release(b, at)
		b.Place(skip)
	}
}

// readonly takes away write access to one path and all below.
type readonly struct {
	t        *tree
	path     string
	optional bool // not there: nothing to do
}

func (s *readonly) Phase() string  { return "read-only paths" }
func (s *readonly) String() string { return "make /" + s.path + " read-only" }
func (s *readonly) Why() string {
	if s.path == "dev" {
		return "the mount asks for it; its nodes had to be made first"
	}
	return "linux.readonlyPaths"
}

func (s *readonly) Emit(b *initprog.Builder) {
	t := s.t
	b.Object("/" + s.path)
	skip := b.NewLabel()
	r := t.open(b, s.path, t.howAny)
	at := r.Result()
	if s.optional {
		r.On(syscall.ENOENT, skip).On(syscall.ENOTDIR, skip)
	}
	r.RetrySome(syscall.EAGAIN)
	if !s.optional { // a mount of its own
		b.MountSetattr(at, false, t.attrRO)
		return
	}
	m := b.OpenTree(at, "", true).Result()
	b.MountSetattr(m, true, t.attrRO)
	t.attach(b, m, at)
	b.Place(skip)
}
