package kfeature

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Feature is something a kernel can have. The values of this package are the
// only ones; they must not be copied.
type Feature struct {
	Name      string // as in error texts: "idmapped mounts"
	MinKernel string // first Linux version that has it: "5.12"

	probe func() error // nil, an answer of no(), or what kept it from answering

	mu       sync.Mutex
	answered bool
	answer   error
}

// Supported is nil if the feature is there, an *Error if it is not, and a
// *ProbeError if that could not be found out. The kernel is asked once per
// process, and again only while there is no conclusive answer.
func (f *Feature) Supported() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.answered {
		return f.answer
	}
	err := f.probe()
	var missing *Error
	switch {
	case err == nil:
	case errors.As(err, &missing):
		err = &Error{Name: f.Name, MinKernel: f.MinKernel, Reason: missing.Reason}
	default:
		return &ProbeError{Name: f.Name, Err: err}
	}
	f.answered, f.answer = true, err
	return err
}

// Error says that a feature is not there. errors.Is(err, errors.ErrUnsupported) holds.
type Error struct {
	Name      string
	MinKernel string
	Reason    string // why, where it is not the kernel's version: "user.max_user_namespaces is 0"
}

// Error is "NAME not supported (needs Linux 5.12 or newer)", or the reason in the brackets.
func (e *Error) Error() string {
	if e.Reason != "" {
		return e.Name + " not supported (" + e.Reason + ")"
	}
	return e.Name + " not supported (needs Linux " + e.MinKernel + " or newer)"
}

// Unwrap returns errors.ErrUnsupported.
func (e *Error) Unwrap() error { return errors.ErrUnsupported }

// ProbeError says that it could not be found out whether a feature is there.
type ProbeError struct {
	Name string
	Err  error
}

func (e *ProbeError) Error() string { return "probe " + e.Name + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *ProbeError) Unwrap() error { return e.Err }

// ErrNeedsRoot is the cause of a ProbeError when the probe lacks privileges.
const ErrNeedsRoot = inconclusive("needs root to probe")

// inconclusive is an error that can be a constant.
type inconclusive string

func (e inconclusive) Error() string { return string(e) }

// no is the conclusive answer of a probe; without a reason the kernel is too old.
func no(reason string) error { return &Error{Reason: reason} }

// denied turns EPERM and EACCES into ErrNeedsRoot for those who are not root.
func denied(err error) error {
	if (err == unix.EPERM || err == unix.EACCES) && unix.Geteuid() != 0 {
		return ErrNeedsRoot
	}
	return err
}

// bySyscall answers from the error of a call that fails on purpose: want is the
// error of a kernel that has the call, ENOSYS that of one without it. (Seccomp
// profiles of engines answer ENOSYS for calls that they do not know, which is a
// true "no" for this process.)
func bySyscall(err, want error) error {
	switch err {
	case nil, want:
		return nil
	case unix.ENOSYS:
		return no("")
	}
	return denied(err)
}

// exists answers whether name does; parent is what must exist for the answer to count.
func exists(parent, name string) error {
	err := unix.Access(parent+name, unix.F_OK)
	if err != unix.ENOENT {
		return err
	}
	if unix.Access(parent, unix.F_OK) != nil {
		return &os.PathError{Op: "access", Path: parent, Err: err}
	}
	return no("")
}
