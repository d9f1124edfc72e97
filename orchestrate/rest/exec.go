package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/api"
	"github.com/minirun/minirun/orchestrate/stream"
)

// NonZeroExitCode is the reason of the Status at the end of a program that failed;
// its cause of type ExitCode has the code.
const (
	reasonExit = "NonZeroExitCode"
	causeExit  = "ExitCode"
)

// container finds the one that a request means.
func (s *Server) container(q *request, name *string) (*corev1.Pod, error) {
	obj, err := s.s.Get("pods", q.namespace, q.name)
	if err != nil {
		return nil, err
	}
	pod := obj.(*corev1.Pod)
	var names []string
	for _, l := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range l {
			names = append(names, l[i].Name)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		names = append(names, pod.Spec.EphemeralContainers[i].Name)
	}
	if *name == "" {
		if len(pod.Spec.Containers) > 1 {
			return nil, bad("a container name must be specified for pod %s, choose one of: %v", q.name, names)
		}
		*name = names[0]
	}
	if !slices.Contains(names, *name) {
		return nil, bad("container %s is not valid for pod %s", *name, q.name)
	}
	return pod, nil
}

func flag(q *request, name string) bool {
	b, _ := strconv.ParseBool(q.URL.Query().Get(name))
	return b
}

func (s *Server) exec(w http.ResponseWriter, q *request) error {
	o := &corev1.PodExecOptions{
		Container: q.URL.Query().Get("container"), Command: q.URL.Query()["command"],
		Stdin: flag(q, "stdin"), Stdout: flag(q, "stdout"), Stderr: flag(q, "stderr"), TTY: flag(q, "tty"),
	}
	if len(o.Command) == 0 {
		return bad("you must specify at least 1 command for the container")
	}
	return s.streams(w, q, &o.Container, func(ctx context.Context, st Streams) (int, error) {
		return s.Node.Exec(ctx, q.namespace, q.name, o, st)
	})
}

func (s *Server) attach(w http.ResponseWriter, q *request) error {
	o := &corev1.PodAttachOptions{
		Container: q.URL.Query().Get("container"), Stdin: flag(q, "stdin"), Stdout: flag(q, "stdout"), Stderr: flag(q, "stderr"), TTY: flag(q, "tty"),
	}
	return s.streams(w, q, &o.Container, func(ctx context.Context, st Streams) (int, error) {
		return s.Node.Attach(ctx, q.namespace, q.name, o, st)
	})
}

// streams connects a program with the client.
func (s *Server) streams(w http.ResponseWriter, q *request, container *string, run func(context.Context, Streams) (int, error)) error {
	if q.Method != http.MethodGet && q.Method != http.MethodPost {
		return errVerb
	}
	if s.Node == nil {
		return errNoNode
	}
	in, out, errs, tty := flag(q, "stdin"), flag(q, "stdout"), flag(q, "stderr"), flag(q, "tty")
	switch {
	case !in && !out && !errs:
		return bad("you must specify at least one of stdin, stdout, stderr")
	case tty && errs:
		return bad("tty and stderr cannot both be true")
	}
	pod, err := s.container(q, container)
	if err != nil {
		return err
	}
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return bad("cannot exec into a container in a completed pod; current phase is %s", pod.Status.Phase)
	}
	ctx, cancel := context.WithCancel(q.Context())
	defer cancel()
	var l *programLink
	if stream.WantsSPDY(q.Request) {
		l, err = acceptStreams(w, q, cancel, in, out, errs, tty)
	} else {
		l, err = acceptChannels(w, q, cancel, in, out, errs, tty)
	}
	if err != nil {
		return err
	}
	text, e := json.Marshal(ending(run(ctx, l.Streams)))
	if e != nil {
		text = nil
	}
	l.finish(text)
	return errAnswered
}

// programLink is a connection with the client of a program.
type programLink struct {
	Streams
	finish func(status []byte)
}

// acceptChannels takes one over WebSocket.
func acceptChannels(w http.ResponseWriter, q *request, gone func(), in, out, errs, tty bool) (*programLink, error) {
	c, err := stream.Accept(w, q.Request, stream.Protocol, stream.OldProtocol)
	if err != nil {
		return nil, bad("exec and attach are upgrades to WebSocket with the protocol %s, or to %s: %v", stream.Protocol, stream.SPDY, err)
	}
	st, done := channels(c, gone, in, out, errs, tty)
	return &programLink{st, func(status []byte) {
		c.Write(stream.Error, status)
		gone()
		c.Close()
		done()
	}}, nil
}

// ending is how a program ended, as a Status.
func ending(code int, err error) *metav1.Status {
	switch {
	case err != nil:
		return api.StatusOf(nil, "", err)
	case code == 0:
		return &metav1.Status{Status: metav1.StatusSuccess}
	}
	return &metav1.Status{
		Status: metav1.StatusFailure, Reason: reasonExit, Message: fmt.Sprintf("command terminated with non-zero exit code: exit status %d", code),
		Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: causeExit, Message: strconv.Itoa(code)}}},
	}
}

// channels makes streams of a connection's channels. gone is called when the
// client is; done, after the connection was closed, waits for the reader.
func channels(c *stream.Conn, gone func(), in, out, errs, tty bool) (st Streams, done func()) {
	if out {
		st.Stdout = c.Writer(stream.Stdout)
	}
	if errs && !tty {
		st.Stderr = c.Writer(stream.Stderr)
	}
	q := &stream.Queue{}
	if in {
		st.Stdin = q
	}
	var sizes chan WindowSize
	if tty {
		sizes = make(chan WindowSize, 1)
		st.Resize = sizes
	}
	read := make(chan struct{})
	stop := c.Watch(func() {
		gone()
		q.Drop(net.ErrClosed)
	})
	go func() {
		defer close(read)
		defer gone()
		defer q.End(nil)
		if sizes != nil {
			defer close(sizes)
		}
		for {
			channel, data, err := c.Read()
			if err != nil {
				return
			}
			switch channel {
			case stream.Stdin:
				if in && len(data) > 0 {
					q.Put(data)
				}
			case stream.Close:
				if len(data) == 1 && data[0] == stream.Stdin {
					q.End(nil)
				}
			case stream.Resize:
				var w WindowSize
				if sizes == nil || json.Unmarshal(data, &w) != nil {
					continue
				}
				newest(sizes, w)
			}
		}
	}()
	return st, func() {
		stop()
		q.End(nil)
		<-read
	}
}
