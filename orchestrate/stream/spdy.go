package stream

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"sync"
)

// SPDY is what the header Upgrade says.
const SPDY = "SPDY/3.1"

// HeaderProtocol offers and names what is spoken on SPDY.
const HeaderProtocol = "X-Stream-Protocol-Version"

// Types of control frames. Settings and window updates are ignored: clients of
// Kubernetes know nothing of windows, and what is not read is not taken.
const (
	frameSynStream = 1
	frameSynReply  = 2
	frameReset     = 3
	framePing      = 6
	frameGoAway    = 7
	frameHeaders   = 8
)

// Flags and statuses.
const (
	flagFin      = 1
	resetRefused = 3
	resetCancel  = 5
)

const (
	// maxControl bounds a control frame.
	maxControl = 64 << 10
	// maxStreams is how many may be open at the same time.
	maxStreams = 1024
	// chunk is how much of a stream is handled at once.
	chunk = 32 << 10
)

// Session is a connection of many streams: as much of SPDY/3.1 as Kubernetes uses
// for exec and attach until 1.30, and for port-forward until today.
type Session struct {
	c        io.ReadWriteCloser
	r        *bufio.Reader
	client   bool
	unpack   unpacker
	messages chan struct{} // closed when Serve is over

	wmu  sync.Mutex
	pack packer

	mu      sync.Mutex
	streams map[uint32]*Stream
	next    uint32 // of our own streams
	last    uint32 // of theirs
	over    error
}

// NewSession makes one of a connection, of which r, if not nil, has read something
// already. Serve must be called.
func NewSession(c io.ReadWriteCloser, r *bufio.Reader, client bool) *Session {
	if r == nil {
		r = bufio.NewReader(c)
	}
	s := &Session{c: c, r: r, client: client, streams: map[uint32]*Stream{}, next: 2, messages: make(chan struct{})}
	if client {
		s.next = 1
	}
	return s
}

// WantsSPDY tells whether a request asks for it.
func WantsSPDY(r *http.Request) bool {
	return has(r.Header, "Connection", "upgrade") && has(r.Header, "Upgrade", SPDY)
}

// AcceptSPDY answers such a request. An error means that nothing was answered.
func AcceptSPDY(w http.ResponseWriter, r *http.Request, protocol string) (*Session, error) {
	if !has(r.Header, HeaderProtocol, protocol) {
		return nil, fmt.Errorf("the request does not offer the protocol %s", protocol)
	}
	c, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	buf.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: " + SPDY + "\r\nConnection: Upgrade\r\n" + HeaderProtocol + ": " + protocol + "\r\n\r\n")
	if err := buf.Flush(); err != nil {
		c.Close()
		return nil, err
	}
	return NewSession(c, buf.Reader, false), nil
}

var errSPDY = errors.New("the other side does not speak " + SPDY)

// Serve reads until the connection ends, and calls accept with each stream that the
// other side opens. accept must not wait.
func (s *Session) Serve(accept func(*Stream)) error {
	if !s.client {
		stop := s.watch()
		defer stop()
		defer s.c.Close() // it may be writing
	}
	err := s.serve(accept)
	s.mu.Lock()
	s.over = net.ErrClosed
	streams := s.streams
	s.streams = nil
	s.mu.Unlock()
	for _, st := range streams {
		st.in.End(io.ErrUnexpectedEOF)
	}
	close(s.messages)
	return err
}

// Done is closed when Serve is over.
func (s *Session) Done() <-chan struct{} { return s.messages }

// Close ends the connection. Whoever waits for a stream gets an error.
func (s *Session) Close() error {
	s.mu.Lock()
	for _, st := range s.streams {
		st.in.End(net.ErrClosed)
	}
	s.mu.Unlock()
	return s.c.Close()
}

