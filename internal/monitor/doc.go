// Package monitor stays with a container when everybody else has gone: a program
// of system calls, some tens of KB, that is the parent of the container's init. It
// starts the init, takes what the container writes, with the time, into a log that
// is bounded, and when the init has ended it records how.
//
// The package has the program and what reads its files; runtime starts it.
//
// # The log
//
// output.log, and the older output.log.1, output.log.2, ... Each begins with a
// header of 24 bytes: "minirun", a 1 as version, a random mark, and a number that
// gets smaller with every file. Then come frames: the mark, whose lowest bit says
// which stream, the length, seconds and nanoseconds of the time of day, and the
// bytes as they were written. All words are little-endian and have 64 bits.
//
// A full disk can cut a frame short. The next one begins with the mark, which the
// container does not know, so that nothing it writes passes for a frame.
//
// # The record of the end
//
// The file exit appears in one go, synced to the disk: "minirun", a 1 as version,
// the wait status, the time of the end, the struct rusage of the init (wait4(2)),
// and what memory.events of the cgroup said, filled up with zero bytes. Room for it is
// taken when the container begins, so that a full disk does not keep it from being
// written.
package monitor

// Names of the files in the directory of a container.
const (
	LogFile  = "output.log"
	ExitFile = "exit"
	exitTemp = ".exit.tmp"
	logTemp  = ".output.log.tmp"
)

// Name is what ps shows of a monitor.
const Name = "minirun:monitor"

// Defaults and limits of the log.
const (
	DefaultLogSize  = 10 << 20 // bytes of a file
	DefaultLogFiles = 5
	MaxLogFiles     = 100
	MinLogSize      = 64 << 10
)
