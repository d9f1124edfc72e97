package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

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
		ArgsUsage: "[NAME|PATTERN]",
		Flags: []cli.Flag{
			formatFlag(),
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print IDs and nothing else"},
			noTruncFlag(),
			&cli.BoolFlag{Name: "digests", Usage: "show the digests that names stand for"},
			filterFlag("dangling=true|false, reference=PATTERN, label=NAME[=VALUE]"),
		},
	}, 0, 1, func(c *cli.Context) error {
		asJSON, err := wantsJSON(c)
		if err != nil {
			return err
		}
		filters, err := parseFilters(c)
		if err != nil {
			return err
		}
		want := c.Args().First()
		if isPattern(want) {
			if err := filters.addReference(want); err != nil {
				return &usageError{text: fmt.Sprintf("%s: %q: %v", c.Command.HelpName, want, err), command: c.Command.HelpName}
			}
			want = ""
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
			if (want == "" || r.matches(want)) && filters.match(&e) {
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
		case asJSON:
			return u.json(rows)
		}
		return u.imageTable(rows, c.Bool("no-trunc"), c.Bool("digests"))
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
	Artifact string            `json:"artifact,omitempty"`
	Error    string            `json:"error,omitempty"`
}

func newListRow(e imagestore.Entry) listRow {
	r := listRow{Name: e.Name, Digest: e.Target.Digest}
	if r.Artifact = e.Artifact(); r.Artifact != "" {
		r.ID, r.Size = e.ID(), e.Target.Size
		return r
	}
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

// isPattern reports whether a name is the pattern of names; an address of IPv6 has a bracket, too.
func isPattern(name string) bool {
	_, err := imagestore.ParseReference(name)
	return err != nil && strings.ContainsAny(name, "*?[")
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

func (u *ui) imageTable(rows []listRow, full, digests bool) error {
	w := tabwriter.NewWriter(u.out, 0, 0, 2, ' ', 0)
	column := func(r *listRow) string {
		if !digests {
			return ""
		}
		return string(r.Digest) + "\t"
	}
	fmt.Fprint(w, "NAME\t")
	if digests {
		fmt.Fprint(w, "DIGEST\t")
	}
	fmt.Fprintln(w, "ID\tPLATFORM\tCREATED\tSIZE")
	for _, r := range rows {
		name := imagestore.Familiar(r.Name)
		if name == "" {
			name = "<none>"
		}
		switch {
		case r.Artifact != "":
			fmt.Fprintf(w, "%s\t%s%s\t%s\t-\t%s\n", printable(name), column(&r), r.id(full), printable("artifact "+r.Artifact), bytesText(r.Size))
		case r.Error != "":
			fmt.Fprintf(w, "%s\t%s-\t-\t-\tdamaged\n", printable(name), column(&r))
			u.warn("%s: %s", name, r.Error)
		default:
			fmt.Fprintf(w, "%s\t%s%s\t%s\t%s\t%s\n", printable(name), column(&r), r.id(full), printable(r.Platform), createdText(r.Created), bytesText(r.Size))
		}
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
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError || invisible(r) {
			return '?'
		}
		return r
	}, s)
}

// invisible reports whether a character changes the direction or the lines of the
// text around it.
func invisible(r rune) bool {
	return r >= 0x200b && r <= 0x200f || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0xfeff
}
