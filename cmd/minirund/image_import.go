package main

import (
	"time"

	"github.com/minirun/minirun/imagestore/archive"
	"github.com/minirun/minirun/internal/kfeature"
	"github.com/minirun/minirun/overlay/apply"
	"github.com/urfave/cli/v2"
)

func imageImportCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:      "import",
		Usage:     "make an image of one layer from a root file system",
		ArgsUsage: "FILE|DIR|- NAME",
		Flags: arrivalFlags(
			&cli.StringSliceFlag{Name: "change", Aliases: []string{"c"}, Usage: "apply a Dockerfile `INSTRUCTION`: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR"},
			&cli.StringFlag{Name: "message", Aliases: []string{"m"}, Usage: "`TEXT` for the image's history"},
		),
	}, 2, 2, func(c *cli.Context) error {
		images, err := openImages(c)
		if err != nil {
			return err
		}
		p := newProgress(u, c.Bool("quiet"))
		res, err := archive.Import(c.Context, images, c.Args().Get(0), c.Args().Get(1), archive.ImportOptions{
			Stdin:    interruptible(c.Context, u.in),
			Changes:  c.StringSlice("change"),
			Message:  c.String("message"),
			Created:  time.Now(),
			Progress: func(done, total int64) { p.update("import", done, total) },
			// Kept as it is by an index; extracting it would take the disk's space twice.
			KeepPlain: func() bool {
				return !c.Bool("no-unpack") && unpackerOf(c) != apply.Extract && kfeature.EROFSLowerIn(images.Root()) == nil
			},
		})
		p.clear()
		if err != nil {
			return err
		}
		if res.Plain != nil {
			defer res.Plain.Close()
		}
		return arrived(c, u, images, "imported", res, p)
	})
}