func (s *Session) serve(accept func(*Stream)) error {
	for {
		var head [8]byte
		if _, err := io.ReadFull(s.r, head[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		id, flags, n := binary.BigEndian.Uint32(head[:]), head[4], int(binary.BigEndian.Uint32(head[4:])&0xffffff)
		if id>>31 == 0 {
			if err := s.data(id, flags, n); err != nil {
				return err
			}
			continue
		}
		if version := id >> 16 & 0x7fff; version != 3 || n > maxControl {
			return errSPDY
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(s.r, body); err != nil {
			return err
		}
		if done, err := s.control(id&0xffff, flags, body, accept); done || err != nil {
			return err
		}
	}
}

// data takes a frame of data.
func (s *Session) data(id uint32, flags byte, n int) error {
	st := s.stream(id)
	for n > 0 {
		p := make([]byte, min(n, chunk))
		if _, err := io.ReadFull(s.r, p); err != nil {
			return err
		}
		if n -= len(p); st != nil {
			st.in.Put(p)
		}
	}
	switch {
	case st == nil: // one that we have reset, or they
	case flags&flagFin != 0:
		st.ended(true, false)
	}
	return nil
}

func (s *Session) stream(id uint32) *Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams[id]
}

// control takes another frame.
func (s *Session) control(kind uint32, flags byte, body []byte, accept func(*Stream)) (done bool, err error) {
	fixed := map[uint32]int{frameSynStream: 10, frameSynReply: 4, frameReset: 8, framePing: 4, frameHeaders: 4}[kind]
	if len(body) < fixed {
		return false, errSPDY
	}
	var id uint32
	if fixed >= 4 {
		id = binary.BigEndian.Uint32(body) & math.MaxInt32
	}
	switch kind {
	case frameSynStream:
		h, err := s.unpack.read(body[fixed:])
		if err != nil {
			return false, err
		}
		return false, s.opened(id, flags, h, accept)
	case frameSynReply, frameHeaders:
		// They are packed in one piece with all that came before.
		if _, err := s.unpack.read(body[fixed:]); err != nil {
			return false, err
		}
		if st := s.stream(id); st != nil && flags&flagFin != 0 {
			st.ended(true, false)
		}
	case frameReset:
		if st := s.stream(id); st != nil {
			st.forget()
			st.in.Drop(ErrReset)
		}
	case framePing:
		if mine := (id%2 == 1) == s.client; !mine {
			return false, s.frame(framePing, 0, body[:4])
		}
	case frameGoAway:
		return true, nil
	}
	return false, nil
}

// opened takes a stream of the other side.
func (s *Session) opened(id uint32, flags byte, header map[string]string, accept func(*Stream)) error {
	s.mu.Lock()
	bad := id <= s.last || (id%2 == 1) == s.client
	full := len(s.streams) >= maxStreams
	var st *Stream
	if !bad {
		if s.last = id; !full {
			st = &Stream{id: id, Header: header, s: s}
			s.streams[id] = st
		}
	}
	s.mu.Unlock()
	switch {
	case bad:
		return errSPDY
	case full:
		return s.reset(id, resetRefused)
	}
	s.wmu.Lock()
	err := s.write(frameSynReply, 0, s.pack.block(binary.BigEndian.AppendUint32(nil, id), nil))
	s.wmu.Unlock()
	if err != nil {
		return err
	}
	if flags&flagFin != 0 {
		st.ended(true, false)
	}
	accept(st)
	return nil
}

// Open opens a stream.
func (s *Session) Open(header map[string]string) (*Stream, error) {
	s.wmu.Lock() // streams come in the order of their numbers
	defer s.wmu.Unlock()
	s.mu.Lock()
	if s.over != nil {
		s.mu.Unlock()
		return nil, s.over
	}
	st := &Stream{id: s.next, Header: header, s: s}
	s.next += 2
	s.streams[st.id] = st
	s.mu.Unlock()
	body := binary.BigEndian.AppendUint32(nil, st.id)
	return st, s.write(frameSynStream, 0, s.pack.block(append(body, 0, 0, 0, 0, 0, 0), header))
}

func (s *Session) reset(id uint32, status uint32) error {
	return s.frame(frameReset, 0, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, id), status))
}

// frame sends a control frame.
func (s *Session) frame(kind uint32, flags byte, body []byte) error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	return s.write(kind, flags, body)
}

func (s *Session) write(kind uint32, flags byte, body []byte) error {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 8+len(body)), 1<<31|3<<16|kind)
	b = binary.BigEndian.AppendUint32(b, uint32(flags)<<24|uint32(len(body)))
	_, err := s.c.Write(append(b, body...))
	return err
}

// ErrReset is of a stream that the other side has broken off.
var ErrReset = errors.New("the other side has reset the stream")

// Stream is one of a session.
type Stream struct {
	Header map[string]string

	id uint32
	s  *Session
	in Queue

	mu          sync.Mutex
	noMore, out bool // are at their end
}

// Read reads what the other side sends.
func (st *Stream) Read(p []byte) (int, error) { return st.in.Read(p) }

// Write sends.
func (st *Stream) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		part := p[:min(len(p), chunk)]
		if err := st.send(0, part); err != nil {
			return n, err
		}
		n, p = n+len(part), p[len(part):]
	}
	return n, nil
}

func (st *Stream) send(flags byte, p []byte) error {
	st.mu.Lock()
	out := st.out
	st.mu.Unlock()
	if out || st.s.stream(st.id) != st {
		return net.ErrClosed
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 8+len(p)), st.id)
	b = binary.BigEndian.AppendUint32(b, uint32(flags)<<24|uint32(len(p)))
	st.s.wmu.Lock()
	defer st.s.wmu.Unlock()
	_, err := st.s.c.Write(append(b, p...))
	return err
}

// CloseWrite says that nothing more is sent.
func (st *Stream) CloseWrite() error {
	err := st.send(flagFin, nil)
	st.ended(false, true)
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Reset breaks the stream off.
func (st *Stream) Reset() error {
	known := st.forget()
	st.in.Drop(net.ErrClosed)
	if !known {
		return nil
	}
	return st.s.reset(st.id, resetCancel)
}

// CloseRead drops what comes, and what has come.
func (st *Stream) CloseRead() { st.in.Drop(net.ErrClosed) }

// ended notes the end of one direction, or both.
func (st *Stream) ended(in, out bool) {
	st.mu.Lock()
	st.noMore, st.out = st.noMore || in, st.out || out
	over := st.noMore && st.out
	st.mu.Unlock()
	if in {
		st.in.End(nil)
	}
	if over {
		st.forget()
	}
}

// forget tells whether the stream was known.
func (st *Stream) forget() bool {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if st.s.streams[st.id] != st {
		return false
	}
	delete(st.s.streams, st.id)
	return true
}
