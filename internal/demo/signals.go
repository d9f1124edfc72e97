package demo

import (
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// wait returns 0 after d, or 128 + the signal number when SIGTERM or SIGINT
// comes first. A handler is needed: as process 1 of a pid namespace an applet
// would not be ended by a signal's default action (pid_namespaces(7)).
func wait(d time.Duration) int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	defer signal.Stop(signals)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case s := <-signals:
		if n, ok := s.(unix.Signal); ok {
			return 128 + int(n)
		}
		return 1
	case <-timer.C:
		return 0
	}
}
