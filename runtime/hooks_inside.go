package runtime

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/namespaces"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// hookGate is where the init waits until create has run its hooks: everything
// is mounted, and the host's files are still there.
type hookGate struct {
	hooks *specs.Hooks
	inner *innerFiles
	meet  bool // it connects the network from within, too
}

func (s *hookGate) Phase() string { return "hooks" }
func (s *hookGate) String() string {
	t := "wait while the runtime runs"
	add := func(kind string, hooks []specs.Hook) {
		for i := range hooks {
			t += " " + kind + " " + strings.Join(append([]string{hooks[i].Path}, hookArgs(&hooks[i])[1:]...), " ") + ","
		}
	}
	if s.meet {
		t = "wait while the runtime connects the network, runs"
	}
	if s.hooks == nil {
		return strings.TrimSuffix(t, ", runs")
	}
	add("prestart", s.hooks.Prestart) //nolint:staticcheck // deprecated and still used
	add("createRuntime", s.hooks.CreateRuntime)
	add("createContainer", s.hooks.CreateContainer)
	return strings.TrimSuffix(t, ",")
}

func (s *hookGate) Why() string {
	return "the namespaces are complete, and what is on the host can still be found"
}

func (s *hookGate) Emit(b *initprog.Builder) {
	b.Object("")
	s.inner.emitHandshake(b, namespaces.Hooks)
}

// dieWithParent has the process end with the one that waits for it.
type dieWithParent struct{}

func (s *dieWithParent) Phase() string  { return "session" }
func (s *dieWithParent) String() string { return "end when the runtime does" }
func (s *dieWithParent) Why() string    { return "nobody would wait for the hook" }

func (s *dieWithParent) Emit(b *initprog.Builder) {
	b.Object("")
	b.Prctl(unix.PR_SET_PDEATHSIG, uint64(unix.SIGKILL))
	// Of a death before, only the socket tells.
	dead, alive := b.NewLabel(), b.NewLabel()
	b.HungUp(initprog.Sync()).OnNonzero(dead).OnZero(alive)
	b.Place(dead)
	b.ExitGroup(1)
	b.Place(alive)
}

// hookProgram becomes a createContainer hook.
type hookProgram struct {
	hook *specs.Hook
	dir  string
}

func (s *hookProgram) Phase() string  { return phaseExec }
func (s *hookProgram) String() string { return "execute " + s.hook.Path }
func (s *hookProgram) Why() string    { return "" }

func (s *hookProgram) Emit(b *initprog.Builder) {
	b.Object(s.dir)
	b.Chdir(s.dir).Ignore(unix.EACCES, unix.ENOENT) // of a user namespace's root; then it is /
	b.Object(s.hook.Path)
	b.Execve(s.hook.Path, b.Strings(hookArgs(s.hook)), b.Strings(s.hook.Env))
}

// createHooks runs the hooks of create. The init has told that it waits for
// them, or will, or has failed.
func (t *creation) createHooks() error {
	hooks, c := t.plan.Spec.Hooks, t.c
	if !atCreate(hooks) && t.o.ConnectInside == nil {
		return nil
	}
	if err := t.await(namespaces.Hooks); err != nil {
		return t.explain(err)
	}
	if t.o.ConnectInside != nil {
		if err := t.connectInside(); err != nil {
			return t.explain(err)
		}
		t.o.Timing.Mark("network")
	}
	if !atCreate(hooks) {
		if err := t.answer(); err != nil {
			return t.explain(err)
		}
		return nil
	}
	err := c.runHooks("prestart", hooks.Prestart, Creating, c.Pid, nil) //nolint:staticcheck // deprecated and still used
	if err == nil {
		err = c.runHooks("createRuntime", hooks.CreateRuntime, Creating, c.Pid, nil)
	}
	if err == nil && len(hooks.CreateContainer) > 0 {
		e := &execution{c: c, target: t.pidfd, sync: [2]int{-1, -1}}
		if e.inner, err = t.inner(); err != nil {
			return t.explain(err)
		}
		defer e.inner.close()
		err = c.runHooks("createContainer", hooks.CreateContainer, Creating, innerPid(c.Pid),
			func(stdio [3]int, hook *specs.Hook) (int, int, error) {
				return e.startHook(stdio, func() (*Plan, *initprog.Image, error) { return e.planCreateContainer(t.plan, hook) })
			})
	}
	if err == nil {
		err = t.answer()
	}
	if err != nil {
		return t.explain(err)
	}
	return nil
}

// planCreateContainer is the program that joins the namespaces of an init that
// has not changed its root yet: in its mount namespace, / is the host's.
func (e *execution) planCreateContainer(of *Plan, hook *specs.Hook) (*Plan, *initprog.Image, error) {
	p := &Plan{ID: of.ID, Bundle: of.Bundle, Set: of.Set, fds: layout(0)}
	if err := e.planAttach(); err != nil {
		return nil, nil, err
	}
	p.Steps = append(append(p.Steps, &harden{p.ID, p.fds.sync}), e.gates()...)
	p.Steps = append(p.Steps, e.enter(p),
		&session{keyring: of.ID, skip: e.c.NoNewKeyring, join: true})
	if p.Set.All()&unix.CLONE_NEWPID != 0 {
		p.Steps = append(p.Steps, &appear{}, &leader{})
	}
	p.Steps = append(p.Steps, &dieWithParent{}, &hookProgram{hook, of.Rootfs})
	image, _, err := p.compile()
	return p, image, err
}

