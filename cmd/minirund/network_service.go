package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/network/service"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// networkServiceCommand is for trying services by hand. They are recorded in the
// store, and the kernel gets all of them each time.
func networkServiceCommand(u *ui) *cli.Command {
	return &cli.Command{
		Name:            "service",
		Usage:           "try service addresses in front of containers",
		HideHelpCommand: true,
		OnUsageError:    onUsageError,
		Subcommands: []*cli.Command{
			serviceAddCommand(u),
			serviceListCommand(u),
			serviceReloadCommand(),
			serviceRemoveCommand(),
			serviceWatchCommand(u),
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return unknownCommand(c, "network service ")
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

// serviceFile is what is recorded: version 1.
type serviceFile struct {
	Version  int               `json:"version"`
	Services []service.Service `json:"services"`
}

// services are those of a store, locked, with their balancer.
type services struct {
	dir  string
	lock *os.File
	list []service.Service
	*service.Balancer
}

func openServices(c *cli.Context, opts service.Options) (*services, error) {
	store, err := filepath.Abs(container.StoreDir(c.String("store")))
	if err != nil {
		return nil, err
	}
	s := &services{dir: filepath.Join(store, "services")}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	if s.lock, err = os.OpenFile(filepath.Join(s.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(int(s.lock.Fd()), unix.LOCK_EX)
	}
	if err == nil {
		err = s.read()
	}
	if err != nil {
		s.lock.Close()
		return nil, err
	}
	s.Balancer = service.New(opts)
	return s, nil
}

func (s *services) path() string { return filepath.Join(s.dir, "services.json") }

func (s *services) read() error {
	b, err := os.ReadFile(s.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var f serviceFile
	if err := json.Unmarshal(b, &f); err != nil {
		return fmt.Errorf("record of services %q: %w", s.path(), err)
	}
	if f.Version != 1 {
		return fmt.Errorf("record of services %q has version %d, this minirun reads 1", s.path(), f.Version)
	}
	s.list = f.Services
	return nil
}

// change makes list all services, in the kernel and then in the record. A crash in
// between leaves the record behind; the next command or reload follows it.
func (s *services) change(list []service.Service) error {
	if err := s.Replace(list); err != nil {
		return err
	}
	b, err := json.Marshal(serviceFile{1, list})
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(s.dir, "new-")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), s.path())
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

func (s *services) Close() error { return errors.Join(s.Balancer.Close(), s.lock.Close()) }

// withServices runs f on the services of the store, locked.
func withServices(c *cli.Context, f func(*services) error) error {
	s, err := openServices(c, service.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	return f(s)
}

func serviceAddCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name: "add", Usage: "make a service, or make one anew", ArgsUsage: "NAME",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "address", Usage: "virtual `ADDRESS`, which no interface has"},
			&cli.StringSliceFlag{Name: "shared", Usage: "`ADDRESS` of the host, of which only the ports are taken"},
			&cli.StringSliceFlag{Name: "port", Usage: "`[NODEPORT:]PORT[/PROTOCOL]`; a node port is open at all addresses of the host"},
			&cli.StringSliceFlag{Name: "endpoint", Usage: "`ADDRESS:PORT[,weight=N][,draining]`, for all ports"},
			&cli.DurationFlag{Name: "affinity", Usage: "keep a client at its endpoint for `TIME` after its last connection"},
		},
	}, 1, 1, func(c *cli.Context) error {
		svc, err := serviceFromFlags(c)
		if err != nil {
			return &usageError{text: err.Error(), command: c.Command.HelpName}
		}
		return withServices(c, func(s *services) error {
			list := slices.DeleteFunc(slices.Clone(s.list), func(o service.Service) bool { return o.Name == svc.Name })
			return s.change(append(list, svc))
		})
	})
}

func serviceFromFlags(c *cli.Context) (service.Service, error) {
	svc := service.Service{Name: c.Args().First(), Affinity: c.Duration("affinity")}
	for flag, to := range map[string]*[]netip.Addr{"address": &svc.Addresses, "shared": &svc.Shared} {
		for _, text := range c.StringSlice(flag) {
			a, err := netip.ParseAddr(text)
			if err != nil {
				return svc, fmt.Errorf("flag --%s: %q: want an address", flag, text)
			}
			*to = append(*to, a)
		}
	}
	var endpoints []service.Endpoint
	for _, text := range c.StringSlice("endpoint") {
		e, err := parseEndpoint(text)
		if err != nil {
			return svc, fmt.Errorf("flag --endpoint: %q: %w", text, err)
		}
		endpoints = append(endpoints, e)
	}
	for _, text := range c.StringSlice("port") {
		p, err := parseServicePort(text)
		if err != nil {
			return svc, fmt.Errorf("flag --port: %q: %w", text, err)
		}
		p.Endpoints = endpoints
		svc.Ports = append(svc.Ports, p)
	}
	if len(svc.Ports) == 0 {
		return svc, errors.New("flag --port is missing")
	}
	return svc, svc.Validate()
}

