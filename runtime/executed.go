package runtime

import (
	"errors"
	"strconv"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// errNotExecuted is what end of file means if it was not execve(2) that closed
// the init's end of the socket.
var errNotExecuted = errors.New("container init was killed before it executed the process")

// hasExecuted tells the two ends of a handshake apart: execve(2) has closed the
// process's end of the socket, or its death has. It is asked right after end of
// file, and nil is the answer for a program that ran, however short.
//
// In execve the kernel changes the executable before it closes descriptors, and
// the name soon after; a process that ends gives up its memory, and with that its
// executable, before its descriptors. So: something to be read at exe is the
// user's program. Nothing is a process that ends or has ended, and keeps the name
// of the program that it ran. One that was reaped meanwhile has no name any more.
// Then a kernel of 6.15 or later knows how it ended: only SIGKILL ends an init
// from outside. Older ones do not, and we believe that it ran. So do we with a pidfd
// of -1, for those who would run it again.
func hasExecuted(pid, pidfd int) error {
	proc := "/proc/" + strconv.Itoa(pid)
	var b [1]byte
	if _, err := unix.Readlink(proc+"/exe", b[:]); err != unix.ENOENT && err != unix.ESRCH {
		return nil
	}
	if stat, err := linux.ReadFile(proc+"/stat", 4096); err == nil {
		const name = " (" + initprog.Name + ") "
		if n := len(strconv.Itoa(pid)); len(stat) > n+len(name) && string(stat[n:n+len(name)]) == name {
			return errNotExecuted
		}
		return nil
	}
	if ws, ok := linux.PidfdExit(pidfd); ok && ws.Signaled() && ws.Signal() == unix.SIGKILL {
		return errNotExecuted
	}
	return nil
}
