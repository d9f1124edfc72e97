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
			"has is not sent. Digests stay as they are. Signatures that the store has of the image go\n" +
			"with it.",
		Flags: transferFlags(
			&cli.StringFlag{Name: "platform", Usage: "of an index, send the image for `OS/ARCH[/VARIANT]` alone"},
			&cli.BoolFlag{Name: "with-referrers", Usage: "also send what else is about the image: bills of materials and the like"},
			&cli.BoolFlag{Name: "no-signatures", Usage: "send the image alone"},
		),
	}, 1, 2, func(c *cli.Context) error {
		ref := c.Args().First()
		o := registry.PushOptions{}
		var err error
		if o.Platform, err = platformFlag(c); err != nil {
			return err
		}
		switch {
		case c.Bool("with-referrers") && c.Bool("no-signatures"):
			return &usageError{text: "--with-referrers and --no-signatures exclude each other", command: c.Command.HelpName}
		case c.Bool("with-referrers"):
			o.About = registry.Everything
		case c.Bool("no-signatures"):
			o.About = registry.Nothing
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
		if err != nil {
			p.failed(err)
			return err
		}
		p.clear()
		for _, d := range res.Skipped {
			u.warn("layer %s may only be distributed by its owner and was not sent", d.Short())
		}
		for _, tag := range res.Others {
			u.warn("the registry has other signatures under %s: those in the store were not sent", tag)
		}
		digest := string(res.Target.Digest)
		p.finish(u.out, c.Bool("quiet"), digest, digest, fmt.Sprintf("pushed %s %s", imagestore.Familiar(res.Name), digest))
		return nil
	})
}
