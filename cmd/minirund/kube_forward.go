package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/urfave/cli/v2"
)

func kubePortForward(u *ui) *cli.Command {
	return kubeAction(u, &cli.Command{
		Name: "port-forward", Usage: "let ports of this host lead to a pod, until interrupted", ArgsUsage: "POD | KIND/NAME  [LOCAL:]PORT...",
		Flags: []cli.Flag{
			namespaceFlag(),
			&cli.StringFlag{Name: "address", Value: "127.0.0.1", Usage: "listen on `ADDRESS`"},
		},
	}, 2, -1, (*kube).portForward)
}

func (k *kube) portForward() error {
	pod, r, err := k.pod(k.c.Args().First())
	if err != nil {
		return err
	}
	if pod.Status.PodIP == "" || pod.Status.Phase != corev1.PodRunning {
		return fmt.Errorf("%s does not run: it is %s", r, pod.Status.Phase)
	}
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(k.ctx)
	defer cancel()
	var accept []func()
	for _, a := range k.c.Args().Tail() {
		local, port, ok := strings.Cut(a, ":")
		if !ok {
			port = local
		}
		if local == "" {
			local = "0"
		}
		for _, p := range []string{local, port} {
			if _, err := strconv.ParseUint(p, 10, 16); err != nil {
				return k.usage("%q: want [LOCAL:]PORT", a)
			}
		}
		l, err := net.Listen("tcp", net.JoinHostPort(k.c.String("address"), local))
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
		to := net.JoinHostPort(pod.Status.PodIP, port)
		fmt.Fprintf(k.u.out, "Forwarding from %s -> %s\n", l.Addr(), port)
		accept = append(accept, func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					if err := forward(ctx, c, to); err != nil && ctx.Err() == nil {
						k.u.warn("%w", err)
					}
				})
			}
		})
	}
	for _, f := range accept {
		wg.Go(f)
	}
	<-ctx.Done()
	for _, l := range listeners {
		l.Close()
	}
	wg.Wait()
	return nil
}

// forward connects two ends until both are through, or ctx is done.
func forward(ctx context.Context, c net.Conn, to string) error {
	defer c.Close()
	out, err := new(net.Dialer).DialContext(ctx, "tcp", to)
	if err != nil {
		return err
	}
	defer out.Close()
	stop := context.AfterFunc(ctx, func() {
		c.Close()
		out.Close()
	})
	defer stop()
	var wg sync.WaitGroup
	half := func(to, from net.Conn) {
		io.Copy(to, from)
		if t, ok := to.(*net.TCPConn); ok {
			if err := t.CloseWrite(); err != nil && !errors.Is(err, net.ErrClosed) {
				to.Close()
			}
		}
	}
	wg.Go(func() { half(out, c) })
	wg.Go(func() { half(c, out) })
	wg.Wait()
	return nil
}
