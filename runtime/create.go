package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/minirun/minirun/cgroups"
	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/namespaces"
	"github.com/minirun/minirun/runtime/bundle"
	"golang.org/x/sys/unix"
)

// CreateOptions say how to create a container.
type CreateOptions struct {
	ID     string
	Bundle *bundle.Bundle
	PlanOptions
	Stdio         [3]int // standard streams of the container; not used with a Monitor
	Monitor       *Monitor
	ConsoleSocket string // path of the socket that receives the terminal's master
	ConsoleFD     int    // the same as an open descriptor, if > 0
	RootFD        int    // the detached mount of PlanOptions.RootMount
	PidFile       string
	PidfdSocket   string            // path of the socket that receives a pidfd of the init
	Notifier      *Notifier         // if not nil, passes on that the container is ready
	Debug         func(text string) // if not nil, is told every step of the plan
	// Supervise starts the process that reports denied calls, see PlanOptions.DenialReport.
	Supervise func(listener int) error
	// Reservation, if not nil, is the ID's, taken before.
	Reservation *Reservation
	// Connect, if not nil, attaches the network namespace of the init, pid, to
	// networks. It is undone by the reservation's release.
	Connect func(pid int) error
	// ConnectInside, if not nil, does it from within, as an ordinary user can: user and
	// net are open on the init's namespaces. user is -1 if it is ours. The mounts are
	// there, and hooks have not run.
	ConnectInside func(pid, user, net int) error
}

// A Reservation is an ID taken for a container that will be created soon, and
// the record of what is made for it meanwhile.
type Reservation struct {
	c       *Container
	dir     int
	release func() error
}

// Reserve takes the ID and records what the layer above is going to make, so
// that it can be found if we are killed. release takes that back; it is called
// when creating the container fails.
func (s *Store) Reserve(id, snapshot string, release func() error) (*Reservation, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	dir, err := s.makeDir(id)
	if err != nil {
		return nil, err
	}
	r := &Reservation{dir: dir, release: release, c: &Container{store: s, State: State{ID: id, Snapshot: snapshot, Created: time.Now().UTC()}}}
	err = r.c.save(dir)
	if err == nil {
		err = replaceFile(dir, snapshotFile, []byte(snapshot))
	}
	if err != nil {
		return nil, errors.Join(err, r.Cancel())
	}
	return r, nil
}

// Dir is the directory of the record.
func (r *Reservation) Dir() string { return r.c.Dir() }

// Cancel gives the ID back. It is for a reservation that was not handed to
// Create or Run; those do it themselves.
func (r *Reservation) Cancel() error {
	defer linux.Close(r.dir)
	if err := r.release(); err != nil {
		return err // the record stays: delete finds what is left
	}
	return r.c.removeDir(r.dir)
}

// How long the end of a killed container may take. Longer means that a process
// is stuck in the kernel, which the error says.
const killTimeout = 10 * time.Second

// Create makes a container that waits for start. On error nothing is left.
func (s *Store) Create(o CreateOptions) (*Container, error) {
	o.gate = gateStart
	return s.create(o)
}

// Run makes a container whose process runs when Run returns.
func (s *Store) Run(o CreateOptions) (*Container, error) {
	o.gate = gateReady
	return s.create(o)
}

func (s *Store) create(o CreateOptions) (*Container, error) {
	o.Root, o.meet = o.RootFD, o.ConnectInside != nil
	if o.Notifier != nil {
		o.notifyDir = s.root + "/" + o.ID + "/" + notifyDir
	}
	t, err := s.newCreation(&o)
	if err != nil {
		if o.Reservation != nil {
			err = errors.Join(err, o.Reservation.Cancel())
		}
		return nil, err
	}
	err = t.run()
	t.close()
	if err != nil {
		return nil, err
	}
	return t.c, nil
}

