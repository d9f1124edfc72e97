package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

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
	global := []string{"--root", a.root, "--store", a.images().Dir}
	cmd := exec.Command(path, append(global, args...)...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s %s: %w", siblingName, args[0], args[1], err)
	}
	return nil
}
