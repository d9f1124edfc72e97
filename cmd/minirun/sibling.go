package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// minirund carries out the commands whose packages would slow down every start
// of a container. It lies beside minirun and gets the same command line, as git
// does it: users see one command.
const siblingName = "minirund"

// siblingPath is where minirund is.
func siblingPath() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find %s: %w", siblingName, err)
	}
	path := filepath.Join(filepath.Dir(self), siblingName)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", &noSiblingError{path}
	}
	return path, nil
}

type noSiblingError struct{ path string }

func (e *noSiblingError) Error() string { return fmt.Sprintf("program %q is missing", e.path) }
func (e *noSiblingError) Hint() string {
	return "install " + siblingName + " in the same directory as minirun"
}

// sibling becomes minirund.
func (a *app) sibling() error {
	path, err := siblingPath()
	if err != nil {
		return err
	}
	err = unix.Exec(path, append([]string{siblingName}, a.args...), os.Environ())
	return &fs.PathError{Op: "exec", Path: path, Err: err}
}

// runSibling has minirund do something first. What it prints goes to standard
// error: standard output is the container's. Its errors are not repeated.
func (a *app) runSibling(args ...string) error {
	path, err := siblingPath()
	if err != nil {
		return err
	}
	if _, err := a.store(); err != nil { // sets the default of --root
		return err
	}
	global := []string{"--root", a.root, "--store", a.images().Dir}
	if a.log.file != "" {
		format := "text"
		if a.log.json {
			format = "json"
		}
		global = append(global, "--log", a.log.file, "--log-format", format)
	}
	argv := append(append([]string{siblingName}, global...), args...)
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 2, 2}})
	if err != nil {
		return &fs.PathError{Op: "exec", Path: path, Err: err}
	}
	var status syscall.WaitStatus
	for {
		if _, err = syscall.Wait4(pid, &status, 0, nil); err != syscall.EINTR {
			break
		}
	}
	switch {
	case err != nil:
	case status.Signaled():
		err = fmt.Errorf("%s %s %s was killed: %s", siblingName, args[0], args[1], unix.SignalName(status.Signal()))
	case status.ExitStatus() != 0:
		err = exitStatus(1) // it has said why
	}
	return err
}
