package main

import (
	"os"
	"strconv"
	"syscall"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/runtime"
	"golang.org/x/sys/unix"
)

// runOptions are the flags of run.
type runOptions struct {
	launchOptions
	detach, keep, noSubreaper bool
}

func (o *runOptions) flags() *flagSet {
	f := newFlags("run")
	o.launchOptions.add(f)
	o.timing.add(f)
	f.Bool(&o.detach, "detach", 'd', "return when the process runs")
	f.Bool(&o.keep, "keep", 0, "do not delete the container when it ends")
	f.Bool(&o.noSubreaper, "no-subreaper", 0, "do not become the parent of the container's orphans")
	return f
}

func runFlags(*app) *flagSet { return new(runOptions).flags() }

// run creates a container, starts it and, unless detached, stays until it ends.
func (a *app) run(args []string) error {
	var o runOptions
	f, args, err := o.parse(args, o.flags)
	if err != nil {
		return err
	}
	defer o.timing.print("run")
	if o.denials, err = denialFile(f, o.denials, !o.detach); err != nil {
		return err
	}
	o.image.detach = o.detach
	l, err := a.prepare(f, &o.launchOptions, args)
	if err != nil {
		return err
	}
	if o.detach {
		return a.runDetached(l)
	}
	return a.runForeground(l, &o)
}

func (a *app) runDetached(l *launch) error {
	c, err := l.store.Run(l.options)
	if l.announce != nil {
		l.announce(c)
	}
	if err != nil {
		return ofImage(l.image, err)
	}
	a.warnings(c.Warnings)
	a.awaitReady(l.options.Notifier, c)
	return nil
}

func (a *app) runForeground(l *launch, o *runOptions) error {
	if !o.noSubreaper {
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	}
	terminal := l.options.Bundle.Spec.Process != nil && l.options.Bundle.Spec.Process.Terminal
	var tty *terminalRelay
	if terminal && l.options.ConsoleSocket == "" {
		var err error
		if tty, err = newTerminalRelay(); err != nil {
			l.undo()
			return err
		}
		defer tty.close()
		l.options.ConsoleFD = tty.socket[1]
		tty.size(l.options.Bundle.Spec.Process)
	}
	// From here on a signal waits for the container instead of ending us half-way.
	signals, err := linux.RelaySignals()
	if err != nil {
		l.undo()
		return err
	}
	waiting := &runtime.Signals{FD: signals}
	l.store.Signals = waiting
	c, err := l.store.Run(l.options)
	if err != nil {
		return ofImage(l.image, err)
	}
	a.warnings(c.Warnings)
	notify := &readiness{a, l.options.Notifier, c}
	defer notify.Close()
	status, err := attend(c.PidFD(), waiting, tty, notify, c.Wait)
	if err != nil {
		return err
	}
	o.timing.Mark("the process")
	if unix.SIGKILL == status.Signal() && status.Signaled() {
		if oom := c.OOM(); oom != nil {
			a.log.fail(&runtime.KilledError{ID: c.ID, Err: oom})
		}
	}
	if !l.keep(o) {
		c.Timing = o.timing.Timing
		if err := container.Delete(c, runtime.Force); err != nil {
			return err
		}
		if l.remove {
			if err := l.removeVolumes(); err != nil {
				return err
			}
		}
	}
	if code := runtime.ExitCode(status); code != 0 {
		return exitStatus(code)
	}
	return nil
}

// attend passes signals and terminal input on to a process until it ends.
// signals are those of linux.RelaySignals.
func attend(pidfd int, signals *runtime.Signals, tty *terminalRelay, notify *readiness, wait func() (syscall.WaitStatus, error)) (syscall.WaitStatus, error) {
	if tty != nil {
		if err := tty.start(); err != nil {
			return 0, err
		}
	}
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}, {Fd: int32(signals.FD), Events: unix.POLLIN}}
	if notify != nil && notify.FD() >= 0 {
		fds = append(fds, unix.PollFd{Fd: int32(notify.FD()), Events: unix.POLLIN})
	}
	if signals.Kept() { // they came while hooks ran
		forward(signals, pidfd, tty)
	}
	for {
		_, err := unix.Poll(fds, -1)
		if err != nil && err != unix.EINTR {
			return 0, os.NewSyscallError("poll", err)
		}
		if err == nil && fds[1].Revents != 0 {
			forward(signals, pidfd, tty)
		}
		if err == nil && len(fds) > 2 && fds[2].Revents != 0 {
			notify.pass()
			fds[2].Fd = int32(notify.FD())
		}
		if err == nil && fds[0].Revents != 0 {
			break
		}
	}
	status, err := wait()
	if tty != nil {
		tty.finish()
	}
	return status, err
}

// forward sends the signals that have reached us to the process.
func forward(signals *runtime.Signals, pidfd int, tty *terminalRelay) {
	for _, sig := range signals.Read() {
		if unix.Signal(sig) == unix.SIGWINCH && tty != nil {
			tty.resize()
			continue
		}
		_ = unix.PidfdSendSignal(pidfd, unix.Signal(sig), nil, 0)
	}
}

// maxPreserve bounds the descriptors that a container can be given.
const maxPreserve = 1024

// listenFDs is the number of descriptors that a socket-activating parent has
// passed to us; see sd_listen_fds(3).
func listenFDs() int {
	pid, fds := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	if fds == "" || pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	n, err := strconv.Atoi(fds)
	if err != nil || n < 0 || n > maxPreserve {
		return 0
	}
	return n
}

// listenEnv tells the container's process about them. It has pid 1 there, or
// takes the value for granted as runc's callers do.
func listenEnv() []string {
	n := listenFDs()
	if n == 0 {
		return nil
	}
	env := []string{"LISTEN_FDS=" + strconv.Itoa(n), "LISTEN_PID=1"}
	if names, ok := os.LookupEnv("LISTEN_FDNAMES"); ok {
		env = append(env, "LISTEN_FDNAMES="+names)
	}
	return env
}
