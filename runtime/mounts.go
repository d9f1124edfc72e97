package runtime

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/namespaces"
	"github.com/minirun/minirun/rootfs"
	"github.com/minirun/minirun/runtime/bundle"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// AddMounts adds mounts to a running container, in order: all of them, or none.
//
// A program takes what is mounted from the host, detached, joins the container's
// namespaces and attaches it there. It is not in the container's pid namespace,
// nor in its cgroup: nobody in the container sees it, and a paused container
// does not stop it. Nothing is recorded: the mounts go with the namespace.
func (c *Container) AddMounts(mounts []specs.Mount) error {
	if err := bundle.ValidateMounts(mounts); err != nil {
		return err
	}
	l, err := c.openLive("add mounts")
	if err != nil {
		return err
	}
	defer l.close()
	maps := newMountMaps(&namespaces.Set{}, liveFirst)
	if err := l.joinedUser(maps); err != nil {
		return err
	}
	var before []initprog.Step
	steps, err := rootfs.PlanLive(l.spec, mounts, rootfs.Options{
		Bundle: c.Bundle, UserNS: l.flags&unix.CLONE_NEWUSER != 0,
		Stat: statHost, Readlink: readlinkHost, IsProc: isProc, Locked: lockedAttributes,
		Destination: func(path string) string { return throughLinks(l.root, path) },
		CopyUp:      func(dir string, limit int) ([]rootfs.Entry, error) { return copyUp(l.root, dir, limit) },
		DirMode:     func(path string) (uint32, bool) { return dirMode(l.root, path) },
		IDMap:       maps.descriptor,
		Before:      func(s initprog.Step) { before = append(before, s) },
	})
	if err != nil {
		return err
	}
	fds, err := maps.open()
	l.fds = append(l.fds, fds...)
	if err != nil {
		return err
	}
	if err = l.run(before, steps); err == nil {
		return nil
	}
	var gone *StatusError
	if e := l.takeBack(); e != nil && !errors.As(e, &gone) {
		return fmt.Errorf("%w; mounts before it could not be taken back: %w", err, e)
	}
	return err
}

// takeBack unmounts what the program has attached, last first. Who made the
// mounts says which they are: wherever the container may have moved one, and
// whatever may have taken its place.
func (l *live) takeBack() error {
	if len(l.attached) == 0 {
		return nil
	}
	slices.Reverse(l.attached)
	back := &live{c: l.c, op: l.op, spec: l.spec, target: l.target, flags: l.flags, fds: l.attached}
	step := &unmount{flags: l.flags, attached: true}
	for range l.attached {
		step.paths = append(step.paths, "mount that is taken back")
	}
	return back.run([]initprog.Step{&hostProc{step}}, []initprog.Step{step})
}

// RemoveMounts unmounts the destinations of mounts, in order. Only the
// destination counts, and for a bind the source, if it is there: then it must be
// what is mounted.
//
// The container may have changed the tree since, to have us unmount something
// else, such as what hides /proc/kcore. So the place is looked up once, without
// links on the way, and the program unmounts what was found and checked.
func (c *Container) RemoveMounts(mounts []specs.Mount) error {
	checked := make([]specs.Mount, len(mounts)) // without what only matters for adding
	for i := range mounts {
		checked[i] = specs.Mount{Destination: mounts[i].Destination, Source: mounts[i].Source}
	}
	if err := bundle.ValidateMounts(checked); err != nil {
		return err
	}
	l, err := c.openLive("remove mounts")
	if err != nil {
		return err
	}
	defer l.close()
	step := &unmount{flags: l.flags}
	for i := range mounts {
		fd, err := l.find(&mounts[i])
		if err != nil {
			return fmt.Errorf("mounts[%d].destination: mount %q: %w", i, mounts[i].Destination, err)
		}
		l.fds = append(l.fds, fd)
		step.paths = append(step.paths, "/"+rootfs.PathInRoot(mounts[i].Destination))
	}
	return l.run([]initprog.Step{&hostProc{step}}, []initprog.Step{step})
}

// liveFirst is the number of the first descriptor that a program for a running
// container gets behind the socket and the container's pidfd.
const liveFirst = 5

// live is a running container whose mounts change.
type live struct {
	c      *Container
	op     string
	spec   *specs.Spec
	target int // pidfd of its init
	root   int // its root directory
	inner  *inside
	flags  uint64
	fds    []int // what the program gets, from liveFirst on
	// attached are the mounts that the program has attached, or was about to.
	attached []int
}

