package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/internal/netip"
	"github.com/minirun/minirun/network"
	"github.com/minirun/minirun/network/store"
	"github.com/urfave/cli/v2"
)

func networkCommand(u *ui) *cli.Command {
	return &cli.Command{
		Name:            "network",
		Usage:           "make, list and remove networks of containers",
		HideHelpCommand: true,
		OnUsageError:    onUsageError,
		Subcommands: []*cli.Command{
			networkCNICommand(u),
			networkConnectCommand(u),
			networkCreateCommand(u),
			networkDNSCommand(u),
			networkDisconnectCommand(u),
			networkInspectCommand(u),
			networkListCommand(u),
			networkPruneCommand(u),
			networkReloadCommand(u),
			networkRemoveCommand(u),
			networkServiceCommand(u),
			networkStatsCommand(u),
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return unknownCommand(c, "network ")
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

func openNetworks(c *cli.Context, u *ui) (*network.Host, error) {
	dir, err := filepath.Abs(container.StoreDir(c.String("store")))
	if err != nil {
		return nil, err
	}
	h := container.Networks(dir)
	h.Warn = func(text string) { fmt.Fprintln(u.err, "minirun: warning: "+text) }
	return h, nil
}

func addresses(list []string) (out []netip.Addr, err error) {
	for _, s := range list {
		a, err := container.ParseAddress(s)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", s, err)
		}
		out = append(out, a)
	}
	return out, nil
}

func networkCreateCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:      "create",
		Usage:     "make a network and print its name",
		ArgsUsage: "NAME",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "subnet", Usage: "`ADDRESS/BITS`, one of each family (default: one that is free)"},
			&cli.StringSliceFlag{Name: "gateway", Usage: "`ADDRESS` of the host in a subnet (default: its first)"},
			&cli.BoolFlag{Name: "ipv6", Usage: "a subnet of IPv6 too, of private addresses unless --subnet names one"},
			&cli.BoolFlag{Name: "internal", Usage: "no way out, and none in"},
			&cli.StringFlag{Name: "isolate", Value: "networks", Usage: "from whom containers are apart: `WHOM` is networks, containers or none"},
			&cli.IntFlag{Name: "mtu", Usage: "`BYTES` of the largest packet (default: the system's)"},
			&cli.StringSliceFlag{Name: "dns", Usage: "`ADDRESS` of a name server for its containers, also asked for other names where minirund answers (default: the host's)"},
			&cli.StringSliceFlag{Name: "label", Usage: "give it a label, `NAME[=VALUE]`"},
			&cli.StringFlag{Name: "driver", Aliases: []string{"d"}, Value: "bridge", Usage: "`DRIVER`; there is only bridge"},
		},
	}, 1, 1, func(c *cli.Context) error {
		fail := func(format string, args ...any) error {
			return &usageError{text: fmt.Sprintf(format, args...), command: c.Command.HelpName}
		}
		if d := c.String("driver"); d != "bridge" {
			return fail("unknown driver %q: there is only bridge", d)
		}
		isolate, err := store.ParseIsolation(c.String("isolate"))
		if err != nil {
			return fail("flag --isolate: %v", err)
		}
		spec := &network.Spec{Name: c.Args().First(), IPv6: c.Bool("ipv6"), Internal: c.Bool("internal"), Isolate: isolate, MTU: c.Int("mtu")}
		for _, s := range c.StringSlice("subnet") {
			p, err := netip.ParsePrefix(s)
			if err != nil {
				return fail("flag --subnet: %q: want ADDRESS/BITS", s)
			}
			spec.Subnets = append(spec.Subnets, p)
		}
		if spec.Gateways, err = addresses(c.StringSlice("gateway")); err != nil {
			return fail("flag --gateway: %v", err)
		}
		if spec.DNS, err = addresses(c.StringSlice("dns")); err != nil {
			return fail("flag --dns: %v", err)
		}
		for _, l := range c.StringSlice("label") {
			name, value, _ := strings.Cut(l, "=")
			if name == "" {
				return fail("label %q: want NAME or NAME=VALUE", l)
			}
			spec.Labels = slices.DeleteFunc(spec.Labels, func(have store.Label) bool { return have.Name == name })
			spec.Labels = append(spec.Labels, store.Label{Name: name, Value: value})
		}
		h, err := openNetworks(c, u)
		if err != nil {
			return err
		}
		n, err := h.Create(spec)
		if err != nil {
			return err
		}
		fmt.Fprintln(u.out, n.Name)
		return nil
	})
}