func parseServicePort(text string) (service.Port, error) {
	p := service.Port{Protocol: service.TCP}
	ports, proto, named := strings.Cut(text, "/")
	var err error
	if named {
		if p.Protocol, err = service.ParseProtocol(proto); err != nil {
			return p, err
		}
	}
	if node, port, ok := strings.Cut(ports, ":"); ok {
		if p.NodePort, err = parsePort(node); err != nil {
			return p, err
		}
		ports = port
	}
	p.Port, err = parsePort(ports)
	return p, err
}

func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("port %q: want 1 to 65535", text)
	}
	return uint16(n), nil
}

func parseEndpoint(text string) (service.Endpoint, error) {
	e := service.Endpoint{Weight: 1}
	address, options, _ := strings.Cut(text, ",")
	var err error
	if e.Address, err = netip.ParseAddrPort(address); err != nil {
		return e, errors.New("want ADDRESS:PORT")
	}
	for o := range strings.SplitSeq(options, ",") {
		name, value, _ := strings.Cut(o, "=")
		switch name {
		case "":
		case "draining":
			e.Draining = true
		case "weight":
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				return e, fmt.Errorf("weight %q: want a number", value)
			}
			e.Weight = uint32(n)
		default:
			return e, fmt.Errorf("unknown option %q, want weight=N or draining", name)
		}
	}
	return e, nil
}

func serviceListCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name: "list", Aliases: []string{"ls"}, Usage: "list services with the open connections of their endpoints",
	}, 0, 0, func(c *cli.Context) error {
		return withServices(c, func(s *services) error {
			if len(s.list) > 0 {
				if err := s.Replace(s.list); err != nil {
					return err
				}
			}
			w := tabwriter.NewWriter(u.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tADDRESSES\tPORT\tNODE PORT\tENDPOINTS (CONNECTIONS)")
			for _, svc := range s.Services() {
				n, err := s.Connections(svc.Name)
				if err != nil {
					return err
				}
				var addrs []string
				for _, a := range slices.Concat(svc.Addresses, svc.Shared) {
					addrs = append(addrs, a.String())
				}
				for _, p := range svc.Ports {
					var eps []string
					for _, e := range p.Endpoints {
						text := fmt.Sprintf("%s (%d)", e.Address, n[e.Address])
						if e.Draining {
							text += " draining"
						}
						eps = append(eps, text)
					}
					node := "-"
					if p.NodePort != 0 {
						node = strconv.Itoa(int(p.NodePort))
					}
					fmt.Fprintf(w, "%s\t%s\t%d/%s\t%s\t%s\n", svc.Name, strings.Join(addrs, ", "), p.Port, p.Protocol, node, strings.Join(eps, ", "))
				}
			}
			return w.Flush()
		})
	})
}

func serviceRemoveCommand() *cli.Command {
	return command(&cli.Command{
		Name: "rm", Aliases: []string{"remove"}, Usage: "remove services", ArgsUsage: "NAME...",
	}, 1, -1, func(c *cli.Context) error {
		return withServices(c, func(s *services) error {
			list := slices.Clone(s.list)
			for _, name := range c.Args().Slice() {
				i := slices.IndexFunc(list, func(o service.Service) bool { return o.Name == name })
				if i < 0 {
					return &hinted{fmt.Errorf("service %q does not exist", name), "minirun network service list shows those that there are"}
				}
				list = slices.Delete(list, i, i+1)
			}
			// The former ones first, so that their connections are known to be former.
			if err := s.Replace(s.list); err != nil {
				return err
			}
			if err := s.change(list); err != nil || len(list) > 0 {
				return err
			}
			return s.Remove()
		})
	})
}

func serviceReloadCommand() *cli.Command {
	return command(&cli.Command{
		Name: "reload", Usage: "put the rules of all services into the kernel again",
	}, 0, 0, func(c *cli.Context) error {
		return withServices(c, func(s *services) error {
			if len(s.list) == 0 {
				return s.Remove()
			}
			return s.Replace(s.list)
		})
	})
}

func serviceWatchCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name: "watch", Usage: "restore the rules whenever another program changes them, until interrupted; other service commands wait",
	}, 0, 0, func(c *cli.Context) error {
		s, err := openServices(c, service.Options{Restored: func(reason string) {
			fmt.Fprintf(u.out, "%s restored: %s\n", time.Now().UTC().Format(time.RFC3339), reason)
		}})
		if err != nil {
			return err
		}
		defer s.Close()
		if err := s.Replace(s.list); err != nil {
			return err
		}
		return s.Watch(c.Context)
	})
}
