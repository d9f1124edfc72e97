package main

import (
	"github.com/minirun/minirun/imagestore/archive"
	"github.com/urfave/cli/v2"
)

func imageLoadCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:      "load",
		Usage:     "load images from a docker archive or an OCI layout",
		ArgsUsage: "[FILE|DIR|-]",
		Description: "Loads what docker save, podman save and skopeo copy write: docker archives and OCI\n" +
			"layouts, plain or compressed with gzip or zstd, from a file, a directory or standard\n" +
			"input. Everything is checked before anything is kept.",
		Flags: arrivalFlags(
			&cli.StringFlag{Name: "input", Aliases: []string{"i"}, Usage: "read from `FILE` or directory", TakesFile: true},
			&cli.StringFlag{Name: "name", Usage: "call the image `NAME`, whatever the archive says"},
		),
	}, 0, 1, func(c *cli.Context) error {
		src := c.Args().First()
		if in := c.String("input"); in != "" {
			if src != "" {
				return &usageError{text: "image load: give the source once", command: "minirun image load"}
			}
			src = in
		}
		if src == "" {
			if isTerminal(u.in) {
				return &usageError{text: "image load: no file, no directory, and standard input is a terminal", command: "minirun image load"}
			}
			src = "-"
		}
		images, err := openImages(c)
		if err != nil {
			return err
		}
		p := newProgress(u, c.Bool("quiet"))
		res, err := archive.Load(c.Context, images, src, archive.LoadOptions{
			Stdin:    interruptible(c.Context, u.in),
			Name:     c.String("name"),
			Progress: func(done, total int64) { p.update("load", done, total) },
		})
		p.clear()
		if err != nil {
			return err
		}
		return arrived(c, u, images, "loaded", res, p)
	})
}
