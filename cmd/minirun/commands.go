package main

import (
	"fmt"
	"strings"
)

// command is one verb of the command line.
type command struct {
	name    string
	args    string // what follows the flags
	summary string
	flags   func(a *app) *flagSet
	run     func(a *app, args []string) error
}

// commands is a switch in the form of data: it is laid out by the linker and
// costs nothing at start.
var commands = [...]command{
	{"run", "ID | --image REF [flags] ID [COMMAND...]", "create and start a container", runFlags, (*app).run},
	{"create", "ID | --image REF [flags] ID [COMMAND...]", "create a container that waits for start", createFlags, (*app).create},
	{"start", "ID", "start the process of a created container", startFlags, (*app).start},
	{"exec", "ID COMMAND [ARG...]", "run a process in a running container", execFlags, (*app).exec},
	{"state", "ID", "print the state of a container as JSON", nil, (*app).state},
	{"list", "", "list containers", listFlags, (*app).list},
	{"mounts", "add|remove ID FILE", "add mounts to a running container, or remove them", nil, (*app).mounts},
	{"kill", "ID [SIGNAL]", "send a signal to a container", killFlags, (*app).kill},
	{"wait", "ID", "wait for the end of a container and print its exit status", waitFlags, (*app).wait},
	{"delete", "ID", "remove a container", deleteFlags, (*app).delete},
	{"pause", "ID", "stop all processes of a container until resume", nil, (*app).pause},
	{"resume", "ID", "let a paused container go on", nil, (*app).resume},
	{"update", "ID", "change the limits of a container", updateFlags, (*app).update},
	{"ps", "ID [PS OPTION...]", "list the processes of a container", psFlags, (*app).ps},
	{"events", "ID", "print statistics and out-of-memory kills of a container as JSON", eventsFlags, (*app).events},
	{"port", "ID [PORT[/PROTOCOL]]", "print where the published ports of a container are", nil, (*app).port},
	{"logs", "ID", "print the output of a detached container made from an image", logsFlags, (*app).logs},
	{"spec", "", "write a config.json to start from", specFlags, (*app).spec},
	{"explain", "[--bundle DIR | --image REF [COMMAND...]]", "print what run would do, without doing it", explainFlags, (*app).explain},
	{"version", "", "print the version", nil, (*app).version},
}

// elsewhere are the commands that minirund carries out; see sibling.go.
var elsewhere = [...][2]string{
	{"image", "import, load, list and remove images"},
	{"images", "list images"},
	{"pull", "fetch an image from a registry"},
	{"push", "send an image to a registry"},
	{"login", "log in to a registry"},
	{"logout", "forget the login to a registry"},
	{"commit", "make an image of what a container has changed"},
	{"diff", "list what a container has changed in its image"},
	{"volume", "make, list and remove volumes"},
	{"network", "make, list and remove networks of containers"},
	{"up", "start minirund, which keeps what is wanted"},
	{"down", "end minirund; its containers go on"},
	{"status", "show what minirund does"},
	{"kube", "look at and change what minirund keeps running"},
	{"doctor", "check what this host can do for containers"},
	{"checkpoint", "save a running container with criu, and stop it"},
	{"restore", "make a container from what checkpoint has saved"},
	{"features", "print what of config.json is recognized, as JSON"},
}

func forSibling(name string) bool {
	for _, c := range elsewhere {
		if c[0] == name {
			return true
		}
	}
	return false
}

func (a *app) help() error {
	var b strings.Builder
	b.WriteString("minirun creates and runs Linux containers.\n\nusage: minirun [global flags] COMMAND [flags] [arguments]\n\ncommands:\n")
	for _, c := range commands {
		fmt.Fprintf(&b, "  %-11s %s\n", c.name, c.summary)
	}
	for _, c := range elsewhere {
		fmt.Fprintf(&b, "  %-11s %s\n", c[0], c[1])
	}
	b.WriteString("\nglobal flags:\n" + a.globalFlags().usage())
	b.WriteString("\nminirun COMMAND --help shows the flags of a command.\n")
	return stdout(b.String())
}

func (a *app) commandHelp(c *command) error {
	text := "minirun " + c.name + ": " + c.summary + "\n\nusage: minirun " + c.name
	flags := ""
	if c.flags != nil {
		flags = c.flags(a).usage()
	}
	if flags != "" {
		text += " [flags]"
	}
	if c.args != "" {
		text += " " + c.args
	}
	text += "\n"
	if flags != "" {
		text += "\nflags:\n" + flags
	}
	return stdout(text)
}
