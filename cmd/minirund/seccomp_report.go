package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	goruntime "runtime"

	"github.com/minirun/minirun/internal/denials"
	"github.com/minirun/minirun/internal/seccomp"
	"github.com/minirun/minirun/runtime/bundle"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// seccompReportCommand is what run, create, start and exec leave behind with
// --debug-seccomp. It is not for people.
func seccompReportCommand(u *ui) *cli.Command {
	return &cli.Command{
		Name: "seccomp-report", Hidden: true, ArgsUsage: "ID",
		Flags: []cli.Flag{&cli.IntFlag{Name: "listener"}, &cli.IntFlag{Name: "config"}},
		Action: func(c *cli.Context) error {
			listener := c.Int("listener")
			unix.CloseOnExec(listener)
			// A hang-up or ^C is for the container; we end when it has.
			signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
			config := os.NewFile(uintptr(c.Int("config")), "config.json")
			if config == nil || c.NArg() != 1 {
				return errors.New("seccomp-report is for minirun itself")
			}
			info, err := config.Stat()
			if err != nil {
				return err
			}
			raw := make([]byte, info.Size())
			if _, err = config.ReadAt(raw, 0); err != nil {
				return fmt.Errorf("read config.json: %w", err)
			}
			_ = config.Close()
			spec, err := bundle.Parse(raw)
			if err != nil {
				return err
			}
			if spec.Linux == nil || spec.Linux.Seccomp == nil {
				return errors.New("config.json has no seccomp profile")
			}
			judge, err := seccomp.NewJudge(spec.Linux.Seccomp, goruntime.GOARCH)
			if err != nil {
				return err
			}
			return (&denials.Server{Listener: listener, Out: u.out, ID: c.Args().First(), Judge: judge}).Serve()
		},
	}
}
