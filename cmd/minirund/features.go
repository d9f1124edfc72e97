package main

import (
	"encoding/json"
	"runtime/debug"

	"github.com/minirun/minirun/internal/features"
	"github.com/urfave/cli/v2"
)

// version is set when the programs are built; the default is that of cmd/minirun.
var version = "0.1.0-dev"

func featuresCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:  "features",
		Usage: "print what of config.json is recognized, as JSON",
	}, 0, 0, func(*cli.Context) error {
		f, err := features.Get(version, commit())
		if err != nil {
			return err
		}
		e := json.NewEncoder(u.out)
		e.SetIndent("", "    ")
		return e.Encode(f)
	})
}

// commit is what the program was built from, "" if nobody knows.
func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}
