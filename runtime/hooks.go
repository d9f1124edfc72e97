package runtime

import (
	"errors"
	"fmt"
	"math"
	"os"
	goruntime "runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/minirun/minirun/internal/jsonread"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/runtime/bundle"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Hooks are programs that config.json wants run at points of a container's life
// (config.md, "POSIX-platform Hooks"). Those of the runtime's namespaces are
// children of ours, started here. Those of the container's are children of ours
// too, but what becomes them is a program of system calls that joins the
// container, as for exec: hooks_inside.go. So for all of them it is this process,
// on the host, that has their output, their exit status and their deadline.
//
//	prestart, createRuntime  create   ours, when everything is mounted and before the change of the root
//	createContainer          create   the container's, right after those; the path is one of the host
//	startContainer           start    the container's, as the user of its process
//	poststart                start    ours, when the process runs
//	poststop                 delete   ours, when no process is left; also after a create that failed

// DefaultHookTimeout is how long a hook without a timeout of its own may take.
const DefaultHookTimeout = 2 * time.Minute

// hookOutput is how much of a hook's output, its end, is kept for the error.
const hookOutput = 4 << 10

// Hooks that matter after create, as State.Hooks records them.
const (
	hooksStartContainer = 1 << iota
	hooksPoststart
	hooksPoststop
)

// laterHooks is State.Hooks for a configuration.
func laterHooks(h *specs.Hooks) (set uint64) {
	if h == nil {
		return 0
	}
	if len(h.StartContainer) > 0 {
		set |= hooksStartContainer
	}
	if len(h.Poststart) > 0 {
		set |= hooksPoststart
	}
	if len(h.Poststop) > 0 {
		set |= hooksPoststop
	}
	return set
}

// atCreate reports whether create runs hooks while the init waits.
func atCreate(h *specs.Hooks) bool {
	return h != nil && len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer) > 0 //nolint:staticcheck // deprecated and still used
}

// HookError reports a hook that failed.
type HookError struct {
	Kind   string // as in config.json: "createRuntime"
	Index  int
	Path   string
	Err    error
	Output string // the end of what it wrote
}

func (e *HookError) Error() string {
	t := "error running " + e.Kind + " hook #" + strconv.Itoa(e.Index) + " " + strconv.Quote(e.Path) + ": " + e.Err.Error()
	if out := strings.TrimSpace(e.Output); out != "" {
		t += ", output: " + oneLine(out)
	}
	return t
}

func (e *HookError) Unwrap() error { return e.Err }

// Hint says what to look at.
func (e *HookError) Hint() string {
	at := "hooks." + e.Kind + "[" + strconv.Itoa(e.Index) + "]"
	var late *hookTimeout
	switch {
	case errors.As(e.Err, &late) && late.own:
		return at + ".timeout is the limit"
	case errors.As(e.Err, &late):
		return "set " + at + ".timeout, or minirun --hook-timeout for hooks without one"
	case errors.Is(e.Err, unix.ENOENT) && e.Kind == "startContainer":
		return at + ".path is a path inside the container"
	case errors.Is(e.Err, unix.ENOENT):
		return at + ".path is a path on the host"
	}
	return ""
}

// hookTimeout is the end of a hook that took too long.
type hookTimeout struct {
	limit time.Duration
	own   bool // the limit is the hook's own
}

func (e *hookTimeout) Error() string { return "killed: it has not ended within " + e.limit.String() }

func oneLine(s string) string {
	for _, c := range []byte(s) {
		if c < ' ' || c == 0x7f {
			return strconv.Quote(s)
		}
	}
	return s
}

// appendState is the state of the container as the specification has it
// (runtime.md, "State"). A pid of 0 is none.
func (c *Container) appendState(b []byte, status Status, pid int) []byte {
	str := func(key, v string) { b = jsonread.AppendString(append(b, key...), v) }
	str(`{"ociVersion":`, c.OCIVersion)
	str(`,"id":`, c.ID)
	str(`,"status":`, string(status))
	if pid > 0 {
		b = append(b, `,"pid":`...)
		b = jsonread.AppendInt(b, int64(pid))
	}
	str(`,"bundle":`, c.Bundle)
	if len(c.Annotations) > 0 {
		b = AppendAnnotations(append(b, `,"annotations":`...), c.Annotations)
	}
	return append(b, '}')
}

// A hookRun is one hook about to run.
type hookRun struct {
	kind  string
	index int
	hook  *specs.Hook
	state []byte        // for its standard input
	limit time.Duration // without a timeout of its own; <= 0: none
	dir   string        // working directory, on the host
	// signals end it, if not nil.
	signals  *Signals
	fallback string // see newHookGuard
	// inside, if not nil, starts it in the container.
	inside func(stdio [3]int, hook *specs.Hook) (pid, pidfd int, err error)
}

