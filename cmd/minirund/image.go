package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/container/inventory"
	"github.com/minirun/minirun/container/unpack"
	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/archive"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/apply"
	"github.com/urfave/cli/v2"
)

func imageCommand(u *ui) *cli.Command {
	return &cli.Command{
		Name:            "image",
		Usage:           "bring in, list and remove images",
		HideHelpCommand: true,
		OnUsageError:    onUsageError,
		Subcommands: []*cli.Command{
			imageCommitCommand(u),
			imageDemoCommand(u),
			imageDUCommand(u),
			imageDiffCommand(u),
			imageFsckCommand(u),
			imageGCCommand(u),
			imageHistoryCommand(u),
			imageImportCommand(u),
			imageInspectCommand(u),
			imageListCommand(u),
			imageLoadCommand(u),
			imageMountCommand(u),
			imageUnmountCommand(u),
			loginCommand(u),
			logoutCommand(u),
			imagePruneCommand(u),
			pullCommand(u),
			pushCommand(u),
			imageRemoveCommand(u),
			imageSaveCommand(u),
			imageTagCommand(u),
			imageTrustCommand(u),
			imageUnpackCommand(u),
			imageVerifyCommand(u),
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return unknownCommand(c, "image ")
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

// command fills in what all commands have in common. It wants min to max
// arguments; max -1 is any number.
func command(c *cli.Command, min, max int, action cli.ActionFunc) *cli.Command {
	c.OnUsageError = onUsageError
	c.HideHelpCommand = true
	c.Action = func(ctx *cli.Context) error {
		n := ctx.NArg()
		if late := lateFlag(ctx); late != "" && (max < 0 || n > max) {
			return &usageError{text: fmt.Sprintf("%s: flag %s comes after the arguments: flags come first", ctx.Command.HelpName, quote(late)), command: ctx.Command.HelpName}
		}
		if n < min || max >= 0 && n > max {
			return &usageError{text: fmt.Sprintf("%s: wrong number of arguments, want: %s", ctx.Command.HelpName, ctx.Command.ArgsUsage), command: ctx.Command.HelpName}
		}
		return action(ctx)
	}
	return c
}

// lateFlag is an argument that is one of the command's flags; "" for none.
func lateFlag(ctx *cli.Context) string {
	for _, a := range ctx.Args().Slice() {
		name, _, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
		if !strings.HasPrefix(a, "-") || name == "" {
			continue
		}
		for _, f := range ctx.Command.Flags {
			if slices.Contains(f.Names(), name) {
				return a
			}
		}
	}
	return ""
}

// formatFlag is the --format of commands that list something.
func formatFlag() cli.Flag {
	return &cli.StringFlag{Name: "format", Value: "table", Usage: "`FORMAT` is table or json"}
}

// dryRunFormatFlag is the --format of commands that list something with --dry-run only.
func dryRunFormatFlag() cli.Flag {
	return &cli.StringFlag{Name: "format", Value: "table", Usage: "`FORMAT` of what --dry-run prints: table or json"}
}

// dryRunJSON checks it.
func dryRunJSON(c *cli.Context) (bool, error) {
	asJSON, err := wantsJSON(c)
	if asJSON && !c.Bool("dry-run") {
		err = &usageError{text: c.Command.HelpName + ": --format json is for --dry-run", command: c.Command.HelpName}
	}
	return asJSON, err
}

func noTruncFlag() cli.Flag {
	return &cli.BoolFlag{Name: "no-trunc", Usage: "print IDs and texts in full"}
}

// wantsJSON checks --format.
func wantsJSON(c *cli.Context) (bool, error) {
	switch format := c.String("format"); format {
	case "json":
		return true, nil
	case "table":
		return false, nil
	default:
		return false, &usageError{text: fmt.Sprintf("unknown format %q, want table or json", format), command: c.Command.HelpName}
	}
}

func (u *ui) json(v any) error {
	enc := json.NewEncoder(u.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

func openImages(c *cli.Context) (*imagestore.Store, error) {
	if err := becomeRoot(); err != nil {
		return nil, err
	}
	return imagestore.Open(container.StoreDir(c.String("store")))
}

// unpackImage unpacks ref and shows how far it is.
func unpackImage(c *cli.Context, u *ui, images *imagestore.Store, ref string, plain *os.File, p *progress) error {
	layers, err := overlay.OpenStore(container.OverlayDir(images.Root()))
	if err != nil {
		return err
	}
	defer layers.Close()
	res, err := unpack.ImageFrom(c.Context, unpackerOf(c), images, layers, ref, plain, func(s unpack.Progress) {
		p.update(fmt.Sprintf("unpack layer %d of %d", s.Layer, s.Layers), s.Done, s.Total)
	})
	p.clear()
	if err != nil {
		return err
	}
	for _, w := range res.Warnings {
		u.warn("%s: %s", imagestore.Familiar(ref), w)
	}
	return nil
}

// openStores opens the images and, if there are any, the unpacked layers beside
// them. It creates nothing.
func openStores(c *cli.Context) (s inventory.Stores, closeLayers func(), err error) {
	if s.Images, err = openImages(c); err != nil {
		return s, nil, err
	}
	s.Lost = func(sn overlay.SnapshotInfo) *inventory.LostContainer {
		if l := container.LostSnapshot(sn.Key, sn.Owner); l != nil {
			return &inventory.LostContainer{Record: l.Record, Disposable: l.Disposable}
		}
		return nil
	}
	s.Manifest = func(sn overlay.SnapshotInfo) string { return container.ManifestOf(sn.Owner) }
	s.Mounted = func(sn overlay.SnapshotInfo) string {
		if m := readMount(container.OverlayDir(s.Images.Root()), sn.Key); m != nil {
			return m.ID
		}
		return ""
	}
	return s, func() {
		if s.Layers != nil {
			s.Layers.Close()
		}
	}, addLayers(&s)
}

func addLayers(s *inventory.Stores) (err error) {
	dir := container.OverlayDir(s.Images.Root())
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	s.Layers, err = overlay.OpenStore(dir)
	return err
}

// prune removes unpacked layers that are not needed any more.
func prune(c *cli.Context, images *imagestore.Store) (*inventory.Collected, error) {
	s := inventory.Stores{Images: images}
	if err := addLayers(&s); err != nil || s.Layers == nil {
		return &inventory.Collected{}, err
	}
	defer s.Layers.Close()
	collected, err := inventory.Prune(c.Context, s)
	if err != nil {
		err = fmt.Errorf("remove unused layers: %w", err)
	}
	return collected, err
}

// arrived finishes load, import and demo: it unpacks what came in and prints it.
func arrived(c *cli.Context, u *ui, images *imagestore.Store, word string, res *archive.Result, p *progress) error {
	for _, w := range res.Warnings {
		u.warn("%s", w)
	}
	replaced := false
	var errs []error
	for _, img := range res.Images {
		ref := img.Name
		if ref == "" {
			ref = string(img.ID)
		}
		if img.Replaced {
			replaced = true
			u.warn("%s stood for another image before", imagestore.Familiar(img.Name))
		}
		if !c.Bool("no-unpack") && img.Artifact == "" {
			err := unpackImage(c, u, images, ref, res.Plain, p)
			var platform *imagestore.PlatformError
			if errors.As(err, &platform) {
				u.warn("%v", err) // kept: it may be on its way to another host
			} else if err != nil {
				errs = append(errs, err)
			}
		}
		switch {
		case c.Bool("quiet"):
			fmt.Fprintln(u.out, img.ID)
		case img.Artifact != "":
			fmt.Fprintf(u.out, "%s artifact %s %s\n", word, img.ID.Short(), printable(imagestore.Familiar(img.Name)+" "+img.Artifact))
		case img.Name == "":
			fmt.Fprintf(u.out, "%s %s\n", word, img.ID.Short())
		default:
			fmt.Fprintf(u.out, "%s %s %s\n", word, imagestore.Familiar(img.Name), img.ID.Short())
		}
	}
	if replaced {
		if _, err := prune(c, images); err != nil {
			u.warn("%v", err)
		}
	}
	return errors.Join(errs...)
}

// flags of load, import and demo.
func arrivalFlags(more ...cli.Flag) []cli.Flag {
	return append(more,
		unpackerFlag(),
		&cli.BoolFlag{Name: "no-unpack", Usage: "leave the unpacking to the first container"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print the image's ID and nothing else"},
	)
}

// unpackerFlag is for commands that unpack.
func unpackerFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "unpacker", Value: "auto", Usage: "`KIND` is index (keep layers as archives), extract (make directories of them) or auto",
		Action: func(c *cli.Context, kind string) error {
			if _, err := apply.ParseKind(kind); err != nil {
				return &usageError{text: "--unpacker " + err.Error(), command: c.Command.HelpName}
			}
			return nil
		},
	}
}

// unpackerOf is the choice of that flag, auto for commands without it.
func unpackerOf(c *cli.Context) apply.Kind {
	kind, _ := apply.ParseKind(c.String("unpacker")) // which the flag has checked
	return kind
}

// interruptible makes a read that waits for a pipe or a terminal end with ctx.
func interruptible(ctx context.Context, r io.Reader) io.Reader {
	pr, pw := io.Pipe()
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{pw}, struct{ io.Reader }{r}, make([]byte, 256<<10))
		pw.CloseWithError(err)
	}()
	context.AfterFunc(ctx, func() { pw.CloseWithError(context.Cause(ctx)) })
	return pr
}
