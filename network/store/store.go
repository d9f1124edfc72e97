package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/internal/safepath"
	"golang.org/x/sys/unix"
)

// Store is a directory of records, by its absolute path.
type Store string

// Names in the store.
const (
	networksName   = "networks"
	leasesName     = "leases"
	portsName      = "ports"
	containersName = "containers"
	networkFile    = "network.json"
	recordFile     = "record.json"
	lastFile       = "last"
)

// Lock waits for the exclusive right to change records. The directory is made if
// it does not exist.
func (s Store) Lock() (unlock func(), err error) {
	fd, err := linux.OpenAt(unix.AT_FDCWD, string(s), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		if err = os.MkdirAll(string(s), 0o700); err != nil {
			return nil, err
		}
		fd, err = linux.OpenAt(unix.AT_FDCWD, string(s), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	}
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(fd, unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		linux.Close(fd)
		return nil, &os.PathError{Op: "flock", Path: string(s), Err: err}
	}
	if unix.Faccessat(fd, containersName, unix.F_OK, 0) != nil {
		for _, name := range []string{networksName, portsName, containersName} { // the last one says that all are there
			if err := unix.Mkdirat(fd, name, 0o700); err != nil && err != unix.EEXIST {
				linux.Close(fd)
				return nil, &os.PathError{Op: "mkdir", Path: string(s) + "/" + name, Err: err}
			}
		}
	}
	return func() { linux.Close(fd) }, nil
}

// CheckName refuses what is no name of a network.
func CheckName(name string) error {
	ok := name != "" && len(name) <= 63
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
		return &NameError{name, "want a letter or digit and then up to 62 of A-Z a-z 0-9 _ . -"}
	}
	switch name {
	case "none", "host", "default", "container", "ns", "cni", "pasta", "slirp4netns":
		return &NameError{name, "the word has a meaning of its own"}
	}
	return nil
}

// NameError reports a name that no network can have. It is fs.ErrInvalid.
type NameError struct{ Name, Reason string }

func (e *NameError) Error() string        { return fmt.Sprintf("network name %q: %s", e.Name, e.Reason) }
func (e *NameError) Is(target error) bool { return target == fs.ErrInvalid }

// NotExistError reports a network that does not exist. It is fs.ErrNotExist.
type NotExistError struct{ Name string }

func (e *NotExistError) Error() string        { return fmt.Sprintf("network %q does not exist", e.Name) }
func (e *NotExistError) Is(target error) bool { return target == fs.ErrNotExist }

// Hint says what to do.
func (e *NotExistError) Hint() string {
	return "minirun network list shows the networks that there are, minirun network create makes one"
}

// ExistError reports a name that is taken. It is fs.ErrExist.
type ExistError struct{ Name string }

func (e *ExistError) Error() string        { return fmt.Sprintf("network %q exists already", e.Name) }
func (e *ExistError) Is(target error) bool { return target == fs.ErrExist }

// TakenError reports an address or port that somebody else has. It is fs.ErrExist.
type TakenError struct {
	What string // "address 10.201.0.5"
	Key  string // of the record of who has it
}

func (e *TakenError) Error() string {
	return fmt.Sprintf("%s is taken by container %q", e.What, IDOf(e.Key))
}
func (e *TakenError) Is(target error) bool { return target == fs.ErrExist }

// Hint says what to do.
func (e *TakenError) Hint() string {
	return "choose another one, or delete that container; minirun network prune frees what killed processes have left"
}

// IDOf is the container's ID in a key: keys are the ID, a dot and a random number.
func IDOf(key string) string {
	if n := strings.LastIndexByte(key, '.'); n > 0 {
		return key[:n]
	}
	return key
}

func (s Store) networkDir(name string) string { return string(s) + "/" + networksName + "/" + name }

// ContainerDir is where the files of a container are.
func (s Store) ContainerDir(key string) string { return string(s) + "/" + containersName + "/" + key }

