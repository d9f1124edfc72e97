package runtime

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/monitor"
	"golang.org/x/sys/unix"
)

// AwaitEnd waits for the end of the container's init and finds out how it ended.
// known is false if that cannot be known any more.
//
// A process's status is told to its parent, which we are not. But as long as the
// parent has not asked for it, it is in procfs, and from Linux 6.15 on whoever has
// opened a pidfd before learns it also afterwards.
func (c *Container) AwaitEnd() (ws syscall.WaitStatus, known bool, err error) {
	status, err := c.Status()
	if err != nil {
		return 0, false, err
	}
	if status == Creating {
		return 0, false, &StatusError{ID: c.ID, Op: "wait", Have: Creating}
	}
	pidfd, err := c.openInit()
	if err == nil && pidfd < 0 {
		return c.recordedEnd()
	}
	if err != nil {
		return 0, false, err
	}
	defer linux.Close(pidfd)
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		if n, err := unix.Poll(fds, -1); n > 0 {
			break
		} else if err != unix.EINTR {
			return 0, false, os.NewSyscallError("poll", err)
		}
	}
	if c.Monitor != 0 {
		if ws, known, err = c.recordedEnd(); known || err != nil {
			return ws, known, err
		}
	}
	ws, known = c.KernelExit(pidfd)
	return ws, known, nil
}

// KernelExit is what the kernel says of how the container's init has ended, which it
// has, to who opened it before; pidfd is -1 for others. Before its parent has asked
// for the status it is in procfs alone, afterwards with the descriptor alone.
func (c *Container) KernelExit(pidfd int) (ws syscall.WaitStatus, known bool) {
	if ws, known = linux.PidfdExit(pidfd); known {
		return ws, true
	}
	if ws, known = c.zombieStatus(); known {
		return ws, true
	}
	return linux.PidfdExit(pidfd) // it was reaped between the two
}

// recordedEnd is what the monitor has recorded of a container whose init has ended.
func (c *Container) recordedEnd() (ws syscall.WaitStatus, known bool, err error) {
	e, err := c.Exit()
	if e == nil {
		return 0, false, err
	}
	return e.Status, true, nil
}

// Exit is what the container's monitor has recorded of the end of its init, which
// has happened; nil if there is no record, because there was no monitor or it was
// killed.
func (c *Container) Exit() (*monitor.Exit, error) {
	if c.Monitor == 0 {
		return nil, nil //nolint:nilnil // no record is no error
	}
	pidfd := c.OpenMonitor()
	defer linux.Close(pidfd)
	for deadline := time.Now().Add(killTimeout); ; {
		over := pidfd < 0 || time.Now().After(deadline) || ended(pidfd, 0)
		e, err := monitor.ReadExit(c.Dir()) // after the look at the monitor, so that its last word counts
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return e, err
		}
		if over {
			return nil, nil //nolint:nilnil // as above
		}
		ended(pidfd, time.Millisecond) // it is about to write it
	}
}

// openInit opens the container's init, which may have ended as long as it was not
// reaped; else -1.
func (c *Container) openInit() (pidfd int, err error) {
	if c.Pid <= 0 {
		return -1, nil
	}
	if boot, err := bootID(); err != nil || boot != c.BootID {
		return -1, err
	}
	fd, err := unix.PidfdOpen(c.Pid, 0)
	if err == unix.ESRCH {
		return -1, nil
	}
	if err != nil {
		return -1, os.NewSyscallError("pidfd_open", err)
	}
	// Looked at after opening: if it is the right one now, the descriptor is.
	if info, err := statProcess(c.Pid); err != nil || info.startTime != c.StartTime {
		linux.Close(fd)
		return -1, nil
	}
	return fd, nil
}

// zombieStatus is the status of the init if it has ended and was not reaped:
// field 52 of /proc/PID/stat.
func (c *Container) zombieStatus() (syscall.WaitStatus, bool) {
	proc := "/proc/" + strconv.Itoa(c.Pid)
	var b [1]byte
	if _, err := unix.Readlink(proc+"/ns/user", b[:]); err == unix.EACCES {
		return 0, false // the field is 0 for those who may not look into the process
	}
	stat, err := linux.ReadFile(proc+"/stat", 4096)
	if err != nil {
		return 0, false
	}
	info, err := parseStat(stat)
	if err != nil || !info.zombie || info.startTime != c.StartTime {
		return 0, false
	}
	end := len(stat)
	for end > 0 && stat[end-1] == '\n' {
		end--
	}
	begin := end
	for begin > 0 && stat[begin-1] != ' ' {
		begin--
	}
	n, err := strconv.ParseUint(string(stat[begin:end]), 10, 32)
	return syscall.WaitStatus(n), err == nil
}
