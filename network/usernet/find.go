package usernet

import (
	"os"
	"strings"

	"github.com/minirun/minirun/network"
	"github.com/minirun/minirun/network/store"
	"golang.org/x/sys/unix"
)

// Kinds of helpers; they are the names of the programs.
const (
	Pasta = "pasta"
	Slirp = "slirp4netns"
	Any   = "" // the first of these that is installed
)

// A Helper is a program that connects a container, and what it is to do.
type Helper struct {
	Kind  string
	Ports []store.Port
	network.Files

	path    string
	forward bool // names are asked for at forwardAddress
}

// A NotFoundError reports that there is no such program.
type NotFoundError struct{ Kind string }

func (e *NotFoundError) Error() string {
	if e.Kind == Any {
		return "network of an ordinary user: neither " + Pasta + " nor " + Slirp + " is installed"
	}
	return "network " + e.Kind + ": the program is not installed"
}

// Hint says what to do.
func (e *NotFoundError) Hint() string {
	text := "install the package passt (for " + Pasta + ") or " + Slirp
	switch e.Kind {
	case Pasta:
		text = "install the package passt"
	case Slirp:
		text = "install the package " + Slirp
	}
	return text + ", or do without: --network none or host with an image; for a bundle config.json says it, and without a network namespace there the container has the host's"
}

// New looks for the program and checks what is asked of it.
func New(kind string, ports []store.Port, files network.Files) (*Helper, error) {
	h := &Helper{Kind: kind, Ports: ports, Files: files}
	kinds := []string{kind}
	if kind == Any {
		kinds = []string{Pasta, Slirp}
	}
	for _, k := range kinds {
		if path := find(k); path != "" {
			h.Kind, h.path = k, path
			break
		}
	}
	if h.path == "" {
		return nil, &NotFoundError{kind}
	}
	for i := range ports {
		if err := h.checkPort(&ports[i]); err != nil {
			return nil, err
		}
	}
	if err := unix.Access("/dev/net/tun", unix.R_OK|unix.W_OK); err != nil {
		return nil, &TunError{err}
	}
	switch {
	case len(h.DNS) > 0:
	case h.Kind == Slirp:
		h.DNS = append(h.DNS, slirpNames())
	case network.LocalResolver():
		h.forward = true
		h.DNS = append(h.DNS, forwardAddress())
	}
	return h, nil
}

// find looks where programs are.
func find(name string) string {
	for dir := range strings.SplitSeq(os.Getenv("PATH")+":/usr/bin:/usr/local/bin:/bin", ":") {
		path := dir + "/" + name
		var st unix.Stat_t
		if strings.HasPrefix(dir, "/") && unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && unix.Access(path, unix.X_OK) == nil {
			return path
		}
	}
	return ""
}

// TunError reports that tap devices cannot be made.
type TunError struct{ Err error }

func (e *TunError) Error() string { return "open /dev/net/tun: " + e.Err.Error() }
func (e *TunError) Unwrap() error { return e.Err }

// Hint says what to do.
func (*TunError) Hint() string {
	return "this user makes tap devices there: as root, modprobe tun and chmod 666 /dev/net/tun"
}

// A PortError reports a port that the helper cannot publish.
type PortError struct{ Port, Kind, Reason, Advice string }

func (e *PortError) Error() string {
	return "publish " + e.Port + ": " + e.Kind + " " + e.Reason
}

// Hint says what to do.
func (e *PortError) Hint() string { return e.Advice }

func (h *Helper) checkPort(p *store.Port) error {
	switch {
	case p.Protocol == "sctp":
		return &PortError{p.String(), h.Kind, "publishes TCP and UDP only", "SCTP takes root, and a network of minirun network create"}
	case h.Kind == Slirp && p.IP.Is6():
		return &PortError{p.String(), h.Kind, "publishes at IPv4 addresses only", "install the package passt and use --network " + Pasta}
	}
	return nil
}
