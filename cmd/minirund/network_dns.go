package main

import (
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/minirun/minirun/network/names"
	"github.com/urfave/cli/v2"
)

// networkDNSCommand answers names in the foreground, as the supervisor does.
func networkDNSCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name: "dns", Usage: "answer names of containers in all networks, until interrupted",
	}, 0, 0, func(c *cli.Context) error {
		h, err := openNetworks(c, u)
		if err != nil {
			return err
		}
		s, err := names.New(names.Options{
			Store: h.Store,
			Log:   slog.New(slog.NewTextHandler(u.err, nil)),
			Answering: func(network string, at []netip.Addr, answered bool) {
				word := "answering"
				if !answered {
					word = "not answering"
				}
				fmt.Fprintf(u.out, "%s %s at", word, network)
				for _, a := range at {
					fmt.Fprintf(u.out, " %s", a)
				}
				fmt.Fprintln(u.out)
			},
		})
		if err != nil {
			return err
		}
		return s.Run(c.Context)
	})
}
