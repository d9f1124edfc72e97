package main

import (
	"fmt"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/internal/linux"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/diff"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// changeRow is one change in --format json.
type changeRow struct {
	Kind string `json:"kind"` // A, C or D
	Path string `json:"path"`
}

func diffFlags() []cli.Flag {
	return []cli.Flag{&cli.StringFlag{Name: "format", Value: "text", Usage: "`FORMAT` is text or json"}}
}

func diffCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:      "diff",
		Usage:     "list what a container has changed in its image",
		ArgsUsage: "CONTAINER",
		Description: "A is a path that was added, C one that was changed, which includes a directory with\n" +
			"changes in it, and D one that was deleted.",
		Flags: diffFlags(),
	}, 1, 1, func(c *cli.Context) error {
		if err := checkDiffFormat(c); err != nil {
			return err
		}
		target, err := loadContainer(c)
		if err != nil {
			return err
		}
		layers, sn, upper, err := upperOf(target)
		if err != nil {
			return fmt.Errorf("diff: %w", err)
		}
		defer layers.Close()
		defer linux.Close(upper)
		lower, err := openView(layers, sn.Parent())
		if err != nil {
			return err
		}
		defer linux.Close(lower)
		spec, err := configOf(target)
		if err != nil {
			return fmt.Errorf("diff: %w", err)
		}
		list, err := diff.Upper(c.Context, upper, lower, mountPlaces(spec, "/"))
		if err == nil {
			_, err = layers.Snapshot(sn.Key()) // deleted meanwhile: then something is missing in the list
		}
		if err != nil {
			return fmt.Errorf("diff of container %q: %w", target.ID, err)
		}
		return u.printChanges(list, c.String("format"))
	})
}

func imageDiffCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:      "diff",
		Usage:     "list how the files of one image differ from those of another",
		ArgsUsage: "NAME|ID NAME|ID",
		Description: "A, C and D are as in minirun diff. Files are compared by type, mode, owner, attributes\n" +
			"and content; times alone are no difference.",
		Flags: diffFlags(),
	}, 2, 2, func(c *cli.Context) error {
		if err := checkDiffFormat(c); err != nil {
			return err
		}
		images, err := openImages(c)
		if err != nil {
			return err
		}
		layers, err := overlay.OpenStore(container.OverlayDir(images.Root()))
		if err != nil {
			return err
		}
		defer layers.Close()
		var views [2]int
		for i, ref := range c.Args().Slice() {
			if err := unpackImage(c, u, images, ref, nil, newProgress(u, true)); err != nil {
				return err
			}
			img, pin, err := images.Pin(c.Context, ref) // layers stay as long as they are looked at
			if err != nil {
				return err
			}
			defer pin.Close()
			if views[i], err = openView(layers, imageChain(img)); err != nil {
				return err
			}
			defer linux.Close(views[i])
		}
		list, err := diff.Trees(c.Context, views[0], views[1])
		if err != nil {
			return fmt.Errorf("diff of images %q and %q: %w", c.Args().Get(0), c.Args().Get(1), err)
		}
		return u.printChanges(list, c.String("format"))
	})
}

func imageChain(img *imagestore.Image) overlay.ChainID { return overlay.ChainID(img.TopChainID()) }

// openView mounts a chain of layers for nobody else and opens its root. -1
// stands for an image without layers.
func openView(layers *overlay.Store, chain overlay.ChainID) (int, error) {
	if chain == "" {
		return -1, nil
	}
	mount, err := layers.MountView(chain)
	if err != nil {
		return -1, err
	}
	defer linux.Close(mount) // the open directory holds it
	return linux.OpenAt(mount, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

func checkDiffFormat(c *cli.Context) error {
	if f := c.String("format"); f != "text" && f != "json" {
		return &usageError{text: fmt.Sprintf("unknown format %q, want text or json", f), command: c.Command.HelpName}
	}
	return nil
}

func (u *ui) printChanges(list []diff.Change, format string) error {
	if format == "json" {
		rows := []changeRow{}
		for _, ch := range list {
			rows = append(rows, changeRow{string(ch.Kind), ch.Path})
		}
		return u.json(rows)
	}
	for _, ch := range list {
		fmt.Fprintf(u.out, "%c %s\n", ch.Kind, printable(ch.Path))
	}
	return nil
}
