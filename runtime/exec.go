package runtime

import (
	"errors"
	"os"
	"strconv"
	"syscall"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/namespaces"
	"github.com/minirun/minirun/rootfs"
	"github.com/minirun/minirun/runtime/bundle"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ExecOptions say how to add a process to a running container.
type ExecOptions struct {
	// Process gets the container's own process to change it into the wanted one.
	Process       func(*specs.Process) (*specs.Process, error)
	Stdio         [3]int
	ConsoleSocket string
	Console       func() int // descriptor of such a socket instead, asked after Process; 0: none
	PreserveFDs   int
	PidFile       string
	PidfdSocket   string // path of the socket that receives a pidfd of the process
	Cgroup        string // a group below the container's
	IgnorePaused  bool
	// Move has the process begin in our cgroup, from where it is moved to the container's. It
	// is for callers that do other things: vfork(2) stops a thread, and with it the garbage
	// collector and all forks, until the process has executed its program, which it
	// does not in a group that is frozen or has no time left.
	Move         bool
	DenialReport string                   // see PlanOptions
	Timing       *Timing                  // see PlanOptions
	Supervise    func(listener int) error // see CreateOptions
}

// A Process is one that Exec has added.
type Process struct {
	Pid      int
	PidFD    int
	Warnings []string

	group *cgroups.Group   // of the container, if it limits memory
	oom   cgroups.OOMCount // in it, before
}

// Wait waits for its end.
func (p *Process) Wait() (syscall.WaitStatus, error) {
	ws, err := reap(p.Pid)
	linux.Close(p.PidFD)
	return ws, err
}

// Exec starts a process in the container. When it returns without an error the
// user's program runs.
func (c *Container) Exec(o ExecOptions) (p *Process, err error) {
	target, err := c.process()
	if err != nil {
		return nil, err
	}
	if target < 0 {
		return nil, &StatusError{ID: c.ID, Op: "exec", Have: Stopped}
	}
	defer func() {
		var pe *ProcessError
		if oom := errors.As(err, &pe) && pe.OOM; err != nil && !oom && c.endedWith(target, err) {
			// Whatever it was that failed, this is why.
			p, err = nil, &StatusError{ID: c.ID, Op: "exec", Have: Stopped}
		}
		linux.Close(target)
	}()
	if frozen, err := c.group().Frozen(); err == nil && frozen && !o.IgnorePaused {
		return nil, &StatusError{ID: c.ID, Op: "exec", Have: Paused}
	}
	raw, err := linux.ReadFile(c.Dir()+"/"+configFile, bundle.MaxConfigSize)
	if err != nil {
		return nil, err
	}
	spec, err := bundle.Parse(raw)
	if err != nil {
		return nil, err
	}
	pr, err := o.Process(spec.Process)
	if err != nil {
		return nil, err
	}
	if err := validateProcess(spec, pr); err != nil {
		return nil, err
	}
	console := 0
	if o.Console != nil {
		console = o.Console()
	}
	o.Timing.Mark("record and configuration")
	inner, err := c.openInside()
	if err != nil {
		return nil, err
	}
	defer inner.close()
	e := &execution{console: console, c: c, o: &o, spec: spec, pr: pr, target: target, inner: inner, sync: [2]int{-1, -1}}
	p, err = e.run()
	e.close()
	return p, err
}

// endedWith reports whether err is due to the end of the container's init. One
// that is ending has no namespaces to join any more, ESRCH, and its pid namespace
// takes no processes any more, ENOMEM, before its pidfd says so. By how much is up
// to the scheduler.
func (c *Container) endedWith(pidfd int, err error) bool {
	if ended(pidfd, 0) {
		return true
	}
	return (errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOMEM)) && c.dying()
}

// validateProcess checks a process of exec the way create checks the first one.
func validateProcess(spec *specs.Spec, pr *specs.Process) error {
	if err := bundle.ValidateProcess(pr); err != nil {
		return err
	}
	return checkLabels(pr, nil)
}

type execution struct {
	c       *Container
	o       *ExecOptions
	spec    *specs.Spec
	pr      *specs.Process
	target  int         // pidfd of the container's init
	inner   *inside     // what it is in, if the pidfd does not do
	console int         // see ExecOptions.Console
	hook    *specs.Hook // startContainer: what is executed in place of pr.Args[0]
	attach  bool        // systemd puts the process into the container's scope
	// attachTo is the group below the scope's that it is for: "" or "/sub".
	attachTo string
	score    string // see scoreToGive
	sync     [2]int
	fds      []int
}

