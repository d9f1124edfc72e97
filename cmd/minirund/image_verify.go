package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"
)

func imageVerifyCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:      "verify",
		Usage:     "read an image's blobs and compare them with their digests",
		ArgsUsage: "NAME|ID...",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "key", Usage: "want a signature by one of the public keys in `FILE` too (repeatable)"},
			&cli.StringFlag{Name: "policy", Usage: "want what the trust policy in `FILE` wants of the image too"},
		},
	}, 1, -1, func(c *cli.Context) error {
		images, err := openImages(c)
		if err != nil {
			return err
		}
		check, err := verifyTrust(c)
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
			if check != nil {
				said, err := check(images, ref)
				if err != nil {
					errs = append(errs, fmt.Errorf("verify %q: %w", ref, err))
					continue
				}
				fmt.Fprintln(u.out, said)
			}
		}
		return errors.Join(errs...)
	})
}

func imageUnpackCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:      "unpack",
		Usage:     "unpack images, so that the first container starts at once",
		ArgsUsage: "NAME|ID...",
		Flags:     []cli.Flag{unpackerFlag(), &cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show no progress"}},
	}, 1, -1, func(c *cli.Context) error {
		images, err := openImages(c)
		if err != nil {
			return err
		}
		for _, ref := range c.Args().Slice() {
			if err := unpackImage(c, u, images, ref, nil, newProgress(u, c.Bool("quiet"))); err != nil {
				return err
			}
		}
		return nil
	})
}
