package unpacked

import (
	"errors"
	"fmt"
	"os"

	"github.com/minirun/minirun/imagestore/reference"
	"github.com/minirun/minirun/internal/jsonread"
	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

const (
	dirName  = "unpacked"
	tempName = "new"
)

// Write records an image of the store whose layers are all unpacked. config is
// its configuration, a JSON object with the names of image-spec in their exact
// case. A record that is there already costs a look.
func Write(store string, img *Image, config []byte) error {
	if err := img.Target.Check(); err != nil {
		return err
	}
	b := append(make([]byte, 0, len(config)+512), `{"version":1,"host":"`+host+`"`...)
	for _, f := range [...][2]string{
		{"target", string(img.Target)},
		{"manifest", string(img.Manifest)},
		{"id", string(img.ID)},
		{"chain", img.Chain},
	} {
		b = jsonread.AppendString(jsonread.AppendKey(b, f[0]), f[1])
	}
	b = append(append(jsonread.AppendKey(b, "config"), config...), "}\n"...)
	if _, ok := parse(b); !ok {
		return fmt.Errorf("record of image %s: it could not be read again", img.Target)
	}
	if have, err := linux.ReadFile(recordPath(store, img.Target), maxRecord); err == nil && string(have) == string(b) {
		return nil
	}
	if err := write(store, recordName(img.Target), b); err != nil {
		return fmt.Errorf("record of image %s: %w", img.Target, err)
	}
	return nil
}

// write replaces a record so that a reader, and a machine that loses power, has
// the old one or the new one.
func write(store, name string, b []byte) error {
	if err := os.Mkdir(store+"/"+dirName, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	dir, err := lock(store)
	if err != nil {
		return err
	}
	defer linux.Close(dir)
	// Whoever left a file of this name is dead: it had the lock.
	fd, err := linux.OpenAt(dir, tempName, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	err = linux.WriteAll(fd, b)
	if err == nil {
		err = unix.Fsync(fd)
	}
	linux.Close(fd)
	if err == nil {
		err = unix.Renameat(dir, tempName, dir, name)
	}
	if err == nil {
		err = unix.Fsync(dir)
	}
	if err != nil {
		_ = unix.Unlinkat(dir, tempName, 0)
		return &os.PathError{Op: "write", Path: store + "/" + dirName + "/" + name, Err: err}
	}
	return nil
}

// lock opens the directory of the records and takes its lock, which ends when
// the descriptor is closed, at the latest with the process.
func lock(store string) (int, error) {
	dir, err := linux.OpenAt(unix.AT_FDCWD, store+"/"+dirName, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, err
	}
	for {
		switch err := unix.Flock(dir, unix.LOCK_EX); err {
		case nil:
			return dir, nil
		case unix.EINTR:
		default:
			linux.Close(dir)
			return -1, &os.PathError{Op: "flock", Path: store + "/" + dirName, Err: err}
		}
	}
}

// Sweep removes the records that are not of an image in keep, by target, and
// what a process that died has left.
func Sweep(store string, keep map[reference.Digest]bool) error {
	dir, err := lock(store)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer linux.Close(dir)
	list, err := os.ReadDir(store + "/" + dirName)
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for target := range keep {
		wanted[recordName(target)] = true
		wanted[recordName(target)+trustSuffix] = true
	}
	for _, f := range list {
		if wanted[f.Name()] {
			continue
		}
		if e := unix.Unlinkat(dir, f.Name(), 0); e != nil && e != unix.ENOENT {
			err = errors.Join(err, &os.PathError{Op: "remove", Path: store + "/" + dirName + "/" + f.Name(), Err: e})
		}
	}
	return err
}