// run runs the hook to its end. Of a hook that fails nothing stays: what it has
// left in its process group is killed.
func (h *hookRun) run() error {
	w := &hookWatch{limit: h.limit, signals: h.signals}
	if h.hook.Timeout != nil {
		w.limit = hookLimit(*h.hook.Timeout)
	}
	ws, err := h.start(w)
	if err == nil && ws != 0 {
		err = hookStatus(ws)
	}
	if err == nil {
		return nil
	}
	if late := (*hookTimeout)(nil); errors.As(err, &late) {
		late.own = h.hook.Timeout != nil
	}
	return &HookError{Kind: h.kind, Index: h.index, Path: h.hook.Path, Err: err, Output: string(w.output)}
}

// hookLimit is a hook's timeout, given in seconds. More of them than nanoseconds
// have room for are no short time.
func hookLimit(seconds int) time.Duration {
	return time.Duration(min(seconds, math.MaxInt32)) * time.Second
}

func hookStatus(ws syscall.WaitStatus) error {
	if ws.Signaled() {
		return errors.New("signal: " + ws.Signal().String())
	}
	return errors.New("exit status " + strconv.Itoa(ws.ExitStatus()))
}

func (h *hookRun) start(w *hookWatch) (syscall.WaitStatus, error) {
	in, err := stateFD(h.state)
	if err != nil {
		return 0, err
	}
	var out [2]int
	if err := unix.Pipe2(out[:], unix.O_CLOEXEC); err != nil {
		linux.Close(in)
		return 0, os.NewSyscallError("pipe2", err)
	}
	defer linux.Close(out[0])
	_ = unix.SetNonblock(out[0], true)
	// The hook dies with us. That is the death of the thread that started it.
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	start := h.inside
	if start == nil {
		guard, err := newHookGuard(h.fallback)
		if err != nil {
			linux.Close(in)
			linux.Close(out[1])
			return 0, err
		}
		defer guard.end()
		w.group = guard.pid
		start = func(stdio [3]int, hook *specs.Hook) (int, int, error) { return h.outside(stdio, hook, guard.pid) }
	}
	pid, pidfd, err := start([3]int{in, out[1], out[1]}, h.hook)
	linux.Close(in)
	linux.Close(out[1])
	if err != nil {
		return 0, err
	}
	return w.wait(pid, pidfd, out[0])
}

// outside starts a hook in our own namespaces, in the process group of its guard.
func (h *hookRun) outside(stdio [3]int, hook *specs.Hook, group int) (pid, pidfd int, err error) {
	// What our caller has left open, a pipe whose end it waits for, say, is not
	// the hook's.
	if err := unix.CloseRange(3, ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return 0, -1, os.NewSyscallError("close_range", err)
	}
	dir := h.dir
	if unix.Access(dir, unix.X_OK) != nil { // the bundle may be gone when the container is deleted
		dir = "/"
	}
	attr := syscall.ProcAttr{
		Dir: dir, Env: hook.Env, Files: []uintptr{uintptr(stdio[0]), uintptr(stdio[1]), uintptr(stdio[2])},
		Sys: &syscall.SysProcAttr{Setpgid: true, Pgid: group, Pdeathsig: unix.SIGKILL, PidFD: &pidfd},
	}
	pid, err = syscall.ForkExec(hook.Path, hookArgs(hook), &attr)
	return pid, pidfd, err
}

func hookArgs(h *specs.Hook) []string {
	if len(h.Args) == 0 {
		return []string{h.Path}
	}
	return h.Args
}

