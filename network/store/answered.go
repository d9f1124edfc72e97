package store

import (
	"errors"
	"io/fs"

	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// namesFile of a network is locked by the process that answers names there. The
// lock goes with that process, however it ends.
const namesFile = "names"

// AnsweredError reports that another process answers the names of a network.
type AnsweredError struct{ Network string }

func (e *AnsweredError) Error() string {
	return "names of network \"" + e.Network + "\" are answered by another process"
}

// Is makes it fs.ErrExist.
func (e *AnsweredError) Is(target error) bool { return target == fs.ErrExist }

// Answered reports whether there is a process that answers names in a network.
func (s Store) Answered(network string) bool {
	fd, err := linux.OpenAt(unix.AT_FDCWD, s.networkDir(network)+"/"+namesFile, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer linux.Close(fd)
	l := unix.Flock_t{Type: unix.F_RDLCK}
	return unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &l) == nil && l.Type != unix.F_UNLCK
}

// Answer says that the calling process answers names in a network, until done is
// called or the process ends.
func (s Store) Answer(network string) (done func(), err error) {
	fd, err := linux.OpenAt(unix.AT_FDCWD, s.networkDir(network)+"/"+namesFile, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	l := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &l); err != nil {
		linux.Close(fd)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			err = &AnsweredError{network}
		}
		return nil, err
	}
	return func() { linux.Close(fd) }, nil
}

// Places are the directories in which records appear and go: one directory below
// each for every network, and for every container.
func (s Store) Places() (networks, containers string) {
	return string(s) + "/" + networksName, string(s) + "/" + containersName
}
