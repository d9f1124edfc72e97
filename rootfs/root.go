package rootfs

import (
	"syscall"

	"github.com/minirun/minirun/internal/initprog"
	"golang.org/x/sys/unix"
)

// openRoot cuts the mount namespace off from the host and makes the rootfs a
// mount of its own.
type openRoot struct {
	t      *tree
	path   string
	mount  initprog.Value // a detached mount made by our caller, or none
	host   uint64         // propagation of the host's mounts: MS_SLAVE, MS_PRIVATE or MS_SHARED
	parent string         // with MS_SHARED: mount point of the mount that path lies on
}

func (s *openRoot) Phase() string { return "rootfs" }
func (s *openRoot) String() string {
	if !s.mount.IsZero() {
		return "attach the prepared root file system at " + s.place()
	}
	return "clone " + s.path + " into a mount of its own"
}

func (s *openRoot) Why() string {
	return "mounts made here must not reach the host, and pivot_root(2) wants a mount point"
}

func (s *openRoot) Emit(b *initprog.Builder) {
	s.t.init(b)
	b.Object("/")
	b.SetPropagation("/", unix.MS_REC|s.host)
	if s.parent != "" {
		// What is attached to a shared mount appears on the host.
		b.SetPropagation(s.parent, unix.MS_PRIVATE)
	}
	b.Umask(0) // modes of nodes are meant as given
	b.Object(s.path)
	if !s.mount.IsZero() {
		s.t.root = s.mount
	} else {
		s.t.root = b.OpenTree(initprog.CWD(), s.path, true).Result()
	}
	if s.host == unix.MS_SHARED { // pivot_root(2) wants it otherwise; see enterRoot
		b.MountSetattr(s.t.root, false, b.MountAttr(0, 0, unix.MS_PRIVATE))
	}
	b.MoveMountPath(s.t.root, s.place())
}

// place is where the root is attached. Root of a user namespace has no way to
// where we keep things, and needs none: on top of "/" it is in nobody's way, for
// paths begin below what covers it.
func (s *openRoot) place() string {
	if !s.mount.IsZero() && s.t.userns {
		return "/"
	}
	return s.path
}

// readonlyRoot takes away write access to the root, not to what is mounted in it.
type readonlyRoot struct{ t *tree }

func (s *readonlyRoot) Phase() string  { return "rootfs" }
func (s *readonlyRoot) String() string { return "make the root read-only" }
func (s *readonlyRoot) Why() string    { return "root.readonly" }

func (s *readonlyRoot) Emit(b *initprog.Builder) {
	b.Object("/")
	b.MountSetattr(s.t.root, false, s.t.attrRO)
}

// workDir makes the working directory while that is still possible.
type workDir struct {
	t    *tree
	path string
}

// The phase is that of entering it: the same is wrong.
func (s *workDir) Phase() string  { return "working directory" }
func (s *workDir) String() string { return "make " + s.path + " if it is missing" }
func (s *workDir) Why() string    { return "the root becomes read-only" }

func (s *workDir) Emit(b *initprog.Builder) {
	b.Object(s.path)
	s.t.release(b, s.t.resolve(b, s.path, directory))
}

// enterRoot makes the rootfs the root directory and gets rid of the host's mounts.
type enterRoot struct {
	t           *tree
	noPivot     bool
	propagation uint64
}

func (s *enterRoot) Phase() string { return "root change" }
func (s *enterRoot) String() string {
	if s.noPivot {
		return "move the root over / and chroot(2) into it"
	}
	return "pivot_root(2) into the root and detach the old one"
}

func (s *enterRoot) Why() string {
	if s.noPivot {
		return "asked for by --no-pivot; weaker: the host's mounts stay below the new root"
	}
	return "no path leads back to the host's files"
}

func (s *enterRoot) Emit(b *initprog.Builder) {
	b.Fchdir(s.t.root)
	if s.noPivot {
		// What the kernel would show of the host through its procfs and sysfs goes.
		for _, p := range [...]string{"/proc", "/sys"} {
			b.UmountDetach(p).Ignore(syscall.EINVAL, syscall.ENOENT)
		}
		b.MoveMountPath(s.t.root, "/")
		b.Chroot(".")
	} else {
		shared := s.propagation == unix.MS_SHARED
		var old initprog.Value
		if shared {
			old = b.Openat(initprog.CWD(), "/", unix.O_PATH|unix.O_DIRECTORY).Result()
		}
		b.PivotRoot()
		if shared {
			// Else the mounts of the host would go with our view of them.
			b.Fchdir(old)
			b.SetPropagation(".", unix.MS_SLAVE|unix.MS_REC)
		}
		// Detach, do not unmount, the old root: it is still our root's parent
		// and processes outside may use it (NOTES in pivot_root(2)).
		b.UmountDetach(".")
	}
	b.Chdir("/")
	if s.propagation != 0 {
		b.SetPropagation("/", s.propagation)
	}
}
