package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/stream"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

func containerFlag() cli.Flag {
	return &cli.StringFlag{Name: "container", Aliases: []string{"c"}, Usage: "the `CONTAINER` of a pod that has several (default: the first)"}
}

func kubeExec(u *ui) *cli.Command {
	return kubeAction(u, &cli.Command{
		Name: "exec", Usage: "run a program in a container of a pod, with its exit status", ArgsUsage: "POD -- COMMAND [ARGUMENT...]",
		Flags: []cli.Flag{
			namespaceFlag(), containerFlag(),
			&cli.BoolFlag{Name: "stdin", Aliases: []string{"i"}, Usage: "pass standard input on"},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give the program a terminal"},
		},
	}, 1, -1, func(k *kube) error {
		own, command, dash := before(k.c.Args().Slice())
		if !dash && len(own) > 1 {
			own, command = own[:1], own[1:]
		}
		if len(own) != 1 || len(command) == 0 {
			return k.usage("want POD -- COMMAND [ARGUMENT...]")
		}
		q := url.Values{"command": command}
		return k.program(own[0], "exec", q, k.c.Bool("stdin"), k.c.Bool("tty"))
	})
}

func kubeAttach(u *ui) *cli.Command {
	return kubeAction(u, &cli.Command{
		Name: "attach", Usage: "connect to the program that a container was started with", ArgsUsage: "POD",
		Flags: []cli.Flag{
			namespaceFlag(), containerFlag(),
			&cli.BoolFlag{Name: "stdin", Aliases: []string{"i"}, Usage: "pass standard input on"},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "standard input is a terminal, and the container has one"},
		},
	}, 1, 1, func(k *kube) error {
		return k.program(k.c.Args().First(), "attach", url.Values{}, k.c.Bool("stdin"), k.c.Bool("tty"))
	})
}

// pod finds the pod that is meant: one, or one of a workload.
func (k *kube) pod(arg string) (*corev1.Pod, ref, error) {
	r, err := k.one(arg)
	if err != nil {
		return nil, r, err
	}
	if r.kind.Resource == "pods" {
		var p corev1.Pod
		err := k.api.Get(k.ctx, k.path(r), &p)
		return &p, r, err
	}
	var w struct {
		Spec struct{ Selector json.RawMessage }
	}
	if err := k.api.Get(k.ctx, k.path(r), &w); err != nil {
		return nil, r, err
	}
	s, err := selectorText(r.kind.Kind, w.Spec.Selector)
	if err != nil {
		return nil, r, err
	}
	pods, err := listAs[corev1.Pod](k, "pods", k.namespace, url.Values{"labelSelector": {s}})
	if err != nil {
		return nil, r, err
	}
	// The one that is most likely to answer.
	best := -1
	for i := range pods {
		running := pods[i].Status.Phase == corev1.PodRunning && pods[i].DeletionTimestamp == nil
		if best < 0 || running && pods[best].Status.Phase != corev1.PodRunning {
			best = i
		}
	}
	if best < 0 {
		return nil, r, fmt.Errorf("%s has no pods", r)
	}
	if len(pods) > 1 && k.c.Command.Name == "logs" {
		fmt.Fprintf(k.u.err, "Found %d pods, using pod/%s\n", len(pods), pods[best].Name)
	}
	x, err := k.kind("pods")
	return &pods[best], ref{x, pods[best].Name}, err
}

// selectorText is the selector of a workload or a service, as a query has it.
func selectorText(kind string, raw json.RawMessage) (string, error) {
	var s metav1.LabelSelector
	if kind == "Service" {
		if err := json.Unmarshal(raw, &s.MatchLabels); err != nil {
			return "", err
		}
	} else if err := json.Unmarshal(raw, &s); err != nil {
		return "", err
	}
	sel, err := metav1.LabelSelectorAsSelector(&s)
	if err != nil {
		return "", err
	}
	if sel.Empty() || len(raw) == 0 {
		return "", errors.New("it has no selector")
	}
	return sel.String(), nil
}

