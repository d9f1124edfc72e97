package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/container/unpack"
	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/registry"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/apply"
	"github.com/urfave/cli/v2"
)

func pullCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:      "pull",
		Usage:     "fetch images from a registry",
		ArgsUsage: "NAME...",
		Description: "Fetches what is not here and unpacks it. A transfer that was interrupted goes on where\n" +
			"it ended; the same content is fetched once, however many ask for it. Everything is\n" +
			"checked before it is kept.",
		Flags: transferFlags(
			&cli.StringFlag{Name: "platform", Usage: "fetch the image for `OS/ARCH[/VARIANT]` and not the one for this host"},
			&cli.BoolFlag{Name: "all-platforms", Usage: "fetch everything that the image's index holds"},
			unpackerFlag(),
			&cli.BoolFlag{Name: "with-referrers", Usage: "fetch signatures, bills of materials and what else is about the image, too"},
			&cli.BoolFlag{Name: "no-unpack", Usage: "leave the unpacking to the first container"},
		),
	}, 1, -1, func(c *cli.Context) error {
		platform, err := platformFlag(c)
		if err != nil {
			return err
		}
		if platform != nil && c.Bool("all-platforms") {
			return &usageError{text: c.Command.HelpName + ": give --platform or --all-platforms", command: commandName(c)}
		}
		var refs []imagestore.Reference
		for _, name := range c.Args().Slice() {
			ref, err := imagestore.ParseReference(name)
			if err != nil {
				return err
			}
			refs = append(refs, ref)
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
		var errs []error
		for _, ref := range refs {
			if err := pullImage(c, u, client, images, ref, platform); err != nil {
				errs = append(errs, err)
			}
			if c.Context.Err() != nil {
				break
			}
		}
		return errors.Join(errs...)
	})
}

// unpackArriving unpacks layers while others are still on their way.
func unpackArriving(ctx context.Context, kind apply.Kind, u *ui, images *imagestore.Store, g *imagestore.Ingest, target imagestore.Descriptor, ref string, p *transferProgress) error {
	img, err := g.Image(target)
	if err != nil {
		return err
	}
	layers, err := overlay.OpenStore(container.OverlayDir(images.Root()))
	if err != nil {
		return err
	}
	defer layers.Close()
	_, warnings, err := unpack.Staged(ctx, kind, g, layers, img, ref, func(s unpack.Progress) { p.unpacking(s.Done, s.Total) })
	if err != nil {
		return err
	}
	p.clear()
	for _, w := range warnings {
		u.warn("%s: %s", ref, w)
	}
	return nil
}

func pullImage(c *cli.Context, u *ui, client *registry.Client, images *imagestore.Store, ref imagestore.Reference, platform *imagestore.Platform) (err error) {
	p, err := newTransferProgress(c, u, "pull", ref.Familiar())
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			p.failed(err)
		}
	}()
	o := registry.PullOptions{Platform: platform, AllPlatforms: c.Bool("all-platforms"), Referrers: c.Bool("with-referrers"), Progress: p.update}
	if err := pullTrust(ref, &o); err != nil {
		return err
	}
	native := platform == nil || imagestore.HostPlatform().Runs(*platform)
	if native && !c.Bool("no-unpack") {
		o.Arriving = func(ctx context.Context, g *imagestore.Ingest, target imagestore.Descriptor) error {
			return unpackArriving(ctx, unpackerOf(c), u, images, g, target, ref.Familiar(), p)
		}
	}
	res, err := client.Pull(c.Context, images, ref, o)
	if err != nil {
		return err
	}
	p.clear()
	if res.Replaced {
		u.warn("%s stood for another image before", imagestore.Familiar(res.Name))
	}
	if !c.Bool("no-unpack") && native {
		err := unpackImage(c, u, images, res.Name, nil, p.lines)
		var other *imagestore.PlatformError
		if errors.As(err, &other) {
			u.warn("%v", err) // all platforms but this one
		} else if err != nil {
			return err
		}
	}
	word := "pulled"
	if res.UpToDate {
		word = "up to date:"
	}
	p.finish(u.out, c.Bool("quiet"), string(res.ID), string(res.Target.Digest), fmt.Sprintf("%s %s %s", word, imagestore.Familiar(res.Name), res.ID.Short()))
	if res.Replaced {
		if _, err := prune(c, images); err != nil {
			u.warn("%v", err)
		}
	}
	return nil
}
