package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/container/unpack"
	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/archive"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/apply"
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
			&cli.BoolFlag{Name: "no-retag", Usage: "load nothing if a name stands for another image"},
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
		o := archive.LoadOptions{
			Stdin:    interruptible(c.Context, u.in),
			Name:     c.String("name"),
			NoRetag:  c.Bool("no-retag"),
			Progress: func(done, total int64) { p.update("load", done, total) },
		}
		if !c.Bool("no-unpack") {
			o.Unpack = stagedUnpacker(u, images, unpackerOf(c), p)
		}
		res, err := archive.Load(c.Context, images, src, o)
		p.clear()
		if err != nil {
			if o.Unpack != nil { // of an image that was fine, beside one that was not
				_, pruneErr := prune(c, images)
				err = errors.Join(err, pruneErr)
			}
			return err
		}
		return arrived(c, u, images, "loaded", res, p)
	})
}

// stagedUnpacker unpacks an image before it becomes visible, so that its layers
// are decompressed once: what checks them against the configuration is the
// unpacking. When it fails, arrived tries again and says why.
func stagedUnpacker(u *ui, images *imagestore.Store, kind apply.Kind, p *progress) func(context.Context, *imagestore.Ingest, *imagestore.Image) ([]bool, error) {
	return func(ctx context.Context, g *imagestore.Ingest, img *imagestore.Image) ([]bool, error) {
		layers, err := overlay.OpenStore(container.OverlayDir(images.Root()))
		if err != nil {
			return nil, err
		}
		defer layers.Close()
		name := string(img.ConfigDigest)
		proved, warnings, err := unpack.Staged(ctx, kind, g, layers, img, name, func(s unpack.Progress) {
			p.update(fmt.Sprintf("unpack layer %d of %d", s.Layer, s.Layers), s.Done, s.Total)
		})
		for _, w := range warnings {
			u.warn("image %s: %s", img.ConfigDigest.Short(), w)
		}
		return proved, err
	}
}
