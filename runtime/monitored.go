package runtime

import (
	"errors"
	"os"
	"strconv"
	"time"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/monitor"
	"golang.org/x/sys/unix"
)

// Monitor says that a process of its own stays with the container: its init's
// parent, which keeps the log and records the end. See [monitor].
type Monitor struct {
	LogSize  int64 // bytes of a log file; 0 is monitor.DefaultLogSize
	LogFiles int   // how many are kept, the one written to among them; 0 is monitor.DefaultLogFiles
	Input    bool  // standard input is a pipe that the monitor has the other end of; otherwise /dev/null
	// InputOnce: it is a stream socket, of which whoever attaches can end one direction
	// with shutdown(2) although the monitor keeps it open. It goes with Input.
	InputOnce bool
	// Remove, if not nil, are the arguments with which this executable removes the
	// container after its end, in the environment RemoveEnv.
	Remove, RemoveEnv []string
	// Keep, if not 0, is a descriptor that the monitor keeps open, as monitor.FDKeep.
	Keep int
}

// Keeper is the process that keeps Monitor.Keep open until its end: its number, when it
// was started, as field 22 of proc_pid_stat(5) has it, and which descriptor it is there.
// pid is 0 for a container without a monitor.
func (c *Container) Keeper() (pid int, start uint64, fd int) {
	return c.Monitor, c.MonitorStart, monitor.FDKeep
}

// monitoring is the monitor of a container that is being made.
type monitoring struct {
	pid, pidfd int
	before     int // the process that went before the init, or 0
	socket     int // the monitor waits at the other end
	console    int // where the terminal's master arrives, or -1
	null       int // /dev/null
	image      *initprog.Image
	fds        []int // to close when the monitor has them
}

// monitorEnds are the ends of the container's standard streams that the monitor
// gets.
type monitorEnds struct{ out, err, input int }

// openStreams makes the standard streams of a container with a monitor.
func (t *creation) openStreams(files []int) (ends monitorEnds, err error) {
	ends = monitorEnds{-1, -1, -1}
	m := t.monitor
	pipe := func(flags int) (r, w int, err error) {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC|flags); err != nil {
			return -1, -1, os.NewSyscallError("pipe2", err)
		}
		m.fds = append(m.fds, p[0], p[1])
		return p[0], p[1], nil
	}
	null, err := linux.OpenAt(unix.AT_FDCWD, "/dev/null", unix.O_RDWR, 0)
	if err != nil {
		return ends, err
	}
	m.fds = append(m.fds, null)
	files[0], files[1], files[2] = null, null, null
	m.null = null
	if t.plan.Spec.Process.Terminal {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return ends, os.NewSyscallError("socketpair", err)
		}
		m.console = pair[0]
		m.fds = append(m.fds, pair[1])
		files[t.plan.fds.console] = pair[1]
		return ends, nil
	}
	if ends.out, files[1], err = pipe(0); err != nil {
		return ends, err
	}
	if ends.err, files[2], err = pipe(0); err != nil {
		return ends, err
	}
	for _, fd := range [...]int{ends.out, ends.err} { // this end only: the container's blocks
		if err := unix.SetNonblock(fd, true); err != nil {
			return ends, os.NewSyscallError("fcntl F_SETFL", err)
		}
	}
	switch {
	case !t.o.Monitor.Input:
	case t.o.Monitor.InputOnce:
		files[0], ends.input, err = m.inputSocket()
	default:
		files[0], ends.input, err = pipe(0)
	}
	return ends, err
}

// inputSocket makes a standard input that can be ended from outside: theirs and
// ours, which nothing comes back from.
func (m *monitoring) inputSocket() (theirs, ours int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, -1, os.NewSyscallError("socketpair", err)
	}
	m.fds = append(m.fds, pair[:]...)
	return pair[0], pair[1], os.NewSyscallError("shutdown", unix.Shutdown(pair[1], unix.SHUT_RD))
}

// openLog begins the log.
func (t *creation) openLog(mark uint64) (int, error) {
	fd, err := linux.OpenAt(t.dir, monitor.LogFile, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return -1, err
	}
	if err := linux.WriteAll(fd, monitor.FileHeader(mark)); err != nil {
		linux.Close(fd)
		return -1, &os.PathError{Op: "write", Path: t.c.Dir() + "/" + monitor.LogFile, Err: err}
	}
	return fd, nil
}

