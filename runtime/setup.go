package runtime

import (
	"syscall"

	"github.com/minirun/minirun/internal/initprog"
	"golang.org/x/sys/unix"
)

// harden comes first in every program: nobody in the container may look into
// the process, and no descriptor gets past execve.
type harden struct {
	id   string
	sync int
}

func (s *harden) Phase() string  { return "start-up" }
func (s *harden) String() string { return "become non-dumpable, mark descriptors close-on-exec" }
func (s *harden) Why() string {
	return "processes of the container must not get at this one (CVE-2016-9962) or at what it has open (CVE-2024-21626)"
}

func (s *harden) Emit(b *initprog.Builder) {
	b.SetName(initprog.Name)
	b.Prctl(unix.PR_SET_DUMPABLE, 0)
	b.CloseRangeCloexec(s.sync)
}

// session leaves the caller's session and its keys. The container's processes
// share a session keyring, which is found by its name.
type session struct {
	keyring string
	skip    bool // keep the caller's keyring
	join    bool // the container has made it
}

func (s *session) Phase() string { return "session" }
func (s *session) String() string {
	switch {
	case s.skip:
		return "start a session"
	case s.join:
		return "start a session, join the container's keyring"
	}
	return "start a session, with a keyring of its own"
}

func (s *session) Why() string {
	return "signals, input and keys of the caller's session are not the container's"
}

func (s *session) Emit(b *initprog.Builder) {
	b.Setsid().Ignore(syscall.EPERM) // a group leader already: the child of a clone with CLONE_PARENT is none
	if s.skip {
		return
	}
	// What a new one gets, and search for its owner: without that it would not
	// be found by name, and every exec would have one of its own.
	const permissions = 0x3f<<24 | (viewKey|readKey|searchKey|linkKey)<<16
	b.Object("session keyring")
	none := b.NewLabel()
	join := b.JoinSessionKeyring("_ses."+s.keyring).On(syscall.ENOSYS, none) // a kernel without keys
	if !s.join {
		b.SetKeyPermissions(join.Result(), permissions)
	}
	b.Place(none)
}

// Permissions of keys, see keyctl(2), KEYCTL_SETPERM.
const (
	viewKey = 1 << iota
	readKey
	_
	searchKey
	linkKey
)

// loopback brings up the interface lo of a new network namespace.
type loopback struct{}

func (s *loopback) Phase() string  { return "network" }
func (s *loopback) String() string { return "bring up the interface lo" }
func (s *loopback) Why() string    { return "" }

func (s *loopback) Emit(b *initprog.Builder) {
	b.Object("lo")
	b.InterfaceUp(b.Socket(unix.AF_INET, unix.SOCK_DGRAM).Result(), "lo")
}

// names sets the names of a new uts namespace.
type names struct{ host, domain string }

func (s *names) Phase() string  { return "hostname" }
func (s *names) String() string { return "set the hostname " + s.host }
func (s *names) Why() string    { return "" }

func (s *names) Emit(b *initprog.Builder) {
	if s.host != "" {
		b.Object(s.host)
		b.Sethostname(s.host)
	}
	if s.domain != "" {
		b.Object(s.domain)
		b.Setdomainname(s.domain)
	}
}
