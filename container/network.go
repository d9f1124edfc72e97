package container

import (
	"errors"
	"fmt"
	"io/fs"
	"sort"
	"strconv"
	"strings"

	"github.com/minirun/minirun/imagestore/unpacked"
	"github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/network"
	"github.com/minirun/minirun/network/store"
	"github.com/minirun/minirun/runtime"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// NetworkOptions are what a user says about the networks of a container from an
// image. Zero is a network namespace with its loopback and nothing else.
type NetworkOptions struct {
	network.Request
	PublishAll bool   // all ports that the image says it has
	Namespace  string // path of a network namespace to join
	Share      string // key of the container whose files are used, with its namespace
	Warn       func(string)
	ByProgram  bool   // by a program for ordinary users, see package usernet
	Program    string // which; empty: the first that is installed

	files   string // directory of the files to mount
	summary string
}

// NetworkAnnotation is the annotation with a container's addresses: a line for each
// network, its name and the addresses, and one for each published port.
const NetworkAnnotation = "io.minirun.network"

// NetworkLink is what the directory of an owner of addresses has that is no container.
const NetworkLink = "network"

// wanted reports whether there is anything to reserve or to write.
func (n *NetworkOptions) wanted() bool {
	return len(n.Networks)+len(n.CNI) > 0 || n.ByProgram || len(n.Hosts) > 0 || len(n.DNS) > 0 || len(n.Search) > 0 || len(n.Options) > 0
}

// Networks are those of an image store.
func Networks(storeDir string) *network.Host {
	return &network.Host{Store: network.Dir(storeDir), Gone: gone}
}

// gone reports whether the container of a record of networks was deleted. What is no
// container of a runtime, such as a pod, has a directory with a link of that name,
// whose target is the key.
func gone(c *store.Container) bool {
	var buf [256]byte // keys are shorter
	if n, err := unix.Readlink(c.Root+"/"+c.ID+"/"+NetworkLink, buf[:]); err == nil {
		return string(buf[:n]) != c.Key
	}
	s, err := runtime.OpenStore(c.Root)
	if err != nil {
		return false
	}
	have, err := s.Load(c.ID)
	var state *runtime.StateError
	switch {
	case err == nil:
		key, _, _ := strings.Cut(have.Snapshot, "@")
		return key != c.Key // another one of the same name
	case errors.As(err, &state):
		return false // damaged: what it was cannot be told
	}
	return errors.Is(err, fs.ErrNotExist)
}

// reserveNetwork takes addresses and ports, and writes the files to mount.
func (p *Prepared) reserveNetwork(storeDir, key, id, root string, image *unpacked.Image, o *Options) error {
	n := &o.Net
	if n.Share != "" {
		n.files = network.Dir(storeDir).ContainerDir(n.Share)
		if unix.Access(n.files+"/"+network.HostsFile, unix.F_OK) != nil {
			n.files = "" // it has none
		}
		return nil
	}
	if n.PublishAll {
		if err := n.exposed(image); err != nil {
			return err
		}
	}
	if !n.wanted() {
		return nil
	}
	h := Networks(storeDir)
	h.Warn = n.Warn
	var err error
	var user *UserNetwork
	if n.ByProgram {
		if user, err = NewUserNetwork(n.Program, n.Ports, n.Files); err != nil {
			return err
		}
		n.Ports, n.DNS = nil, user.helper.DNS
	}
	if n.Hostname, err = hostnameFor(id, o); err != nil {
		return err
	}
	a, err := h.Reserve(key, id, root, &n.Request)
	if err != nil {
		return err
	}
	n.files = h.Store.ContainerDir(key)
	n.summary = Summary(a.Record())
	if user != nil {
		n.summary = user.annotation()
		dir := p.Reservation.Dir()
		p.ConnectInside = func(pid, userns, net int) error { return user.helper.Start(dir, pid, userns, net) }
	}
	if len(n.Networks)+len(n.CNI) > 0 {
		p.Connect = a.ConnectProcess
	}
	return nil
}

// exposed adds the ports that the image says it has.
func (n *NetworkOptions) exposed(image *unpacked.Image) error {
	list := make([]string, 0, len(image.Config.Config.ExposedPorts))
	for p := range image.Config.Config.ExposedPorts {
		list = append(list, p)
	}
	sort.Strings(list)
	for _, text := range list {
		numbers, protocol, _ := strings.Cut(text, "/")
		first, last, isRange := strings.Cut(numbers, "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if protocol == "" {
			protocol = "tcp"
		}
		if err1 != nil || err2 != nil || from == 0 || to < from || protocol != "tcp" && protocol != "udp" && protocol != "sctp" {
			return fmt.Errorf("image %q: config.ExposedPorts: %q is no port", image.Name, text)
		}
		for c := from; c <= to; c++ {
			n.Ports = append(n.Ports, store.Port{Container: uint16(c), Count: 1, Protocol: protocol})
		}
	}
	return nil
}

// Summary is the text of [NetworkAnnotation].
func Summary(c *store.Container) string {
	var b strings.Builder
	for i := range c.Endpoints {
		b.WriteString(c.Endpoints[i].Network)
		for _, a := range c.Endpoints[i].Addresses {
			b.WriteString(" " + a.String())
		}
		b.WriteByte('\n')
	}
	for i := range c.Ports {
		b.WriteString("port " + c.Ports[i].String() + "\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func (n *NetworkOptions) annotate(s *specs.Spec) {
	if n.summary == "" {
		return
	}
	if s.Annotations == nil {
		s.Annotations = map[string]string{}
	}
	s.Annotations[NetworkAnnotation] = n.summary
}

// mounts are the files that a container in networks has below /etc. A container
// can read them and not write: they are the host's.
func (n *NetworkOptions) mounts() []specs.Mount {
	if n.files == "" {
		return nil
	}
	list := make([]specs.Mount, 0, 3)
	for _, name := range [...]string{network.HostsFile, network.HostnameFile, network.ResolvFile} {
		list = append(list, specs.Mount{Destination: "/etc/" + name, Type: "bind", Source: n.files + "/" + name, Options: []string{"bind", "rprivate", "ro", "nosuid", "nodev", "noexec"}})
	}
	return list
}

// explain says where the files would be.
func (n *NetworkOptions) explain(h *network.Host) {
	if n.wanted() && n.Share == "" {
		n.files = h.Store.ContainerDir("<new>")
	}
}

// JoinContainer has the container join the network namespace of another one.
func (o *Options) JoinContainer(s *runtime.Store, id string) error {
	fail := func(err error) error { return fmt.Errorf("network of container %q: %w", id, err) }
	c, err := s.Load(id)
	if err != nil {
		return fail(err)
	}
	status, err := c.Status()
	if err != nil {
		return fail(err)
	}
	if status == runtime.Stopped || status == runtime.Creating || c.Pid == 0 {
		return fail(fmt.Errorf("it is %s: it has no network namespace", status))
	}
	o.Net.Namespace = "/proc/" + strconv.Itoa(c.Pid) + "/ns/net"
	if _, key, ok := SnapshotOf(c); ok {
		o.Net.Share = key
	}
	return nil
}

// NetworkRecord is what a container has of networks; nil if it has nothing.
func NetworkRecord(c *runtime.Container) (*store.Container, error) {
	if hasUserNetwork(c) {
		return userNetworkOf(c)
	}
	dir, key, ok := SnapshotOf(c)
	if !ok {
		return nil, nil
	}
	r, err := network.Dir(dir).Container(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return r, err
}

// ParseAddress reads an address without a zone.
func ParseAddress(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Is4In6() {
		return a, errors.New("want an IP address")
	}
	return a, nil
}
