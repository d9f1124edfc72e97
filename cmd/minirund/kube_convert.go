package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/minirun/minirun/orchestrate/api"
	"github.com/minirun/minirun/orchestrate/compose"
	"github.com/urfave/cli/v2"
)

func kubeConvert(u *ui) *cli.Command {
	return command(&cli.Command{
		Name: "convert", Usage: "print a Compose file as objects", ArgsUsage: "FILE|-",
	}, 1, 1, func(c *cli.Context) error {
		path := c.Args().First()
		in, err := openInput(u, path)
		if err != nil {
			return err
		}
		defer in.Close()
		text, err := io.ReadAll(io.LimitReader(in, maxFile))
		if err != nil {
			return err
		}
		dir, err := filepath.Abs(filepath.Dir(path))
		if err != nil {
			return err
		}
		if path == "-" {
			path = "standard input"
		}
		objects, notes, err := compose.Convert(text, compose.Options{Dir: dir, Env: os.LookupEnv, File: os.ReadFile})
		if err != nil {
			var all []error
			for _, e := range split(err) {
				all = append(all, &fileError{path, e})
			}
			return errors.Join(all...)
		}
		for _, n := range notes {
			u.warn("%s: %s", path, n)
		}
		for i, o := range objects {
			doc, err := json.Marshal(o)
			if err != nil {
				return err
			}
			if doc, err = api.YAML(doc); err != nil {
				return err
			}
			if i > 0 {
				fmt.Fprintln(u.out, "---")
			}
			if _, err := u.out.Write(doc); err != nil {
				return err
			}
		}
		return nil
	})
}
