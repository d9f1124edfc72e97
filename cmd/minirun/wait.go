package main

import (
	"errors"

	"github.com/minirun/minirun/internal/jsonread"
	"github.com/minirun/minirun/runtime"
)

// waitOptions are the flags of wait.
type waitOptions struct{ json bool }

func waitFlags(*app) *flagSet { return new(waitOptions).flags() }

func (o *waitOptions) flags() *flagSet {
	f := newFlags("wait")
	f.add("format", 'f', "text|json", "how to print the exit status (default text)", func(v string) error {
		if v != "text" && v != "json" {
			return errors.New("want text or json")
		}
		o.json = v == "json"
		return nil
	})
	return f
}

// wait waits for the end of a container and prints its exit status.
func (a *app) wait(args []string) error {
	var o waitOptions
	f := o.flags()
	args, err := f.parse(args)
	if err != nil {
		return err
	}
	c, err := a.container(f, args)
	if err != nil {
		return err
	}
	ws, known, err := c.AwaitEnd()
	switch {
	case err != nil:
		return err
	case !known && !o.json:
		return &unknownExitError{c.ID}
	}
	b := make([]byte, 0, 128)
	if !o.json {
		return stdout(string(jsonread.AppendInt(b, int64(runtime.ExitCode(ws)))) + "\n")
	}
	b = jsonread.AppendString(append(b, `{"id":`...), c.ID)
	b = append(b, `,"exitStatus":`...)
	if known {
		b = jsonread.AppendInt(b, int64(runtime.ExitCode(ws)))
	} else {
		b = append(b, "null"...)
	}
	if known && ws.Signaled() {
		b = jsonread.AppendInt(append(b, `,"signal":`...), int64(ws.Signal()))
	}
	return stdout(string(append(b, "}\n"...)))
}

type unknownExitError struct{ id string }

func (e *unknownExitError) Error() string {
	return "container \"" + e.id + "\" has ended; its exit status was told to its parent and is not known any more"
}

func (e *unknownExitError) Hint() string {
	return "begin to wait before it ends (Linux 6.15), or ask whoever started minirun create"
}
