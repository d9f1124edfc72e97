package store

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// reserveSize is how much of the disk is set aside beside the store, in a file of its
	// own: a full disk then keeps nobody from deleting objects, which may be what it takes
	// to have room again. Most objects are much smaller.
	reserveSize = 4 << 20
	// reserveStep is how much less is tried when there is not that much.
	reserveStep = reserveSize / 32
)

func (s *Store) reservePath() string { return s.path + ".reserve" }

// reserve sets blocks aside for the end of objects, as many as there are. What fails is
// tried again with the next write.
func (s *Store) reserve() {
	s.short = false
	f, err := os.OpenFile(s.reservePath(), os.O_WRONLY|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		s.short = noRoom(err)
		return
	}
	defer f.Close()
	for size := int64(reserveSize); size > 0; size -= reserveStep {
		if err = unix.Fallocate(int(f.Fd()), 0, 0, size); err == nil || !noRoom(err) {
			break // done, or the file system cannot do it
		}
		s.short = true
	}
}

// release gives the reserve back.
func (s *Store) release() {
	s.short = true
	if os.Remove(s.reservePath()) == nil {
		_ = syncDir(s.path) // some file systems have freed blocks back only then
	}
}

func noRoom(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
