package rest

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/minirun/minirun/orchestrate/stream"
)

// forwardProtocol is what kubectl speaks on SPDY.
const forwardProtocol = "portforward.k8s.io"

// maxForwards is how many ports one WebSocket without a tunnel may carry: a port
// has two channels.
const maxForwards = 32

// forward connects a client with ports of a pod, in one of three ways:
//
//   - SPDY, tunnelled through a WebSocket (kubectl since 1.31) or not: two streams
//     for each connection, with its number, one for data and one for an error;
//   - WebSocket with channels, where the query names the ports: one connection to
//     each, on channels 2n and, for an error, 2n+1, which begin with the number of
//     the port in two bytes, the lower one first.
func (s *Server) forward(w http.ResponseWriter, q *request) error {
	if q.Method != http.MethodGet && q.Method != http.MethodPost {
		return errVerb
	}
	if s.Node == nil {
		return errNoNode
	}
	obj, err := s.s.Get("pods", q.namespace, q.name)
	if err != nil {
		return err
	}
	if pod := obj.(*corev1.Pod); pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return bad("cannot forward ports of a completed pod; current phase is %s", pod.Status.Phase)
	}
	if stream.WantsSPDY(q.Request) {
		session, err := stream.AcceptSPDY(w, q.Request, forwardProtocol)
		if err != nil {
			return bad("port-forward over %s: %v", stream.SPDY, err)
		}
		s.forwardStreams(q, session)
		return errAnswered
	}
	protocols := []string{stream.Tunnel}
	var ports []uint16
	for _, p := range q.URL.Query()["ports"] {
		n, err := portNumber(p)
		if err != nil || len(ports) == maxForwards {
			return bad("ports %q: want up to %d numbers from 1 to 65535", p, maxForwards)
		}
		ports = append(ports, n)
	}
	if ports != nil {
		protocols = append(protocols, stream.Protocol, stream.OldProtocol)
	}
	c, err := stream.Accept(w, q.Request, protocols...)
	if err != nil {
		return bad("port-forward is an upgrade to %s, or to a WebSocket, with the protocol %s or, with ports in the query, %s: %v", stream.SPDY, stream.Tunnel, stream.OldProtocol, err)
	}
	if c.Protocol == stream.Tunnel {
		s.forwardStreams(q, stream.NewSession(c.Bytes(), nil, false))
	} else {
		s.forwardChannels(q, c, ports)
	}
	return errAnswered
}

func portNumber(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("port %q is no number from 1 to 65535", text)
	}
	return uint16(n), nil
}

// dial connects with a port of a pod. The text of the error is for the client.
func (s *Server) dial(ctx context.Context, q *request, port uint16) (net.Conn, error) {
	c, err := s.Node.Dial(ctx, q.namespace, q.name, port)
	if err != nil {
		return nil, fmt.Errorf("error forwarding port %d to pod %s: %w", port, q.name, err)
	}
	return c, nil
}

// forwardStreams serves a client over SPDY until it goes.
func (s *Server) forwardStreams(q *request, session *stream.Session) {
	ctx, cancel := context.WithCancel(q.Context())
	stop := context.AfterFunc(ctx, func() { session.Close() })
	var wg sync.WaitGroup
	var mu sync.Mutex
	waiting := map[string]*streamPair{}
	_ = session.Serve(func(st *stream.Stream) {
		id := st.Header["requestid"]
		mu.Lock()
		defer mu.Unlock()
		p := waiting[id]
		if p == nil {
			p = &streamPair{}
			waiting[id] = p
			p.late = time.AfterFunc(streamsIn, func() {
				mu.Lock()
				defer mu.Unlock()
				if waiting[id] == p {
					delete(waiting, id)
					p.reset()
				}
			})
		}
		if !p.add(st) {
			st.Reset()
			return
		}
		if p.data == nil || p.err == nil {
			return
		}
		p.late.Stop()
		delete(waiting, id)
		wg.Go(func() { s.forwardPair(ctx, q, p) })
	})
	cancel()
	mu.Lock()
	for _, p := range waiting {
		p.late.Stop()
	}
	mu.Unlock()
	wg.Wait()
	if stop() {
		session.Close()
	}
}

// streamPair is one connection of a client.
type streamPair struct {
	data, err *stream.Stream
	late      *time.Timer
}