// launchMonitor starts the monitor, which starts the init. The files of the init
// are as openFiles has made them, but for the standard streams.
func (t *creation) launchMonitor(files []int, o initprog.Options) (err error) {
	om := t.o.Monitor
	m := &monitoring{pidfd: -1, socket: -1, console: -1}
	t.monitor = m
	defer func() {
		for _, fd := range m.fds {
			linux.Close(fd)
		}
		m.fds = nil
	}()
	ends, err := t.openStreams(files)
	if err != nil {
		return err
	}
	var random [8]byte
	_, _ = unix.Getrandom(random[:], 0) // does not fail for so few bytes
	mark := uint64(0)
	for _, b := range random {
		mark = mark<<8 | uint64(b)
	}
	mark &^= 1
	log, err := t.openLog(mark)
	if err != nil {
		return err
	}
	m.fds = append(m.fds, log)
	// Opened anew: whoever has t.dir holds the lock.
	dir, err := linux.OpenAt(t.dir, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	m.fds = append(m.fds, dir)
	remover := -1
	if om.Remove != nil {
		if remover, err = linux.OpenAt(unix.AT_FDCWD, "/proc/self/exe", unix.O_RDONLY, 0); err != nil {
			return err
		}
		m.fds = append(m.fds, remover)
	}
	exe, err := t.image.Executable(o.Fallback)
	if err != nil {
		return err
	}
	m.fds = append(m.fds, exe)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	m.socket = pair[0]
	m.fds = append(m.fds, pair[1])

	config := monitor.Config{
		Namespaces: uint64(o.Cloneflags), Cgroup: o.CgroupFD >= 0, Args: o.Args, Files: files, Terminal: t.plan.Spec.Process.Terminal,
		Mark: mark, LogSize: uint64(om.LogSize), LogFiles: om.LogFiles, Remove: om.Remove, RemoveEnv: om.RemoveEnv,
	}
	if config.LogSize == 0 {
		config.LogSize = monitor.DefaultLogSize
	}
	if config.LogFiles == 0 {
		config.LogFiles = monitor.DefaultLogFiles
	}
	if m.image, err = monitor.Program(&config); err != nil {
		return err
	}
	first, _, sync := config.Layout()
	all := make([]int, first, sync+1)
	own := [...]int{
		monitor.FDDir: dir, monitor.FDOut: ends.out, monitor.FDErr: ends.err, monitor.FDLog: log,
		monitor.FDCgroup: o.CgroupFD, monitor.FDInput: ends.input, monitor.FDRemover: remover, monitor.FDKeep: -1,
	}
	if om.Keep != 0 {
		own[monitor.FDKeep] = om.Keep
	}
	for i := range all {
		all[i] = m.null // nothing else shall get a number that means something
		if i < len(own) && own[i] >= 0 {
			all[i] = own[i]
		}
	}
	all = append(append(all, files...), exe, pair[1])
	m.pid, m.pidfd, err = m.image.Start(initprog.Options{
		Args: []string{monitor.Name, t.c.ID}, Files: all, CgroupFD: -1, Fallback: o.Fallback,
	})
	if err != nil {
		return err
	}
	linux.Close(pair[1])
	m.fds = m.fds[:len(m.fds)-1]
	if t.c.Pid, err = m.initPid(); err != nil {
		return err
	}
	if t.pidfd, err = unix.PidfdOpen(t.c.Pid, 0); err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	t.c.Monitor = m.pid
	info, err := statProcess(m.pid)
	t.c.MonitorStart = info.startTime
	// What it keeps is lost if it is killed for lack of memory.
	_ = writeHost("/proc/"+strconv.Itoa(m.pid)+"/oom_score_adj", "-999")
	return err
}

// isParent reports whether pid, as an init told it, is that of a child of the
// monitor's, which waits for none before it is told.
func (m *monitoring) isParent(pid uint64) bool {
	if pid == 0 || pid > 1<<31-1 {
		return false
	}
	info, err := statProcess(int(pid))
	return err == nil && info.parent == m.pid
}

// initPid receives the pid of the process that the monitor has started.
func (m *monitoring) initPid() (int, error) {
	var buf [initprog.RecordSize]byte
	n, err := linux.Read(m.socket, buf[:])
	switch {
	case err != nil:
		return 0, os.NewSyscallError("read from the monitor", err)
	case n != len(buf):
		return 0, errMonitorKilled
	}
	r := initprog.ParseRecord(buf[:])
	if !r.Progress() {
		return 0, m.image.Failure(r)
	}
	return int(r.Value), nil
}

// errMonitorKilled says that somebody has killed the monitor.
var errMonitorKilled = errors.New("the container's monitor was killed")

// completeMonitor tells the monitor which process is the init, and hands the terminal over.
func (t *creation) completeMonitor() error {
	m := t.monitor
	if m == nil {
		return nil
	}
	var rights []byte
	if m.console >= 0 {
		master, err := receiveMaster(m.console)
		if err != nil {
			return err
		}
		defer linux.Close(master)
		if err := unix.SetNonblock(master, true); err != nil {
			return os.NewSyscallError("fcntl F_SETFL", err)
		}
		rights = unix.UnixRights(master)
	}
	words := make([]byte, 8*monitor.Message)
	put := func(at, n int) {
		for i := range 8 {
			words[at+i] = byte(uint64(n) >> (8 * i))
		}
	}
	put(0, m.before)
	put(8, t.c.Pid)
	if _, err := unix.SendmsgN(m.socket, words, rights, nil, unix.MSG_NOSIGNAL); err != nil {
		if err == unix.EPIPE || err == unix.ECONNRESET {
			return errMonitorKilled
		}
		return os.NewSyscallError("sendmsg to the monitor", err)
	}
	return nil
}

// receiveMaster takes the master of the container's terminal.
func receiveMaster(socket int) (int, error) {
	var buf [64]byte
	oob := make([]byte, unix.CmsgSpace(4))
	for {
		_, n, _, _, err := unix.Recvmsg(socket, buf[:], oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, os.NewSyscallError("recvmsg of the terminal", err)
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:n])
		if err == nil && len(msgs) == 1 {
			if fds, err := unix.ParseUnixRights(&msgs[0]); err == nil && len(fds) == 1 {
				return fds[0], nil
			}
		}
		return -1, errors.New("the container's terminal did not arrive")
	}
}

