package container

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/network"
	"github.com/minirun/minirun/network/store"
	"github.com/minirun/minirun/runtime"
	"golang.org/x/sys/unix"
)

// NoMemberError reports a container that cannot join networks.
type NoMemberError struct{ ID, Reason, Advice string }

func (e *NoMemberError) Error() string { return fmt.Sprintf("container %q %s", e.ID, e.Reason) }

// Hint says what to do.
func (e *NoMemberError) Hint() string { return e.Advice }

// ConnectNetwork connects a container to one more network while it runs or waits for
// start. warn may be nil.
func ConnectNetwork(c *runtime.Container, name string, ips []netip.Addr, aliases []string, warn func(string)) (*store.Endpoint, error) {
	m, h, err := member(c)
	if err != nil {
		return nil, err
	}
	if m.NetNS >= 0 {
		defer linux.Close(m.NetNS)
	}
	if err := m.Alive(); err != nil {
		return nil, err
	}
	h.Warn = warn
	return h.Join(m, name, ips, aliases)
}

// DisconnectNetwork disconnects a container from a network. One that has ended gives
// back what it has of it.
func DisconnectNetwork(c *runtime.Container, name string) error {
	m, h, err := member(c)
	if err != nil {
		return err
	}
	if m.NetNS >= 0 {
		defer linux.Close(m.NetNS)
	}
	return h.Leave(m, name)
}

func member(c *runtime.Container) (*network.Member, *network.Host, error) {
	dir, key, ok := SnapshotOf(c)
	switch {
	case !ok:
		return nil, nil, &NoMemberError{c.ID, "was not made from an image: its network is that of its bundle", "networks are for containers of minirun run --image"}
	case c.Own&unix.CLONE_NEWNET == 0:
		return nil, nil, &NoMemberError{c.ID, "has no network namespace of its own", "connect the container whose network it shares, or run it with --network none or the name of a network"}
	}
	m := &network.Member{Key: key, ID: c.ID, Root: filepath.Dir(c.Dir()), NetNS: -1}
	m.Alive = func() error {
		status, err := c.Status()
		if err == nil && (status == runtime.Stopped || status == runtime.Creating) {
			err = &NoMemberError{c.ID, "is " + string(status) + ": it has no network namespace", "name its networks when it is made: minirun run --network"}
		}
		return err
	}
	var ended *NoMemberError
	if err := m.Alive(); errors.As(err, &ended) {
		return m, Networks(dir), nil
	} else if err != nil {
		return nil, nil, err
	}
	// Alive is asked again when this is open: the namespace is then the container's.
	fd, err := linux.OpenAt(unix.AT_FDCWD, "/proc/"+strconv.Itoa(c.Pid)+"/ns/net", unix.O_RDONLY, 0)
	if err != nil {
		if m.Alive() != nil { // ended meanwhile
			return m, Networks(dir), nil
		}
		return nil, nil, fmt.Errorf("network namespace of container %q: %w", c.ID, err)
	}
	m.NetNS = fd
	return m, Networks(dir), nil
}
