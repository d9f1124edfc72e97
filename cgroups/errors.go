package cgroups

import (
	"errors"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// FieldError reports a value in linux.resources that has no meaning on cgroup
// v2 or no meaning at all.
type FieldError struct {
	Field  string // JSON path, linux.resources.cpu.realtimeRuntime
	Value  string
	Reason string
	Way    string // what to write instead
}

func (e *FieldError) Error() string {
	if e.Value == "" {
		return e.Field + ": " + e.Reason
	}
	return e.Field + " " + e.Value + ": " + e.Reason
}

// Hint says what to do about it.
func (e *FieldError) Hint() string { return e.Way }

// WriteError reports that the kernel refused a setting.
type WriteError struct {
	Group string // path in the hierarchy
	File  string // below the group, cpu.max
	Value string
	Field string // the JSON path the value came from, "" if none
	Err   error  // the errno
}

func (e *WriteError) Error() string {
	return "cgroup " + strconv.Quote(e.Group) + ": write " + e.File + " " + strconv.Quote(e.Value) + ": " + e.Err.Error()
}

func (e *WriteError) Unwrap() error { return e.Err }

// Hint says what the kernel may have disliked, "" if that is not known.
func (e *WriteError) Hint() string {
	in := ""
	if e.Field != "" {
		in = " (" + e.Field + ")"
	}
	invalid := errors.Is(e.Err, unix.EINVAL)
	switch {
	case e.File == "cpu.max" && invalid:
		return "the CPU period must be between 1000 and 1000000 microseconds, the quota at least 1000" + in
	case e.File == "cpu.max.burst" && invalid:
		return "the burst must not exceed the quota" + in
	case e.File == "cpu.weight" && invalid:
		return "cpu.weight cannot be changed while cpu.idle is 1" + in
	case strings.HasPrefix(e.File, "cpuset.") && (invalid || errors.Is(e.Err, unix.ERANGE)):
		return "only CPUs and memory nodes that exist can be listed, as in 0-3,7" + in
	case e.File == "memory.max" && errors.Is(e.Err, unix.EBUSY):
		return "the processes use more memory than that and it cannot be reclaimed" + in
	case strings.HasPrefix(e.File, "io.") && errors.Is(e.Err, unix.ENODEV):
		return "there is no such block device; partitions cannot be limited, only whole disks" + in
	case errors.Is(e.Err, unix.ENOENT):
		return "this kernel does not have the file" + in
	case errors.Is(e.Err, unix.EACCES), errors.Is(e.Err, unix.EPERM), errors.Is(e.Err, unix.EROFS):
		return "the caller may not write to this group: be root, or have it delegated"
	case e.Field != "":
		return "check " + e.Field
	}
	return ""
}

// ControllerError reports a limit whose controller the group cannot have.
type ControllerError struct {
	Controller string
	Field      string // the JSON path that needs it, "" if the caller named none
	Mount      string // where it is mounted as cgroup v1, else ""
	Parent     string // the ancestor that does not delegate it, else ""
	Disabled   bool   // the kernel was booted with it switched off
}

func (e *ControllerError) Error() string {
	s := "cgroup controller " + strconv.Quote(e.Controller) + " is not available"
	if e.Field != "" {
		s += " for " + e.Field
	}
	switch {
	case e.Mount != "":
		return s + ": it is mounted as cgroup v1 at " + e.Mount
	case e.Parent != "":
		return s + ": parent cgroup " + strconv.Quote(e.Parent) + " does not delegate it"
	case e.Disabled:
		return s + ": it is disabled on the kernel command line"
	}
	return s + ": this kernel does not offer it in the cgroup v2 hierarchy"
}

// Hint says what to do about it.
func (e *ControllerError) Hint() string {
	remove := "remove the limit"
	if e.Field != "" {
		remove = "remove " + e.Field
	}
	switch {
	case e.Mount != "":
		return "boot with cgroup_no_v1=all (with systemd also systemd.unified_cgroup_hierarchy=1), or " + remove
	case strings.Contains(e.Parent, "/user@"):
		return "have systemd pass it on to users: in /etc/systemd/system/user@.service.d/delegate.conf write [Service] and Delegate=cpu cpuset io memory pids, then systemctl daemon-reload and log in again; or " + remove
	case e.Parent != "":
		return "enable it there (with systemd: Delegate=yes for the unit), or " + remove
	case e.Disabled:
		return "boot without cgroup_disable=" + e.Controller + ", or " + remove
	}
	return remove
}

// Is makes the error match errors.ErrUnsupported.
func (e *ControllerError) Is(target error) bool { return target == errors.ErrUnsupported }

// BusyParentError reports that a controller cannot be enabled for a group's
// children because the group has processes of its own.
type BusyParentError struct {
	Group       string
	Controllers string // as written, "+cpu +memory"
	Procs       int
}

func (e *BusyParentError) Error() string {
	return "cgroup " + strconv.Quote(e.Group) + ": enable " + strconv.Quote(e.Controllers) + " for its children: it has " +
		strconv.Itoa(e.Procs) + " process(es) of its own"
}

// Hint says what to do about it.
func (e *BusyParentError) Hint() string {
	return "a cgroup v2 group has either processes or limited children: move its processes to a leaf group, or choose another linux.cgroupsPath"
}

// Unwrap returns EBUSY, what the kernel said.
func (e *BusyParentError) Unwrap() error { return unix.EBUSY }

// TypeError reports a group that is in threaded mode and cannot hold a container.
type TypeError struct{ Group, Type string }

func (e *TypeError) Error() string {
	return "cgroup " + strconv.Quote(e.Group) + " is of type " + strconv.Quote(e.Type) + ", a container needs a domain"
}

// Hint says what to do about it.
func (e *TypeError) Hint() string {
	return "an ancestor is in threaded mode, and threaded mode cannot be left: choose a linux.cgroupsPath elsewhere"
}

// NotFreeError reports a group that cannot be a new container's: there are
// processes in it, or it is frozen. Engines know the texts.
type NotFreeError struct {
	Group  string
	Procs  int
	Frozen bool
}

func (e *NotFreeError) Error() string {
	if e.Procs > 0 {
		return "container's cgroup is not empty: " + strconv.Itoa(e.Procs) + " process(es) found"
	}
	return "container's cgroup unexpectedly frozen"
}

// Hint says what to do about it.
func (e *NotFreeError) Hint() string {
	return "cgroup " + strconv.Quote(e.Group) + " belongs to something else: choose another linux.cgroupsPath, or end what is in it"
}

// TimeoutError reports that a group did not reach a state in time. It matches
// EBUSY.
type TimeoutError struct {
	Group string
	Want  string // "empty", "frozen", "thawed", "removed"
	After time.Duration
}

func (e *TimeoutError) Error() string {
	return "cgroup " + strconv.Quote(e.Group) + " is not " + e.Want + " after " + e.After.String()
}

// Hint says what may be the cause, "" if that is not known.
func (e *TimeoutError) Hint() string {
	switch e.Want {
	case "frozen":
		return "one of its processes does not come back from the kernel, see /proc/PID/stack; it was thawed again"
	case "thawed":
		return "a group above it is frozen: see cgroup.freeze there"
	case "empty", "removed":
		return "one of its processes does not come back from the kernel, or its parent does not wait for it: see cgroup.procs there"
	}
	return ""
}

// Timeout marks the error as a time-out.
func (e *TimeoutError) Timeout() bool { return true }

// Unwrap returns EBUSY.
func (e *TimeoutError) Unwrap() error { return unix.EBUSY }

// DeviceError reports that the device filter could not be loaded or attached.
type DeviceError struct {
	Group string
	Op    string // the bpf(2) command
	Err   error
}

func (e *DeviceError) Error() string {
	return "cgroup " + strconv.Quote(e.Group) + ": device filter: bpf " + e.Op + ": " + e.Err.Error()
}

func (e *DeviceError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *DeviceError) Hint() string {
	if errors.Is(e.Err, unix.EPERM) {
		return "loading a device filter needs CAP_BPF and CAP_NET_ADMIN (or CAP_SYS_ADMIN) in the initial user namespace"
	}
	return ""
}

// gone reports whether err means that the group does not exist any more: the
// directory is missing, or a file of it was open when it went away.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

// cause takes the errno out of the *fs.PathError that the file helpers return:
// our own errors name the file already.
func cause(err error) error {
	if pe, ok := err.(*fs.PathError); ok {
		return pe.Err
	}
	return err
}
