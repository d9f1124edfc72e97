package main

import (
	"errors"
	"io/fs"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/runtime"
	"golang.org/x/sys/unix"
)

func startFlags(*app) *flagSet { return new(timingOptions).startFlags() }

func (o *timingOptions) startFlags() *flagSet {
	f := newFlags("start")
	o.add(f)
	return f
}

// start lets a created container run.
func (a *app) start(args []string) error {
	var timing timingOptions
	f := timing.startFlags()
	args, err := f.parse(args)
	if err != nil {
		return err
	}
	defer timing.print("start")
	c, err := a.container(f, args)
	if err != nil {
		return err
	}
	if c.Agent.Report != "" {
		c.Supervise = a.supervisor(func() string { return c.ID }, c.Agent.Report)
	}
	c.Timing = timing.Timing
	c.Notifier = a.notifier()
	if err := c.Start(); err != nil {
		return ofImage(c.Snapshot != "", err)
	}
	a.awaitReady(c.Notifier, c)
	return nil
}

// killOptions are the flags of kill.
type killOptions struct{ all bool }

func killFlags(*app) *flagSet { return new(killOptions).flags() }

func (o *killOptions) flags() *flagSet {
	f := newFlags("kill")
	f.Bool(&o.all, "all", 'a', "send the signal to all processes of the container")
	return f
}

func (a *app) kill(args []string) error {
	var o killOptions
	f := o.flags()
	args, err := f.parse(args)
	if err != nil {
		return err
	}
	if len(args) < 1 || len(args) > 2 {
		return f.fail("want a container ID and perhaps a signal; got %d arguments", len(args))
	}
	sig, target := unix.SIGTERM, runtime.Init
	if len(args) == 2 {
		if sig, err = runtime.ParseSignal(args[1]); err != nil {
			return err
		}
	}
	if o.all {
		target = runtime.AllProcesses
	}
	c, err := a.container(f, args[:1])
	if err != nil {
		return err
	}
	if stop := c.Annotations[container.StopSignal]; len(args) == 1 && c.Snapshot != "" && stop != "" {
		if sig, err = runtime.ParseSignal(stop); err != nil {
			return err
		}
	}
	return c.Kill(sig, target)
}

// deleteOptions are the flags of delete.
type deleteOptions struct {
	force, volumes bool
	timing         timingOptions
}

func deleteFlags(*app) *flagSet { return new(deleteOptions).flags() }

func (o *deleteOptions) flags() *flagSet {
	f := newFlags("delete")
	f.Bool(&o.force, "force", 'f', "kill the container if it runs; succeed if it does not exist")
	f.Bool(&o.volumes, "volumes", 'v', "also remove the container's volumes without a name")
	o.timing.add(f)
	return f
}

func (a *app) delete(args []string) error {
	var o deleteOptions
	f := o.flags()
	args, err := f.parse(args)
	if err != nil {
		return err
	}
	defer o.timing.print("delete")
	mode := runtime.Stop
	if o.force {
		mode = runtime.Force
	}
	c, err := a.container(f, args)
	if err != nil {
		if !o.force {
			return err
		}
		var damaged *runtime.StateError
		if !errors.As(err, &damaged) && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		s, err := a.store()
		if err != nil {
			return err
		}
		if c, err = container.DeleteRemains(s, args[0]); c == nil {
			return err
		}
	}
	c.Timing = o.timing.Timing
	if c.Snapshot != "" && !isRoot() {
		if o.force {
			err = a.stopAsUser(c)
		}
		if err == nil {
			err = a.becomeRoot()
		}
		return err
	}
	if o.volumes {
		err = container.DeleteVolumes(c, mode)
	} else {
		err = container.Delete(c, mode)
	}
	if o.force && errors.Is(err, fs.ErrNotExist) {
		return nil // somebody else has deleted it meanwhile
	}
	return err
}
