package usernet

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/network"
	"golang.org/x/sys/unix"
)

// How long a helper may take to be ready, and to end when it was killed.
const (
	startTimeout = 60 * time.Second
	endTimeout   = 10 * time.Second
)

// maxSaid bounds what a helper says: its standard error is a file of that size, which
// cannot grow.
const maxSaid = 16 << 10

// A StartError reports a helper that did not get ready.
type StartError struct {
	Kind, Said string
	Err        error
}

func (e *StartError) Error() string {
	s := "network " + e.Kind
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Said != "" {
		s += ": " + e.Said
	}
	return s
}

func (e *StartError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *StartError) Hint() string {
	if strings.Contains(e.Said, "External interface not usable") {
		return Pasta + " takes address and routes of the host, which needs a default route; --network " + Slirp + " does without"
	}
	return ""
}

// Start connects the network namespace that net is open on; user is its user
// namespace, or -1 if that is ours, and pid the container's init. dir is the
// container's directory, beside those of others that this user starts. On an error
// nothing is left but files in it.
func (h *Helper) Start(dir string, pid, user, net int) error {
	// Two that want the same port take turns: the second one finds it taken.
	unlock, err := lock(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer unlock()
	for i := range h.Ports {
		if err := network.CheckPort(&h.Ports[i]); err != nil {
			return privileged(&h.Ports[i], err)
		}
	}
	if err := h.save(dir); err != nil {
		return err
	}
	s := starting{h: h, dir: -1, ready: -1, readyOut: -1, sync: [2]int{-1, -1}}
	defer s.close()
	if err := s.open(dir, pid, user, net); err != nil {
		return err
	}
	err = s.start(dir, user >= 0)
	if err == nil && h.Kind == Slirp {
		err = h.publish(s.dir)
	}
	for i := 0; i < len(h.Ports) && err == nil; i++ {
		if !network.Bound(&h.Ports[i]) {
			err = errors.New("it does not listen at " + h.Ports[i].String())
		}
	}
	if err == nil {
		_, err = linux.Write(s.sync[0], make([]byte, 8))
	}
	if err != nil {
		err = &StartError{h.Kind, s.said(), err}
		return errors.Join(err, s.undo(dir))
	}
	return nil
}

func lock(dir string) (func(), error) {
	fd, err := linux.OpenAt(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(fd, unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		linux.Close(fd)
		return nil, &os.PathError{Op: "flock", Path: dir, Err: err}
	}
	return func() { linux.Close(fd) }, nil
}

// starting is what there is while a helper is started.
type starting struct {
	h               *Helper
	fds             []int // to close
	files           [fdHelper]int
	dir             int
	err             int // what the helper says
	ready, readyOut int
	sync            [2]int
	keeper          int // its pid
	image           *initprog.Image
}

func (s *starting) close() {
	for _, fd := range append(s.fds, s.sync[0], s.sync[1]) {
		linux.Close(fd)
	}
}

func (s *starting) keep(fd int, err error) (int, error) {
	if err == nil {
		s.fds = append(s.fds, fd)
	}
	return fd, err
}

// open opens what the keeper gets.
func (s *starting) open(dir string, pid, user, net int) (err error) {
	if s.dir, err = s.keep(linux.OpenAt(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)); err != nil {
		return err
	}
	if user < 0 {
		if user, err = s.keep(linux.OpenAt(unix.AT_FDCWD, "/dev/null", unix.O_RDONLY, 0)); err != nil {
			return err
		}
	}
	if s.err, err = s.keep(memory()); err != nil {
		return err
	}
	init, err := s.keep(unix.PidfdOpen(pid, 0))
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	if err := unix.Mkfifoat(s.dir, aliveFile, 0o600); err != nil {
		return &os.PathError{Op: "mkfifo", Path: dir + "/" + aliveFile, Err: err}
	}
	alive, err := s.keep(linux.OpenAt(s.dir, aliveFile, unix.O_RDWR, 0))
	if err != nil {
		return err
	}
	if s.h.Kind == Slirp {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return os.NewSyscallError("pipe2", err)
		}
		s.ready, s.readyOut = p[0], p[1]
		s.fds = append(s.fds, p[0])
	} else {
		// pasta writes its pid into a file when it is ready.
		if err := unix.Mkfifoat(s.dir, readyFile, 0o600); err != nil {
			return &os.PathError{Op: "mkfifo", Path: dir + "/" + readyFile, Err: err}
		}
		if s.ready, err = s.keep(linux.OpenAt(s.dir, readyFile, unix.O_RDONLY|unix.O_NONBLOCK, 0)); err != nil {
			return err
		}
	}
	if s.sync, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0); err != nil {
		s.sync = [2]int{-1, -1}
		return os.NewSyscallError("socketpair", err)
	}
	s.files = [...]int{user, net, s.err, s.sync[1], init, alive, s.dir, s.readyOut}
	return nil
}

