package main

import (
	"errors"
	"slices"
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
	used      string   // a flag that a user's container from a bundle can have too
}

// addNetwork adds the flags that say which networks a container is in, named as
// docker names them.
func (o *imageOptions) addNetwork(f *flagSet, note func(string, func(string) error) func(string) error) {
	c := &o.container
	n := &c.Net
	user := func(name string, set func(string) error) func(string) error {
		return func(v string) error { o.net.used = name; return set(v) }
	}
	f.add("network", 0, "NAME|cni:NAME|pasta|slirp4netns|none|host|container:ID|ns:PATH", "network of the container (default none: loopback only; NAME is repeatable)", user("network", func(v string) error {
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
		case v != "none" && !container.IsUserNetwork(v):
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
	f.add("publish", 'p', "[IP:][HOST:]PORT[/udp]", "let a port of the host, or a range, lead to one of the container (repeatable)", user("publish", func(v string) error {
		o.net.needs = "publish"
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
	f.add("dns", 0, "ADDRESS", "name server for /etc/resolv.conf (repeatable)", user("dns", func(v string) error {
		a, err := netip.ParseAddr(v)
		n.DNS = append(n.DNS, a)
		return err
	}))
	f.add("dns-search", 0, "DOMAIN", "domain to look names up in; . for none (repeatable)", user("dns-search", func(v string) error {
		n.Search = append(n.Search, v)
		return nil
	}))
	f.add("dns-option", 0, "OPTION", "option for /etc/resolv.conf (repeatable)", user("dns-option", func(v string) error {
		n.Options = append(n.Options, v)
		return nil
	}))
}

// forUsers reports whether the flags may be about the container of an ordinary user,
// which can be from a bundle too.
func (n *networkFlags) forUsers() bool {
	return container.Unprivileged() || len(n.names) == 1 && container.IsUserNetwork(n.names[0])
}

// userNetwork completes the container's options for a network of an ordinary user, if
// it is that which is asked for.
func userNetwork(f *flagSet, i *imageOptions) (done bool, err error) {
	c := &i.container
	named := slices.ContainsFunc(i.net.names, container.IsUserNetwork)
	switch {
	case !named && (len(i.net.names) > 0 || i.net.needs == "" || !container.Unprivileged()):
		return false, nil
	case len(i.net.names) > 1:
		return false, f.fail("--network %s and %s: such a network stands alone", i.net.names[0], i.net.names[1])
	case i.net.needs != "" && i.net.needs != "publish" && i.net.needs != "publish-all":
		return false, f.fail("--%s: the program that connects an ordinary user's container decides that", i.net.needs)
	}
	c.Net.ByProgram = true
	if named {
		c.Net.Program = i.net.names[0]
	}
	return true, nil
}

// bundleNetwork connects the container of an ordinary user from a bundle.
func (a *app) bundleNetwork(f *flagSet, l *launch, i *imageOptions) error {
	if names := i.net.names; len(names) > 0 && !container.IsUserNetwork(names[0]) {
		return &hintError{
			f.fail("--network %s: a bundle has the network of its config.json", names[0]),
			"an ordinary user has --network pasta or slirp4netns there; bridges take root, and --image",
		}
	}
	if done, err := userNetwork(f, i); err != nil {
		return err
	} else if !done {
		return f.fail("--%s needs a network: --network pasta or slirp4netns, or a port to publish", i.net.used)
	}
	n := &i.container.Net
	u, err := container.NewUserNetwork(n.Program, n.Ports, n.Files)
	if err != nil {
		return err
	}
	l.undo, err = u.Bundle(l.store, &l.options)
	return err
}

// network checks the flags together and completes the container's options.
func (a *app) network(f *flagSet, containers *runtime.Store, i *imageOptions) error {
	c := &i.container
	own := c.HostNetwork || i.net.container != "" || c.Net.Namespace != ""
	if done, err := userNetwork(f, i); done || err != nil {
		return err
	}
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
