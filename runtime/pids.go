package runtime

import (
	"errors"
	"fmt"

	"github.com/minirun/minirun/cgroups"
	"golang.org/x/sys/unix"
)

// PidsError reports that a limit on processes keeps exec's out.
type PidsError struct {
	Group       string // whose limit it is, "" for the container's own
	Have, Limit uint64
	Err         error
}

func (e *PidsError) Error() string {
	whose := "the container"
	if e.Group != "" {
		whose = fmt.Sprintf("cgroup %q", e.Group)
	}
	return fmt.Sprintf("pids limit reached: %s has %d of at most %d processes, and exec needs two more to begin with: %v", whose, e.Have, e.Limit, e.Err)
}
func (e *PidsError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *PidsError) Hint() string {
	if e.Group != "" {
		return "raise pids.max of that group; it is shared by all containers below it"
	}
	return "raise linux.resources.pids.limit, or --pids-limit of minirun update"
}

// joinProcesses is how many processes exec has in the cgroup for a moment: the
// one that joins the namespaces, and the one that appears in the container.
const joinProcesses = 2

// pidsLimit replaces an EAGAIN by the limit on processes that it comes from.
func pidsLimit(err error, g *cgroups.Group) error {
	if !errors.Is(err, unix.EAGAIN) {
		return err
	}
	path, have, limit := g.PidsLimit(joinProcesses)
	if path == "" {
		return err
	}
	e := &PidsError{Have: have, Limit: limit, Err: err}
	if path != g.Path {
		e.Group = path
	}
	return e
}
