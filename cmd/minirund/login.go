package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/minirun/minirun/imagestore/registry"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

func loginCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:      "login",
		Usage:     "log in to a registry",
		ArgsUsage: "[REGISTRY]",
		Description: "Asks the registry whether it accepts name and password, and keeps them where docker\n" +
			"does: in $DOCKER_CONFIG/config.json or ~/.docker/config.json, or with the credential\n" +
			"helper that this file names. Without REGISTRY: docker.io.",
		Flags: registryFlags(
			&cli.StringFlag{Name: "username", Aliases: []string{"u"}, Usage: "log in as `NAME`"},
			&cli.BoolFlag{Name: "password-stdin", Usage: "read the password, or a token, from standard input"},
		),
	}, 0, 1, func(c *cli.Context) error {
		host, err := registry.ParseHost(c.Args().First())
		if err != nil {
			return err
		}
		cred, err := askCredential(c, u, host)
		if err != nil {
			return err
		}
		client, files, err := registryClient(c, u)
		if err != nil {
			return err
		}
		if err := client.Check(c.Context, host, cred); err != nil {
			return fmt.Errorf("login to %s: %w", host, err)
		}
		where, err := files.Put(c.Context, host, cred)
		if err != nil {
			return fmt.Errorf("keep the login to %s: %w", host, err)
		}
		if strings.Contains(where, "/") {
			u.warn("the password is in %s, readable for whoever can read your files; a credential helper keeps it better", where)
		}
		fmt.Fprintf(u.out, "logged in to %s as %s\n", host, cred.Username)
		return nil
	})
}

func logoutCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:      "logout",
		Usage:     "forget the login to a registry",
		ArgsUsage: "[REGISTRY]",
		Flags:     []cli.Flag{&cli.StringFlag{Name: "authfile", Usage: "forget the login in `FILE`", TakesFile: true}},
	}, 0, 1, func(c *cli.Context) error {
		host, err := registry.ParseHost(c.Args().First())
		if err != nil {
			return err
		}
		removed, err := registry.DefaultCredentials(c.String("authfile")).Remove(c.Context, host)
		if err != nil {
			return fmt.Errorf("logout from %s: %w", host, err)
		}
		if !removed {
			return &hinted{fmt.Errorf("there is no login to %s", host), "minirun login " + host}
		}
		fmt.Fprintf(u.out, "logged out from %s\n", host)
		return nil
	})
}

// maxPassword bounds what is read from standard input; tokens may be long.
const maxPassword = 64 << 10

// askCredential takes name and password from flags and standard input, or asks on
// the terminal.
func askCredential(c *cli.Context, u *ui, host string) (registry.Credential, error) {
	cred := registry.Credential{Username: c.String("username")}
	usage := func(text string) error {
		return &usageError{text: c.Command.HelpName + ": " + text, command: commandName(c)}
	}
	if c.Bool("password-stdin") {
		if cred.Username == "" {
			return cred, usage("--password-stdin needs --username")
		}
		b, err := io.ReadAll(io.LimitReader(interruptible(c.Context, u.in), maxPassword+1))
		if err != nil {
			return cred, fmt.Errorf("read the password: %w", err)
		}
		if len(b) > maxPassword {
			return cred, usage(fmt.Sprintf("the password is longer than %d bytes", maxPassword))
		}
		cred.Password = strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	} else {
		if !isTerminal(u.in) {
			return cred, usage("standard input is no terminal: give the password with --username NAME --password-stdin")
		}
		in := bufio.NewReader(interruptible(c.Context, u.in))
		var err error
		if cred.Username == "" {
			fmt.Fprintf(u.err, "username for %s: ", host)
			if cred.Username, err = line(in); err != nil {
				return cred, err
			}
		}
		fmt.Fprintf(u.err, "password of %s: ", cred.Username)
		restore, err := noEcho(c.Context, u.in.(*os.File))
		if err != nil {
			return cred, err
		}
		cred.Password, err = line(in)
		restore()
		fmt.Fprintln(u.err)
		if err != nil {
			return cred, err
		}
	}
	if cred.Username == "" || cred.Password == "" {
		return cred, usage("name and password must not be empty")
	}
	if strings.Contains(cred.Username, ":") {
		return cred, usage("a name with a colon cannot be sent")
	}
	return cred, nil
}

func line(r *bufio.Reader) (string, error) {
	s, err := r.ReadString('\n')
	if err != nil && (!errors.Is(err, io.EOF) || s == "") {
		return "", fmt.Errorf("read from the terminal: %w", err)
	}
	return strings.TrimRight(s, "\r\n"), nil
}

// noEcho keeps a terminal from showing what is typed, until restore or the end
// of ctx.
func noEcho(ctx context.Context, f *os.File) (restore func(), err error) {
	old, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, err
	}
	quiet := *old
	quiet.Lflag = quiet.Lflag&^unix.ECHO | unix.ICANON
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETSF, &quiet); err != nil {
		return nil, err
	}
	set := func() { _ = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETSF, old) }
	stop := context.AfterFunc(ctx, set)
	return func() { stop(); set() }, nil
}
