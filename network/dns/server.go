package dns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// Limits of one network.
const (
	maxConns   = 64              // open TCP connections
	idle       = 8 * time.Second // of a TCP connection
	perConn    = 128             // questions on a TCP connection
	maxForward = 256             // questions that wait for the host's resolvers, of all networks
	buffer     = 4 << 20         // of a UDP socket
)

// Options of a Server. The zero value works.
type Options struct {
	// Port is 53 if 0.
	Port uint16
	// Resolv is the file that names the resolvers to ask; /etc/resolv.conf if empty.
	Resolv string
	// Listen and Dial replace those of the net package, for sockets in another
	// network namespace.
	Listen func(network, address string) (net.Listener, net.PacketConn, error)
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	// Log gets what happens without being asked for. Nil: nothing is logged.
	Log *slog.Logger
}

// Server answers for several networks. Its methods may be called concurrently.
type Server struct {
	opts    Options
	forward *forwarder

	mu       sync.Mutex
	networks map[string]*network
}

// network is a set of sockets and what is answered there.
type network struct {
	table   atomic.Pointer[table]
	clients []netip.Prefix
	servers []*dns.Server
	done    sync.WaitGroup
}

// New makes a Server without networks.
func New(opts Options) *Server {
	if opts.Port == 0 {
		opts.Port = 53
	}
	if opts.Resolv == "" {
		opts.Resolv = "/etc/resolv.conf"
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Dial == nil {
		opts.Dial = new(net.Dialer).DialContext
	}
	if opts.Listen == nil {
		opts.Listen = listen
	}
	s := &Server{opts: opts, networks: map[string]*network{}}
	s.forward = newForwarder(opts)
	return s
}

// listen binds to an address whether an interface has it or not: a bridge may come
// after its network, and go and come again. The buffer is for thousands of
// questions that come while the processor is busy with something else.
func listen(kind, address string) (net.Listener, net.PacketConn, error) {
	c := net.ListenConfig{Control: func(_, address string, raw syscall.RawConn) error {
		var err error
		cerr := raw.Control(func(fd uintptr) {
			level, opt := unix.SOL_IP, unix.IP_FREEBIND
			if strings.HasPrefix(address, "[") {
				level, opt = unix.SOL_IPV6, unix.IPV6_FREEBIND
			}
			err = unix.SetsockoptInt(int(fd), level, opt, 1)
			if kind == "udp" && unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer) != nil {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, buffer)
			}
		})
		return errors.Join(cerr, err)
	}}
	if kind == "tcp" {
		l, err := c.Listen(context.Background(), kind, address)
		return l, nil, err
	}
	p, err := c.ListenPacket(context.Background(), kind, address)
	return nil, p, err
}

// Open starts to answer for a network at addrs, UDP and TCP. Only clients with
// an address in one of the prefixes are answered.
func (s *Server) Open(name string, addrs []netip.Addr, clients []netip.Prefix) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.networks[name] != nil {
		return fmt.Errorf("names of network %q are answered already", name)
	}
	n := &network{clients: slices.Clone(clients)}
	empty, err := newTable(Records{})
	if err != nil {
		return err
	}
	n.table.Store(empty)
	for _, a := range addrs {
		if err := s.listen(n, a); err != nil {
			n.close()
			return fmt.Errorf("answer names of network %q at %s: %w", name, a, err)
		}
	}
	s.networks[name] = n
	s.forward.avoid(s.addresses())
	return nil
}

func (s *Server) listen(n *network, a netip.Addr) error {
	at := net.JoinHostPort(a.String(), strconv.Itoa(int(s.opts.Port)))
	for _, kind := range []string{"udp", "tcp"} {
		l, p, err := s.opts.Listen(kind, at)
		if err != nil {
			return err
		}
		if l != nil {
			l = &limited{Listener: l, free: make(chan struct{}, maxConns)}
		}
		h := &handler{s, n, kind == "tcp"}
		srv := &dns.Server{
			Listener: l, PacketConn: p, Handler: h, UDPSize: 4096,
			ReadTimeout: idle, WriteTimeout: idle, IdleTimeout: func() time.Duration { return idle }, MaxTCPQueries: perConn,
		}
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		n.servers = append(n.servers, srv)
		failed := make(chan error, 1)
		n.done.Go(func() {
			if err := srv.ActivateAndServe(); err != nil {
				failed <- err
			}
		})
		select {
		case <-started:
		case err := <-failed:
			return err
		}
	}
	return nil
}