// newCreation works out everything that can be before anything is made.
func (s *Store) newCreation(o *CreateOptions) (*creation, error) {
	plan, err := NewPlan(o.ID, o.Bundle, o.PlanOptions)
	if err != nil {
		return nil, err
	}
	o.Timing.Mark("plan")
	if err := checkConsole(plan.Spec.Process.Terminal, o); err != nil {
		return nil, err
	}
	if o.Debug != nil {
		for _, step := range plan.Steps {
			o.Debug(step.Phase() + ": " + step.String())
		}
	}
	if err := plan.process.agent.check(); err != nil {
		return nil, err
	}
	mount, err := cgroups.Mount()
	if err != nil && plan.Cgroup != "" {
		return nil, err
	}
	if err := plan.connect(); err != nil {
		return nil, err
	}
	image, gateOp, err := plan.compile()
	if err != nil {
		return nil, err
	}
	o.Timing.Mark("program")
	t := &creation{o: o, plan: plan, image: image, gateOp: gateOp, dir: -1, cgroup: -1, pidfd: -1, sync: [2]int{-1, -1}}
	t.c = &Container{store: s, Warnings: plan.Warnings, State: State{
		ID: o.ID, OCIVersion: plan.Spec.Version, Bundle: plan.Bundle, Rootfs: plan.Rootfs,
		Created: time.Now().UTC(), CgroupMount: mount, Cgroup: plan.Cgroup, Namespaces: plan.Set.All(), Own: plan.Set.New,
		Owner: uint32(os.Geteuid()), Annotations: plan.Spec.Annotations,
		Agent: plan.process.agent, Hooks: laterHooks(plan.Spec.Hooks), NoNewKeyring: o.NoNewKeyring, Rdt: plan.rdt,
	}}
	if u := plan.unit; u != nil {
		t.c.Unit, t.c.UnitUser = u.Name, u.User
	}
	if r := o.Reservation; r != nil {
		t.c.Snapshot = r.c.Snapshot
	}
	return t, nil
}

func checkConsole(terminal bool, o *CreateOptions) error {
	has := o.ConsoleSocket != "" || o.ConsoleFD > 0 || o.Monitor != nil
	switch {
	case terminal && !has:
		return errors.New("cannot allocate tty if runc will detach without setting console socket")
	case !terminal && o.ConsoleSocket != "":
		return errors.New("cannot use console socket if runc will not detach or allocate tty")
	}
	return nil
}

// creation is the transaction that makes a container.
type creation struct {
	o      *CreateOptions
	plan   *Plan
	image  *initprog.Image
	gateOp int // first op whose failure belongs to start
	c      *Container

	dir     int // the locked state directory
	cgroup  int
	group   *cgroups.Group
	oom     cgroups.OOMCount // of a group that existed before
	sync    [2]int           // our end, the init's end
	pidfd   int
	asked   bool // systemd was asked for the unit: it may be ours
	holder  int  // placeholder of a unit, until it is reaped
	first   int  // first process of a staged start, until it is reaped
	monitor *monitoring
	early   uint64 // what the init said before its pid was known, or nobody waited for it
	fds     []int  // to close at the end

	devices *deviceMove // network devices that were moved
}

func (t *creation) close() {
	t.devices.close()
	t.plan.unit.close()
	t.monitor.close()
	for _, fd := range append(t.fds, t.sync[0], t.sync[1], t.cgroup, t.pidfd, t.dir) {
		linux.Close(fd)
	}
}

