package safepath

import (
	"encoding/binary"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

const (
	// removeDepth is how many directories are open at once. What lies deeper is
	// renamed up to the first one: a container can nest directories without
	// bound, and growing the descriptor table is slow.
	removeDepth = 24
	// removeRounds ends the race with somebody who refills what is emptied.
	removeRounds = 1000
)

// RemoveAllAt deletes name in dir with everything below; that name does not
// exist is fine. Nothing outside is ever touched: links are removed and not
// followed, and a file system mounted inside is an error (EXDEV or EBUSY), so
// that a mount left by mistake is not emptied. Entries that others rename,
// replace or delete at the same time are looked at again; somebody who keeps
// creating new ones ends the attempt with ENOTEMPTY. An entry that cannot be
// removed does not keep the others: the first error is returned at the end.
// The directory must be readable for the caller (root always is).
func RemoveAllAt(dir int, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	r := remover{top: -1}
	return r.entry(dir, name, unix.DT_UNKNOWN, 0)
}

type remover struct {
	top   int // first directory opened, where deep ones are renamed to
	moved int // names used there
}

func (r *remover) entry(dir int, name string, kind byte, depth int) error {
	for range removeRounds {
		if kind != unix.DT_DIR {
			err := unix.Unlinkat(dir, name, 0)
			if err == nil || err == unix.ENOENT {
				return nil
			}
			if err != unix.EISDIR {
				return wrap("unlinkat", name, err)
			}
		}
		err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
		switch err {
		case nil, unix.ENOENT:
			return nil
		case unix.ENOTDIR: // replaced by a file or link meanwhile
			kind = unix.DT_UNKNOWN
			continue
		case unix.ENOTEMPTY, unix.EEXIST:
		default:
			return wrap("rmdir", name, err)
		}
		if depth >= removeDepth {
			if done, err := r.moveUp(dir, name); done || err != nil {
				return err
			}
			continue
		}
		fd, err := openBelow(dir, name)
		switch err {
		case nil:
		case unix.ENOENT:
			return nil
		case unix.ENOTDIR, unix.ELOOP, unix.EAGAIN:
			kind = unix.DT_UNKNOWN
			continue
		default:
			return wrap("open", name, err)
		}
		kind = unix.DT_DIR
		first := r.top < 0
		if first {
			r.top = fd
		}
		err = r.empty(fd, depth)
		linux.Close(fd)
		if first {
			r.top = -1
		}
		if err != nil {
			return err
		}
	}
	return wrap("rmdir", name, unix.ENOTEMPTY)
}

// moveUp takes the directory name out of dir, into the topmost one, where the
// next round finds it. Whatever has the chosen name there is about to be
// deleted as well, so replacing it is no loss.
func (r *remover) moveUp(dir int, name string) (done bool, err error) {
	r.moved++
	err = unix.Renameat(dir, name, r.top, "deep-"+strconv.Itoa(r.moved))
	switch err {
	case nil, unix.ENOENT:
		return true, nil
	case unix.ENOTDIR, unix.EISDIR, unix.ENOTEMPTY, unix.EEXIST:
		return false, nil
	}
	return false, wrap("rename", name, err)
}

// empty deletes the content of the directory fd, round after round: reading a
// directory that is being changed may skip entries.
func (r *remover) empty(fd, depth int) error {
	buf := make([]byte, 8<<10)
	for round := 0; ; round++ {
		if _, err := unix.Seek(fd, 0, 0); err != nil {
			return os.NewSyscallError("lseek", err)
		}
		seen, err := r.sweep(fd, buf, depth)
		if err != nil || seen == 0 {
			return err
		}
		if round == removeRounds {
			return os.NewSyscallError("rmdir", unix.ENOTEMPTY)
		}
	}
}

func (r *remover) sweep(fd int, buf []byte, depth int) (seen int, first error) {
	for {
		n, err := unix.Getdents(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err == unix.ENOENT { // the directory itself was removed by somebody else
			return 0, first
		}
		if err != nil {
			return seen, os.NewSyscallError("getdents64", err)
		}
		if n <= 0 {
			return seen, first
		}
		for b := buf[:n]; len(b) > 0; {
			name, kind, size := nextEntry(b)
			b = b[size:]
			if name == "." || name == ".." {
				continue
			}
			seen++
			if err := r.entry(fd, name, kind, depth+1); err != nil && first == nil {
				first = err
			}
		}
	}
}

// nextEntry decodes the linux_dirent64 at the start of b, see getdents(2).
// Both architectures that minirun runs on are little endian.
func nextEntry(b []byte) (name string, kind byte, size int) {
	size = int(binary.LittleEndian.Uint16(b[16:]))
	kind = b[18]
	raw := b[19:size]
	for i, c := range raw {
		if c == 0 {
			raw = raw[:i]
			break
		}
	}
	return string(raw), kind, size
}

// openBelow opens the directory name for reading. It follows nothing, and does
// not enter a mount (RESOLVE_NO_XDEV).
func openBelow(dir int, name string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		fd, err := unix.Openat2(dir, name, &how)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// ReadNames returns the names in the directory fd, which must be open for
// reading, without "." and "..", in the order of the file system.
func ReadNames(fd int) ([]string, error) {
	return readNames(fd, make([]byte, 8<<10), -1)
}

// ReadSomeNames is ReadNames for who has no use for more than so many: then it stops
// with at least one more.
func ReadSomeNames(fd, most int) ([]string, error) {
	return readNames(fd, make([]byte, min(8<<10, 512+32*most)), most)
}

func readNames(fd int, buf []byte, most int) ([]string, error) {
	if _, err := unix.Seek(fd, 0, 0); err != nil {
		return nil, os.NewSyscallError("lseek", err)
	}
	var names []string
	for {
		n, err := unix.Getdents(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("getdents64", err)
		}
		if n <= 0 {
			return names, nil
		}
		for b := buf[:n]; len(b) > 0; {
			name, _, size := nextEntry(b)
			b = b[size:]
			if name != "." && name != ".." {
				names = append(names, name)
			}
		}
		if most >= 0 && len(names) > most {
			return names, nil
		}
	}
}
