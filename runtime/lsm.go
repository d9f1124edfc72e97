package runtime

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Labels of security modules: an AppArmor profile and an SELinux label for the
// user's process, which get it with execve(2), and an SELinux label for the files
// of the mounts that are made.

// Phases that errors of labels are known by: the fields.
const (
	phaseApparmor = "process.apparmorProfile"
	phaseSelinux  = "process.selinuxLabel"
)

// unconfined is the name of no profile.
const unconfined = "unconfined"

// LabelError reports a label that a process or mount cannot have.
type LabelError struct {
	Field, Label string
	Reason       string
	Err          error // of the kernel, or nil
	hint         string
}

func (e *LabelError) Error() string {
	t := fmt.Sprintf("%s: %q: %s", e.Field, e.Label, e.Reason)
	if e.Err != nil {
		t += ": " + e.Err.Error()
	}
	return t
}

func (e *LabelError) Unwrap() error { return e.Err }

// Hint says what would help.
func (e *LabelError) Hint() string { return e.hint }

// checkLabels refuses labels where the kernel has nobody who knows them. l may be nil.
func checkLabels(p *specs.Process, l *specs.Linux) error {
	var errs []error
	if p != nil && p.ApparmorProfile != "" && p.ApparmorProfile != unconfined && !apparmorEnabled() {
		errs = append(errs, &LabelError{
			Field: phaseApparmor, Label: p.ApparmorProfile, Reason: "apparmor profile is specified in config, but apparmor is not enabled on this host",
			hint: "remove it, or enable AppArmor: apparmor=1 on the kernel's command line, and apparmor in lsm=",
		})
	}
	selinux := func(field, label string) {
		if label != "" && !selinuxEnabled() {
			errs = append(errs, &LabelError{
				Field: field, Label: label, Reason: "selinux label is specified in config, but selinux is disabled or not supported",
				hint: "remove it, or enable SELinux and mount selinuxfs at /sys/fs/selinux",
			})
		}
	}
	if p != nil {
		selinux(phaseSelinux, p.SelinuxLabel)
	}
	if l != nil {
		selinux("linux.mountLabel", l.MountLabel)
	}
	return errors.Join(errs...)
}

// apparmorEnabled reports whether the kernel has AppArmor and uses it.
func apparmorEnabled() bool {
	b, err := linux.ReadFile("/sys/module/apparmor/parameters/enabled", 16)
	return err == nil && len(b) > 0 && b[0] == 'Y'
}

// selinuxEnabled reports whether the kernel has SELinux and uses it: then there
// is its file system, which can be written to, as libselinux looks for it.
func selinuxEnabled() bool {
	var fs unix.Statfs_t
	return unix.Statfs("/sys/fs/selinux", &fs) == nil && uint32(fs.Type) == unix.SELINUX_MAGIC && fs.Flags&unix.ST_RDONLY == 0
}

// label has the kernel give the next program a profile or label. It is the first
// thing that is done: the file is one of the caller's /proc, which the container
// has no hand in (CVE-2019-16884, CVE-2025-52881), and a process that is cloned
// inherits what was asked for.
type label struct {
	field, file, label string
	keys               bool // keys that are made get it, too
}

func labels(p *specs.Process) []initprog.Step {
	var s []initprog.Step
	if p.SelinuxLabel != "" {
		s = append(s, &label{phaseSelinux, "exec", p.SelinuxLabel, true})
	}
	if p.ApparmorProfile != "" && (p.ApparmorProfile != unconfined || apparmorEnabled()) {
		s = append(s, &label{phaseApparmor, "apparmor/exec", p.ApparmorProfile, false})
	}
	return s
}

func (s *label) Phase() string { return s.field }
func (s *label) String() string {
	return "have the process confined by " + s.label + " from its execution on"
}

func (s *label) Why() string {
	return "through the caller's /proc, before the container has a hand in anything (CVE-2025-52881)"
}

func (s *label) Emit(b *initprog.Builder) {
	b.Object(s.label)
	value := s.label
	if s.field == phaseApparmor {
		value = "exec " + value
	}
	s.write(b, s.file, value)
	if s.keys {
		s.write(b, "keycreate", value)
	}
}

func (s *label) write(b *initprog.Builder, file, value string) {
	path := "/proc/self/attr/" + file
	fd := b.Openat(initprog.CWD(), path, unix.O_WRONLY).Result()
	b.Write(fd, value).Detail(path)
	b.Close(fd)
}

// labelFailure explains what the kernel said to a label. Engines know the error
// by the path of the file in backquotes.
func labelFailure(s *initprog.StepError) error {
	e := &LabelError{Field: s.Phase, Label: s.Object, Err: s.Err}
	switch {
	case s.Phase == phaseApparmor:
		e.Reason = "apparmor failed to apply profile: write `/proc/self/attr/apparmor/exec`"
		if errors.Is(s.Err, syscall.ENOENT) {
			e.hint = "there is no such profile in the kernel: load it with apparmor_parser, aa-status lists those that are"
		}
		if errors.Is(s.Err, syscall.EACCES) {
			e.hint = "minirun is confined itself, by a profile that does not let it change to this one"
		}
	default:
		e.Reason = "write `/proc/self/attr/exec`"
		if errors.Is(s.Err, syscall.EINVAL) {
			e.hint = "the policy that is loaded does not know that label"
		}
	}
	return e
}
