package linux

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// RelaySignals makes every signal that has no other use in this process a byte,
// its number, to be read from the descriptor it returns. Left alone are those
// that cannot be caught, that report a fault of our own (SIGSEGV...), that the
// Go runtime lives on (SIGURG), and SIGCHLD and SIGPIPE.
//
// os/signal does the same for five times the price: it hands every single
// signal over to a goroutine of its own, twice two context switches each for 60
// signals, in a process that lives for some milliseconds. Here a handler of a
// few instructions writes to a pipe. It cannot be undone.
func RelaySignals() (int, error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return -1, os.NewSyscallError("pipe2", err)
	}
	relayFD = uint64(pipe[1])
	act := relayAction()
	for sig := 1; sig <= 64; sig++ {
		switch syscall.Signal(sig) {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE,
			unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, unix.SIGSYS, unix.SIGPROF,
			32, 33: // of C libraries
			continue
		}
		if err := rtSigaction(syscall.Signal(sig), &act, nil); err != nil {
			return -1, err
		}
	}
	return pipe[0], nil
}

const (
	saOnStack  = 0x08000000
	saRestart  = 0x10000000
	saRestorer = 0x04000000
)

// sigaction is the kernel's struct sigaction of amd64 and arm64.
type sigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

// relayFD is where the handler writes to.
//
//lint:ignore U1000 the assembly uses it
var relayFD uint64

// Addresses of the assembly in sigrelay_*.s; Go never calls it.
func relayHandler() uintptr
func relayRestorer() uintptr
