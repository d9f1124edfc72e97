package linux

import (
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// ReadFile returns the content of the file name, at most limit bytes of it.
// A longer file is an error that wraps EFBIG: everything read this way has a
// known upper size, and a file that an attacker can write must not be able to
// fill memory. limit <= 0 means 64 MiB.
func ReadFile(name string, limit int) ([]byte, error) {
	return ReadFileAt(unix.AT_FDCWD, name, limit)
}

// ReadFileAt is ReadFile with name relative to the directory descriptor dir.
func ReadFileAt(dir int, name string, limit int) ([]byte, error) {
	fd, err := OpenAt(dir, name, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	b, err := ReadAll(fd, limit)
	Close(fd)
	if err != nil {
		return nil, &os.PathError{Op: "read", Path: name, Err: err}
	}
	return b, nil
}

// ReadAll reads the descriptor to its end, at most limit bytes (64 MiB if limit <= 0).
func ReadAll(fd, limit int) ([]byte, error) {
	if limit <= 0 {
		limit = 64 << 20
	}
	// What procfs and cgroupfs say is short, and a page that is touched for
	// the first time costs more than the call: a small file takes none.
	var small [512]byte
	b := small[:0]
	for {
		n, err := Read(fd, b[len(b):cap(b)])
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return append([]byte(nil), b...), nil // not small itself: it ends with this call
		}
		b = b[:len(b)+n]
		if len(b) > limit {
			return nil, unix.EFBIG
		}
		if len(b) == cap(b) {
			return readMore(fd, limit, append(make([]byte, 0, 4096), b...))
		}
	}
}

// readMore goes on behind what b has.
func readMore(fd, limit int, b []byte) ([]byte, error) {
	for {
		n, err := Read(fd, b[len(b):cap(b)])
		if err != nil {
			return b, err
		}
		if n == 0 {
			return b, nil
		}
		b = b[:len(b)+n]
		if len(b) > limit {
			return nil, unix.EFBIG
		}
		if len(b) == cap(b) {
			b = append(b, make([]byte, len(b))...)[:len(b)]
		}
	}
}

// WriteFileAt opens the existing file name below dir and writes data with one
// write(2), as cgroup and procfs files need it. It never creates or truncates.
func WriteFileAt(dir int, name, data string) error {
	fd, err := OpenAt(dir, name, unix.O_WRONLY, 0)
	if err != nil {
		return err
	}
	n, err := Write(fd, []byte(data))
	Close(fd)
	if err == nil && n != len(data) {
		err = unix.EIO
	}
	if err != nil {
		return &os.PathError{Op: "write", Path: name, Err: err}
	}
	return nil
}

// OpenAt is openat(2) with O_CLOEXEC, retried on EINTR.
func OpenAt(dir int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, mode)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: name, Err: err}
		}
		return fd, nil
	}
}

// ReopenRegular returns a descriptor for reading of the file that path, opened with
// O_PATH, stands for, and closes path. Anything but a regular file is EINVAL and is
// not opened: to open a device can be to use it (a watchdog starts to count, a tape
// is wound back), and names in a container's tree may be devices, as whoever may
// write to it likes. Nor does it wait for somebody who holds a lease.
func ReopenRegular(path int) (int, error) {
	defer Close(path)
	var st unix.Stat_t
	if err := unix.Fstat(path, &st); err != nil {
		return -1, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return -1, unix.EINVAL
	}
	return OpenAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(path), unix.O_RDONLY|unix.O_NONBLOCK, 0)
}

// Read is read(2), retried on EINTR.
func Read(fd int, p []byte) (int, error) {
	for {
		n, err := syscall.Read(fd, p)
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}

// Write is write(2), retried on EINTR; it may write less than p.
func Write(fd int, p []byte) (int, error) {
	for {
		n, err := syscall.Write(fd, p)
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}

// WriteAll writes all of p.
func WriteAll(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := Write(fd, p)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// WriteBoth writes all of a and then all of b, as far as the kernel takes them in one go.
func WriteBoth(fd int, a, b []byte) error {
	for len(a) > 0 && len(b) > 0 {
		n, err := unix.Writev(fd, [][]byte{a, b})
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b = b[max(0, n-len(a)):]
		a = a[min(n, len(a)):]
	}
	if err := WriteAll(fd, a); err != nil {
		return err
	}
	return WriteAll(fd, b)
}

// Close closes fd; negative descriptors are ignored. close(2) must not be
// retried on Linux, whatever it returns.
func Close(fd int) {
	if fd >= 0 {
		_ = syscall.Close(fd)
	}
}
