// Package denials tells people which system calls a seccomp filter denies.
//
// The filter of the process that is watched has a listener in place of errnos
// and kills (seccomp.Filter.Observed). Serve reads from the listener, writes a
// line about each kind of call, and answers as the filter itself would have: with
// the errno, or with SIGKILL. It never lets a call run. A report is written before
// the answer is given, so it is there when the process goes on.
//
// What comes from the watched process, its name and the numbers, is not
// trusted: names are quoted, and the number of lines is bounded whatever it calls.
package denials

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/seccomp"
	"golang.org/x/sys/unix"
)

// kind is what one line is about. Calls without a name share one per
// architecture: their numbers can be anything.
type kind struct {
	arch, nr uint32
	named    bool
	action   string
}

// A Server watches the processes behind one listener.
type Server struct {
	Listener int
	Out      io.Writer
	ID       string // of the container
	Judge    *seccomp.Judge

	seen map[kind]int
}

// Serve returns when nobody is left who has the filter.
func (s *Server) Serve() error {
	s.seen = map[kind]int{}
	for {
		fds := []unix.PollFd{{Fd: int32(s.Listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil {
			if err == unix.EINTR {
				continue
			}
			return os.NewSyscallError("poll", err)
		}
		if fds[0].Revents&unix.POLLIN == 0 {
			return nil
		}
		n, err := linux.SeccompReceive(s.Listener)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return os.NewSyscallError("receive from the seccomp listener", err)
		}
		s.handle(n)
	}
}

func (s *Server) handle(n *linux.SeccompNotification) {
	call := seccomp.Call{Arch: n.Arch, Nr: uint32(n.Nr), Args: n.Args}
	r, err := s.Judge.Rule(&call)
	if err != nil || r.Allow {
		// The filter would not have asked: never let it run, whatever that means.
		s.line("%s asked about without need (%v); answered EPERM", call.String(), err)
		_ = linux.SeccompFail(s.Listener, n.ID, unix.EPERM)
		return
	}
	k := kind{n.Arch, call.Nr, r.Name != "", r.Action}
	if !k.named {
		k.nr = 0
	}
	s.seen[k]++
	switch count := s.seen[k]; {
	case count == 1:
		advice := ""
		if r.Advice != "" {
			advice = "; to allow it, " + r.Advice
		}
		s.line("denied %s with %s, %s, by %s%s", call.String(), r.Action, s.who(n), r.Why, advice)
	case powerOfTen(count):
		s.line("denied %s with %s for the %dth time", call.String(), r.Action, count)
	}
	if r.Kill {
		s.kill(n)
		return
	}
	_ = linux.SeccompFail(s.Listener, n.ID, r.Errno) // ENOENT: killed meanwhile
}

func powerOfTen(n int) bool {
	for n%10 == 0 {
		n /= 10
	}
	return n == 1
}

// line writes one line at once, so that several servers can share a file.
func (s *Server) line(format string, args ...any) {
	text := time.Now().UTC().Format(time.RFC3339) + " " + s.ID + ": " + fmt.Sprintf(format, args...) + "\n"
	_, _ = io.WriteString(s.Out, text)
}

// who describes the process that called.
func (s *Server) who(n *linux.SeccompNotification) string {
	proc := "/proc/" + strconv.Itoa(int(n.Pid))
	comm, _ := os.ReadFile(proc + "/comm")
	status, _ := os.ReadFile(proc + "/status")
	if n.Pid == 0 || !linux.SeccompWaiting(s.Listener, n.ID) {
		return "a process that has ended"
	}
	text := "pid " + strconv.Itoa(int(n.Pid))
	if inside := field(string(status), "NSpid"); strings.Contains(inside, "\t") {
		text += " (" + inside[strings.LastIndexByte(inside, '\t')+1:] + " in the container)"
	}
	return text + " " + strconv.QuoteToASCII(strings.TrimSuffix(string(comm), "\n"))
}

func field(status, name string) string {
	for line := range strings.Lines(status) {
		if k, v, ok := strings.Cut(line, ":"); ok && k == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// kill ends the process of the caller. The call waits until then: it cannot go
// on, and its pid cannot be used again between the look-up and the check.
func (s *Server) kill(n *linux.SeccompNotification) {
	status, _ := os.ReadFile("/proc/" + strconv.Itoa(int(n.Pid)) + "/status")
	pid, err := strconv.Atoi(field(string(status), "Tgid"))
	pidfd := -1
	if err == nil {
		pidfd, err = unix.PidfdOpen(pid, 0)
	}
	if err == nil {
		defer unix.Close(pidfd)
		if !linux.SeccompWaiting(s.Listener, n.ID) {
			return
		}
		err = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
	}
	if err != nil && linux.SeccompWaiting(s.Listener, n.ID) {
		s.line("kill process %d: %v; the call was answered EPERM", n.Pid, err)
		_ = linux.SeccompFail(s.Listener, n.ID, unix.EPERM)
	}
}
