package monitor

import (
	"encoding/binary"
	"strconv"

	"github.com/minirun/minirun/internal/initprog"
	"golang.org/x/sys/unix"
)

// Descriptors of the monitor. Behind them come those that the init gets, from
// fdFiles on, then the init's executable, then the socket to the runtime.
const (
	FDDir     = iota // the container's directory
	FDOut            // what the container writes to standard output, or its terminal; does not block
	FDErr            // what it writes to standard error; does not block
	FDLog            // the log
	FDCgroup         // directory of the container's cgroup
	FDInput          // the other end of the container's standard input: whoever attaches takes it from here
	FDRemover        // executable that Remove runs
	FDKeep           // is kept open, and nothing else
	fdPidfd          // of the init, once it is known
	fdFiles
)

const (
	bufferSize = 16 << 10 // of one frame
	eventsSize = 512      // of memory.events
	drainMost  = 128      // frames taken after the end of the init, from processes that outlive it
	// retryLog is how much is written to a log that is full before it is tried
	// again to begin another.
	retryLog = 1 << 20
	// incompleteMode is that of a log file that something could not be written to. It
	// can be set where there is no room for a byte.
	incompleteMode = unix.S_ISVTX | 0o600
	// firstFile is the number of the first log file.
	firstFile = 1 << 40
	// closedPoll is a struct pollfd that waits for nothing.
	closedPoll = unix.POLLIN<<32 | 1<<32 - 1
)

// magic is "minirun" and the version of the formats.
const magic uint64 = 0x01<<56 | 'n'<<48 | 'u'<<40 | 'r'<<32 | 'i'<<24 | 'n'<<16 | 'i'<<8 | 'm'

// Config says what a monitor is for.
type Config struct {
	Namespaces uint64   // CLONE_NEW* that the init starts in
	Cgroup     bool     // it starts in the cgroup at FDCgroup
	Args       []string // argv of the init
	Files      []int    // descriptors the init gets; -1: closed
	Terminal   bool     // FDOut is a terminal and comes with the message that the container is complete
	Mark       uint64   // random; the lowest bit is 0
	LogSize    uint64   // bytes of a log file
	LogFiles   int      // how many there are at most
	// Remove, if not nil, is run by FDRemover after the end: argv, and the environment.
	Remove, RemoveEnv []string
}

// Layout is where the descriptors are that depend on the number of the init's.
func (c *Config) Layout() (files, exe, sync int) {
	return fdFiles, fdFiles + len(c.Files), fdFiles + len(c.Files) + 1
}

// Message is how many words the monitor receives when the container is complete:
// the process that went before the init, or 0, and the init.
const Message = 2

// Program returns the monitor's program.
func Program(c *Config) (*initprog.Image, error) {
	files, exe, sync := c.Layout()
	p := &program{Builder: initprog.NewBuilder(sync), c: c, dir: initprog.FD(FDDir)}
	b := p.Builder
	p.loop, p.alone = b.NewLabel(), b.NewLabel()
	b.Phase("monitor")
	b.SetName(Name)
	b.Prctl(unix.PR_SET_DUMPABLE, 0)
	b.Setsid().IgnoreAny()
	b.Umask(0o077)

	b.Object("container init")
	child := b.NewLabel()
	record := b.Words(0, 0)
	cgroup := -1
	if c.Cgroup {
		cgroup = FDCgroup
	}
	pid := initprog.SlotAt(record, 8)
	b.Clone(c.Namespaces, cgroup).To(pid).OnZero(child)
	b.WriteWords(initprog.Sync(), record, 2).IgnoreAny()
	b.CloseRangeTo(files, exe) // the runtime reads the end of the init from its socket
	b.Chdir("/")
	b.BlockSignals()
	p.polled = b.Words(initprog.PollFD(FDOut), initprog.PollFD(FDErr), initprog.PollFD(fdPidfd))
	p.orphaned, p.open = b.Slot(0), [2]initprog.Value{b.Slot(1), b.Slot(1)}
	p.complete(pid)
	p.watch(pid)
	p.end()

	b.Place(child)
	for i, f := range c.Files {
		if f < 0 {
			b.Close(initprog.FD(i)).IgnoreAny()
		} else {
			b.Dup3(initprog.FD(files+i), i)
		}
	}
	b.CloseRangeCloexec(len(c.Files))
	b.Execve("/proc/self/fd/"+strconv.Itoa(exe), b.Strings(c.Args), b.Strings(nil))
	return b.Link()
}

type program struct {
	*initprog.Builder
	c   *Config
	dir initprog.Value

	header, iov, buffer initprog.Value // of a frame
	fileHeader          initprog.Value
	room                initprog.Value // bytes left in the log
	more                initprog.Value // whether the last look at the streams found something
	exit                initprog.Value // the record of the end

	polled   initprog.Value    // what is waited for: streams and the end of the init
	open     [2]initprog.Value // 0 once a stream has ended
	orphaned initprog.Value    // 1: nobody tells which process is the init
	loop     initprog.Label    // copies streams, and looks whether the init has ended
	alone    initprog.Label    // waits for all children, and leaves no record
}

