package main

import (
	"fmt"
	"time"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/runtime"
	"golang.org/x/sys/unix"
)

// logsOptions are the flags of logs.
type logsOptions struct{ follow bool }

func logsFlags(*app) *flagSet { return new(logsOptions).flags() }

func (o *logsOptions) flags() *flagSet {
	f := newFlags("logs")
	f.Bool(&o.follow, "follow", 'f', "go on until the container ends")
	return f
}

// logs prints what a detached container has written to its standard output and
// standard error.
func (a *app) logs(args []string) error {
	var o logsOptions
	f := o.flags()
	args, err := f.parse(args)
	if err != nil {
		return err
	}
	c, err := a.container(f, args)
	if err != nil {
		return err
	}
	fd, err := linux.OpenAt(unix.AT_FDCWD, c.Dir()+"/"+runtime.LogFile, unix.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("container %q keeps no log: only detached containers from an image do", c.ID)
	}
	defer linux.Close(fd)
	for {
		status, err := c.Status() // before reading, so that nothing is missed
		if err != nil {
			return err
		}
		copyFD(1, fd)
		if !o.follow || status == runtime.Stopped {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
}