// stateFD is a file with the state that can only be read. Not a pipe: a hook that
// does not read its input does not keep us, and none can change it for another.
func stateFD(state []byte) (int, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("minirun:state", flags|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL { // before Linux 6.3
		fd, err = unix.MemfdCreate("minirun:state", flags)
	}
	if err != nil {
		return -1, os.NewSyscallError("memfd_create for the state", err)
	}
	defer linux.Close(fd)
	if err := linux.WriteAll(fd, state); err != nil {
		return -1, os.NewSyscallError("write the state", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		return -1, os.NewSyscallError("fcntl F_ADD_SEALS", err)
	}
	return linux.OpenAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDONLY, 0)
}

// hookWatch waits for a hook.
type hookWatch struct {
	limit   time.Duration
	signals *Signals
	group   int // its process group, if that is not its own
	output  []byte
}

// wait reads what the hook writes until it ends. Its end is that of its process:
// what it leaves in the background may keep the pipe open.
func (w *hookWatch) wait(pid, pidfd, out int) (ws syscall.WaitStatus, err error) {
	defer linux.Close(pidfd)
	deadline := time.Now().Add(w.limit)
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}, {Fd: int32(out), Events: unix.POLLIN}, {Fd: -1, Events: unix.POLLIN}}
	if w.signals != nil {
		fds[2].Fd = int32(w.signals.FD)
	}
	if w.group == 0 {
		w.group = pid
	}
	for fds[0].Revents == 0 {
		timeout := -1
		if w.limit > 0 {
			left := time.Until(deadline)
			if left <= 0 {
				err = &hookTimeout{limit: w.limit}
				break
			}
			timeout = int(min(left.Milliseconds(), 1<<30)) + 1 // an int of C
		}
		if _, e := unix.Poll(fds, timeout); e != nil && e != unix.EINTR {
			err = os.NewSyscallError("poll", e)
			break
		}
		if fds[1].Revents != 0 && !w.read(out) {
			fds[1].Fd = -1 // everybody has closed it
		}
		if fds[2].Revents != 0 && fds[0].Revents == 0 {
			if sig := w.signals.ending(); sig != 0 {
				err = &InterruptError{sig}
				break
			}
		}
	}
	if err != nil {
		// As long as the leader is not reaped, the number of the group is its own.
		_ = unix.Kill(-w.group, unix.SIGKILL)
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		if !ended(pidfd, killTimeout) {
			return 0, fmt.Errorf("%w; process %d does not end: it hangs in the kernel, see /proc/%d/stack", err, pid, pid)
		}
	}
	for i := 0; i < 64 && w.read(out); i++ { // what is in the pipe, and no more
	}
	if !linux.ExitedZero(pid) {
		_ = unix.Kill(-w.group, unix.SIGKILL)
	}
	ws, e := reap(pid)
	if err == nil && e != nil {
		err = os.NewSyscallError("wait4", e)
	}
	return ws, err
}

// read takes some of what there is, and keeps the end of it.
func (w *hookWatch) read(out int) bool {
	var buf [hookOutput]byte
	n, _ := linux.Read(out, buf[:])
	w.output = append(w.output, buf[:n]...)
	if more := len(w.output) - hookOutput; more > 0 {
		w.output = append(w.output[:0], w.output[more:]...)
	}
	return n > 0
}

// runHooks runs the hooks of one kind in order, up to the first that fails.
func (c *Container) runHooks(kind string, hooks []specs.Hook, status Status, pid int,
	inside func(stdio [3]int, hook *specs.Hook) (int, int, error),
) error {
	if len(hooks) == 0 {
		return nil
	}
	signals, release := c.store.signals()
	defer release()
	state := c.appendState(make([]byte, 0, 512), status, pid)
	for i := range hooks {
		h := hookRun{
			kind: kind, index: i, hook: &hooks[i], state: state, limit: c.store.hookTimeout(), dir: c.Bundle, inside: inside,
			signals: signals, fallback: c.Dir(),
		}
		if err := h.run(); err != nil {
			return err
		}
	}
	if signals != c.store.Signals { // nobody else would hear of one that came while the last hook ended
		if sig := signals.ending(); sig != 0 {
			return &InterruptError{sig}
		}
	}
	return nil
}

// hookTimeout is the limit for hooks without one.
func (s *Store) hookTimeout() time.Duration {
	if s.HookTimeout == 0 {
		return DefaultHookTimeout
	}
	return s.HookTimeout
}

// config is the configuration as it was at create.
func (c *Container) config(dir int) (*specs.Spec, error) {
	raw, err := linux.ReadFileAt(dir, configFile, bundle.MaxConfigSize)
	if err != nil {
		return nil, err
	}
	return bundle.Parse(raw)
}

// poststop runs the hooks of a container that has ended. It must not fail: what
// goes wrong is told, and the others follow.
func (c *Container) poststop(dir int) {
	if c.Hooks&hooksPoststop == 0 {
		return
	}
	spec, err := c.config(dir)
	if errors.Is(err, unix.ENOENT) {
		return // removed after they had run, by a delete that was killed then
	}
	if err != nil {
		c.store.warn("poststop hooks are not run: " + err.Error())
		return
	}
	c.runPoststop(spec)
}

func (c *Container) runPoststop(spec *specs.Spec) {
	if spec.Hooks == nil {
		return
	}
	signals, release := c.store.signals()
	defer release()
	state := c.appendState(make([]byte, 0, 512), Stopped, 0)
	for i := range spec.Hooks.Poststop {
		h := hookRun{
			kind: "poststop", index: i, hook: &spec.Hooks.Poststop[i], state: state, limit: c.store.hookTimeout(), dir: c.Bundle,
			signals: signals, fallback: c.Dir(),
		}
		if err := h.run(); err != nil {
			c.store.warn("container " + strconv.Quote(c.ID) + ": " + err.Error())
		}
	}
}

func (s *Store) warn(text string) {
	if s.Warn != nil {
		s.Warn(text)
	}
}