func (e *execution) close() {
	for _, fd := range append(e.fds, e.sync[0], e.sync[1]) {
		linux.Close(fd)
	}
}

func (e *execution) run() (*Process, error) {
	if err := checkConsole(e.pr.Terminal, &CreateOptions{ConsoleSocket: e.o.ConsoleSocket, ConsoleFD: e.console}); err != nil {
		return nil, err
	}
	e.score = e.scoreToGive()
	plan, image, err := e.plan()
	if err != nil {
		return nil, err
	}
	e.o.Timing.Mark("plan and program")
	files, err := e.openFiles(&plan.fds)
	if err != nil {
		return nil, err
	}
	pidfdSocket, err := dialPidfd(e.o.PidfdSocket)
	if err != nil {
		return nil, err
	}
	defer linux.Close(pidfdSocket)
	p := &Process{PidFD: -1, Warnings: plan.Warnings}
	if limitsMemory(e.spec) {
		p.group = e.c.group()
		p.oom, _ = p.group.OOMCount()
	}
	restore, err := e.lend()
	if err != nil {
		return nil, err
	}
	err = e.launch(image, files, p)
	restore()
	if err != nil {
		return nil, e.failed(err, p)
	}
	linux.Close(e.sync[1])
	e.sync[1] = -1
	e.o.Timing.Mark("clone and execve of the init")
	if err := e.passGates(image, p); err != nil {
		return nil, e.failed(err, p)
	}
	if plan.Set.All()&unix.CLONE_NEWPID != 0 {
		if err := e.second(image, p); err != nil {
			return nil, e.failed(err, p)
		}
	}
	if err = sendPidfd(pidfdSocket, p.PidFD, "setns"); err == nil {
		err = e.notify(&plan.process.agent, image, p)
	}
	if err == nil {
		err = e.executed(image, p)
	}
	e.o.Timing.Mark("joining, filter and execve")
	if err == nil && e.o.PidFile != "" {
		err = writePidFile(e.o.PidFile, p.Pid)
	}
	if err != nil {
		// One that is not reaped would hold up the end of the container's whole
		// pid namespace.
		_ = unix.PidfdSendSignal(p.PidFD, unix.SIGKILL, nil, 0)
		_, _ = p.Wait()
		return nil, e.failed(err, p)
	}
	return p, nil
}

// executed waits until execve has closed the process's end of the socket.
func (e *execution) executed(image *initprog.Image, p *Process) error {
	var buf [initprog.RecordSize]byte
	n, err := e.o.Timing.read(e.sync[0], buf[:])
	switch {
	case err != nil:
		return err
	case n == 0:
		return hasExecuted(p.Pid, p.PidFD)
	}
	return stepFailure(image.Failure(initprog.ParseRecord(buf[:])))
}

func (e *execution) failed(err error, p *Process) error {
	if p.group != nil {
		if why := whyKilled(e.c.ID, err, p.group, p.oom); why != err { //nolint:errorlint // the same or another
			return why
		}
	}
	if e.c.Cgroup != "" {
		err = pidsLimit(err, e.c.group())
	}
	return &ProcessError{ID: e.c.ID, Err: err}
}

// plan makes the program that enters the container and becomes the process.
func (e *execution) plan() (*Plan, *initprog.Image, error) {
	p := &Plan{ID: e.c.ID, Spec: e.spec, Bundle: e.c.Bundle, report: e.o.DenialReport, timing: e.o.Timing, fds: layout(e.o.PreserveFDs)}
	if e.spec.Linux == nil {
		e.spec.Linux = &specs.Linux{}
	}
	set, err := namespaces.FromSpec(e.spec.Linux.Namespaces)
	if err != nil {
		return nil, nil, err
	}
	p.Set = set
	root, err := e.c.rootOf(e.inner)
	if err != nil {
		return nil, nil, &StatusError{ID: e.c.ID, Op: "exec", Have: Stopped}
	}
	defer linux.Close(root)
	if err := p.planProcess(e.pr, e.spec.Linux.Seccomp, root, gateNone); err != nil {
		return nil, nil, err
	}
	if e.hook != nil {
		p.process.asHook(e.hook)
	}
	p.process.exec = e.hook == nil
	p.Steps = append(p.Steps, &harden{p.ID, p.fds.sync})
	if err := e.planAttach(); err != nil {
		return nil, nil, err
	}
	p.Steps = append(p.Steps, e.gates()...)
	p.Steps = append(p.Steps, labels(e.pr)...)
	p.Steps = append(p.Steps, e.enter(p),
		&session{keyring: e.c.ID, skip: e.c.NoNewKeyring, join: true})
	if e.pr.Terminal {
		var h, w uint16
		if z := e.pr.ConsoleSize; z != nil {
			h, w = uint16(z.Height), uint16(z.Width)
		}
		p.Steps = append(p.Steps, rootfs.Console(initprog.FD(p.fds.console), e.pr.User.UID, h, w))
	}
	if set.All()&unix.CLONE_NEWPID != 0 {
		p.Steps = append(p.Steps, p.process.stepsApart(p.fds.sync)...)
	} else {
		if e.pr.Terminal {
			p.Steps = append(p.Steps, &controlTerminal{})
		}
		p.Steps = append(p.Steps, p.process.steps()...)
	}
	image, _, err := p.compile()
	return p, image, err
}