func (n *network) close() error {
	var errs []error
	for _, srv := range n.servers {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		if err := srv.ShutdownContext(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			errs = append(errs, err)
		}
		cancel()
	}
	n.done.Wait()
	return errors.Join(errs...)
}

// Set makes r all that a network knows, from the next question on.
func (s *Server) Set(name string, r Records) error {
	t, err := newTable(r)
	if err != nil {
		return fmt.Errorf("names of network %q: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.networks[name]
	if n == nil {
		return fmt.Errorf("names of network %q are not answered", name)
	}
	n.table.Store(t)
	return nil
}

// Shut stops to answer for a network. One that is not open is no error.
func (s *Server) Shut(name string) error {
	s.mu.Lock()
	n := s.networks[name]
	delete(s.networks, name)
	s.forward.avoid(s.addresses())
	s.mu.Unlock()
	if n == nil {
		return nil
	}
	return n.close()
}

// Close stops to answer for all networks.
func (s *Server) Close() error {
	s.mu.Lock()
	all := s.networks
	s.networks = map[string]*network{}
	s.mu.Unlock()
	var errs []error
	for _, n := range all {
		errs = append(errs, n.close())
	}
	return errors.Join(errs...)
}

// addresses are those of all sockets, with which nothing may be asked: it would
// come back to us.
func (s *Server) addresses() []netip.Addr {
	var all []netip.Addr
	for _, n := range s.networks {
		for _, srv := range n.servers {
			if srv.PacketConn == nil {
				continue
			}
			if a, err := netip.ParseAddrPort(srv.PacketConn.LocalAddr().String()); err == nil {
				all = append(all, a.Addr())
			}
		}
	}
	return all
}

// tables are those of some networks.
func (s *Server) tables(names []string) (list []*table) {
	if len(names) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		if n := s.networks[name]; n != nil {
			list = append(list, n.table.Load())
		}
	}
	return list
}

// handler answers what comes in at one socket.
type handler struct {
	s   *Server
	n   *network
	tcp bool
}

// ServeDNS answers one question, or leaves it without an answer if its sender is
// not a client of the network.
func (h *handler) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	from, err := netip.ParseAddrPort(w.RemoteAddr().String())
	if err != nil || !slices.ContainsFunc(h.n.clients, func(p netip.Prefix) bool { return p.Contains(from.Addr().Unmap().WithZone("")) }) {
		if h.tcp {
			w.Close()
		}
		return
	}
	client := from.Addr().Unmap().WithZone("")
	t := h.n.table.Load()
	reply := t.answer(q, h.s.tables(t.also[client])...)
	if reply == nil {
		reply = h.s.forward.ask(q, client, t.resolvers)
	} else if name := alias(reply); name != "" && !t.inside {
		ask := q.Copy()
		ask.Question[0].Name = name
		r := h.s.forward.ask(ask, client, t.resolvers)
		reply.Rcode = r.Rcode
		reply.Answer = append(reply.Answer, r.Answer...)
	}
	fit(q, reply, h.tcp)
	if err := w.WriteMsg(reply); err != nil && !errors.Is(err, net.ErrClosed) {
		h.s.opts.Log.Debug("answer to a question about a name", "client", from, "error", err)
	}
}

// limited bounds the connections that are open at a time. More wait in the
// kernel's queue.
type limited struct {
	net.Listener
	free chan struct{}
	once sync.Once
	done chan struct{}
}

func (l *limited) closed() chan struct{} {
	l.once.Do(func() { l.done = make(chan struct{}) })
	return l.done
}

// Accept waits for a connection and for room for it.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.free <- struct{}{}:
	case <-l.closed():
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.free
		return nil, err
	}
	return &counted{Conn: c, leave: sync.OnceFunc(func() { <-l.free })}, nil
}

// Close ends those that wait too.
func (l *limited) Close() error {
	select {
	case <-l.closed():
	default:
		close(l.done)
	}
	return l.Listener.Close()
}

type counted struct {
	net.Conn
	leave func()
}

// Close makes room for another connection.
func (c *counted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

var _ io.Closer = (*Server)(nil)
