package namespaces

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// OnThread runs fn, and does not wait for it, on a thread that ends with fn:
// what fn does to the namespaces of its thread is seen by nobody else. It is
// never the main thread, whose namespaces are those that /proc shows for the
// process and which cannot end.
func OnThread(fn func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			fn() // and the thread ends, since it stays locked
			return
		}
		// As long as this goroutine holds the main thread, no other gets it.
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread()
			fn()
		}()
		<-done
		runtime.UnlockOSThread()
	}()
}
