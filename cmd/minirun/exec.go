package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/runtime"
	"github.com/minirun/minirun/runtime/bundle"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// execOptions are the flags of exec.
type execOptions struct {
	console, cwd, user, process, pidFile string
	cgroup, denials, pidfdSocket         string
	label, apparmor                      string
	timing                               timingOptions
	env, caps, gids                      []string
	tty, detach, noNewPrivs, ignorePause bool
	preserve                             int
}

func execFlags(*app) *flagSet { return new(execOptions).flags() }

func (o *execOptions) flags() *flagSet {
	f := newFlags("exec")
	f.String(&o.console, "console-socket", 0, "PATH", "unix socket that receives the terminal's master")
	f.String(&o.cwd, "cwd", 'w', "DIR", "working directory in the container")
	f.Strings(&o.env, "env", 'e', "NAME=VALUE", "set an environment variable (repeatable)")
	f.Bool(&o.tty, "tty", 't', "give the process a terminal")
	f.Bool(new(bool), "no-subreaper", 0, "accepted for compatibility: exec adopts no orphans")
	f.Bool(new(bool), "interactive", 'i', "accepted for compatibility: standard input is always passed on")
	f.String(&o.user, "user", 'u', "UID[:GID]", "run as this user")
	f.Strings(&o.gids, "additional-gids", 'g', "GID", "additional group (repeatable)")
	f.String(&o.process, "process", 'p', "FILE", "read the process from FILE, an OCI process object")
	f.Bool(&o.detach, "detach", 'd', "return when the process runs")
	f.String(&o.pidFile, "pid-file", 0, "FILE", "write the pid of the process to FILE")
	f.String(&o.pidfdSocket, "pidfd-socket", 0, "PATH", "unix socket that receives a pidfd of the process")
	f.Bool(&o.noNewPrivs, "no-new-privs", 0, "the process cannot gain privileges")
	f.String(&o.label, "process-label", 0, "LABEL", "SELinux label of the process")
	f.String(&o.apparmor, "apparmor", 0, "PROFILE", "AppArmor profile of the process")
	f.Strings(&o.caps, "cap", 'c', "CAP", "add a capability (repeatable)")
	f.Int(&o.preserve, "preserve-fds", 0, "N", "pass N descriptors from 3 on to the process")
	f.String(&o.cgroup, "cgroup", 0, "PATH", "run in this group below the container's cgroup")
	denialFlag(f, &o.denials)
	o.timing.add(f)
	f.Bool(&o.ignorePause, "ignore-paused", 0, "exec in a paused container too; it runs when that is resumed")
	return f
}

// execFailure marks an exec that could not start; its exit status is 255.
type execFailure struct{ err error }

func (e *execFailure) Error() string { return e.err.Error() }
func (e *execFailure) Unwrap() error { return e.err }

// exec adds a process to a running container.
func (a *app) exec(args []string) error {
	var o execOptions
	f := o.flags()
	args, err := f.parse(args)
	if err != nil {
		return err
	}
	defer o.timing.print("exec")
	if len(args) == 0 || len(args) == 1 && o.process == "" {
		return f.fail("want a container ID and a command; got %d arguments", len(args))
	}
	if err := checkPreserve(f, o.preserve); err != nil {
		return err
	}
	if o.denials, err = denialFile(f, o.denials, !o.detach); err != nil {
		return err
	}
	c, err := a.container(f, args[:1])
	if err != nil {
		return &execFailure{err}
	}
	var tty *terminalRelay
	opts := runtime.ExecOptions{
		Stdio: [3]int{0, 1, 2}, ConsoleSocket: o.console, PidFile: o.pidFile, PidfdSocket: o.pidfdSocket, PreserveFDs: o.preserve + listenFDs(),
		Cgroup: o.cgroup, IgnorePaused: o.ignorePause, DenialReport: o.denials, Timing: o.timing.Timing,
		Process: func(p *specs.Process) (*specs.Process, error) {
			p, err := o.apply(p, args[1:])
			if err == nil && p.Terminal && !o.detach && o.console == "" {
				if tty, err = newTerminalRelay(); err == nil {
					tty.size(p)
				}
			}
			return p, err
		},
	}
	if o.denials != "" {
		opts.Supervise = a.supervisor(func() string { return c.ID }, o.denials)
	}
	// The relay's socket is known only once the process is.
	opts.Console = func() int {
		if tty == nil {
			return 0
		}
		return tty.socket[1]
	}
	signals := &runtime.Signals{FD: -1}
	if !o.detach {
		// Before the process can tell anybody that it runs.
		if signals.FD, err = linux.RelaySignals(); err != nil {
			return &execFailure{err}
		}
	}
	p, err := c.Exec(opts)
	if tty != nil {
		defer tty.close()
	}
	if err != nil {
		return &execFailure{ofImage(c.Snapshot != "", err)}
	}
	a.warnings(p.Warnings)
	if o.detach {
		linux.Close(p.PidFD)
		return nil
	}
	status, err := attend(p.PidFD, signals, tty, nil, p.Wait)
	if err != nil {
		return &execFailure{err}
	}
	o.timing.Mark("the process")
	if status.Signaled() && status.Signal() == unix.SIGKILL {
		if oom := p.OOM(); oom != nil {
			a.log.fail(&runtime.KilledError{ID: c.ID, Err: oom})
		}
	}
	if code := runtime.ExitCode(status); code != 0 {
		return exitStatus(code)
	}
	return nil
}

