package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/jsonread"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/runtime"
	"golang.org/x/sys/unix"
)

// How minirun talks:
//
//   - Standard output carries what was asked for and nothing else; engines
//     parse it.
//   - Errors go to standard error as "minirun: " and one sentence without a
//     capital or a full stop, that names the object and the cause. What to do
//     about it follows on lines that begin with "hint: ".
//   - With --log, errors and warnings also go to that file, one entry a line.
//     Engines show the last one of level error, so it stands on its own.
//   - Text for people that engines look for is listed in docs/cli.md.

// logger writes to the file given with --log.
type logger struct {
	file  string
	json  bool
	debug bool
}

func (l *logger) entry(level, msg string) {
	if l.file == "" {
		return
	}
	fd, err := linux.OpenAt(unix.AT_FDCWD, l.file, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND, 0o644)
	if err != nil {
		stderr("minirun: log file: " + err.Error())
		l.file = ""
		return
	}
	defer linux.Close(fd)
	now := time.Now()
	b := make([]byte, 0, 256)
	if l.json {
		b = jsonread.AppendString(append(b, `{"level":`...), level)
		b = jsonread.AppendString(append(b, `,"msg":`...), visible(msg)) // JSON leaves C1 as it is
		b = now.AppendFormat(append(b, `,"time":"`...), time.RFC3339)
		b = append(b, "\"}\n"...)
	} else {
		b = now.AppendFormat(append(b, `time="`...), time.RFC3339)
		b = append(append(append(b, `" level=`...), level...), " msg="...)
		b = append(strconv.AppendQuote(b, msg), '\n')
	}
	_ = linux.WriteAll(fd, b)
}

// debugf is what --debug adds; nil without it, so that nobody formats in vain.
func (l *logger) debugf() func(string) {
	if !l.debug {
		return nil
	}
	return func(msg string) {
		l.entry("debug", msg)
		if l.file == "" {
			stderr("minirun: debug: " + msg)
		}
	}
}

// debugTo is debugf for a text that is there anyway.
func (l *logger) debugTo(msg string) {
	if f := l.debugf(); f != nil {
		f(msg)
	}
}

func (l *logger) warn(msg string) {
	l.entry("warning", msg)
	if l.file == "" {
		stderr("minirun: warning: " + msg)
	}
}

func (l *logger) fail(err error) {
	msg := oneLine(err)
	l.entry("error", msg)
	text := "minirun: " + msg
	for _, h := range hints(err) {
		text += "\nhint: " + h
	}
	stderr(text)
}

// oneLine joins several errors into one line, since a log entry is a line.
func oneLine(err error) string {
	return strings.ReplaceAll(strings.TrimRight(err.Error(), "\n"), "\n", "; ")
}

// stderr writes a line, or several. It may name what an image or a container has
// chosen, and go to the terminal of root: what controls a terminal is shown and not
// obeyed.
func stderr(line string) { _ = linux.WriteAll(2, []byte(visible(line)+"\n")) }

// visible replaces control characters, those of C1 and what is no UTF-8 by escapes
// as in Go. Newlines and tabs stay.
func visible(s string) string {
	plain := true
	for i := range len(s) {
		c := s[i]
		plain = plain && (c >= ' ' && c < 0x7f || c == '\n' || c == '\t')
	}
	if plain {
		return s
	}
	b := make([]byte, 0, len(s)+16)
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '\n' || r == '\t', r >= ' ' && r < 0x7f, r >= 0xa0 && r != utf8.RuneError && !invisible(r):
			b = append(b, s[i:i+n]...)
		case r == utf8.RuneError && n == 1, r < 0x80:
			b = append(b, '\\', 'x', hexDigits[s[i]>>4], hexDigits[s[i]&15])
		default:
			b = append(b, strings.Trim(strconv.QuoteRuneToASCII(r), "'")...)
		}
		i += n
	}
	return string(b)
}

const hexDigits = "0123456789abcdef"

// invisible reports whether a character changes the direction or the lines of the
// text around it.
func invisible(r rune) bool {
	return r >= 0x200b && r <= 0x200f || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0xfeff
}

func stdout(text string) error {
	if err := linux.WriteAll(1, []byte(text)); err != nil {
		return fmt.Errorf("write to standard output: %w", err)
	}
	return nil
}

// hints are what people can do about an error. They come from types and
// values, never from texts.
func hints(err error) []string {
	var h []string
	var hinter interface{ Hint() string }
	if errors.As(err, &hinter) && hinter.Hint() != "" {
		h = append(h, strings.Split(hinter.Hint(), "\n")...)
	}
	var usage *usageError
	if errors.As(err, &usage) {
		h = append(h, "see "+strings.TrimSpace("minirun "+usage.command)+" --help")
	}
	var step *initprog.StepError
	if errors.As(err, &step) {
		h = append(h, stepHints(step)...)
	}
	var start *initprog.StartError
	if errors.As(err, &start) {
		h = append(h, startHints(start.Err)...)
	}
	var execErr *runtime.ExecError
	if errors.As(err, &execErr) {
		var of *imageError
		h = append(h, execHints(execErr, errors.As(err, &of))...)
	}
	var exists *runtime.ExistsError
	switch {
	case !errors.As(err, &exists):
	case exists.Remains:
		h = append(h, "choose another ID, or remove what a killed create has left with minirun delete --force "+exists.ID)
	default:
		h = append(h, "choose another ID, or remove that container with minirun delete "+exists.ID)
	}
	var none *runtime.NotExistError
	switch {
	case !errors.As(err, &none):
	case none.Remains:
		h = append(h, "a create that was killed has left its directory, which minirun delete --force "+none.ID+" removes; or one has just begun")
	default:
		h = append(h, "minirun list shows the containers below this --root")
	}
	var state *runtime.StateError
	if errors.As(err, &state) {
		h = append(h, "minirun delete --force ID removes the container and what is left of it")
	}
	var status *runtime.StatusError
	if errors.As(err, &status) && status.Op == "delete" {
		h = append(h, "stop it first with minirun kill "+status.ID+" TERM, or use minirun delete --force "+status.ID)
	}
	var ctl *cgroups.ControllerError
	if !errors.As(err, &ctl) && errors.Is(err, syscall.EPERM) && os.Geteuid() != 0 {
		h = append(h, "minirun needs root for this")
	}
	return h
}