// undoMonitor waits until the monitor has ended. Its children have been killed.
func (t *creation) undoMonitor() {
	m := t.monitor
	if m == nil {
		return
	}
	linux.Close(m.socket)
	m.socket = -1
	if m.pid > 0 {
		_, _ = reap(m.pid)
	}
}

func (m *monitoring) close() {
	if m == nil {
		return
	}
	for _, fd := range [...]int{m.socket, m.console, m.pidfd} {
		linux.Close(fd)
	}
}

// awaitMonitor waits until the container's monitor has written its record, or has
// ended. It does so by itself after the end of the init. What it may do then, with
// Monitor.Remove, is to wait for us.
func (c *Container) awaitMonitor(timeout time.Duration) {
	pidfd := c.OpenMonitor()
	if pidfd < 0 {
		return
	}
	defer linux.Close(pidfd)
	for deadline := time.Now().Add(timeout); ; {
		if unix.Access(c.Dir()+"/"+monitor.ExitFile, unix.F_OK) == nil || ended(pidfd, time.Millisecond) {
			return
		}
		if time.Now().After(deadline) {
			_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
			ended(pidfd, timeout)
			return
		}
	}
}

// OpenMonitor opens the process that keeps the log of the container, a pidfd; -1 if
// there is none, or none any more.
func (c *Container) OpenMonitor() int {
	if c.Monitor <= 0 {
		return -1
	}
	if boot, err := bootID(); err != nil || boot != c.BootID {
		return -1
	}
	fd, err := unix.PidfdOpen(c.Monitor, 0)
	if err != nil {
		return -1
	}
	if info, err := statProcess(c.Monitor); err != nil || info.startTime != c.MonitorStart {
		linux.Close(fd)
		return -1
	}
	return fd
}
