package runtime

import (
	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// Signals are signals that have been sent to this process and wait to be read.
// While hooks run, one that is meant to end us ends the hook.
type Signals struct {
	FD   int    // of linux.RelaySignals
	kept []byte // read, and meant for the container's process
}

// Read returns the numbers of the signals that have come and ended no hook.
func (s *Signals) Read() []byte {
	s.take()
	kept := s.kept
	s.kept = nil
	return kept
}

// Kept reports whether some of them have been read already.
func (s *Signals) Kept() bool { return len(s.kept) > 0 }

func (s *Signals) take() {
	var buf [64]byte
	n, _ := linux.Read(s.FD, buf[:])
	s.kept = append(s.kept, buf[:max(n, 0)]...)
}

// ending takes out the first signal that is meant to end us; 0: there is none.
func (s *Signals) ending() unix.Signal {
	s.take()
	for i, b := range s.kept {
		if sig := unix.Signal(b); linux.Ends(sig) {
			s.kept = append(s.kept[:i:i], s.kept[i+1:]...)
			return sig
		}
	}
	return 0
}

// signals are the caller's, or else those that would end this process, caught
// until release.
func (s *Store) signals() (signals *Signals, release func()) {
	if s.Signals != nil {
		return s.Signals, func() {}
	}
	fd, release, err := linux.CatchEnding()
	if err != nil { // they end us, then
		return &Signals{FD: -1}, func() {}
	}
	return &Signals{FD: fd}, release
}

// InterruptError reports that a signal has ended what this process was doing.
type InterruptError struct{ Signal unix.Signal }

func (e *InterruptError) Error() string { return "killed: interrupted by " + unix.SignalName(e.Signal) }

// ExitCode is what a shell says of a program that the signal has ended.
func (e *InterruptError) ExitCode() int { return 128 + int(e.Signal) }