// networkRow is a network in JSON.
type networkRow struct {
	Name       string            `json:"name"`
	ID         string            `json:"id"`
	Created    string            `json:"created"`
	Interface  string            `json:"interface"`
	Subnets    []subnetRow       `json:"subnets"`
	Internal   bool              `json:"internal"`
	Isolate    store.Isolation   `json:"isolate"`
	MTU        int               `json:"mtu,omitempty"`
	DNS        []netip.Addr      `json:"dns,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Containers []memberRow       `json:"containers"`
}

type subnetRow struct {
	Subnet  netip.Prefix `json:"subnet"`
	Gateway netip.Addr   `json:"gateway"`
}

type memberRow struct {
	ID        string       `json:"id"`
	Interface string       `json:"interface"`
	Link      string       `json:"link"`
	Addresses []netip.Addr `json:"addresses"`
	MAC       string       `json:"mac"`
	Ports     []string     `json:"ports,omitempty"`
}

func newNetworkRow(n *store.Network, containers []*store.Container) *networkRow {
	r := &networkRow{
		Name: n.Name, ID: n.ID, Created: n.Created.Format("2006-01-02T15:04:05.999999999Z07:00"), Interface: n.Bridge,
		Internal: n.Internal, Isolate: n.Isolate, MTU: n.MTU, DNS: n.DNS, Containers: []memberRow{},
	}
	for _, s := range n.Subnets {
		r.Subnets = append(r.Subnets, subnetRow{s.Prefix, s.Gateway})
	}
	for _, l := range n.Labels {
		if r.Labels == nil {
			r.Labels = map[string]string{}
		}
		r.Labels[l.Name] = l.Value
	}
	for _, c := range containers {
		for i := range c.Endpoints {
			e := &c.Endpoints[i]
			if e.Network != n.Name {
				continue
			}
			m := memberRow{ID: c.ID, Interface: e.Name, Link: e.Link, Addresses: e.Addresses, MAC: store.FormatMAC(e.MAC)}
			if i == 0 {
				for j := range c.Ports {
					m.Ports = append(m.Ports, c.Ports[j].String())
				}
			}
			r.Containers = append(r.Containers, m)
		}
	}
	return r
}

func networkListCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name: "list", Aliases: []string{"ls"}, Usage: "list networks",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Value: "table", Usage: "`FORMAT` is table or json"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print names and nothing else"},
		},
	}, 0, 0, func(c *cli.Context) error {
		if f := c.String("format"); f != "table" && f != "json" {
			return &usageError{text: fmt.Sprintf("unknown format %q, want table or json", f), command: c.Command.HelpName}
		}
		h, err := openNetworks(c, u)
		if err != nil {
			return err
		}
		list, err := h.Store.Networks()
		if err != nil {
			return err
		}
		containers, err := h.Containers()
		if err != nil {
			return err
		}
		rows := []*networkRow{}
		for _, n := range list {
			rows = append(rows, newNetworkRow(n, containers))
		}
		switch {
		case c.Bool("quiet"):
			for _, r := range rows {
				fmt.Fprintln(u.out, r.Name)
			}
			return nil
		case c.String("format") == "json":
			return u.json(rows)
		}
		w := tabwriter.NewWriter(u.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "NAME\tSUBNETS\tINTERFACE\tCONTAINERS")
		for _, r := range rows {
			var subnets []string
			for _, s := range r.Subnets {
				subnets = append(subnets, s.Subnet.String())
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\n", r.Name, strings.Join(subnets, ", "), r.Interface, len(r.Containers))
		}
		return w.Flush()
	})
}

func networkInspectCommand(u *ui) *cli.Command {
	return command(&cli.Command{Name: "inspect", Usage: "print what is known of networks and who is in them, as JSON", ArgsUsage: "NAME..."}, 1, -1, func(c *cli.Context) error {
		h, err := openNetworks(c, u)
		if err != nil {
			return err
		}
		containers, err := h.Containers()
		if err != nil {
			return err
		}
		rows := []*networkRow{}
		var errs []error
		for _, name := range c.Args().Slice() {
			n, err := h.Store.Network(name)
			if err == nil {
				rows = append(rows, newNetworkRow(n, containers))
			}
			errs = append(errs, err)
		}
		return errors.Join(append(errs, u.json(rows))...)
	})
}

func networkRemoveCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name: "rm", Aliases: []string{"remove"}, Usage: "remove networks that no container is in", ArgsUsage: "NAME...",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "a network that does not exist is no error"}},
	}, 1, -1, func(c *cli.Context) error {
		h, err := openNetworks(c, u)
		if err != nil {
			return err
		}
		return removeEach[*store.NotExistError](c, u, h.Remove)
	})
}

// removeEach removes what the arguments name, and prints what it has removed. With
// --force what does not exist is no error, which is a Gone.
func removeEach[Gone error](c *cli.Context, u *ui, remove func(name string) error) error {
	var errs []error
	for _, name := range c.Args().Slice() {
		err := remove(name)
		var gone Gone
		switch {
		case err == nil:
			fmt.Fprintln(u.out, name)
		case !c.Bool("force") || !errors.As(err, &gone):
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func networkPruneCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name: "prune", Usage: "free what containers have left that are gone, then remove the networks that no container is in",
	}, 0, 0, func(c *cli.Context) error {
		h, err := openNetworks(c, u)
		if err != nil {
			return err
		}
		freed, err := h.Prune()
		for _, key := range freed {
			fmt.Fprintf(u.err, "freed what container %q has left\n", store.IDOf(key))
		}
		removed, err2 := h.PruneNetworks()
		for _, name := range removed {
			fmt.Fprintln(u.out, name)
		}
		return errors.Join(err, err2)
	})
}

func networkReloadCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name: "reload", Usage: "make the rules in nftables anew, after another program has changed or flushed them",
	}, 0, 0, func(c *cli.Context) error {
		h, err := openNetworks(c, u)
		if err != nil {
			return err
		}
		return h.Reload()
	})
}

func networkStatsCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name: "stats", Usage: "print what has gone through the networks' interfaces, as the containers see it", ArgsUsage: "[NAME...]",
		Flags: []cli.Flag{&cli.StringFlag{Name: "format", Value: "table", Usage: "`FORMAT` is table or json"}},
	}, 0, -1, func(c *cli.Context) error {
		if f := c.String("format"); f != "table" && f != "json" {
			return &usageError{text: fmt.Sprintf("unknown format %q, want table or json", f), command: c.Command.HelpName}
		}
		h, err := openNetworks(c, u)
		if err != nil {
			return err
		}
		for _, name := range c.Args().Slice() {
			if _, err := h.Store.Network(name); err != nil {
				return err
			}
		}
		list, err := h.Stats(c.Args().Slice()...)
		if err != nil {
			return err
		}
		if c.String("format") == "json" {
			return u.json(list)
		}
		w := tabwriter.NewWriter(u.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "NETWORK\tCONTAINER\tINTERFACE\tRX BYTES\tRX PACKETS\tRX DROPPED\tTX BYTES\tTX PACKETS\tTX DROPPED")
		for _, s := range list {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\n", s.Network, s.Container, s.Interface, s.RxBytes, s.RxPackets, s.RxDropped, s.TxBytes, s.TxPackets, s.TxDropped)
		}
		return w.Flush()
	})
}
