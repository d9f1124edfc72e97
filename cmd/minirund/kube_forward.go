package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/minirun/minirun/orchestrate/stream"
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
	target := k.c.Args().First()
	pod, r, err := k.pod(target)
	if err != nil {
		return err
	}
	if pod.Status.Phase != corev1.PodRunning {
		return fmt.Errorf("%s does not run: it is %s", r, pod.Status.Phase)
	}
	service, err := k.serviceOf(target)
	if err != nil {
		return err
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
		number, to, err := remotePort(pod, service, port)
		if err != nil {
			return fmt.Errorf("port %q: %w", a, err)
		}
		if local == port {
			local = strconv.Itoa(int(number))
		}
		if local == "" {
			local = "0"
		}
		if _, err := strconv.ParseUint(local, 10, 16); err != nil {
			return k.usage("%q: want [LOCAL:]PORT", a)
		}
		l, err := net.Listen("tcp", net.JoinHostPort(k.c.String("address"), local))
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
		path := withQuery(k.path(r, "portforward"), url.Values{"ports": {strconv.Itoa(int(to))}})
		fmt.Fprintf(k.u.out, "Forwarding from %s -> %d\n", l.Addr(), to)
		accept = append(accept, func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					if err := k.forward(ctx, c, path); err != nil && ctx.Err() == nil {
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

// serviceOf is the service that an argument names, if it is one.
func (k *kube) serviceOf(arg string) (*corev1.Service, error) {
	r, err := k.one(arg)
	if err != nil || r.kind.Resource != "services" {
		return nil, err
	}
	s := &corev1.Service{}
	return s, k.api.Get(k.ctx, k.path(r), s)
}

// remotePort is the port that is meant by a number or a name: what a user calls it,
// and where it is in the pod, which is another number if a service says so.
func remotePort(pod *corev1.Pod, service *corev1.Service, text string) (number, to int32, err error) {
	n, notNumber := strconv.ParseUint(text, 10, 16)
	if notNumber == nil && n == 0 {
		return 0, 0, errors.New("there is no port 0")
	}
	if service == nil {
		if notNumber == nil {
			return int32(n), int32(n), nil
		}
		to, err = namedPort(pod, text)
		return to, to, err
	}
	for _, p := range service.Spec.Ports {
		if p.Port != int32(n) && (notNumber == nil || p.Name != text) {
			continue
		}
		switch {
		case p.Protocol != "" && p.Protocol != corev1.ProtocolTCP:
			return 0, 0, fmt.Errorf("only TCP is forwarded, and port %s of the service is %s", text, p.Protocol)
		case p.TargetPort.Type == intstr.String:
			to, err = namedPort(pod, p.TargetPort.StrVal)
		case p.TargetPort.IntVal != 0 && service.Spec.ClusterIP != corev1.ClusterIPNone:
			to = p.TargetPort.IntVal
		default:
			to = p.Port
		}
		return p.Port, to, err
	}
	return 0, 0, fmt.Errorf("service %q has no port %s", service.Name, text)
}

func namedPort(pod *corev1.Pod, name string) (int32, error) {
	for i := range pod.Spec.Containers {
		for _, p := range pod.Spec.Containers[i].Ports {
			if p.Name == name && name != "" {
				return p.ContainerPort, nil
			}
		}
	}
	return 0, fmt.Errorf("pod %q has no port called %q", pod.Name, name)
}

// forward connects two ends until both are through, or ctx is done.
func (k *kube) forward(ctx context.Context, c net.Conn, path string) error {
	defer c.Close()
	ws, err := k.api.Stream(ctx, path)
	if err != nil {
		return err
	}
	defer ws.Close()
	stop := context.AfterFunc(ctx, func() {
		c.Close()
		ws.Close()
	})
	defer stop()
	go func() {
		if _, err := io.Copy(ws.Writer(0), c); err != nil {
			ws.Close() // the client has broken off: so do we
			return
		}
		ws.Write(stream.Close, []byte{0})
	}()
	for begun := [2]bool{}; ; {
		channel, data, err := ws.Read()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return err
		}
		switch {
		case channel == stream.Close:
			if t, ok := c.(*net.TCPConn); ok {
				t.CloseWrite()
			}
		case channel > 1:
		case !begun[channel]: // the number of the port
			begun[channel] = true
		case channel == 1:
			return errors.New(string(data))
		default:
			if _, err := c.Write(data); err != nil {
				return nil // it is gone
			}
		}
	}
}
