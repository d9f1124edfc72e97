package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/minirun/minirun/container/inventory"
	"github.com/minirun/minirun/imagestore"
	"github.com/urfave/cli/v2"
)

func imageDUCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:  "du",
		Usage: "show what takes the store's disk space",
		Description: "Sizes are blocks on the disk, and the total is what du says of the directory. UNIQUE is what\n" +
			"becomes free when an image goes, UNUSED what gc removes.",
		Flags: []cli.Flag{formatFlag(), noTruncFlag(), &cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print the total in bytes and nothing else"}},
	}, 0, 0, func(c *cli.Context) error {
		asJSON, err := wantsJSON(c)
		if err != nil {
			return err
		}
		s, closeLayers, err := openStores(c)
		if err != nil {
			return err
		}
		defer closeLayers()
		use, err := inventory.NewUsage(c.Context, s)
		if err != nil {
			return err
		}
		switch {
		case c.Bool("quiet"):
			fmt.Fprintln(u.out, use.Total)
			return nil
		case asJSON:
			return u.json(use)
		}
		w := tabwriter.NewWriter(u.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "IMAGE\tID\tUNIQUE\tSHARED")
		for _, i := range use.Images {
			name := "<none>"
			for n, full := range i.Names {
				if n == 0 {
					name = ""
				} else {
					name += ", "
				}
				name += imagestore.Familiar(full)
			}
			id := i.ID.Short()
			if c.Bool("no-trunc") {
				id = string(i.ID)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", printable(name), id, bytesText(i.Unique), bytesText(i.Shared))
		}
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(u.out)
		w = tabwriter.NewWriter(u.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "KIND\tCOUNT\tDISK\tUNUSED")
		for _, g := range use.Groups {
			count := fmt.Sprint(g.Count)
			if g.Kind == "other" {
				count = "-"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", g.Kind, count, bytesText(g.Disk), bytesText(g.Unused))
		}
		fmt.Fprintf(w, "total\t\t%s\t\n", bytesText(use.Total))
		return w.Flush()
	})
}