// run does the steps in order; each that leaves something behind is recorded
// before or undone in undo.
func (t *creation) run() (err error) {
	c := t.c
	// The record comes first: what is in it is what delete removes.
	if r := t.o.Reservation; r != nil {
		t.dir = r.dir
	} else if t.dir, err = c.store.makeDir(c.ID); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			if t.group != nil {
				err = whyKilled(c.ID, err, t.group, t.oom)
			}
			err = errors.Join(err, t.undo())
		}
	}()
	if err = t.checkCgroup(); err != nil {
		return err
	}
	if c.Hooks != 0 { // delete finds them there
		if err = replaceFile(t.dir, configFile, t.o.Bundle.Raw); err != nil {
			return err
		}
	}
	if err = c.save(t.dir); err != nil {
		return err
	}
	t.o.Timing.Mark("record")
	if err = t.makeCgroup(); err != nil {
		return err
	}
	if err = c.makeRdt(t.plan.Spec.Linux.IntelRdt); err != nil {
		return err
	}
	if err = t.makeNotify(); err != nil {
		return err
	}
	t.o.Timing.Mark("cgroup")
	files, err := t.openFiles()
	if err != nil {
		return err
	}
	pidfdSocket, err := dialPidfd(t.o.PidfdSocket)
	if err != nil {
		return err
	}
	defer linux.Close(pidfdSocket)
	t.o.Timing.Mark("sockets and namespaces to join")
	if err = t.launch(files); err != nil {
		return t.explain(err)
	}

	// The init mounts while we do the rest of our part.
	if err = t.finishState(); err != nil {
		return err
	}
	t.o.Timing.Mark("final record")
	if err = t.applyLimits(); err != nil {
		return t.explain(err)
	}
	if err = c.joinRdt(c.Pid); err != nil {
		return t.explain(err)
	}
	if err = t.setOOMScore(); err != nil {
		return err
	}
	t.o.Timing.Mark("limits")
	if err = sendPidfd(pidfdSocket, t.pidfd, "standard"); err != nil {
		return err
	}
	if err = t.moveDevices(); err != nil {
		return err
	}
	if t.o.Connect != nil {
		if err = t.o.Connect(t.c.Pid); err != nil {
			return t.explain(err)
		}
		t.o.Timing.Mark("network")
	}
	if err = t.createHooks(); err != nil {
		return err
	}
	if t.plan.Spec.Hooks != nil {
		t.o.Timing.Mark("hooks of create")
	}
	if err = t.open(); err != nil {
		return err
	}
	if t.o.PidFile != "" {
		if err = writePidFile(t.o.PidFile, c.Pid); err != nil {
			return err
		}
		t.o.Timing.Mark("pid file")
	}
	c.exit = &exitInfo{pidfd: t.pidfd, oom: t.oom}
	t.pidfd = -1
	return nil
}

// open makes the record that of a complete container and opens the gate that
// the init waits at. Killed before, we leave a container that start refuses and
// delete removes.
func (t *creation) open() error {
	if t.o.gate == gateStart {
		if err := t.await(namespaces.Ready); err != nil {
			return t.explain(err)
		}
		t.o.Timing.Mark("wait for the init")
		if err := t.alive(); err != nil {
			return err
		}
		if err := t.completeMonitor(); err != nil {
			return err
		}
		if err := renameState(t.dir); err != nil {
			return err
		}
		if t.plan.process.alone { // until now its end was ours: no record led to it
			if err := t.answer(); err != nil && !errors.Is(err, errInitDied) {
				return err
			}
		}
		return nil
	}
	if err := renameState(t.dir); err != nil {
		return err
	}
	if t.c.Hooks&hooksStartContainer != 0 {
		if err := t.startHooks(); err != nil {
			return err
		}
		t.o.Timing.Mark("hooks of start")
	}
	// All limits are in place: the init need not wait when it gets there.
	if err := t.answer(); err != nil && !errors.Is(err, errInitDied) {
		return t.explain(err)
	}
	if err := t.await(namespaces.Ready); err != nil {
		return t.explain(err)
	}
	t.o.Timing.Mark("wait for the init")
	// The init goes on whatever becomes of the monitor: what may have run has been
	// started, and has lost its monitor, as at any later time.
	if err := t.completeMonitor(); err != nil && err != errMonitorKilled {
		return err
	}
	if err := t.notify(); err != nil {
		return t.explain(err)
	}
	if err := t.awaitExec(); err != nil {
		return t.explain(err)
	}
	t.o.Timing.Mark("gate, filter and execve")
	if t.c.Hooks&hooksPoststart != 0 {
		err := t.c.runHooks("poststart", t.plan.Spec.Hooks.Poststart, Running, t.c.Pid, nil)
		t.o.Timing.Mark("hooks after start")
		return err
	}
	return nil
}