// imageError marks an error of a container made from an image, for its hints.
type imageError struct{ error }

func (e *imageError) Unwrap() error { return e.error }

func ofImage(image bool, err error) error {
	if image && err != nil {
		return &imageError{err}
	}
	return err
}

func execHints(e *runtime.ExecError, image bool) []string {
	switch {
	case errors.Is(e.Err, syscall.ENOEXEC):
		return []string{"it is no program for this machine, or a script without a #! line"}
	case errors.Is(e.Err, fs.ErrNotExist) && strings.Contains(e.Name, "/"):
		return []string{"the path is looked up inside the container's root; for a script or a dynamic program also check its interpreter"}
	case errors.Is(e.Err, fs.ErrNotExist) && image:
		return []string{"PATH is that of the container: of Env in the image, see minirun image inspect, or of --env PATH=DIR:DIR"}
	case errors.Is(e.Err, fs.ErrNotExist):
		return []string{"PATH is that of the container, process.env in config.json"}
	case errors.Is(e.Err, syscall.EACCES):
		return []string{"the file needs the x permission for the container's user, and its mount must not be noexec"}
	}
	return nil
}

func stepHints(e *initprog.StepError) []string {
	switch {
	case e.Phase == "process.scheduler" && e.Err == syscall.EPERM:
		return []string{"SCHED_FIFO, SCHED_RR, SCHED_DEADLINE and a nice value below the caller's take CAP_SYS_NICE on the host; SCHED_DEADLINE also takes all processors of its cpuset"}
	case e.Phase == "process.scheduler" && e.Err == syscall.EBUSY:
		return []string{"the processors have no time left for that runtime and period: see kernel.sched_rt_runtime_us"}
	case e.Phase == "process.ioPriority" && e.Err == syscall.EPERM:
		return []string{"IOPRIO_CLASS_RT takes CAP_SYS_NICE on the host"}
	case e.Phase == "process.execCPUAffinity.final":
		return []string{"at least one of the processors must be online and among those of the container's cpuset"}
	case e.Phase == "linux.memoryPolicy" && e.Err == syscall.ENOSYS:
		return []string{"this kernel has no NUMA memory policies"}
	case e.Phase == "linux.memoryPolicy":
		return []string{"a node must have memory and be in the caller's cpuset, see /sys/devices/system/node/has_memory; MPOL_PREFERRED_MANY needs Linux 5.15, MPOL_WEIGHTED_INTERLEAVE 6.9"}
	case e.Phase == "linux.personality":
		return []string{"this machine cannot run 32-bit programs"}
	case e.Phase == "rlimits" && e.Err == syscall.EPERM:
		return []string{"raising a hard limit takes CAP_SYS_RESOURCE, which this root does not have; lower the limit in process.rlimits"}
	case e.Phase == "session" && e.Err == syscall.EDQUOT:
		return []string{"the user has as many keys as it may: raise kernel.keys.maxkeys, or use --no-new-keyring"}
	case e.Syscall == "fsopen" && e.Err == syscall.ENODEV:
		return []string{"the kernel has no file system of that name; a module may have to be loaded"}
	case e.Syscall == "fsconfig" && e.Err == syscall.EINVAL:
		return []string{"the file system does not know that option, or not with that value"}
	case e.Phase == "mounts" && e.Err == syscall.ELOOP:
		return []string{"the destination is a symbolic link or leads through one that leaves the container's root"}
	case e.Phase == "mounts" && (e.Err == syscall.ENOTDIR || e.Err == syscall.EISDIR):
		return []string{"a directory can only be mounted onto a directory, a file only onto a file"}
	case e.Phase == "seccomp" && e.Err == syscall.EACCES:
		return []string{"loading a filter without noNewPrivileges takes CAP_SYS_ADMIN in the container's user namespace"}
	case e.Phase == "seccomp" && e.Err == syscall.EBUSY:
		return []string{"a filter around the container has a listener already, and there can be only one: SCMP_ACT_NOTIFY and --debug-seccomp do not nest"}
	case e.Phase == "seccomp" && e.Err == syscall.EINVAL:
		return []string{"the kernel does not know an action or flag of the profile; SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs Linux 5.19"}
	case e.Phase == "root change" && e.Err == syscall.EINVAL:
		return []string{"on a root that is a ramfs, such as an initramfs, use --no-pivot"}
	}
	return nil
}

func startHints(err error) []string {
	switch {
	case errors.Is(err, syscall.EPERM):
		return []string{"making namespaces takes root"}
	case errors.Is(err, syscall.EAGAIN):
		return []string{"a limit on processes was reached: RLIMIT_NPROC, kernel.pid_max, or pids.max of a parent cgroup"}
	case errors.Is(err, syscall.ENOSPC):
		return []string{"a limit on namespaces was reached: see /proc/sys/user/max_*_namespaces"}
	case errors.Is(err, syscall.EBUSY):
		return []string{"the parent cgroup may not have processes: controllers are enabled for groups below it"}
	case errors.Is(err, syscall.EACCES):
		return []string{"vm.memfd_noexec forbids to execute a memfd and the state root is mounted noexec; use a --root that allows execution"}
	}
	return nil
}
