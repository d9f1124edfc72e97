package network

import (
	"encoding/binary"
	"errors"
	"strconv"
	"strings"

	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/network/store"
	"golang.org/x/sys/unix"
)

// namesPort is where names are asked for.
const namesPort = 53

// namesOnly reports whether err, of a try to bind to port 53 of all addresses, is
// because of the servers that answer names at the gateways of our networks: a
// published port does not take their clients away, see rules.
func (h *Host) namesOnly(err error, p *store.Port) bool {
	if !errors.Is(err, unix.EADDRINUSE) || p.Host != namesPort || p.Count != 1 || p.IP.IsValid() && !p.IP.IsUnspecified() || p.Protocol != "tcp" && p.Protocol != "udp" {
		return false
	}
	networks, err := h.Store.Networks()
	if err != nil {
		return false
	}
	ours := map[netip.Addr]bool{}
	for _, n := range networks {
		for _, s := range n.Subnets {
			ours[s.Gateway] = true
		}
	}
	for _, name := range []string{p.Protocol, p.Protocol + "6"} {
		raw, err := linux.ReadFile("/proc/net/"+name, 16<<20)
		if err != nil && !errors.Is(err, unix.ENOENT) { // no IPv6
			return false
		}
		for _, a := range bound(string(raw), namesPort, p.Protocol == "tcp") {
			if !ours[a] {
				return false
			}
		}
	}
	return true
}

// bound reads the addresses with sockets at a port out of a file of /proc/net; of
// TCP those of listeners. What cannot be read is an address that is not valid.
func bound(text string, port uint16, tcp bool) (list []netip.Addr) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 4 || f[1] == "local_address" || tcp && f[3] != "0A" {
			continue
		}
		at, number, _ := strings.Cut(f[1], ":")
		if n, err := strconv.ParseUint(number, 16, 16); err != nil || uint16(n) != port {
			continue
		}
		var words []byte
		for ; len(at) >= 8; at = at[8:] { // as the processor has them
			n, _ := strconv.ParseUint(at[:8], 16, 32)
			words = binary.NativeEndian.AppendUint32(words, uint32(n))
		}
		a, _ := netip.AddrFromSlice(words)
		list = append(list, a)
	}
	return list
}
