package main

import (
	"fmt"
	"strconv"

	"github.com/minirun/minirun/network"
	"github.com/minirun/minirun/network/cni"
	"github.com/minirun/minirun/network/store"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// networkCNICommand is what minirun executes to have plugins run. Standard output
// is the error, for minirun to say.
func networkCNICommand(u *ui) *cli.Command {
	verb := func(name, usage string) *cli.Command {
		return command(&cli.Command{Name: name, Usage: usage, ArgsUsage: "DIRECTORY KEY PID"}, 3, 3, func(c *cli.Context) error {
			key := c.Args().Get(1)
			dir := store.Store(c.Args().Get(0)).ContainerDir(key)
			pid, err := strconv.Atoi(c.Args().Get(2))
			if err != nil {
				return err
			}
			unix.CloseOnExec(network.CNILock) // for us, and not for what plugins leave running
			warn := func(text string) { fmt.Fprintln(u.err, "minirun: warning: "+text) }
			switch name {
			case "add":
				err = cni.Add(c.Context, dir, key, pid)
			case "del":
				err = cni.Del(c.Context, dir, key, pid, warn)
			case "check":
				err = cni.Check(c.Context, dir, key, pid)
			}
			if err == nil {
				return nil
			}
			fmt.Fprintln(u.out, err)
			if h, ok := err.(interface{ Hint() string }); ok {
				fmt.Fprintln(u.out, "hint: "+h.Hint())
			}
			return cli.Exit("", 1)
		})
	}
	return &cli.Command{
		Name: "cni", Usage: "run the plugins of CNI networks for a container; minirun does that", Hidden: true, HideHelpCommand: true, OnUsageError: onUsageError,
		Subcommands: []*cli.Command{verb("add", "attach it"), verb("check", "look whether all is in place"), verb("del", "detach it")},
	}
}