// container is the one of a pod that is meant.
func (k *kube) container(p *corev1.Pod) string {
	name := k.c.String("container")
	if name == "" {
		name = p.Annotations["kubectl.kubernetes.io/default-container"]
	}
	if name == "" && len(p.Spec.Containers) > 0 {
		name = p.Spec.Containers[0].Name
		if len(p.Spec.Containers) > 1 {
			var all []string
			for i := range p.Spec.Containers {
				all = append(all, p.Spec.Containers[i].Name)
			}
			fmt.Fprintf(k.u.err, "Defaulted container %q out of: %s\n", name, joined(all))
		}
	}
	return name
}

// containerNames are the names of all containers of a pod.
func containerNames(p *corev1.Pod) (out []string) {
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			out = append(out, list[i].Name)
		}
	}
	for i := range p.Spec.EphemeralContainers {
		out = append(out, p.Spec.EphemeralContainers[i].Name)
	}
	return out
}

func joined(list []string) string {
	s := ""
	for i, l := range list {
		if i > 0 {
			s += ", "
		}
		s += l
	}
	return s
}

// program connects our streams with one in a container.
func (k *kube) program(pod, sub string, q url.Values, in, tty bool) error {
	p, r, err := k.pod(pod)
	if err != nil {
		return err
	}
	if !q.Has("container") {
		q.Set("container", k.container(p))
	}
	q.Set("stdout", "true")
	if in {
		q.Set("stdin", "true")
	}
	terminal, _ := k.u.in.(*os.File)
	if tty && (!in || terminal == nil || !isTerminal(terminal)) {
		k.u.warn("standard input is no terminal, so the program gets none")
		tty = false
	}
	if tty {
		q.Set("tty", "true")
	} else {
		q.Set("stderr", "true")
	}
	c, err := k.api.Stream(k.ctx, withQuery(k.path(r, sub), q))
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	defer close(stop)
	go func() { // a signal ends us, and the program loses its client
		select {
		case <-k.ctx.Done():
			c.Close()
		case <-stop:
		}
	}()
	if tty {
		restore, err := raw(terminal)
		if err != nil {
			c.Close()
			return err
		}
		defer restore()
		go sizes(c, terminal, stop)
	}
	if in {
		go func() {
			if _, err := io.Copy(c.Writer(stream.Stdin), k.u.in); err == nil {
				c.Write(stream.Close, []byte{stream.Stdin})
			}
		}()
	}
	return k.receive(c)
}

// receive writes what comes until the Status does.
func (k *kube) receive(c *stream.Conn) error {
	defer c.Close()
	for {
		channel, data, err := c.Read()
		if err != nil {
			if k.ctx.Err() != nil {
				return k.ctx.Err()
			}
			return fmt.Errorf("the connection to minirund has ended: %w", io.ErrUnexpectedEOF)
		}
		switch channel {
		case stream.Stdout:
			_, err = k.u.out.Write(data)
		case stream.Stderr:
			_, err = k.u.err.Write(data)
		case stream.Error:
			return ended(data)
		}
		if err != nil {
			return err
		}
	}
}

// ended makes an exit status of a Status.
func ended(data []byte) error {
	var st metav1.Status
	if err := json.Unmarshal(data, &st); err != nil {
		return err
	}
	if st.Status == metav1.StatusSuccess {
		return nil
	}
	if st.Details != nil {
		for _, c := range st.Details.Causes {
			if n, err := strconv.Atoi(c.Message); c.Type == "ExitCode" && err == nil {
				return exitStatus(n)
			}
		}
	}
	return errors.New(st.Message)
}

// raw makes a terminal pass everything on.
func raw(f *os.File) (restore func(), err error) {
	fd := int(f.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	t := *old
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &t); err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	return func() { unix.IoctlSetTermios(fd, unix.TCSETS, old) }, nil
}

