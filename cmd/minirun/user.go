package main

import (
	"os"

	"github.com/minirun/minirun/runtime"
	"golang.org/x/sys/unix"
)

func isRoot() bool { return os.Geteuid() == 0 }

// becomeRoot makes an ordinary user's command start again as root of a user
// namespace of its own, which it has to be for files of many users: those of images.
func (a *app) becomeRoot() error {
	if isRoot() {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return runtime.BecomeRoot(self, os.Args)
}

// stopAsUser ends a container before its user becomes root: the root of another
// user namespace than the one above the container's may not.
func (a *app) stopAsUser(c *runtime.Container) error {
	pidfd, err := c.Process()
	if pidfd < 0 {
		return err
	}
	defer unix.Close(pidfd)
	if err := c.Kill(unix.SIGKILL, runtime.AllProcesses); err != nil {
		return err
	}
	for {
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1); err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
	}
}
