package cgroups

import (
	"slices"
	"strings"
)

// Setting is one write to one file of a group.
type Setting struct {
	File  string // below the group, cpu.max
	Value string // one line
	Field string // the JSON path it came from

	// Optional: the value is the kernel's default, so a missing file changes
	// nothing and is no error. The value is still written where the file is: an
	// update may be on its way back to the default.
	Optional bool
	// Else is written in its place when File does not exist.
	Else *Setting
	// AtLeast names a file with the current usage: the setting is refused when
	// it is not above it (linux.resources.memory.checkBeforeUpdate).
	AtLeast string
}

// Controller returns the controller that the setting needs: what stands before
// the first dot of the file.
func (s *Setting) Controller() string {
	c, _, _ := strings.Cut(s.File, ".")
	return c
}

// String returns the setting as "cpu.max = 50000 100000  (linux.resources.cpu.quota)".
func (s *Setting) String() string {
	t := s.File + " = " + s.Value
	if s.Else != nil {
		t += ", without that file " + s.Else.File + " = " + s.Else.Value
	}
	t += "  (" + s.Field
	if s.Optional {
		t += ", the default"
	}
	return t + ")"
}

// Limits is what linux.resources asks for, translated to cgroup v2.
type Limits struct {
	Settings    []Setting      // in the order of writing
	Controllers []string       // needed by settings that are not Optional, sorted
	Devices     *DeviceProgram // nil: leave the device filter alone
}

// String returns one line per setting and per device rule.
func (l *Limits) String() string {
	if l == nil {
		return ""
	}
	var b strings.Builder
	for i := range l.Settings {
		b.WriteString(l.Settings[i].String())
		b.WriteByte('\n')
	}
	if l.Devices != nil {
		for _, r := range l.Devices.Rules() {
			b.WriteString("devices: ")
			b.WriteString(r)
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// Field returns the JSON path of the first setting that needs controller.
func (l *Limits) Field(controller string) string {
	for i := range l.Settings {
		if s := &l.Settings[i]; !s.Optional && s.Controller() == controller {
			return s.Field
		}
	}
	return ""
}

// need collects the controllers of all settings that are not optional.
func (l *Limits) need() {
	for i := range l.Settings {
		s := &l.Settings[i]
		if c := s.Controller(); !s.Optional && c != "cgroup" && !slices.Contains(l.Controllers, c) {
			l.Controllers = append(l.Controllers, c)
		}
	}
	slices.Sort(l.Controllers)
}
