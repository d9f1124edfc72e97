package main

import (
	"fmt"

	"github.com/minirun/minirun/imagestore/archive"
	"github.com/urfave/cli/v2"
)

func imageSaveCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:      "save",
		Usage:     "write images to an archive or a directory",
		ArgsUsage: "NAME|ID...",
		Description: "Writes an OCI image layout, which image load, docker load, podman load and skopeo copy read,\n" +
			"or what docker save wrote before version 25. Content stays as it was loaded, bit for bit,\n" +
			"and the same images give the same archive. An image that is given by its ID gets no name.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write to `FILE`, or to a new directory with --format oci-dir", TakesFile: true},
			&cli.StringFlag{Name: "format", Value: "oci", Usage: "`FORMAT` is oci, oci-dir or docker"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show no progress"},
		},
	}, 1, -1, func(c *cli.Context) error {
		usage := func(format string, a ...any) error {
			return &usageError{text: "image save: " + fmt.Sprintf(format, a...), command: "minirun image save"}
		}
		output, format := c.String("output"), c.String("format")
		o := archive.SaveOptions{}
		switch format {
		case "oci", "oci-dir":
		case "docker":
			o.Format = archive.Docker
		default:
			return usage("unknown format %q, want oci, oci-dir or docker", format)
		}
		if output == "" && format == "oci-dir" {
			return usage("say with --output which directory")
		}
		if output == "" && isTerminal(u.out) {
			return usage("standard output is a terminal; use --output, or a pipe")
		}
		images, err := openImages(c)
		if err != nil {
			return err
		}
		p := newProgress(u, c.Bool("quiet"))
		defer p.clear()
		o.Progress = func(done, total int64) { p.update("save", done, total) }
		refs := c.Args().Slice()
		if format == "oci-dir" {
			return archive.SaveDir(c.Context, images, output, refs, o)
		}
		if output == "" || output == "-" {
			return archive.Save(c.Context, images, u.out, refs, o)
		}
		f, err := archive.CreateFile(output)
		if err != nil {
			return fmt.Errorf("save: %w", err)
		}
		return f.Finish(archive.Save(c.Context, images, f, refs, o))
	})
}
