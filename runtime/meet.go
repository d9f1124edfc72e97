package runtime

import (
	"strconv"

	"github.com/minirun/minirun/internal/linux"
	"golang.org/x/sys/unix"
)

// connectInside has the network namespace of the init connected by somebody who
// joins it. The init waits at the gate of the hooks.
func (t *creation) connectInside() error {
	user, net := -1, -1
	if inner, err := t.inner(); err != nil {
		return err
	} else if inner != nil {
		defer inner.close()
		for i, flag := range inner.flags {
			switch flag {
			case unix.CLONE_NEWUSER:
				user = inner.fds[1+i]
			case unix.CLONE_NEWNET:
				net = inner.fds[1+i]
			}
		}
		return t.o.ConnectInside(t.c.Pid, user, net)
	}
	// We are root of the user namespace that the container's belongs to.
	proc := "/proc/" + strconv.Itoa(t.c.Pid) + "/ns/"
	var err error
	if t.plan.Set.All()&unix.CLONE_NEWUSER != 0 {
		if user, err = linux.OpenAt(unix.AT_FDCWD, proc+"user", unix.O_RDONLY, 0); err != nil {
			return err
		}
		defer linux.Close(user)
	}
	if net, err = linux.OpenAt(unix.AT_FDCWD, proc+"net", unix.O_RDONLY, 0); err != nil {
		return err
	}
	defer linux.Close(net)
	return t.o.ConnectInside(t.c.Pid, user, net)
}