// alive returns an error if a memory limit has killed the init, which may have
// been ready before the limit was set.
func (t *creation) alive() error {
	if t.group == nil || !limitsMemory(t.plan.Spec) {
		return nil
	}
	if oom := oomOf(t.group, t.oom, false); oom != nil {
		return &ProcessError{ID: t.c.ID, Err: oom, OOM: true}
	}
	return nil
}

// openFiles opens what the init inherits, in the order of fdLayout.
func (t *creation) openFiles() ([]int, error) {
	o, l := t.o, &t.plan.fds
	files := make([]int, l.join, l.join+len(t.plan.Set.Join))
	copy(files, o.Stdio[:])
	if err := preserved(files, l.preserve); err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	t.sync = pair
	files[l.sync], files[l.listen], files[l.console], files[l.root] = pair[1], -1, -1, -1
	if o.gate == gateStart {
		if files[l.listen], err = listenAt(t.dir, startFile); err != nil {
			return nil, err
		}
		t.fds = append(t.fds, files[l.listen])
	}
	switch {
	case o.ConsoleFD > 0:
		files[l.console] = o.ConsoleFD
	case o.ConsoleSocket != "":
		if files[l.console], err = dial(o.ConsoleSocket); err != nil {
			return nil, err
		}
		t.fds = append(t.fds, files[l.console])
	}
	if o.RootMount {
		files[l.root] = o.RootFD
	}
	for _, j := range t.plan.Set.Join {
		fd, err := linux.OpenAt(unix.AT_FDCWD, j.Path, unix.O_RDONLY, 0)
		if err != nil {
			return nil, err
		}
		t.fds = append(t.fds, fd)
		files = append(files, fd)
	}
	maps, err := t.plan.maps.open()
	t.fds = append(t.fds, maps...)
	return append(files, maps...), err
}

// preserved passes on descriptors 3 to 2+n, which the caller of this process has
// opened for the container. One that is marked close-on-exec has come to life in
// here, at a number where the caller promised one of its own and left none: the
// container must not get it.
func preserved(files []int, n int) error {
	for i := range n {
		fd := 3 + i
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC != 0 {
			err = unix.EBADF
		}
		if err != nil {
			return errors.New("unable to stat preserved-fd " + strconv.Itoa(i) + " (of " + strconv.Itoa(n) + "): " + err.Error())
		}
		files[fd] = fd
	}
	return nil
}

// launch starts the init and, where its namespaces need it, sets them up. After
// it c.Pid is the pid of the container's init.
func (t *creation) launch(files []int) error {
	set := &t.plan.Set
	opts := initprog.Options{
		Args: []string{initprog.Name, t.c.ID}, Files: files, Cloneflags: uintptr(set.CloneFlags()),
		CgroupFD: t.cgroup, Fallback: t.c.Dir(),
	}
	var err error
	if t.o.Monitor != nil {
		err = t.launchMonitor(files, opts)
	} else {
		t.c.Pid, t.pidfd, err = t.image.Start(opts)
	}
	t.releaseHolder()
	if err != nil {
		return err
	}
	linux.Close(t.sync[1])
	t.sync[1] = -1
	t.o.Timing.Mark("clone and execve of the init")
	if !set.Staged() {
		return nil
	}
	err = t.stage()
	t.o.Timing.Mark("id maps and second process")
	return err
}

