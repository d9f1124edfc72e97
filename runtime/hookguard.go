package runtime

import (
	"os"

	"github.com/minirun/minirun/internal/initprog"
	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// A hookGuard is the leader of a hook's process group. It does nothing but wait:
// for the word that all is well, or for our death, at which it kills the group.
// PR_SET_PDEATHSIG does that for the hook alone and not for what it has started.
type hookGuard struct {
	pid, pidfd, sync int
}

// newHookGuard starts one. fallback is a directory for its image where memfds
// cannot be executed.
func newHookGuard(fallback string) (*hookGuard, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	b := initprog.NewBuilder(3)
	b.Phase("hooks")
	b.Object("process group of the hook")
	(&harden{sync: 3}).Emit(b)
	dead, well := b.NewLabel(), b.NewLabel()
	b.ReadWords(initprog.Sync(), b.Words(0), 1).OnZero(dead).OnNonzero(well).Retry(unix.EINTR)
	b.Place(dead)
	b.KillGroup(unix.SIGKILL)
	b.Place(well)
	b.ExitGroup(0)
	image, err := b.Link()
	g := &hookGuard{sync: pair[0]}
	if err == nil {
		g.pid, g.pidfd, err = image.Start(initprog.Options{Files: []int{-1, -1, -1, pair[1]}, CgroupFD: -1, Fallback: fallback, Setpgid: true})
	}
	linux.Close(pair[1])
	if err != nil {
		linux.Close(pair[0])
		return nil, err
	}
	return g, nil
}

// end lets it go, and what is left of its group if that was not killed before.
func (g *hookGuard) end() {
	var word [8]byte
	word[0] = 1
	_, _ = unix.Write(g.sync, word[:]) // or it has been killed with its group
	_, _ = reap(g.pid)
	linux.Close(g.sync)
	linux.Close(g.pidfd)
}
