package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/container/volume"
	"github.com/urfave/cli/v2"
)

func volumeCommand(u *ui) *cli.Command {
	return &cli.Command{
		Name:            "volume",
		Usage:           "make, list and remove volumes",
		HideHelpCommand: true,
		OnUsageError:    onUsageError,
		Subcommands: []*cli.Command{
			volumeCreateCommand(u),
			volumeInspectCommand(u),
			volumeListCommand(u),
			volumePruneCommand(u),
			volumeRemoveCommand(u),
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return unknownCommand(c, "volume ")
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

func openVolumes(c *cli.Context) (volume.Store, error) {
	if err := becomeRoot(); err != nil {
		return "", err
	}
	dir, err := filepath.Abs(container.StoreDir(c.String("store")))
	return volume.Store(dir), err
}

func volumeCreateCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:      "create",
		Usage:     "make an empty volume and print its name",
		ArgsUsage: "[NAME]",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "label", Usage: "give it a label, `NAME[=VALUE]`"},
			&cli.StringFlag{Name: "driver", Aliases: []string{"d"}, Value: "local", Usage: "`DRIVER`; there is only local"},
		},
	}, 0, 1, func(c *cli.Context) error {
		if d := c.String("driver"); d != "local" {
			return &usageError{text: fmt.Sprintf("unknown driver %q: there is only local", d), command: c.Command.HelpName}
		}
		s, err := openVolumes(c)
		if err != nil {
			return err
		}
		labels := map[string]string{}
		for _, l := range c.StringSlice("label") {
			name, value, _ := strings.Cut(l, "=")
			if name == "" {
				return &usageError{text: fmt.Sprintf("label %q: want NAME or NAME=VALUE", l), command: c.Command.HelpName}
			}
			labels[name] = value
		}
		var list []volume.Label
		for name, value := range labels {
			list = append(list, volume.Label{Name: name, Value: value})
		}
		slices.SortFunc(list, func(a, b volume.Label) int { return strings.Compare(a.Name, b.Name) })
		name := c.Args().First()
		if name == "" {
			name = volume.RandomName()
		}
		if err := s.Create(name, list); err != nil {
			return err
		}
		fmt.Fprintln(u.out, name)
		return nil
	})
}

// volumeRow is a volume in JSON.
type volumeRow struct {
	Name       string            `json:"name"`
	Mountpoint string            `json:"mountpoint"`
	Created    string            `json:"created"`
	Labels     map[string]string `json:"labels"`
	Anonymous  bool              `json:"anonymous"`
	Containers []string          `json:"containers"`
}

// newVolumeRow describes a volume. What it cannot read of time and labels it warns of:
// content and users are elsewhere.
func (u *ui) newVolumeRow(s volume.Store, v *volume.Info) *volumeRow {
	var meta struct {
		Created string            `json:"created"`
		Labels  map[string]string `json:"labels"`
	}
	if err := json.Unmarshal(v.Meta, &meta); err != nil {
		u.warn("volume %q: its time and labels are damaged: %v", v.Name, err)
		meta.Created, meta.Labels = "", nil
	}
	if meta.Labels == nil {
		meta.Labels = map[string]string{}
	}
	return &volumeRow{Name: v.Name, Mountpoint: s.Path(v.Name), Created: meta.Created, Labels: meta.Labels, Anonymous: v.Anonymous, Containers: v.Containers}
}

func volumeListCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name: "list", Aliases: []string{"ls"}, Usage: "list volumes",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Value: "table", Usage: "`FORMAT` is table or json"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print names and nothing else"},
		},
	}, 0, 0, func(c *cli.Context) error {
		if f := c.String("format"); f != "table" && f != "json" {
			return &usageError{text: fmt.Sprintf("unknown format %q, want table or json", f), command: c.Command.HelpName}
		}
		s, err := openVolumes(c)
		if err != nil {
			return err
		}
		list, listErr := s.List() // what can be listed is
		rows := []*volumeRow{}
		for i := range list {
			rows = append(rows, u.newVolumeRow(s, &list[i]))
		}
		switch {
		case c.Bool("quiet"):
			for _, r := range rows {
				fmt.Fprintln(u.out, r.Name)
			}
			return listErr
		case c.String("format") == "json":
			return errors.Join(listErr, u.json(rows))
		}
		w := tabwriter.NewWriter(u.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "NAME\tCREATED\tCONTAINERS")
		for _, r := range rows {
			fmt.Fprintf(w, "%s\t%s\t%s\n", r.Name, createdText(r.Created), strings.Join(r.Containers, ", "))
		}
		return errors.Join(listErr, w.Flush())
	})
}

func volumeInspectCommand(u *ui) *cli.Command {
	return command(&cli.Command{Name: "inspect", Usage: "print what is known of volumes, as JSON", ArgsUsage: "NAME..."}, 1, -1, func(c *cli.Context) error {
		s, err := openVolumes(c)
		if err != nil {
			return err
		}
		rows := []*volumeRow{}
		var errs []error
		for _, name := range c.Args().Slice() {
			v, err := s.Inspect(name)
			if err == nil {
				rows = append(rows, u.newVolumeRow(s, v))
			}
			errs = append(errs, err)
		}
		return errors.Join(append(errs, u.json(rows))...)
	})
}

func volumeRemoveCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name: "rm", Aliases: []string{"remove"}, Usage: "remove volumes that no container uses, with everything in them", ArgsUsage: "NAME...",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "a volume that does not exist is no error"}},
	}, 1, -1, func(c *cli.Context) error {
		s, err := openVolumes(c)
		if err != nil {
			return err
		}
		return removeEach[*volume.NotExistError](c, u, s.Remove)
	})
}

func volumePruneCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name: "prune", Usage: "remove the volumes without a name of their own that no container uses",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "those with names too"},
			&cli.BoolFlag{Name: "dry-run", Usage: "print what would be removed, and remove nothing"},
			dryRunFormatFlag(),
		},
	}, 0, 0, func(c *cli.Context) error {
		asJSON, err := dryRunJSON(c)
		if err != nil {
			return err
		}
		s, err := openVolumes(c)
		if err != nil {
			return err
		}
		want := func(v *volume.Info) bool { return v.Anonymous || c.Bool("all") }
		if c.Bool("dry-run") {
			list, err := s.List()
			rows := []*volumeRow{}
			for i := range list {
				if len(list[i].Containers) > 0 || !want(&list[i]) {
					continue
				}
				rows = append(rows, u.newVolumeRow(s, &list[i]))
				if !asJSON {
					fmt.Fprintf(u.out, "would remove %s\n", list[i].Name)
				}
			}
			if asJSON {
				err = errors.Join(err, u.json(rows))
			}
			return err
		}
		removed, err := s.Prune(want)
		for _, name := range removed {
			fmt.Fprintln(u.out, name)
		}
		return err
	})
}
