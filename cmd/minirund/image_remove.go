package main

import (
	"errors"
	"fmt"

	"github.com/minirun/minirun/container/inventory"
	"github.com/minirun/minirun/imagestore"
	"github.com/urfave/cli/v2"
)

func imageRemoveCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:      "rm",
		Aliases:   []string{"remove"},
		Usage:     "remove images, and what nothing else needs of them",
		ArgsUsage: "NAME|ID...",
		Description: "An image that containers were made from stays unless --force is given. The containers go\n" +
			"on even then: the layers that they stand on are kept until they are gone.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "remove an image that containers use, and every name of an ID"},
		},
	}, 1, -1, func(c *cli.Context) error {
		s, closeLayers, err := openStores(c)
		if err != nil {
			return err
		}
		defer closeLayers()
		var errs []error
		removed := 0
		for _, ref := range c.Args().Slice() {
			if err := removeImage(u, s, ref, c.Bool("force")); err != nil {
				errs = append(errs, fmt.Errorf("remove: %w", err))
				continue
			}
			removed++
		}
		if removed > 0 {
			if _, err := inventory.Prune(c.Context, s); err != nil {
				errs = append(errs, fmt.Errorf("remove unused layers: %w", err))
			}
		}
		return errors.Join(errs...)
	})
}

func removeImage(u *ui, s inventory.Stores, ref string, force bool) error {
	o := imagestore.RemoveOptions{AllNames: force}
	if !force {
		o.Last = func(gone *imagestore.Image, others []*imagestore.Image) error {
			users, err := inventory.Users(s, gone, others)
			if err == nil && len(users) > 0 {
				err = &imagestore.InUseError{Ref: ref, Containers: users}
			}
			return err
		}
	}
	r, err := s.Images.RemoveWith(ref, o)
	if err != nil {
		return err
	}
	if r.Kept != nil {
		u.warn("unused blobs were kept: %v", r.Kept)
	}
	for i, name := range r.Names {
		freed := int64(0)
		if i == len(r.Names)-1 {
			freed = r.Swept.Bytes
		}
		fmt.Fprintf(u.out, "removed %s, %s freed\n", imagestore.Familiar(name), bytesText(freed))
	}
	return nil
}

func imagePruneCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:  "prune",
		Usage: "remove images without a name, or with --all those that no container uses",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "also images with names, unless a container was made from them"},
			&cli.BoolFlag{Name: "dry-run", Usage: "print what would be removed, and remove nothing"},
			filterFlag("reference=PATTERN, label=NAME[=VALUE]"),
		},
	}, 0, 0, func(c *cli.Context) error {
		f, err := parseFilters(c)
		if err != nil {
			return err
		}
		s, closeLayers, err := openStores(c)
		if err != nil {
			return err
		}
		defer closeLayers()
		entries, err := s.Images.List()
		if err != nil {
			return err
		}
		var errs []error
		done := map[string]bool{}
		for _, e := range entries {
			// Artifacts without a name go with what they are about.
			if e.Name == "" && e.Artifact() != "" || e.Name != "" && !c.Bool("all") || !f.match(&e) {
				continue
			}
			ref := e.Name
			if ref == "" {
				ref = string(e.Target.Digest)
			}
			if e.Image != nil {
				users, err := inventory.Users(s, e.Image, nil)
				if err != nil {
					return err
				}
				if len(users) > 0 {
					continue
				}
			}
			if done[ref] {
				continue
			}
			done[ref] = true
			if c.Bool("dry-run") {
				fmt.Fprintf(u.out, "would remove %s\n", imagestore.Familiar(ref))
				continue
			}
			if err := removeImage(u, s, ref, false); err != nil {
				var used *imagestore.InUseError
				if !errors.As(err, &used) { // since we looked
					errs = append(errs, fmt.Errorf("remove: %w", err))
				}
			}
		}
		if len(done) > 0 && !c.Bool("dry-run") {
			if _, err := inventory.Prune(c.Context, s); err != nil {
				errs = append(errs, fmt.Errorf("remove unused layers: %w", err))
			}
		}
		return errors.Join(errs...)
	})
}
