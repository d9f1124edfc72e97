package main

import (
	"strconv"
	"strings"

	"github.com/minirun/minirun/container"
)

// port prints where the published ports of a container are, as docker does.
func (a *app) port(args []string) error {
	f := newFlags("port")
	args, err := f.parse(args)
	if err != nil {
		return err
	}
	if len(args) < 1 || len(args) > 2 {
		return f.fail("want a container ID and perhaps a port; got %d arguments", len(args))
	}
	c, err := a.container(f, args[:1])
	if err != nil {
		return err
	}
	want := ""
	if len(args) == 2 {
		want = args[1]
		number, protocol, ok := strings.Cut(want, "/")
		if _, err := strconv.ParseUint(number, 10, 16); err != nil || ok && protocol == "" {
			return f.fail("port %q: want a number, perhaps with /tcp, /udp or /sctp", want)
		}
		if !ok {
			want += "/tcp"
		}
	}
	r, err := container.NetworkRecord(c)
	if err != nil {
		return err
	}
	var b strings.Builder
	if r != nil {
		for i := range r.Ports {
			p := &r.Ports[i]
			ip := "0.0.0.0"
			if p.IP.IsValid() {
				if ip = p.IP.String(); p.IP.Is6() {
					ip = "[" + ip + "]"
				}
			}
			for n := range p.Count {
				inside := strconv.Itoa(int(p.Container+n)) + "/" + p.Protocol
				outside := ip + ":" + strconv.Itoa(int(p.Host+n))
				switch want {
				case "":
					b.WriteString(inside + " -> " + outside + "\n")
				case inside:
					b.WriteString(outside + "\n")
				}
			}
		}
	}
	if want != "" && b.Len() == 0 {
		return &hintError{&noPortError{c.ID, want}, "minirun port " + c.ID + " lists those that are"}
	}
	return stdout(b.String())
}

type noPortError struct{ id, port string }

func (e *noPortError) Error() string {
	return "container \"" + e.id + "\": port " + e.port + " is not published"
}
