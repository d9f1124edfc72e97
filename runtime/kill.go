package runtime

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// Target says which processes a signal goes to.
type Target int

const (
	Init         Target = iota // the container's first process
	AllProcesses               // every process in the container's cgroup
)

// Kill sends a signal. A container that is not running is a *StatusError, except
// for AllProcesses: nothing is left to signal, and that is what was asked for.
//
// SIGKILL for a container without a pid namespace of its own goes to all of its
// processes: with the init gone, nobody else would end them.
func (c *Container) Kill(sig syscall.Signal, target Target) error {
	pidfd, err := c.process()
	if err != nil {
		return err
	}
	defer linux.Close(pidfd)
	if target == AllProcesses || sig == unix.SIGKILL && c.Own&unix.CLONE_NEWPID == 0 {
		if pidfd < 0 && target == Init {
			return &StatusError{ID: c.ID, Op: "kill", Have: Stopped}
		}
		return c.killAll(sig)
	}
	if pidfd < 0 {
		return &StatusError{ID: c.ID, Op: "kill", Have: Stopped}
	}
	if err := unix.PidfdSendSignal(pidfd, sig, nil, 0); err != nil {
		if err == unix.ESRCH {
			return &StatusError{ID: c.ID, Op: "kill", Have: Stopped}
		}
		return fmt.Errorf("container %q: signal %d: %w", c.ID, sig, err)
	}
	if sig == unix.SIGKILL {
		c.thaw(c.group())
	}
	return nil
}

func (c *Container) killAll(sig syscall.Signal) error {
	g := c.group()
	if c.Cgroup == "" {
		return c.killWithoutGroup(sig)
	}
	if !g.Exists() {
		return nil
	}
	if sig == unix.SIGKILL {
		if err := g.Kill(); err != nil {
			return err
		}
		c.thaw(g)
		return nil
	}
	return g.Signal(sig)
}

// killWithoutGroup signals the init, with whose end a pid namespace of its own
// ends. Other processes cannot be told from those of the host.
func (c *Container) killWithoutGroup(sig syscall.Signal) error {
	pidfd, err := c.process()
	if err != nil || pidfd < 0 {
		return err
	}
	defer linux.Close(pidfd)
	if sig != unix.SIGKILL {
		return &NoCgroupError{ID: c.ID, Op: "kill --all"}
	}
	if err := unix.PidfdSendSignal(pidfd, sig, nil, 0); err != nil && err != unix.ESRCH {
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	return nil
}

// ParseSignal reads a signal as a number or a name, with or without SIG.
func ParseSignal(s string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 0 || n > 64 {
			return 0, fmt.Errorf("unknown signal %q: numbers go from 1 to 64", s)
		}
		return syscall.Signal(n), nil
	}
	name := strings.ToUpper(s)
	name = "SIG" + strings.TrimPrefix(name, "SIG")
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	if rest, ok := strings.CutPrefix(name, "SIGRTMIN"); ok {
		if n, err := strconv.Atoi(strings.TrimPrefix(rest, "+")); rest == "" || err == nil && n >= 0 && n <= 30 {
			return syscall.Signal(34 + n), nil
		}
	}
	return 0, fmt.Errorf("unknown signal %q: give a number or a name such as TERM or SIGTERM", s)
}