// apply changes the container's process into the one that the flags ask for.
func (o *execOptions) apply(p *specs.Process, args []string) (*specs.Process, error) {
	if o.process != "" {
		raw, err := linux.ReadFile(o.process, bundle.MaxConfigSize)
		if err != nil {
			return nil, err
		}
		if p, err = bundle.ParseProcess(raw); err == nil {
			p.Env = append(p.Env, listenEnv()...)
		}
		return p, err
	}
	if p == nil {
		p = &specs.Process{Cwd: "/"}
	}
	p.Args, p.Terminal, p.ConsoleSize = args, o.tty, nil
	if o.cwd != "" {
		p.Cwd = o.cwd
	}
	p.Env = append(append(p.Env[:len(p.Env):len(p.Env)], o.env...), listenEnv()...)
	if o.noNewPrivs {
		p.NoNewPrivileges = true
	}
	if o.label != "" {
		p.SelinuxLabel = o.label
	}
	if o.apparmor != "" {
		p.ApparmorProfile = o.apparmor
	}
	if o.user != "" {
		uid, gid, err := parseUser(o.user)
		if err != nil {
			return nil, err
		}
		p.User = specs.User{UID: uid, GID: gid, Umask: p.User.Umask}
	}
	for _, g := range o.gids {
		id, err := parseID(g)
		if err != nil {
			return nil, fmt.Errorf("additional group: %w", err)
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids, id)
	}
	if len(o.caps) > 0 {
		if err := addCaps(p, o.caps); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// addCaps gives the process more capabilities, as runc does: not in the
// inheritable set, from which programs with file capabilities would raise them
// again (CVE-2022-29162), and therefore in the ambient set only where the
// container's process has inheritable ones of its own.
func addCaps(p *specs.Process, names []string) error {
	c := specs.LinuxCapabilities{}
	if p.Capabilities != nil {
		c = *p.Capabilities
	}
	for _, n := range names {
		n = strings.ToUpper(n)
		if !strings.HasPrefix(n, "CAP_") {
			n = "CAP_" + n
		}
		if !runtime.KnownCapability(n) {
			return fmt.Errorf("unknown capability %q", n)
		}
		c.Bounding = append(c.Bounding[:len(c.Bounding):len(c.Bounding)], n)
		c.Effective = append(c.Effective[:len(c.Effective):len(c.Effective)], n)
		c.Permitted = append(c.Permitted[:len(c.Permitted):len(c.Permitted)], n)
		if len(c.Inheritable) > 0 {
			c.Ambient = append(c.Ambient[:len(c.Ambient):len(c.Ambient)], n)
		}
	}
	p.Capabilities = &c
	return nil
}

// parseUser reads UID or UID:GID, numbers only: names are the business of
// whoever knows the image.
func parseUser(s string) (uid, gid uint32, err error) {
	u, g, both := strings.Cut(s, ":")
	if uid, err = parseID(u); err != nil {
		return 0, 0, fmt.Errorf("user %q: %w", s, err)
	}
	if both {
		if gid, err = parseID(g); err != nil {
			return 0, 0, fmt.Errorf("user %q: group: %w", s, err)
		}
	}
	return uid, gid, nil
}

// parseID reads a user or group id strictly: decimal digits, at most 2^32-2.
// Anything else must never become 0 (CVE-2024-40635, CVE-2026-30892).
func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > 1<<32-2 || s[0] == '+' {
		return 0, fmt.Errorf("invalid id %q: want a number from 0 to 4294967294", s)
	}
	return uint32(n), nil
}
