package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxSocketPath is what fits into sockaddr_un, with a zero at the end (unix(7)).
const maxSocketPath = 107

// lockPatience is how long the lock may stay taken after the end of who had it: a
// child that it was just starting has its descriptors until it executes a program.
const lockPatience = 10 * time.Second

// lock makes sure that nobody else serves this socket. The kernel lets go of it
// when the process ends, however it does. The file says which process that is.
func lock(socket string) (unlock func(), err error) {
	f, err := os.OpenFile(socket+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for end := time.Now().Add(lockPatience); ; time.Sleep(5 * time.Millisecond) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		if pid := holder(f); pid != 0 || time.Now().After(end) {
			err = &RunningError{socket, pid}
			break
		}
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(process(os.Getpid())), 0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// holder is the process that the lock file names; 0 if there is none any more.
func holder(f *os.File) int {
	b := make([]byte, 64)
	n, _ := f.ReadAt(b, 0)
	text, _, _ := strings.Cut(string(b[:n]), " ")
	pid, err := strconv.Atoi(text)
	if err != nil || pid <= 0 || process(pid) != string(b[:n]) {
		return 0
	}
	return pid
}

// process is what tells a process from others that had its number: the time of its
// start, field 22 of proc_pid_stat(5). It is "" of one that has ended.
func process(pid int) string {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	f := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return ""
	}
	return fmt.Sprintf("%d %s\n", pid, f[19])
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