// stage serves the first process of a staged start: writes id maps and clock
// offsets, learns the pid of the real init, and reaps it.
func (t *creation) stage() error {
	first, linuxSpec := t.c.Pid, t.plan.Spec.Linux
	t.first = first
	proc := "/proc/" + strconv.Itoa(first)
	if t.plan.Set.New&(unix.CLONE_NEWUSER|unix.CLONE_NEWTIME) != 0 {
		if err := t.await(namespaces.WantMaps); err != nil {
			return err
		}
		if err := t.adopt(first); err != nil {
			return err
		}
		if t.plan.Set.New&unix.CLONE_NEWUSER != 0 {
			if err := writeMaps(first, linuxSpec.UIDMappings, linuxSpec.GIDMappings); err != nil {
				return err
			}
			if t.plan.caller.user { // later on its files are root's; the init inherits the value
				if err := t.writeOOMScore(first); err != nil {
					return err
				}
			}
		}
		if o := namespaces.TimeOffsets(linuxSpec.TimeOffsets); o != "" && t.plan.Set.New&unix.CLONE_NEWTIME != 0 {
			if err := writeHost(proc+"/timens_offsets", o); err != nil {
				return err
			}
		}
		if err := t.answer(); err != nil {
			return err
		}
	}
	r, err := t.record()
	if err == nil && (r.Value == namespaces.Ready || r.Value == namespaces.Hooks) {
		// The first process and the init share the socket and neither waits for
		// the other: the init may be ready before its pid is told.
		t.early = r.Value
		r, err = t.lastWord()
	}
	if err != nil {
		return err
	}
	mine := isChild
	if t.monitor != nil {
		mine = t.monitor.isParent
	}
	if r.Value == uint64(first) || !mine(r.Value) {
		return errForeignPid
	}
	second, err := unix.PidfdOpen(int(r.Value), 0)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	err = t.endFirst()
	linux.Close(t.pidfd)
	t.c.Pid, t.pidfd = int(r.Value), second
	return err
}

// endFirst waits for the end of the first process, if that has not been done.
func (t *creation) endFirst() error {
	if t.first == 0 {
		return nil
	}
	if t.monitor != nil { // which reaps it
		if !ended(t.pidfd, killTimeout) {
			return errors.New("the first process of the container does not end")
		}
		t.monitor.before = t.first
		t.first = 0
		return nil
	}
	_, err := reap(t.first)
	t.first = 0
	return os.NewSyscallError("wait4", err)
}