// openLive does without the container's lock: whoever holds that while the
// container makes lookups in its tree slow would keep delete waiting.
func (c *Container) openLive(op string) (*live, error) {
	l := &live{c: c, op: op, target: -1, root: -1}
	if err := l.open(); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *live) open() (err error) {
	c, op := l.c, l.op
	if l.target, err = c.process(); err != nil {
		return err
	}
	status, err := c.status(l.target >= 0)
	if err != nil {
		return err
	}
	if status != Created && status != Running && status != Paused {
		return &StatusError{ID: c.ID, Op: op, Have: status}
	}
	raw, err := linux.ReadFile(c.Dir()+"/"+configFile, bundle.MaxConfigSize)
	if err != nil {
		return err
	}
	if l.spec, err = bundle.Parse(raw); err != nil {
		return err
	}
	if l.spec.Linux == nil {
		l.spec.Linux = &specs.Linux{}
	}
	set, err := namespaces.FromSpec(l.spec.Linux.Namespaces)
	if err != nil {
		return err
	}
	l.flags = set.All() &^ (unix.CLONE_NEWPID | unix.CLONE_NEWTIME)
	if l.flags&unix.CLONE_NEWUSER != 0 && sameNamespace(c.Pid, "user") {
		l.flags &^= unix.CLONE_NEWUSER
	}
	if l.inner, err = c.openInside(); err != nil {
		return err
	}
	l.root, err = c.rootOf(l.inner)
	if err != nil {
		return &StatusError{ID: c.ID, Op: op, Have: Stopped}
	}
	return nil
}

func (l *live) close() {
	l.inner.close()
	for _, fd := range append(append(l.fds, l.attached...), l.root, l.target) {
		linux.Close(fd)
	}
}

// joinedUser makes the container's user namespace the first descriptor of maps
// where its mappings are not known from the configuration.
func (l *live) joinedUser(maps *mountMaps) error {
	if l.flags&unix.CLONE_NEWUSER == 0 {
		return nil
	}
	fd, err := -1, error(nil)
	if l.inner != nil {
		fd, err = unix.FcntlInt(uintptr(l.inner.fds[1]), unix.F_DUPFD_CLOEXEC, 0) // the first is the user namespace
	} else {
		fd, err = linux.OpenAt(unix.AT_FDCWD, "/proc/"+strconv.Itoa(l.c.Pid)+"/ns/user", unix.O_RDONLY, 0)
	}
	if err != nil {
		return err
	}
	l.fds = append(l.fds, fd)
	maps.joined, maps.first = liveFirst, liveFirst+1
	return nil
}

// find opens the mount at the destination of m.
func (l *live) find(m *specs.Mount) (fd int, err error) {
	if err := rootfs.CheckRemoval(l.spec, m.Destination); err != nil {
		return -1, err
	}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: linux.InRoot | unix.RESOLVE_NO_SYMLINKS}
	fd, err = unix.Openat2(l.root, rootfs.PathInRoot(m.Destination), &how)
	if err == unix.ELOOP {
		return -1, errors.New("leads through a symbolic link: name the place itself")
	}
	if err != nil {
		return -1, err
	}
	var at, source unix.Statx_t
	if err = unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_INO, &at); err == nil && at.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		err = errors.New("nothing is mounted there")
	}
	if err == nil && m.Source != "" && isBind(m) {
		path := m.Source
		if path[0] != '/' {
			path = l.c.Bundle + "/" + path
		}
		flags := 0
		for _, o := range m.Options {
			if o == "src-nofollow" {
				flags = unix.AT_SYMLINK_NOFOLLOW
			}
		}
		err = unix.Statx(unix.AT_FDCWD, path, flags, unix.STATX_INO, &source)
		if err != nil {
			err = &os.PathError{Op: "source: stat", Path: path, Err: err}
		} else if at.Ino != source.Ino || at.Dev_major != source.Dev_major || at.Dev_minor != source.Dev_minor {
			err = fmt.Errorf("something else than %s is mounted there: leave out the source to unmount it all the same", path)
		}
	}
	if err != nil {
		linux.Close(fd)
		return -1, err
	}
	return fd, nil
}

func isBind(m *specs.Mount) bool {
	for _, o := range m.Options {
		if o == "bind" || o == "rbind" {
			return true
		}
	}
	return m.Type == "bind"
}

