package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// denialFlag is the flag --debug-seccomp: a file, or "-" for standard error.
func denialFlag(f *flagSet, file *string) {
	f.add("debug-seccomp", 0, "FILE", "report system calls that the seccomp filter denies to FILE, - for standard error", func(v string) error {
		if v == "" {
			return errors.New("want a file, or -")
		}
		*file = v
		return nil
	})
}

// denialFile makes the flag's value one that is right in another directory, too.
// A command that returns while the container goes on must name a file: its
// standard error is somebody's pipe, who waits for its end.
func denialFile(f *flagSet, file string, stays bool) (string, error) {
	if file == "-" && !stays {
		return "", f.fail("flag --debug-seccomp: invalid value %q: the process goes on when %s has ended; want a file", file, f.command)
	}
	if file == "" || file == "-" {
		return file, nil
	}
	return filepath.Abs(file)
}

// supervisor returns the function that starts the process which reports denied
// calls of a container: minirund, in a session of its own, until nobody is left
// who has the filter. It finds the profile in a descriptor, because the record
// may be deleted before it has started.
func (a *app) supervisor(id func() string, file string) func(listener int) error {
	return func(listener int) error {
		path, err := siblingPath()
		if err != nil {
			return err
		}
		s, err := a.store()
		if err != nil {
			return err
		}
		config, err := linux.OpenAt(unix.AT_FDCWD, s.ConfigPath(id()), unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		defer linux.Close(config)
		null, err := linux.OpenAt(unix.AT_FDCWD, "/dev/null", unix.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer linux.Close(null)
		out := 2
		if file != "-" {
			if out, err = linux.OpenAt(unix.AT_FDCWD, file, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT, 0o600); err != nil {
				return err
			}
			defer linux.Close(out)
		}
		pid, err := syscall.ForkExec(path, []string{siblingName, "seccomp-report", "--listener", "3", "--config", "4", id()}, &syscall.ProcAttr{
			Dir: "/", Env: os.Environ(),
			Files: []uintptr{uintptr(null), uintptr(out), uintptr(out), uintptr(listener), uintptr(config)},
			Sys:   &syscall.SysProcAttr{Setsid: true},
		})
		if err != nil {
			return &fs.PathError{Op: "exec", Path: path, Err: err}
		}
		a.log.debugTo("process " + strconv.Itoa(pid) + " reports denied system calls")
		return nil
	}
}
