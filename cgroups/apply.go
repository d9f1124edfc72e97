package cgroups

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/internal/linux"
)

// Apply writes the settings in order and then attaches the device filter. The
// first failure ends it: *WriteError, *ControllerError, *DeviceError, *UsageError.
// Controllers that an existing group lacks are enabled on the way if that is
// possible. Settings written before a failure stay, see [Group.Update]. A nil l
// does nothing.
func (g *Group) Apply(l *Limits) error {
	if l == nil {
		return nil
	}
	dir, err := g.FD()
	if err != nil {
		return err
	}
	defer linux.Close(dir)
	a := application{g: g, l: l, dir: dir}
	if err := a.settings(); err != nil {
		return err
	}
	if l.Devices == nil {
		return nil
	}
	if op, err := attachDevices(dir, l.Devices.Insns()); err != nil {
		return &DeviceError{g.Path, op, err}
	}
	return nil
}

// UsageError refuses a limit that is not above what is in use
// (linux.resources.memory.checkBeforeUpdate).
type UsageError struct {
	Group, File, Value string
	Usage              uint64
	Field              string
}

func (e *UsageError) Error() string {
	return "cgroup " + strconv.Quote(e.Group) + ": rejecting " + e.File + " " + e.Value + ": current usage is " + utoa(e.Usage)
}

// Hint says what to do about it.
func (e *UsageError) Hint() string {
	return "raise " + e.Field + ", or drop linux.resources.memory.checkBeforeUpdate to have the kernel reclaim and kill"
}

type application struct {
	g       *Group
	l       *Limits
	dir     int
	burst   *Setting // to be written again
	enabled bool     // missing controllers were looked for
	keep    bool     // remember old values
	old     []Setting
}

func (a *application) settings() error {
	for i := range a.l.Settings {
		s := &a.l.Settings[i]
		err := a.set(s)
		if errors.Is(err, unix.EINVAL) && s.File == "cpu.max.burst" && a.later(i, "cpu.max") {
			a.burst = s // above the old quota, but maybe not above the new one
			continue
		}
		if err == nil && s.File == "cpu.max" && a.burst != nil {
			err = a.set(a.burst)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *application) later(i int, file string) bool {
	return slices.ContainsFunc(a.l.Settings[i+1:], func(s Setting) bool { return s.File == file })
}

func (a *application) set(s *Setting) error {
	if s.AtLeast != "" {
		if err := a.checkUsage(s); err != nil {
			return err
		}
	}
	err := a.write(s)
	if err != unix.ENOENT {
		return a.wrap(s, err)
	}
	if s.Else != nil {
		if err = a.write(s.Else); err != unix.ENOENT {
			return a.wrap(s.Else, err)
		}
	}
	if s.Optional {
		return nil
	}
	if err := a.enable(s); err != nil {
		return err
	}
	err = a.write(s)
	if err == unix.ENOENT && s.Else != nil {
		s = s.Else
		err = a.write(s)
	}
	return a.wrap(s, err)
}

// write returns a plain errno.
func (a *application) write(s *Setting) error {
	if !a.keep {
		return a.put(s)
	}
	old := a.remember(s)
	err := a.put(s)
	if err == nil {
		a.old = append(a.old, old...)
	}
	return err
}

func (a *application) put(s *Setting) error {
	value := s.Value
	if value == "" {
		value = "\n" // a write of nothing may not reach the file's handler
	}
	err := linux.WriteFileAt(a.dir, s.File, value)
	if err != nil {
		return cause(err)
	}
	return nil
}

func (a *application) wrap(s *Setting, err error) error {
	if err == nil {
		return nil
	}
	return &WriteError{a.g.Path, s.File, s.Value, s.Field, err}
}

// checkUsage is best effort, as in runc: no figure, no objection.
func (a *application) checkUsage(s *Setting) error {
	b, err := linux.ReadFileAt(a.dir, s.AtLeast, 0)
	if err != nil {
		return nil
	}
	usage, err1 := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	want, err2 := strconv.ParseUint(s.Value, 10, 64)
	if err1 == nil && err2 == nil && want <= usage {
		return &UsageError{a.g.Path, s.File, s.Value, usage, s.Field}
	}
	return nil
}

// enable is called when a file is missing. If that is because the group lacks
// the controller, it is enabled from the top down, once for all settings.
func (a *application) enable(s *Setting) error {
	c := s.Controller()
	b, err := linux.ReadFileAt(a.dir, "cgroup.controllers", 0)
	if err != nil {
		return err
	}
	if a.enabled || slices.Contains(strings.Fields(string(b)), c) {
		return nil
	}
	a.enabled = true
	_, err = CreateFor(a.g.Mount, a.g.Path, a.l)
	if ce, ok := errors.AsType[*ControllerError](err); ok && ce.Controller == c {
		ce.Field = s.Field
	}
	return err
}