// Add records a new network. It is on the disk when Add returns.
func (s Store) Add(n *Network) error {
	if err := CheckName(n.Name); err != nil {
		return err
	}
	dir := s.networkDir(n.Name)
	if unix.Access(dir+"/"+networkFile, unix.F_OK) == nil {
		return &ExistError{n.Name}
	}
	for _, d := range []string{dir, dir + "/" + leasesName} { // there after a crash
		if err := unix.Mkdir(d, 0o700); err != nil && err != unix.EEXIST {
			return &os.PathError{Op: "mkdir", Path: d, Err: err}
		}
	}
	return writeFile(dir, networkFile, n.appendJSON(nil), synced)
}

// Network reads the record of one network.
func (s Store) Network(name string) (*Network, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	path := s.networkDir(name) + "/" + networkFile
	raw, err := linux.ReadFile(path, maxRecord)
	if errors.Is(err, unix.ENOENT) {
		return nil, &NotExistError{name}
	}
	if err != nil {
		return nil, err
	}
	n, err := parseNetwork(raw)
	if err == nil && n.Name != name {
		err = fmt.Errorf("says that it is that of %q", n.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("record %q: %w", path, err)
	}
	return n, nil
}

// Networks reads the records of all networks, sorted by name.
func (s Store) Networks() ([]*Network, error) {
	names, err := names(string(s) + "/" + networksName)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var list []*Network
	var errs []error
	for _, name := range names {
		n, err := s.Network(name)
		var gone *NotExistError
		switch {
		case err == nil:
			list = append(list, n)
		case !errors.As(err, &gone): // that is half of one: Add or Remove was killed
			errs = append(errs, err)
		}
	}
	return list, errors.Join(errs...)
}

// RemoveNetwork forgets a network, and all its leases.
func (s Store) RemoveNetwork(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	// The record goes first: what is left of a directory without one is nothing.
	err := unix.Unlink(s.networkDir(name) + "/" + networkFile)
	if err == unix.ENOENT {
		err = &NotExistError{name}
	}
	if rest := s.removeAll(networksName, name); err == nil {
		err = rest
	}
	return err
}

// removeAll removes a directory of the store.
func (s Store) removeAll(kind, name string) error {
	dir, err := linux.OpenAt(unix.AT_FDCWD, string(s)+"/"+kind, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer linux.Close(dir)
	err = safepath.RemoveAllAt(dir, name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// names lists a directory; one that does not exist is empty.
func names(dir string) ([]string, error) { return someNames(dir, -1) }

// someNames is names; if there are more than most, and most is not -1, it lists at
// least one more.
func someNames(dir string, most int) (list []string, err error) {
	fd, err := linux.OpenAt(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer linux.Close(fd)
	if most < 0 {
		list, err = safepath.ReadNames(fd)
	} else {
		list, err = safepath.ReadSomeNames(fd, most)
	}
	if err != nil {
		return nil, &os.PathError{Op: "read directory", Path: dir, Err: err}
	}
	return list, nil
}

func readlink(path string) (string, error) {
	var buf [512]byte
	n, err := unix.Readlink(path, buf[:])
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: path, Err: err}
	}
	return string(buf[:n]), nil
}

// take makes a lease. An error that is fs.ErrExist means that the key in it has
// it; one's own is no error.
func take(path, what, key string) error {
	err := unix.Symlink(key, path)
	if err == unix.EEXIST {
		holder, rerr := readlink(path)
		if rerr != nil {
			return rerr
		}
		if holder == key {
			return nil
		}
		return &TakenError{What: what, Key: holder}
	}
	if err != nil {
		return &os.PathError{Op: "symlink", Path: path, Err: err}
	}
	return nil
}

// free gives a lease back if it is that of key.
func free(path, key string) error {
	holder, err := readlink(path)
	if errors.Is(err, unix.ENOENT) || err == nil && holder != key {
		return nil
	}
	if err != nil {
		return err
	}
	if err := unix.Unlink(path); err != nil && err != unix.ENOENT {
		return &os.PathError{Op: "unlink", Path: path, Err: err}
	}
	return nil
}

// Leases lists the addresses of a network that containers have, without who has them.
func (s Store) Leases(network string) ([]netip.Addr, error) { return s.SomeLeases(network, -1) }

// SomeLeases is Leases; where there are more than most, and most is not -1, some are
// missing, but there are more than most.
func (s Store) SomeLeases(network string, most int) ([]netip.Addr, error) {
	list, err := someNames(s.networkDir(network)+"/"+leasesName, most)
	if err != nil {
		return nil, err
	}
	out := make([]netip.Addr, 0, len(list))
	for _, name := range list {
		if a, err := netip.ParseAddr(name); err == nil {
			out = append(out, a)
		}
	}
	return out, nil
}

// Holder is the key of the container that has an address.
func (s Store) Holder(network string, a netip.Addr) (string, error) {
	return readlink(s.networkDir(network) + "/" + leasesName + "/" + a.String())
}

// Take gives an address to a container.
func (s Store) Take(network string, a netip.Addr, key string) error {
	dir := s.networkDir(network)
	if err := take(dir+"/"+leasesName+"/"+a.String(), "address "+a.String(), key); err != nil {
		return err
	}
	// Where the search for the next one begins. To lose it does no harm.
	last := dir + "/" + lastFile
	if a.Is6() {
		last += "6"
	}
	_ = unix.Unlink(last)
	_ = unix.Symlink(a.String(), last)
	return nil
}

// Last is the address of the family that was taken last, if that is known.
func (s Store) Last(network string, v6 bool) netip.Addr {
	path := s.networkDir(network) + "/" + lastFile
	if v6 {
		path += "6"
	}
	text, _ := readlink(path)
	a, _ := netip.ParseAddr(text)
	return a
}

// Free gives an address back, if it is key's.
func (s Store) Free(network string, a netip.Addr, key string) error {
	return free(s.networkDir(network)+"/"+leasesName+"/"+a.String(), key)
}

// formerFile has the addresses that were given back by containers whose connections
// the kernel may still have entries of: one in a line, some several times.
const formerFile = "former"

// AddFormer adds addresses to those, and returns how many bytes the list has.
func (s Store) AddFormer(network string, list []netip.Addr) (size int, err error) {
	path := s.networkDir(network) + "/" + formerFile
	fd, err := linux.OpenAt(unix.AT_FDCWD, path, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil // the network was forgotten, and so are its addresses
	}
	if err != nil {
		return 0, err
	}
	defer linux.Close(fd)
	b := append(make([]byte, 0, 64), '\n') // behind what a full disk has left of another line
	for _, a := range list {
		b = append(append(b, a.String()...), '\n')
	}
	var st unix.Stat_t
	if err = linux.WriteAll(fd, b); err == nil {
		err = unix.Fstat(fd, &st)
	}
	if err != nil {
		return 0, &os.PathError{Op: "write", Path: path, Err: err}
	}
	return int(st.Size), nil
}

// Former lists them.
func (s Store) Former(network string) (list []netip.Addr, err error) {
	raw, err := linux.ReadFile(s.networkDir(network)+"/"+formerFile, maxRecord)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	for line := range strings.Lines(string(raw)) {
		if a, err := netip.ParseAddr(strings.TrimSuffix(line, "\n")); err == nil {
			list = append(list, a)
		}
	}
	return list, err
}

// DropFormer empties the list.
func (s Store) DropFormer(network string) error {
	path := s.networkDir(network) + "/" + formerFile
	if err := unix.Unlink(path); err != nil && err != unix.ENOENT {
		return &os.PathError{Op: "unlink", Path: path, Err: err}
	}
	return nil
}

// portName is the name of a lease of ports.
func portName(p *Port) string {
	ip := "*"
	if p.IP.IsValid() {
		ip = p.IP.String()
	}
	return p.Protocol + "," + strconv.Itoa(int(p.Host)) + "," + strconv.Itoa(int(p.Host)+int(p.Count)-1) + "," + ip
}

// parsePortName reads it back.
func parsePortName(name string) (p Port, ok bool) {
	f := strings.Split(name, ",")
	if len(f) != 4 {
		return p, false
	}
	first, err1 := strconv.ParseUint(f[1], 10, 16)
	last, err2 := strconv.ParseUint(f[2], 10, 16)
	if err1 != nil || err2 != nil || last < first {
		return p, false
	}
	p = Port{Protocol: f[0], Host: uint16(first), Count: uint16(last - first + 1)}
	if f[3] != "*" {
		a, err := netip.ParseAddr(f[3])
		if err != nil {
			return p, false
		}
		p.IP = a
	}
	return p, true
}

// TakePort gives ports of the host to a container. They may not overlap those of
// another one, or other ones of its own.
func (s Store) TakePort(p *Port, key string) error {
	dir := string(s) + "/" + portsName
	list, err := names(dir)
	if err != nil {
		return err
	}
	for _, name := range list {
		q, ok := parsePortName(name)
		if !ok || !p.overlaps(&q) {
			continue
		}
		holder, err := readlink(dir + "/" + name)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return err
		}
		return &TakenError{What: "port " + p.String(), Key: holder}
	}
	return take(dir+"/"+portName(p), "port "+p.String(), key)
}

// PortTaken reports whether ports of the host overlap those of a container.
func (s Store) PortTaken(p *Port) (bool, error) {
	list, err := names(string(s) + "/" + portsName)
	for _, name := range list {
		if q, ok := parsePortName(name); ok && p.overlaps(&q) {
			return true, nil
		}
	}
	return false, err
}

// FreePort gives ports back, if they are key's.
func (s Store) FreePort(p *Port, key string) error {
	return free(string(s)+"/"+portsName+"/"+portName(p), key)
}

// Save writes the record of a container. Nothing of it means anything after the
// next boot, so it is not synced.
func (s Store) Save(c *Container) error {
	dir := s.ContainerDir(c.Key)
	if err := unix.Mkdir(dir, 0o700); err != nil && err != unix.EEXIST {
		return &os.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	return writeFile(dir, recordFile, c.appendJSON(nil), notSynced)
}

// Container reads the record of a container. It is fs.ErrNotExist if there is none.
func (s Store) Container(key string) (*Container, error) {
	path := s.ContainerDir(key) + "/" + recordFile
	raw, err := linux.ReadFile(path, maxRecord)
	if err != nil {
		return nil, err
	}
	c, err := parseContainer(raw)
	if err == nil && c.Key != key {
		err = fmt.Errorf("says that it is that of %q", c.Key)
	}
	if err != nil {
		return nil, fmt.Errorf("record %q: %w", path, err)
	}
	return c, nil
}

// Keys lists the containers that there are records of, half ones too.
func (s Store) Keys() ([]string, error) {
	list, err := names(string(s) + "/" + containersName)
	slices.Sort(list)
	return list, err
}

// RemoveContainer forgets a container, when its leases have been given back.
func (s Store) RemoveContainer(key string) error {
	if key == "" || strings.ContainsRune(key, '/') {
		return fmt.Errorf("key %q: no name of a directory", key)
	}
	return s.removeAll(containersName, key)
}

// FreeAll gives back every lease of a container, whatever its record says. It is
// for a record that cannot be read, or has never been complete.
func (s Store) FreeAll(key string) error {
	networks, err := names(string(s) + "/" + networksName)
	errs := []error{err}
	dirs := []string{string(s) + "/" + portsName}
	for _, n := range networks {
		dirs = append(dirs, s.networkDir(n)+"/"+leasesName)
	}
	for _, dir := range dirs {
		list, err := names(dir)
		errs = append(errs, err)
		for _, name := range list {
			errs = append(errs, free(dir+"/"+name, key))
		}
	}
	return errors.Join(errs...)
}

// maxRecord bounds the size of a record.
const maxRecord = 1 << 20

// durability says whether a file has to be on the disk.
type durability bool

const (
	synced    durability = true
	notSynced durability = false
)

// writeFile replaces a file by one with the content b: a reader finds the old one
// or the new one.
func writeFile(dir, name string, b []byte, sync durability) error {
	tmp := dir + "/." + name + ".tmp"
	fd, err := linux.OpenAt(unix.AT_FDCWD, tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	err = linux.WriteAll(fd, b)
	if err == nil && sync == synced {
		err = unix.Fsync(fd)
	}
	linux.Close(fd)
	if err == nil {
		err = unix.Rename(tmp, dir+"/"+name)
	}
	if err != nil {
		_ = unix.Unlink(tmp)
		return &os.PathError{Op: "write", Path: dir + "/" + name, Err: err}
	}
	if sync != synced {
		return nil
	}
	fd, err = linux.OpenAt(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	if err := unix.Fsync(fd); err != nil {
		return &os.PathError{Op: "fsync", Path: dir, Err: err}
	}
	return nil
}