// memory is a file that does not grow.
func memory() (int, error) {
	fd, err := unix.MemfdCreate(Name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, os.NewSyscallError("memfd_create", err)
	}
	if err = unix.Ftruncate(fd, maxSaid); err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	}
	if err != nil {
		linux.Close(fd)
		return -1, fmt.Errorf("make a file for messages: %w", err)
	}
	return fd, nil
}

// said is what the helper has said.
func (s *starting) said() string {
	buf := make([]byte, maxSaid)
	n, err := unix.Pread(s.err, buf, 0)
	if err != nil {
		return ""
	}
	var lines []string
	for line := range strings.Lines(string(bytes.TrimRight(buf[:n], "\x00"))) {
		line = strings.TrimSpace(line)
		// What does not matter: there may be no log daemon, and it logs with more words.
		if line != "" && !strings.HasPrefix(line, "Failed to send ") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

// start starts the keeper and waits until the helper is ready.
func (s *starting) start(dir string, user bool) (err error) {
	if s.image, err = keeper(s.h.path, s.h.args(user), s.readyOut >= 0, user && s.h.Kind == Slirp); err != nil {
		return err
	}
	s.keeper, _, err = s.image.Start(initprog.Options{Args: []string{Name}, Files: s.files[:], CgroupFD: -1, Fallback: dir})
	linux.Close(s.sync[1])
	s.sync[1] = -1
	linux.Close(s.readyOut)
	if err != nil {
		return err
	}
	fds := []unix.PollFd{{Fd: int32(s.sync[0]), Events: unix.POLLIN}, {Fd: int32(s.ready), Events: unix.POLLIN}}
	for deadline := time.Now().Add(startTimeout); ; {
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("it was not ready within %s", startTimeout)
		}
		if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
		if fds[1].Revents&unix.POLLIN != 0 {
			_ = unix.Unlinkat(s.dir, readyFile, 0)
			return nil
		}
		if fds[0].Revents != 0 {
			return s.failure()
		}
		if fds[1].Revents != 0 { // closed; the other one will tell
			fds[1].Fd = -1
		}
	}
}

// failure is why the helper has ended.
func (s *starting) failure() error {
	var buf [initprog.RecordSize]byte
	n, err := linux.Read(s.sync[0], buf[:])
	switch {
	case err != nil:
		return os.NewSyscallError("read from keeper", err)
	case n == len(buf):
		return s.image.Failure(initprog.ParseRecord(buf[:]))
	}
	return errors.New("it has ended")
}

// undo has the keeper end, and with it the helper.
func (s *starting) undo(dir string) error {
	linux.Close(s.sync[0])
	s.sync[0] = -1
	if s.keeper > 0 {
		for {
			if _, err := syscall.Wait4(s.keeper, nil, 0, nil); err != syscall.EINTR {
				break
			}
		}
	}
	for _, fd := range s.fds { // the FIFO
		linux.Close(fd)
	}
	s.fds = nil
	return Wait(dir)
}

// Wait waits until the helper of a container that has ended is gone. Without one it
// returns at once.
func Wait(dir string) error {
	fd, err := linux.OpenAt(unix.AT_FDCWD, dir+"/"+aliveFile, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	for deadline := time.Now().Add(endTimeout); ; {
		var b [1]byte
		if n, err := linux.Read(fd, b[:]); n == 0 && err == nil {
			return nil // nobody has it open
		}
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("the network's helper does not end within %s of its container: %q is open still; fuser shows in whom", endTimeout, dir+"/"+aliveFile)
		}
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
	}
}
