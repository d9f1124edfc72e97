package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// maxSocketPath is what fits into sockaddr_un, with a zero at the end (unix(7)).
const maxSocketPath = 107

// lock makes sure that nobody else serves this socket. The kernel lets go of it
// when the process ends, however it does.
func lock(socket string) (unlock func(), err error) {
	f, err := os.OpenFile(socket+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = &RunningError{socket}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// listen makes the socket, only for us, in the place of one that was left.
func listen(socket string) (net.Listener, error) {
	tmp := socket + ".new"
	if len(tmp) > maxSocketPath {
		return nil, fmt.Errorf("listen on %q: the path is longer than %d bytes", socket, maxSocketPath-len(".new"))
	}
	if st, err := os.Lstat(socket); err == nil && st.Mode().Type() != os.ModeSocket {
		return nil, fmt.Errorf("listen on %q: something else than a socket is there", socket)
	}
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	// The directory is ours alone, so nobody connects before the mode is right.
	err = os.Chmod(tmp, 0o600)
	if err == nil {
		err = os.Rename(tmp, socket)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(tmp))
	}
	return l, nil
}
