package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/minirun/minirun/imagestore"
	"github.com/urfave/cli/v2"
)

// historyRow is one step of an image's making, newest first.
type historyRow struct {
	Layer     imagestore.Digest `json:"layer,omitempty"` // empty: the step made none
	Created   string            `json:"created"`
	CreatedBy string            `json:"createdBy"`
	Size      int64             `json:"size"`
	Comment   string            `json:"comment"`
}

func imageHistoryCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:      "history",
		Usage:     "show how an image was made",
		ArgsUsage: "NAME|ID",
		Flags: []cli.Flag{
			formatFlag(), noTruncFlag(),
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print the digests of layers and nothing else"},
		},
	}, 1, 1, func(c *cli.Context) error {
		asJSON, err := wantsJSON(c)
		if err != nil {
			return err
		}
		images, err := openImages(c)
		if err != nil {
			return err
		}
		e, err := images.Lookup(c.Args().First())
		if err == nil && e.Err != nil {
			err = fmt.Errorf("image %q: %w", c.Args().First(), e.Err)
		}
		if err != nil {
			return err
		}
		rows := history(e.Image)
		full := c.Bool("no-trunc")
		layer := func(d imagestore.Digest) string {
			if full {
				return string(d)
			}
			return d.Short()
		}
		switch {
		case c.Bool("quiet"):
			for _, r := range rows {
				if r.Layer != "" {
					fmt.Fprintln(u.out, layer(r.Layer))
				}
			}
			return nil
		case asJSON:
			return u.json(rows)
		}
		w := tabwriter.NewWriter(u.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "LAYER\tCREATED\tCREATED BY\tSIZE\tCOMMENT")
		for _, r := range rows {
			name := "-"
			if r.Layer != "" {
				name = layer(r.Layer)
			}
			by := printable(strings.Join(strings.Fields(r.CreatedBy), " "))
			if text := []rune(by); len(text) > 45 && !full {
				by = string(text[:44]) + "…"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", name, createdText(r.Created), by, bytesText(r.Size), printable(r.Comment))
		}
		return w.Flush()
	})
}

// history lists the steps, newest first. Layers that no step speaks of are
// listed too; a history that speaks of more layers than there are has steps
// without one.
func history(img *imagestore.Image) []historyRow {
	rows := []historyRow{}
	next := 0
	take := func(r *historyRow) {
		if next < len(img.Layers) {
			r.Layer, r.Size = img.Layers[next].Digest, img.Layers[next].Size
			next++
		}
	}
	for _, h := range img.Config.History {
		r := historyRow{Created: h.Created, CreatedBy: h.CreatedBy, Comment: h.Comment}
		if !h.EmptyLayer {
			take(&r)
		}
		rows = append(rows, r)
	}
	for next < len(img.Layers) {
		r := historyRow{}
		take(&r)
		rows = append(rows, r)
	}
	for i, j := 0, len(rows)-1; i < j; i, j = i+1, j-1 {
		rows[i], rows[j] = rows[j], rows[i]
	}
	return rows
}
