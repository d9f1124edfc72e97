package cgroups

import (
	"errors"
	"strconv"
	"strings"

	"github.com/minirun/minirun/internal/linux"
)

// Update is Apply for a group in use, all or nothing: when a setting fails,
// those written before get their old values back, last first. What cannot be
// brought back is in a *RestoreError, joined to the one of the setting. Killed in
// between, it leaves some of the new values; another update overwrites them. The
// device filter stays as it is.
func (g *Group) Update(l *Limits) error {
	dir, err := g.FD()
	if err != nil {
		return err
	}
	defer linux.Close(dir)
	a := application{g: g, l: l, dir: dir, keep: true}
	if err := a.settings(); err != nil {
		return errors.Join(err, a.restore())
	}
	return nil
}

// RestoreError reports values that an update which failed could not take back.
type RestoreError struct {
	Group  string
	Errors []error
}

func (e *RestoreError) Error() string {
	return "cgroup " + strconv.Quote(e.Group) + ": setting back: " + errors.Join(e.Errors...).Error()
}
func (e *RestoreError) Unwrap() []error { return e.Errors }

// Hint says what to do about it.
func (*RestoreError) Hint() string {
	return "the limits are a mixture of old and new: update them again"
}

// remember notes what the setting is about to change. A file that cannot be read
// keeps nothing.
func (a *application) remember(s *Setting) []Setting {
	var old []Setting
	save := func(file, value string) {
		b, err := linux.ReadFileAt(a.dir, file, 0)
		if err != nil {
			return
		}
		if v, ok := restoring(file, value, string(b)); ok {
			old = append(old, Setting{File: file, Value: v, Field: s.Field})
		}
	}
	if s.File == "cpu.idle" {
		// Both ways the kernel forgets the weight; it comes back after cpu.idle.
		save("cpu.weight", "")
	}
	save(s.File, s.Value)
	return old
}

// restore writes the remembered values, last first. The order that was right on
// the way there need not be on the way back (quota and burst), hence the second
// try.
func (a *application) restore() error {
	todo := a.old
	var errs []error
	for range 2 {
		var again []Setting
		errs = nil
		for i := len(todo) - 1; i >= 0; i-- {
			if err := a.wrap(&todo[i], a.put(&todo[i])); err != nil {
				errs = append(errs, err)
				again = append([]Setting{todo[i]}, again...)
			}
		}
		todo = again
	}
	if errs == nil {
		return nil
	}
	return &RestoreError{a.g.Path, errs}
}

// restoring returns what to write to a file so that it says again what it says
// now, in text, of that which writing value changes; ok is false if that cannot
// be told. Most files hold one value. In those of devices a line begins with the
// key, and a key that has no line has defaults.
func restoring(file, value, text string) (old string, ok bool) {
	text = strings.TrimSuffix(text, "\n")
	key, rest, _ := strings.Cut(value, " ")
	none := ""
	switch file {
	case "io.max":
		for kv := range strings.FieldsSeq(rest) {
			name, _, _ := strings.Cut(kv, "=")
			none += " " + name + "=max"
		}
	case "io.latency":
		none = " target=0"
	case "io.weight", "io.bfq.weight":
		if rest == "" {
			key = "default"
		}
		none = " default"
	case "misc.max", "dmem.max":
		none = " max"
	case "rdma.max", "dmem.min", "dmem.low":
	default:
		return text, !strings.Contains(text, "\n")
	}
	for line := range strings.SplitSeq(text, "\n") {
		if k, _, found := strings.Cut(line, " "); found && k == key {
			return line, true
		}
	}
	return key + none, none != "" && key != "default"
}
