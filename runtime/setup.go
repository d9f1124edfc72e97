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

// session leaves the caller's session and its keys.
type session struct {
	keyring string
	skip    bool
}

func (s *session) Phase() string  { return "session" }
func (s *session) String() string { return "start a session" }
func (s *session) Why() string {
	return "signals and input of the caller's terminal are not the container's"
}

func (s *session) Emit(b *initprog.Builder) {
	b.Setsid().Ignore(syscall.EPERM) // a group leader already: the child of a clone with CLONE_PARENT is none
	if !s.skip {
		b.Object("session keyring")
		b.JoinSessionKeyring("_ses."+s.keyring).Ignore(syscall.ENOSYS, syscall.EDQUOT)
	}
}

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
