package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minirun/minirun/container"
	inetip "github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/internal/rtnetlink"
	"github.com/minirun/minirun/network"
	netstore "github.com/minirun/minirun/network/store"
	"github.com/minirun/minirun/orchestrate/node"
	"github.com/minirun/minirun/orchestrate/proxy"
)

// Where addresses come from if nobody says it: the first range that nothing else
// on the host uses. A bridge has room for 1,023 pods.
var (
	podSubnets    = []string{"10.244.0.0/20", "10.250.0.0/20", "172.28.240.0/20", "192.168.240.0/20"}
	serviceRanges = []string{"10.96.0.0/16", "10.112.0.0/16", "172.29.0.0/16", "192.168.208.0/20"}
)

// rangesFile is what the addresses of services were taken from the last time. A
// host gets new routes; the services keep their addresses.
const rangesFile = "service-ranges"

// RangeError says that a range of addresses cannot be had.
type RangeError struct {
	What, Flag string
	Range      netip.Prefix
	Reason     string
}

func (e *RangeError) Error() string { return fmt.Sprintf("%s %s %s", e.What, e.Range, e.Reason) }

// Hint says how to go on.
func (e *RangeError) Hint() string {
	return "choose another one with " + e.Flag + "; ip route show table all and minirun network list show what is taken"
}

// chooseRanges settles where addresses of services come from. What has changed
// since the last time, or is new, must not be anybody else's.
func (d *Daemon) chooseRanges() error {
	file := filepath.Join(d.o.Data, rangesFile)
	raw, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	was, err := ParseRanges(strings.TrimSpace(string(raw)))
	if err != nil {
		return fmt.Errorf("%q: %w", file, err)
	}
	for _, p := range d.o.PodRanges {
		for _, s := range d.o.ServiceRanges {
			if p.Overlaps(s) {
				return &RangeError{"range of services", "--service-range", s, fmt.Sprintf("overlaps the range of pods %s", p)}
			}
		}
	}
	switch {
	case len(d.o.ServiceRanges) == 0 && len(was) > 0, len(was) > 0 && slices.Equal(d.o.ServiceRanges, was):
		d.o.ServiceRanges = was
		if err := d.rangesFree(was); err != nil {
			var taken *RangeError
			if !errors.As(err, &taken) {
				return err
			}
			d.warnings.set("ranges", err.Error()+": where it leads to is not reached at addresses that services have")
		}
		return nil
	case len(d.o.ServiceRanges) == 0:
		for _, text := range serviceRanges {
			d.o.ServiceRanges = []netip.Prefix{netip.MustParsePrefix(text)}
			var taken *RangeError
			if err = d.rangesFree(d.o.ServiceRanges); !errors.As(err, &taken) {
				break
			}
		}
	default:
		err = d.rangesFree(d.o.ServiceRanges)
	}
	if err != nil {
		return err
	}
	if err := d.ranges().Check(); err != nil {
		return err
	}
	var text []string
	for _, p := range d.o.ServiceRanges {
		text = append(text, p.String())
	}
	return os.WriteFile(file, []byte(strings.Join(text, ",")+"\n"), 0o600)
}

// ParseRanges reads ranges of addresses, separated by commas.
func ParseRanges(text string) (list []netip.Prefix, err error) {
	if text == "" {
		return nil, nil
	}
	for _, s := range strings.Split(text, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil {
			return nil, fmt.Errorf("range of addresses %q: want an address and a length, such as 10.96.0.0/16", s)
		}
		if p != p.Masked() {
			return nil, fmt.Errorf("range of addresses %q: it begins at %s", s, p.Masked())
		}
		list = append(list, p)
	}
	return list, nil
}

// rangesFree finds out whether ranges of services are the host's or a network's.
func (d *Daemon) rangesFree(list []netip.Prefix) error {
	if d.o.Bare {
		return nil
	}
	c, err := d.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	routes, err := c.RoutesBeside(routeTable)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	images, err := filepath.Abs(container.StoreDir(d.o.Images))
	if err != nil {
		return err
	}
	networks, err := container.Networks(images).Store.Networks()
	if err != nil {
		return err
	}
	for _, p := range list {
		taken := func(reason string) error { return &RangeError{"range of services", "--service-range", p, reason} }
		for _, n := range networks {
			for _, s := range n.Subnets {
				if p.Overlaps(prefix(s.Prefix)) {
					return taken(fmt.Sprintf("overlaps %s of network %s", s.Prefix, n.Name))
				}
			}
		}
		for _, r := range routes {
			if r := prefix(r); p.Overlaps(r) {
				return taken("overlaps the host's route to " + r.String())
			}
		}
	}
	return nil
}

// dial opens a socket to the kernel in the network namespace to work in.
func (d *Daemon) dial() (*rtnetlink.Conn, error) {
	if d.o.NetNS > 0 {
		return rtnetlink.DialIn(d.o.NetNS)
	}
	return rtnetlink.Dial()
}

func prefix(p inetip.Prefix) netip.Prefix {
	a, _ := netip.AddrFromSlice(p.Addr().AsSlice())
	return netip.PrefixFrom(a, p.Bits())
}

