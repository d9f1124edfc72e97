package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/jsonread"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/safepath"
)

// Names in a volume.
const (
	dataName      = "_data"
	metaName      = "meta.json"
	anonymousName = "anonymous"
	freshName     = "fresh"
	usersName     = "users"
	fillName      = "_data.new"
)

// maxMeta bounds meta.json.
const maxMeta = 1 << 20

// Store is the volumes of an image store, whose absolute path it is. Nothing is
// open and nothing is made before it is needed.
type Store string

func (s Store) dir() string { return string(s) + "/volumes" }

// Path is what containers mount of a volume.
func (s Store) Path(name string) string { return s.dir() + "/" + name + "/" + dataName }

// CheckName refuses what is no name of a volume: docker's rule, and a bound.
func CheckName(name string) error {
	ok := name != "" && len(name) <= 200
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '_', c == '.', c == '-':
			ok = i > 0
		default:
			ok = false
		}
	}
	if !ok {
		return &NameError{name}
	}
	return nil
}

// NameError reports a name that no volume can have. It is fs.ErrInvalid.
type NameError struct{ Name string }

func (e *NameError) Error() string {
	return fmt.Sprintf("volume name %q: want a letter or digit and then up to 199 of A-Z a-z 0-9 _ . -", e.Name)
}
func (e *NameError) Is(target error) bool { return target == fs.ErrInvalid }

// NotExistError reports a volume that does not exist. It is fs.ErrNotExist.
type NotExistError struct{ Name string }

func (e *NotExistError) Error() string        { return fmt.Sprintf("volume %q does not exist", e.Name) }
func (e *NotExistError) Is(target error) bool { return target == fs.ErrNotExist }

// Hint says what to do.
func (e *NotExistError) Hint() string { return "minirun volume list shows the volumes that there are" }

// ExistError reports a name that is taken. It is fs.ErrExist.
type ExistError struct{ Name string }

func (e *ExistError) Error() string        { return fmt.Sprintf("volume %q exists already", e.Name) }
func (e *ExistError) Is(target error) bool { return target == fs.ErrExist }

// InUseError reports a volume that containers use.
type InUseError struct {
	Name       string
	Containers []string
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("volume %q is in use by %s", e.Name, strings.Join(e.Containers, ", "))
}

// Hint says what to do.
func (e *InUseError) Hint() string { return "delete these containers first" }

// DamagedError reports a directory among the volumes that is none: its users, say, are
// not known.
type DamagedError struct {
	Name, Dir string
	Err       error
}

func (e *DamagedError) Error() string { return fmt.Sprintf("volume %q is damaged: %v", e.Name, e.Err) }
func (e *DamagedError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *DamagedError) Hint() string {
	return "save what you want of " + e.Dir + " and remove that directory"
}

// RandomName is a name for a volume that nobody has named, as docker makes them.
func RandomName() string {
	var b [32]byte
	_, _ = unix.Getrandom(b[:], 0) // complete for so few bytes; a name that is taken is an error
	const digits = "0123456789abcdef"
	var name [2 * len(b)]byte
	for i, c := range b {
		name[2*i], name[2*i+1] = digits[c>>4], digits[c&15]
	}
	return string(name[:])
}

