package main

import (
	"strings"

	"github.com/minirun/minirun/orchestrate/api"
	"github.com/urfave/cli/v2"
)

// unknownCommand is the error for a first argument that is no command of a group.
func unknownCommand(c *cli.Context, group string) error {
	word := c.Args().First()
	e := &usageError{text: "unknown command " + quote(group+word), command: strings.TrimSuffix("minirun "+group, " ")}
	if meant := nearest(word, c.Command.Subcommands); meant != "" {
		e.text += ", did you mean " + quote(group+meant)
	}
	return e
}

// nearest is the command that a word is probably a misspelling of. Short words have
// too many neighbours for more than one letter.
func nearest(word string, commands []*cli.Command) string {
	best, meant := 2+len(word)/4, ""
	for _, c := range commands {
		for _, name := range c.Names() {
			if d := api.Distance(word, name); d < best && d < len(name) && !c.Hidden {
				best, meant = d, name
			}
		}
	}
	return meant
}
