// Minirund is the second binary of minirun: everything that need not be fast to
// start. minirun runs it with its own arguments for the commands that it does
// not have itself, so people type `minirun image load` and never notice; all
// messages therefore speak as minirun.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/runtime"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	becomeRoot = func() error {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		return runtime.BecomeRoot(self, os.Args)
	}
	code := run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr)
	os.Exit(code)
}

// becomeRoot gives an ordinary user the ids that the files of images have; what runs
// is this process, again.
var becomeRoot = func() error { return nil }

// run is main without the process around it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	u := &ui{in: stdin, out: stdout, err: stderr}
	app := newApp(u)
	if err := app.RunContext(ctx, kubeArguments(app, args)); err != nil {
		return u.fail(err)
	}
	return 0
}

func newApp(u *ui) *cli.App {
	app := &cli.App{
		Name:        "minirun",
		Usage:       "containers on one Linux host",
		UsageText:   "minirun [--store DIR] COMMAND [ARGUMENTS]",
		HideVersion: true,
		// A comma within CMD ["a", "b"] separates nothing.
		DisableSliceFlagSeparator: true,
		HideHelpCommand:           true,
		Reader:                    u.in,
		Writer:                    u.out,
		ErrWriter:                 u.err,
		Flags:                     globalFlags(u),
		Before:                    u.globals,
		Commands: []*cli.Command{
			imageCommand(u),
			imagesCommand(u),
			pullCommand(u),
			pushCommand(u),
			loginCommand(u),
			logoutCommand(u),
			commitCommand(u),
			diffCommand(u),
			resumeGuardCommand(),
			volumeCommand(u),
			networkCommand(u),
			upCommand(u),
			downCommand(u),
			statusCommand(u),
			kubeCommand(u),
			doctorCommand(u),
			checkpointCommand(u),
			restoreCommand(u),
			featuresCommand(u),
			versionCommand(u),
			seccompReportCommand(u),
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return unknownCommand(c, "")
			}
			return cli.ShowAppHelp(c)
		},
		// Without these two the library prints errors and exits by itself.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   onUsageError,
	}
	return app
}

// globalFlags are minirun's: it passes its command line on as it is.
func globalFlags(u *ui) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "root", Usage: "where containers are recorded", DefaultText: runtime.DefaultRoot, TakesFile: true},
		&cli.StringFlag{Name: "store", Usage: "where images and snapshots are kept", DefaultText: "$MINIRUN_STORE or " + container.DefaultStore + ", for users ~/.local/share/minirun", TakesFile: true},
		&cli.StringFlag{Name: "log", Usage: "append errors and warnings to `FILE`", TakesFile: true, Destination: &u.log.file},
		&cli.StringFlag{Name: "log-format", Value: "text", Usage: "`FORMAT` of the log: text or json", Destination: &u.log.format},
		&cli.BoolFlag{Name: "debug", Hidden: true},
		&cli.BoolFlag{Name: "systemd-cgroup", Hidden: true},
		&cli.StringFlag{Name: "rootless", Hidden: true},
	}
}

func onUsageError(c *cli.Context, err error, _ bool) error {
	return &usageError{text: err.Error(), command: commandName(c)}
}

// commandName is what the user typed up to the command's name.
func commandName(c *cli.Context) string {
	if c.Command == nil || c.Command.HelpName == "" {
		return "minirun"
	}
	return c.Command.HelpName
}