// asHook makes of the process, which is the container's, a hook.
func (p *process) asHook(h *specs.Hook) {
	p.file, p.mortal = h.Path, true
	if len(h.Env) > 0 { // else the process's, as with other runtimes
		p.env = h.Env
	}
}

// startHook starts the program that plan returns, a hook, in the container. The
// caller waits for it.
func (e *execution) startHook(stdio [3]int, plan func() (*Plan, *initprog.Image, error)) (pid, pidfd int, err error) {
	o := ExecOptions{Stdio: stdio}
	if e.o != nil { // of the hook before
		o.DenialReport, o.Supervise = e.o.DenialReport, e.o.Supervise
	}
	e.o = &o
	defer func() {
		e.close()
		e.sync, e.fds = [2]int{-1, -1}, nil
	}()
	p, image, err := plan()
	if err != nil {
		return 0, -1, err
	}
	files, err := e.openFiles(&p.fds)
	if err != nil {
		return 0, -1, err
	}
	process := &Process{PidFD: -1}
	if err := e.launch(image, files, process); err != nil {
		return 0, -1, err
	}
	linux.Close(e.sync[1])
	e.sync[1] = -1
	if err := e.passGates(image, process); err != nil {
		return 0, -1, err
	}
	if p.Set.All()&unix.CLONE_NEWPID != 0 {
		if err := e.second(image, process); err != nil {
			return 0, -1, hookFailure(err)
		}
	}
	if p.process != nil {
		err = e.notify(&p.process.agent, image, process)
	}
	if err == nil {
		err = e.executed(image, process)
	}
	if err != nil {
		_ = unix.PidfdSendSignal(process.PidFD, unix.SIGKILL, nil, 0)
		_, _ = process.Wait()
		return 0, -1, hookFailure(err)
	}
	return process.Pid, process.PidFD, nil
}

// hookFailure leaves out the name of the program, which the error has already.
func hookFailure(err error) error {
	var e *ExecError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// startHooks runs the startContainer hooks of a container that is being run.
func (t *creation) startHooks() error {
	if err := t.await(namespaces.Ready); err != nil {
		return t.explain(err)
	}
	t.early = namespaces.Ready
	t.c.Supervise = t.o.Supervise
	inner, err := t.inner()
	if err == nil {
		err = t.c.startContainer(t.plan.Spec, t.pidfd, inner)
	}
	inner.close()
	if err != nil {
		return t.explain(err)
	}
	return nil
}

// hooksOfStart reads the configuration if start has hooks to run.
func (c *Container) hooksOfStart(dir int) (*specs.Spec, error) {
	if c.Hooks&(hooksStartContainer|hooksPoststart) == 0 {
		return nil, nil
	}
	spec, err := c.config(dir)
	if err == nil && (spec.Hooks == nil || spec.Process == nil) {
		err = errors.New(configFile + " has lost its hooks")
	}
	return spec, err
}

// startContainer runs the hooks inside the container, as the process will run:
// with its user, its capabilities and its filter.
func (c *Container) startContainer(spec *specs.Spec, pidfd int, inner *inside) error {
	if c.Hooks&hooksStartContainer == 0 {
		return nil
	}
	if inner == nil {
		var err error
		if inner, err = c.openInside(); err != nil {
			return err
		}
		defer inner.close()
	}
	e := &execution{c: c, spec: spec, target: pidfd, inner: inner, sync: [2]int{-1, -1}}
	e.o = &ExecOptions{DenialReport: c.Agent.Report, Supervise: c.Supervise}
	return c.runHooks("startContainer", spec.Hooks.StartContainer, Created, innerPid(c.Pid),
		func(stdio [3]int, hook *specs.Hook) (int, int, error) {
			pr := *spec.Process
			pr.Args, pr.Terminal, pr.ConsoleSize = hookArgs(hook), false, nil
			e.pr, e.hook = &pr, hook
			return e.startHook(stdio, e.plan)
		})
}

func (c *Container) poststart(spec *specs.Spec) error {
	if c.Hooks&hooksPoststart == 0 {
		return nil
	}
	return c.runHooks("poststart", spec.Hooks.Poststart, Running, c.Pid, nil)
}

// stop ends a container whose start has failed with err. It stays, stopped, for
// delete.
func (c *Container) stop(dir, pidfd int, err error) error {
	errs := []error{&ProcessError{ID: c.ID, Err: err}}
	if c.Cgroup != "" {
		if g := c.group(); g.Exists() {
			errs = append(errs, g.Kill())
		}
	}
	_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
	if !ended(pidfd, killTimeout) {
		errs = append(errs, errors.New("container init still running: process "+strconv.Itoa(c.Pid)+" does not end"))
	}
	if e := unix.Unlinkat(dir, startFile, 0); e != nil && e != unix.ENOENT {
		errs = append(errs, os.NewSyscallError("unlink "+startFile, e))
	}
	return errors.Join(errs...)
}

// innerPid is the number of a process in its own pid namespace.
func innerPid(pid int) int {
	b, err := linux.ReadFile("/proc/"+strconv.Itoa(pid)+"/status", 16<<10)
	if err != nil {
		return pid
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if v, ok := strings.CutPrefix(line, "NSpid:"); ok {
			f := strings.Fields(v)
			if len(f) > 0 {
				if n, err := strconv.Atoi(f[len(f)-1]); err == nil {
					return n
				}
			}
		}
	}
	return pid
}
