package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/internal/netip"
	"github.com/urfave/cli/v2"
)

func networkConnectCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name: "connect", Usage: "connect a container to one more network", ArgsUsage: "NETWORK CONTAINER",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "ip", Usage: "`ADDRESS` of IPv4 in the network (default: the next free one)"},
			&cli.StringFlag{Name: "ip6", Usage: "`ADDRESS` of IPv6 in the network"},
			&cli.StringSliceFlag{Name: "alias", Usage: "`NAME` of the container for others in this network (repeatable)"},
		},
	}, 2, 2, func(c *cli.Context) error {
		var ips []netip.Addr
		for _, name := range []string{"ip", "ip6"} {
			if !c.IsSet(name) {
				continue
			}
			a, err := container.ParseAddress(c.String(name))
			if err == nil && a.Is4() != (name == "ip") {
				err = fmt.Errorf("is an address of the other family")
			}
			if err != nil {
				return &usageError{text: fmt.Sprintf("flag --%s: %q: %v", name, c.String(name), err), command: c.Command.HelpName}
			}
			ips = append(ips, a)
		}
		s, err := openContainers(c)
		if err != nil {
			return err
		}
		target, err := s.Load(c.Args().Get(1))
		if err != nil {
			return err
		}
		_, err = container.ConnectNetwork(target, c.Args().First(), ips, c.StringSlice("alias"), func(text string) { fmt.Fprintln(u.err, "minirun: warning: "+text) })
		return err
	})
}

func networkDisconnectCommand(*ui) *cli.Command {
	return command(&cli.Command{
		Name: "disconnect", Usage: "disconnect a container from a network", ArgsUsage: "NETWORK CONTAINER",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "a container that is not in the network, or does not exist, is no error"}},
	}, 2, 2, func(c *cli.Context) error {
		s, err := openContainers(c)
		if err != nil {
			return err
		}
		target, err := s.Load(c.Args().Get(1))
		if err == nil {
			err = container.DisconnectNetwork(target, c.Args().First())
		}
		if c.Bool("force") && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}
