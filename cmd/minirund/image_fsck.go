package main

import (
	"fmt"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/container/inventory"
	"github.com/minirun/minirun/imagestore"
	"github.com/urfave/cli/v2"
)

func imageFsckCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:  "fsck",
		Usage: "check the whole store, and with --repair remove what is broken",
		Description: "Reads every blob and compares it with its digest, every descriptor with what it describes,\n" +
			"and looks whether layers and snapshots are complete; layers that are kept as archives are\n" +
			"compared with their digests too. What --repair removes comes back with\n" +
			"the next load or pull of the image; what is good stays. The exit status is 1 if damage is left.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "repair", Usage: "remove what is broken"},
			formatFlag(),
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print damage and nothing else"},
		},
	}, 0, 0, func(c *cli.Context) error {
		asJSON, err := wantsJSON(c)
		if err != nil {
			return err
		}
		if err := becomeRoot(); err != nil {
			return err
		}
		s := inventory.Stores{}
		if s.Images, err = imagestore.OpenDamaged(container.StoreDir(c.String("store"))); err != nil {
			return err
		}
		if err := addLayers(&s); err != nil {
			return err
		}
		if s.Layers != nil {
			defer s.Layers.Close()
		}
		p := newProgress(u, c.Bool("quiet"))
		found, err := inventory.Fsck(c.Context, s, imagestore.FsckOptions{
			Repair:   c.Bool("repair"),
			Progress: func(done, total int64) { p.update("check", done, total) },
		})
		p.clear()
		damage := 0
		shown := []imagestore.Finding{}
		for _, f := range found {
			if !f.Residue && f.Repaired == "" {
				damage++
			}
			if !f.Residue || !c.Bool("quiet") {
				shown = append(shown, f)
			}
		}
		if asJSON {
			if jsonErr := u.json(shown); err == nil {
				err = jsonErr
			}
		} else {
			for _, f := range shown {
				line := f.Object + ": " + f.Problem
				switch {
				case f.Repaired != "":
					line += ": " + f.Repaired
				case f.Advice != "":
					line += " (" + f.Advice + ")"
				}
				fmt.Fprintln(u.out, printable(line))
			}
			if len(found) == 0 && err == nil && !c.Bool("quiet") {
				fmt.Fprintln(u.out, "the store is in order")
			}
		}
		if err != nil {
			return fmt.Errorf("check the store: %w", err)
		}
		if damage > 0 {
			return exitStatus(1)
		}
		return nil
	})
}
