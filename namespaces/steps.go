package namespaces

import (
	"strings"
	"syscall"

	"github.com/minirun/minirun/internal/initprog"
	"golang.org/x/sys/unix"
)

// What the init tells its parent while it starts: the second word of a progress
// record. A smaller number is the pid of the real init.
const (
	// WantMaps: the process has made its user or time namespace and waits for
	// id maps and clock offsets. The parent answers with 8 bytes.
	WantMaps = 1 << 40
	// Ready: everything that can be done before "start" is done.
	Ready = 2 << 40
	// Hooks: everything is mounted, and the parent may run hooks before the
	// change of the root. It answers with 8 bytes.
	Hooks = 3 << 40
)

// Plan returns the steps that bring the init into its namespaces. fds holds
// the descriptor of each entry of s.Join, in order; root tells whether we are
// uid 0 and may join namespaces of our own user namespace before leaving it.
func (s *Set) Plan(fds []initprog.Value, root bool) []initprog.Step {
	var steps []initprog.Step
	join := func(flag uint64, want bool) {
		for i, j := range s.Join {
			if (j.Flag == flag) == want {
				steps = append(steps, &joinStep{j, fds[i]})
			}
		}
	}
	const user = unix.CLONE_NEWUSER
	if !s.Staged() {
		join(user, false)
		return steps
	}
	if root {
		join(user, false)
	}
	join(user, true)
	if p := (&prepare{new: s.New & (user | unix.CLONE_NEWTIME), user: s.All()&user != 0, open: !root}); p.new != 0 || p.user {
		steps = append(steps, p)
	}
	if !root {
		join(user, false)
	}
	return append(steps, &secondProcess{s.New &^ (user | unix.CLONE_NEWTIME)})
}

// CloneFlags are the namespaces that the clone of the first process makes.
func (s *Set) CloneFlags() uint64 {
	if s.Staged() {
		return 0
	}
	return s.New
}

type joinStep struct {
	join Join
	fd   initprog.Value
}

func (s *joinStep) Phase() string { return "namespaces" }
func (s *joinStep) String() string {
	return "join the " + string(s.join.Type) + " namespace " + s.join.Path
}
func (s *joinStep) Why() string { return "" }

func (s *joinStep) Emit(b *initprog.Builder) {
	b.Object(string(s.join.Type) + " namespace " + s.join.Path)
	b.Setns(s.fd, s.join.Flag)
}

// prepare makes the user and time namespaces and waits until the parent has
// written their maps.
type prepare struct {
	new  uint64
	user bool // in the end we are in another user namespace, as its root
	open bool // the runtime is not root: it may write to a dumpable process's files only
}

func (s *prepare) Phase() string { return "namespaces" }
func (s *prepare) String() string {
	if s.new == 0 {
		return "become root of the joined user namespace"
	}
	return "make the namespaces " + strings.Join(Names(s.new), " ") + " and let the runtime set them up"
}

func (s *prepare) Why() string {
	return "id maps and clock offsets are written from outside, before anything uses them"
}

func (s *prepare) Emit(b *initprog.Builder) {
	b.Object(strings.Join(Names(s.new), " and ") + " namespace")
	if s.new != 0 {
		b.Unshare(s.new)
		if s.open {
			// The files in /proc/PID of a process that is not dumpable are root's.
			// Nothing of the container is there yet that could use the moment.
			b.Prctl(unix.PR_SET_DUMPABLE, 1)
		}
		Handshake(b, WantMaps)
		if s.open {
			b.Prctl(unix.PR_SET_DUMPABLE, 0)
		}
	}
	if s.user {
		b.Setresgid(0)
		b.Setresuid(0)
	}
}

// Handshake sends a progress record and waits for the answer. Without one, the
// parent is gone, and so is the process.
func Handshake(b *initprog.Builder, word uint64) {
	b.WriteWords(initprog.Sync(), b.Words(0, word), 2)
	over, ok := b.NewLabel(), b.NewLabel()
	b.ReadWords(initprog.Sync(), b.Words(0), 1).OnZero(over).OnNonzero(ok).Retry(syscall.EINTR)
	b.Place(over)
	b.ExitGroup(1)
	b.Place(ok)
}

// secondProcess clones the real init as a sibling.
type secondProcess struct{ new uint64 }

func (s *secondProcess) Phase() string { return "namespaces" }
func (s *secondProcess) String() string {
	return "start the container's init in new namespaces " + strings.Join(Names(s.new), " ")
}

func (s *secondProcess) Why() string {
	return "they must belong to the user namespace, and a process cannot enter a new pid or time namespace itself"
}

func (s *secondProcess) Emit(b *initprog.Builder) {
	b.Object("container init")
	child := b.NewLabel()
	record := b.Words(0, 0)
	b.CloneSibling(s.new).To(initprog.SlotAt(record, 8)).OnZero(child)
	b.WriteWords(initprog.Sync(), record, 2)
	b.ExitGroup(0)
	b.Place(child)
	// A new process is dumpable again only after execve; say so all the same,
	// it is what keeps the container's other processes out (CVE-2016-9962).
	b.Prctl(unix.PR_SET_DUMPABLE, 0)
}
