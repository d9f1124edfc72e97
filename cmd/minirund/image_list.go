package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/minirun/minirun/imagestore"
	"github.com/urfave/cli/v2"
)

func imageListCommand(u *ui) *cli.Command {
	c := listCommand(u)
	c.Name, c.Aliases = "list", []string{"ls"}
	return c
}

func imagesCommand(u *ui) *cli.Command {
	c := listCommand(u)
	c.Name = "images"
	return c
}

func listCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Usage:     "list images",
		ArgsUsage: "[NAME]",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Value: "table", Usage: "`FORMAT` is table or json"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print IDs and nothing else"},
			&cli.BoolFlag{Name: "no-trunc", Usage: "print IDs in full"},
		},
	}, 0, 1, func(c *cli.Context) error {
		format := c.String("format")
		if format != "table" && format != "json" {
			return &usageError{text: fmt.Sprintf("unknown format %q, want table or json", format), command: c.Command.HelpName}
		}
		images, err := openImages(c)
		if err != nil {
			return err
		}
		entries, err := images.List()
		if err != nil {
			return err
		}
		rows := []listRow{}
		for _, e := range entries {
			r := newListRow(e)
			if want := c.Args().First(); want == "" || r.matches(want) {
				rows = append(rows, r)
			}
		}
		switch {
		case c.Bool("quiet"):
			for _, r := range rows {
				if r.ID != "" {
					fmt.Fprintln(u.out, r.id(c.Bool("no-trunc")))
				}
			}
			return nil
		case format == "json":
			enc := json.NewEncoder(u.out)
			enc.SetIndent("", "  ")
			return enc.Encode(rows)
		}
		return u.imageTable(rows, c.Bool("no-trunc"))
	})
}

// listRow is one image in `image list --format json`.
type listRow struct {
	Name     string            `json:"name"`
	ID       imagestore.Digest `json:"id"`
	Digest   imagestore.Digest `json:"digest"`
	Platform string            `json:"platform"`
	Created  string            `json:"created"`
	Size     int64             `json:"size"`
	Layers   int               `json:"layers"`
	Error    string            `json:"error,omitempty"`
}

func newListRow(e imagestore.Entry) listRow {
	r := listRow{Name: e.Name, Digest: e.Target.Digest}
	if e.Err != nil {
		r.Error = e.Err.Error()
		return r
	}
	r.ID = e.Image.ConfigDigest
	r.Platform = e.Image.Config.Platform().String()
	r.Created = e.Image.Config.Created
	r.Size = e.Image.Size()
	r.Layers = len(e.Image.Layers)
	return r
}

// matches compares a name with or without tag.
func (r *listRow) matches(want string) bool {
	have, err := imagestore.ParseReference(r.Name)
	if err != nil {
		return r.Name == want
	}
	w, err := imagestore.ParseReference(want)
	if err != nil {
		return false
	}
	if !strings.Contains(want[strings.LastIndexByte(want, '/')+1:], ":") {
		return have.Repository() == w.Repository()
	}
	return have == w
}

func (r *listRow) id(full bool) string {
	if full {
		return string(r.ID)
	}
	return r.ID.Short()
}

func (u *ui) imageTable(rows []listRow, full bool) error {
	w := tabwriter.NewWriter(u.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tPLATFORM\tCREATED\tSIZE")
	for _, r := range rows {
		name := imagestore.Familiar(r.Name)
		if name == "" {
			name = "<none>"
		}
		if r.Error != "" {
			fmt.Fprintf(w, "%s\t-\t-\t-\tdamaged\n", printable(name))
			u.warn("%s: %s", name, r.Error)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", printable(name), r.id(full), printable(r.Platform), createdText(r.Created), bytesText(r.Size))
	}
	return w.Flush()
}

func createdText(s string) string {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04")
}

// printable keeps control characters of an image's metadata from the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}