// complete waits for the word that the container is complete. Without one, the
// runtime has failed or was killed: the monitor waits for what it has started, and
// leaves no record. The gate may have been opened before: the container runs then,
// and its output goes into the log as ever. It would wait for a reader else.
func (p *program) complete(pid initprog.Value) {
	b := p.Builder
	b.Object("runtime")
	words := b.Words(make([]uint64, Message)...)
	iov := b.Words(words.Bits(), 8*Message)
	cmsg := b.Words(0, 0, 0)
	msg := b.Words(0, 0, iov.Bits(), 1, cmsg.Bits(), 24, 0)
	orphan, known, first := b.NewLabel(), b.NewLabel(), b.NewLabel()
	b.Recvmsg(initprog.Sync(), msg).OnZero(orphan).OnNonzero(first).OnAny(orphan)
	b.Place(orphan)
	b.Close(initprog.Sync()).IgnoreAny()
	if !p.c.Terminal { // which has hung up: its master was on the way to us
		b.Set(p.orphaned, initprog.Const(1))
		b.Set(initprog.SlotAt(p.polled, 16), initprog.Const(closedPoll))
		b.Jump(p.loop)
	}
	b.Place(p.alone)
	gone := b.NewLabel()
	b.Wait4(initprog.FD(-1), initprog.Const(0), 0, initprog.Const(0)).OnSuccess(p.alone).OnAny(gone)
	b.Place(gone)
	b.ExitGroup(1)

	b.Place(first)
	b.Set(pid, initprog.SlotAt(words, 8))
	b.Set(initprog.SlotAt(words, 0), initprog.SlotAt(words, 0)).OnZero(known)
	b.Wait4(initprog.SlotAt(words, 0), initprog.Const(0), 0, initprog.Const(0)).IgnoreAny()
	b.Place(known)
	if p.c.Terminal {
		b.Dup3Cloexec(initprog.SlotAt(cmsg, 16), FDOut)
	}
	b.CloseRange(fdPidfd) // the socket, and whatever was left open by those who started us
	b.Set(initprog.Sync(), initprog.FD(-1)).IgnoreAny()
	b.Dup3Cloexec(b.PidfdOpen(pid).Result(), fdPidfd).Ignore(unix.EINVAL) // it is that already: all below are taken
}

// watch copies what the container writes until its init has ended and nothing more
// comes.
func (p *program) watch(pid initprog.Value) {
	b := p.Builder
	b.Object("log")
	p.room = b.Slot(p.c.LogSize)
	p.more = b.Slot(0)
	ended, scratch := b.Slot(0), b.Slot(0)
	drain := b.Slot(drainMost + 1)
	p.header = b.Words(p.c.Mark, 0, 0, 0)
	p.fileHeader = b.Words(magic, p.c.Mark, firstFile)
	p.buffer = b.Bytes(make([]byte, bufferSize))
	p.iov = b.Words(p.header.Bits(), frameHeaderSize, p.buffer.Bits(), 0)
	p.exit = b.Bytes(make([]byte, exitSize))

	// What the record of the end takes is taken now: at the end the disk may be full.
	reserved := b.NewLabel()
	fd := b.Create(p.dir, exitTemp, unix.O_TRUNC, 0o600).OnAny(reserved).Result()
	b.WriteAt(fd, p.exit, exitSize).IgnoreAny()
	b.Close(fd).IgnoreAny()
	b.Place(reserved)

	if p.c.Terminal {
		b.Set(initprog.SlotAt(p.polled, 8), initprog.Const(closedPoll))
	}
	loop, look, finish := p.loop, b.NewLabel(), b.NewLabel()
	b.Place(loop)
	b.Set(scratch, ended).OnNonzero(look)
	b.Poll(p.polled, 3).IgnoreAny()
	b.Place(look)
	b.Set(p.more, initprog.Const(0))
	p.copy(FDOut, 0)
	if !p.c.Terminal {
		p.copy(FDErr, 1)
		known := b.NewLabel()
		b.Set(scratch, p.orphaned).OnZero(known)
		b.Set(scratch, p.open[0]).OnNonzero(loop)
		b.Set(scratch, p.open[1]).OnNonzero(loop).OnZero(p.alone)
		b.Place(known)
	}
	after := b.NewLabel()
	b.Object("end of the init")
	b.Set(scratch, ended).OnNonzero(after)
	b.Wait4(pid, initprog.Const(p.exitWord(1).Bits()), unix.WNOHANG, initprog.Const(p.exitWord(4).Bits())).OnZero(loop).Retry(unix.EINTR)
	b.ClockRealtime(initprog.Const(p.exitWord(2).Bits())).IgnoreAny()
	b.Set(ended, initprog.Const(1))
	b.Jump(loop)
	b.Place(after)
	b.Set(scratch, p.more).OnZero(finish)
	b.Countdown(drain, initprog.Const(1)).OnSuccess(loop).OnAny(finish)
	b.Place(finish)
}