// sizes sends the size of the terminal, now and whenever it changes.
func sizes(c *stream.Conn, f *os.File, stop <-chan struct{}) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	defer signal.Stop(changed)
	for {
		if w, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
			c.Write(stream.Resize, fmt.Appendf(nil, `{"Width":%d,"Height":%d}`, w.Col, w.Row))
		}
		select {
		case <-changed:
		case <-stop:
			return
		}
	}
}

func kubeLogs(u *ui) *cli.Command {
	return kubeAction(u, &cli.Command{
		Name: "logs", Usage: "print what containers have written", ArgsUsage: "POD | KIND/NAME | --selector SELECTOR",
		Flags: []cli.Flag{
			namespaceFlag(), containerFlag(), selectorFlag(),
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with what comes"},
			&cli.BoolFlag{Name: "previous", Aliases: []string{"p"}, Usage: "of the run before this one"},
			&cli.IntFlag{Name: "run", Usage: "of run `N`, 0 being the first; below 0: of so many runs before this one"},
			&cli.BoolFlag{Name: "timestamps", Usage: "the time in front of each line"},
			&cli.BoolFlag{Name: "all-containers", Usage: "of all containers"},
			&cli.BoolFlag{Name: "prefix", Usage: "pod and container in front of each line"},
			&cli.Int64Flag{Name: "tail", Value: -1, Usage: "the last `N` lines (default: all, with a selector 10)"},
			&cli.DurationFlag{Name: "since", Usage: "lines of the last `TIME`"},
			&cli.StringFlag{Name: "since-time", Usage: "lines since `TIME`, RFC 3339"},
			&cli.Int64Flag{Name: "limit-bytes", Usage: "no more than `N` bytes"},
		},
	}, 0, 2, (*kube).logs)
}

// source is a container whose log is wanted.
type source struct{ pod, container string }

func (k *kube) logs() error {
	args := k.c.Args().Slice()
	q := url.Values{}
	if len(args) == 2 && k.c.String("container") == "" {
		k.c.Set("container", args[1])
		args = args[:1]
	}
	var sources []source
	add := func(p *corev1.Pod) {
		if !k.c.Bool("all-containers") {
			sources = append(sources, source{p.Name, k.container(p)})
			return
		}
		for _, name := range containerNames(p) {
			sources = append(sources, source{p.Name, name})
		}
	}
	tail := k.c.Int64("tail")
	switch s := k.c.String("selector"); {
	case s != "" && len(args) > 0, s == "" && len(args) != 1:
		return k.usage("say which pod, or give a selector")
	case s != "":
		pods, err := listAs[corev1.Pod](k, "pods", k.namespace, url.Values{"labelSelector": {s}})
		if err != nil {
			return err
		}
		for i := range pods {
			add(&pods[i])
		}
		if tail < 0 && !k.c.IsSet("tail") {
			tail = 10
		}
		if len(sources) == 0 {
			x, _ := k.kind("pods")
			k.nothing(x)
			return nil
		}
	default:
		p, _, err := k.pod(args[0])
		if err != nil {
			return err
		}
		add(p)
	}
	for _, name := range []string{"follow", "previous", "timestamps"} {
		if k.c.Bool(name) {
			q.Set(name, "true")
		}
	}
	if k.c.IsSet("run") {
		if k.c.Bool("previous") {
			return k.usage("say either --previous or --run")
		}
		q.Set("run", strconv.Itoa(k.c.Int("run")))
	}
	if tail >= 0 {
		q.Set("tailLines", strconv.FormatInt(tail, 10))
	}
	if d := k.c.Duration("since"); d > 0 {
		q.Set("sinceSeconds", strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10))
	}
	if t := k.c.String("since-time"); t != "" {
		q.Set("sinceTime", t)
	}
	if n := k.c.Int64("limit-bytes"); n > 0 {
		q.Set("limitBytes", strconv.FormatInt(n, 10))
	}
	return k.copyLogs(sources, q)
}