// run starts the program and waits for its end.
func (l *live) run(before, steps []initprog.Step) error {
	files := append([]int{-1, -1, -1, -1, l.target}, l.fds...)
	spaces := l.inner.spaces(len(files))
	if l.inner != nil {
		files = append(files, l.inner.fds[1:]...)
	}
	all := []initprog.Step{&harden{l.c.ID, 3}, &dropFiles{len(files)}}
	all = append(all, before...)
	all = append(all, &enterMounts{l.flags, spaces})
	b := initprog.NewBuilder(3)
	for _, s := range append(all, steps...) {
		b.Phase(s.Phase())
		s.Emit(b)
	}
	b.ExitGroup(0)
	image, err := b.Link()
	if err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	defer linux.Close(pair[0])
	files[3] = pair[1]
	pid, pidfd, err := image.Start(initprog.Options{Files: files, CgroupFD: -1, Fallback: l.c.Dir()})
	linux.Close(pair[1])
	if err != nil {
		return err
	}
	linux.Close(pidfd)
	err = l.listen(pair[0], image)
	status, waitErr := reap(pid)
	switch {
	case err != nil && l.c.endedWith(l.target, err):
		return &StatusError{ID: l.c.ID, Op: l.op, Have: Stopped}
	case err != nil:
		return fmt.Errorf("container %q: cannot %s: %w", l.c.ID, l.op, idMapFailure(err))
	case waitErr != nil:
		return os.NewSyscallError("wait4", waitErr)
	case status.ExitStatus() != 0:
		return fmt.Errorf("container %q: cannot %s: the process that does it was killed", l.c.ID, l.op)
	}
	return nil
}

// listen reads what the program says until it ends or fails.
func (l *live) listen(sync int, image *initprog.Image) error {
	var buf [initprog.RecordSize]byte
	var oob [64]byte
	for {
		n, oobn, _, _, err := unix.Recvmsg(sync, buf[:], oob[:], unix.MSG_CMSG_CLOEXEC)
		switch record := initprog.ParseRecord(buf[:]); {
		case err == unix.EINTR:
		case err != nil:
			return os.NewSyscallError("recvmsg", err)
		case n == 0:
			return nil
		case !record.Progress():
			return image.Failure(record)
		default: // rootfs.Attached
			messages, err := unix.ParseSocketControlMessage(oob[:oobn])
			if err != nil || len(messages) != 1 {
				return errors.New("the program has sent no descriptor of its mount")
			}
			fds, err := unix.ParseUnixRights(&messages[0])
			if err != nil {
				return err
			}
			l.attached = append(l.attached, fds...)
		}
	}
}

// dropFiles closes what the caller of minirun has left open.
type dropFiles struct{ first int }

func (s *dropFiles) Phase() string  { return "start-up" }
func (s *dropFiles) String() string { return "close all other descriptors" }
func (s *dropFiles) Why() string    { return "" }

func (s *dropFiles) Emit(b *initprog.Builder) {
	b.Object("descriptors of the caller")
	b.CloseRange(s.first)
}

// enterMounts joins the container's namespaces but for its pid namespace, in
// which its processes would see this one.
type enterMounts struct {
	flags  uint64
	spaces []space
}

func (s *enterMounts) Phase() string  { return "namespaces" }
func (s *enterMounts) String() string { return "join the namespaces of the container" }
func (s *enterMounts) Why() string    { return "a mount can only be attached from inside" }

func (s *enterMounts) Emit(b *initprog.Builder) {
	b.Object("container init")
	emitJoin(b, initprog.FD(liveFirst-1), s.flags, s.spaces)
	if s.flags&unix.CLONE_NEWUSER != 0 {
		b.Setresgid(0)
		b.Setresuid(0)
		b.Prctl(unix.PR_SET_DUMPABLE, 0)
	}
}

// unmount detaches the mounts at the descriptors from liveFirst on. umount2(2)
// only takes paths; the host's procfs has one for each descriptor.
type unmount struct {
	flags    uint64
	paths    []string
	proc     initprog.Value
	attached bool // the mounts are our own; one may have been attached or not
}

func (s *unmount) Phase() string  { return "mounts" }
func (s *unmount) String() string { return "unmount" }
func (s *unmount) Why() string    { return "" }

func (s *unmount) Emit(b *initprog.Builder) {
	b.Fchdir(s.proc)
	for i, p := range s.paths {
		b.Object(p)
		unmounted := b.UmountDetach("self/fd/" + strconv.Itoa(liveFirst+i))
		if s.attached {
			unmounted.Ignore(unix.EINVAL)
		}
	}
}

// hostProc opens the host's procfs while it can be reached.
type hostProc struct{ s *unmount }

func (s *hostProc) Phase() string  { return "mount sources" }
func (s *hostProc) String() string { return "open /proc" }
func (s *hostProc) Why() string    { return "what the container has there is not to be trusted" }

func (s *hostProc) Emit(b *initprog.Builder) {
	b.Object("/proc")
	s.s.proc = b.Openat(initprog.CWD(), "/proc", unix.O_PATH|unix.O_DIRECTORY).Result()
}
