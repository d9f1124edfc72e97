package main

import (
	"context"
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
		Description: "An image that is mounted, or that containers were made from, stays unless --force is given.\n" +
			"They go on even then: the layers that they stand on are kept until they are gone.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "remove an image that containers use, and every name of an ID"},
		},
	}, 1, -1, func(c *cli.Context) error {
		s, closeLayers, err := openStores(c)
		if err != nil {
			return err
		}
		defer closeLayers()
		r := removal{u: u, s: s}
		for _, ref := range c.Args().Slice() {
			if err := r.image(c.Context, ref, c.Bool("force")); err != nil {
				r.errs = append(r.errs, fmt.Errorf("remove: %w", err))
			}
		}
		return r.end(c.Context)
	})
}

// removal removes images and then, once, the layers that none needs any more.
type removal struct {
	u     *ui
	s     inventory.Stores
	names int
	freed int64 // bytes on disk
	errs  []error
}

func (r *removal) image(ctx context.Context, ref string, force bool) error {
	o := imagestore.RemoveOptions{AllNames: force}
	if !force {
		o.Last = func(gone *imagestore.Image, others []*imagestore.Image) error {
			users, err := inventory.Users(r.s, gone, others)
			if err == nil && len(users) > 0 {
				err = &imagestore.InUseError{Ref: ref, Containers: users}
			}
			return err
		}
	}
	done, err := r.s.Images.RemoveWith(ctx, ref, o)
	if err != nil {
		return err
	}
	if done.Kept != nil {
		r.u.warn("unused blobs were kept: %v", done.Kept)
	}
	for _, name := range done.Names {
		fmt.Fprintf(r.u.out, "removed %s\n", imagestore.Familiar(name))
	}
	r.names += len(done.Names)
	r.freed += done.Swept.Disk
	return nil
}

func (r *removal) end(ctx context.Context) error {
	if r.names > 0 {
		pruned, err := inventory.Prune(ctx, r.s)
		if err != nil {
			r.errs = append(r.errs, fmt.Errorf("remove unused layers: %w", err))
		}
		fmt.Fprintf(r.u.out, "%s freed\n", bytesText(r.freed+pruned.Freed))
	}
	return errors.Join(r.errs...)
}

// pruneRow is what `image prune --dry-run --format json` prints of an image.
type pruneRow struct {
	Name   string            `json:"name"` // empty for none
	Digest imagestore.Digest `json:"digest"`
}

func imagePruneCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:  "prune",
		Usage: "remove images without a name, or with --all those that no container uses",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "also images with names, unless a container was made from them"},
			&cli.BoolFlag{Name: "dry-run", Usage: "print what would be removed, and remove nothing"},
			filterFlag("dangling=true|false, reference=PATTERN, label=NAME[=VALUE]"),
			dryRunFormatFlag(),
		},
	}, 0, 0, func(c *cli.Context) error {
		f, err := parseFilters(c)
		if err != nil {
			return err
		}
		asJSON, err := dryRunJSON(c)
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
		r := removal{u: u, s: s}
		rows := []pruneRow{}
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
				rows = append(rows, pruneRow{Name: e.Name, Digest: e.Target.Digest})
				if !asJSON {
					fmt.Fprintf(u.out, "would remove %s\n", imagestore.Familiar(ref))
				}
				continue
			}
			if err := r.image(c.Context, ref, false); err != nil {
				var used *imagestore.InUseError
				if !errors.As(err, &used) { // since we looked
					r.errs = append(r.errs, fmt.Errorf("remove: %w", err))
				}
			}
		}
		if asJSON {
			return u.json(rows)
		}
		return r.end(c.Context)
	})
}
