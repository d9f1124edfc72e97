package namespaces

import (
	"os"
	"runtime"

	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// Ahead is a network namespace in the making.
type Ahead struct {
	done chan result
	stop chan struct{} // closed: the thread may end
}

type result struct {
	fd  int
	err error
}

// MakeNetwork starts to make a network namespace on another thread. It is by far
// the most expensive namespace, half a millisecond against some microseconds for
// each other one, and nothing of it depends on the rest: so it is made while the
// configuration is turned into a program, and the init joins it. That is worth a
// thread only where another CPU can run it: nil if there is none.
//
// The namespace belongs to the user namespace of the runtime. A container with
// its own user namespace needs one that belongs to that, and makes it itself.
func MakeNetwork() *Ahead {
	if runtime.NumCPU() < 2 {
		return nil
	}
	a := &Ahead{make(chan result, 1), make(chan struct{})}
	OnThread(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			a.done <- result{-1, os.NewSyscallError("unshare network namespace", err)}
			return
		}
		fd, err := linux.OpenAt(unix.AT_FDCWD, "/proc/thread-self/ns/net", unix.O_RDONLY, 0)
		a.done <- result{fd, err}
		<-a.stop // the end of a thread takes time too, so not now
	})
	return a
}

// FD waits for the namespace and returns a descriptor of it, the caller's to
// close. To be called at most once.
func (a *Ahead) FD() (int, error) {
	r := <-a.done
	a.done = nil
	return r.fd, r.err
}

// Close ends the thread, and gives up a namespace that nobody has asked for
// with FD.
func (a *Ahead) Close() {
	if a == nil {
		return
	}
	close(a.stop)
	if a.done != nil {
		r := <-a.done
		linux.Close(r.fd)
	}
}
