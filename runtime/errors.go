package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/minirun/minirun/internal/initprog"
)

// The texts below are a contract: container engines look for them (docs/cli.md).

// NotExistError reports that there is no container with that ID.
type NotExistError struct {
	ID      string
	Remains bool // it has no record, but a directory: of a create that was killed at its beginning, or that has just begun
}

func (e *NotExistError) Error() string {
	return fmt.Sprintf("container %q: container does not exist", e.ID)
}
func (e *NotExistError) Is(t error) bool { return t == fs.ErrNotExist }

// ExistsError reports that the ID is taken.
type ExistsError struct {
	ID      string
	Remains bool // as in NotExistError
}

func (e *ExistsError) Error() string {
	return fmt.Sprintf("container %q: container with given ID already exists", e.ID)
}
func (e *ExistsError) Is(t error) bool { return t == fs.ErrExist }

// StatusError reports an operation that the container's status does not allow.
type StatusError struct {
	ID   string
	Op   string // start, kill, exec, delete, pause, resume, update, events
	Have Status
}

func (e *StatusError) Error() string {
	text := ""
	switch {
	case e.Op == "start" && e.Have == Stopped:
		text = "cannot start a container that has stopped"
	case e.Op == "start" && e.Have == Running:
		text = "cannot start an already running container"
	case e.Op == "start":
		text = "cannot start a container in the " + string(e.Have) + " state"
	case e.Op == "kill", e.Op == "pause", e.Op == "update":
		text = "container not running"
	case e.Op == "resume":
		text = "container not paused"
	case e.Op == "events":
		return fmt.Sprintf("container with id %s is not running", e.ID)
	case e.Op == "exec" && e.Have == Paused:
		text = "cannot exec in a paused container (use --ignore-paused to override)"
	case e.Op == "exec":
		text = "cannot exec in a " + string(e.Have) + " container"
	case e.Op == "delete":
		return "cannot delete container " + e.ID + " that is not stopped: " + string(e.Have)
	default:
		text = "cannot " + e.Op + ": it is " + string(e.Have)
	}
	return fmt.Sprintf("container %q: %s", e.ID, text)
}

// ExecError reports that the user's program cannot be executed. Its text is
// the one of Go's os/exec, which engines map to the exit statuses 126 and 127.
type ExecError struct {
	Name string // as given in process.args[0]
	Err  error
}

func (e *ExecError) Error() string {
	errno, _ := e.Err.(syscall.Errno) //nolint:errorlint // set by us
	switch {
	case errno == syscall.ENOENT && !strings.Contains(e.Name, "/"):
		return fmt.Sprintf("exec: %q: executable file not found in $PATH", e.Name)
	case errno == syscall.ENOENT || errno == syscall.ENOTDIR || errno == syscall.ELOOP:
		return fmt.Sprintf("exec: %q: stat %s: %v", e.Name, e.Name, e.Err)
	case errno == syscall.EISDIR || errno == syscall.EACCES:
		return fmt.Sprintf("exec: %q: %v", e.Name, e.Err)
	}
	return fmt.Sprintf("exec %s: %v", e.Name, e.Err)
}

func (e *ExecError) Unwrap() error { return e.Err }

// ExitCode is the status shells give to a program that is not there (127) or
// cannot be executed (126).
func (e *ExecError) ExitCode() int {
	if errors.Is(e.Err, syscall.ENOENT) || errors.Is(e.Err, syscall.ENOTDIR) {
		return 127
	}
	return 126
}

// ProcessError reports that the container's init, or a process added to it,
// could not be set up.
type ProcessError struct {
	ID  string
	Err error
	OOM bool // the kernel killed it for lack of memory
}

func (e *ProcessError) Error() string {
	return fmt.Sprintf("container %q: unable to start container process: %v", e.ID, e.Err)
}
func (e *ProcessError) Unwrap() error { return e.Err }

// UnsupportedError reports a field of config.json that asks for something this
// version cannot do. It is refused and never ignored.
type UnsupportedError struct{ Field, Hint string }

func (e *UnsupportedError) Error() string { return e.Field + ": not supported" }
func (e *UnsupportedError) Unwrap() error { return errors.ErrUnsupported }

// stepFailure turns a failure of an init program into the error people see.
func stepFailure(err error) error {
	s := initprog.IsStep(err)
	if s == nil {
		return err
	}
	switch s.Phase {
	case phaseExec:
		return &ExecError{Name: s.Object, Err: s.Err}
	case phaseApparmor, phaseSelinux:
		return labelFailure(s)
	case phaseCwd:
		return fmt.Errorf("chdir to cwd (%q) set in config.json failed: %w", s.Object, s.Err)
	}
	return s
}
