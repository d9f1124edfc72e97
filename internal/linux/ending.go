package linux

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Ends reports whether a signal is one by which people end a program.
func Ends(sig unix.Signal) bool {
	return sig == unix.SIGINT || sig == unix.SIGTERM || sig == unix.SIGHUP || sig == unix.SIGQUIT
}

// endings is where the signals that CatchEnding catches are read from, as soon as
// it has been called. The pipe stays for good: the handler may be on its way on
// another thread when the signals have got back their meaning.
var endings = -1

// CatchEnding is [RelaySignals] for the signals that people end a program with,
// until restore gives them back their meaning. Those that are ignored stay so.
// A process uses one or the other.
func CatchEnding() (fd int, restore func(), err error) {
	if endings < 0 {
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			return -1, nil, os.NewSyscallError("pipe2", err)
		}
		endings, relayFD = pipe[0], uint64(pipe[1])
	}
	var caught []oldAction
	restore = func() {
		for i := range caught {
			_ = rtSigaction(caught[i].sig, &caught[i].act, nil)
		}
	}
	act := relayAction()
	for _, sig := range [...]syscall.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT} {
		old := oldAction{sig: sig}
		if err := rtSigaction(sig, nil, &old.act); err != nil {
			restore()
			return -1, nil, err
		}
		if old.act.handler == sigIgnore {
			continue
		}
		if err := rtSigaction(sig, &act, nil); err != nil {
			restore()
			return -1, nil, err
		}
		caught = append(caught, old)
	}
	return endings, restore, nil
}

type oldAction struct {
	sig syscall.Signal
	act sigaction
}

const sigIgnore = 1

func relayAction() sigaction {
	return sigaction{handler: relayHandler(), flags: saOnStack | saRestart | saRestorer, restorer: relayRestorer(), mask: ^uint64(0)}
}

func rtSigaction(sig syscall.Signal, act, old *sigaction) error {
	_, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(act)), uintptr(unsafe.Pointer(old)), 8, 0, 0)
	if e != 0 {
		return os.NewSyscallError("rt_sigaction", e)
	}
	return nil
}
