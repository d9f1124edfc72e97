package runtime

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/namespaces"
	"github.com/minirun/minirun/rootfs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// idMap is one mapping of ids that mounts of a plan use.
type idMap struct{ uids, gids []specs.LinuxIDMapping }

// mountMaps collects the mappings of a plan's mounts: each becomes a user
// namespace whose descriptor the init inherits.
type mountMaps struct {
	list   []idMap
	first  int // number of the first descriptor
	joined int // of the user namespace that the container joins
}

// descriptor is rootfs.Options.IDMap.
func (m *mountMaps) descriptor(uids, gids []specs.LinuxIDMapping) initprog.Value {
	if len(uids) == 0 {
		return initprog.FD(m.joined)
	}
	for i := range m.list {
		if slices.Equal(m.list[i].uids, uids) && slices.Equal(m.list[i].gids, gids) {
			return initprog.FD(m.first + i)
		}
	}
	m.list = append(m.list, idMap{uids, gids})
	return initprog.FD(m.first + len(m.list) - 1)
}

// newMountMaps numbers the descriptors behind those of the namespaces to join.
func newMountMaps(set *namespaces.Set, join int) *mountMaps {
	m := &mountMaps{first: join + len(set.Join)}
	for i := range set.Join {
		if set.Join[i].Flag == unix.CLONE_NEWUSER {
			m.joined = join + i
		}
	}
	return m
}

// OpenUserNS makes a user namespace with these mappings, for mounts, and returns
// a descriptor of it. Nobody is in it.
func OpenUserNS(uids, gids []specs.LinuxIDMapping) (fd int, err error) {
	fd, err = (&idMap{uids, gids}).open()
	if err != nil {
		err = &IDMapError{Op: "make a user namespace with the mappings", Err: err}
	}
	return fd, err
}

// open makes the user namespaces. The caller closes what it gets, also with an
// error.
func (m *mountMaps) open() (fds []int, err error) {
	for i := range m.list {
		fd, err := m.list[i].open()
		if err != nil {
			return fds, &IDMapError{Op: "make a user namespace with the mappings", Err: err}
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// open makes a user namespace with the mappings. A process has to be in it for
// a moment: a program that makes it, waits for its mappings, and ends when we
// close the socket.
func (m *idMap) open() (ns int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socketpair", err)
	}
	b := initprog.NewBuilder(3)
	b.Phase("id map")
	(&harden{sync: 3}).Emit(b)
	b.Unshare(unix.CLONE_NEWUSER)
	namespaces.Handshake(b, namespaces.WantMaps)
	b.ExitGroup(0)
	image, err := b.Link()
	pid, pidfd := 0, -1
	if err == nil {
		pid, pidfd, err = image.Start(initprog.Options{Files: []int{-1, -1, -1, pair[1]}, CgroupFD: -1})
	}
	linux.Close(pair[1])
	if err == nil {
		ns, err = m.write(image, pid, pair[0])
		linux.Close(pair[0])
		linux.Close(pidfd)
		_, waitErr := reap(pid)
		return ns, errors.Join(err, waitErr)
	}
	linux.Close(pair[0])
	return -1, err
}

// write gives the user namespace of the process its mappings and opens it.
func (m *idMap) write(image *initprog.Image, pid, sync int) (ns int, err error) {
	var buf [initprog.RecordSize]byte
	n, err := linux.Read(sync, buf[:])
	switch r := initprog.ParseRecord(buf[:]); {
	case err != nil:
		return -1, os.NewSyscallError("read from the process", err)
	case n != len(buf):
		return -1, errInitDied
	case !r.Progress():
		return -1, image.Failure(r)
	}
	proc := "/proc/" + strconv.Itoa(pid)
	if err := writeHost(proc+"/uid_map", namespaces.IDMap(m.uids)); err != nil {
		return -1, err
	}
	if err := writeHost(proc+"/gid_map", namespaces.IDMap(m.gids)); err != nil {
		return -1, err
	}
	return linux.OpenAt(unix.AT_FDCWD, proc+"/ns/user", unix.O_RDONLY, 0)
}

// IDMapError reports that the ids of a mount could not be mapped.
type IDMapError struct {
	Dest, Op string
	FS       string // file systems of which at least one refused
	Err      error
}

func (e *IDMapError) Error() string {
	s := "idmapped mount"
	if e.Dest != "" {
		s += " " + strconv.Quote(e.Dest)
	}
	s += ": " + e.Op
	if e.FS != "" {
		s += " (" + e.FS + ")"
	}
	return s + ": " + e.Err.Error()
}

func (e *IDMapError) Unwrap() error { return e.Err }

// Hint says what could be done.
func (e *IDMapError) Hint() string {
	switch {
	case errors.Is(e.Err, syscall.EINVAL) && e.FS != "":
		return "the kernel cannot map the ids of mounts of every file system: leave the mapping out or keep the data on another one, such as ext4, xfs, btrfs or, since Linux 6.3, tmpfs"
	case errors.Is(e.Err, syscall.EPERM) && e.FS != "":
		return "the ids of this mount are mapped already, or its file system was mounted in another user namespace than minirun's"
	case errors.Is(e.Err, syscall.EPERM), errors.Is(e.Err, syscall.EACCES):
		return "mounts with mapped ids take root: leave the mappings and the options idmap and ridmap out"
	}
	return ""
}

// idMapFailure completes the error of a mount whose ids could not be mapped.
func idMapFailure(err error) error {
	s := initprog.IsStep(err)
	if s == nil {
		return err
	}
	what, ok := strings.CutPrefix(s.Detail, rootfs.IDMapDetail)
	all := false
	if !ok {
		what, all = strings.CutPrefix(s.Detail, rootfs.IDMapAllDetail)
	}
	if !ok && !all {
		return err
	}
	fs := what
	if strings.HasPrefix(what, "/") {
		fs = fileSystems(what, all)
	}
	return &IDMapError{Dest: s.Object, Op: s.Syscall + " of " + what, FS: fs, Err: s.Err}
}

// fileSystems names the type of the file system that path is on, and with all
// those of the mounts below.
func fileSystems(path string, all bool) string {
	at, err := mountPoint(path)
	if err != nil {
		return "unknown file system"
	}
	raw, err := linux.ReadFile("/proc/self/mountinfo", 0)
	if err != nil {
		return "unknown file system"
	}
	on, below := "", []string(nil)
	for line := range strings.SplitSeq(string(raw), "\n") {
		f := strings.Fields(line)
		i := slices.Index(f, "-")
		if i < 6 || i+1 >= len(f) {
			continue
		}
		switch place := unescapeMount(f[4]); {
		case place == at:
			on = f[i+1]
		case all && strings.HasPrefix(place, strings.TrimSuffix(path, "/")+"/") && !slices.Contains(below, f[i+1]):
			below = append(below, f[i+1])
		}
	}
	if len(below) > 0 {
		on += "; mounts below: " + strings.Join(below, ", ")
	}
	return on
}
