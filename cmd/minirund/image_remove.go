package main

import (
	"errors"
	"fmt"

	"github.com/minirun/minirun/imagestore"
	"github.com/urfave/cli/v2"
)

func imageRemoveCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:      "rm",
		Aliases:   []string{"remove"},
		Usage:     "remove images, and what nothing else needs of them",
		ArgsUsage: "NAME|ID...",
		Description: "Containers that were made from the image go on: the layers that they stand on are\n" +
			"kept until they are gone.",
	}, 1, -1, func(c *cli.Context) error {
		images, err := openImages(c)
		if err != nil {
			return err
		}
		var errs []error
		removed := 0
		for _, ref := range c.Args().Slice() {
			r, err := images.Remove(ref)
			if err != nil {
				errs = append(errs, fmt.Errorf("remove: %w", err))
				continue
			}
			removed++
			if r.Kept != nil {
				u.warn("unused blobs were kept: %v", r.Kept)
			}
			fmt.Fprintf(u.out, "removed %s, %s freed\n", imagestore.Familiar(r.Name), bytesText(r.Swept.Bytes))
		}
		if removed > 0 {
			if _, err := prune(c, images); err != nil {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
}

func imageGCCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:  "gc",
		Usage: "remove what no image needs: blobs, unpacked layers, the rest of interrupted work",
	}, 0, 0, func(c *cli.Context) error {
		images, err := openImages(c)
		if err != nil {
			return err
		}
		swept, err := images.GC()
		n, pruneErr := prune(c, images)
		fmt.Fprintf(u.out, "removed %d blobs, %s, and %d unpacked layers\n", swept.Blobs, bytesText(swept.Bytes), n)
		return errors.Join(err, pruneErr)
	})
}

func imageTagCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:      "tag",
		Usage:     "give an image a further name",
		ArgsUsage: "NAME|ID NEW-NAME",
	}, 2, 2, func(c *cli.Context) error {
		images, err := openImages(c)
		if err != nil {
			return err
		}
		replaced, err := images.Tag(c.Args().Get(0), c.Args().Get(1))
		if err != nil {
			return fmt.Errorf("tag: %w", err)
		}
		if replaced {
			u.warn("%s stood for another image before", c.Args().Get(1))
		}
		return nil
	})
}

func imageVerifyCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:      "verify",
		Usage:     "read an image's blobs and compare them with their digests",
		ArgsUsage: "NAME|ID...",
	}, 1, -1, func(c *cli.Context) error {
		images, err := openImages(c)
		if err != nil {
			return err
		}
		var errs []error
		for _, ref := range c.Args().Slice() {
			if err := images.Verify(c.Context, ref); err != nil {
				errs = append(errs, fmt.Errorf("verify %q: %w", ref, err))
				continue
			}
			fmt.Fprintf(u.out, "%s is complete\n", ref)
		}
		return errors.Join(errs...)
	})
}

func imageUnpackCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:      "unpack",
		Usage:     "unpack images, so that the first container starts at once",
		ArgsUsage: "NAME|ID...",
		Flags:     []cli.Flag{&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show no progress"}},
	}, 1, -1, func(c *cli.Context) error {
		images, err := openImages(c)
		if err != nil {
			return err
		}
		for _, ref := range c.Args().Slice() {
			if err := unpackImage(c, u, images, ref, newProgress(u, c.Bool("quiet"))); err != nil {
				return err
			}
		}
		return nil
	})
}