func inetPrefix(p netip.Prefix) inetip.Prefix {
	a, _ := inetip.AddrFromSlice(p.Addr().AsSlice())
	return inetip.PrefixFrom(a, p.Bits())
}

// ownerLabel is the label of a network of pods: the data directory of whose pods
// they are. Names in it are answered by that minirund.
const ownerLabel = "minirun.dev/minirund"

// ofAnother tells whether a network is one of another minirund's pods.
func (d *Daemon) ofAnother(n *netstore.Network) bool {
	if n.Name == cmp.Or(d.o.Network, podNetwork) {
		return false // whose data was somewhere else before
	}
	return slices.ContainsFunc(n.Labels, func(l netstore.Label) bool { return l.Name == ownerLabel && l.Value != d.o.Data })
}

// network makes the network of pods if there is none.
func (d *Daemon) network(images string) (*network.Host, error) {
	h := container.Networks(images)
	h.Warn = func(text string) { d.o.Log.Warn(text) }
	d.o.Network = cmp.Or(d.o.Network, node.DefaultNetwork)
	have, err := h.Store.Network(d.o.Network)
	if err == nil {
		return h, d.checkNetwork(have)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return h, err
	}
	spec := network.Spec{Name: d.o.Network, Labels: []netstore.Label{{Name: ownerLabel, Value: d.o.Data}}}
	var taken *network.SubnetError
	if len(d.o.PodRanges) > 0 {
		for _, p := range d.o.PodRanges {
			spec.Subnets = append(spec.Subnets, inetPrefix(p))
		}
		_, err = h.Create(&spec)
		if errors.As(err, &taken) {
			err = &RangeError{"range of pods", "--pod-range", prefix(taken.Subnet), taken.Reason}
		}
		return h, err
	}
	for _, subnet := range podSubnets {
		p := netip.MustParsePrefix(subnet)
		if slices.ContainsFunc(d.o.ServiceRanges, p.Overlaps) {
			continue
		}
		spec.Subnets = []inetip.Prefix{inetPrefix(p)}
		if _, err = h.Create(&spec); !errors.As(err, &taken) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("network of pods: %w", err)
	}
	return h, nil
}

// checkNetwork compares the network that there is with what was asked for.
func (d *Daemon) checkNetwork(n *netstore.Network) error {
	if len(d.o.PodRanges) == 0 {
		return nil
	}
	var have []netip.Prefix
	for _, s := range n.Subnets {
		have = append(have, prefix(s.Prefix))
	}
	for _, p := range d.o.PodRanges {
		if !slices.Contains(have, p) || len(have) != len(d.o.PodRanges) {
			return &networkError{fmt.Sprintf("network %q has the subnets %v, not %v", n.Name, have, d.o.PodRanges), "leave --pod-range out, take another network with --network, or remove this one with: minirun network rm " + n.Name}
		}
	}
	return nil
}

// networkError is a network of pods that is not what was asked for.
type networkError struct{ text, hint string }

func (e *networkError) Error() string { return e.text }
func (e *networkError) Hint() string  { return e.hint }

// SharedError says that another minirund has something that is for one alone.
type SharedError struct{ What string }

func (e *SharedError) Error() string { return "another minirund has " + e.What }

// Hint says how to go on.
func (e *SharedError) Hint() string {
	return "give this one a network, a table and ranges of its own: --network, --service-table, --pod-range, --service-range, --node-port-range"
}

// claim makes sure that no other minirund in this network namespace has the network
// of pods or the table of services. The names of the sockets are the namespace's,
// and go with the process.
func (d *Daemon) claim() (release func(), err error) {
	images, err := filepath.Abs(container.StoreDir(d.o.Images))
	if err != nil {
		return nil, err
	}
	id := fnv.New64a()
	fmt.Fprint(id, images)
	var have []*net.UnixListener
	release = func() {
		for _, l := range have {
			l.Close()
		}
	}
	name, table := cmp.Or(d.o.Network, podNetwork), cmp.Or(d.o.ServiceTable, proxy.Table)
	for _, c := range []struct{ name, what string }{
		{fmt.Sprintf("network/%x/%s", id.Sum64(), name), fmt.Sprintf("its pods on network %q", name)},
		{"table/" + table, fmt.Sprintf("its services in the nftables table %q of this network namespace", table)},
	} {
		l, err := claimName(c.name)
		if errors.Is(err, unix.EADDRINUSE) {
			err = &SharedError{c.what}
		}
		if err != nil {
			release()
			return nil, err
		}
		have = append(have, l)
	}
	return release, nil
}

// claimPatience is how long a name may stay taken after the end of who had it: a
// child that it was just starting has its descriptors until it executes a program.
const claimPatience = 3 * time.Second

func claimName(name string) (l *net.UnixListener, err error) {
	for end := time.Now().Add(claimPatience); ; time.Sleep(20 * time.Millisecond) {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: "@minirund/" + name})
		if !errors.Is(err, unix.EADDRINUSE) || time.Now().After(end) {
			return l, err
		}
	}
}
