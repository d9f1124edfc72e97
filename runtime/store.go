package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// Files in the directory of a container.
const (
	stateFile  = "state.json"
	configFile = "config.json" // a copy of the bundle's, as it was at create
	startFile  = "start.sock"
	// snapshotFile repeats State.Snapshot, for when state.json is damaged.
	snapshotFile = "snapshot"
)

// DefaultRoot is where containers are recorded unless said otherwise.
const DefaultRoot = "/run/minirun"

// Store is a directory with the state of containers, one directory each. Its
// zero value is not usable; see OpenStore.
type Store struct {
	root string
	// HookTimeout is the limit for hooks that have none of their own: < 0 is no
	// limit, 0 is DefaultHookTimeout.
	HookTimeout time.Duration
	// Signals, if not nil, are those sent to this process. Otherwise those that
	// would end it are caught while hooks run, and end the hook.
	Signals *Signals
	// Warn, if not nil, is told what goes wrong without being an error.
	Warn func(text string)
}

// OpenStore uses the directory root, absolute or relative to the working
// directory. Nothing is made before the first container.
func OpenStore(root string) (*Store, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("state root %q: %w", root, err)
	}
	if err := checkRoot(abs); err != nil {
		return nil, err
	}
	return &Store{root: abs}, nil
}

// Root is the directory.
func (s *Store) Root() string { return s.root }

// CheckID refuses names that are no container ID: they become names of
// directories and cgroups.
func CheckID(id string) error {
	bad := id == "" || id == "." || id == ".." || len(id) > 255
	for _, c := range []byte(id) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("_+-.", c) >= 0) {
			bad = true
		}
	}
	if bad || id[0] == '.' {
		return fmt.Errorf("invalid container ID %q: use 1 to 255 letters, digits, '_', '+', '-' and '.', not beginning with '.'", id)
	}
	return nil
}

// Container is one container of a store.
type Container struct {
	State
	store *Store
	// Warnings are what should be told to people but did not prevent anything.
	Warnings []string
	// Supervise is what CreateOptions.Supervise is for Start.
	Supervise func(listener int) error
	// Notifier is what CreateOptions.Notifier is for Start.
	Notifier *Notifier
	// Timing, if not nil, is told when phases of Start and Delete end.
	Timing *Timing
	exit   *exitInfo // of a container this process is the parent of
}

// Dir is the container's directory in the store.
func (c *Container) Dir() string { return c.store.root + "/" + c.ID }

// ConfigPath is where the configuration of a container is kept.
func (s *Store) ConfigPath(id string) string { return s.root + "/" + id + "/" + configFile }

// lock takes the exclusive lock of a container's directory and returns the
// directory's descriptor; closing it releases the lock. A process that dies
// releases it too.
func lockDir(dir string) (int, error) {
	for {
		fd, err := linux.OpenAt(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return -1, err
		}
		for {
			if err = unix.Flock(fd, unix.LOCK_EX); err != unix.EINTR {
				break
			}
		}
		if err != nil {
			linux.Close(fd)
			return -1, &os.PathError{Op: "flock", Path: dir, Err: err}
		}
		// Somebody may have deleted it, and made another, while we waited.
		var ours, there unix.Stat_t
		if unix.Fstat(fd, &ours) == nil && unix.Lstat(dir, &there) == nil && ours.Ino == there.Ino && ours.Dev == there.Dev {
			return fd, nil
		}
		linux.Close(fd)
	}
}

// makeDir makes the locked directory of a new container.
func (s *Store) makeDir(id string) (int, error) {
	dir := s.root + "/" + id
	for {
		err := unix.Mkdir(dir, 0o700)
		if err == unix.ENOENT {
			if err := os.MkdirAll(s.root, 0o700); err != nil {
				return -1, fmt.Errorf("state root: %w", err)
			}
			if os.Geteuid() != 0 { // kept when what is old in $XDG_RUNTIME_DIR is cleared away
				_ = unix.Chmod(s.root, unix.S_ISVTX|0o700)
			}
			err = unix.Mkdir(dir, 0o700)
		}
		if err == unix.EEXIST {
			return -1, &ExistsError{ID: id, Remains: unix.Access(dir+"/"+stateFile, unix.F_OK) == unix.ENOENT}
		}
		if err != nil {
			return -1, &os.PathError{Op: "mkdir", Path: dir, Err: err}
		}
		fd, err := lockDir(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // a delete took the new directory for what a killed create had left
		case err != nil:
			return -1, err
		case unix.Faccessat(fd, stateFile, unix.F_OK, 0) == nil:
			// And then somebody else has made it again and was faster: it is the
			// directory of another container.
			linux.Close(fd)
			return -1, &ExistsError{ID: id}
		}
		return fd, nil
	}
}

// save writes state.json in the directory fd. A reader finds the old or the new
// one, never half. It is not synced to disk: it describes processes, and those
// do not survive what a sync protects from.
func (c *Container) save(dir int) error {
	return replaceFile(dir, stateFile, c.appendJSON(make([]byte, 0, 4096)))
}

func replaceFile(dir int, name string, data []byte) error {
	if err := writeTemp(dir, name, data); err != nil {
		return err
	}
	return renameTemp(dir, name)
}

func tempName(name string) string { return "." + name + ".tmp" }

