package network

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/network/store"
	"golang.org/x/sys/unix"
)

// Who answers names of containers is the host's address in their network, as long
// as a process of the host does so. A resolv.conf has lines for both times: one of
// the server at the gateway, and the others. Those that do not count begin with a
// "#", those that do end with a blank. So a line is as long in either form, and one
// write of the same size makes one of the other: readers see one of them whole.

// names is the gateway at which a container would ask: of the first network with a
// way out, or else of the first.
func (a *Attachment) names() (gateway netip.Addr, answered bool) {
	if len(a.networks) == 0 {
		return gateway, false
	}
	n := a.networks[0]
	for _, other := range a.networks {
		if !other.Internal {
			n = other
			break
		}
	}
	return n.Subnets[0].Gateway, a.host.Store.Answered(n.Name)
}

// appendServer adds a line for a name server.
func appendServer(b []byte, ip netip.Addr, counts bool) []byte {
	if !counts {
		return append(append(append(b, "#nameserver "...), ip.String()...), '\n')
	}
	return append(append(append(b, "nameserver "...), ip.String()...), " \n"...)
}

// switchServers has the lines of a resolv.conf count that are for a time with the
// server at the gateway or for one without. It reports whether there is anything
// to write; a file without lines of both kinds stays as it is.
func switchServers(text []byte, gateway netip.Addr, answered bool) ([]byte, bool) {
	out := make([]byte, 0, len(text))
	found := false
	for line := range bytes.Lines(text) {
		s := bytes.TrimRight(line, "\n")
		off, isOff := bytes.CutPrefix(s, []byte("#nameserver "))
		on, isOn := bytes.CutPrefix(s, []byte("nameserver "))
		isOn = isOn && bytes.HasSuffix(on, []byte(" "))
		ip, err := netip.ParseAddr(string(off))
		if isOn {
			ip, err = netip.ParseAddr(string(on[:len(on)-1]))
		}
		if !isOff && !isOn || err != nil {
			out = append(out, line...)
			continue
		}
		found = found || ip == gateway
		out = appendServer(out, ip, (ip == gateway) == answered)
	}
	return out, found && !bytes.Equal(out, text)
}

// SwitchNames has the containers of a network ask the server at the gateway, or no
// more, when [store.Store.Answered] has changed.
func (h *Host) SwitchNames(name string) error {
	unlock, err := h.Store.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	n, err := h.Store.Network(name)
	if err != nil {
		return err
	}
	return h.switchNames(n)
}

func (h *Host) switchNames(n *store.Network) error {
	list, err := h.containers()
	errs := []error{err}
	answered := h.Store.Answered(n.Name)
	for _, c := range list {
		for i := range c.Endpoints {
			if c.Endpoints[i].Network != n.Name {
				continue
			}
			for _, s := range n.Subnets {
				err := switchFile(h.Store.ContainerDir(c.Key)+"/"+ResolvFile, s.Gateway, answered)
				if err != nil && !errors.Is(err, unix.ENOENT) {
					errs = append(errs, err)
				}
			}
		}
	}
	return errors.Join(errs...)
}

func switchFile(path string, gateway netip.Addr, answered bool) error {
	fd, err := linux.OpenAt(unix.AT_FDCWD, path, unix.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	text, err := linux.ReadAll(fd, maxHosts)
	if err != nil {
		return err
	}
	text, changed := switchServers(text, gateway, answered)
	if !changed {
		return nil
	}
	if _, err := unix.Pwrite(fd, text, 0); err != nil {
		return fmt.Errorf("change %q: %w", path, err)
	}
	return nil
}
