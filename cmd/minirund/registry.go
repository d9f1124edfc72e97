package main

import (
	"fmt"
	"strings"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/registry"
	"github.com/urfave/cli/v2"
)

// registryFlags are those of all commands that speak to a registry.
func registryFlags(more ...cli.Flag) []cli.Flag {
	return append(more,
		&cli.StringFlag{Name: "authfile", Usage: "take logins from `FILE`, of docker's or podman's form", TakesFile: true},
		&cli.StringSliceFlag{Name: "hosts-dir", Usage: "look for hosts.toml files and certificates in `DIR` (repeatable)", DefaultText: strings.Join(registry.DefaultHostDirs, ", "), TakesFile: true},
		&cli.BoolFlag{Name: "insecure", Usage: "take any certificate of the registry, and plain http if it speaks no https"},
	)
}

// transferFlags are those of pull and push.
func transferFlags(more ...cli.Flag) []cli.Flag {
	return registryFlags(append(more,
		&cli.IntFlag{Name: "parallel", Value: 3, Usage: "transfer `N` blobs at a time"},
		&cli.StringFlag{Name: "progress", Value: "auto", Usage: "how progress is shown: auto, plain, json or none, as `FORM`"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print the image's ID and nothing else"},
	)...)
}

// registryClient is a client with what the flags say.
func registryClient(c *cli.Context, u *ui) (*registry.Client, *registry.Files, error) {
	o := registry.Options{
		UserAgent: "minirun/" + version, Insecure: c.Bool("insecure"), HostDirs: registry.DefaultHostDirs,
		Warn: func(text string) { u.warn("%s", text) },
	}
	if dirs := c.StringSlice("hosts-dir"); len(dirs) > 0 {
		o.HostDirs = dirs
	}
	if c.IsSet("parallel") {
		if o.Parallel = c.Int("parallel"); o.Parallel < 1 || o.Parallel > 64 {
			return nil, nil, &usageError{text: fmt.Sprintf("flag --parallel: %d is not 1 to 64", o.Parallel), command: commandName(c)}
		}
	}
	files := registry.DefaultCredentials(c.String("authfile"))
	o.Credentials = files
	return registry.New(o), files, nil
}

// platformFlag reads --platform; nil without it.
func platformFlag(c *cli.Context) (*imagestore.Platform, error) {
	if c.String("platform") == "" {
		return nil, nil
	}
	p, err := imagestore.ParsePlatform(c.String("platform"))
	if err != nil {
		return nil, &usageError{text: "flag --platform: " + err.Error(), command: commandName(c)}
	}
	return &p, nil
}
