package usernet

import (
	"github.com/minirun/minirun/internal/initprog"
	"golang.org/x/sys/unix"
)

// Descriptors of the keeper. The helper inherits the first three.
const (
	fdUser     = iota // the container's user namespace, or /dev/null
	fdNet             // its network namespace
	fdErr             // what the helper says
	fdSync            // the one that starts the container
	fdInit            // pidfd of the container's init
	fdAlive           // the FIFO
	fdDir             // the container's directory
	fdReady           // to be written to by the helper, or -1
	fdHelper          // pidfd of the helper
	fdReadyOut        // fdReady in the helper
)

// Name is what ps shows of a keeper.
const Name = "minirun:usernet"

// keeper is the program of the keeper, which executes path with argv.
// With enter, it does so as root of the container's user namespace.
func keeper(path string, argv []string, ready, enter bool) (*initprog.Image, error) {
	b := initprog.NewBuilder(fdSync)
	b.Phase("network")
	b.Object(argv[0])
	b.SetName(Name)
	b.Setsid().IgnoreAny()
	b.Umask(0o077)
	b.CloseRangeCloexec(fdSync)

	child, end, gone, said, started := b.NewLabel(), b.NewLabel(), b.NewLabel(), b.NewLabel(), b.NewLabel()
	pid := b.Slot(0)
	b.Clone(0, -1).To(pid).OnZero(child)
	b.BlockSignals()
	b.Chdir("/")
	b.Dup3Cloexec(b.PidfdOpen(pid).Result(), fdHelper).Ignore(unix.EINVAL) // it is that already
	b.CloseRangeTo(fdUser, fdErr)
	b.CloseRangeTo(fdDir, fdReady)
	b.CloseRange(fdHelper + 1)

	// Until whoever has started us says that all is well, his end is ours.
	starting := b.Words(initprog.PollFD(fdHelper), initprog.PollFD(fdSync))
	b.Poll(starting, 2).Retry(unix.EINTR)
	b.Wait4(pid, initprog.Const(0), unix.WNOHANG, initprog.Const(0)).OnZero(said).OnNonzero(gone).OnAny(gone)
	b.Place(said)
	b.ReadWords(initprog.Sync(), b.Words(0), 1).OnZero(end).OnNonzero(started).OnAny(end)
	b.Place(started)
	b.Poll(b.Words(initprog.PollFD(fdInit), initprog.PollFD(fdHelper)), 2).Retry(unix.EINTR)
	b.Place(end)
	b.PidfdSendSignal(initprog.FD(fdHelper), unix.SIGKILL).IgnoreAny()
	b.Wait4(pid, initprog.Const(0), 0, initprog.Const(0)).IgnoreAny()
	b.Place(gone)
	b.ExitGroup(0)

	b.Place(child)
	if enter {
		b.Setns(initprog.FD(fdUser), unix.CLONE_NEWUSER)
		b.Setresgid(0)
		b.Setresuid(0)
	}
	b.Prctl(unix.PR_SET_PDEATHSIG, uint64(unix.SIGKILL))
	b.Fchdir(initprog.FD(fdDir))
	if ready {
		b.Dup3(initprog.FD(fdReady), fdReadyOut)
	}
	b.Execve(path, b.Strings(argv), b.Strings([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}))
	return b.Link()
}
