package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

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
		replaced, err := images.Tag(c.Context, c.Args().Get(0), c.Args().Get(1))
		if err != nil {
			return fmt.Errorf("tag: %w", err)
		}
		if replaced {
			u.warn("%s stood for another image before", c.Args().Get(1))
		}
		return nil
	})
}
