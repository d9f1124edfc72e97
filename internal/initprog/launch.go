package initprog

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// Name is what ps and /proc/PID/exe show of a process that runs a program.
const Name = "minirun:init"

// Options say in what surroundings a program starts.
type Options struct {
	Args  []string // argv; Args[0] defaults to Name
	Files []int    // descriptor i of the process is Files[i]; -1: closed
	// Cloneflags are the namespaces the process starts in (CLONE_NEW*). Never
	// CLONE_NEWUSER: with it fork copies the whole address space, so a program
	// unshares the user namespace itself.
	Cloneflags uintptr
	CgroupFD   int    // directory of the cgroup to start in (CLONE_INTO_CGROUP, Linux 5.7); < 0: ours
	Fallback   string // directory for the image where executing a memfd is forbidden
	Setpgid    bool   // start as the leader of a process group of its own

	noMemfd bool // tests: as if memfd_create(2) were forbidden
}

// Start runs the program as a new child process and returns when its image is
// running, with its pid and a close-on-exec pidfd.
func (m *Image) Start(o Options) (pid, pidfd int, err error) {
	exe, err := m.executable(&o)
	if err != nil {
		return 0, -1, err
	}
	defer func() { linux.Close(exe) }()

	// fork moves the entries of Files to numbers just above the highest of
	// them, whatever is open there. The descriptor our path names must be out
	// of its way.
	top := len(o.Files)
	for _, f := range o.Files {
		top = max(top, f+1)
	}
	high, err := unix.FcntlInt(uintptr(exe), unix.F_DUPFD_CLOEXEC, top+len(o.Files)+2)
	if err != nil {
		return 0, -1, os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
	}
	linux.Close(exe)
	exe = high

	files := make([]uintptr, len(o.Files))
	for i, f := range o.Files {
		files[i] = uintptr(f)
	}
	args := o.Args
	if len(args) == 0 {
		args = []string{Name}
	}
	attr := syscall.ProcAttr{Files: files, Sys: &syscall.SysProcAttr{
		Cloneflags: o.Cloneflags, UseCgroupFD: o.CgroupFD >= 0, CgroupFD: o.CgroupFD, PidFD: &pidfd, Setpgid: o.Setpgid,
	}}
	pid, err = syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(exe), args, &attr)
	if err != nil {
		return 0, -1, &StartError{Err: err}
	}
	return pid, pidfd, nil
}

// StartError reports that the process of a program could not be started:
// clone(2) or the first execve(2) failed.
type StartError struct{ Err error }

func (e *StartError) Error() string { return "start container init: " + e.Err.Error() }
func (e *StartError) Unwrap() error { return e.Err }

// Executable returns a descriptor of the image, to be executed as
// /proc/self/fd/N, that nobody can write to. fallback is what
// [Options.Fallback] is.
func (m *Image) Executable(fallback string) (int, error) {
	return m.executable(&Options{Fallback: fallback})
}

// executable returns a descriptor of the image that nobody can write to.
func (m *Image) executable(o *Options) (int, error) {
	fd, err := -1, error(unix.EACCES)
	if !o.noMemfd {
		fd, err = m.memfd()
	}
	if err == unix.EACCES && o.Fallback != "" { // vm.memfd_noexec=2, Linux 6.3
		return m.file(o.Fallback)
	}
	if err != nil {
		return -1, os.NewSyscallError("memfd_create for the init program", err)
	}
	return fd, nil
}

// memfd writes the image to a memfd and seals it: whoever gets hold of it
// through /proc/PID/exe can neither change nor grow it (CVE-2019-5736).
func (m *Image) memfd() (int, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(Name, flags|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3 there was no MFD_EXEC, and no need for it
		fd, err = unix.MemfdCreate(Name, flags)
	}
	if err != nil {
		return -1, err
	}
	if err = m.writeTo(fd); err == nil {
		const seals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		linux.Close(fd)
		return -1, err
	}
	return fd, nil
}

// file writes the image to a file in dir that has no name any more when it is
// executed, and returns it opened for reading only. The file is ours alone: it
// is not shared with other containers, so writing to it would gain nothing.
func (m *Image) file(dir string) (fd int, err error) {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) == nil && st.Flags&unix.MS_NOEXEC != 0 { // ST_NOEXEC of statfs(2)
		return -1, fmt.Errorf("execute the init program: memfds may not be executed (vm.memfd_noexec=2), and neither may files in %q (mount option noexec): %w", dir, unix.EACCES)
	}
	// A fork at the same time would inherit the descriptor for writing, and
	// until that child has executed something, executing the file is ETXTBSY.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	prefix := dir + "/init." + strconv.Itoa(os.Getpid()) + "."
	var name string
	for n := range 1000 { // other threads do the same, a killed process may have left one
		name = prefix + strconv.Itoa(n)
		fd, err = linux.OpenAt(unix.AT_FDCWD, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o500)
		if !errors.Is(err, unix.EEXIST) {
			break
		}
	}
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Unlink(name) }()
	err = m.writeTo(fd)
	linux.Close(fd) // before it is executed: a file open for writing is ETXTBSY
	if err != nil {
		return -1, &os.PathError{Op: "write", Path: name, Err: err}
	}
	return linux.OpenAt(unix.AT_FDCWD, name, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
}

func (m *Image) writeTo(fd int) error {
	n, err := unix.Writev(fd, m.parts())
	if err == nil && n != m.Size() {
		err = unix.EIO
	}
	return err
}
