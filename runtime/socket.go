package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// A unix socket's address holds 108 bytes and a state root may be longer, so
// sockets are named through a descriptor of their directory.
func socketAddr(dir int, name string) *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name}
}

func listenAt(dir int, name string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err = unix.Bind(fd, socketAddr(dir, name)); err == nil {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		linux.Close(fd)
		return -1, &os.PathError{Op: "listen", Path: name, Err: err}
	}
	return fd, nil
}

func dialAt(dir int, name string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	for {
		if err = unix.Connect(fd, socketAddr(dir, name)); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		linux.Close(fd)
		return -1, err
	}
	return fd, nil
}

// dialWithin connects to the stream socket at path. Connecting to one whose
// queue is full, because nobody accepts, and sending to it take no longer than
// limit each; then the error is ETIMEDOUT or EAGAIN.
func dialWithin(path string, limit time.Duration) (int, error) {
	dir, err := linux.OpenAt(unix.AT_FDCWD, filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, err
	}
	defer linux.Close(dir)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	tv := unix.NsecToTimeval(limit.Nanoseconds())
	if err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err == nil {
		for {
			if err = unix.Connect(fd, socketAddr(dir, filepath.Base(path))); err != unix.EINTR {
				break
			}
		}
	}
	if err == unix.EAGAIN {
		err = unix.ETIMEDOUT
	}
	if err != nil {
		linux.Close(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

// consoleTimeout is how long an engine may take to accept the connection that
// receives a terminal. Ordinary ones listen with room for it, and it takes no time.
const consoleTimeout = 5 * time.Second

// dial connects to the console socket at path.
func dial(path string) (int, error) {
	fd, err := dialWithin(path, consoleTimeout)
	if err != nil {
		return -1, fmt.Errorf("console socket %q: %w", path, err)
	}
	return fd, nil
}
