package runtime

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// dialPidfd connects to the unix socket at path, which wants the pidfd of a
// process; -1 without a path.
func dialPidfd(path string) (int, error) {
	if path == "" {
		return -1, nil
	}
	fd, err := dialWithin(path, agentTimeout)
	if err != nil {
		return -1, fmt.Errorf("pidfd socket %q: %w", path, err)
	}
	return fd, nil
}

// sendPidfd sends a pidfd, with a word for what it is: "standard" for a
// container's init and "setns" for a process added to it, as runc does.
func sendPidfd(socket, pidfd int, word string) error {
	if socket < 0 {
		return nil
	}
	_, err := unix.SendmsgN(socket, []byte(word), unix.UnixRights(pidfd), nil, unix.MSG_NOSIGNAL)
	if err != nil {
		return fmt.Errorf("pidfd socket: %w", os.NewSyscallError("sendmsg", err))
	}
	return nil
}
