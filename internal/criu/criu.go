// Package criu saves containers to images and brings them back with the program
// criu, which must be installed. It knows the program's command line, and what of
// a container lies outside of it: mounts of the host's files and standard streams.
//
// An image is a directory of criu's. File has what criu does not keep: which
// mounts and streams come from outside, and the attributes of all mounts. On the
// way back sources are taken from the configuration of the day and never from the
// image, and no mount may have lost an attribute.
//
// During a restore criu needs the root and each outside mount as a mount of its
// own. They are made in a private mount namespace, so that nothing is left on the
// host however it ends.
package criu

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Options are flags of criu that both directions have, as runc names them.
type Options struct {
	Images, Work   string // directories
	TCPEstablished bool
	ExtUnixSockets bool
	ShellJob       bool
	FileLocks      bool
	LazyPages      bool
	AutoDedup      bool
	CgroupsMode    string // soft, full, strict, ignore; "": ignore
	EmptyNetwork   bool
}

// DumpOptions are those of a dump.
type DumpOptions struct {
	Options
	Parent       string // images of an earlier dump, relative to Images
	LeaveRunning bool
	PreDump      bool
	SkipInFlight bool
	LinkRemap    bool
	StatusFD     int    // -1: none
	PageServer   string // ADDRESS:PORT
}

func (o *Options) flags() []string {
	f := []string{"-D", o.Images, "-v4"}
	if o.Work != "" {
		f = append(f, "-W", o.Work)
	}
	mode := o.CgroupsMode
	if mode == "" {
		mode = "ignore"
	}
	f = append(f, "--manage-cgroups="+mode)
	for _, s := range []struct {
		set  bool
		flag string
	}{
		{o.TCPEstablished, "--tcp-established"},
		{o.ExtUnixSockets, "--ext-unix-sk"},
		{o.ShellJob, "--shell-job"},
		{o.FileLocks, "--file-locks"},
		{o.LazyPages, "--lazy-pages"},
		{o.AutoDedup, "--auto-dedup"},
	} {
		if s.set {
			f = append(f, s.flag)
		}
	}
	if o.EmptyNetwork {
		f = append(f, "--empty-ns", "net")
	}
	return f
}

// logDir is where criu writes its log.
func (o *Options) logDir() string {
	if o.Work != "" {
		return o.Work
	}
	return o.Images
}

// CheckMode refuses an unknown mode of --manage-cgroups-mode.
func CheckMode(mode string) error {
	switch mode {
	case "", "soft", "full", "strict", "ignore":
		return nil
	}
	return fmt.Errorf("invalid cgroups mode %q: want soft, full, strict or ignore", mode)
}

// MissingError reports that there is no criu.
type MissingError struct{ Err error }

func (e *MissingError) Error() string { return "checkpoint and restore: " + e.Err.Error() }
func (e *MissingError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *MissingError) Hint() string {
	return "install criu (on Debian: apt-get install criu), and see that criu check is satisfied with the kernel"
}

// Find looks for the program.
func Find() (string, error) {
	path, err := exec.LookPath("criu")
	if err != nil {
		return "", &MissingError{err}
	}
	return filepath.Abs(path)
}

// Error reports that criu has failed.
type Error struct {
	Action string
	Log    string   // its log file; may not exist
	Lines  []string // what it says about errors
	Err    error
}

func (e *Error) Error() string {
	text := "criu " + e.Action + ": " + e.Err.Error()
	for _, l := range e.Lines {
		text += ": " + l
	}
	return text
}
func (e *Error) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *Error) Hint() string {
	all := strings.Join(e.Lines, "\n")
	hint := "the whole log of criu is " + e.Log
	switch {
	case strings.Contains(all, "kerndat") || strings.Contains(all, "vdso"):
		hint = "this criu does not know this kernel; criu check says more, and a newer criu may help. " + hint
	case strings.Contains(all, "onnected TCP"):
		hint = "the container has connections: use --tcp-established or, to lose them, --tcp-skip-in-flight. " + hint
	case strings.Contains(all, "file lock") || strings.Contains(all, "--file-locks"):
		hint = "the container holds file locks: use --file-locks. " + hint
	case strings.Contains(all, "--shell-job"):
		hint = "the container's process belongs to a session outside of it: use --shell-job. " + hint
	case strings.Contains(all, "external socket") || strings.Contains(all, "ext-unix-sk"):
		hint = "the container has unix sockets whose other end is outside: use --ext-unix-sk. " + hint
	}
	return hint
}

// failure completes an error by the last lines about errors in criu's log or
// output.
func failure(action, log string, output []byte, err error) error {
	e := &Error{Action: action, Log: log, Err: err}
	raw, readErr := os.ReadFile(log)
	if readErr != nil {
		raw = output
	}
	for line := range bytes.Lines(append(raw, '\n')) {
		if _, text, ok := strings.Cut(string(line), "Error ("); ok {
			if _, what, ok := strings.Cut(text, "): "); ok {
				text = what
			}
			if text = strings.TrimSpace(text); text != "" {
				e.Lines = append(e.Lines, strconv.QuoteToGraphic(text))
			}
		}
	}
	if n := len(e.Lines); n > 3 {
		e.Lines = e.Lines[n-3:]
	}
	return e
}

var errNoImage = errors.New("it is no checkpoint of minirun")
