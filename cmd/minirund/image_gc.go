package main

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/minirun/minirun/container/inventory"
	"github.com/minirun/minirun/imagestore"
	"github.com/urfave/cli/v2"
)

func imageGCCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:  "gc",
		Usage: "remove what no image needs: blobs, unpacked layers, the rest of interrupted work",
		Description: "It may run at any time, beside everything. With --dry-run it tells for each object why it\n" +
			"stays or that it goes. A container whose record went with an earlier boot cannot be started\n" +
			"any more: what it has written moves to overlay/lost in the store, where --lost removes it.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "explain, and remove nothing"},
			&cli.StringFlag{Name: "format", Value: "table", Usage: "`FORMAT` of what is printed: table or json"},
			&cli.BoolFlag{Name: "lost", Usage: "also remove what containers had written that were lost when the machine was started anew"},
			noTruncFlag(),
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print nothing; with --dry-run, only what goes"},
		},
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
		s.RemoveLost = c.Bool("lost")
		if c.Bool("dry-run") {
			p, err := inventory.NewPlan(c.Context, s)
			if err != nil {
				return err
			}
			return u.plan(c, p, asJSON)
		}
		done, err := inventory.Collect(c.Context, s)
		switch {
		case c.Bool("quiet"):
		case asJSON:
			err = errors.Join(err, u.json(newCollected(done)))
		default:
			for _, l := range done.Lost {
				fmt.Fprintf(u.out, "container %s is lost: its record %s went with an earlier boot. What it had written is in %s/upper, %s; image gc --lost removes it\n",
					printable(l.Container), printable(l.Record), printable(l.Dir), bytesText(l.Disk))
			}
			if done.Snapshots > 0 {
				fmt.Fprintf(u.out, "removed %d snapshots of lost containers\n", done.Snapshots)
			}
			fmt.Fprintf(u.out, "removed %d blobs and %d unpacked layers, %s freed\n", done.Blobs, done.Layers, bytesText(done.Freed))
		}
		return err
	})
}

// collected is what `image gc --format json` prints.
type collected struct {
	Blobs     int        `json:"blobs"`
	Layers    int        `json:"layers"`
	Snapshots int        `json:"snapshots"` // of lost containers
	Freed     int64      `json:"freed"`     // bytes
	Lost      []lostData `json:"lost"`      // what is kept of lost containers
}

type lostData struct {
	Container string `json:"container"`
	Record    string `json:"record"`
	Path      string `json:"path"`
	Disk      int64  `json:"disk"`
}

func newCollected(done *inventory.Collected) collected {
	c := collected{done.Blobs, done.Layers, done.Snapshots, done.Freed, []lostData{}}
	for _, l := range done.Lost {
		c.Lost = append(c.Lost, lostData{l.Container, l.Record, l.Dir, l.Disk})
	}
	return c
}

func (u *ui) plan(c *cli.Context, p *inventory.Plan, asJSON bool) error {
	if c.Bool("quiet") {
		kept := p.Items[:0]
		for _, i := range p.Items {
			if !i.Keep {
				kept = append(kept, i)
			}
		}
		p.Items = kept
	}
	if p.Damaged != nil {
		u.warn("no blob would be removed: %v", p.Damaged)
	}
	if asJSON {
		if p.Items == nil {
			p.Items = []inventory.Item{}
		}
		return u.json(p)
	}
	w := tabwriter.NewWriter(u.out, 0, 0, 2, ' ', 0)
	for _, i := range p.Items {
		word := "goes"
		if i.Keep {
			word = "stays"
		}
		name := i.Name
		if d, err := imagestore.ParseDigest(name); err == nil && !c.Bool("no-trunc") {
			name = d.Short()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", word, i.Kind, name, bytesText(i.Disk), printable(strings.Join(i.Why, "; ")))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(u.out, "%s would be freed\n", bytesText(p.Freed))
	return nil
}
