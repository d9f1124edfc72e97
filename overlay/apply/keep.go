package apply

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/erofs"
)

// keeper makes the file of an indexed layer that has the archive.
type keeper struct {
	fd     int
	linked int64 // size of the file that got a second name, or -1: it is written
}

// newKeeper makes the file in dir, of plain if it can be linked.
func newKeeper(dir int, plain *os.File) (*keeper, error) {
	if plain != nil {
		if k := linkKeeper(dir, plain); k != nil {
			return k, nil
		}
	}
	fd, err := create(dir, overlay.ArchiveFile)
	return &keeper{fd, -1}, err
}

// linkKeeper gives plain a second name; nil if that cannot be: another file
// system, too many names, no name at all. Nor is a file linked that does not end
// with a block, because what is linked cannot be padded: it is somebody's blob.
// Whole blocks need no padding, for a file's last block is in the archive then.
func linkKeeper(dir int, plain *os.File) *keeper {
	var st, is unix.Stat_t
	if unix.Fstat(int(plain.Fd()), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size == 0 || st.Size%erofs.BlockSize != 0 {
		return nil
	}
	from := "/proc/self/fd/" + strconv.Itoa(int(plain.Fd()))
	if unix.Linkat(unix.AT_FDCWD, from, dir, overlay.ArchiveFile, unix.AT_SYMLINK_FOLLOW) != nil {
		return nil
	}
	fd, err := linux.OpenAt(dir, overlay.ArchiveFile, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err == nil && unix.Fstat(fd, &is) == nil && is.Dev == st.Dev && is.Ino == st.Ino {
		return &keeper{fd, st.Size}
	}
	linux.Close(fd)
	_ = unix.Unlinkat(dir, overlay.ArchiveFile, 0) // or it is written over: create fails then
	return nil
}

// writer is what the archive has to be written to, nil if it is there.
func (k *keeper) writer() archiveKeeper {
	if k.linked >= 0 {
		return nil
	}
	return holedFile{fdWriter{k.fd}}
}

// holedFile has holes for what is kept elsewhere.
type holedFile struct{ fdWriter }

func (f holedFile) skip(n int64) error {
	_, err := unix.Seek(f.fd, n, unix.SEEK_CUR)
	return os.NewSyscallError("lseek", err)
}

// finish has the file on disk, with an archive of size bytes in it.
func (k *keeper) finish(size int64) error {
	switch {
	case k.linked < 0:
		// Reads of the last block of a file must not meet the end of the archive.
		if err := unix.Ftruncate(k.fd, alignUp(size, 4096)); err != nil {
			return os.NewSyscallError("ftruncate", err)
		}
	case k.linked != size:
		return fmt.Errorf("the archive has %d bytes, the file that was said to be it %d", size, k.linked)
	}
	return os.NewSyscallError("fdatasync", unix.Fdatasync(k.fd))
}

func (k *keeper) close() { linux.Close(k.fd) }

// fdWriter writes to a descriptor.
type fdWriter struct{ fd int }

func (w fdWriter) Write(p []byte) (int, error) {
	if err := linux.WriteAll(w.fd, p); err != nil {
		return 0, os.NewSyscallError("write", err)
	}
	return len(p), nil
}