// enter is the step that joins the namespaces of the container.
func (e *execution) enter(p *Plan) *enter {
	return &enter{initprog.FD(p.fds.listen), e.joinFlags(p.Set), p.fds.root, e.inner.spaces(p.fds.root)}
}

// joinFlags are the namespaces that the program joins. Joining the user
// namespace one is in already is an error.
func (e *execution) joinFlags(set namespaces.Set) uint64 {
	flags := set.All()
	if flags&unix.CLONE_NEWUSER != 0 && sameNamespace(e.c.Pid, "user") {
		flags &^= unix.CLONE_NEWUSER
	}
	return flags
}

func sameNamespace(pid int, name string) bool {
	var a, b unix.Stat_t
	return unix.Stat("/proc/self/ns/"+name, &a) == nil &&
		unix.Stat("/proc/"+strconv.Itoa(pid)+"/ns/"+name, &b) == nil && a.Ino == b.Ino && a.Dev == b.Dev
}

func (e *execution) openFiles(l *fdLayout) ([]int, error) {
	files := make([]int, l.root)
	copy(files, e.o.Stdio[:])
	if err := preserved(files, l.preserve); err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	e.sync = pair
	files[l.sync], files[l.listen], files[l.console] = pair[1], e.target, -1
	if e.console > 0 {
		files[l.console] = e.console
	} else if e.o.ConsoleSocket != "" {
		fd, err := dial(e.o.ConsoleSocket)
		if err != nil {
			return nil, err
		}
		e.fds = append(e.fds, fd)
		files[l.console] = fd
	}
	if e.inner != nil {
		files = append(files, e.inner.fds[1:]...)
	}
	return files, nil
}

// launch starts the program inside the container's cgroup and pid namespace.
func (e *execution) launch(image *initprog.Image, files []int, p *Process) error {
	if e.c.Cgroup == "" && e.o.Cgroup == "" || e.attach || e.o.Move {
		return e.launchAt(-1, image, files, p)
	}
	return e.inGroup(func(group *cgroups.Group) error { return e.launchIn(group, image, files, p) })
}

// inGroup does something with the group that the process is for.
func (e *execution) inGroup(do func(*cgroups.Group) error) error {
	group := e.c.group()
	if e.o.Cgroup != "" {
		var err error
		if group, err = group.Sub(e.o.Cgroup); err != nil {
			return err
		}
	}
	err := do(group)
	if errors.Is(err, unix.EBUSY) && e.o.Cgroup == "" {
		// The container has made groups of its own, with controllers, and no
		// process may be in ours any more: join its init where that is.
		if group, err = e.c.initGroup(); err == nil {
			err = do(group)
		}
	}
	if err != nil && e.c.Unit != "" && unprivileged(err) {
		return &ScopeError{e.c.Unit, err}
	}
	if err != nil && e.o.Cgroup == "" {
		err = e.c.gone("exec", err)
	}
	return err
}

func (e *execution) launchIn(group *cgroups.Group, image *initprog.Image, files []int, p *Process) error {
	cgroup, err := group.FD()
	if err != nil {
		return err
	}
	defer linux.Close(cgroup)
	return e.launchAt(cgroup, image, files, p)
}

func (e *execution) launchAt(cgroup int, image *initprog.Image, files []int, p *Process) (err error) {
	p.Pid, p.PidFD, err = image.Start(initprog.Options{
		Args: []string{initprog.Name, e.c.ID}, Files: files, CgroupFD: cgroup, Fallback: e.c.Dir(),
	})
	return err
}
