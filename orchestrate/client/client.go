// Package client speaks to minirund over its unix socket.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/stream"
)

// DefaultSocket is where minirund listens.
const DefaultSocket = "/run/minirund/minirund.sock"

// SocketVariable names another one.
const SocketVariable = "MINIRUND_SOCKET"

// Socket is the path that is meant: the flag's, the environment's, or the default.
func Socket(flag string) string {
	if flag == "" {
		flag = os.Getenv(SocketVariable)
	}
	if flag == "" {
		flag = DefaultSocket
	}
	return flag
}

// Client speaks to one minirund.
type Client struct {
	// Warn, if not nil, gets the server's warnings.
	Warn func(text string)

	socket string
	http   http.Client
}

// New makes one. It does not connect yet.
func New(socket string) *Client {
	c := &Client{socket: socket}
	c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) }, DisableCompression: true}
	return c
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.socket)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		err = &NotRunningError{c.socket}
	}
	return conn, err
}

// NotRunningError reports a socket that nobody listens on.
type NotRunningError struct{ Socket string }

func (e *NotRunningError) Error() string {
	return "minirund is not running: start it with `minirun up`"
}

// Hint says where it was looked for.
func (e *NotRunningError) Hint() string {
	return fmt.Sprintf("nobody listens on %s; another socket is named by --socket or %s", e.Socket, SocketVariable)
}

// StatusError is an answer that is an error.
type StatusError struct{ metav1.Status }

func (e *StatusError) Error() string {
	if e.Reason == "" || e.Reason == metav1.StatusReasonInternalError || e.Reason == metav1.StatusReasonBadRequest {
		return e.Message
	}
	return fmt.Sprintf("%s (%s)", e.Message, e.Reason)
}

// Is makes those that are not found fs.ErrNotExist, and those that exist fs.ErrExist.
func (e *StatusError) Is(target error) bool {
	return target == fs.ErrNotExist && e.Code == http.StatusNotFound || target == fs.ErrExist && e.Reason == metav1.StatusReasonAlreadyExists
}

// AsTable is the Accept header of who wants rows.
const AsTable = "application/json;as=Table;v=v1;g=meta.k8s.io"

// Request is one request.
type Request struct {
	Method, Path string
	// Type and Accept are headers; JSON if empty.
	Type, Accept string
	Body         []byte
}

// Do sends a request. The answer is a success, and its body must be closed.
func (c *Client) Do(ctx context.Context, r Request) (*http.Response, error) {
	q, err := http.NewRequestWithContext(ctx, r.Method, "http://minirund"+r.Path, bytes.NewReader(r.Body))
	if err != nil {
		return nil, err
	}
	if r.Type == "" {
		r.Type = "application/json"
	}
	q.Header.Set("Content-Type", r.Type)
	if r.Accept != "" {
		q.Header.Set("Accept", r.Accept)
	}
	resp, err := c.http.Do(q)
	if err != nil {
		var down *NotRunningError
		if errors.As(err, &down) {
			return nil, down
		}
		return nil, err
	}
	if c.Warn != nil {
		for _, w := range resp.Header.Values("Warning") {
			if _, text, ok := strings.Cut(w, " - "); ok {
				if s, err := strconv.Unquote(text); err == nil {
					text = s
				}
				c.Warn(text)
			}
		}
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	return nil, statusError(resp.StatusCode, text)
}

func statusError(code int, text []byte) error {
	e := &StatusError{}
	if json.Unmarshal(text, &e.Status) != nil || e.Kind != "Status" {
		e.Status = metav1.Status{Code: int32(code), Message: fmt.Sprintf("the server answered with status %d: %s", code, strings.TrimSpace(string(text)))}
	}
	return e
}

// Into sends a request and decodes the answer.
func (c *Client) Into(ctx context.Context, r Request, out any) error {
	resp, err := c.Do(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || out == nil {
		return err
	}
	if raw, ok := out.(*[]byte); ok {
		*raw = text
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("answer of %s %s: %w", r.Method, r.Path, err)
	}
	return nil
}

// Get gets something.
func (c *Client) Get(ctx context.Context, path string, out any) error {
	return c.Into(ctx, Request{Method: http.MethodGet, Path: path}, out)
}

// Event is one of a watch.
type Event struct {
	Type   string
	Object json.RawMessage
}

// Watch calls f with each event until it returns an error or true, or ctx is done.
func (c *Client) Watch(ctx context.Context, path, accept string, f func(Event) (done bool, err error)) error {
	resp, err := c.Do(ctx, Request{Method: http.MethodGet, Path: path, Accept: accept})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	d := json.NewDecoder(resp.Body)
	for {
		var e Event
		if err := d.Decode(&e); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, io.EOF) {
				return io.ErrUnexpectedEOF
			}
			return err
		}
		if e.Type == "ERROR" {
			return statusError(0, e.Object)
		}
		if done, err := f(e); done || err != nil {
			return err
		}
	}
}

// Stream asks for the streams of a program.
func (c *Client) Stream(ctx context.Context, path string) (*stream.Conn, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	ws, err := stream.Dial(conn, path, stream.Protocol)
	var answer *stream.AnswerError
	if errors.As(err, &answer) {
		return nil, statusError(answer.Code, answer.Body)
	}
	return ws, err
}
