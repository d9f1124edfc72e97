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
// error: standard output is the container's.
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
	if err == nil && status.ExitStatus() != 0 { // it has said why
		err = &siblingError{args[0] + " " + args[1], status.ExitStatus()}
	}
	return err
}

type siblingError struct {
	command string
	status  int
}

func (e *siblingError) Error() string {
	return fmt.Sprintf("%s %s ended with status %d", siblingName, e.command, e.status)
}
