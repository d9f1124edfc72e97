package demo

import (
	"strconv"

	"github.com/minirun/minirun/internal/linux"
)

// out collects text for one descriptor. It is what is left of fmt when only
// strings and numbers are printed.
type out struct {
	fd int
	b  []byte
}

// s appends strings.
func (o *out) s(parts ...string) *out {
	for _, p := range parts {
		o.b = append(o.b, p...)
	}
	return o
}

// n appends a decimal number.
func (o *out) n(v int64) *out {
	o.b = strconv.AppendInt(o.b, v, 10)
	return o
}

// flush writes what was collected and reports whether all of it was written.
func (o *out) flush() bool {
	err := linux.WriteAll(o.fd, o.b)
	o.b = o.b[:0]
	return err == nil
}

// status flushes o and returns 0, or 1 when the reader is gone or the disk full.
func (o *out) status() int {
	if o.flush() {
		return 0
	}
	return 1
}

// fail writes "applet: message" to standard error and returns the status 1.
func fail(applet string, message ...string) int {
	o := &out{fd: 2}
	o.s(applet, ": ").s(message...).s("\n").flush()
	return 1
}

// usage writes how the applet is called to standard error and returns 2.
func usage(text string) int {
	o := &out{fd: 2}
	o.s("usage: ", text, "\n").flush()
	return 2
}

// options walks over leading options: "-x" that has a value calls set with it,
// "-x" that has none calls set with "". It returns the operands, and false for
// an unknown option, a missing value or a value that set refuses.
func options(args []string, withValue, without string, set func(option byte, value string) bool) ([]string, bool) {
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			return args, true
		}
		for i := 1; i < len(arg); i++ {
			c := arg[i]
			if contains(without, c) {
				if !set(c, "") {
					return nil, false
				}
				continue
			}
			if !contains(withValue, c) {
				return nil, false
			}
			value := arg[i+1:]
			if value == "" {
				if len(args) == 0 {
					return nil, false
				}
				value, args = args[0], args[1:]
			}
			if !set(c, value) {
				return nil, false
			}
			break
		}
	}
	return args, true
}

func contains(s string, c byte) bool {
	for i := 0; i < len(s); i++ {
		if s[i] == c {
			return true
		}
	}
	return false
}