// exitWord is a word of the record of the end.
func (p *program) exitWord(n int) initprog.Value { return initprog.SlotAt(p.exit, 8*n) }

// copy takes what there is at fd, at most a buffer, into the log.
func (p *program) copy(fd int, stream uint64) {
	b := p.Builder
	done, got, closed, write, rotate := b.NewLabel(), b.NewLabel(), b.NewLabel(), b.NewLabel(), b.NewLabel()
	length := initprog.SlotAt(p.header, 8)
	// EIO is how a terminal ends.
	b.Read(initprog.FD(fd), p.buffer, bufferSize).To(length).OnZero(closed).OnNonzero(got).OnAny(done).On(unix.EIO, closed)
	b.Place(closed)
	b.Set(initprog.SlotAt(p.polled, 8*int(stream)), initprog.Const(closedPoll))
	b.Set(p.open[stream], initprog.Const(0))
	b.Jump(done)
	b.Place(got)
	b.Set(p.more, initprog.Const(1))
	b.Set(initprog.SlotAt(p.iov, 24), length)
	b.Set(initprog.SlotAt(p.header, 0), initprog.Const(p.c.Mark|stream))
	b.ClockRealtime(initprog.Const(initprog.SlotAt(p.header, 16).Bits())).IgnoreAny()
	b.Countdown(p.room, initprog.Const(frameHeaderSize)).IgnoreAny()
	b.Countdown(p.room, length).OnSuccess(write).OnAny(rotate)
	b.Place(rotate)
	p.rotate(write)
	b.Place(write)
	// Of n bytes, n-1 are taken from what was written: if nothing is left then, some
	// of them were not. A full disk: the container goes on.
	lost := b.NewLabel()
	wrote := b.Writev(initprog.FD(FDLog), p.iov, 2).OnAny(lost).Result()
	b.Countdown(wrote, initprog.Const(frameHeaderSize-1)).OnAny(lost)
	b.Countdown(wrote, length).OnSuccess(done).OnAny(lost)
	b.Place(lost)
	b.Fchmod(initprog.FD(FDLog), incompleteMode).IgnoreAny()
	b.Place(done)
}

// rotate begins another log file and goes on at write, in any case.
func (p *program) rotate(write initprog.Label) {
	b := p.Builder
	failed := b.NewLabel()
	number := initprog.SlotAt(p.fileHeader, 16)
	b.Set(p.room, initprog.Const(retryLog))
	fd := b.Create(p.dir, logTemp, unix.O_TRUNC|unix.O_APPEND, 0o600).OnAny(write).Result()
	b.Countdown(number, initprog.Const(1)).IgnoreAny()
	b.WriteAt(fd, p.fileHeader, fileHeaderSize).OnAny(failed)
	for i := p.c.LogFiles - 1; i > 0; i-- {
		b.Rename(p.dir, LogName(i-1), LogName(i)).IgnoreAny()
	}
	b.Rename(p.dir, logTemp, LogFile).OnAny(failed)
	b.Dup3Cloexec(fd, FDLog).OnAny(failed)
	b.Set(p.room, initprog.Const(p.c.LogSize))
	b.Place(failed)
	b.Close(fd).IgnoreAny()
}

// end writes the record and, if that is wanted, becomes what removes the container.
func (p *program) end() {
	b := p.Builder
	b.Object("record of the end")
	if p.c.Cgroup {
		none := b.NewLabel()
		fd := b.Openat(initprog.FD(FDCgroup), "memory.events", unix.O_RDONLY).OnAny(none).Result()
		b.Read(fd, initprog.Const(p.exitWord(exitEvents/8).Bits()), eventsSize).IgnoreAny()
		b.Place(none)
	}
	removed := b.NewLabel()
	b.Set(p.exitWord(0), initprog.Const(magic))
	fd := b.Create(p.dir, exitTemp, 0, 0o600).OnAny(removed).Result()
	b.WriteAt(fd, p.exit, exitSize).OnAny(removed)
	b.Fsync(fd).IgnoreAny()
	b.Rename(p.dir, exitTemp, ExitFile).OnAny(removed)
	b.Fsync(p.dir).IgnoreAny()
	b.Place(removed)
	if len(p.c.Remove) > 0 {
		b.Object("removal")
		b.UnblockSignals()
		b.Execve("/proc/self/fd/"+strconv.Itoa(FDRemover), b.Strings(p.c.Remove), b.Strings(p.c.RemoveEnv))
	}
	b.ExitGroup(0)
}

// LogName is the name of log file number i, of which 0 is the one written to.
func LogName(i int) string {
	if i == 0 {
		return LogFile
	}
	return LogFile + "." + strconv.Itoa(i)
}

// FileHeader is what a log file begins with; Program's is the first.
func FileHeader(mark uint64) []byte {
	var b []byte
	for _, w := range []uint64{magic, mark, firstFile} {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}