// lastWord waits for the end of the first process and receives the record that
// it has left. Without one it was killed, and its init would wait forever.
func (t *creation) lastWord() (initprog.Record, error) {
	if err := t.endFirst(); err != nil {
		return initprog.Record{}, err
	}
	fds := []unix.PollFd{{Fd: int32(t.sync[0]), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 0); n == 0 && err == nil {
		return initprog.Record{}, errInitDied
	}
	return t.record()
}

// finishState prepares the final record and keeps a copy of the configuration.
func (t *creation) finishState() (err error) {
	c := t.c
	info, err := statProcess(c.Pid)
	if err != nil {
		// It ended already; what it had to say comes with await.
		return t.await(namespaces.Ready)
	}
	c.StartTime = info.startTime
	if c.BootID, err = bootID(); err != nil {
		return err
	}
	c.Complete = true
	c.Pending = nil
	if t.o.gate == gateStart {
		c.Pending = t.image.Pending(t.gateOp)
	}
	if c.Hooks == 0 {
		if err = replaceFile(t.dir, configFile, t.o.Bundle.Raw); err != nil {
			return err
		}
	}
	return writeTemp(t.dir, stateFile, c.appendJSON(make([]byte, 0, 4096)))
}

func (t *creation) setOOMScore() error {
	if t.plan.caller.user && t.plan.Set.New&unix.CLONE_NEWUSER != 0 {
		return nil // stage has
	}
	return t.writeOOMScore(t.c.Pid)
}

func (t *creation) writeOOMScore(pid int) error {
	adj := t.plan.Spec.Process.OOMScoreAdj
	if adj == nil {
		return nil
	}
	err := writeHost("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", strconv.Itoa(*adj))
	if t.plan.caller.rootless && unprivileged(err) {
		return nil // as in runc
	}
	if unprivileged(err) {
		return oomScoreRefused(strconv.Itoa(*adj), err)
	}
	return err
}

// record receives one record of the init.
func (t *creation) record() (initprog.Record, error) {
	var buf [initprog.RecordSize]byte
	n, err := t.o.Timing.read(t.sync[0], buf[:])
	if err == unix.ECONNRESET {
		// The init ended without reading what we had answered. The socket says
		// so first, once, and then has the init's last words.
		n, err = t.o.Timing.read(t.sync[0], buf[:])
	}
	switch {
	case err != nil:
		return initprog.Record{}, os.NewSyscallError("read from container init", err)
	case n == 0:
		return initprog.Record{}, errInitDied
	case n != len(buf):
		return initprog.Record{}, errors.New("container init sent half a record")
	}
	r := initprog.ParseRecord(buf[:])
	if !r.Progress() {
		return r, stepFailure(t.image.Failure(r))
	}
	return r, nil
}

// errInitDied is what is left when the init ends without a word: it was killed.
var errInitDied = errors.New("container init was killed before the container was ready")

// await receives the record that says word.
func (t *creation) await(word uint64) error {
	if word == t.early {
		t.early = 0
		return nil
	}
	r, err := t.record()
	if err == nil && r.Value != word {
		err = errors.New("container init is out of step: got " + strconv.FormatUint(r.Value, 16))
	}
	return err
}

// awaitExec waits until execve has closed the init's end of the socket.
func (t *creation) awaitExec() error {
	_, err := t.record()
	if err == errInitDied { //nolint:errorlint // end of file is what we want
		if t.monitor != nil {
			// It is not our child: if it is gone, nobody can tell whether it was killed
			// before or after, and who is told that it has not run may run it again.
			return hasExecuted(t.c.Pid, -1)
		}
		return hasExecuted(t.c.Pid, t.pidfd)
	}
	if err == nil {
		err = errors.New("container init is out of step after its last record")
	}
	return err
}

func (t *creation) answer() error {
	_, err := linux.Write(t.sync[0], make([]byte, 8))
	if err == unix.EPIPE {
		return errInitDied
	}
	return err
}

// explain completes an error of the init's.
func (t *creation) explain(err error) error {
	e := &ProcessError{ID: t.c.ID, Err: idMapFailure(err)}
	return e
}

// undo removes everything that run has made.
func (t *creation) undo() error {
	var errs []error
	errs = append(errs, t.devices.takeBack())
	if t.group != nil {
		errs = append(errs, t.group.Kill())
	}
	if t.pidfd >= 0 {
		_ = unix.PidfdSendSignal(t.pidfd, unix.SIGKILL, nil, 0)
	}
	t.undoMonitor()
	if t.pidfd >= 0 && t.monitor == nil {
		_, _ = reap(t.c.Pid)
	}
	if t.first > 0 && t.first != t.c.Pid && t.monitor == nil {
		_, _ = reap(t.first)
	}
	t.releaseHolder()
	if t.asked {
		errs = append(errs, t.c.stopUnit(t.plan.unit.manager))
	}
	if t.group != nil {
		errs = append(errs, t.group.Remove(killTimeout))
	}
	errs = append(errs, t.c.removeRdt())
	if r := t.o.Reservation; r != nil {
		errs = append(errs, r.release())
	}
	if err := errors.Join(errs...); err != nil {
		return err // the record stays: delete finds what is left
	}
	t.c.poststop(t.dir)
	return t.c.removeDir(t.dir)
}

// reap waits for the end of a child.
func reap(pid int) (syscall.WaitStatus, error) {
	var ws syscall.WaitStatus
	for {
		_, err := syscall.Wait4(pid, &ws, 0, nil)
		if err != syscall.EINTR {
			return ws, err
		}
	}
}

func writeHost(path, data string) error { return linux.WriteFileAt(unix.AT_FDCWD, path, data) }

// writePidFile writes the pid without a newline, complete from the first moment
// its name is there.
func writePidFile(path string, pid int) error {
	dir, err := linux.OpenAt(unix.AT_FDCWD, filepath.Dir(path), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("pid file %q: %w", path, err)
	}
	defer linux.Close(dir)
	name := filepath.Base(path)
	tmp := "." + name
	_ = unix.Unlinkat(dir, tmp, 0)
	fd, err := linux.OpenAt(dir, tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("pid file %q: %w", path, err)
	}
	err = linux.WriteAll(fd, strconv.AppendInt(nil, int64(pid), 10))
	linux.Close(fd)
	if err == nil {
		err = unix.Renameat(dir, tmp, dir, name)
	}
	if err != nil {
		_ = unix.Unlinkat(dir, tmp, 0)
		return &os.PathError{Op: "write pid file", Path: path, Err: err}
	}
	return nil
}
