package main

import (
	"github.com/minirun/minirun/internal/doctor"
	"github.com/urfave/cli/v2"
)

func doctorCommand(u *ui) *cli.Command {
	return &cli.Command{
		Name:            "doctor",
		Usage:           "say what minirun can do on this host, and what would help",
		SkipFlagParsing: true, // doctor reads its own
		HideHelpCommand: true,
		Action: func(c *cli.Context) error {
			if code := doctor.Main(c.Args().Slice(), u.out, u.err); code != 0 {
				return exitStatus(min(code, 1)) // wrong usage is 1 with every command
			}
			return nil
		},
	}
}