// open opens and locks the directory of volumes. With make it is made first; -1
// without an error means that there are no volumes.
func (s Store) open(make bool, how int) (int, error) {
	for {
		fd, err := linux.OpenAt(unix.AT_FDCWD, s.dir(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		switch {
		case err == nil:
			for {
				if err = unix.Flock(fd, how); err != unix.EINTR {
					break
				}
			}
			if err != nil {
				linux.Close(fd)
				return -1, &os.PathError{Op: "flock", Path: s.dir(), Err: err}
			}
			return fd, nil
		case !errors.Is(err, unix.ENOENT):
			return -1, err
		case !make:
			return -1, nil
		}
		if err := os.MkdirAll(string(s), 0o700); err != nil {
			return -1, err
		}
		if err := unix.Mkdir(s.dir(), 0o700); err != nil && err != unix.EEXIST {
			return -1, &os.PathError{Op: "mkdir", Path: s.dir(), Err: err}
		}
	}
}

// Label is a name and a value.
type Label struct{ Name, Value string }

// Create makes an empty volume.
func (s Store) Create(name string, labels []Label) error {
	if err := CheckName(name); err != nil {
		return err
	}
	dir, err := s.open(true, unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer linux.Close(dir)
	if err := s.create(dir, name, false, labels); err != nil {
		return err
	}
	// Whoever was told that it is there finds it after a power failure. One that a
	// container brings about goes with it.
	if err := syncNew(dir, name); err != nil {
		return errors.Join(fmt.Errorf("create volume %q: %w", name, err), s.removeNew(dir, name))
	}
	return nil
}

func syncNew(dir int, name string) error {
	fd, err := linux.OpenAt(dir, name+"/"+metaName, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	err = unix.Fsync(fd)
	linux.Close(fd)
	if err == nil {
		err = unix.Fsync(dir)
	}
	return os.NewSyscallError("fsync", err)
}

// removeNew takes back a volume that nobody has heard of.
func (s Store) removeNew(dir int, name string) error {
	trash := ".trash-" + RandomName()[:16]
	if err := unix.Renameat(dir, name, dir, trash); err != nil {
		return err
	}
	return safepath.RemoveAllAt(dir, trash)
}

func (s Store) create(dir int, name string, anonymous bool, labels []Label) error {
	staged := ".new-" + RandomName()[:16]
	err := safepath.MkdirAt(dir, staged, 0o700)
	if err != nil {
		return fmt.Errorf("create volume %q: %w", name, err)
	}
	fd, err := safepath.OpenDirAt(dir, staged, unix.O_RDONLY)
	if err == nil {
		err = fillNew(fd, anonymous, labels)
		linux.Close(fd)
	}
	if err == nil {
		err = unix.Renameat2(dir, staged, dir, name, unix.RENAME_NOREPLACE)
	}
	if err == nil {
		return nil
	}
	if err == unix.EEXIST {
		err = &ExistError{name}
	} else {
		err = fmt.Errorf("create volume %q: %w", name, err)
	}
	return errors.Join(err, safepath.RemoveAllAt(dir, staged))
}

func fillNew(fd int, anonymous bool, labels []Label) error {
	for _, name := range []string{dataName, usersName} {
		if err := safepath.MkdirAt(fd, name, 0o700); err != nil {
			return err
		}
	}
	if err := unix.Fchmodat(fd, dataName, 0o755, 0); err != nil { // whatever the umask is
		return os.NewSyscallError("fchmodat", err)
	}
	b := jsonread.AppendTime([]byte(`{"created":`), time.Now().UTC())
	b = append(b, `,"labels":{`...)
	for i, l := range labels {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(jsonread.AppendString(b, l.Name), ':')
		b = jsonread.AppendString(b, l.Value)
	}
	b = append(b, "}}\n"...)
	if len(b) > maxMeta {
		return fmt.Errorf("labels of %d bytes: want at most %d", len(b), maxMeta)
	}
	if err := writeFile(fd, metaName, b); err != nil {
		return err
	}
	if anonymous {
		if err := writeFile(fd, anonymousName, nil); err != nil {
			return err
		}
	}
	return writeFile(fd, freshName, nil)
}

func writeFile(dir int, name string, b []byte) error {
	fd, err := safepath.CreateAt(dir, name, unix.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = linux.WriteAll(fd, b)
	linux.Close(fd)
	if err != nil {
		return &os.PathError{Op: "write", Path: name, Err: err}
	}
	return nil
}

// users are the snapshots that use the volume whose directory is fd. Those of
// containers that are gone are forgotten.
func (s Store) users(fd int) (keys []string, err error) {
	users, err := safepath.OpenDirAt(fd, usersName, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer linux.Close(users)
	names, err := safepath.ReadNames(users)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, key := range names {
		err := unix.Access(string(s)+"/overlay/snapshots/"+key, unix.F_OK)
		switch {
		case err == nil:
			keys = append(keys, key)
		case err == unix.ENOENT:
			_ = safepath.UnlinkAt(users, key) // next time
		default:
			return nil, &os.PathError{Op: "look for snapshot", Path: key, Err: err}
		}
	}
	return keys, nil
}

// containers are the IDs in the names of snapshots.
func containers(keys []string) []string {
	ids := make([]string, len(keys))
	for i, key := range keys {
		ids[i] = key
		if n := strings.LastIndexByte(key, '.'); n > 0 {
			ids[i] = key[:n]
		}
	}
	return ids
}

// Remove deletes a volume with everything in it, unless a container uses it.
func (s Store) Remove(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	dir, err := s.open(false, unix.LOCK_EX)
	if err != nil {
		return err
	}
	if dir < 0 {
		return &NotExistError{name}
	}
	defer linux.Close(dir)
	return s.remove(dir, name)
}

func (s Store) remove(dir int, name string) error {
	fd, err := safepath.OpenDirAt(dir, name, unix.O_RDONLY)
	if errors.Is(err, unix.ENOENT) {
		return &NotExistError{name}
	}
	if err != nil {
		return err
	}
	keys, err := s.users(fd)
	linux.Close(fd)
	if err != nil {
		return fmt.Errorf("remove: %w", s.damaged(name, err))
	}
	if len(keys) > 0 {
		return &InUseError{name, containers(keys)}
	}
	trash := ".trash-" + RandomName()[:16]
	if err := unix.Renameat(dir, name, dir, trash); err != nil {
		return fmt.Errorf("remove volume %q: %w", name, err)
	}
	if err := safepath.RemoveAllAt(dir, trash); err != nil {
		return fmt.Errorf("remove volume %q: %w", name, err)
	}
	return nil
}

// AnonymousOf are the volumes without a name that the container with this snapshot
// uses.
func (s Store) AnonymousOf(key string) (names []string, err error) {
	dir, err := s.open(false, unix.LOCK_SH)
	if err != nil || dir < 0 {
		return nil, err
	}
	defer linux.Close(dir)
	all, err := safepath.ReadNames(dir)
	for _, name := range all {
		if CheckName(name) == nil && unix.Faccessat(dir, name+"/"+anonymousName, unix.F_OK, 0) == nil &&
			unix.Faccessat(dir, name+"/"+usersName+"/"+key, unix.F_OK, 0) == nil {
			names = append(names, name)
		}
	}
	return names, err
}

// RemoveAnonymous removes those of the volumes that nobody has named and nobody
// uses any more.
func (s Store) RemoveAnonymous(names []string) error {
	if len(names) == 0 {
		return nil
	}
	dir, err := s.open(false, unix.LOCK_EX)
	if err != nil || dir < 0 {
		return err
	}
	defer linux.Close(dir)
	var errs []error
	for _, name := range names {
		if unix.Faccessat(dir, name+"/"+anonymousName, unix.F_OK, 0) != nil {
			continue
		}
		err := s.remove(dir, name)
		var inUse *InUseError
		var gone *NotExistError
		if !errors.As(err, &inUse) && !errors.As(err, &gone) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Info describes a volume.
type Info struct {
	Name       string
	Anonymous  bool
	Meta       []byte   // meta.json
	Containers []string // that use it
}

func (s Store) damaged(name string, err error) error {
	return &DamagedError{Name: name, Dir: s.dir() + "/" + name, Err: err}
}

// List returns all volumes, sorted by name. Those that are damaged are in the error.
func (s Store) List() ([]Info, error) {
	dir, err := s.open(false, unix.LOCK_SH)
	if err != nil || dir < 0 {
		return nil, err
	}
	defer linux.Close(dir)
	names, err := safepath.ReadNames(dir)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var list []Info
	var errs []error
	for _, name := range names {
		if CheckName(name) != nil {
			continue
		}
		info, err := s.inspect(dir, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, *info)
	}
	return list, errors.Join(errs...)
}

// Inspect describes one volume.
func (s Store) Inspect(name string) (*Info, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	dir, err := s.open(false, unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	if dir < 0 {
		return nil, &NotExistError{name}
	}
	defer linux.Close(dir)
	return s.inspect(dir, name)
}

func (s Store) inspect(dir int, name string) (*Info, error) {
	fd, err := safepath.OpenDirAt(dir, name, unix.O_RDONLY)
	if errors.Is(err, unix.ENOENT) {
		return nil, &NotExistError{name}
	}
	if err != nil {
		return nil, err
	}
	defer linux.Close(fd)
	info := &Info{Name: name, Anonymous: unix.Faccessat(fd, anonymousName, unix.F_OK, 0) == nil}
	keys, err := s.users(fd)
	if err == nil {
		info.Meta, err = linux.ReadFileAt(fd, metaName, maxMeta)
	}
	if err != nil {
		return nil, s.damaged(name, err)
	}
	info.Containers = containers(keys)
	return info, nil
}

// Prune removes the volumes that want says yes to and that nobody uses, and what
// dead processes have left. It returns the names of those that are gone.
func (s Store) Prune(want func(*Info) bool) (removed []string, err error) {
	dir, err := s.open(false, unix.LOCK_EX)
	if err != nil || dir < 0 {
		return nil, err
	}
	defer linux.Close(dir)
	names, err := safepath.ReadNames(dir)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var errs []error
	for _, name := range names {
		if strings.HasPrefix(name, ".new-") || strings.HasPrefix(name, ".trash-") {
			// Whoever makes one has the lock shared, who deletes one exclusively.
			errs = append(errs, safepath.RemoveAllAt(dir, name))
			continue
		}
		if CheckName(name) != nil {
			continue
		}
		info, err := s.inspect(dir, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if len(info.Containers) > 0 || !want(info) {
			continue
		}
		if err := s.remove(dir, name); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, name)
	}
	return removed, errors.Join(errs...)
}
