package main

import (
	"errors"
	"strconv"
	"strings"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/network"
	"github.com/minirun/minirun/network/store"
	"github.com/minirun/minirun/runtime"
)

// networkFlags are what is not in the container's options yet.
type networkFlags struct {
	names     []string // --network, as given
	container string   // container:ID
	needs     string   // a flag that needs a network
}

// addNetwork adds the flags that say which networks a container is in, named as
// docker names them.
func (o *imageOptions) addNetwork(f *flagSet, note func(string, func(string) error) func(string) error) {
	c := &o.container
	n := &c.Net
	f.add("network", 0, "NAME|cni:NAME|none|host|container:ID|ns:PATH", "network of the container (default none: loopback only; NAME is repeatable)", note("network", func(v string) error {
		kind, rest, special := strings.Cut(v, ":")
		switch {
		case special && kind == "cni":
			if err := network.CheckCNIName(rest); err != nil {
				return err
			}
			n.CNI = append(n.CNI, rest)
		case special && kind == "container" && rest != "":
			o.net.container = rest
		case special && kind == "ns" && strings.HasPrefix(rest, "/"):
			n.Namespace = rest
		case special:
			return errors.New("want NAME, cni:NAME, none, host, container:ID or ns:PATH with an absolute path")
		case v == "host":
			c.HostNetwork = true
		case v == "default":
			v = network.DefaultName
		case v != "none":
			if err := store.CheckName(v); err != nil {
				return err
			}
		}
		o.net.names = append(o.net.names, v)
		return nil
	}))
	needs := func(name string, set func(string) error) func(string) error {
		return note(name, func(v string) error { o.net.needs = name; return set(v) })
	}
	f.add("publish", 'p', "[IP:][HOST:]PORT[/udp]", "let a port of the host, or a range, lead to one of the container (repeatable)", needs("publish", func(v string) error {
		p, err := network.ParsePublish(v)
		n.Ports = append(n.Ports, p)
		return err
	}))
	f.add("publish-all", 'P', "", "publish all ports that the image names, at any ports of the host", needs("publish-all", func(v string) (err error) {
		n.PublishAll, err = strconv.ParseBool(v)
		return err
	}))
	f.add("ip", 0, "ADDRESS", "address in the first network (IPv4 and IPv6: twice)", needs("ip", func(v string) error {
		a, err := container.ParseAddress(v)
		n.IPs = append(n.IPs, a)
		return err
	}))
	f.add("mac-address", 0, "MAC", "hardware address in the first network", needs("mac-address", func(v string) (err error) {
		n.MAC, err = store.ParseMAC(v)
		return err
	}))
	f.add("network-alias", 0, "NAME", "another name of the container in its networks (repeatable)", needs("network-alias", func(v string) error {
		n.Aliases = append(n.Aliases, v)
		return nil
	}))
	f.add("add-host", 0, "NAME:IP", "line for /etc/hosts; the IP may be host-gateway (repeatable)", note("add-host", func(v string) error {
		e, err := network.ParseHost(v)
		n.Hosts = append(n.Hosts, e)
		return err
	}))
	f.add("dns", 0, "ADDRESS", "name server for /etc/resolv.conf (repeatable)", note("dns", func(v string) error {
		a, err := netip.ParseAddr(v)
		n.DNS = append(n.DNS, a)
		return err
	}))
	f.add("dns-search", 0, "DOMAIN", "domain to look names up in; . for none (repeatable)", note("dns-search", func(v string) error {
		n.Search = append(n.Search, v)
		return nil
	}))
	f.add("dns-option", 0, "OPTION", "option for /etc/resolv.conf (repeatable)", note("dns-option", func(v string) error {
		n.Options = append(n.Options, v)
		return nil
	}))
}

// network checks the flags together and completes the container's options.
func (a *app) network(f *flagSet, containers *runtime.Store, i *imageOptions) error {
	c := &i.container
	own := c.HostNetwork || i.net.container != "" || c.Net.Namespace != ""
	for _, name := range i.net.names {
		if len(i.net.names) > 1 && (own || name == "none") {
			return f.fail("--network %s: none, host, container:ID and ns:PATH stand alone", name)
		}
		if !own && name != "none" && !strings.HasPrefix(name, "cni:") {
			c.Net.Networks = append(c.Net.Networks, name)
		}
	}
	if i.net.needs != "" && len(c.Net.Networks)+len(c.Net.CNI) == 0 {
		if len(i.net.names) > 0 {
			return f.fail("--%s needs a network: --network %s has none of its own", i.net.needs, i.net.names[0])
		}
		c.Net.Networks = []string{network.DefaultName}
	}
	c.Net.Warn = a.log.warn
	if own && (len(c.Net.Hosts)+len(c.Net.DNS)+len(c.Net.Search)+len(c.Net.Options) > 0) {
		return f.fail("--add-host and --dns are for containers with a network of their own: --network %s brings its files", i.net.names[0])
	}
	if i.net.container != "" {
		return c.JoinContainer(containers, i.net.container)
	}
	return nil
}