func (p *streamPair) add(st *stream.Stream) bool {
	to := &p.data
	switch st.Header["streamtype"] {
	case "data":
	case "error":
		to = &p.err
	default:
		return false
	}
	if *to != nil {
		return false
	}
	*to = st
	return true
}

func (p *streamPair) reset() {
	for _, st := range []*stream.Stream{p.data, p.err} {
		if st != nil {
			st.Reset()
		}
	}
}

func (s *Server) forwardPair(ctx context.Context, q *request, p *streamPair) {
	port, err := portNumber(p.data.Header["port"])
	var c net.Conn
	if err == nil {
		c, err = s.dial(ctx, q, port)
	}
	if err != nil {
		io.WriteString(p.err, err.Error())
		p.err.CloseWrite()
		p.data.Reset()
		return
	}
	p.err.CloseWrite()
	join(ctx, c, p.data)
}

// halfConn is a connection, each direction of which ends for itself.
type halfConn interface {
	io.ReadWriter
	CloseWrite() error
	// CloseRead drops what comes, and what has come.
	CloseRead()
}

// source remembers why nothing more comes.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (n int, err error) {
	n, err = s.Reader.Read(p)
	if err != nil {
		s.err = err
	}
	return n, err
}

// join copies between a connection of the pod and one of the client until both
// directions have ended, or ctx.
func join(ctx context.Context, pod net.Conn, client halfConn) {
	defer pod.Close()
	stop := context.AfterFunc(ctx, func() { pod.Close() })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() {
		// Who reads nothing more must not keep the client's other streams waiting.
		defer client.CloseRead()
		in := &source{Reader: client}
		_, err := io.Copy(pod, in)
		switch h, ok := pod.(interface{ CloseWrite() error }); {
		case in.err != nil && in.err != io.EOF: // the client has broken off
			pod.Close()
		case err != nil: // the pod reads no more; it may still have something to say
		case ok:
			h.CloseWrite()
		}
	})
	// However it ends: servers that close before they have read everything reset the
	// connection, and a reset of the stream would take their last words away from
	// clients that have not read them yet.
	io.Copy(client, pod)
	client.CloseWrite()
	wg.Wait()
}

// forwardChannels serves a client of the older kind. There a channel has no end,
// except in v5, in which kubectl does not speak of ports: minirun does.
func (s *Server) forwardChannels(q *request, c *stream.Conn, ports []uint16) {
	ctx, cancel := context.WithCancel(q.Context())
	stop := context.AfterFunc(ctx, func() { c.Close() })
	unwatch := c.Watch(cancel)
	all := make([]*channelConn, len(ports))
	for i, port := range ports {
		all[i] = &channelConn{c: c, channel: byte(2 * i)}
		number := binary.LittleEndian.AppendUint16(nil, port)
		c.Write(byte(2*i), number)
		c.Write(byte(2*i+1), number)
	}
	var wg sync.WaitGroup
	for i, port := range ports {
		wg.Go(func() {
			conn, err := s.dial(ctx, q, port)
			if err != nil {
				c.Write(byte(2*i+1), []byte(err.Error()))
				all[i].CloseRead()
				all[i].CloseWrite()
				return
			}
			join(ctx, conn, all[i])
		})
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer cancel()
		defer func() {
			for _, p := range all {
				p.in.End(io.ErrUnexpectedEOF)
			}
		}()
		for {
			channel, data, err := c.Read()
			if err != nil {
				return
			}
			end := channel == stream.Close && c.Protocol == stream.Protocol && len(data) == 1
			if end {
				channel = data[0]
			}
			i := slices.IndexFunc(all, func(p *channelConn) bool { return p.channel == channel })
			switch {
			case i < 0:
			case end:
				all[i].in.End(nil)
			case len(data) > 0:
				all[i].in.Put(data)
			}
		}
	}()
	wg.Wait()
	if stop() {
		c.Close()
	}
	cancel()
	unwatch()
	<-read
}

// channelConn is a channel of a WebSocket.
type channelConn struct {
	c       *stream.Conn
	channel byte
	in      stream.Queue
}

func (p *channelConn) Read(b []byte) (int, error)  { return p.in.Read(b) }
func (p *channelConn) CloseRead()                  { p.in.Drop(net.ErrClosed) }
func (p *channelConn) Write(b []byte) (int, error) { return p.c.Writer(p.channel).Write(b) }

func (p *channelConn) CloseWrite() error {
	if p.c.Protocol != stream.Protocol {
		return nil
	}
	return p.c.Write(stream.Close, []byte{p.channel})
}
