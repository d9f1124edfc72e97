package usernet

import (
	"strconv"

	"github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/network/store"
)

// Interface is what the container's interface is called.
const Interface = "eth0"

// Files in the container's directory.
const (
	recordFile = "usernet.json"
	aliveFile  = "usernet.alive" // a FIFO that the keeper has open
	readyFile  = "usernet.ready" // a FIFO, until the helper is ready
	socketFile = "usernet.sock"  // where slirp4netns is told ports, until it has them
)

// slirpNames is where slirp4netns answers names, which it asks the host's servers for;
// slirpAddress is the container's address.
func slirpNames() netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 2, 3}) }

const slirpAddress = "10.0.2.100"

// forwardAddress is an address that pasta has stand for the host's own name server.
func forwardAddress() netip.Addr { return netip.AddrFrom4([4]byte{169, 254, 1, 1}) }

// args are the arguments of the helper. user says that the container has a user
// namespace of its own.
//
// The namespaces come as descriptors 0 and 1, because pasta closes all from 3 on.
func (h *Helper) args(user bool) []string {
	if h.Kind == Slirp {
		// It joins the user namespace before: of itself, and with a path for the network
		// namespace, it has no sandbox.
		return []string{
			Slirp, "--configure", "--mtu=65520", "--disable-host-loopback", "--enable-sandbox", "--enable-seccomp",
			"--ready-fd=" + strconv.Itoa(fdReadyOut), "--api-socket=" + socketFile, "--netns-type=path",
			"/proc/self/fd/1", Interface,
		}
	}
	// Neither does the container reach the host's loopback, nor does anything lead out
	// of it or into it that was not asked for.
	a := []string{
		Pasta, "--foreground", "--quiet", "--config-net", "--no-map-gw", "--no-netns-quit", "--ns-ifname", Interface,
		"--pid", readyFile, "--tcp-ns", "none", "--udp-ns", "none",
	}
	for _, protocol := range [...]string{"tcp", "udp"} {
		flag, n := "--"+protocol+"-ports", len(a)
		for i := range h.Ports {
			if h.Ports[i].Protocol == protocol {
				a = append(a, flag, pastaPort(&h.Ports[i]))
			}
		}
		if len(a) == n {
			a = append(a, flag, "none")
		}
	}
	if h.forward {
		a = append(a, "--dns-forward", forwardAddress().String())
	}
	if user {
		a = append(a, "--userns", "/proc/self/fd/0")
	} else {
		a = append(a, "--netns-only")
	}
	return append(a, "--netns", "/proc/self/fd/1")
}

// pastaPort is a port as pasta has it: ADDRESS/FIRST-LAST:FIRST-LAST.
func pastaPort(p *store.Port) string {
	ip := ""
	if p.IP.IsValid() {
		ip = p.IP.String() + "/"
	}
	span := func(first uint16) string {
		if p.Count == 1 {
			return strconv.Itoa(int(first))
		}
		return strconv.Itoa(int(first)) + "-" + strconv.Itoa(int(first)+int(p.Count)-1)
	}
	return ip + span(p.Host) + ":" + span(p.Container)
}
