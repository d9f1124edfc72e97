package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// commandTimeout ends a command that hangs. The slowest legitimate one needs some 100 ms.
const commandTimeout = 30 * time.Second

// environment of everything that is measured.
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C"}

// harness starts commands and accounts for every process that comes of them.
type harness struct {
	null *os.File
	// stderr of all commands: a file on the private tmpfs. Nothing is written to it on
	// success; when a command fails, even one in ten thousand, its words are here.
	stderr *os.File
}

func newHarness(work string) (*harness, error) {
	// Containers outlive the command that creates them and become our children.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become subreaper: %w", err)
	}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	stderr, err := os.OpenFile(filepath.Join(work, "run", "stderr"), os.O_CREATE|os.O_EXCL|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &harness{null, stderr}, nil
}

// usage is what a command cost.
type usage struct {
	wall time.Duration
	cpu  time.Duration // user and system time of the command and of all descendants waited for
}

// run starts a command, waits for it and returns its cost. The error has the command's stderr.
// extra are descriptors for the command from number 3 on.
func (h *harness) run(argv []string, extra ...uintptr) (usage, error) {
	attr := &syscall.ProcAttr{Env: environment, Files: append([]uintptr{h.null.Fd(), h.null.Fd(), h.stderr.Fd()}, extra...)}
	start := time.Now()
	pid, err := syscall.ForkExec(argv[0], argv, attr)
	if err != nil {
		return usage{}, fmt.Errorf("start %s: %w", argv[0], err)
	}
	alarm := time.AfterFunc(commandTimeout, func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	var status syscall.WaitStatus
	var used syscall.Rusage
	for {
		if _, err = syscall.Wait4(pid, &status, 0, &used); err != syscall.EINTR {
			break
		}
	}
	cost := usage{time.Since(start), time.Duration(used.Utime.Nano() + used.Stime.Nano())}
	timely := alarm.Stop()
	switch {
	case err != nil:
		return cost, fmt.Errorf("wait for %s: %w", argv[0], err)
	case !timely:
		return cost, fmt.Errorf("no end within %v; %s", commandTimeout, h.words())
	case status.Signaled():
		return cost, fmt.Errorf("killed by %v; %s", status.Signal(), h.words())
	case status.ExitStatus() != 0:
		return cost, &exitError{status.ExitStatus(), h.words()}
	}
	return cost, nil
}

// exitError is a command that ended with a status other than 0.
type exitError struct {
	status int
	words  string
}

func (e *exitError) Error() string { return fmt.Sprintf("exit %d: %s", e.status, e.words) }

// exitStatus is the status of an exitError.
func exitStatus(err error) (status int, ok bool) {
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.status, true
	}
	return 0, false
}

// words returns and empties what commands wrote to stderr.
func (h *harness) words() string {
	data, err := io.ReadAll(io.NewSectionReader(h.stderr, 0, 4096))
	if err == nil {
		err = h.stderr.Truncate(0)
	}
	if err != nil {
		return err.Error()
	}
	text := strings.Join(strings.Fields(string(data)), " ")
	if text == "" {
		return "(no stderr)"
	}
	return text
}

// reap waits until no child is left; what does not end by itself is killed and named.
func (h *harness) reap() error {
	var killed []string
	done := make(chan struct{})
	alarm := time.AfterFunc(commandTimeout, func() {
		defer close(done)
		for _, pid := range children() {
			killed = append(killed, describe(pid))
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	for {
		_, err := syscall.Wait4(-1, nil, 0, nil)
		if err == syscall.EINTR || err == nil {
			continue
		}
		if !alarm.Stop() {
			<-done
			return fmt.Errorf("processes did not end and were killed: %s", strings.Join(killed, ", "))
		}
		return nil
	}
}

// children lists the child processes, by the parent field of every process: orphans that
// were handed to us are among them.
func children() []int {
	var pids []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		// The command's name, in parentheses, may hold anything; after it: state, parent.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid()) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func describe(pid int) string {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return fmt.Sprintf("%d %q", pid, strings.TrimRight(strings.ReplaceAll(string(line), "\x00", " "), " "))
}
