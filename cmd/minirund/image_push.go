package main

import (
	"fmt"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/registry"
	"github.com/urfave/cli/v2"
)

func pushCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:      "push",
		Usage:     "send an image to a registry",
		ArgsUsage: "NAME|ID [NEW-NAME]",
		Description: "Sends an image to the registry that its name says, or the new one. What the registry\n" +
			"has is not sent. Digests stay as they are.",
		Flags: transferFlags(
			&cli.StringFlag{Name: "platform", Usage: "of an index, send the image for `OS/ARCH[/VARIANT]` alone"},
		),
	}, 1, 2, func(c *cli.Context) error {
		ref := c.Args().First()
		o := registry.PushOptions{}
		var err error
		if o.Platform, err = platformFlag(c); err != nil {
			return err
		}
		if c.NArg() > 1 {
			as, err := imagestore.ParseReference(c.Args().Get(1))
			if err != nil {
				return err
			}
			o.As = &as
		}
		client, _, err := registryClient(c, u)
		if err != nil {
			return err
		}
		defer client.CloseIdleConnections()
		images, err := openImages(c)
		if err != nil {
			return err
		}
		p, err := newTransferProgress(c, u, "push", ref)
		if err != nil {
			return err
		}
		o.Progress = p.update
		res, err := client.Push(c.Context, images, ref, o)
		p.clear()
		if err != nil {
			return err
		}
		for _, d := range res.Skipped {
			u.warn("layer %s may only be distributed by its owner and was not sent", d.Short())
		}
		digest := string(res.Target.Digest)
		p.finish(u.out, c.Bool("quiet"), digest, digest, fmt.Sprintf("pushed %s %s", imagestore.Familiar(res.Name), digest))
		return nil
	})
}