// renameState makes the record written by writeTemp the valid one.
func renameState(dir int) error { return renameTemp(dir, stateFile) }

func renameTemp(dir int, name string) error {
	if err := unix.Renameat(dir, tempName(name), dir, name); err != nil {
		return &os.PathError{Op: "rename", Path: name, Err: err}
	}
	return nil
}

func writeTemp(dir int, name string, data []byte) error {
	tmp := tempName(name)
	fd, err := linux.OpenAt(dir, tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	err = linux.WriteAll(fd, data)
	linux.Close(fd)
	if err != nil {
		_ = unix.Unlinkat(dir, tmp, 0)
		return &os.PathError{Op: "write", Path: name, Err: err}
	}
	return nil
}

// Load returns the container with the ID, or a *NotExistError.
func (s *Store) Load(id string) (*Container, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	return s.load(id)
}

func (s *Store) load(id string) (*Container, error) {
	name := s.root + "/" + id + "/" + stateFile
	raw, err := linux.ReadFile(name, 16<<20)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &NotExistError{ID: id, Remains: unix.Access(s.root+"/"+id, unix.F_OK) == nil}
		}
		return nil, err
	}
	st, err := parseState(raw)
	if err != nil {
		return nil, &StateError{Path: name, Err: err}
	}
	if st.ID != id {
		return nil, &StateError{Path: name, Err: fmt.Errorf("is of container %q", st.ID)}
	}
	return &Container{State: *st, store: s}, nil
}

// StateError reports a state.json that cannot be used. Deleting the container
// with Force removes it.
type StateError struct {
	Path string
	Err  error
}

func (e *StateError) Error() string { return fmt.Sprintf("state %q %v", e.Path, e.Err) }
func (e *StateError) Unwrap() error { return e.Err }

// IDs lists the containers of the store, sorted.
func (s *Store) IDs() ([]string, error) {
	entries, err := os.ReadDir(s.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && CheckID(e.Name()) == nil {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// group is the container's cgroup.
func (c *Container) group() *cgroups.Group { return cgroups.Open(c.CgroupMount, c.Cgroup) }

// process opens the container's init; -1 if it has ended. The descriptor, a
// pidfd, is of that process, whoever has its number later on.
//
// A zombie has not ended as long as it has threads: its first one may be gone, and
// a container that does that on purpose must not pass for one that has stopped.
// Process opens the container's first process; pidfd is -1 if it has ended.
func (c *Container) Process() (pidfd int, err error) { return c.process() }

func (c *Container) process() (pidfd int, err error) {
	if c.Pid <= 0 {
		return -1, nil
	}
	if boot, err := bootID(); err != nil || boot != c.BootID {
		return -1, err
	}
	fd, err := unix.PidfdOpen(c.Pid, 0)
	if err == unix.ESRCH {
		return -1, nil
	}
	if err != nil {
		return -1, os.NewSyscallError("pidfd_open", err)
	}
	// Looked at after opening: if it is the right one now, the descriptor is.
	info, err := statProcess(c.Pid)
	if err != nil || info.startTime != c.StartTime || info.zombie && ended(fd, 0) {
		linux.Close(fd)
		return -1, nil
	}
	return fd, nil
}

// Status finds out what state the container is in.
func (c *Container) Status() (Status, error) {
	fd, err := c.process()
	if err != nil {
		return "", err
	}
	linux.Close(fd)
	return c.status(fd >= 0)
}

// status is Status for a container whose init is known to be alive or not.
func (c *Container) status(alive bool) (Status, error) {
	if !c.Complete && (alive || c.Pid == 0) && c.creatorAlive() {
		return Creating, nil
	}
	if !alive {
		return Stopped, nil
	}
	if frozen, err := c.group().Frozen(); err == nil && frozen {
		return Paused, nil
	}
	if c.waiting() {
		if !c.Complete {
			return Creating, nil
		}
		return Created, nil
	}
	return Running, nil
}

// creatorAlive reports whether somebody holds the lock of the container's
// directory: while create runs, that is its process.
func (c *Container) creatorAlive() bool {
	fd, err := linux.OpenAt(unix.AT_FDCWD, c.Dir(), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return false
	}
	defer linux.Close(fd)
	return unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB) == unix.EWOULDBLOCK
}

// waiting reports whether the init still runs its program: the executable is
// the image and not something of the container's.
func (c *Container) waiting() bool {
	var buf [256]byte
	n, err := unix.Readlink("/proc/"+strconv.Itoa(c.Pid)+"/exe", buf[:])
	if err == unix.EACCES {
		// Not dumpable, and we are not root: all that can be seen is the name.
		comm, err := linux.ReadFile("/proc/"+strconv.Itoa(c.Pid)+"/comm", 64)
		return err == nil && string(comm) == initprog.Name+"\n" && c.unstarted()
	}
	if err != nil {
		return false
	}
	exe := string(buf[:n])
	if exe != "/memfd:"+initprog.Name+" (deleted)" && !strings.HasPrefix(exe, c.Dir()+"/init.") {
		return false
	}
	return c.unstarted()
}

// unstarted reports whether there still is a socket to start it. Names could be
// chosen by the container; the socket could not.
func (c *Container) unstarted() bool {
	return unix.Access(c.Dir()+"/"+startFile, unix.F_OK) == nil || !c.Complete
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
